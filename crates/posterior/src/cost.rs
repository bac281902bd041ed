//! What an inverse costs, before it is begun.

use fisherflow_curvature::{BlockPlan, LayerSides, StructureKind, WeightJacobian};
use serde::Serialize;

use crate::DualLayout;
use crate::product::{product, rows};
use crate::structures::pairs::{self, at_one_position};

/// Floating-point operations of a block's inverse and marginal variances, to leading order; 0 for a dual block, whose [`DualCost`](crate::DualCost) depends
/// on the spectra.
///
/// Dense: Cholesky and explicit inverse, `p^3`. Kronecker: two symmetric eigendecompositions ([`bases_flops`]), which an `ekfac` block has
/// already, and the two products of squared eigenvectors. Low rank: three products of `[p, rank]`, of the usual rank 32.
#[must_use]
pub fn inverse_flops(plan: &BlockPlan) -> f64 {
    let p = plan.n_weights() as f64;
    match plan.structure {
        StructureKind::Full | StructureKind::Block => p.powi(3),
        StructureKind::Diagonal => p,
        StructureKind::Dual => 0.0,
        StructureKind::LowRank => 6.0 * p * 32.0 * 32.0,
        StructureKind::Kfac => bases_flops(plan) + marginal_flops(plan),
        StructureKind::Ekfac => marginal_flops(plan),
    }
}

/// Floating-point operations of the eigenbases of a block's Kronecker factors: two symmetric eigendecompositions, about `9 n^3` each (Golub and
/// Van Loan, 8.3; in two stages `4 n^3 / 3` to a band, as much to divide and conquer, `4.4 n^3` back, and what is not in products). Less where the spectra
/// are fewer than the side.
#[must_use]
pub fn bases_flops(plan: &BlockPlan) -> f64 {
    let cubes = |(a, g): (f64, f64)| 9.0 * (a.powi(3) + g.powi(3));
    sides(plan).map(cubes).sum()
}

/// The two products of squared eigenvectors of the marginal variance.
fn marginal_flops(plan: &BlockPlan) -> f64 {
    sides(plan).map(|(a, g)| 2.0 * a * g * (a + g)).sum()
}

/// The sides of the Kronecker factors of each layer, `columns` and `out`.
fn sides(plan: &BlockPlan) -> impl Iterator<Item = (f64, f64)> {
    plan.shapes
        .iter()
        .map(|shape| (shape.columns() as f64, shape.outputs as f64))
}

/// Floating-point operations of a block's [`Spectrum`](crate::Spectrum) beyond those of its inverse: a dense block is reduced to tridiagonal
/// form, `4 p^3 / 3` (Golub and Van Loan, 8.3); the others have their eigenvalues.
#[must_use]
pub fn spectrum_flops(plan: &BlockPlan) -> f64 {
    match plan.structure {
        StructureKind::Full | StructureKind::Block => 4.0 / 3.0 * (plan.n_weights() as f64).powi(3),
        StructureKind::Kfac
        | StructureKind::Ekfac
        | StructureKind::Diagonal
        | StructureKind::LowRank
        | StructureKind::Dual => 0.0,
    }
}

/// Floating-point operations of one star's covariance under a dense block: of its pairs of inputs, or of its K rows of the Jacobian where positions share
/// weights.
#[must_use]
pub fn dense_covariance_flops(plan: &BlockPlan, n_labels: usize) -> f64 {
    if at_one_position(plan) {
        2.0 * pairs::numbers(plan) as f64
    } else {
        2.0 * n_labels as f64 * (plan.n_weights() as f64).powi(2)
    }
}

/// Bytes of a block's inverse as covariances take it, beside the inverse itself; 0 for structures that have no such form.
#[must_use]
pub fn dense_covariance_bytes(plan: &BlockPlan) -> u64 {
    let is_dense = matches!(plan.structure, StructureKind::Full | StructureKind::Block);
    if is_dense && at_one_position(plan) {
        8 * pairs::numbers(plan)
    } else {
        0
    }
}

/// What a dual block takes: operations to leading order, bytes in f64, which saturate where no disk could hold them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DualCost {
    /// `K N`: rows of the Jacobian, and the side of its Gram matrix.
    pub rows: u64,
    /// Chunks of rows: tiles in a row of tiles.
    pub chunks: u64,
    /// Bytes of the Jacobian's rows, as inputs and gradients.
    pub row_bytes: u64,
    /// Bytes of the factor's tiles: half a matrix of `K N` by `K N`, and the diagonal.
    pub tile_bytes: u64,
    /// Operations of the Gram matrix's lower triangle: `(in + K^2 out)` multiplications a layer and pair of spectra.
    pub gram_flops: f64,
    /// Operations of its Cholesky factor: `(K N)^3 / 3`.
    pub cholesky_flops: f64,
    /// Operations of the trace of its inverse, for the effective parameters: `(K N)^3 / 3`.
    pub trace_flops: f64,
    /// Operations of one predicted spectrum: `K (K N)^2`, and its inner products with all rows.
    pub predict_flops: f64,
}

