//! A dense block: `P = H + delta I` by Cholesky, and its inverse held explicitly.
//!
//! For `full` (several layers, cross terms included) and `block` (one layer). `covariance_of` multiplies pairs of a star's inputs by the inverse; where
//! positions share a layer's weights, it builds the rows of `J_theta` for as many spectra as fit in a bounded buffer. Both in f64.

use std::sync::OnceLock;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltError, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, MatMut, MatRef};
use fisherflow_curvature::{BlockPlan, Matrix};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::eigen::extremes;
use crate::product::{dot, par, product, rows};
use crate::structures::block_info::Certificate;
use crate::structures::captures::{Sides, Wanted};
use crate::structures::elements::{check_vector, check_weights};
use crate::structures::pairs::{InverseByPairs, at_one_position};
use crate::{BlockInfo, Factor, NamedMatrix, PosteriorError, Precision};

/// What the rows of `J_theta` and their products with the inverse may take together, in bytes.
pub(crate) const JACOBIAN_BYTES: usize = 64 << 20;

/// The inverse of a dense `P`.
pub(crate) struct DensePrecision {
    plan: BlockPlan,
    info: BlockInfo,
    /// `P^-1`, `[p, p]`, exactly symmetric.
    inverse: Matrix,
    /// The same for covariances, once one is asked for.
    by_pairs: OnceLock<InverseByPairs>,
    threads: usize,
}

impl DensePrecision {
    /// Adds the prior and inverts, in the curvature's own memory and one more matrix of its size.
    pub(crate) fn with_prior(
        plan: &BlockPlan,
        n_spectra: u64,
        h: Matrix,
        prior_precision: f64,
        threads: usize,
    ) -> Result<Self, PosteriorError> {
        let p = h.rows;
        let mut values = h.values;
        for i in 0..p {
            values[i * p + i] += prior_precision;
        }
        let norm = norm_1(&values, p);
        let diagonal: Vec<f64> = (0..p).map(|i| values[i * p + i]).collect();
        cholesky(plan, &mut values, &diagonal, prior_precision, threads)?;
        let log_det = 2.0 * (0..p).map(|i| values[i * p + i].ln()).sum::<f64>();
        let inverse = inverse_of_factor(values, p, threads);
        let trace: f64 = (0..p).map(|i| inverse[i * p + i]).sum();
        let certificate = Certificate {
            log_det,
            effective_parameters: p as f64 - prior_precision * trace,
            eigenvalues: None,
            condition: norm * norm_1(&inverse, p),
            clipped_eigenvalues: 0,
            most_negative_eigenvalue: 0.0,
        };
        let inverse = Matrix {
            rows: p,
            cols: p,
            values: inverse,
        };
        let info = BlockInfo::new(plan, n_spectra, prior_precision, certificate);
        Ok(Self::new(plan, inverse, info, threads))
    }

    /// From an inverse that was computed before.
    pub(crate) fn new(plan: &BlockPlan, inverse: Matrix, info: BlockInfo, threads: usize) -> Self {
        Self {
            plan: plan.clone(),
            info,
            inverse,
            by_pairs: OnceLock::new(),
            threads,
        }
    }
}

