//! The labels' noise R from held-out residuals: `R = mean(r r^T) - mean(S_y)`.
//!
//! About zero, not about the mean residual: a bias is an error too. `S_y` is a spectrum's own label covariance, where the catalogue has
//! one, so `R + S_y` is what its residual is expected to scatter by, and `(R + S_y)^-1` its weight in the Hessian.

use serde::{Deserialize, Serialize};

use crate::PosteriorError;
use crate::psd::{clip_to_psd, scale_of};

/// The smallest eigenvalue of R, in units of the residuals' root mean square (label by label): 1e-4 is a noise of 1 % of the residuals.
///
/// R is inverted, and a catalogue whose label errors are too large leaves nothing, or less, of it.
pub const NOISE_FLOOR: f64 = 1e-4;

/// Sums over held-out spectra of residuals and of their label covariances.
///
/// Units are the caller's: normalised for the R of the Hessian.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResidualSums {
    n_labels: usize,
    n_spectra: u64,
    skipped: u64,
    residual: Vec<f64>,
    residual_outer: Vec<f64>,
    label_covariance: Vec<f64>,
}

/// R and what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseEstimate {
    /// R, `[K, K]`, positive definite.
    pub covariance: Vec<f64>,
    /// Number of spectra with all their labels.
    pub n_spectra: u64,
    /// Number of spectra left out because a label or a covariance was missing.
    pub skipped: u64,
    /// The bias: mean residual of each label.
    pub mean_residual: Vec<f64>,
    /// `mean(r r^T)`, `[K, K]`.
    pub residual_second_moment: Vec<f64>,
    /// `mean(S_y)`, `[K, K]`.
    pub mean_label_covariance: Vec<f64>,
    /// Eigenvalues of `mean(r r^T) - mean(S_y)`, ascending, in units of the residuals' root mean square.
    pub eigenvalues: Vec<f64>,
    /// How many of them were below [`NOISE_FLOOR`] and were raised to it.
    pub clipped: usize,
}

impl ResidualSums {
    /// Nothing summed yet, for `n_labels` labels.
    #[must_use]
    pub fn new(n_labels: usize) -> Self {
        Self {
            n_labels,
            n_spectra: 0,
            skipped: 0,
            residual: vec![0.0; n_labels],
            residual_outer: vec![0.0; n_labels * n_labels],
            label_covariance: vec![0.0; n_labels * n_labels],
        }
    }

    /// Number of spectra summed over.
    #[must_use]
    pub fn n_spectra(&self) -> u64 {
        self.n_spectra
    }

