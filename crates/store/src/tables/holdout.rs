//! `posterior/holdout.parquet`: the likelihood of held-out spectra over prior precisions, where the prior is chosen by it.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array};
use arrow_schema::{DataType, Field, Schema};

use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::tables::predictions::check_shapes;
use crate::{Output, StoreError};

/// Where the curve is, in an output.
const HOLDOUT: &str = "posterior/holdout.parquet";

/// One prior precision. What is not finite is written as null.
#[derive(Clone, Debug, PartialEq)]
pub struct HoldoutRow {
    /// Of every weight, in normalised units, on the scale of the sum over spectra.
    pub prior_precision: f64,
    /// Log likelihood of the held-out residuals, at the best scatter beyond the known parts.
    pub log_likelihood: f64,
    /// `sum lambda / (lambda + prior_precision)` over all blocks.
    pub effective_parameters: f64,
    /// Standard deviation of each label's held-out pulls, `[K]`.
    pub pull_std: Vec<f64>,
    /// The same without the scatter, `[K]`.
    pub pull_std_without: Vec<f64>,
}

impl Output {
    /// Writes `posterior/holdout.parquet`; `labels` are the network's.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_holdout(
        &self,
        labels: &[String],
        rows: &[HoldoutRow],
        metadata: &FileMetadata,
    ) -> Result<WrittenFile, StoreError> {
        let numbers = |values: Vec<f64>| -> ArrayRef {
            let values = values.into_iter().map(|v| v.is_finite().then_some(v));
            Arc::new(values.collect::<Float64Array>())
        };
        let of = |value: fn(&HoldoutRow) -> f64| numbers(rows.iter().map(value).collect());
        let mut named = vec![
            ("prior_precision".to_owned(), of(|row| row.prior_precision)),
            ("log_likelihood".to_owned(), of(|row| row.log_likelihood)),
            ("effective_parameters".to_owned(), of(|row| row.effective_parameters)),
        ];
        for row in rows {
            let shapes = [
                ("pulls", row.pull_std.len(), labels.len()),
                ("pulls without a scatter", row.pull_std_without.len(), labels.len()),
            ];
            check_shapes(HOLDOUT, &shapes)?;
        }
        for (at, label) in labels.iter().enumerate() {
            let with = rows.iter().map(|row| row.pull_std[at]).collect();
            let without = rows.iter().map(|row| row.pull_std_without[at]).collect();
            named.push((format!("pull_std_{label}"), numbers(with)));
            named.push((format!("pull_std_{label}_without_intrinsic"), numbers(without)));
        }
        let fields = named.iter().map(|(name, _)| Field::new(name, DataType::Float64, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut out = ParquetOut::create(self.stores(), self.uri(), HOLDOUT, &schema, metadata)?;
        let batch = out.batch(&schema, named.into_iter().map(|(_, values)| values).collect())?;
        out.write(&batch)?;
        out.finish(&FileMetadata::default())
    }
}
