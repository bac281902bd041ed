//! `posterior/intrinsic.parquet`: C_intrinsic of each cell of label space, where the run file cuts label space into cells.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array};
use arrow_schema::{DataType, Field, Schema};

use crate::tables::lists::{f64_lists, list_field};
use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
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
        let count = |name: &str| Field::new(name, DataType::Int64, false);
        let mut fields = vec![count("cell")];
        let counts = |values: Vec<u64>| -> ArrayRef {
            let values = values.into_iter().map(|n| i64::try_from(n).unwrap_or(i64::MAX));
            Arc::new(Int64Array::from_iter_values(values))
        };
        let mut columns = vec![counts((0..rows.len() as u64).collect())];
        for (axis, label) in labels.iter().enumerate() {
            let edges = || {
                rows.iter()
                    .map(|row| row.intervals.get(axis).copied().unwrap_or_default())
            };
            let low: Float64Array = edges().map(|(low, _)| low).collect();
            let high: Float64Array = edges().map(|(_, high)| high).collect();
            for (end, values) in [("low", low), ("high", high)] {
                fields.push(Field::new(format!("{label}_{end}"), DataType::Float64, true));
                columns.push(Arc::new(values));
            }
        }
        fields.extend([
            count("n_spectra"),
            Field::new("own", DataType::Boolean, false),
            list_field("covariance", DataType::Float64, false),
            count("vanishing"),
        ]);
        columns.extend([
            counts(rows.iter().map(|row| row.n_spectra).collect()),
            Arc::new(rows.iter().map(|row| Some(row.own)).collect::<BooleanArray>()),
            f64_lists(rows.iter().map(|row| Some(row.covariance.as_slice()))),
            counts(rows.iter().map(|row| row.vanishing).collect()),
        ]);
        let schema = Arc::new(Schema::new(fields));
        let mut out = ParquetOut::create(self.stores(), self.uri(), INTRINSIC, &schema, metadata)?;
        let batch = out.batch(&schema, columns)?;
        out.write(&batch)?;
        out.finish(&FileMetadata::default())
    }
}
