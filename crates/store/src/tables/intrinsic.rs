//! `posterior/intrinsic.parquet`: C_intrinsic of each cell of label space, where the run file cuts label space into cells.

use std::sync::Arc;

use arrow_array::BooleanArray;
use arrow_array::types::Float64Type;
use arrow_schema::{DataType, Field};

use crate::tables::columns::{counts, numbers_or_null};
use crate::tables::lists::{list_field, lists};
use crate::tables::parquet_out::{FileMetadata, WrittenFile};
use crate::{Output, StoreError};

/// Where the cells are, in an output.
const INTRINSIC: &str = "posterior/intrinsic.parquet";

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub struct IntrinsicRow {
    /// `low <= label < high` of each label with edges, in the order of their names; none: open.
    pub intervals: Vec<(Option<f64>, Option<f64>)>,
    /// Held-out spectra in the cell.
    pub n_spectra: u64,
    /// Whether the scatter is the cell's own; if not, that of all held-out spectra.
    pub own: bool,
    /// The scatter, `[K, K]`, label units.
    pub covariance: Vec<f64>,
    /// Directions in which it vanishes.
    pub vanishing: u64,
}

impl Output {
    /// Writes `posterior/intrinsic.parquet`; `labels` names those with edges.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_intrinsic(
        &self,
        labels: &[String],
        rows: &[IntrinsicRow],
        metadata: &FileMetadata,
    ) -> Result<WrittenFile, StoreError> {
        let mut columns = vec![counts("cell", 0..rows.len() as u64)];
        for (axis, label) in labels.iter().enumerate() {
            let edges = || {
                rows.iter()
                    .map(|row| row.intervals.get(axis).copied().unwrap_or_default())
            };
            columns.push(numbers_or_null(&format!("{label}_low"), edges().map(|(low, _)| low)));
            columns.push(numbers_or_null(&format!("{label}_high"), edges().map(|(_, high)| high)));
        }
        let own: BooleanArray = rows.iter().map(|row| Some(row.own)).collect();
        let covariances = lists::<Float64Type>(rows.iter().map(|row| Some(row.covariance.as_slice())));
        columns.push(counts("n_spectra", rows.iter().map(|row| row.n_spectra)));
        columns.push((Field::new("own", DataType::Boolean, false), Arc::new(own)));
        columns.push((list_field("covariance", DataType::Float64, false), covariances));
        columns.push(counts("vanishing", rows.iter().map(|row| row.vanishing)));
        self.write_columns(INTRINSIC, columns, metadata)
    }
}
