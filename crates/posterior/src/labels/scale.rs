//! One factor a label on the weights' part, from held-out stars: `C_w -> S C_w S`, `S = diag(s)`.
//!
//! A structure that misses correlations of the weights, or a prior that is not theirs, makes the weights' part too large or too small by
//! much the same factor for all stars. `s` and the scatter C that remains, one for each cell of label space, are the maximum of the likelihood of
//! `r_n ~ N(0, C + S W_n S + K_n)`, with `W_n` star n's weights' part and `K_n` its photons' part and its label's own errors. It is climbed in
//! the `L` of each cell's `C = L L^T` and `u = ln s`, from `s = 1` with the residuals' second moment and, of few stars, with the likeliest scatter there:
//! with `G = sum T_n^-1 - w_n w_n^T` restricted to one star,
//!
//! ```text
//! d(-2 ln likelihood) / du_k = 2 sum_n sum_j G_n,kj s_k s_j W_n,kj
//! ```
//!
//! A factor applies to every star that is predicted, also where the weights' part is all there is. So it is 1 unless the stars contradict that: where the
//! likelihood with `s_k = 1`, at the maximum over everything else, is within [`INDISTINCT`] of the best. Of several such labels that of the smallest loss is
//! held first, and each after it against what is left.

use serde::{Deserialize, Serialize};

use crate::labels::cells::FEWEST_STARS;
use crate::labels::climb::lowest;
use crate::labels::deviance::{Residuals, by_lower_factor, deviance};
use crate::labels::maximum::{HIGHER, MOST_STARS, factor_near};
use crate::labels::psd::scale_of;
use crate::labels::scatter::INDISTINCT;
use crate::labels::small::{add_outer, product, transposed};
use crate::{HeldOutStars, PosteriorError};

/// No factor is beyond this, either way: further away the likelihood does not change any more.
const FARTHEST: f64 = 1e3;

/// The factors of the labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelScale {
    /// `s`, `[K]`: of standard deviations.
    pub scale: Vec<f64>,
    /// By how much they raise the log likelihood above that of `s = 1`.
    pub log_likelihood_gain: f64,
    /// Number of stars.
    pub n_spectra: u64,
    /// Whether the stars do not tell each from 1: then it is 1.
    pub not_told: Vec<bool>,
    /// Whether each was stopped at a thousandth or a thousand: they contradict 1, and nothing nearer to it is likelier.
    pub at_limit: Vec<bool>,
}

impl LabelScale {
    /// The factors of the weights' part, label by label, from the stars of each cell. Cells of fewer than [`FEWEST_STARS`] share one scatter, and are left
    /// out where all of them together are fewer beside others.
    ///
    /// # Errors
    /// If there is no star, or cells are of different numbers of labels.
    pub fn of_cells(by_cell: &[HeldOutStars]) -> Result<Self, PosteriorError> {
        let k = by_cell.first().map_or(0, HeldOutStars::n_labels);
        let fit = Fit::new(k, groups(k, by_cell)?)?;
        let ones = vec![0.0; k];
        let mut not_told = vec![false; k];
        let mut found = fit.likeliest(&not_told, None);
        let unscaled = fit.log_likelihood(&ones)?;
        let mut reached = fit.log_likelihood(&found)?;
        let is_told = |loss: f64| loss > INDISTINCT;
        if !is_told(reached - unscaled) {
            // Each alone loses no more than all.
            (not_told, found, reached) = (vec![true; k], ones, unscaled);
        } else if k > 1 {
            let loss_without = |label: usize| -> Result<(f64, usize), PosteriorError> {
                let held: Vec<bool> = (0..k).map(|other| other == label).collect();
                let left = fit.log_likelihood(&fit.likeliest(&held, Some(&found)))?;
                Ok((reached - left, label))
            };
            let mut losses = (0..k).map(loss_without).collect::<Result<Vec<_>, _>>()?;
            losses.retain(|(loss, _)| !is_told(*loss));
            losses.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (_, label) in losses {
                not_told[label] = true;
                let held = fit.likeliest(&not_told, Some(&found));
                let left = fit.log_likelihood(&held)?;
                if is_told(reached - left) {
                    not_told[label] = false;
                } else {
                    (found, reached) = (held, left);
                }
            }
        }
        let logs = fit.logs(&found);
        Ok(Self {
            log_likelihood_gain: reached - unscaled,
            n_spectra: fit.n_spectra() as u64,
            not_told,
            at_limit: logs.iter().map(|u| u.abs() >= FARTHEST.ln()).collect(),
            scale: logs.into_iter().map(f64::exp).collect(),
        })
    }
}

