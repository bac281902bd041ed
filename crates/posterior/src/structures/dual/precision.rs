//! A dual block's posterior: `P^-1 = (I - J^T (Q + delta I)^-1 J) / delta`, through its rows and its factor.

use std::sync::Arc;

use fisherflow_curvature::{BlockPlan, LabelPrecision, Matrix, WeightJacobian};
use fisherflow_network::LayerCapture;

use super::gram::{gram_tile, own_product, view};
use super::marginal::affordable_marginal_variance;
use super::substitution::{backward, forward};
use super::{DualLayout, DualSource, OpenTile, stored};
use crate::product::{dot, product, rows as row_major};
use crate::structures::cancellation::is_lost;
use crate::structures::captures::Wanted;
use crate::structures::elements::check_vector;
use crate::{BlockInfo, NamedMatrix, PosteriorError, Precision};

/// Rows of predicted spectra that are solved for at once: the same in memory and out of it, as the bits of a product follow its shape.
const ROWS_AT_ONCE: usize = 768;

/// The posterior of a dual block. Its rows and its factor stay where `source` has them.
pub struct DualPrecision {
    layout: DualLayout,
    info: BlockInfo,
    source: Arc<dyn DualSource>,
    threads: usize,
}

impl DualPrecision {
    /// With the facts of a factor; no result depends on `threads`.
    #[must_use]
    pub fn new(layout: DualLayout, info: BlockInfo, source: Arc<dyn DualSource>, threads: usize) -> Self {
        Self {
            layout,
            info,
            source,
            threads,
        }
    }

    /// `(k** - Y Y^T) / delta` of some spectra, appended: `[n, K, K]`.
    fn append_covariance(&self, rows: &WeightJacobian, covariance: &mut Vec<f64>) -> Result<(), PosteriorError> {
        let k = rows.n_labels();
        let right = |chunk| {
            let training = self.source.rows(chunk)?;
            Ok(OpenTile::new(gram_tile(rows, &training, self.threads)))
        };
        let solved = forward(&self.layout, self.source.as_ref(), 0, right, self.threads)?;
        for n in 0..rows.n_spectra() {
            let mut own = vec![0.0; k * k];
            for i in 0..k {
                for j in 0..=i {
                    let (left, right) = (n * k + i, n * k + j);
                    let prior = own_product(rows, n, i, j);
                    let known: f64 = solved
                        .iter()
                        .map(|tile| {
                            let row = |row: usize| &tile.values[row * tile.cols..(row + 1) * tile.cols];
                            dot(row(left), row(right))
                        })
                        .sum();
                    let value = (prior - known) / self.info.prior_precision;
                    if i == j && prior > 0.0 && is_lost(prior - known, prior) {
                        return Err(PosteriorError::Cancelled {
                            block: self.layout.plan.name(),
                            prior_precision: self.info.prior_precision,
                            condition: self.info.condition,
                            value,
                        });
                    }
                    own[i * k + j] = value;
                    own[j * k + i] = value;
                }
            }
            covariance.extend(own);
        }
        Ok(())
    }
}

/// The rows of a batch, not whitened.
pub(super) fn unwhitened_rows(plan: &BlockPlan, captures: &[LayerCapture]) -> Result<WeightJacobian, PosteriorError> {
    let mut size = (0, 0);
    for (&index, shape) in plan.layers.iter().zip(&plan.shapes) {
        let wanted = Wanted { index, shape };
        let dims = wanted.find(captures)?.output_grad.dims();
        size = (dims[0], dims[1]);
    }
    let (k, batch) = size;
    let mut unit = vec![0.0; k * k];
    unit.iter_mut().step_by(k + 1).for_each(|value| *value = 1.0);
    Ok(WeightJacobian::new(
        plan,
        captures,
        &LabelPrecision::constant(&unit, batch)?,
    )?)
}

