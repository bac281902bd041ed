//! What held-out residuals show beyond photons, weights and label errors:
//! `C_intrinsic = mean(r r^T) - mean(C_flux) - mean(C_weights) - mean(S_y)`, clipped to a covariance.
//!
//! Residuals of noisy spectra hold photon noise already, and those of noisy labels hold their errors; both are taken out, so that nothing
//! is counted twice and the total is the error against the true label.

use serde::{Deserialize, Serialize};

use crate::PosteriorError;
use crate::noise::{add, add_outer, all_finite, check_batch, check_covariances, check_merge, mean};
use crate::psd::{clip_to_psd, scale_of};

/// Sums over held-out spectra of residuals and of the parts of their error budget.
///
/// Units are the caller's, one for all: label units where C_intrinsic goes into predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetSums {
    n_labels: usize,
    n_spectra: u64,
    skipped: u64,
    residual: Vec<f64>,
    residual_outer: Vec<f64>,
    flux: Vec<f64>,
    weights: Vec<f64>,
    label_covariance: Vec<f64>,
}

/// C_intrinsic and what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntrinsicEstimate {
    /// C_intrinsic, `[K, K]`, positive semidefinite.
    pub covariance: Vec<f64>,
    /// Number of spectra with all their labels.
    pub n_spectra: u64,
    /// Number of spectra left out because a label or a covariance was missing.
    pub skipped: u64,
    /// The bias: mean residual of each label.
    pub mean_residual: Vec<f64>,
    /// `mean(r r^T)`, `[K, K]`.
    pub residual_second_moment: Vec<f64>,
    /// `mean(C_flux)`, `[K, K]`.
    pub mean_flux: Vec<f64>,
    /// `mean(C_weights)`, `[K, K]`.
    pub mean_weights: Vec<f64>,
    /// `mean(S_y)`, `[K, K]`.
    pub mean_label_covariance: Vec<f64>,
    /// Eigenvalues of the difference, ascending, in units of the residuals' root mean square.
    pub eigenvalues: Vec<f64>,
    /// How many of them were negative and are 0 now: directions in which the parts already explain more than the residuals show.
    pub clipped: usize,
}

impl BudgetSums {
    /// Nothing summed yet, for `n_labels` labels.
    #[must_use]
    pub fn new(n_labels: usize) -> Self {
        let matrix = vec![0.0; n_labels * n_labels];
        Self {
            n_labels,
            n_spectra: 0,
            skipped: 0,
            residual: vec![0.0; n_labels],
            residual_outer: matrix.clone(),
            flux: matrix.clone(),
            weights: matrix.clone(),
            label_covariance: matrix,
        }
    }

    /// Number of spectra summed over.
    #[must_use]
    pub fn n_spectra(&self) -> u64 {
        self.n_spectra
    }

    /// Adds a batch: `residual = label - prediction: [n, K]`; the parts `[n, K, K]` each.
    ///
    /// A spectrum with a value that is not finite (a missing label) is left out and counted.
    ///
    /// # Errors
    /// If the sizes do not agree.
    pub fn accumulate(
        &mut self,
        residual: &[f64],
        flux: &[f64],
        weights: &[f64],
        label_covariance: Option<&[f64]>,
    ) -> Result<(), PosteriorError> {
        let k = self.n_labels;
        let batch = check_batch("residuals", residual, k)?;
        check_covariances("flux covariances", flux, batch, k)?;
        check_covariances("weight covariances", weights, batch, k)?;
        if let Some(covariance) = label_covariance {
            check_covariances("label covariances", covariance, batch, k)?;
        }
        for n in 0..batch {
            let r = &residual[n * k..(n + 1) * k];
            let square = n * k * k..(n + 1) * k * k;
            let (f, w) = (&flux[square.clone()], &weights[square.clone()]);
            let s = label_covariance.map(|s| &s[square]);
            if !all_finite(&[Some(r), Some(f), Some(w), s]) {
                self.skipped += 1;
                continue;
            }
            self.n_spectra += 1;
            add(&mut self.residual, r);
            add_outer(&mut self.residual_outer, r);
            add(&mut self.flux, f);
            add(&mut self.weights, w);
            if let Some(s) = s {
                add(&mut self.label_covariance, s);
            }
        }
        Ok(())
    }

