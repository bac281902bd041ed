//! One factor a label on the weights' part, from held-out stars: `C_w -> S C_w S`, `S = diag(s)`.
//!
//! A structure that misses correlations of the weights, or a prior that is not theirs, makes the weights' part too large or too small by
//! much the same factor for all stars. `s` and the scatter C that remains are the maximum of the likelihood of
//! `r_n ~ N(0, C + S W_n S + K_n)`, with `W_n` star n's weights' part and `K_n` its photons' part and its label's own errors. It is climbed in
//! `C = L L^T` and `u = ln s`, from `s = 1` with the residuals' second moment and, of few stars, with the likeliest scatter there, so that the
//! factors never make them less likely: with `G = sum T_n^-1 - w_n w_n^T` restricted to one star,
//!
//! ```text
//! d(-2 ln likelihood) / du_k = 2 sum_n sum_j G_n,kj s_k s_j W_n,kj
//! ```

use serde::{Deserialize, Serialize};

use crate::labels::climb::lowest;
use crate::labels::maximum::{HIGHER, MOST_STARS, factor_near};
use crate::labels::psd::scale_of;
use crate::labels::small::{add_outer, cholesky, dot, product, solve_columns, transposed};
use crate::{HeldOutStars, PosteriorError};

/// No factor is beyond this, either way: further away the likelihood does not change any more.
const FARTHEST: f64 = 1e3;

/// The factors of the labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelScale {
    /// `s`, `[K]`: of standard deviations.
    pub scale: Vec<f64>,
    /// By how much they raise the log likelihood above that of `s = 1`; below about K the stars hardly tell them from 1.
    pub log_likelihood_gain: f64,
    /// Number of stars.
    pub n_spectra: u64,
    /// Whether each was stopped at a thousandth or a thousand: there the stars do not tell it.
    pub at_limit: Vec<bool>,
}

impl HeldOutStars {
    /// The factors of the weights' part, label by label.
    ///
    /// # Errors
    /// If there is no star.
    pub fn label_scale(&self) -> Result<LabelScale, PosteriorError> {
        let k = self.n_labels();
        let unscaled = self.intrinsic()?;
        let unit = scale_of(&unscaled.residual_second_moment, k);
        let stars: Vec<Star> = self
            .stars_and_weights()
            .map(|(residual, others, weights)| Star {
                residual: residual.iter().zip(&unit).map(|(r, s)| r / s).collect(),
                others: in_units(&others, &unit),
                weights: in_units(weights, &unit),
            })
            .collect();
        let mut second_moment = vec![0.0; k * k];
        for star in &stars {
            add_outer(&mut second_moment, &star.residual, 1.0 / stars.len() as f64);
        }
        let mut starts = vec![factor_near(&second_moment, k)];
        if stars.len() <= MOST_STARS {
            starts.push(factor_near(&in_units(&unscaled.covariance, &unit), k));
        }
        let starts = starts.into_iter().map(|factor| [factor, vec![0.0; k]].concat());
        let margin = 2.0 * HIGHER / stars.len() as f64;
        let (found, _) = lowest(starts.collect(), margin, |x| deviance(&stars, x, k));
        let farthest = FARTHEST.ln();
        let logs = &found[k * k..];
        let scale: Vec<f64> = logs.iter().map(|u| u.clamp(-farthest, farthest).exp()).collect();
        let mut scaled = self.clone();
        scaled.scale_weights(&scale)?;
        let gain = scaled.log_likelihood(&scaled.intrinsic()?.covariance) - self.log_likelihood(&unscaled.covariance);
        Ok(LabelScale {
            log_likelihood_gain: gain,
            n_spectra: self.n_spectra(),
            at_limit: logs.iter().map(|u| u.abs() >= farthest).collect(),
            scale,
        })
    }
}

/// A star in units of the residuals' root mean square.
struct Star {
    residual: Vec<f64>,
    others: Vec<f64>,
    weights: Vec<f64>,
}

fn in_units(covariance: &[f64], unit: &[f64]) -> Vec<f64> {
    let k = unit.len();
    let values = covariance.iter().enumerate();
    values.map(|(i, v)| v / (unit[i / k] * unit[i % k])).collect()
}

