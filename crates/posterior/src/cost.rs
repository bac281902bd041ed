//! What an inverse costs, before it is begun.

use fisherflow_curvature::{BlockPlan, StructureKind};

/// Floating-point operations of a block's inverse and marginal variances, to leading order.
///
/// Dense: Cholesky and explicit inverse, `p^3`. Kronecker: two symmetric eigendecompositions, about `9 n^3` each (Golub and Van Loan, 8.3),
/// and the two products of squared eigenvectors.
#[must_use]
pub fn inverse_flops(plan: &BlockPlan) -> f64 {
    let p = plan.n_weights() as f64;
    match plan.structure {
        StructureKind::Full | StructureKind::Block => p.powi(3),
        StructureKind::Diagonal => p,
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
