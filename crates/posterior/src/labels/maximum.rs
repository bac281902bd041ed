//! The maximum of the likelihood of `r_n ~ N(0, C + K_n)` over covariances C, for residuals r_n with known covariances K_n.
//!
//! With `C = L L^T`, L lower triangular, the likelihood is climbed in the elements of L: C stays positive semidefinite, and its border,
//! where a direction vanishes, is reached like any other point. With `T_n = C + K_n`, `w_n = T_n^-1 r_n`:
//!
//! `-2 ln likelihood = sum ln det T_n + r_n . w_n`,  its gradient `2 (sum T_n^-1 - w_n w_n^T) L`, lower triangle.
//!
//! Few stars, or errors of very different sizes, give it several maxima, mostly on different parts of the border: one climb ends at a lower
//! one in up to one case in a hundred. So of up to [`MOST_STARS`] stars it is climbed from several points, and the likeliest end counts.

use faer::{MatRef, Side};

use crate::PosteriorError;
use crate::labels::climb::lowest;
use crate::labels::deviance::{Residuals, by_lower_factor, deviance};
use crate::labels::held_out::HeldOutStars;
use crate::labels::small::{add_outer, cholesky, product, transposed};

/// More stars than these are climbed from one point only: what several take would grow with their number, and hardly any case is left.
pub(crate) const MOST_STARS: usize = 500;

/// A maximum counts as higher than another by so many nats.
pub(crate) const HIGHER: f64 = 1e-6;

/// What is added to a start's diagonal, so that no direction vanishes there: on the border the gradient by L does.
const OFF_THE_BORDER: f64 = 1e-6;

/// Variance along an axis of the scatters that further climbs start from; its square is that of the one that is the same in every direction.
const SMALL_START: f64 = 1e-2;

/// Where the least known variance of some star, in any direction, is not above this, no further climb is made: the likelihood rises without
/// bound as C vanishes across that star's residual, and a small start may lead there.
const LEAST_KNOWN: f64 = 1e-9;

/// C in units of `scale`, the residuals' root mean square label by label, and the number of iterations of the climb that led there.
///
/// # Errors
/// If what is known of a star is no covariance: then no C, however large, makes its residuals likely.
pub(crate) fn maximum_likelihood(stars: &HeldOutStars, scale: &[f64]) -> Result<(Vec<f64>, u32), PosteriorError> {
    let k = scale.len();
    let stars: Vec<(Vec<f64>, Vec<f64>)> = stars
        .stars()
        .map(|(residual, known)| {
            let residual = residual.iter().zip(scale).map(|(r, s)| r / s).collect();
            let known = known.iter().enumerate().map(|(i, v)| v / (scale[i / k] * scale[i % k]));
            (residual, known.collect())
        })
        .collect();
    let mut second_moment = vec![0.0; k * k];
    for (residual, _) in &stars {
        add_outer(&mut second_moment, residual, 1.0 / stars.len() as f64);
    }
    // The second moment is the scatter if nothing is known, and an upper start if something is.
    let first = factor_near(&second_moment, k);
    if deviance_at(&stars, &first, k).0 == f64::INFINITY {
        return Err(PosteriorError::NoCovariance);
    }
    let mut starts = vec![first];
    if stars.len() <= MOST_STARS && stars.iter().all(|(_, known)| is_above(known, LEAST_KNOWN, k)) {
        starts.extend(small_starts(&second_moment, k)?);
    }
    let margin = 2.0 * HIGHER / stars.len() as f64;
    let (factor, iterations) = lowest(starts, margin, |factor| deviance_at(&stars, factor, k));
    Ok((product(&factor, &transposed(&factor, k), k), iterations))
}

/// A lower factor of a covariance moved off the border, from which a climb can start.
pub(crate) fn factor_near(covariance: &[f64], k: usize) -> Vec<f64> {
    let mut inside = covariance.to_vec();
    for i in 0..k {
        inside[i * (k + 1)] += OFF_THE_BORDER;
    }
    cholesky(&inside, k).unwrap_or_else(|| inside.iter().map(|v| v.max(0.0).sqrt()).collect())
}

