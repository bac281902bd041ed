//! Held-out stars: their residuals, and what is known of the covariance of each.

use serde::{Deserialize, Serialize};

use crate::labels::psd::scale_of;
use crate::shape_checks::{check_batch, check_covariances, check_merge};
use crate::{PosteriorError, PullSums, in_label_units, total_covariance};

/// A star whose own error of some label, by its photons or as its catalogue says, is so many times the residuals' root mean square tells nothing of
/// any label: variances are added in f64, whose 16 digits leave at most 6 of the residuals' variance beside it.
pub const OVERWHELMED: f64 = 1e5;

/// Residuals of held-out stars and the known parts of their covariances, star after star in the order they were added.
///
/// Units are the caller's, one for all. A few thousand stars are plenty, so they are kept as they are: an estimate that weights each
/// star by its own errors needs them one by one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutStars {
    n_labels: usize,
    skipped: u64,
    /// `[n, K]`.
    residual: Vec<f64>,
    /// The photons' part, `[n, K, K]`.
    flux: Vec<f64>,
    /// The weights' part, `[n, K, K]`.
    weights: Vec<f64>,
    /// The labels' own, `S_y`, `[n, K, K]`.
    label_covariance: Vec<f64>,
}

/// What is known of the covariances of some stars, `[n, K, K]` each; a part that is not known, or not asked for, is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownParts<'a> {
    /// The photons' part.
    pub flux: Option<&'a [f64]>,
    /// The weights' part.
    pub weights: Option<&'a [f64]>,
    /// The labels' own covariance.
    pub label_covariance: Option<&'a [f64]>,
}

impl HeldOutStars {
    /// No stars yet, of `n_labels` labels.
    #[must_use]
    pub fn new(n_labels: usize) -> Self {
        Self {
            n_labels,
            skipped: 0,
            residual: Vec::new(),
            flux: Vec::new(),
            weights: Vec::new(),
            label_covariance: Vec::new(),
        }
    }

