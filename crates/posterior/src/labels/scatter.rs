//! The scatter of residuals beyond what is known of each star's errors: R for the Hessian, C_intrinsic for the error budget.
//!
//! Star n has residual r_n and known covariance K_n: its label's own errors, and for C_intrinsic the photons' and the weights' part too.
//! C is the maximum of the likelihood of `r_n ~ N(0, C + K_n)`, so a star counts by what its own errors leave of it; the difference
//! of means, `mean(r r^T) - mean(K)`, would rest on the few stars with the largest errors and need not be a covariance at all. Residuals
//! count about 0, so that a bias is an error.

use serde::{Deserialize, Serialize};

use crate::PosteriorError;
use crate::labels::climb::MAX_ITERATIONS;
use crate::labels::held_out::HeldOutStars;
use crate::labels::maximum::maximum_likelihood;
use crate::labels::psd::{clip_to_psd, scale_of};
use crate::labels::small::{cholesky, dot};

/// The smallest eigenvalue of R, in units of the residuals' root mean square (label by label): 1e-4 is a noise of 1 % of the residuals.
///
/// R is inverted, and a catalogue whose label errors are as large as the residuals leaves nothing of it.
pub const NOISE_FLOOR: f64 = 1e-4;

/// An eigenvalue below this, in the same units, counts as vanishing: the known parts explain the residuals in that direction.
const VANISHING: f64 = 1e-3;

/// A log likelihood this much below the best cannot be told from it.
pub(crate) const INDISTINCT: f64 = 2.0;

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
    /// Iterations until nothing changed any more; 0 where nothing is known of any star, and the scatter is the second moment.
    pub iterations: u32,
}

impl ScatterEstimate {
    /// Whether the climb came to an end: if not, the likelihood is still rising where it was cut off.
    #[must_use]
    pub fn has_converged(&self) -> bool {
        self.iterations < MAX_ITERATIONS
    }
}