    /// Adds a batch: `residual = label - prediction: [n, K]`, `label_covariance: [n, K, K]`.
    ///
    /// A spectrum with a value that is not finite (a missing label) is left out and counted.
    ///
    /// # Errors
    /// If the sizes do not agree.
    pub fn accumulate(
        &mut self,
        residual: &[f64],
        label_covariance: Option<&[f64]>,
    ) -> Result<(), PosteriorError> {
        let k = self.n_labels;
        let batch = check_batch("residuals", residual, k)?;
        if let Some(covariance) = label_covariance {
            check_covariances("label covariances", covariance, batch, k)?;
        }
        for n in 0..batch {
            let r = &residual[n * k..(n + 1) * k];
            let s = label_covariance.map(|s| &s[n * k * k..(n + 1) * k * k]);
            if !all_finite(&[Some(r), s]) {
                self.skipped += 1;
                continue;
            }
            self.n_spectra += 1;
            add(&mut self.residual, r);
            add_outer(&mut self.residual_outer, r);
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
        check_merge("residual sums", self.n_labels, other.n_labels)?;
        self.n_spectra += other.n_spectra;
        self.skipped += other.skipped;
        add(&mut self.residual, &other.residual);
        add(&mut self.residual_outer, &other.residual_outer);
        add(&mut self.label_covariance, &other.label_covariance);
        Ok(())
    }

    /// R from the sums, its eigenvalues raised to [`NOISE_FLOOR`] where they are below.
    ///
    /// # Errors
    /// If no spectrum was summed, or a label's residuals are all exactly 0.
    pub fn noise(&self) -> Result<NoiseEstimate, PosteriorError> {
        let k = self.n_labels;
        if self.n_spectra == 0 {
            return Err(PosteriorError::NoResiduals {
                skipped: self.skipped,
            });
        }
        let mean = |sum: &[f64]| mean(sum, self.n_spectra);
        let second_moment = mean(&self.residual_outer);
        if let Some(label) = (0..k).find(|&i| second_moment[i * k + i] <= 0.0) {
            return Err(PosteriorError::NoNoise {
                label,
                n: self.n_spectra,
            });
        }
        let mean_label_covariance = mean(&self.label_covariance);
        let difference: Vec<f64> = second_moment
            .iter()
            .zip(&mean_label_covariance)
            .map(|(r, s)| r - s)
            .collect();
        let clipped = clip_to_psd(
            &difference,
            &scale_of(&second_moment, k),
            NOISE_FLOOR,
            "the residual covariance",
        )?;
        Ok(NoiseEstimate {
            covariance: clipped.covariance,
            n_spectra: self.n_spectra,
            skipped: self.skipped,
            mean_residual: mean(&self.residual),
            residual_second_moment: second_moment,
            mean_label_covariance,
            eigenvalues: clipped.eigenvalues,
            clipped: clipped.clipped,
        })
    }
}

pub(crate) fn add(sum: &mut [f64], values: &[f64]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

pub(crate) fn add_outer(sum: &mut [f64], r: &[f64]) {
    for (row, a) in sum.chunks_exact_mut(r.len()).zip(r) {
        for (sum, b) in row.iter_mut().zip(r) {
            *sum += a * b;
        }
    }
}

pub(crate) fn mean(sum: &[f64], n: u64) -> Vec<f64> {
    sum.iter().map(|v| v / n as f64).collect()
}

pub(crate) fn all_finite(parts: &[Option<&[f64]>]) -> bool {
    parts
        .iter()
        .flatten()
        .all(|part| part.iter().all(|v| v.is_finite()))
}

/// The number of spectra in `[n, K]` values.
pub(crate) fn check_batch(what: &str, values: &[f64], k: usize) -> Result<usize, PosteriorError> {
    if k > 0 && values.len().is_multiple_of(k) {
        Ok(values.len() / k)
    } else {
        Err(PosteriorError::Shape {
            what: what.to_owned(),
            expected: vec![values.len() / k.max(1), k],
            found: vec![values.len()],
        })
    }
}

pub(crate) fn check_covariances(
    what: &str,
    values: &[f64],
    batch: usize,
    k: usize,
) -> Result<(), PosteriorError> {
    if values.len() == batch * k * k {
        Ok(())
    } else {
        Err(PosteriorError::Shape {
            what: what.to_owned(),
            expected: vec![batch, k, k],
            found: vec![values.len()],
        })
    }
}

pub(crate) fn check_merge(what: &str, own: usize, other: usize) -> Result<(), PosteriorError> {
    if own == other {
        Ok(())
    } else {
        Err(PosteriorError::Shape {
            what: format!("{what} to merge"),
            expected: vec![own],
            found: vec![other],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brute_force::Numbers;

    fn draw(n: usize, k: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
        let mut numbers = Numbers::new(seed);
        let r = (0..n * k).map(|_| 2.0 * numbers.next()).collect();
        let mut s = vec![0.0; n * k * k];
        for n in 0..n {
            for i in 0..k {
                s[(n * k + i) * k + i] = 0.1 * numbers.next().abs();
            }
        }
        (r, s)
    }

    #[test]
    fn the_estimate_is_the_direct_mean() {
        let (n, k) = (40, 3);
        let (r, s) = draw(n, k, 1);
        let mut sums = ResidualSums::new(k);
        sums.accumulate(&r[..15 * k], Some(&s[..15 * k * k]))
            .unwrap();
        let mut rest = ResidualSums::new(k);
        rest.accumulate(&r[15 * k..], Some(&s[15 * k * k..]))
            .unwrap();
        sums.merge(&rest).unwrap();
        let noise = sums.noise().unwrap();
        assert_eq!((noise.n_spectra, noise.skipped, noise.clipped), (40, 0, 0));
        for i in 0..k {
            for j in 0..k {
                let direct: f64 = (0..n)
                    .map(|n| r[n * k + i] * r[n * k + j] - s[(n * k + i) * k + j])
                    .sum::<f64>()
                    / n as f64;
                assert!((noise.covariance[i * k + j] - direct).abs() < 1e-14);
            }
            let bias = (0..n).map(|n| r[n * k + i]).sum::<f64>() / n as f64;
            assert!((noise.mean_residual[i] - bias).abs() < 1e-14);
        }
    }

    #[test]
    fn a_missing_label_is_left_out_and_counted() {
        let (mut r, _) = draw(10, 2, 2);
        let mut without = ResidualSums::new(2);
        without.accumulate(&r[2..], None).unwrap();
        r[1] = f64::NAN;
        let mut sums = ResidualSums::new(2);
        sums.accumulate(&r, None).unwrap();
        assert_eq!(sums.n_spectra(), 9);
        let (noise, direct) = (sums.noise().unwrap(), without.noise().unwrap());
        assert_eq!(noise.covariance, direct.covariance);
        assert_eq!(noise.skipped, 1);
    }

    #[test]
    fn label_errors_larger_than_the_residuals_leave_the_floor() {
        let mut sums = ResidualSums::new(2);
        sums.accumulate(
            &[1.0, 0.0, 0.0, 10.0],
            Some(&[9.0, 0.0, 0.0, 1.0, 9.0, 0.0, 0.0, 1.0]),
        )
        .unwrap();
        let noise = sums.noise().unwrap();
        assert_eq!(noise.clipped, 1);
        assert!((noise.covariance[0] - NOISE_FLOOR * 0.5).abs() < 1e-15);
        assert!((noise.covariance[3] - 49.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_summed_and_a_label_without_residual_are_errors() {
        let sums = ResidualSums::new(2);
        assert!(matches!(
            sums.noise(),
            Err(PosteriorError::NoResiduals { .. })
        ));
        let mut sums = ResidualSums::new(2);
        sums.accumulate(&[1.0, 0.0, 2.0, 0.0], None).unwrap();
        assert!(matches!(
            sums.noise(),
            Err(PosteriorError::NoNoise { label: 1, n: 2 })
        ));
        assert!(sums.accumulate(&[1.0], None).is_err());
        assert!(sums.merge(&ResidualSums::new(3)).is_err());
    }
}
