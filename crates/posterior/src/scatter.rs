//! The scatter of residuals beyond what is known of each star's errors: R for the Hessian, C_intrinsic for the error budget.
//!
//! Star n has residual r_n and known covariance K_n: its label's own errors, and for C_intrinsic the photons' and the weights' part too.
//! C is the maximum of the likelihood of `r_n ~ N(0, C + K_n)`, so a star counts by what its own errors leave of it; the difference
//! of means, `mean(r r^T) - mean(K)`, would rest on the few stars with the largest errors and need not be a covariance at all. Residuals
//! count about 0, so that a bias is an error. Expectation maximisation (Dempster, Laird and Rubin 1977) stays positive semidefinite:
//!
//! `m_n = C (C + K_n)^-1 r_n`,  `V_n = C - C (C + K_n)^-1 C`,  `C <- mean(V_n + m_n m_n^T)`.

use serde::{Deserialize, Serialize};

use crate::held_out::HeldOutStars;
use crate::psd::{clip_to_psd, scale_of};
use crate::small::{add_outer, cholesky, solve_columns};
use crate::PosteriorError;

/// The smallest eigenvalue of R, in units of the residuals' root mean square (label by label): 1e-4 is a noise of 1 % of the residuals.
///
/// R is inverted, and a catalogue whose label errors are as large as the residuals leaves nothing of it.
pub const NOISE_FLOOR: f64 = 1e-4;

/// An eigenvalue below this, in the same units, counts as vanishing: the known parts explain the residuals in that direction.
const VANISHING: f64 = 1e-3;

/// Iterations stop where no element changes by more than this, in units of the residuals' root mean square.
const TOLERANCE: f64 = 1e-7;
const MAX_ITERATIONS: u32 = 2_000;

/// A scatter and what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterEstimate {
    /// The scatter, `[K, K]`, positive semidefinite.
    pub covariance: Vec<f64>,
    /// Number of stars with all their labels.
    pub n_spectra: u64,
    /// Number of stars left out because a label or a covariance was missing.
    pub skipped: u64,
    /// The bias: mean residual of each label.
    pub mean_residual: Vec<f64>,
    /// `mean(r r^T)`, `[K, K]`.
    pub residual_second_moment: Vec<f64>,
    /// Mean of the photons' part, `[K, K]`; 0 where it is not among what is known.
    pub mean_flux: Vec<f64>,
    /// Mean of the weights' part, `[K, K]`; 0 where it is not among what is known.
    pub mean_weights: Vec<f64>,
    /// Mean of the labels' own covariance, `[K, K]`.
    pub mean_label_covariance: Vec<f64>,
    /// Eigenvalues of the scatter, ascending, in units of the residuals' root mean square, before any was raised.
    pub eigenvalues: Vec<f64>,
    /// How many of them are below a thousandth: there the known parts already explain the residuals, or more.
    pub vanishing: usize,
    /// How many of them were raised to the floor of an R that is inverted.
    pub clipped: usize,
    /// Iterations until nothing changed any more.
    pub iterations: u32,
}

impl HeldOutStars {
    /// R, the residual covariance beyond the labels' own errors, its eigenvalues raised to [`NOISE_FLOOR`] where they are below.
    ///
    /// # Errors
    /// If there is no star, or a label's residuals are all exactly 0.
    pub fn noise(&self) -> Result<ScatterEstimate, PosteriorError> {
        let estimate = self.scatter(NOISE_FLOOR)?;
        let k = self.n_labels();
        match (0..k).find(|&i| estimate.residual_second_moment[i * k + i] <= 0.0) {
            Some(label) => Err(PosteriorError::NoNoise { label, n: estimate.n_spectra }),
            None => Ok(estimate),
        }
    }

    /// C_intrinsic, the scatter beyond all known parts.
    ///
    /// # Errors
    /// If there is no star.
    pub fn intrinsic(&self) -> Result<ScatterEstimate, PosteriorError> {
        self.scatter(0.0)
    }