/// Factors of small scatters: along each principal axis of the residuals, and the same in every direction.
fn small_starts(second_moment: &[f64], k: usize) -> Result<Vec<Vec<f64>>, PosteriorError> {
    let axes = MatRef::from_row_major_slice(second_moment, k, k)
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| PosteriorError::Covariance {
            what: "the second moment of residuals",
        })?;
    let along = |axis: usize| {
        let axis: Vec<f64> = (0..k).map(|i| axes.U()[(i, axis)]).collect();
        let mut scatter = vec![0.0; k * k];
        add_outer(&mut scatter, &axis, SMALL_START);
        factor_near(&scatter, k)
    };
    let round = (0..k * k).map(|at| {
        if at % (k + 1) == 0 {
            SMALL_START * SMALL_START
        } else {
            0.0
        }
    });
    let round: Vec<f64> = round.collect();
    Ok((0..k).map(along).chain([factor_near(&round, k)]).collect())
}

/// Whether a covariance has more than this variance in every direction.
fn is_above(covariance: &[f64], variance: f64, k: usize) -> bool {
    let mut rest = covariance.to_vec();
    for i in 0..k {
        rest[i * (k + 1)] -= variance;
    }
    cholesky(&rest, k).is_some()
}

/// `T_n = C + K_n` of stars with a residual and `K_n` each.
struct Beside<'c>(&'c [f64]);

impl Residuals for Beside<'_> {
    type Star = (Vec<f64>, Vec<f64>);

    fn residual<'s>(&self, star: &'s Self::Star) -> &'s [f64] {
        &star.0
    }

    #[inline(always)]
    fn covariance(&self, star: &Self::Star, to: &mut [f64]) {
        for ((to, c), known) in to.iter_mut().zip(self.0).zip(&star.1) {
            *to = c + known;
        }
    }
}