    /// Number of labels K.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        self.n_labels
    }

    /// Number of stars.
    #[must_use]
    pub fn n_spectra(&self) -> u64 {
        (self.residual.len() / self.n_labels.max(1)) as u64
    }

    /// Number of stars left out because a residual or a covariance was not finite (a label was missing).
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Adds stars: `residual = label - prediction`, `[n, K]`. A star with a value that is not finite is left out and counted.
    ///
    /// # Errors
    /// If the sizes do not agree.
    pub fn push(&mut self, residual: &[f64], known: KnownParts<'_>) -> Result<(), PosteriorError> {
        let k = self.n_labels;
        let batch = check_batch("residuals", residual, k)?;
        for (what, part) in [
            ("flux covariances", known.flux),
            ("weight covariances", known.weights),
            ("label covariances", known.label_covariance),
        ] {
            if let Some(part) = part {
                check_covariances(what, part, batch, k)?;
            }
        }
        let finite = |values: &[f64]| values.iter().all(|v| v.is_finite());
        for star in 0..batch {
            let residual = &residual[star * k..(star + 1) * k];
            let of_star = |part: Option<&'_ [f64]>| {
                part.map_or_else(|| vec![0.0; k * k], |p| p[star * k * k..(star + 1) * k * k].to_vec())
            };
            let parts = [known.flux, known.weights, known.label_covariance].map(of_star);
            if !finite(residual) || !parts.iter().all(|part| finite(part)) {
                self.skipped += 1;
                continue;
            }
            let [flux, weights, own] = parts;
            self.residual.extend_from_slice(residual);
            self.flux.extend(flux);
            self.weights.extend(weights);
            self.label_covariance.extend(own);
        }
        Ok(())
    }

    /// Adds other stars, after these.
    ///
    /// # Errors
    /// If they are of another number of labels.
    pub fn merge(&mut self, other: &Self) -> Result<(), PosteriorError> {
        check_merge("held-out stars", self.n_labels, other.n_labels)?;
        self.skipped += other.skipped;
        self.residual.extend_from_slice(&other.residual);
        self.flux.extend_from_slice(&other.flux);
        self.weights.extend_from_slice(&other.weights);
        self.label_covariance.extend_from_slice(&other.label_covariance);
        Ok(())
    }

    /// The stars of several collections, one after another.
    ///
    /// # Errors
    /// If one is of another number of labels.
    pub fn merged<'a>(n_labels: usize, parts: impl IntoIterator<Item = &'a Self>) -> Result<Self, PosteriorError> {
        let mut all = Self::new(n_labels);
        for part in parts {
            all.merge(part)?;
        }
        Ok(all)
    }

    /// Root mean square of each label's residuals, `[K]`; 1 where all are 0.
    #[must_use]
    pub fn residual_rms(&self) -> Vec<f64> {
        scale_of(&self.means().second_moment, self.n_labels)
    }

    /// Leaves out the stars whose own errors are more than [`OVERWHELMED`] times `rms`, `[K]`; returns how many they were.
    ///
    /// # Errors
    /// If there is not one value a label.
    pub fn leave_out_overwhelmed(&mut self, rms: &[f64]) -> Result<u64, PosteriorError> {
        check_merge("root mean squares of residuals", self.n_labels, rms.len())?;
        let keeps = self.not_overwhelmed(rms);
        self.retain(&keeps);
        Ok(keeps.iter().filter(|keep| !**keep).count() as u64)
    }

    /// Of each star, whether something can be learnt from it.
    pub(crate) fn not_overwhelmed(&self, rms: &[f64]) -> Vec<bool> {
        let square = (self.n_labels * self.n_labels).max(1);
        let stars = self.flux.chunks_exact(square);
        stars
            .zip(self.label_covariance.chunks_exact(square))
            .map(|(flux, own)| !is_overwhelmed(rms, flux, Some(own)))
            .collect()
    }

    /// Keeps some of the stars.
    pub(crate) fn retain(&mut self, keeps: &[bool]) {
        let k = self.n_labels;
        retain_rows(&mut self.residual, keeps, k);
        for part in [&mut self.flux, &mut self.weights, &mut self.label_covariance] {
            retain_rows(part, keeps, k * k);
        }
    }

    /// The same stars with other weights' parts, `[n, K, K]`.
    ///
    /// # Errors
    /// If their number is another.
    pub(crate) fn with_weights(&self, weights: Vec<f64>) -> Result<Self, PosteriorError> {
        check_covariances("weight covariances", &weights, self.n_spectra() as usize, self.n_labels)?;
        Ok(Self {
            weights,
            ..self.clone()
        })
    }

    /// Multiplies the weights' part of every star from both sides by `diag(scale)`: `C_kl scale_k scale_l`.
    ///
    /// # Errors
    /// If there is not one factor a label.
    pub fn scale_weights(&mut self, scale: &[f64]) -> Result<(), PosteriorError> {
        check_merge("factors of the weights' part", self.n_labels, scale.len())?;
        in_label_units(&mut self.weights, scale)
    }

    /// Adds the pulls of these stars under their known parts and an `intrinsic` scatter, `[K, K]`.
    ///
    /// # Errors
    /// If the scatter or the sums are of another number of labels.
    pub fn pulls(&self, intrinsic: &[f64], sums: &mut PullSums) -> Result<(), PosteriorError> {
        let covariance = total_covariance(self.n_labels, &self.flux, &self.weights, intrinsic)?;
        sums.accumulate(&self.residual, &covariance, Some(&self.label_covariance))
    }

    /// Residual `[K]`, all known parts but the weights' and the weights' part, `[K, K]` each, of each star.
    pub(crate) fn stars_and_weights(&self) -> impl Iterator<Item = (&[f64], Vec<f64>, &[f64])> {
        let square = (self.n_labels * self.n_labels).max(1);
        let others = self
            .flux
            .iter()
            .zip(&self.label_covariance)
            .map(|(flux, own)| flux + own);
        let others: Vec<f64> = others.collect();
        let weights = self.weights.chunks_exact(square);
        self.residual
            .chunks_exact(self.n_labels.max(1))
            .zip(weights)
            .enumerate()
            .map(move |(star, (residual, weights))| {
                (residual, others[star * square..(star + 1) * square].to_vec(), weights)
            })
    }

    /// Residual `[K]` and the sum of the known parts `[K, K]` of each star.
    pub(crate) fn stars(&self) -> impl Iterator<Item = (&[f64], Vec<f64>)> {
        let k = self.n_labels;
        self.residual
            .chunks_exact(k.max(1))
            .enumerate()
            .map(move |(star, residual)| {
                let at = star * k * k;
                let known = (at..at + k * k)
                    .map(|i| self.flux[i] + self.weights[i] + self.label_covariance[i])
                    .collect();
                (residual, known)
            })
    }

    /// Means over the stars: residual `[K]`, `r r^T`, flux, weights and label covariances `[K, K]`.
    pub(crate) fn means(&self) -> Means {
        let k = self.n_labels;
        let n = self.n_spectra() as f64;
        let mean = |values: &[f64], width: usize| -> Vec<f64> {
            let mut sum = vec![0.0; width];
            for row in values.chunks_exact(width.max(1)) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sum.into_iter().map(|sum| sum / n).collect()
        };
        let outer: Vec<f64> = self
            .residual
            .chunks_exact(k.max(1))
            .flat_map(|r| r.iter().flat_map(move |a| r.iter().map(move |b| a * b)))
            .collect();
        Means {
            residual: mean(&self.residual, k),
            second_moment: mean(&outer, k * k),
            flux: mean(&self.flux, k * k),
            weights: mean(&self.weights, k * k),
            label_covariance: mean(&self.label_covariance, k * k),
        }
    }
}

