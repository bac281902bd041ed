//! `posterior/certificate.parquet`: a row a structure, compared with the exact posterior on a subset of the training spectra.

use crate::tables::columns::{numbers, texts};
use crate::tables::parquet_out::{FileMetadata, WrittenFile};
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
        let number = |name: &str, value: fn(&CertificateRow) -> f64| numbers(name, rows.iter().map(value));
        let columns = vec![
            texts("structure", rows.iter().map(|row| row.structure.as_str())),
            number("ratio_median", |row| row.ratio_median),
            number("ratio_p05", |row| row.ratio_p05),
            number("ratio_p95", |row| row.ratio_p95),
            number("spearman", |row| row.spearman),
            number("effective_parameters", |row| row.effective_parameters),
        ];
        self.write_columns(CERTIFICATE, columns, metadata)
    }
}
