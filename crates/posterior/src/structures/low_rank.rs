//! Leading eigenpairs and a diagonal: `P = D + U L U^T` with `D = remainder + delta`, inverted by Woodbury's identity.
//!
//! ```text
//! remainder = max(diag(H) - diag(U L U^T), 0)                       0 where U has all p columns
//! M         = I + L^1/2 U^T D^-1 U L^1/2 = C C^T                    [rank, rank]
//! P^-1      = D^-1 - Z Z^T,   Z = D^-1 U L^1/2 C^-T                 [p, rank]
//! ln det P  = sum ln D + ln det M
//! ```
//!
//! Everything is f64, the captures of a prediction included: `J D^-1 J^T` and `J Z Z^T J^T` are large where an eigenvalue is large beside D, and
//! their difference is what is left. The remainder is a difference of two sums over spectra: where U is whole it would be rounding alone, in f32
//! some 1e-7 of `diag(H)`, and decide under next to no prior. For dense layers `J Z` needs no Jacobian: it is `sum_o g_ko (Z_o^T [a; 1])`.

use fisherflow_curvature::{BlockPlan, Matrix};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::labels::small::cholesky;
use crate::product::{dot, product, rows};
use crate::structures::block_info::{Certificate, LowRankFacts};
use crate::structures::cancellation::is_lost;
use crate::structures::captures::{Sides, Wanted};
use crate::structures::contraction;
use crate::structures::elements::check_vector;
use crate::{BlockInfo, Factor, NamedMatrix, PosteriorError, Precision, Probe};

/// Bytes that the products of some spectra with Z may take.
const PRODUCT_BYTES: usize = 64 << 20;

/// A curvature's leading eigenpairs, and its diagonal.
pub(crate) struct Parts {
    /// `U`, `[p, rank]`.
    pub eigenvectors: Matrix,
    /// `L`; from rounding some may be below 0.
    pub eigenvalues: Vec<f64>,
    /// `|H u - lambda u|`.
    pub residuals: Vec<f64>,
    /// `diag(H)`, `[p]`.
    pub diagonal: Vec<f64>,
}

/// The inverse of a diagonal plus leading eigenpairs.
pub(crate) struct LowRankPrecision {
    plan: BlockPlan,
    info: BlockInfo,
    /// `D^-1`, `[p]`.
    inverse: Vec<f64>,
    /// `Z`, `[p, rank]`.
    correction: Matrix,
    threads: usize,
}

impl LowRankPrecision {
    /// Adds the prior and inverts.
    pub(crate) fn with_prior(
        plan: &BlockPlan,
        n_spectra: u64,
        parts: Parts,
        prior_precision: f64,
        threads: usize,
    ) -> Result<Self, PosteriorError> {
        let Parts {
            eigenvectors: u,
            mut eigenvalues,
            residuals,
            diagonal,
        } = parts;
        let rank = eigenvalues.len();
        let trace: f64 = diagonal.iter().sum();
        let scale = eigenvalues.first().copied().unwrap_or(0.0).max(0.0);
        let mut clipped = Clipped::default();
        for value in &mut eigenvalues {
            clipped.at_zero(value, scale);
        }
        let largest = diagonal.iter().copied().fold(0.0, f64::max);
        let mut d = diagonal;
        let holds_all = rank == d.len();
        for (weight, d) in d.iter_mut().enumerate() {
            let u = &u.values[weight * rank..][..rank];
            let held: f64 = u.iter().zip(&eigenvalues).map(|(u, value)| u * u * value).sum();
            *d = if holds_all { 0.0 } else { *d - held };
            clipped.at_zero(d, largest);
            *d += prior_precision;
        }
        let least = d.iter().copied().fold(f64::INFINITY, f64::min);
        let most = d.iter().copied().fold(0.0, f64::max);
        let singular = || PosteriorError::SingularSpectrum {
            block: plan.name(),
            prior_precision,
            smallest: least,
            largest: most + scale,
        };
        if least < f64::MIN_POSITIVE {
            return Err(singular());
        }
        // x = D^-1 U L^1/2, and w = D^-1/2 U L^1/2
        let mut x = u.values;
        let mut w = x.clone();
        for ((x, w), d) in x
            .chunks_exact_mut(rank.max(1))
            .zip(w.chunks_exact_mut(rank.max(1)))
            .zip(&d)
        {
            for ((x, w), value) in x.iter_mut().zip(w).zip(&eigenvalues) {
                *x *= value.sqrt() / d;
                *w *= value.sqrt() / d.sqrt();
            }
        }
        let w_rows = rows(&w, d.len(), rank);
        let mut m = product(w_rows.transpose(), w_rows, threads);
        drop(w);
        for i in 0..rank {
            m[i * rank + i] += 1.0;
        }
        let factor = cholesky(&m, rank).ok_or_else(singular)?;
        let log_det_m = 2.0 * (0..rank).map(|i| factor[i * rank + i].ln()).sum::<f64>();
        for row in x.chunks_exact_mut(rank.max(1)) {
            for i in 0..rank {
                let known = dot(&factor[i * rank..i * rank + i], &row[..i]);
                row[i] = (row[i] - known) / factor[i * rank + i];
            }
        }
        let log_det = d.iter().map(|d| d.ln()).sum::<f64>() + log_det_m;
        let inverse: Vec<f64> = d.iter().map(|d| 1.0 / d).collect();
        let correction = Matrix {
            rows: d.len(),
            cols: rank,
            values: x,
        };
        let variances = variances(&inverse, &correction);
        if variances.iter().zip(&inverse).any(|(v, d)| is_lost(*v, *d)) {
            return Err(singular());
        }
        let p = d.len() as f64;
        let certificate = Certificate {
            log_det,
            effective_parameters: p - prior_precision * variances.iter().sum::<f64>(),
            eigenvalues: None,
            condition: (most + scale) / least,
            clipped_eigenvalues: clipped.n,
            most_negative_eigenvalue: clipped.most_negative,
        };
        let mut info = BlockInfo::new(plan, n_spectra, prior_precision, certificate);
        info.low_rank = Some(LowRankFacts {
            rank: rank as u64,
            largest_eigenvalue: scale,
            smallest_eigenvalue: eigenvalues.last().copied().unwrap_or(0.0),
            largest_residual: residuals.iter().copied().fold(0.0, f64::max),
            trace_share: if trace > 0.0 {
                eigenvalues.iter().sum::<f64>() / trace
            } else {
                0.0
            },
        });
        Ok(Self::new(plan, inverse, correction, info, threads))
    }