impl Precision for DensePrecision {
    fn solve(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError> {
        let p = self.inverse.rows;
        check_vector(&self.info, v)?;
        Ok(product(rows(&self.inverse.values, p, p), rows(v, p, 1), self.threads))
    }

    fn elements(&self, rows: &[usize], cols: &[usize]) -> Result<Matrix, PosteriorError> {
        check_weights(&self.info, rows.iter().chain(cols))?;
        let p = self.inverse.rows;
        let row = |&row: &usize| cols.iter().map(move |col| self.inverse.values[row * p + col]);
        Ok(Matrix {
            rows: rows.len(),
            cols: cols.len(),
            values: rows.iter().flat_map(row).collect(),
        })
    }

    fn covariance_of(&self, captures: &[LayerCapture]) -> Result<Vec<f64>, PosteriorError> {
        let p = self.inverse.rows;
        let layers = sides_of(&self.plan, captures)?;
        if at_one_position(&self.plan) {
            let by_pairs = self
                .by_pairs
                .get_or_init(|| InverseByPairs::of(&self.plan, &self.inverse));
            return Ok(by_pairs.covariance(&layers, self.threads));
        }
        let Some(first) = layers.first() else {
            return Ok(Vec::new());
        };
        let (batch, k) = (first.batch, first.n_outputs);
        let chunk = (JACOBIAN_BYTES / (16 * p * k).max(1)).max(1);
        let mut covariance = vec![0.0; batch * k * k];
        for start in (0..batch).step_by(chunk) {
            let len = chunk.min(batch - start);
            let jacobian = jacobian(&layers, &self.plan, start, len, p);
            let solved = product(
                rows(&jacobian, len * k, p),
                rows(&self.inverse.values, p, p),
                self.threads,
            );
            for n in 0..len {
                let rows = n * k * p..(n + 1) * k * p;
                let (jacobian, solved) = (&jacobian[rows.clone()], &solved[rows]);
                let out = &mut covariance[(start + n) * k * k..(start + n + 1) * k * k];
                for i in 0..k {
                    for j in 0..=i {
                        let sum = dot(&solved[i * p..(i + 1) * p], &jacobian[j * p..(j + 1) * p]);
                        out[i * k + j] = sum;
                        out[j * k + i] = sum;
                    }
                }
            }
        }
        Ok(covariance)
    }

    fn marginal_variance(&self) -> Result<Vec<Matrix>, PosteriorError> {
        let p = self.inverse.rows;
        let mut diagonal = (0..p).map(|i| self.inverse.values[i * p + i]);
        let of_layer = |shape: &DenseShape| Matrix {
            rows: shape.outputs,
            cols: shape.columns(),
            values: diagonal.by_ref().take(shape.n_weights()).collect(),
        };
        Ok(self.plan.shapes.iter().map(of_layer).collect())
    }

    fn inverse_matrices(&self) -> Result<Vec<NamedMatrix>, PosteriorError> {
        Ok(vec![NamedMatrix::new(
            &self.plan.name(),
            Factor::Dense,
            self.inverse.clone(),
        )])
    }

    fn info(&self) -> &BlockInfo {
        &self.info
    }
}

/// Largest sum of absolute values over a row.
fn norm_1(values: &[f64], p: usize) -> f64 {
    values
        .chunks_exact(p)
        .map(|row| row.iter().map(|v| v.abs()).sum())
        .fold(0.0, f64::max)
}

/// Replaces one triangle of `P` by its Cholesky factor L (column-major lower). A pivot below `p eps` of its diagonal element is
/// rounding error, and refused like a negative one.
fn cholesky(
    plan: &BlockPlan,
    values: &mut [f64],
    diagonal: &[f64],
    prior_precision: f64,
    threads: usize,
) -> Result<(), PosteriorError> {
    let p = diagonal.len();
    let par = par(threads);
    let request = cholesky_in_place_scratch::<f64>(p, par, Default::default());
    let mut workspace = MemBuffer::try_new(request).map_err(|_| PosteriorError::Memory {
        block: plan.name(),
        bytes: request.unaligned_bytes_required(),
    })?;
    // The factorisation leaves neither triangle whole where it fails.
    let before = Matrix {
        rows: p,
        cols: p,
        values: values.to_vec(),
    };
    let factored = cholesky_in_place(
        MatMut::from_column_major_slice_mut(values, p, p),
        Default::default(),
        par,
        MemStack::new(&mut workspace),
        Default::default(),
    );
    let threshold = p as f64 * f64::EPSILON;
    let (end, failed) = match factored {
        Err(LltError::NonPositivePivot { index }) => (index.min(p), Some(index)),
        Ok(_) => (p, None),
    };
    // A pivot of rounding error may be positive, and the failure come later.
    let bad = (0..end)
        .find(|&i| {
            let pivot = values[i * p + i];
            pivot.is_nan() || pivot * pivot <= threshold * diagonal[i]
        })
        .or(failed);
    match bad {
        None => Ok(()),
        Some(pivot) => Err(failed_pivot(plan, &before, (prior_precision, pivot), threads)),
    }
}

/// Whether `P` is singular or indefinite.
fn failed_pivot(
    plan: &BlockPlan,
    matrix: &Matrix,
    (prior_precision, pivot): (f64, usize),
    threads: usize,
) -> PosteriorError {
    let p = matrix.rows;
    match extremes(matrix, &plan.name(), Factor::Dense, threads) {
        Ok((smallest, largest)) if smallest < -(p as f64) * f64::EPSILON * largest.abs() => {
            let (layer, output, input) = place_of(plan, pivot);
            PosteriorError::NegativeCurvature {
                block: plan.name(),
                prior_precision,
                smallest,
                needed: prior_precision - smallest,
                pivot,
                n_weights: plan.n_weights(),
                place: format!("{layer}, output {output}, {input}"),
            }
        }
        Ok(_) => singular(plan, prior_precision, pivot),
        Err(error) => error,
    }
}

/// Layer, output and input of the weight that a pivot belongs to.
fn place_of(plan: &BlockPlan, pivot: usize) -> (String, usize, String) {
    let mut weight = pivot;
    for shape in &plan.shapes {
        if weight < shape.n_weights() {
            let (output, input) = (weight / shape.columns(), weight % shape.columns());
            let input = if input == shape.inputs {
                String::from("bias")
            } else {
                format!("input {input}")
            };
            return (shape.name.clone(), output, input);
        }
        weight -= shape.n_weights();
    }
    (plan.name(), 0, String::from("bias"))
}

fn singular(plan: &BlockPlan, prior_precision: f64, pivot: usize) -> PosteriorError {
    let (layer, output, input) = place_of(plan, pivot);
    PosteriorError::Singular {
        block: plan.name(),
        prior_precision,
        pivot,
        n_weights: plan.n_weights(),
        layer,
        output,
        input,
    }
}

/// `L^-T L^-1` from `L` (column-major lower), both triangles.
fn inverse_of_factor(mut factor: Vec<f64>, p: usize, threads: usize) -> Vec<f64> {
    let par = par(threads);
    let mut inverse_factor = vec![0.0; p * p];
    invert_lower_triangular(
        MatMut::from_column_major_slice_mut(&mut inverse_factor, p, p),
        MatRef::from_column_major_slice(&factor, p, p),
        par,
    );
    let lower = MatRef::from_column_major_slice(&inverse_factor, p, p);
    triangular::matmul(
        MatMut::from_column_major_slice_mut(&mut factor, p, p),
        BlockStructure::TriangularLower,
        Accum::Replace,
        lower.transpose(),
        BlockStructure::TriangularUpper,
        lower,
        BlockStructure::TriangularLower,
        1.0,
        par,
    );
    for column in 0..p {
        for row in column + 1..p {
            factor[row * p + column] = factor[column * p + row];
        }
    }
    factor
}

/// Both sides of every layer of a block, of one batch.
pub(crate) fn sides_of(plan: &BlockPlan, captures: &[LayerCapture]) -> Result<Vec<Sides<f64>>, PosteriorError> {
    let mut layers: Vec<Sides<f64>> = Vec::with_capacity(plan.layers.len());
    for (&index, shape) in plan.layers.iter().zip(&plan.shapes) {
        let wanted = Wanted { index, shape };
        let sides = wanted.sides(wanted.find(captures)?)?;
        let first = layers.first().unwrap_or(&sides);
        if (sides.batch, sides.n_outputs) != (first.batch, first.n_outputs) {
            return Err(PosteriorError::Shape {
                what: format!("outputs and spectra of the capture of layer {}", shape.name),
                expected: vec![first.n_outputs, first.batch],
                found: vec![sides.n_outputs, sides.batch],
            });
        }
        layers.push(sides);
    }
    Ok(layers)
}

/// Rows of `J_theta`, `sum_t g_t (x) [a_t; 1]`, of `len` spectra from `start` on: `[len, K, p]`.
pub(crate) fn jacobian(layers: &[Sides<f64>], plan: &BlockPlan, start: usize, len: usize, p: usize) -> Vec<f64> {
    let k = layers.first().map_or(0, |sides| sides.n_outputs);
    let mut rows = Vec::with_capacity(len * k * p);
    for n in start..start + len {
        for output in 0..k {
            for (sides, shape) in layers.iter().zip(&plan.shapes) {
                let (inputs, outputs) = (shape.columns(), shape.outputs);
                let first = rows.len();
                for position in n * sides.shared..(n + 1) * sides.shared {
                    let a = &sides.input[position * inputs..][..inputs];
                    let at = output * sides.batch * sides.shared + position;
                    let g = &sides.grad[at * outputs..][..outputs];
                    if rows.len() == first {
                        rows.extend(g.iter().flat_map(|g| a.iter().map(move |a| g * a)));
                    } else {
                        for (row, g) in rows[first..].chunks_exact_mut(inputs).zip(g) {
                            row.iter_mut().zip(a).for_each(|(to, a)| *to += g * a);
                        }
                    }
                }
            }
        }
    }
    rows
}
