//! What an inverse costs, before it is begun.

use fisherflow_curvature::{BlockPlan, StructureKind};

/// Floating-point operations of a block's inverse and marginal variances, to leading order.
///
/// Dense: Cholesky and explicit inverse, `p^3`. Kronecker: two symmetric eigendecompositions, about `9 n^3` each (Golub and Van Loan, 8.3),
/// and the two products of squared eigenvectors. Low rank: three products of `[p, rank]`, of the usual rank 32.
#[must_use]
pub fn inverse_flops(plan: &BlockPlan) -> f64 {
    let p = plan.n_weights() as f64;
    match plan.structure {
        StructureKind::Full | StructureKind::Block => p.powi(3),
        StructureKind::Diagonal => p,
        StructureKind::LowRank => 6.0 * p * 32.0 * 32.0,
        StructureKind::Kfac => plan
            .shapes
            .iter()
            .map(|shape| {
                let (a, g) = ((shape.inputs + 1) as f64, shape.outputs as f64);
                9.0 * (a.powi(3) + g.powi(3)) + 2.0 * a * g * (a + g)
            })
            .sum(),
    }
}

/// Floating-point operations of a block's [`Spectrum`](crate::Spectrum) beyond those of its inverse: a dense block is reduced to tridiagonal
/// form, `4 p^3 / 3` (Golub and Van Loan, 8.3); the others have their eigenvalues.
#[must_use]
pub fn spectrum_flops(plan: &BlockPlan) -> f64 {
    match plan.structure {
        StructureKind::Full | StructureKind::Block => 4.0 / 3.0 * (plan.n_weights() as f64).powi(3),
        StructureKind::Kfac | StructureKind::Diagonal | StructureKind::LowRank => 0.0,
    }
}
