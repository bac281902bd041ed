//! The marginal variances of a dual block's weights, `diag P^-1 = (1 - |column of L^-1 J|^2) / delta`, where they are affordable.
//!
//! Every weight is a right-hand side: `p (K N)^2` operations, which for a large network and many spectra is more than all the rest.

use fisherflow_curvature::{Matrix, WeightJacobian};

use super::substitution::forward;
use super::{DualLayout, DualSource, OpenTile};
use crate::PosteriorError;
use crate::product::dot;
use crate::structures::cancellation::is_lost;

/// Operations that marginal variances may take.
const AFFORDABLE: f64 = 2e12;

/// Weights that are solved for at once.
const WEIGHTS_AT_ONCE: usize = 512;

/// For each layer `[out, columns]`, bias last; none where they would take more than 2e12 operations, or rounding swamps one of them: that is no
/// reason to have no predictions either.
///
/// # Errors
/// If a chunk's rows or a tile cannot be had.
pub fn dual_marginal_variance(
    layout: &DualLayout,
    source: &dyn DualSource,
    prior_precision: f64,
    threads: usize,
) -> Result<Option<Vec<Matrix>>, PosteriorError> {
    match affordable_marginal_variance(layout, source, prior_precision, threads) {
        Err(PosteriorError::Unaffordable { .. } | PosteriorError::Cancelled { .. }) => Ok(None),
        found => found.map(Some),
    }
}

/// The same, where an error says why there are none.
pub(super) fn affordable_marginal_variance(
    layout: &DualLayout,
    source: &dyn DualSource,
    prior_precision: f64,
    threads: usize,
) -> Result<Vec<Matrix>, PosteriorError> {
    let operations = layout.plan.n_weights() as f64 * (layout.n_rows() as f64).powi(2);
    if operations > AFFORDABLE {
        return Err(PosteriorError::Unaffordable {
            block: layout.plan.name(),
            operations,
            affordable: AFFORDABLE,
        });
    }
    let mut variances = Vec::with_capacity(layout.plan.shapes.len());
    for (layer, shape) in layout.plan.shapes.iter().enumerate() {
        let n_weights = shape.n_weights();
        let mut values = Vec::with_capacity(n_weights);
        for first in (0..n_weights).step_by(WEIGHTS_AT_ONCE) {
            let weights = first..n_weights.min(first + WEIGHTS_AT_ONCE);
            let right = |chunk| {
                Ok(OpenTile::new(columns(
                    source.rows(chunk)?.as_ref(),
                    layer,
                    weights.clone(),
                )))
            };
            let solved = forward(layout, source, 0, right, threads)?;
            for weight in 0..weights.len() {
                let known: f64 = solved
                    .iter()
                    .map(|tile| &tile.values[weight * tile.cols..(weight + 1) * tile.cols])
                    .map(|row| dot(row, row))
                    .sum();
                let value = (1.0 - known) / prior_precision;
                if is_lost(1.0 - known, 1.0) {
                    return Err(PosteriorError::Cancelled {
                        block: layout.plan.name(),
                        prior_precision,
                        condition: 1.0 / (1.0 - known).abs(),
                        value,
                    });
                }
                values.push(value);
            }
        }
        variances.push(Matrix {
            rows: shape.outputs,
            cols: shape.columns(),
            values,
        });
    }
    Ok(variances)
}

/// Columns of J, a row each: of some weights of a layer.
fn columns(rows: &WeightJacobian, layer: usize, weights: std::ops::Range<usize>) -> Matrix {
    let sides = &rows.layers()[layer];
    let (inputs, outputs, k) = (sides.inputs.cols, sides.gradients.cols, rows.n_labels());
    let width = sides.columns();
    let mut values = Vec::with_capacity(weights.len() * rows.n_rows());
    for weight in weights.clone() {
        let (output, input) = (weight / width, weight % width);
        values.extend((0..rows.n_rows()).map(|row| {
            let a = if input == inputs {
                1.0
            } else {
                sides.inputs.values[row / k * inputs + input]
            };
            a * sides.gradients.values[row * outputs + output]
        }));
    }
    Matrix {
        rows: weights.len(),
        cols: rows.n_rows(),
        values,
    }
}
