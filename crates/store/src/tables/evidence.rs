//! `posterior/evidence.parquet`: the log evidence over prior precisions, where the prior is chosen by it.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};

use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::{Output, StoreError};

/// Where the curve is, in an output.
const EVIDENCE: &str = "posterior/evidence.parquet";

/// One prior precision. What is not finite is written as null.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidenceRow {
    /// The block whose prior it is, its layers joined by `+`; none where one precision serves all blocks.
    pub layer: Option<String>,
    /// Of every weight, in normalised units, on the scale of the sum over spectra.
    pub prior_precision: f64,
    /// Log marginal likelihood, up to a constant that is the same in all rows.
    pub log_evidence: f64,
    /// `sum lambda / (lambda + prior_precision)` over all blocks, or over the one.
    pub effective_parameters: f64,
}

impl Output {
    /// Writes `posterior/evidence.parquet`.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_evidence(&self, rows: &[EvidenceRow], metadata: &FileMetadata) -> Result<WrittenFile, StoreError> {
        let number = |name: &str, nullable| Field::new(name, DataType::Float64, nullable);
        let schema = Arc::new(Schema::new(vec![
            Field::new("layer", DataType::Utf8, true),
            number("prior_precision", false),
            number("log_evidence", true),
            number("effective_parameters", true),
        ]));
        let mut out = ParquetOut::create(self.stores(), self.uri(), EVIDENCE, &schema, metadata)?;
        let numbers = |value: fn(&EvidenceRow) -> f64| -> ArrayRef {
            let values = rows.iter().map(value);
            Arc::new(values.map(|v| v.is_finite().then_some(v)).collect::<Float64Array>())
        };
        let columns = vec![
            Arc::new(rows.iter().map(|row| row.layer.as_deref()).collect::<StringArray>()),
            numbers(|row| row.prior_precision),
            numbers(|row| row.log_evidence),
            numbers(|row| row.effective_parameters),
        ];
        let batch = out.batch(&schema, columns)?;
        out.write(&batch)?;
        out.finish(&FileMetadata::default())
    }
}
