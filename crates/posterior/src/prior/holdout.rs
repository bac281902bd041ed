//! The prior precision that makes held-out stars likely: `"holdout"`.
//!
//! The weights' part `W_n(delta)` of a held-out star shrinks as `delta` grows, and differently from star to star. For every `delta` of a
//! grid the scatter C beyond the photons' part, the weights' part and the labels' own errors is fitted by maximum likelihood, one for each
//! cell of label space as the error bars have it (cells with few stars have that of all), and
//!
//! ```text
//! ln likelihood(delta) = sum over cells, max over C of  sum_n ln N(r_n; 0, C + W_n(delta) + K_n)
//! ```
//!
//! is the profile whose maximum is taken: at the vertex of the parabola in `ln delta` through the best point and its neighbours. What the
//! evidence takes for granted (that the weights were drawn from the prior, that the structure is exact) plays no part here; but it
//! looks at held-out stars alone, so pulls over those are no independent test any more.
//!
//! Precisions whose log likelihood is within 2 of the best (two standard deviations) are those that the stars cannot tell from it. Where these reach
//! an end of the grid the likelihood is flat: too few stars, or a weights' part that is small beside the rest. Then the one of them
//! nearest to the evidence's is taken, which the stars do not contradict. Within the grid an end of theirs lies between two points: where
//! the root of the fall below the best, interpolated linearly in `ln delta`, is that of 2; exact where the profile is a parabola.

use serde::{Deserialize, Serialize};

use crate::labels::cells::scatter_by_cell;
use crate::labels::held_out::retain_rows;
use crate::labels::scatter::INDISTINCT;
use crate::shape_checks::{check_batch, check_covariances, check_merge};
use crate::{HeldOutStars, KnownParts, PosteriorError, PullSums, or_null};

/// Points of the grid in a decade.
const PER_DECADE: f64 = 4.0;

/// Decades below the evidence's optimum at which the grid begins.
const DECADES_BELOW: f64 = 4.0;

/// Decades above it at which the grid ends.
const DECADES_ABOVE: f64 = 6.0;

/// Fewest held-out stars that say anything of a scatter.
const FEWEST: u64 = 2;

/// Held-out stars with the weights' part of each at every prior precision of a grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScannedStars {
    n_priors: usize,
    /// Their weights' part is 0.
    stars: HeldOutStars,
    /// `[n, n_priors, K, K]`.
    weights: Vec<f64>,
}

/// The prior precision that held-out stars ask for, and the curve it is the maximum of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldoutPrior {
    /// `delta`, in normalised label units, on the scale of the sum over spectra.
    pub prior_precision: f64,
    /// The profile log likelihood of the best point, at the vertex of its parabola where that is taken.
    #[serde(with = "or_null")]
    pub log_likelihood: f64,
    /// `gamma` at `prior_precision`, over the blocks that have it.
    pub effective_parameters: f64,
    /// First and last precision that the stars cannot tell from the best: where the profile is 2 below it, or where the grid ends before.
    pub indistinct: (f64, f64),
    /// Whether these reach an end of the grid: then `prior_precision` is the one of them nearest to the evidence's.
    pub flat: bool,
    /// Whether the best point is an end of the grid.
    pub at_edge: bool,
    /// Number of held-out stars.
    pub n_spectra: u64,
    /// The grid, ascending.
    pub curve: Vec<HoldoutPoint>,
}

/// One prior precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldoutPoint {
    /// `delta`.
    pub prior_precision: f64,
    /// Profile log likelihood; minus infinity where a star's covariance is none.
    #[serde(with = "or_null")]
    pub log_likelihood: f64,
    /// `gamma`, over the blocks that have it.
    pub effective_parameters: f64,
    /// Standard deviation of each label's pulls with the scatter C of each star's cell, `[K]`; NaN where fewer than two stars have any.
    #[serde(with = "or_null::each")]
    pub pull_std: Vec<f64>,
    /// The same without it: what photons, weights and the labels' own errors alone explain.
    #[serde(with = "or_null::each")]
    pub pull_std_without: Vec<f64>,
}