/// The stars that have one scatter each: of every cell with enough of them, and of all others together.
fn groups(n_labels: usize, by_cell: &[HeldOutStars]) -> Result<Vec<HeldOutStars>, PosteriorError> {
    let (own, few): (Vec<_>, Vec<_>) = by_cell.iter().partition(|stars| stars.n_spectra() >= FEWEST_STARS);
    let few = HeldOutStars::merged(n_labels, few)?;
    let mut groups: Vec<HeldOutStars> = own.into_iter().cloned().collect();
    if groups.is_empty() || few.n_spectra() >= FEWEST_STARS {
        groups.push(few);
    }
    Ok(groups)
}

/// Stars by their scatter, and what they are climbed from.
struct Fit {
    k: usize,
    groups: Vec<HeldOutStars>,
    /// Of each group, in units of its residuals.
    stars: Vec<Vec<Star>>,
    /// Lower factors of every group's scatter, one after another.
    starts: Vec<Vec<f64>>,
}

impl Fit {
    fn new(k: usize, groups: Vec<HeldOutStars>) -> Result<Self, PosteriorError> {
        let (mut stars, mut second_moments, mut likeliest) = (Vec::new(), Vec::new(), Vec::new());
        for group in &groups {
            let unscaled = group.intrinsic()?;
            let unit = scale_of(&unscaled.residual_second_moment, k);
            let of_group: Vec<Star> = group
                .stars_and_weights()
                .map(|(residual, others, weights)| Star {
                    residual: residual.iter().zip(&unit).map(|(r, s)| r / s).collect(),
                    others: in_units(&others, &unit),
                    weights: in_units(weights, &unit),
                })
                .collect();
            let mut second_moment = vec![0.0; k * k];
            for star in &of_group {
                add_outer(&mut second_moment, &star.residual, 1.0 / of_group.len() as f64);
            }
            second_moments.extend(factor_near(&second_moment, k));
            likeliest.extend(factor_near(&in_units(&unscaled.covariance, &unit), k));
            stars.push(of_group);
        }
        let mut fit = Self {
            k,
            groups,
            stars,
            starts: vec![second_moments],
        };
        if fit.n_spectra() <= MOST_STARS {
            fit.starts.push(likeliest);
        }
        Ok(fit)
    }

    fn n_spectra(&self) -> usize {
        self.stars.iter().map(Vec::len).sum()
    }

    /// The likeliest scatters and factors: the lower factors of every group's C, and `ln s`, of `held` labels 0. Climbed from `near`, and from `s = 1`
    /// where nothing is near or the stars are few.
    fn likeliest(&self, held: &[bool], near: Option<&[f64]>) -> Vec<f64> {
        let mut starts: Vec<Vec<f64>> = near.into_iter().map(<[f64]>::to_vec).collect();
        if near.is_none() || self.n_spectra() <= MOST_STARS {
            let at_one = vec![0.0; self.k];
            starts.extend(self.starts.iter().map(|factors| [&factors[..], &at_one].concat()));
        }
        for start in &mut starts {
            let at = start.len() - self.k;
            let of_held = start[at..].iter_mut().zip(held).filter(|(_, held)| **held);
            of_held.for_each(|(u, _)| *u = 0.0);
        }
        let margin = 2.0 * HIGHER / self.n_spectra() as f64;
        lowest(starts, margin, |x| deviance_at(&self.stars, x, held)).0
    }

    /// `ln s` of what was climbed to.
    fn logs(&self, found: &[f64]) -> Vec<f64> {
        let farthest = FARTHEST.ln();
        let logs = &found[found.len() - self.k..];
        logs.iter().map(|u| u.clamp(-farthest, farthest)).collect()
    }

    /// The log likelihood with the factors of what was climbed to, and every group's likeliest scatter beside them.
    fn log_likelihood(&self, found: &[f64]) -> Result<f64, PosteriorError> {
        let scale: Vec<f64> = self.logs(found).into_iter().map(f64::exp).collect();
        let mut sum = 0.0;
        for group in &self.groups {
            let mut scaled = group.clone();
            scaled.scale_weights(&scale)?;
            sum += scaled.log_likelihood(&scaled.intrinsic()?.covariance);
        }
        Ok(sum)
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

/// `T_n = C + K_n + S W_n S`.
struct Scaled<'c> {
    c: &'c [f64],
    /// `s_k s_l`, `[K, K]`.
    scales: &'c [f64],
}

impl Residuals for Scaled<'_> {
    type Star = Star;