    /// From an inverse that was computed before.
    pub(crate) fn new(
        plan: &BlockPlan,
        inverse: Vec<f64>,
        correction: Matrix,
        info: BlockInfo,
        threads: usize,
    ) -> Self {
        Self {
            plan: plan.clone(),
            info,
            inverse,
            correction,
            threads,
        }
    }

    /// `J D^-1 J^T` of a layer, `[batch, K, K]`, whose weights begin at `start`.
    fn diagonal_part(&self, sides: &Sides<f64>, start: usize) -> Vec<f64> {
        let (inputs, outputs) = widths(sides);
        let own = &self.inverse[start..start + inputs * outputs];
        let by_input: Vec<f64> = (0..inputs * outputs)
            .map(|at| own[at % outputs * inputs + at / outputs])
            .collect();
        contraction::covariance(sides, &by_input, self.threads)
    }

    /// Adds a layer's part of `J Z` to `jz: [batch, K, rank]`.
    fn add_jz(&self, sides: &Sides<f64>, start: usize, jz: &mut [f64]) {
        let rank = self.correction.cols;
        let (inputs, outputs) = widths(sides);
        let own = &self.correction.values[start * rank..(start + inputs * outputs) * rank];
        let mut by_input = Vec::with_capacity(own.len()); // [columns, out, rank]
        for i in 0..inputs {
            for o in 0..outputs {
                by_input.extend_from_slice(&own[(o * inputs + i) * rank..][..rank]);
            }
        }
        let positions = sides.batch * sides.shared;
        let at_once = (PRODUCT_BYTES / (8 * outputs * rank).max(1)).clamp(1, positions.max(1));
        for first in (0..positions).step_by(at_once) {
            let n = at_once.min(positions - first);
            let through = product(
                rows(&sides.input[first * inputs..(first + n) * inputs], n, inputs),
                rows(&by_input, inputs, outputs * rank),
                self.threads,
            );
            for (position, through) in (first..).zip(through.chunks_exact(outputs * rank)) {
                let spectrum = position / sides.shared;
                for k in 0..sides.n_outputs {
                    let grad = &sides.grad[(k * positions + position) * outputs..][..outputs];
                    let sums = &mut jz[(spectrum * sides.n_outputs + k) * rank..][..rank];
                    for (g, row) in grad.iter().zip(through.chunks_exact(rank)) {
                        for (sum, z) in sums.iter_mut().zip(row) {
                            *sum += g * z;
                        }
                    }
                }
            }
        }
    }
}

/// `(columns, out)` of a layer.
fn widths(sides: &Sides<f64>) -> (usize, usize) {
    let positions = sides.batch * sides.shared;
    (
        sides.input.len() / positions.max(1),
        sides.grad.len() / (positions * sides.n_outputs).max(1),
    )
}

