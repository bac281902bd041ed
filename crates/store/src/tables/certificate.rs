//! `posterior/certificate.parquet`: a row a structure, compared with the exact posterior on a subset of the training spectra.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};

use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::{Output, StoreError};

/// Where the table is, in an output.
const CERTIFICATE: &str = "posterior/certificate.parquet";

/// One structure: `sigma / sigma_exact` of the weights' part over stars and labels. What is not finite is written as null.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateRow {
    /// `exact`, `run` for the run's own structures, or the name of one that holds all layers.
    pub structure: String,
    /// The median.
    pub ratio_median: f64,
    /// 5 % are smaller.
    pub ratio_p05: f64,
    /// 5 % are larger.
    pub ratio_p95: f64,
    /// Rank correlation over stars, of the label where it is lowest.
    pub spearman: f64,
    /// `gamma` on the subset, over all layers.
    pub effective_parameters: f64,
}

impl Output {
    /// Writes `posterior/certificate.parquet`.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_certificate(
        &self,
        rows: &[CertificateRow],
        metadata: &FileMetadata,
    ) -> Result<WrittenFile, StoreError> {
        let number = |name: &str| Field::new(name, DataType::Float64, true);
        let schema = Arc::new(Schema::new(vec![
            Field::new("structure", DataType::Utf8, false),
            number("ratio_median"),
            number("ratio_p05"),
            number("ratio_p95"),
            number("spearman"),
            number("effective_parameters"),
        ]));
        let mut out = ParquetOut::create(self.stores(), self.uri(), CERTIFICATE, &schema, metadata)?;
        let numbers = |value: fn(&CertificateRow) -> f64| -> ArrayRef {
            let values = rows.iter().map(value);
            Arc::new(values.map(|v| v.is_finite().then_some(v)).collect::<Float64Array>())
        };
        let structures = StringArray::from_iter_values(rows.iter().map(|row| &row.structure));
        let columns = vec![
            Arc::new(structures) as ArrayRef,
            numbers(|row| row.ratio_median),
            numbers(|row| row.ratio_p05),
            numbers(|row| row.ratio_p95),
            numbers(|row| row.spearman),
            numbers(|row| row.effective_parameters),
        ];
        let batch = out.batch(&schema, columns)?;
        out.write(&batch)?;
        out.finish(&FileMetadata::default())
    }
}