/// `-2 ln likelihood / n` and its gradient by the lower factor of C and by `ln s`.
fn deviance(stars: &[Star], x: &[f64], k: usize) -> (f64, Vec<f64>) {
    let (factor, logs) = x.split_at(k * k);
    let c = product(factor, &transposed(factor, k), k);
    // Beyond the farthest factor nothing changes.
    let farthest = FARTHEST.ln();
    let scale: Vec<f64> = logs.iter().map(|u| u.clamp(-farthest, farthest).exp()).collect();
    let identity: Vec<f64> = (0..k * k).map(|i| f64::from(u8::from(i / k == i % k))).collect();
    let (mut value, mut slope, mut by_scale) = (0.0, vec![0.0; k * k], vec![0.0; k]);
    for star in stars {
        let weights: Vec<f64> = star
            .weights
            .iter()
            .enumerate()
            .map(|(i, w)| w * scale[i / k] * scale[i % k])
            .collect();
        let total: Vec<f64> = (0..k * k).map(|i| c[i] + star.others[i] + weights[i]).collect();
        let Some(root) = cholesky(&total, k) else {
            return (f64::INFINITY, vec![0.0; k * k + k]);
        };
        let mut g = solve_columns(&root, &identity, k);
        let weighted: Vec<f64> = g.chunks_exact(k).map(|row| dot(row, &star.residual)).collect();
        value += 2.0 * (0..k).map(|i| root[i * k + i].ln()).sum::<f64>() + dot(&star.residual, &weighted);
        add_outer(&mut g, &weighted, -1.0);
        slope.iter_mut().zip(&g).for_each(|(sum, g)| *sum += g);
        for (label, sum) in by_scale.iter_mut().enumerate() {
            let row = label * k..(label + 1) * k;
            *sum += 2.0 * dot(&g[row.clone()], &weights[row]);
        }
    }
    let n = stars.len() as f64;
    let mut gradient = product(&slope, factor, k);
    for (i, g) in gradient.iter_mut().enumerate() {
        *g = if i % k <= i / k { 2.0 * *g / n } else { 0.0 };
    }
    let inside = |u: &f64| u.abs() < farthest;
    gradient.extend(
        by_scale
            .iter()
            .zip(logs)
            .map(|(sum, u)| if inside(u) { sum / n } else { 0.0 }),
    );
    (value / n, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KnownParts;
    use crate::brute_force::Numbers;

    /// Stars of two labels whose weights' parts are `factors` too large (in standard deviations), over a scatter.
    fn stars(n: usize, factors: [f64; 2], scatter: f64, numbers: &mut Numbers) -> HeldOutStars {
        let mut stars = HeldOutStars::new(2);
        for star in 0..n {
            let size = 0.2 + 3.0 * (star % 11) as f64 / 11.0;
            let shared = numbers.normal();
            let part = [size * (0.6 * shared + 0.8 * numbers.normal()), size * shared];
            let residual = [
                part[0] + scatter * numbers.normal(),
                part[1] + scatter * numbers.normal(),
            ];
            let [a, b] = factors;
            let weights = [a * a, a * b * 0.6, a * b * 0.6, b * b].map(|v| v * size * size);
            let known = KnownParts {
                weights: Some(&weights),
                ..KnownParts::default()
            };
            stars.push(&residual, known).unwrap();
        }
        stars
    }

    #[test]
    fn the_factors_that_were_put_in_come_out() {
        let mut numbers = Numbers::new(41);
        let factors = [2.0, 0.5];
        let found = stars(4000, factors, 0.7, &mut numbers).label_scale().unwrap();
        for (scale, factor) in found.scale.iter().zip(factors) {
            // 4,000 stars know a standard deviation to 1.1 %, and half of their scatter is the other part's: four times twice that.
            assert!((scale * factor - 1.0).abs() < 0.09, "{found:?}");
        }
        assert!(found.log_likelihood_gain > 100.0 && found.at_limit == [false, false]);
    }

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let mut numbers = Numbers::new(42);
        let held_out = stars(40, [1.3, 0.8], 0.5, &mut numbers);
        let stars: Vec<Star> = held_out
            .stars_and_weights()
            .map(|(residual, others, weights)| Star {
                residual: residual.to_vec(),
                others,
                weights: weights.to_vec(),
            })
            .collect();
        let x = [0.9, 0.0, 0.3, 0.7, 0.2, -0.4];
        let (_, gradient) = deviance(&stars, &x, 2);
        for at in [0, 2, 3, 4, 5] {
            let h = 1e-6;
            let moved = |by: f64| {
                let mut x = x;
                x[at] += by;
                deviance(&stars, &x, 2).0
            };
            let numeric = (moved(h) - moved(-h)) / (2.0 * h);
            assert!((gradient[at] - numeric).abs() < 1e-7 * (1.0 + numeric.abs()), "{at}");
        }
    }

    /// Residuals twice as far from the weights' part as a factor may be, and residuals that are the smaller the larger it is.
    #[test]
    fn a_factor_ends_at_its_limit_and_says_so() {
        let of = |residual: fn(f64) -> f64, weights: fn(f64) -> f64| {
            let mut held_out = HeldOutStars::new(1);
            for star in 0..100 {
                let (size, sign) = (0.2 + 0.3 * f64::from(star % 10), 1.0 - 2.0 * f64::from(star / 10 % 2));
                let weights = [weights(size)];
                let known = KnownParts {
                    weights: Some(&weights),
                    ..KnownParts::default()
                };
                held_out.push(&[sign * residual(size)], known).unwrap();
            }
            held_out.label_scale().unwrap()
        };
        let too_small = of(|size| size, |size| (size / 2000.0).powi(2));
        assert_eq!(too_small.at_limit, [true], "{too_small:?}");
        assert!((too_small.scale[0] / 1e3 - 1.0).abs() < 1e-9, "{too_small:?}");
        let none = of(|size| 1.0 - 0.1 * size, |size| size * size);
        assert_eq!(none.at_limit, [true], "{none:?}");
        assert!((none.scale[0] * 1e3 - 1.0).abs() < 1e-9, "{none:?}");
    }

    /// Few stars with errors of very different sizes, of which the climb from their second moment alone ends at factors that lose 0.8 nats and more.
    #[test]
    fn factors_never_make_the_residuals_less_likely() {
        for (seed, k, n) in [(176, 2, 6), (1367, 3, 10), (2782, 2, 10), (2785, 3, 4), (2845, 3, 4)] {
            let mut numbers = Numbers::new(seed);
            let mut held_out = HeldOutStars::new(k);
            for star in 0..n {
                let sizes =
                    [1.0, if star % 2 == 0 { 1.0 } else { 0.1 }].map(|size| size * (2.0 * numbers.next()).exp());
                let mut residual = vec![0.0; k];
                let parts = sizes.map(|size| {
                    let mut part = vec![0.0; k * k];
                    for _ in 0..=k {
                        let v: Vec<f64> = (0..k).map(|_| size * numbers.normal()).collect();
                        let drawn = numbers.normal();
                        residual.iter_mut().zip(&v).for_each(|(r, v)| *r += drawn * v);
                        add_outer(&mut part, &v, 1.0);
                    }
                    part
                });
                let known = KnownParts {
                    flux: Some(&parts[0]),
                    weights: Some(&parts[1]),
                    ..KnownParts::default()
                };
                held_out.push(&residual, known).unwrap();
            }
            let found = held_out.label_scale().unwrap();
            assert!(found.log_likelihood_gain > -1e-5, "case {seed}: {found:?}");
        }
    }

    #[test]
    fn what_the_stars_do_not_tell_is_said() {
        let mut numbers = Numbers::new(43);
        let mut held_out = HeldOutStars::new(1);
        for _ in 0..200 {
            let known = KnownParts {
                weights: Some(&[0.0]),
                ..KnownParts::default()
            };
            held_out.push(&[numbers.normal()], known).unwrap();
        }
        let found = held_out.label_scale().unwrap();
        assert_eq!(found.scale, [1.0]);
        assert!(found.log_likelihood_gain.abs() < 1e-6);
    }
}
