//! `posterior/holdout.parquet`: the likelihood of held-out spectra over prior precisions, where the prior is chosen by it.

use crate::tables::columns::numbers;
use crate::tables::parquet_out::{FileMetadata, WrittenFile};
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
        for row in rows {
            let shapes = [
                ("pulls", row.pull_std.len(), labels.len()),
                ("pulls without a scatter", row.pull_std_without.len(), labels.len()),
            ];
            check_shapes(HOLDOUT, &shapes)?;
        }
        let number = |name: &str, value: fn(&HoldoutRow) -> f64| numbers(name, rows.iter().map(value));
        let mut columns = vec![
            number("prior_precision", |row| row.prior_precision),
            number("log_likelihood", |row| row.log_likelihood),
            number("effective_parameters", |row| row.effective_parameters),
        ];
        for (at, label) in labels.iter().enumerate() {
            let with = rows.iter().map(|row| row.pull_std[at]);
            let without = rows.iter().map(|row| row.pull_std_without[at]);
            columns.push(numbers(&format!("pull_std_{label}"), with));
            columns.push(numbers(&format!("pull_std_{label}_without_intrinsic"), without));
        }
        self.write_columns(HOLDOUT, columns, metadata)
    }
}