impl Precision for DualPrecision {
    fn solve(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError> {
        let (layout, threads) = (&self.layout, self.threads);
        check_vector(&self.info, v)?;
        let right = |chunk| {
            let rows = self.source.rows(chunk)?;
            Ok(OpenTile::new(Matrix {
                rows: 1,
                cols: rows.n_rows(),
                values: times_weights(&rows, v, threads),
            }))
        };
        let solved = forward(layout, self.source.as_ref(), 0, right, threads)?;
        let solved = backward(layout, self.source.as_ref(), solved, threads)?;
        let mut left = v.to_vec();
        for (chunk, solved) in solved.iter().enumerate() {
            subtract_transposed(self.source.rows(chunk)?.as_ref(), &solved.values, &mut left, threads);
        }
        left.iter_mut().for_each(|value| *value /= self.info.prior_precision);
        Ok(left)
    }

    fn covariance_of(&self, captures: &[LayerCapture]) -> Result<Vec<f64>, PosteriorError> {
        let rows = unwhitened_rows(&self.layout.plan, captures)?;
        // Their labels need not be as many as the rows' of the training spectra, which may be gradients of the loss.
        let k = rows.n_labels();
        let at_once = (ROWS_AT_ONCE / k.max(1)).max(1);
        let mut covariance = Vec::with_capacity(rows.n_rows() * k);
        for first in (0..rows.n_spectra()).step_by(at_once) {
            self.append_covariance(&rows.slice(first, at_once), &mut covariance)?;
        }
        Ok(covariance)
    }

    fn marginal_variance(&self) -> Result<Vec<Matrix>, PosteriorError> {
        affordable_marginal_variance(
            &self.layout,
            self.source.as_ref(),
            self.info.prior_precision,
            self.threads,
        )
    }

    /// The rows and the factor in one piece each.
    fn inverse_matrices(&self) -> Result<Vec<NamedMatrix>, PosteriorError> {
        stored::matrices(&self.layout, self.source.as_ref())
    }

    fn info(&self) -> &BlockInfo {
        &self.info
    }
}

/// `J v`, `[N K]`: `g . (W a + b)` over the layers' `[W | b]` of v.
pub(crate) fn times_weights(rows: &WeightJacobian, v: &[f64], threads: usize) -> Vec<f64> {
    let k = rows.n_labels();
    let mut sums = vec![0.0; rows.n_rows()];
    let mut rest = v;
    for layer in rows.layers() {
        let (inputs, outputs) = (layer.inputs.cols, layer.gradients.cols);
        let columns = layer.columns();
        let (own, after) = rest.split_at(outputs * columns);
        rest = after;
        let weights = row_major(own, outputs, columns);
        let mut moved = product(view(&layer.inputs), weights.subcols(0, inputs).transpose(), threads);
        for row in moved.chunks_exact_mut(outputs) {
            for (value, weights) in row.iter_mut().zip(own.chunks_exact(columns)) {
                *value += weights.get(inputs).unwrap_or(&0.0);
            }
        }
        for (row, (sum, gradient)) in sums
            .iter_mut()
            .zip(layer.gradients.values.chunks_exact(outputs))
            .enumerate()
        {
            *sum += dot(gradient, &moved[row / k * outputs..][..outputs]);
        }
    }
    sums
}

/// `v -= J^T u`.
fn subtract_transposed(rows: &WeightJacobian, u: &[f64], v: &mut [f64], threads: usize) {
    let (n, k) = (rows.n_spectra(), rows.n_labels());
    let mut rest = v;
    for layer in rows.layers() {
        let (inputs, outputs) = (layer.inputs.cols, layer.gradients.cols);
        let (own, after) = rest.split_at_mut(outputs * layer.columns());
        rest = after;
        let mut gradients = vec![0.0; n * outputs];
        for (row, (u, gradient)) in u.iter().zip(layer.gradients.values.chunks_exact(outputs)).enumerate() {
            let sum = &mut gradients[row / k * outputs..][..outputs];
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += u * g);
        }
        let part = product(
            row_major(&gradients, n, outputs).transpose(),
            view(&layer.inputs),
            threads,
        );
        for (output, weights) in own.chunks_exact_mut(layer.columns()).enumerate() {
            let part = &part[output * inputs..(output + 1) * inputs];
            weights.iter_mut().zip(part).for_each(|(weight, part)| *weight -= part);
            if let Some(bias) = weights.get_mut(inputs) {
                *bias -= (0..n).map(|n| gradients[n * outputs + output]).sum::<f64>();
            }
        }
    }
}