/// Whether a star's own errors of some label are more than [`OVERWHELMED`] times `rms`, `[K]`: of `flux`, the photons' part, and the labels' own covariance
/// together, `[K, K]` each.
#[must_use]
pub fn is_overwhelmed(rms: &[f64], flux: &[f64], label_covariance: Option<&[f64]>) -> bool {
    let k = rms.len();
    debug_assert!(flux.len() == k * k && label_covariance.is_none_or(|own| own.len() == k * k));
    rms.iter().enumerate().any(|(i, rms)| {
        let own = label_covariance.map_or(0.0, |own| own[i * (k + 1)]);
        flux[i * (k + 1)] + own > (OVERWHELMED * rms).powi(2)
    })
}

/// Keeps some rows of so many values.
pub(crate) fn retain_rows(values: &mut Vec<f64>, keeps: &[bool], width: usize) {
    let mut keeps = keeps.iter().flat_map(|keep| std::iter::repeat_n(*keep, width));
    values.retain(|_| keeps.next().unwrap_or(true));
}

/// Means over held-out stars.
pub(crate) struct Means {
    pub(crate) residual: Vec<f64>,
    pub(crate) second_moment: Vec<f64>,
    pub(crate) flux: Vec<f64>,
    pub(crate) weights: Vec<f64>,
    pub(crate) label_covariance: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two labels with residuals of root mean square 1 and 10: variances of 1e10 and 1e12 are the most that a star may have.
    #[test]
    fn stars_are_overwhelmed_by_photons_and_their_own_errors_together() {
        let flux = [1e10, 1.0, 6e9, 0.0, 0.0, 0.0];
        let own = [0.0, 0.0, 6e9, 1e10, 1.1e10, 0.0];
        let other = [1e12, 1e12, 0.0, 0.0, 0.0, 1.1e12];
        let square = |variance: f64, other: f64| [variance, 0.0, 0.0, other];
        let mut stars = HeldOutStars::new(2);
        for star in 0..6 {
            let known = KnownParts {
                flux: Some(&square(flux[star], other[star])),
                label_covariance: Some(&square(own[star], 0.0)),
                ..KnownParts::default()
            };
            stars.push(&[star as f64, 0.0], known).unwrap();
        }
        assert_eq!(stars.leave_out_overwhelmed(&[1.0, 10.0]).unwrap(), 3);
        assert_eq!(stars.residual, [0.0, 0.0, 1.0, 0.0, 3.0, 0.0]);
        assert_eq!(
            stars.flux.chunks_exact(4).map(|star| star[0]).collect::<Vec<_>>(),
            [1e10, 1.0, 0.0]
        );
        assert_eq!(stars.label_covariance.len(), 12);
        assert!(stars.leave_out_overwhelmed(&[1.0]).is_err());
    }

    #[test]
    fn stars_that_were_left_out_are_counted_over_all_groups() {
        let nan = [f64::NAN];
        let (mut one, mut other) = (HeldOutStars::new(1), HeldOutStars::new(1));
        for part in 0..3 {
            let known = KnownParts {
                flux: (part == 0).then_some(&nan[..]),
                weights: (part == 1).then_some(&nan[..]),
                label_covariance: (part == 2).then_some(&nan[..]),
            };
            other.push(&[1.0], known).unwrap();
        }
        one.push(&[1.0, f64::NAN], KnownParts::default()).unwrap();
        one.merge(&other).unwrap();
        assert_eq!((one.n_spectra(), one.skipped()), (1, 4));
    }

    /// `r / sqrt(flux + weights + intrinsic + own)`, by hand: 6 / sqrt(1 + 2 + 3 + 3) and -3 / 3.
    #[test]
    fn pulls_are_under_all_parts() {
        let known = KnownParts {
            flux: Some(&[1.0, 1.0]),
            weights: Some(&[2.0, 2.0]),
            label_covariance: Some(&[3.0, 3.0]),
        };
        let mut stars = HeldOutStars::new(1);
        stars.push(&[6.0, -3.0], known).unwrap();
        let mut sums = PullSums::new(1);
        stars.pulls(&[3.0], &mut sums).unwrap();
        let pulls = &sums.pulls().unwrap()[0];
        assert_eq!((pulls.n_spectra, pulls.mean, pulls.within_one_sigma), (2, 0.5, 0.5));
        assert!((pulls.standard_deviation - 4.5_f64.sqrt()).abs() < 1e-15);
        // All but the weights' part, and that.
        let apart: Vec<_> = stars
            .stars_and_weights()
            .map(|(r, others, weights)| (r[0], others[0], weights[0]))
            .collect();
        assert_eq!(apart, [(6.0, 4.0, 2.0), (-3.0, 4.0, 2.0)]);
        assert!(stars.stars().all(|(_, known)| known == [6.0]));
    }
}