impl DualCost {
    /// Of a block over `n_spectra` training spectra, in chunks as large as they may be.
    #[must_use]
    pub fn of(plan: &BlockPlan, n_labels: usize, n_spectra: u64) -> Self {
        let k = n_labels as f64;
        let rows = n_spectra.saturating_mul(n_labels as u64);
        let side = rows as f64;
        let a_chunk = DualLayout::spectra_a_chunk(n_labels) as u64;
        let chunks = n_spectra.div_ceil(a_chunk);
        let pair: f64 = plan
            .shapes
            .iter()
            .map(LayerSides::widths)
            .map(|[inputs, gradients]| 2.0 * (inputs as f64 + k * k * gradients as f64))
            .sum();
        let n = n_spectra as f64;
        Self {
            rows,
            chunks,
            row_bytes: WeightJacobian::bytes(plan, n_labels, n_spectra),
            tile_bytes: rows
                .saturating_add(a_chunk * n_labels as u64)
                .saturating_mul(rows)
                .saturating_mul(4),
            gram_flops: 0.5 * n * (n + a_chunk as f64) * pair,
            cholesky_flops: side.powi(3) / 3.0,
            trace_flops: side.powi(3) / 3.0,
            predict_flops: n * pair + k * side * side,
        }
    }
}

/// Floating-point operations a second of an f64 product of two tiles on this machine's `threads` threads: the best of a few, for an
/// estimate of times.
#[must_use]
pub fn measured_product_rate(threads: usize) -> f64 {
    const SIDE: usize = 768;
    let values = vec![1.0; SIDE * SIDE];
    let tile = rows(&values, SIDE, SIDE);
    let seconds = (0..4)
        .map(|_| {
            let started = std::time::Instant::now();
            std::hint::black_box(product(tile, tile, threads));
            started.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    2.0 * (SIDE as f64).powi(3) / seconds
}

#[cfg(test)]
mod tests {
    use fisherflow_curvature::BlockOptions;
    use fisherflow_network::DenseShape;

    use super::*;

    /// 50,000 spectra of 3 labels through 7213-2048-1024-512-256-128-32-3, by hand: the layers have 11,213 inputs and 4,003 outputs, and a pair
    /// of spectra takes 11,213 + 9 x 4,003 = 47,240 multiplications.
    #[test]
    fn a_dual_block_of_150_000_rows_costs_what_it_does_by_hand() {
        let sizes = [7213, 2048, 1024, 512, 256, 128, 32, 3];
        let shapes: Vec<DenseShape> = (0..7)
            .map(|layer| DenseShape {
                name: layer.to_string(),
                inputs: sizes[layer],
                outputs: sizes[layer + 1],
                bias: true,
                shared: 1,
            })
            .collect();
        let plan = BlockPlan {
            id: 0,
            structure: StructureKind::Dual,
            layers: (0..7).collect(),
            shapes,
            options: BlockOptions::default(),
        };
        let cost = DualCost::of(&plan, 3, 50_000);
        // Chunks of 768 / 3 = 256 spectra.
        assert_eq!((cost.rows, cost.chunks), (150_000, 196));
        // An input vector and 3 gradients a spectrum: 8 x 50,000 x (11,213 + 3 x 4,003).
        assert_eq!(cost.row_bytes, 9_288_800_000);
        // 4 x 150,000 x 150,768: half a matrix of 8 bytes, and the halves of its diagonal tiles.
        assert_eq!(cost.tile_bytes, 90_460_800_000);
        let close =
            |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-3, "{found:e} {expected:e}");
        // 50,000 x 50,256 / 2 pairs of 94,480 operations.
        close(cost.gram_flops, 1.187e14);
        // 150,000^3 / 3; on 64 workers of 50 GFLOP/s about 350 s.
        close(cost.cholesky_flops, 1.125e15);
        close(cost.cholesky_flops / (64.0 * 50e9), 351.6);
        close(cost.trace_flops, 1.125e15);
        // 3 x 150,000^2 and 50,000 pairs.
        close(cost.predict_flops, 6.75e10 + 4.724e9);
        // Four times the square of 3e9 rows is beyond u64.
        let cost = DualCost::of(&plan, 3, 1_000_000_000);
        assert_eq!((cost.rows, cost.tile_bytes), (3_000_000_000, u64::MAX));
    }
}
