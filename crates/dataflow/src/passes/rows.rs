//! Which rows of the fit's catalogue serve which purpose.

use fisherflow_spectra::{SpectrumBatch, is_held_out};

use crate::job::Job;

/// The good rows of a fraction that is chosen by hash: those held out, from which references are taken and, where the noise or the prior comes from
/// them, residuals, never counted in the sums then; or some of them, evenly chosen.
pub(crate) fn chosen_by_hash(batch: &SpectrumBatch, fraction: f64) -> Vec<usize> {
    (0..batch.n_rows())
        .filter(|&row| !batch.is_bad(row) && is_held_out(batch.holdout[row], fraction))
        .collect()
}

/// Whether a row is counted in the sums over spectra: good, with all its labels where the catalogue names labels, and not held out
/// where something is fitted to held-out residuals.
pub(crate) fn is_in_sums(batch: &SpectrumBatch, row: usize, job: &Job) -> bool {
    !batch.is_bad(row) && (batch.n_labels == 0 || batch.is_labelled(row)) && !is_kept_out(batch, row, job)
}

/// Whether a row is kept out of the sums because something is fitted to its residuals.
pub(crate) fn is_kept_out(batch: &SpectrumBatch, row: usize, job: &Job) -> bool {
    job.keeps_out() && is_held_out(batch.holdout[row], job.compute.holdout_fraction)
}

/// Whether a row is held out, whatever is wrong with it.
pub(crate) fn is_in_held_out_fraction(batch: &SpectrumBatch, row: usize, job: &Job) -> bool {
    is_held_out(batch.holdout[row], job.compute.holdout_fraction)
}
