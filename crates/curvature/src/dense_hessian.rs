//! What the true Hessian of the loss has beyond its Gauss-Newton part, dense: `- sum_n sum_k (Lam_n r_n)_k d2 f_k(x_n)/dtheta2`, row by row as
//! products with unit vectors. For small networks, or some layers of larger ones.

use fisherflow_network::{Forward, Network, WeightDirections};

use crate::captured_rows::values_f64;
use crate::packed::packed_len;
use crate::vector_products::seeds;
use crate::{BlockPlan, BlockSums, CurvatureError, LabelPrecision, StructureKind};

/// Values of unit vectors held at once (32 MiB).
const AT_ONCE: usize = 1 << 22;

/// Floating-point operations of [`add_residual_curvature`] over `n_spectra` spectra of a network of `n_weights` weights: six products of a layer's
/// weights with a batch for each row.
#[must_use]
pub fn residual_flops(plan: &BlockPlan, n_weights: usize, n_spectra: u64) -> f64 {
    12.0 * plan.n_weights() as f64 * n_weights as f64 * n_spectra as f64
}

/// Adds the residuals' part of the true Hessian of a batch to the sums of a `full` or `block` block, to which
/// [`Structure::accumulate`](crate::Structure::accumulate) adds the Gauss-Newton part and the count of the same batch.
///
/// `residuals`: `[batch, K]`, label minus output, in normalised label units.
///
/// # Errors
/// A block of another structure, or a forward pass, precisions, residuals or sums that do not fit one another.
pub fn add_residual_curvature(
    plan: &BlockPlan,
    network: &Network,
    forward: &Forward,
    precision: &LabelPrecision,
    residuals: &[f64],
    sums: &mut BlockSums,
) -> Result<(), CurvatureError> {
    let p = plan.n_weights();
    match plan.structure {
        StructureKind::Full | StructureKind::Block if sums.sums.len() == packed_len(p) => {}
        structure => {
            return Err(CurvatureError::DenseAlone {
                block: plan.name(),
                structure,
            });
        }
    }
    let seeds = seeds(network, precision, residuals)?;
    let at_once = (AT_ONCE / p.max(1)).clamp(1, p.max(1));
    for first in (0..p).step_by(at_once) {
        let count = at_once.min(p - first);
        let mut units = vec![0.0; count * p];
        for (row, unit) in units.chunks_exact_mut(p).enumerate() {
            unit[first + row] = 1.0;
        }
        let directions = WeightDirections::new(&plan.layers, &plan.shapes, &units, &network.arithmetic())?;
        let products = network.hessian_products(forward, &seeds, &directions)?;
        let mut start = 0;
        for (layer, shape) in plan.layers.iter().zip(&plan.shapes) {
            let size = shape.n_weights();
            if let Some(product) = products.get(layer) {
                for (row, values) in (first..).zip(values_f64(product, shape)?.chunks_exact(size)) {
                    // the lower triangle: columns up to the row's own
                    let below = (row + 1).saturating_sub(start).min(size);
                    let sums = &mut sums.sums[packed_len(row)..];
                    for (column, value) in values[..below].iter().enumerate() {
                        sums[start + column] -= value;
                    }
                }
            }
            start += size;
        }
    }
    Ok(())
}