/// `-2 ln likelihood / n` and its gradient by the lower factor of C; infinite where a T_n is not positive definite.
fn deviance_at(stars: &[(Vec<f64>, Vec<f64>)], factor: &[f64], k: usize) -> (f64, Vec<f64>) {
    let c = product(factor, &transposed(factor, k), k);
    let Some(sums) = deviance(&Beside(&c), stars, k, 0) else {
        return (f64::INFINITY, vec![0.0; k * k]);
    };
    let n = stars.len() as f64;
    (sums.value / n, by_lower_factor(&sums.slope, factor, k, n).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KnownParts;
    use crate::brute_force::{Numbers, inverse};
    use crate::labels::small::dot;

    /// Residuals of a few stars, `[n][K]`, and their known covariances, `[n][K, K]`: sizes from a seventh to seven times one another's.
    type Stars = Vec<(Vec<f64>, Vec<f64>)>;

    fn random_covariance(k: usize, size: f64, numbers: &mut Numbers) -> Vec<f64> {
        let mut covariance = vec![0.0; k * k];
        for _ in 0..=k {
            let v: Vec<f64> = (0..k).map(|_| size * numbers.normal()).collect();
            add_outer(&mut covariance, &v, 1.0 / k as f64);
        }
        covariance
    }

    fn few_stars(seed: u64) -> Stars {
        let mut numbers = Numbers::new(seed);
        let k = 2 + seed as usize % 2;
        let n = [4, 6, 10, 16, 30][seed as usize / 2 % 5];
        let intrinsic = random_covariance(k, 10_f64.powf(-0.5 * (seed / 10 % 4) as f64), &mut numbers);
        (0..n)
            .map(|_| {
                let known = random_covariance(k, (2.0 * numbers.next()).exp(), &mut numbers);
                let total: Vec<f64> = known.iter().zip(&intrinsic).map(|(k, c)| k + c).collect();
                let root = cholesky(&total, k).unwrap();
                let white: Vec<f64> = (0..k).map(|_| numbers.normal()).collect();
                (root.chunks_exact(k).map(|row| dot(row, &white)).collect(), known)
            })
            .collect()
    }

    fn held_out(stars: &Stars) -> HeldOutStars {
        let mut held_out = HeldOutStars::new(stars[0].0.len());
        for (residual, known) in stars {
            let known = KnownParts {
                flux: Some(known),
                ..KnownParts::default()
            };
            held_out.push(residual, known).unwrap();
        }
        held_out
    }

    /// `ln likelihood` with the inverse and determinant by elimination; minus infinity on the border of the covariances.
    fn log_likelihood(stars: &Stars, factor: &[f64]) -> f64 {
        let k = stars[0].0.len();
        let mut sum = 0.0;
        for (residual, known) in stars {
            let total: Vec<f64> = (0..k * k)
                .map(|at| {
                    known[at]
                        + (0..k)
                            .map(|l| factor[at / k * k + l] * factor[at % k * k + l])
                            .sum::<f64>()
                })
                .collect();
            let (inverse, log_det) = inverse(&total);
            let square: f64 = (0..k * k)
                .map(|at| residual[at / k] * inverse[at] * residual[at % k])
                .sum();
            sum -= 0.5 * (k as f64 * std::f64::consts::TAU.ln() + log_det + square);
        }
        sum
    }

    /// Steps along one element of any factor after the other, up as long as one leads up, then half as long.
    fn step_up(stars: &Stars, factor: &mut [f64], mut step: f64, shortest: f64) -> f64 {
        let mut highest = log_likelihood(stars, factor);
        while step > shortest {
            let mut rose = false;
            for at in 0..factor.len() {
                for by in [step, -step] {
                    let before = factor[at];
                    factor[at] += by;
                    let value = log_likelihood(stars, factor);
                    if value > highest {
                        (highest, rose) = (value, true);
                        break;
                    }
                    factor[at] = before;
                }
            }
            if !rose {
                step *= 0.5;
            }
        }
        highest
    }

    /// The highest that steps from many random points come to.
    fn highest_of_many(stars: &Stars, numbers: &mut Numbers) -> f64 {
        let k = stars[0].0.len();
        let mut ends: Vec<(f64, Vec<f64>)> = (0..24)
            .map(|start| {
                let size = 10_f64.powi(start % 4 - 3) * 2.0;
                let mut factor: Vec<f64> = (0..k * k).map(|_| size * numbers.normal()).collect();
                (step_up(stars, &mut factor, 0.5 * size, 2e-3 * size), factor)
            })
            .collect();
        ends.sort_by(|a, b| b.0.total_cmp(&a.0));
        let refined = ends
            .iter_mut()
            .take(4)
            .map(|(_, factor)| step_up(stars, factor, 0.05, 1e-7));
        refined.fold(f64::NEG_INFINITY, f64::max)
    }

    /// The cases of the first list have maxima that differ by 0.2 nats and more, of which a climb from the second moment alone ends at a lower one.
    #[test]
    fn few_stars_reach_the_highest_of_several_maxima() {
        let several = [2500, 2556, 2919, 3187, 3336, 3372, 3553, 3631, 3753];
        for seed in several.into_iter().chain(0..10) {
            let stars = few_stars(seed);
            let held_out = held_out(&stars);
            let found = held_out.log_likelihood(&held_out.intrinsic().unwrap().covariance);
            let highest = highest_of_many(&stars, &mut Numbers::new(seed + 1));
            assert!(
                found > highest - 1e-5,
                "case {seed}: {found} where {highest} can be reached"
            );
        }
    }

    /// As C vanishes across the residual of a star without an error of its own, the likelihood rises without bound: no maximum is there.
    #[test]
    fn a_star_without_errors_does_not_make_the_scatter_vanish() {
        for seed in [6, 12, 29] {
            let mut numbers = Numbers::new(seed);
            let stars: Stars = (0..24)
                .map(|star| {
                    let variance: f64 = if star == 0 { 0.0 } else { 0.5 };
                    let size = (1.0 + variance).sqrt();
                    let residual = vec![size * numbers.normal(), size * numbers.normal()];
                    (residual, vec![variance, 0.0, 0.0, variance])
                })
                .collect();
            let found = held_out(&stars).intrinsic().unwrap();
            assert!(found.has_converged() && found.vanishing == 0, "case {seed}: {found:?}");
        }
    }
}