    /// Adds other sums, after these.
    ///
    /// # Errors
    /// If they are of another number of labels.
    pub fn merge(&mut self, other: &Self) -> Result<(), PosteriorError> {
        check_merge("budget sums", self.n_labels, other.n_labels)?;
        self.n_spectra += other.n_spectra;
        self.skipped += other.skipped;
        add(&mut self.residual, &other.residual);
        add(&mut self.residual_outer, &other.residual_outer);
        add(&mut self.flux, &other.flux);
        add(&mut self.weights, &other.weights);
        add(&mut self.label_covariance, &other.label_covariance);
        Ok(())
    }

    /// C_intrinsic from the sums, negative eigenvalues set to 0.
    ///
    /// # Errors
    /// If no spectrum was summed.
    pub fn intrinsic(&self) -> Result<IntrinsicEstimate, PosteriorError> {
        if self.n_spectra == 0 {
            return Err(PosteriorError::NoResiduals {
                skipped: self.skipped,
            });
        }
        let mean = |sum: &[f64]| mean(sum, self.n_spectra);
        let second_moment = mean(&self.residual_outer);
        let (flux, weights) = (mean(&self.flux), mean(&self.weights));
        let labels = mean(&self.label_covariance);
        let difference: Vec<f64> = (0..second_moment.len())
            .map(|i| second_moment[i] - flux[i] - weights[i] - labels[i])
            .collect();
        let clipped = clip_to_psd(
            &difference,
            &scale_of(&second_moment, self.n_labels),
            0.0,
            "the intrinsic covariance",
        )?;
        Ok(IntrinsicEstimate {
            covariance: clipped.covariance,
            n_spectra: self.n_spectra,
            skipped: self.skipped,
            mean_residual: mean(&self.residual),
            residual_second_moment: second_moment,
            mean_flux: flux,
            mean_weights: weights,
            mean_label_covariance: labels,
            eigenvalues: clipped.eigenvalues,
            clipped: clipped.clipped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brute_force::Numbers;

    #[test]
    fn the_estimate_is_the_direct_difference_of_means() {
        let (n, k) = (30, 2);
        let mut numbers = Numbers::new(5);
        let mut draw = |len: usize, size: f64| -> Vec<f64> {
            (0..len).map(|_| size * numbers.next()).collect()
        };
        let r = draw(n * k, 3.0);
        let diagonal = |values: Vec<f64>| -> Vec<f64> {
            let mut square = vec![0.0; n * k * k];
            for n in 0..n {
                for i in 0..k {
                    square[(n * k + i) * k + i] = values[n * k + i].abs();
                }
            }
            square
        };
        let parts = [0.1, 0.2, 0.3].map(|size| diagonal(draw(n * k, size)));
        let mut sums = BudgetSums::new(k);
        for (start, end) in [(0, 7), (7, 30)] {
            let at = start * k * k..end * k * k;
            let mut group = BudgetSums::new(k);
            group
                .accumulate(
                    &r[start * k..end * k],
                    &parts[0][at.clone()],
                    &parts[1][at.clone()],
                    Some(&parts[2][at]),
                )
                .unwrap();
            sums.merge(&group).unwrap();
        }
        let estimate = sums.intrinsic().unwrap();
        assert_eq!(estimate.clipped, 0);
        for i in 0..k {
            for j in 0..k {
                let direct: f64 = (0..n)
                    .map(|n| {
                        let at = (n * k + i) * k + j;
                        r[n * k + i] * r[n * k + j] - parts[0][at] - parts[1][at] - parts[2][at]
                    })
                    .sum::<f64>()
                    / n as f64;
                assert!((estimate.covariance[i * k + j] - direct).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn parts_larger_than_the_residuals_are_clipped_to_zero_and_reported() {
        let mut sums = BudgetSums::new(2);
        sums.accumulate(
            &[2.0, 1.0],
            &[1.0, 0.0, 0.0, 3.0],
            &[1.0, 2.0, 2.0, 1.0],
            None,
        )
        .unwrap();
        let estimate = sums.intrinsic().unwrap();
        assert_eq!(estimate.clipped, 1);
        assert!((estimate.covariance[0] - 2.0).abs() < 1e-14);
        for i in 1..4 {
            assert!(estimate.covariance[i].abs() < 1e-14);
        }
    }

    #[test]
    fn a_missing_part_is_left_out_and_nothing_left_is_an_error() {
        let mut sums = BudgetSums::new(1);
        sums.accumulate(&[f64::NAN, 1.0], &[0.0, f64::NAN], &[0.0, 0.0], None)
            .unwrap();
        assert!(matches!(
            sums.intrinsic(),
            Err(PosteriorError::NoResiduals { skipped: 2 })
        ));
        assert!(sums.accumulate(&[1.0], &[], &[0.0], None).is_err());
    }
}