/// The grid about the evidence's optimum: `10^(k / 4)`, from 10^4 times below to 10^6 times above it, all above the `rounding` of every
/// block ([`Spectrum::rounding`](crate::Spectrum::rounding)).
#[must_use]
pub fn holdout_grid(evidence: f64, rounding: f64) -> Vec<f64> {
    let first = (PER_DECADE * (evidence.log10() - DECADES_BELOW)).floor() as i64;
    let last = (PER_DECADE * (evidence.log10() + DECADES_ABOVE)).ceil() as i64;
    let seen = if rounding > 0.0 {
        (PER_DECADE * rounding.log10()).floor() as i64 + 1
    } else {
        first
    };
    (first.max(seen)..=last.max(seen))
        .map(|k| 10_f64.powf(k as f64 / PER_DECADE))
        .collect()
}

impl ScannedStars {
    /// No stars yet.
    #[must_use]
    pub fn new(n_labels: usize, n_priors: usize) -> Self {
        Self {
            n_priors,
            stars: HeldOutStars::new(n_labels),
            weights: Vec::new(),
        }
    }

    /// Adds stars: as [`HeldOutStars::push`], with the weights' part at every prior precision, `weights: [n_priors, n, K, K]`, in place of
    /// the one of `known`.
    ///
    /// # Errors
    /// If the sizes do not agree.
    pub fn push(&mut self, residual: &[f64], known: KnownParts<'_>, weights: &[f64]) -> Result<(), PosteriorError> {
        let k = self.stars.n_labels();
        let (square, n) = (k * k, check_batch("residuals", residual, k)?);
        for (what, part) in [
            ("flux covariances", known.flux),
            ("label covariances", known.label_covariance),
        ] {
            if let Some(part) = part {
                check_covariances(what, part, n, k)?;
            }
        }
        if weights.len() != self.n_priors * n * square {
            return Err(PosteriorError::Shape {
                what: "weight covariances at every prior precision".to_owned(),
                expected: vec![self.n_priors, n, k, k],
                found: vec![weights.len()],
            });
        }
        for star in 0..n {
            let at = |prior: usize| (prior * n + star) * square..(prior * n + star + 1) * square;
            let of_star: Vec<f64> = (0..self.n_priors)
                .flat_map(|prior| &weights[at(prior)])
                .copied()
                .collect();
            let part = |part: Option<&'_ [f64]>| part.map(|p| p[star * square..(star + 1) * square].to_vec());
            let (flux, own) = (part(known.flux), part(known.label_covariance));
            let finite = of_star.iter().all(|v| v.is_finite());
            let of_residual: Vec<f64> = residual[star * k..(star + 1) * k]
                .iter()
                .map(|r| if finite { *r } else { f64::NAN })
                .collect();
            let before = self.stars.n_spectra();
            let known = KnownParts {
                flux: flux.as_deref(),
                weights: None,
                label_covariance: own.as_deref(),
            };
            self.stars.push(&of_residual, known)?;
            if self.stars.n_spectra() > before {
                self.weights.extend(of_star);
            }
        }
        Ok(())
    }

    /// Adds other stars, after these.
    ///
    /// # Errors
    /// If they are of another number of labels or prior precisions.
    pub fn merge(&mut self, other: &Self) -> Result<(), PosteriorError> {
        check_merge("scans", self.n_priors, other.n_priors)?;
        self.stars.merge(&other.stars)?;
        self.weights.extend_from_slice(&other.weights);
        Ok(())
    }