    fn residual<'s>(&self, star: &'s Star) -> &'s [f64] {
        &star.residual
    }

    #[inline(always)]
    fn covariance(&self, star: &Star, to: &mut [f64]) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = self.c[i] + star.others[i] + star.weights[i] * self.scales[i];
        }
    }

    /// By `ln s`.
    #[inline(always)]
    fn add_more(&self, star: &Star, g: &[f64], more: &mut [f64]) {
        let k = more.len();
        for (label, sum) in more.iter_mut().enumerate() {
            let row = label * k..(label + 1) * k;
            let weights = star.weights[row.clone()].iter().zip(&self.scales[row.clone()]);
            *sum += 2.0 * weights.zip(&g[row]).map(|((w, s), g)| w * s * g).sum::<f64>();
        }
    }
}

/// `-2 ln likelihood / n` and its gradient by the lower factors of each group's C and by `ln s`; by those of `held` labels it is 0, so that they stay.
fn deviance_at(groups: &[Vec<Star>], x: &[f64], held: &[bool]) -> (f64, Vec<f64>) {
    let k = held.len();
    let (factors, logs) = x.split_at(x.len() - k);
    // Beyond the farthest factor nothing changes.
    let farthest = FARTHEST.ln();
    let scale: Vec<f64> = logs.iter().map(|u| u.clamp(-farthest, farthest).exp()).collect();
    let scales: Vec<f64> = (0..k * k).map(|at| scale[at / k] * scale[at % k]).collect();
    let n = groups.iter().map(Vec::len).sum::<usize>() as f64;
    let (mut value, mut by_scale, mut gradient) = (0.0, vec![0.0; k], Vec::with_capacity(x.len()));
    for (stars, factor) in groups.iter().zip(factors.chunks_exact((k * k).max(1))) {
        let c = product(factor, &transposed(factor, k), k);
        let of = Scaled { c: &c, scales: &scales };
        let Some(sums) = deviance(&of, stars, k, k) else {
            return (f64::INFINITY, vec![0.0; x.len()]);
        };
        value += sums.value;
        by_scale.iter_mut().zip(&sums.more).for_each(|(sum, part)| *sum += part);
        gradient.extend(by_lower_factor(&sums.slope, factor, k, n));
    }
    let moves = |u: f64, held: bool| !held && u.abs() < farthest;
    let by_log = by_scale.iter().zip(logs.iter().zip(held));
    gradient.extend(by_log.map(|(sum, (u, held))| if moves(*u, *held) { sum / n } else { 0.0 }));
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
        let found = LabelScale::of_cells(&[stars(4000, factors, 0.7, &mut numbers)]).unwrap();
        for (scale, factor) in found.scale.iter().zip(factors) {
            // 4,000 stars know a standard deviation to 1.1 %, and half of their scatter is the other part's: four times twice that.
            assert!((scale * factor - 1.0).abs() < 0.09, "{found:?}");
        }
        assert!(found.log_likelihood_gain > 100.0 && found.at_limit == [false, false]);
        assert_eq!(found.not_told, [false, false]);
    }

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let mut numbers = Numbers::new(42);
        let groups = [40, 30].map(|n| {
            let held_out = stars(n, [1.3, 0.8], 0.5, &mut numbers);
            held_out
                .stars_and_weights()
                .map(|(residual, others, weights)| Star {
                    residual: residual.to_vec(),
                    others,
                    weights: weights.to_vec(),
                })
                .collect::<Vec<_>>()
        });
        let x = [0.9, 0.0, 0.3, 0.7, 0.5, 0.0, -0.1, 0.6, 0.2, -0.4];
        let (_, gradient) = deviance_at(&groups, &x, &[false; 2]);
        let (_, held) = deviance_at(&groups, &x, &[true, false]);
        assert_eq!((&held[..8], held[8], held[9]), (&gradient[..8], 0.0, gradient[9]));
        for at in [0, 2, 3, 4, 6, 7, 8, 9] {
            let h = 1e-6;
            let moved = |by: f64| {
                let mut x = x;
                x[at] += by;
                deviance_at(&groups, &x, &[false; 2]).0
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
            LabelScale::of_cells(&[held_out]).unwrap()
        };
        let too_small = of(|size| size, |size| (size / 2000.0).powi(2));
        assert_eq!(
            (&too_small.at_limit[..], &too_small.not_told[..]),
            (&[true][..], &[false][..])
        );
        assert!((too_small.scale[0] / 1e3 - 1.0).abs() < 1e-9, "{too_small:?}");
        let none = of(|size| 1.0 - 0.1 * size, |size| size * size);
        assert_eq!((&none.at_limit[..], &none.not_told[..]), (&[true][..], &[false][..]));
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
            let fit = Fit::new(k, vec![held_out]).unwrap();
            let likeliest = fit.likeliest(&vec![false; k], None);
            let gain = fit.log_likelihood(&likeliest).unwrap() - fit.log_likelihood(&vec![0.0; k]).unwrap();
            assert!(gain > -1e-5, "case {seed}: {gain}");
        }
    }

    /// Stars of one label, of a `scatter` and a weights' part of standard deviations up to `size`, that is given `factor` times too small.
    fn one_label(n: usize, scatter: f64, size: f64, factor: f64, numbers: &mut Numbers) -> HeldOutStars {
        let mut held_out = HeldOutStars::new(1);
        for star in 0..n {
            let part = size * (1.0 + (star % 10) as f64) / 10.0;
            let residual = part * numbers.normal() + scatter * numbers.normal();
            let known = KnownParts {
                weights: Some(&[(part / factor).powi(2)]),
                ..KnownParts::default()
            };
            held_out.push(&[residual], known).unwrap();
        }
        held_out
    }

    /// One scatter for both cells would be taken for a weights' part that explains their difference.
    #[test]
    fn each_cell_has_its_own_scatter_beside_the_factors() {
        let mut numbers = Numbers::new(44);
        let mut by_cell = vec![
            one_label(2000, 0.05, 0.1, 2.0, &mut numbers),
            one_label(2000, 1.0, 0.4, 2.0, &mut numbers),
        ];
        let found = LabelScale::of_cells(&by_cell).unwrap();
        assert!((found.scale[0] / 2.0 - 1.0).abs() < 0.1, "{found:?}");
        let pooled = HeldOutStars::merged(1, &by_cell).unwrap();
        let pooled = LabelScale::of_cells(&[pooled]).unwrap();
        assert!(pooled.scale[0] > 4.0, "{pooled:?}");
        // A few stars of another cell, whose scatter is not known, change nothing.
        let mut few = HeldOutStars::new(1);
        few.push(&[50.0; 10], KnownParts::default()).unwrap();
        by_cell.push(few);
        assert_eq!(LabelScale::of_cells(&by_cell).unwrap(), found);
        for mut stars in by_cell.drain(..2) {
            stars.scale_weights(&found.scale).unwrap();
            let mut sums = crate::PullSums::new(1);
            stars.pulls(&stars.intrinsic().unwrap().covariance, &mut sums).unwrap();
            let std = sums.pulls().unwrap()[0].standard_deviation;
            assert!((std - 1.0).abs() < 0.05, "{std}");
        }
    }

    /// A weights' part of a hundredth of the residuals' variance: 150 stars say nothing of it, and rarely seem to.
    #[test]
    fn a_factor_is_one_unless_the_stars_contradict_it() {
        let mut kept = 0;
        for seed in 0..50 {
            let mut numbers = Numbers::new(1000 + seed);
            let found = LabelScale::of_cells(&[one_label(150, 1.0, 0.1, 1.0, &mut numbers)]).unwrap();
            assert_eq!(found.not_told, [found.scale == [1.0]]);
            if found.not_told[0] {
                assert_eq!((found.log_likelihood_gain, &found.at_limit[..]), (0.0, &[false][..]));
                kept += 1;
            } else {
                assert!(found.log_likelihood_gain > INDISTINCT, "{found:?}");
            }
        }
        // Two standard deviations are passed by 1 of 22.
        assert!(kept >= 43, "{kept}");
    }

    #[test]
    fn one_label_may_be_told_and_another_not() {
        let mut numbers = Numbers::new(45);
        let mut held_out = HeldOutStars::new(2);
        for star in 0..1000 {
            let size = 0.2 + 3.0 * (star % 11) as f64 / 11.0;
            let weights = [9.0 * size * size, 0.0, 0.0, 1e-4 * size * size];
            let known = KnownParts {
                weights: Some(&weights),
                ..KnownParts::default()
            };
            let first = size * numbers.normal() + 0.5 * numbers.normal();
            held_out.push(&[first, numbers.normal()], known).unwrap();
        }
        let found = LabelScale::of_cells(&[held_out]).unwrap();
        assert_eq!((&found.not_told[..], found.scale[1]), (&[false, true][..], 1.0));
        assert!(
            (found.scale[0] * 3.0 - 1.0).abs() < 0.2 && found.log_likelihood_gain > 100.0,
            "{found:?}"
        );
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
        let found = LabelScale::of_cells(&[held_out]).unwrap();
        assert_eq!((found.scale, found.not_told), (vec![1.0], vec![true]));
        assert_eq!(found.log_likelihood_gain, 0.0);
    }
}
