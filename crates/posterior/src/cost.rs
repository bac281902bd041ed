//! What an inverse costs, before it is begun.

use fisherflow_curvature::{BlockPlan, StructureKind};

/// Floating-point operations of a block's inverse and marginal variances, to leading order.
///
/// Dense: Cholesky and explicit inverse, `p^3`. Kronecker: two symmetric eigendecompositions ([`bases_flops`]), which an `ekfac` block has
/// already, and the two products of squared eigenvectors.
#[must_use]
pub fn inverse_flops(plan: &BlockPlan) -> f64 {
    let p = plan.n_weights() as f64;
    match plan.structure {
        StructureKind::Full | StructureKind::Block => p.powi(3),
        StructureKind::Diagonal => p,
        StructureKind::Kfac => bases_flops(plan) + marginal_flops(plan),
        StructureKind::Ekfac => marginal_flops(plan),
    }
}

/// Floating-point operations of the eigenbases of a block's Kronecker factors: two symmetric eigendecompositions, about `9 n^3` each (Golub and
/// Van Loan, 8.3).
#[must_use]
pub fn bases_flops(plan: &BlockPlan) -> f64 {
    let cubes = |(a, g): (f64, f64)| 9.0 * (a.powi(3) + g.powi(3));
    sides(plan).map(cubes).sum()
}

/// The two products of squared eigenvectors of the marginal variance.
fn marginal_flops(plan: &BlockPlan) -> f64 {
    sides(plan).map(|(a, g)| 2.0 * a * g * (a + g)).sum()
}

/// The sides of the Kronecker factors of each layer, `in + 1` and `out`.
fn sides(plan: &BlockPlan) -> impl Iterator<Item = (f64, f64)> {
    plan.shapes
        .iter()
        .map(|shape| ((shape.inputs + 1) as f64, shape.outputs as f64))
}

/// Floating-point operations of a block's [`Spectrum`](crate::Spectrum) beyond those of its inverse: a dense block is reduced to tridiagonal
/// form, `4 p^3 / 3` (Golub and Van Loan, 8.3); the others have their eigenvalues.
#[must_use]
pub fn spectrum_flops(plan: &BlockPlan) -> f64 {
    match plan.structure {
        StructureKind::Full | StructureKind::Block => 4.0 / 3.0 * (plan.n_weights() as f64).powi(3),
        StructureKind::Kfac | StructureKind::Ekfac | StructureKind::Diagonal => 0.0,
    }
}