    /// Leaves out the stars of which nothing can be learnt beside the residuals of all cells, as [`HeldOutStars::leave_out_overwhelmed`].
    ///
    /// # Errors
    /// If cells are of different numbers of labels.
    pub fn leave_out_overwhelmed(by_cell: &mut [Self]) -> Result<(), PosteriorError> {
        let k = n_labels(by_cell);
        let rms = HeldOutStars::merged(k, by_cell.iter().map(|cell| &cell.stars))?.residual_rms();
        for cell in by_cell {
            let keeps = cell.stars.not_overwhelmed(&rms);
            retain_rows(&mut cell.weights, &keeps, cell.n_priors * k * k);
            cell.stars.retain(&keeps);
        }
        Ok(())
    }

    /// The stars at one prior precision of the grid.
    fn at(&self, prior: usize) -> Result<HeldOutStars, PosteriorError> {
        let square = self.stars.n_labels() * self.stars.n_labels();
        let rows = self.weights.chunks_exact((self.n_priors * square).max(1));
        let own = rows.flat_map(|row| &row[prior * square..(prior + 1) * square]);
        self.stars.with_weights(own.copied().collect())
    }
}

fn n_labels(by_cell: &[ScannedStars]) -> usize {
    by_cell.first().map_or(0, |cell| cell.stars.n_labels())
}