impl HeldOutStars {
    /// R, the residual covariance beyond the labels' own errors, its eigenvalues raised to [`NOISE_FLOOR`] where they are below.
    ///
    /// # Errors
    /// If there are no more stars than labels (the likelihood has no maximum then), or a label's residuals are all exactly 0.
    pub fn noise(&self) -> Result<ScatterEstimate, PosteriorError> {
        let k = self.n_labels();
        if (1..=k as u64).contains(&self.n_spectra()) {
            return Err(PosteriorError::FewResiduals {
                n: self.n_spectra(),
                n_labels: k,
            });
        }
        let estimate = self.scatter(NOISE_FLOOR)?;
        match (0..k).find(|&i| estimate.residual_second_moment[i * k + i] <= 0.0) {
            Some(label) => Err(PosteriorError::NoNoise {
                label,
                n: estimate.n_spectra,
            }),
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

    /// `ln likelihood` of the residuals for a scatter beyond what is known; minus infinity where a `T_n` is not positive definite.
    pub(crate) fn log_likelihood(&self, covariance: &[f64]) -> f64 {
        let k = self.n_labels();
        let constant = k as f64 * std::f64::consts::TAU.ln();
        let mut sum = 0.0;
        for (residual, known) in self.stars() {
            let total: Vec<f64> = covariance.iter().zip(&known).map(|(c, v)| c + v).collect();
            let Some(root) = cholesky(&total, k) else {
                return f64::NEG_INFINITY;
            };
            // The squares of L^-1 r.
            let mut whitened = residual.to_vec();
            for i in 0..k {
                let left: f64 = (0..i).map(|j| root[i * k + j] * whitened[j]).sum();
                whitened[i] = (whitened[i] - left) / root[i * k + i];
            }
            let log_det = 2.0 * (0..k).map(|i| root[i * k + i].ln()).sum::<f64>();
            sum -= 0.5 * (constant + log_det + dot(&whitened, &whitened));
        }
        sum
    }

    fn scatter(&self, floor: f64) -> Result<ScatterEstimate, PosteriorError> {
        let k = self.n_labels();
        if self.n_spectra() == 0 {
            return Err(PosteriorError::NoResiduals {
                skipped: self.skipped(),
            });
        }
        let means = self.means();
        let scale = scale_of(&means.second_moment, k);
        let (covariance, iterations) = if self.stars().all(|(_, known)| known.iter().all(|&value| value == 0.0)) {
            // The maximum in closed form; residuals that are a combination of one another have no other.
            (means.second_moment.clone(), 0)
        } else {
            let (scaled, iterations) = maximum_likelihood(self, &scale)?;
            let covariance = (0..k * k).map(|i| scaled[i] * scale[i / k] * scale[i % k]);
            (covariance.collect(), iterations)
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brute_force::Numbers;
    use crate::labels::held_out::KnownParts;

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
        residuals
            .iter()
            .zip(known)
            .map(|(r, v)| (r * r - c - v) / (c + v).powi(2))
            .sum()
    }

    #[test]
    fn without_known_errors_it_is_the_second_moment() {
        let residuals = [1.0, 2.0, -2.0, 1.0, 3.0, -1.0];
        let mut stars = HeldOutStars::new(2);
        stars.push(&residuals, KnownParts::default()).unwrap();
        let estimate = stars.intrinsic().unwrap();
        let expected = [14.0 / 3.0, -1.0, -1.0, 2.0];
        for (found, expected) in estimate.covariance.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-14, "{:?}", estimate.covariance);
        }
        assert_eq!((estimate.n_spectra, estimate.vanishing, estimate.clipped), (3, 0, 0));

        // Twice the same label: the likelihood has no bound, and what it rises to is told from the floor of R alone.
        let mut numbers = Numbers::new(9);
        let (mut twice, mut square) = (Vec::new(), 0.0);
        for _ in 0..200 {
            let residual = numbers.normal();
            twice.extend([residual, 3.0 * residual]);
            square += residual * residual / 200.0;
        }
        let mut stars = HeldOutStars::new(2);
        stars.push(&twice, KnownParts::default()).unwrap();
        let noise = stars.noise().unwrap();
        for (found, expected) in noise.covariance.iter().zip([1.0, 3.0, 3.0, 9.0]) {
            assert!(
                (found / (expected * square) - 1.0).abs() < NOISE_FLOOR,
                "{:?}",
                noise.covariance
            );
        }
        assert_eq!((noise.vanishing, noise.clipped), (1, 1));
    }

    #[test]
    fn as_few_stars_as_labels_give_no_noise() {
        let mut stars = HeldOutStars::new(2);
        stars.push(&[1.0, 2.0, -2.0, 1.5], KnownParts::default()).unwrap();
        let few = stars.noise();
        assert!(
            matches!(few, Err(PosteriorError::FewResiduals { n: 2, n_labels: 2 })),
            "{few:?}"
        );
        stars.push(&[0.5, -1.0], KnownParts::default()).unwrap();
        assert!(stars.noise().is_ok());
    }

    #[test]
    fn errors_that_are_no_covariance_are_refused_wherever_they_stand() {
        let mut numbers = Numbers::new(5);
        let residuals: Vec<f64> = (0..60).map(|_| numbers.normal()).collect();
        for at in [0, 7] {
            let mut own = [0.1, 0.0, 0.0, 0.1].repeat(30);
            own[4 * at..4 * at + 4].copy_from_slice(&[900.0, 1000.0, 1000.0, 900.0]);
            let mut stars = HeldOutStars::new(2);
            let known = KnownParts {
                label_covariance: Some(&own),
                ..KnownParts::default()
            };
            stars.push(&residuals, known).unwrap();
            assert!(matches!(stars.noise(), Err(PosteriorError::NoCovariance)), "star {at}");
        }
    }

    #[test]
    fn log_likelihoods_by_hand() {
        let mut stars = HeldOutStars::new(2);
        let own = [1.0, 0.5, 0.5, 2.0];
        let known = KnownParts {
            label_covariance: Some(&own),
            ..KnownParts::default()
        };
        stars.push(&[1.0, -2.0], known).unwrap();
        // T = [[2, 1], [1, 4]], det 7, T^-1 = [[4, -1], [-1, 2]] / 7, r T^-1 r = (4 + 4 + 8) / 7.
        let expected = -0.5 * (2.0 * std::f64::consts::TAU.ln() + 7.0_f64.ln() + 16.0 / 7.0);
        assert!((stars.log_likelihood(&[1.0, 0.5, 0.5, 2.0]) - expected).abs() < 1e-14);
        assert_eq!(stars.log_likelihood(&[-3.0, 0.0, 0.0, 1.0]), f64::NEG_INFINITY);
    }

    #[test]
    fn the_likelihood_has_its_maximum_there() {
        let mut numbers = Numbers::new(3);
        let (residuals, known) = one_label(400, 0.7, &mut numbers);
        let mut stars = HeldOutStars::new(1);
        stars
            .push(
                &residuals,
                KnownParts {
                    label_covariance: Some(&known),
                    ..KnownParts::default()
                },
            )
            .unwrap();
        let c = stars.intrinsic().unwrap().covariance[0];
        assert!(
            slope(c * 0.999, &residuals, &known) > 0.0 && slope(c * 1.001, &residuals, &known) < 0.0,
            "{c}"
        );
        assert!((c.sqrt() - 0.7).abs() < 0.15, "{c}");
    }

    #[test]
    fn correlated_labels_reach_a_stationary_point_of_their_likelihood() {
        let mut numbers = Numbers::new(8);
        let (mut residuals, mut known) = (Vec::new(), Vec::new());
        for star in 0..300 {
            let own = 0.1 + (star % 7) as f64 / 7.0;
            let shared = numbers.normal();
            residuals.extend([shared + own * numbers.normal(), 0.5 * shared + 0.3 * numbers.normal()]);
            known.extend([own * own, 0.0, 0.0, 0.01]);
        }
        let mut stars = HeldOutStars::new(2);
        stars
            .push(
                &residuals,
                KnownParts {
                    label_covariance: Some(&known),
                    ..KnownParts::default()
                },
            )
            .unwrap();
        let c = stars.intrinsic().unwrap().covariance;
        // d ln L / dC = 1/2 sum (T^-1 r r^T T^-1 - T^-1), against the size of its own terms.
        let (mut slope, mut size) = ([0.0; 4], 0.0);
        for (r, v) in residuals.chunks_exact(2).zip(known.chunks_exact(4)) {
            let t = [c[0] + v[0], c[1] + v[1], c[2] + v[2], c[3] + v[3]];
            let det = t[0] * t[3] - t[1] * t[2];
            let inverse = [t[3] / det, -t[1] / det, -t[2] / det, t[0] / det];
            let w = [
                inverse[0] * r[0] + inverse[1] * r[1],
                inverse[2] * r[0] + inverse[3] * r[1],
            ];
            for (i, slope) in slope.iter_mut().enumerate() {
                *slope += w[i / 2] * w[i % 2] - inverse[i];
            }
            size += inverse[0] + inverse[3];
        }
        assert!(
            slope.iter().all(|slope| slope.abs() < 1e-7 * size),
            "{slope:?} of {size}: {c:?}"
        );
        assert!((c[1] / (c[0] * c[3]).sqrt() - 0.86).abs() < 0.1, "{c:?}");
    }

    #[test]
    fn parts_add_up_and_groups_merge() {
        let mut numbers = Numbers::new(4);
        let (residuals, known) = one_label(100, 0.5, &mut numbers);
        let half: Vec<f64> = known.iter().map(|v| v / 2.0).collect();
        let quarter: Vec<f64> = known.iter().map(|v| v / 4.0).collect();
        let mut whole = HeldOutStars::new(1);
        whole
            .push(
                &residuals,
                KnownParts {
                    label_covariance: Some(&known),
                    ..KnownParts::default()
                },
            )
            .unwrap();
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
        stars
            .push(
                &residuals,
                KnownParts {
                    label_covariance: Some(&known),
                    ..KnownParts::default()
                },
            )
            .unwrap();
        let intrinsic = stars.intrinsic().unwrap();
        assert_eq!((intrinsic.vanishing, intrinsic.clipped), (1, 0));
        assert!(intrinsic.covariance[0] >= 0.0 && intrinsic.covariance[0] < 0.1);
        let noise = stars.noise().unwrap();
        assert!(noise.covariance[0] >= NOISE_FLOOR);
        assert_eq!(noise.clipped, 1, "R is raised, and that is said");
    }

    #[test]
    fn stars_without_a_label_are_left_out_and_counted() {
        let mut stars = HeldOutStars::new(1);
        stars.push(&[1.0, f64::NAN, 2.0], KnownParts::default()).unwrap();
        let noise = stars.noise().unwrap();
        assert_eq!((noise.n_spectra, noise.skipped), (2, 1));
        assert!((noise.covariance[0] - 2.5).abs() < 1e-5);
        assert!(matches!(
            HeldOutStars::new(1).noise(),
            Err(PosteriorError::NoResiduals { .. })
        ));
        let mut exact = HeldOutStars::new(1);
        exact.push(&[0.0, 0.0], KnownParts::default()).unwrap();
        assert!(matches!(exact.noise(), Err(PosteriorError::NoNoise { label: 0, n: 2 })));
    }

    /// Stars with a correlated error of their own, 10^power times the others', are neither trusted nor do they spoil what the others say.
    #[test]
    fn an_error_that_stands_for_bad_spoils_nothing() {
        let mut numbers = Numbers::new(11);
        let draws: Vec<[f64; 2]> = (0..400)
            .map(|_| [130.0 * numbers.normal(), 0.2 * numbers.normal()])
            .collect();
        let of = |power: Option<i32>| {
            let mut stars = HeldOutStars::new(2);
            for (star, residual) in draws.iter().enumerate() {
                let error = match power {
                    Some(power) if star % 20 == 0 => 10_f64.powi(power),
                    None if star % 20 == 0 => continue,
                    _ => 1e-3,
                };
                // J diag(variance) J^T of one pixel, and a little of all others.
                let (a, b) = ((40.0 + 0.7 * star as f64) * error, 0.03 * error);
                let flux = [a * a + 4.0, a * b, a * b, b * b + 1e-4];
                let known = KnownParts {
                    flux: Some(&flux),
                    ..KnownParts::default()
                };
                stars.push(residual, known).unwrap();
            }
            let left_out = stars.leave_out_overwhelmed(&stars.residual_rms()).unwrap();
            (stars.intrinsic().unwrap(), left_out)
        };
        let (without, none) = of(None);
        assert_eq!(none, 0);
        for power in [2, 3, 8, 10, 30] {
            let (found, left_out) = of(Some(power));
            assert_eq!(left_out, if power > 5 { 20 } else { 0 }, "10^{power}");
            assert!(found.has_converged(), "10^{power}");
            for (at, (found, without_them)) in found.covariance.iter().zip(&without.covariance).enumerate() {
                let size = (without.covariance[at / 2 * 3] * without.covariance[at % 2 * 3]).sqrt();
                assert!(
                    (found - without_them).abs() < 0.1 * size,
                    "10^{power}: {found} for {without_them}"
                );
            }
        }
    }
}