impl Precision for LowRankPrecision {
    fn solve(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError> {
        let (p, rank) = (self.correction.rows, self.correction.cols);
        check_vector(&self.info, v)?;
        let mut solved: Vec<f64> = v.iter().zip(&self.inverse).map(|(v, inverse)| v * inverse).collect();
        if rank > 0 {
            let z = rows(&self.correction.values, p, rank);
            let along = product(rows(v, 1, p), z, self.threads);
            for (solved, z) in solved.iter_mut().zip(self.correction.values.chunks_exact(rank)) {
                *solved -= dot(z, &along);
            }
        }
        Ok(solved)
    }

    fn covariance_of(&self, captures: &[LayerCapture]) -> Result<Vec<f64>, PosteriorError> {
        let rank = self.correction.cols;
        let (mut covariance, mut jz) = (Vec::new(), Vec::new());
        let (mut start, mut size) = (0, (0, 0));
        for (&index, shape) in self.plan.layers.iter().zip(&self.plan.shapes) {
            let wanted = Wanted { index, shape };
            let sides = wanted.sides::<f64>(wanted.find(captures)?)?;
            if start == 0 {
                size = (sides.n_outputs, sides.batch);
                jz = vec![0.0; sides.batch * sides.n_outputs * rank];
                covariance = vec![0.0; sides.batch * sides.n_outputs * sides.n_outputs];
            } else if size != (sides.n_outputs, sides.batch) {
                return Err(PosteriorError::Shape {
                    what: format!("outputs and spectra of the capture of layer {}", shape.name),
                    expected: vec![size.0, size.1],
                    found: vec![sides.n_outputs, sides.batch],
                });
            }
            if rank > 0 {
                self.add_jz(&sides, start, &mut jz);
            }
            let part = self.diagonal_part(&sides, start);
            covariance.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            start += shape.n_weights();
        }
        let k = size.0;
        for (covariance, jz) in covariance
            .chunks_exact_mut((k * k).max(1))
            .zip(jz.chunks_exact((k * rank).max(1)))
        {
            for i in 0..k {
                for j in 0..=i {
                    let along = dot(&jz[i * rank..(i + 1) * rank], &jz[j * rank..(j + 1) * rank]);
                    let value = covariance[i * k + j] - along;
                    if i == j && covariance[i * k + i] > 0.0 && is_lost(value, covariance[i * k + i]) {
                        return Err(PosteriorError::Cancelled {
                            block: self.plan.name(),
                            prior_precision: self.info.prior_precision,
                            condition: self.info.condition,
                            value,
                        });
                    }
                    covariance[i * k + j] = value;
                    covariance[j * k + i] = value;
                }
            }
        }
        Ok(covariance)
    }

    fn marginal_variance(&self) -> Result<Vec<Matrix>, PosteriorError> {
        let all = variances(&self.inverse, &self.correction);
        let mut rest = all.into_iter();
        let of_layer = |shape: &DenseShape| Matrix {
            rows: shape.outputs,
            cols: shape.columns(),
            values: rest.by_ref().take(shape.n_weights()).collect(),
        };
        Ok(self.plan.shapes.iter().map(of_layer).collect())
    }

    fn inverse_matrices(&self) -> Result<Vec<NamedMatrix>, PosteriorError> {
        let name = self.plan.name();
        Ok(vec![
            NamedMatrix::new(&name, Factor::Diagonal, one_row(&self.inverse)),
            NamedMatrix::new(&name, Factor::LowRank, self.correction.clone()),
        ])
    }

    /// None: what this block answers with is not H, so that H tells nothing of its arithmetic.
    fn probes(&self, _plan: &BlockPlan, _stars: &[LayerCapture]) -> Result<Vec<Probe>, PosteriorError> {
        Ok(Vec::new())
    }

    fn info(&self) -> &BlockInfo {
        &self.info
    }
}

/// Values as a matrix of one row.
pub(crate) fn one_row(values: &[f64]) -> Matrix {
    Matrix {
        rows: 1,
        cols: values.len(),
        values: values.to_vec(),
    }
}

/// The diagonal of `D^-1 - Z Z^T`.
fn variances(inverse: &[f64], correction: &Matrix) -> Vec<f64> {
    let rank = correction.cols;
    if rank == 0 {
        return inverse.to_vec();
    }
    let rows = correction.values.chunks_exact(rank);
    inverse.iter().zip(rows).map(|(d, z)| d - dot(z, z)).collect()
}

/// What was below 0 and is 0 now.
#[derive(Default)]
struct Clipped {
    n: u64,
    /// Relative to the largest of its kind.
    most_negative: f64,
}

impl Clipped {
    fn at_zero(&mut self, value: &mut f64, largest: f64) {
        if *value < 0.0 {
            self.n += 1;
            self.most_negative = self.most_negative.min(*value / largest.max(f64::MIN_POSITIVE));
            *value = 0.0;
        }
    }
}
