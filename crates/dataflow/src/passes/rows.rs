//! Which rows of the fit's catalogue serve which purpose.

use fisherflow_spectra::{SpectrumBatch, is_held_out};

use crate::job::{Compute, Noise};

/// The rows from which references are taken, and, where the noise comes from them, residuals: never counted in the sums then.
pub(crate) fn held_out(batch: &SpectrumBatch, compute: &Compute) -> Vec<usize> {
    (0..batch.n_rows())
        .filter(|&row| !batch.is_bad(row) && is_held_out(batch.holdout[row], compute.holdout_fraction))
        .collect()
}

/// Whether a row is counted in the sums over spectra: good, with all its labels where the catalogue names labels, and not held out
/// where the noise comes from held-out residuals.
pub(crate) fn is_in_sums(batch: &SpectrumBatch, row: usize, compute: &Compute, noise: &Noise) -> bool {
    !batch.is_bad(row) && (batch.n_labels == 0 || batch.is_labelled(row)) && !is_kept_out(batch, row, compute, noise)
}

/// Whether a row is kept out of the sums because the noise comes from its residuals.
pub(crate) fn is_kept_out(batch: &SpectrumBatch, row: usize, compute: &Compute, noise: &Noise) -> bool {
    *noise == Noise::Holdout && is_held_out(batch.holdout[row], compute.holdout_fraction)
}