    fn scatter(&self, floor: f64) -> Result<ScatterEstimate, PosteriorError> {
        let k = self.n_labels();
        if self.n_spectra() == 0 {
            return Err(PosteriorError::NoResiduals { skipped: self.skipped() });
        }
        let means = self.means();
        let scale = scale_of(&means.second_moment, k);
        let (scaled, iterations) = maximum_likelihood(self, &scale);
        let covariance: Vec<f64> = (0..k * k).map(|i| scaled[i] * scale[i / k] * scale[i % k]).collect();
        let clipped = clip_to_psd(&covariance, &scale, floor, "the scatter of residuals")?;
        Ok(ScatterEstimate {
            covariance: clipped.covariance,
            n_spectra: self.n_spectra(),
            skipped: self.skipped(),
            mean_residual: means.residual,
            residual_second_moment: means.second_moment,
            mean_flux: means.flux,
            mean_weights: means.weights,
            mean_label_covariance: means.label_covariance,
            vanishing: clipped.eigenvalues.iter().filter(|&&value| value < VANISHING).count(),
            eigenvalues: clipped.eigenvalues,
            clipped: if floor > 0.0 { clipped.clipped } else { 0 },
            iterations,
        })
    }
}

/// C in units of `scale`, and the number of iterations.
fn maximum_likelihood(stars: &HeldOutStars, scale: &[f64]) -> (Vec<f64>, u32) {
    let k = scale.len();
    let stars: Vec<(Vec<f64>, Vec<f64>)> = stars
        .stars()
        .map(|(residual, known)| {
            let residual = residual.iter().zip(scale).map(|(r, s)| r / s).collect();
            let known = known.iter().enumerate().map(|(i, v)| v / (scale[i / k] * scale[i % k])).collect();
            (residual, known)
        })
        .collect();
    // The second moment is the scatter if nothing is known, and an upper start if something is.
    let mut c = vec![0.0; k * k];
    for (residual, _) in &stars {
        add_outer(&mut c, residual, 1.0 / stars.len() as f64);
    }
    // A start inside the cone: from its border, expectation maximisation would never leave it.
    for i in 0..k {
        c[i * k + i] += 1e-6;
    }
    for iteration in 1..=MAX_ITERATIONS {
        let mut next = vec![0.0; k * k];
        for (residual, known) in &stars {
            let total: Vec<f64> = c.iter().zip(known).map(|(c, v)| c + v).collect();
            let Some(factor) = cholesky(&total, k) else {
                // C and K_n have both collapsed here: nothing is left to learn from this star.
                continue;
            };
            // G^T = (C + K)^-1 C, column by column.
            let gain = solve_columns(&factor, &c, k);
            let posterior_mean: Vec<f64> =
                (0..k).map(|i| (0..k).map(|j| gain[j * k + i] * residual[j]).sum()).collect();
            add_outer(&mut next, &posterior_mean, 1.0);
            for i in 0..k {
                for j in 0..k {
                    let explained: f64 = (0..k).map(|l| c[i * k + l] * gain[l * k + j]).sum();
                    next[i * k + j] += c[i * k + j] - explained;
                }
            }
        }
        let mut change: f64 = 0.0;
        for i in 0..k {
            for j in 0..=i {
                let value = 0.5 * (next[i * k + j] + next[j * k + i]) / stars.len() as f64;
                change = change.max((value - c[i * k + j]).abs());
                c[i * k + j] = value;
                c[j * k + i] = value;
            }
        }
        if change < TOLERANCE {
            return (c, iteration);
        }
    }
    (c, MAX_ITERATIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brute_force::Numbers;
    use crate::held_out::KnownParts;

    /// Stars of one label with errors from 0.2 to 2 about a scatter of `sigma`.
    fn one_label(n: usize, sigma: f64, numbers: &mut Numbers) -> (Vec<f64>, Vec<f64>) {
        (0..n)
            .map(|i| {
                let own = 0.2 + 1.8 * (i % 10) as f64 / 9.0;
                let r = (sigma * sigma + own * own).sqrt() * numbers.normal();
                (r, own * own)
            })
            .unzip()
    }

    /// `d ln L / dC` of one label: 0 at the maximum.
    fn slope(c: f64, residuals: &[f64], known: &[f64]) -> f64 {
        residuals.iter().zip(known).map(|(r, v)| (r * r - c - v) / (c + v).powi(2)).sum()
    }

    #[test]
    fn without_known_errors_it_is_the_second_moment() {
        let residuals = [1.0, 2.0, -2.0, 1.0, 3.0, -1.0];
        let mut stars = HeldOutStars::new(2);
        stars.push(&residuals, KnownParts::default()).unwrap();
        let estimate = stars.intrinsic().unwrap();
        let expected = [14.0 / 3.0, -1.0, -1.0, 2.0];
        for (found, expected) in estimate.covariance.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{:?}", estimate.covariance);
        }
        assert_eq!((estimate.n_spectra, estimate.vanishing, estimate.clipped), (3, 0, 0));
    }

    #[test]
    fn the_likelihood_has_its_maximum_there() {
        let mut numbers = Numbers::new(3);
        let (residuals, known) = one_label(400, 0.7, &mut numbers);
        let mut stars = HeldOutStars::new(1);
        stars.push(&residuals, KnownParts { label_covariance: Some(&known), ..KnownParts::default() }).unwrap();
        let c = stars.intrinsic().unwrap().covariance[0];
        assert!(slope(c * 0.999, &residuals, &known) > 0.0 && slope(c * 1.001, &residuals, &known) < 0.0, "{c}");
        assert!((c.sqrt() - 0.7).abs() < 0.15, "{c}");
    }

    #[test]
    fn parts_add_up_and_groups_merge() {
        let mut numbers = Numbers::new(4);
        let (residuals, known) = one_label(100, 0.5, &mut numbers);
        let half: Vec<f64> = known.iter().map(|v| v / 2.0).collect();
        let quarter: Vec<f64> = known.iter().map(|v| v / 4.0).collect();
        let mut whole = HeldOutStars::new(1);
        whole.push(&residuals, KnownParts { label_covariance: Some(&known), ..KnownParts::default() }).unwrap();
        let mut merged = HeldOutStars::new(1);
        for (from, to) in [(0, 40), (40, 100)] {
            let mut group = HeldOutStars::new(1);
            let known = KnownParts {
                flux: Some(&half[from..to]),
                weights: Some(&quarter[from..to]),
                label_covariance: Some(&quarter[from..to]),
            };
            group.push(&residuals[from..to], known).unwrap();
            merged.merge(&group).unwrap();
        }
        let (one, two) = (whole.intrinsic().unwrap(), merged.intrinsic().unwrap());
        assert!((one.covariance[0] - two.covariance[0]).abs() < 1e-12 * one.covariance[0]);
        assert!((two.mean_flux[0] - 2.0 * two.mean_weights[0]).abs() < 1e-12);
    }

    #[test]
    fn errors_larger_than_residuals_leave_nothing_and_say_so() {
        let mut stars = HeldOutStars::new(1);
        let known = vec![100.0; 50];
        let residuals: Vec<f64> = (0..50).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        stars.push(&residuals, KnownParts { label_covariance: Some(&known), ..KnownParts::default() }).unwrap();
        let intrinsic = stars.intrinsic().unwrap();
        assert_eq!((intrinsic.vanishing, intrinsic.clipped), (1, 0));
        assert!(intrinsic.covariance[0] >= 0.0 && intrinsic.covariance[0] < 0.1);
        let noise = stars.noise().unwrap();
        assert!(noise.covariance[0] >= NOISE_FLOOR);
    }

    #[test]
    fn stars_without_a_label_are_left_out_and_counted() {
        let mut stars = HeldOutStars::new(1);
        stars.push(&[1.0, f64::NAN, 2.0], KnownParts::default()).unwrap();
        let noise = stars.noise().unwrap();
        assert_eq!((noise.n_spectra, noise.skipped), (2, 1));
        assert!((noise.covariance[0] - 2.5).abs() < 1e-5);
        assert!(matches!(HeldOutStars::new(1).noise(), Err(PosteriorError::NoResiduals { .. })));
        let mut exact = HeldOutStars::new(1);
        exact.push(&[0.0, 0.0], KnownParts::default()).unwrap();
        assert!(matches!(exact.noise(), Err(PosteriorError::NoNoise { label: 0, n: 2 })));
    }
}