/// Maximises the profile likelihood of held-out stars, cell by cell, over the grid of prior precisions that they were scanned at, ascending;
/// `evidence` is the precision that the evidence takes, `effective_parameters` the sum of `gamma` over the blocks that have a precision of the grid.
///
/// # Errors
/// If there are fewer than two stars, or the grid is not the scan's.
pub fn prior_by_holdout(
    by_cell: &[ScannedStars],
    grid: &[f64],
    evidence: f64,
    effective_parameters: impl Fn(f64) -> f64,
) -> Result<HoldoutPrior, PosteriorError> {
    let n_spectra: u64 = by_cell.iter().map(|cell| cell.stars.n_spectra()).sum();
    if n_spectra == 0 {
        return Err(PosteriorError::NoResiduals {
            skipped: by_cell.iter().map(|cell| cell.stars.skipped()).sum(),
        });
    }
    if n_spectra < FEWEST {
        return Err(PosteriorError::FewResiduals {
            n: n_spectra,
            n_labels: n_labels(by_cell),
        });
    }
    for cell in by_cell {
        check_merge("prior precisions of a scan", cell.n_priors, grid.len())?;
    }
    let curve = grid
        .iter()
        .enumerate()
        .map(|(at, &delta)| {
            let cells: Result<Vec<_>, _> = by_cell.iter().map(|cell| cell.at(at)).collect();
            point(n_labels(by_cell), &cells?, delta, effective_parameters(delta))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let best = (0..curve.len())
        .max_by(|&a, &b| curve[a].log_likelihood.total_cmp(&curve[b].log_likelihood))
        .unwrap_or(0);
    let last = curve.len() - 1;
    let profile: Vec<(f64, f64)> = curve
        .iter()
        .map(|point| (point.prior_precision.ln(), point.log_likelihood))
        .collect();
    let reaches = |end: &[(f64, f64)]| end.iter().all(|point| point.1 >= profile[best].1 - INDISTINCT);
    let flat = reaches(&profile[..=best]) || reaches(&profile[best..]);
    let top = if flat {
        profile[best]
    } else {
        vertex([profile[best - 1], profile[best], profile[best + 1]])
    };
    let (from, to) = indistinct(&profile, top);
    let ends = (from.map_or(grid[0], f64::exp), to.map_or(grid[last], f64::exp));
    let prior_precision = if flat {
        evidence.clamp(ends.0, ends.1)
    } else {
        top.0.exp()
    };
    Ok(HoldoutPrior {
        prior_precision,
        log_likelihood: top.1,
        effective_parameters: effective_parameters(prior_precision),
        indistinct: ends,
        flat,
        at_edge: best == 0 || best == last,
        n_spectra,
        curve,
    })
}

/// The profile likelihood and pulls of one prior precision.
fn point(
    k: usize,
    by_cell: &[HeldOutStars],
    delta: f64,
    effective_parameters: f64,
) -> Result<HoldoutPoint, PosteriorError> {
    let scatter = scatter_by_cell(k, by_cell)?;
    let spread = |scatter: &[Vec<f64>]| -> Result<Vec<f64>, PosteriorError> {
        let mut sums = PullSums::new(k);
        for (stars, scatter) in by_cell.iter().zip(scatter) {
            stars.pulls(scatter, &mut sums)?;
        }
        let pulls = sums.pulls();
        Ok((0..k)
            .map(|label| pulls.as_ref().map_or(f64::NAN, |pulls| pulls[label].standard_deviation))
            .collect())
    };
    Ok(HoldoutPoint {
        prior_precision: delta,
        log_likelihood: by_cell
            .iter()
            .zip(&scatter)
            .map(|(stars, scatter)| stars.log_likelihood(scatter))
            .sum(),
        effective_parameters,
        pull_std: spread(&scatter)?,
        pull_std_without: spread(&vec![vec![0.0; k * k]; by_cell.len()])?,
    })
}

/// Where a profile of points `(x, y)`, ascending in `x`, falls [`INDISTINCT`] below its `top` on either side; `None` where it ends before.
fn indistinct(profile: &[(f64, f64)], top: (f64, f64)) -> (Option<f64>, Option<f64>) {
    let below = profile.iter().rev().filter(|point| point.0 < top.0);
    let above = profile.iter().filter(|point| point.0 > top.0);
    (falls(top, below), falls(top, above))
}

/// The `x` at which points from the `top` on outwards have fallen by [`INDISTINCT`].
fn falls<'a>(top: (f64, f64), outwards: impl Iterator<Item = &'a (f64, f64)>) -> Option<f64> {
    // The root of the fall is linear in x where the profile is a parabola about its top.
    let (mut inner, root) = ((top.0, 0.0), INDISTINCT.sqrt());
    for &(x, y) in outwards {
        let outer = (x, (top.1 - y).max(0.0).sqrt());
        if outer.1 > root {
            return Some(inner.0 + (outer.0 - inner.0) * (root - inner.1) / (outer.1 - inner.1));
        }
        inner = outer;
    }
    None
}

/// `x` and `y` at the vertex of the parabola through three points of which the middle one is highest.
fn vertex([left, middle, right]: [(f64, f64); 3]) -> (f64, f64) {
    let (to_left, to_right) = (middle.0 - left.0, right.0 - middle.0);
    let (rise, fall) = ((middle.1 - left.1) / to_left, (right.1 - middle.1) / to_right);
    let bend = (rise - fall) / (to_left + to_right);
    if bend.is_nan() || bend <= 0.0 || bend.is_infinite() {
        return middle;
    }
    let slope = (rise * to_right + fall * to_left) / (to_left + to_right);
    let step = slope / (2.0 * bend);
    (middle.0 + step, middle.1 + slope * step / 2.0)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use fisherflow_curvature::{BlockCurvature, CurvatureForm, StructureKind};

    use super::*;
    use crate::brute_force::{Mlp, Numbers, gram, inverse, with_prior};
    use crate::factor;
    use crate::structures::cases::{matrix, plan};

    const INPUTS: usize = 40;
    const NOISE: f64 = 0.3;

    /// A linear model whose weights are drawn from a prior of precision `delta`, its posterior from a few spectra, and the scan and
    /// residuals of `n` others.
    fn linear_gaussian(delta: f64, n: usize, numbers: &mut Numbers) -> (ScannedStars, Vec<f64>, f64) {
        let mlp = Mlp::random(&[INPUTS, 1], 3);
        // Spectra of very different sizes: their weights' parts differ as much, and the scatter cannot take their place.
        let mut spectra = |n: usize| -> Vec<f64> {
            let size = |star: usize| 2.0_f64.powi((star % 7) as i32 - 4);
            (0..n * INPUTS).map(|i| size(i / INPUTS) * numbers.normal()).collect()
        };
        let (training, held_out) = (spectra(25), spectra(n));
        let p = INPUTS + 1;
        let truth: Vec<f64> = (0..p).map(|_| numbers.normal() / delta.sqrt()).collect();
        let mut labels = |rows: &[Vec<f64>]| -> Vec<f64> {
            rows.iter()
                .map(|row| row.iter().zip(&truth).map(|(a, w)| a * w).sum::<f64>() + NOISE * numbers.normal())
                .collect()
        };
        let rows = mlp.jacobian(&training, &[0]);
        let seen = labels(&rows);
        let h: Vec<f64> = gram(&rows).iter().map(|v| v / (NOISE * NOISE)).collect();
        let (covariance, _) = inverse(&with_prior(h.clone(), delta));
        let gradient: Vec<f64> = (0..p)
            .map(|i| rows.iter().zip(&seen).map(|(row, y)| row[i] * y).sum::<f64>() / (NOISE * NOISE))
            .collect();
        let mean: Vec<f64> = covariance
            .chunks_exact(p)
            .map(|row| row.iter().zip(&gradient).map(|(c, g)| c * g).sum())
            .collect();
        let unseen = mlp.jacobian(&held_out, &[0]);
        let residuals: Vec<f64> = labels(&unseen)
            .iter()
            .zip(&unseen)
            .map(|(y, row)| y - row.iter().zip(&mean).map(|(a, m)| a * m).sum::<f64>())
            .collect();
        let block = plan(&mlp, StructureKind::Block, &[0]);
        let curvature = BlockCurvature {
            n_spectra: 25,
            form: CurvatureForm::Dense(matrix(p, h)),
        };
        let scan = factor(&block, curvature, 1).unwrap().prior_scan(DType::F64, 1).unwrap();
        let grid = holdout_grid(10.0 * delta, 0.0);
        let weights = scan.covariance_at(&mlp.captures(&held_out, DType::F64), &grid).unwrap();
        let mut stars = ScannedStars::new(1, grid.len());
        stars.push(&residuals, KnownParts::default(), &weights).unwrap();
        (stars, grid, scan.spectrum().effective_parameters(delta))
    }

    #[test]
    fn the_prior_that_the_truth_was_drawn_from_is_found() {
        let (delta, repetitions) = (2.0, 40);
        let mut numbers = Numbers::new(91);
        let (mut logs, mut pulls) = (Vec::new(), Vec::new());
        let mut undetermined = 0.0;
        for _ in 0..repetitions {
            let (stars, grid, gamma) = linear_gaussian(delta, 800, &mut numbers);
            let found = prior_by_holdout(&[stars], &grid, 10.0 * delta, |_| 0.0).unwrap();
            assert!(!found.flat && !found.at_edge);
            logs.push((found.prior_precision / delta).ln());
            let nearest = found
                .curve
                .iter()
                .min_by(|a, b| {
                    let away = |point: &HoldoutPoint| (point.prior_precision / found.prior_precision).ln().abs();
                    away(a).total_cmp(&away(b))
                })
                .unwrap();
            pulls.push(nearest.pull_std[0]);
            undetermined = (INPUTS + 1) as f64 - gamma;
        }
        let n = f64::from(repetitions);
        let mean = logs.iter().sum::<f64>() / n;
        let spread = (logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        // One draw of the weights tells their variance from the directions that the training leaves open: to sqrt(2 / number) at best.
        let best = (2.0 / undetermined).sqrt();
        println!("mean of ln(found / true) {mean:.3}, spread {spread:.3}, at best {best:.3}");
        assert!(spread < 1.5 * best, "{spread} against {best}");
        assert!(mean.abs() < 4.0 * best / n.sqrt(), "{mean} +- {}", spread / n.sqrt());
        assert!(pulls.iter().all(|std| (0.9..1.1).contains(std)), "{pulls:?}");
    }

    /// The state of a stage holds the curve, and a run that goes on reads it.
    #[test]
    fn a_point_without_a_likelihood_is_read_back() {
        let point = HoldoutPoint {
            prior_precision: 1.0,
            log_likelihood: f64::NEG_INFINITY,
            effective_parameters: 2.0,
            pull_std: vec![f64::NAN, 1.5],
            pull_std_without: vec![1.0, 1.5],
        };
        let read: HoldoutPoint = serde_json::from_str(&serde_json::to_string(&point).unwrap()).unwrap();
        assert!(read.log_likelihood.is_nan() && read.pull_std[0].is_nan());
        assert_eq!((read.pull_std[1], read.pull_std_without), (1.5, vec![1.0, 1.5]));
    }

    #[test]
    fn groups_merge_and_stars_without_a_value_are_left_out() {
        let mut numbers = Numbers::new(92);
        let (stars, grid, _) = linear_gaussian(1.0, 30, &mut numbers);
        let (residual, n) = ([1.0, f64::NAN, 2.0, 0.5], grid.len());
        let weights: Vec<f64> = (0..n * 4).map(|i| if i == 3 { f64::NAN } else { i as f64 }).collect();
        let mut merged = stars.clone();
        let mut more = ScannedStars::new(1, n);
        more.push(&residual, KnownParts::default(), &weights).unwrap();
        assert_eq!((more.stars.n_spectra(), more.stars.skipped()), (2, 2));
        // Stars 0 and 2 of 4, at the second prior precision.
        assert_eq!(more.at(1).unwrap().means().weights, [(4.0 + 6.0) / 2.0]);
        merged.merge(&more).unwrap();
        assert_eq!(merged.stars.n_spectra(), 32);
        assert!(more.push(&residual, KnownParts::default(), &weights[1..]).is_err());
        let short = KnownParts {
            flux: Some(&[1.0]),
            ..KnownParts::default()
        };
        assert!(more.push(&residual, short, &weights).is_err());
        assert!(matches!(
            prior_by_holdout(&[ScannedStars::new(1, n)], &grid, 1.0, |_| 0.0),
            Err(PosteriorError::NoResiduals { .. })
        ));
    }

    #[test]
    fn where_the_stars_cannot_tell_the_evidence_stays_unless_they_contradict_it() {
        // The weights' part is 1 / delta for every star, and the scatter takes what is left of a variance of 1: any delta above 1 does.
        let grid = holdout_grid(10.0, 0.0);
        let mut stars = ScannedStars::new(1, grid.len());
        let weights: Vec<f64> = grid.iter().flat_map(|delta| vec![1.0 / delta; 100]).collect();
        let residuals: Vec<f64> = (0..100).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        stars.push(&residuals, KnownParts::default(), &weights).unwrap();
        let within = prior_by_holdout(std::slice::from_ref(&stars), &grid, 10.0, |delta| delta).unwrap();
        assert!(within.flat);
        assert_eq!((within.prior_precision, within.effective_parameters), (10.0, 10.0));
        assert!((0.5..1.5).contains(&within.indistinct.0) && within.indistinct.1 == *grid.last().unwrap());
        // An evidence of 0.01 would make error bars ten times too large: the nearest that the stars allow.
        let against = prior_by_holdout(std::slice::from_ref(&stars), &grid, 0.01, |_| 0.0).unwrap();
        assert_eq!(against.prior_precision, against.indistinct.0);
        for point in &within.curve {
            if point.prior_precision > 1.0 {
                assert!((point.pull_std[0] - 1.005).abs() < 1e-3, "{point:?}");
            }
            let alone = (point.prior_precision * 100.0 / 99.0).sqrt();
            assert!((point.pull_std_without[0] / alone - 1.0).abs() < 1e-12);
        }
    }

    /// Stars of residuals `+- sqrt(s / truth)` and a weights' part of `s / delta`: no scatter is left at any delta below `truth`.
    fn sized(n: usize, truth: f64) -> (ScannedStars, Vec<f64>) {
        let grid = holdout_grid(10.0, 0.0);
        let size = |star: usize| 4.0_f64.powi((star % 5) as i32);
        let sign = |star: usize| if star.is_multiple_of(2) { 1.0 } else { -1.0 };
        let residuals: Vec<f64> = (0..n).map(|star| sign(star) * (size(star) / truth).sqrt()).collect();
        let part = |delta: f64| (0..n).map(move |star| size(star) / delta);
        let weights: Vec<f64> = grid.iter().flat_map(|&delta| part(delta)).collect();
        let mut stars = ScannedStars::new(1, grid.len());
        stars.push(&residuals, KnownParts::default(), &weights).unwrap();
        (stars, grid)
    }

    #[test]
    fn the_indistinct_are_those_within_2_of_the_best_likelihood() {
        let truth = 1.3;
        let (stars, grid) = sized(12, truth);
        let found = prior_by_holdout(&[stars], &grid, 10.0, |_| 0.0).unwrap();
        // Where no scatter is left: -1/2 sum ln(2 pi s / delta) + delta / truth.
        let logs: f64 = (0..12).map(|star| f64::from(star % 5) * 4.0_f64.ln()).sum();
        let no_scatter = |delta: f64| {
            let each = (std::f64::consts::TAU / delta).ln() + delta / truth;
            -0.5 * (12.0 * each + logs)
        };
        for point in found.curve.iter().filter(|point| point.prior_precision < truth) {
            let expected = no_scatter(point.prior_precision);
            assert!(
                (point.log_likelihood / expected - 1.0).abs() < 1e-6,
                "{point:?} {expected}"
            );
        }
        let below = |point: &HoldoutPoint| found.log_likelihood - point.log_likelihood;
        assert!(found.curve.iter().any(|point| (1.0..2.0).contains(&below(point))));
        let (from, to) = found.indistinct;
        for point in &found.curve {
            let within = (from..=to).contains(&point.prior_precision);
            assert_eq!(within, below(point) <= 2.0, "{point:?}");
        }
        // The lower end is between two points, and there the likelihood itself is 2 below.
        assert!(grid.iter().all(|delta| *delta != from && *delta != to));
        let fall = found.log_likelihood - no_scatter(from);
        assert!((fall - 2.0).abs() < 0.1, "{fall}");
        assert!(!found.flat && !found.at_edge);
    }

    /// Cool stars with residuals of 0.05 and hot ones with residuals of 1 and four times their weights' part, of whose size residuals show nothing: one
    /// scatter for both would be taken for a weights' part that explains the difference, and cool stars' error bars be ten times too large.
    #[test]
    fn cells_of_different_scatter_are_no_sign_of_a_large_weights_part() {
        let grid = holdout_grid(10.0, 0.0);
        let of_cell = |scatter: f64, size: f64| {
            let mut stars = ScannedStars::new(1, grid.len());
            let weights: Vec<f64> = grid.iter().flat_map(|delta| vec![size / delta; 60]).collect();
            let residuals: Vec<f64> = (0..60).map(|i| if i % 2 == 0 { scatter } else { -scatter }).collect();
            stars.push(&residuals, KnownParts::default(), &weights).unwrap();
            stars
        };
        let by_cell = [of_cell(0.05, 1.0), of_cell(1.0, 4.0)];
        let found = prior_by_holdout(&by_cell, &grid, 10.0, |_| 0.0).unwrap();
        assert!(found.flat && found.n_spectra == 120, "{found:?}");
        assert!(found.prior_precision.recip() < 1.5 * 0.05_f64.powi(2), "{found:?}");
        let mut merged = by_cell[0].clone();
        merged.merge(&by_cell[1]).unwrap();
        let pooled = prior_by_holdout(&[merged], &grid, 10.0, |_| 0.0).unwrap();
        assert!(pooled.prior_precision.recip() > 0.1, "{pooled:?}");
        // A cell with few stars has the scatter of all.
        let mut few = ScannedStars::new(1, grid.len());
        let weights: Vec<f64> = grid.iter().map(|delta| delta.recip()).collect();
        few.push(&[0.05], KnownParts::default(), &weights).unwrap();
        let with_few = prior_by_holdout(&[few, by_cell[1].clone()], &grid, 10.0, |_| 0.0).unwrap();
        let of_star = |square: f64, scatter: f64| -0.5 * ((std::f64::consts::TAU * scatter).ln() + square / scatter);
        let (cool, of_all) = (0.05 * 0.05, (60.0 + 0.05 * 0.05) / 61.0);
        let expected = 60.0 * of_star(1.0, 1.0) + of_star(cool, of_all);
        let found = with_few.curve.last().unwrap().log_likelihood;
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    }

    #[test]
    fn the_likeliest_is_among_those_as_good_and_a_best_end_is_said() {
        let (stars, grid) = sized(2000, 1.3);
        let found = prior_by_holdout(&[stars], &grid, 10.0, |_| 0.0).unwrap();
        assert!(grid.iter().all(|delta| *delta != found.prior_precision) && !found.flat);
        let (from, to) = found.indistinct;
        assert!(from < found.prior_precision && found.prior_precision < to, "{found:?}");
        // So many stars tell it from both of its neighbours in the grid.
        assert!((to / from).log10() < 1.0 / PER_DECADE, "{from} {to}");

        for (truth, end) in [(1e12, grid[grid.len() - 1]), (1e-12, grid[0])] {
            let found = prior_by_holdout(&[sized(50, truth).0], &grid, 10.0, |_| 0.0).unwrap();
            let best = found
                .curve
                .iter()
                .max_by(|a, b| a.log_likelihood.total_cmp(&b.log_likelihood));
            assert_eq!(found.at_edge, best.unwrap().prior_precision == end, "{truth}");
            assert!(found.at_edge || truth < 1.0);
        }
    }

    #[test]
    fn no_precision_is_tried_that_rounding_hides() {
        let all = holdout_grid(10.0, 0.0);
        assert!(all[0] <= 1e-3 && *all.last().unwrap() >= 1e7);
        let above = holdout_grid(10.0, 0.5);
        assert!((above[0] / 10_f64.powf(-0.25) - 1.0).abs() < 1e-12, "{}", above[0]);
        assert_eq!(above.last(), all.last());
        assert_eq!(above[..], all[all.len() - above.len()..]);
        assert_eq!(holdout_grid(10.0, 1e12).len(), 1);
    }

    #[test]
    fn a_parabola_gives_its_vertex_back() {
        let y = |x: f64| 3.0 - 0.7 * (x - 1.3).powi(2);
        let (at, height) = vertex([1.0, 1.2, 1.9].map(|x| (x, y(x))));
        assert!((at - 1.3).abs() < 1e-12 && (height - 3.0).abs() < 1e-12);
    }

    /// `y = 3 - c (x - 1.3)^2` falls by 2 at `1.3 +- sqrt(2 / c)`, wherever the points of the grid are.
    #[test]
    fn the_indistinct_of_a_parabola_end_between_the_points() {
        let profile = |c: f64, first: i32, last: i32| -> Vec<(f64, f64)> {
            let x = |k: i32| f64::from(k) * 10_f64.ln() / PER_DECADE;
            (first..=last).map(|k| (x(k), 3.0 - c * (x(k) - 1.3).powi(2))).collect()
        };
        // Many points within 2 of the top, one, and none.
        for c in [0.05, 0.7, 8.0, 500.0] {
            let half = (2.0_f64 / c).sqrt();
            let (from, to) = indistinct(&profile(c, -20, 20), (1.3, 3.0));
            for (found, expected) in [(from, 1.3 - half), (to, 1.3 + half)] {
                assert!((found.unwrap() - expected).abs() < 1e-12, "{c}: {found:?} {expected}");
            }
        }
        // It ends before it has fallen.
        assert_eq!(indistinct(&profile(0.05, 0, 4), (1.3, 3.0)), (None, None));
        assert_eq!(indistinct(&[(1.0, 3.0)], (1.0, 3.0)), (None, None));
    }
}
