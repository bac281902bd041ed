//! `posterior/evidence.parquet`: the log evidence over prior precisions, where the prior is chosen by it.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use arrow_schema::{DataType, Field};

use crate::tables::columns::numbers;
use crate::tables::parquet_out::{FileMetadata, WrittenFile};
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
        let layers: StringArray = rows.iter().map(|row| row.layer.as_deref()).collect();
        let layers: ArrayRef = Arc::new(layers);
        let number = |name: &str, value: fn(&EvidenceRow) -> f64| numbers(name, rows.iter().map(value));
        let (prior_precision, precisions) = number("prior_precision", |row| row.prior_precision);
        let columns = vec![
            (Field::new("layer", DataType::Utf8, true), layers),
            (prior_precision.with_nullable(false), precisions),
            number("log_evidence", |row| row.log_evidence),
            number("effective_parameters", |row| row.effective_parameters),
        ];
        self.write_columns(EVIDENCE, columns, metadata)
    }
}
