//! From a block's curvature and prior to its posterior, and from stored matrices back to it.

use fisherflow_curvature::{BlockCurvature, BlockPlan, StructureKind};
use fisherflow_kernels::Products;

use crate::eigen::Eigenpairs;
use crate::structures::dense::DensePrecision;
use crate::structures::diagonal::{DiagonalPrecision, NonNegative};
use crate::structures::dual;
use crate::structures::eigenbasis::Eigenbasis;
use crate::structures::factored_block::{check_prior, factor};
use crate::structures::kronecker::KroneckerPrecision;
use crate::structures::low_rank::LowRankPrecision;
use crate::structures::matrices::single_layer;
use crate::structures::matrix_set::MatrixSet;
use crate::{BlockInfo, Factor, NamedMatrix, PosteriorError, Precision};

/// Adds the prior precision `delta` to a block's curvature and inverts it: `P = H + delta I`.
///
/// `prior_precision` is in normalised label units and on the scale of the SUM over spectra that the curvature is. Where no spectrum was
/// summed the posterior is the prior. Of symmetric matrices one triangle is read. No result depends on
/// `threads`: an eigenproblem is split by its size, whatever the number of threads.
///
/// # Errors
/// If the prior precision is negative or not finite; if the curvature is not of the plan's structure and size, or not finite; if
/// `H + delta I` is singular, which names the block, the pivot and the remedy.
pub fn invert(
    plan: &BlockPlan,
    curvature: BlockCurvature,
    prior_precision: f64,
    threads: usize,
) -> Result<Box<dyn Precision>, PosteriorError> {
    check_prior(plan, prior_precision)?;
    factor(plan, curvature, threads)?.finish(prior_precision)
}

/// A block's posterior again from its [`inverse_matrices`](Precision::inverse_matrices) and its facts; it predicts bit for bit what the
/// first did, on a path of f32's accuracy. On a path of whole numbers or of bf16 a Kronecker block of many inputs rotates those of f32 captures by it: what a
/// star's part is off by then is computed, and a star beyond a relative 1e-3 is rotated in f32. All other products are in f32 or f64 on every path.
///
/// # Errors
/// If the facts are of another block, or a matrix of the block's structure is missing, there twice, of another size, or not finite.
pub fn precision_from_matrices(
    plan: &BlockPlan,
    matrices: Vec<NamedMatrix>,
    info: BlockInfo,
    products: impl Into<Products>,
) -> Result<Box<dyn Precision>, PosteriorError> {
    let products = products.into();
    let threads = products.threads;
    check_info(plan, &info)?;
    check_prior(plan, info.prior_precision)?;
    let mut set = MatrixSet::new(plan, matrices);
    let precision: Box<dyn Precision> = match plan.structure {
        StructureKind::Full | StructureKind::Block => {
            let p = plan.n_weights();
            let inverse = set.take(Factor::Dense, p, p)?;
            Box::new(DensePrecision::new(plan, inverse, info, threads))
        }
        StructureKind::Kfac => {
            let shape = single_layer(plan)?;
            let mut pairs = |vectors, values, n| -> Result<Eigenpairs, PosteriorError> {
                Ok(Eigenpairs {
                    vectors: set.take(vectors, n, n)?.values,
                    values: set.take(values, 1, n)?.values,
                    clipped: 0,
                    most_negative: 0.0,
                })
            };
            let a = pairs(Factor::AEigenvectors, Factor::AEigenvalues, shape.columns())?;
            let g = pairs(Factor::GEigenvectors, Factor::GEigenvalues, shape.outputs)?;
            let eigenbasis = Eigenbasis::of_factors(a, g, info.n_terms);
            Box::new(KroneckerPrecision::new(plan, eigenbasis, info, products)?)
        }
        StructureKind::Ekfac => {
            let shape = single_layer(plan)?;
            let (inputs, outputs) = (shape.columns(), shape.outputs);
            let a_vectors = set.take(Factor::AEigenvectors, inputs, inputs)?;
            let g_vectors = set.take(Factor::GEigenvectors, outputs, outputs)?;
            let eigenvalues = set.take(Factor::Eigenvalues, outputs, inputs)?;
            let eigenvalues = NonNegative::new(plan, Factor::Eigenvalues, eigenvalues)?;
            let eigenbasis = Eigenbasis::corrected(a_vectors, g_vectors, eigenvalues);
            Box::new(KroneckerPrecision::new(plan, eigenbasis, info, products)?)
        }
        StructureKind::Diagonal => {
            let shape = single_layer(plan)?;
            let variance = set.take(Factor::Diagonal, shape.outputs, shape.columns())?;
            Box::new(DiagonalPrecision::new(plan, variance, info, threads)?)
        }
        StructureKind::Dual => dual::from_matrices(plan, &mut set, info, threads)?,
        StructureKind::LowRank => {
            let (p, rank) = (plan.n_weights(), set.columns(Factor::LowRank)?);
            let inverse = set.take(Factor::Diagonal, 1, p)?.values;
            let correction = set.take(Factor::LowRank, p, rank)?;
            Box::new(LowRankPrecision::new(plan, inverse, correction, info, threads))
        }
    };
    set.finish()?;
    Ok(precision)
}

fn check_info(plan: &BlockPlan, info: &BlockInfo) -> Result<(), PosteriorError> {
    let names: Vec<&str> = plan.shapes.iter().map(|s| s.name.as_str()).collect();
    let facts = [
        ("layers", names.join("+"), info.layers.join("+")),
        (
            "structure",
            format!("{:?}", plan.structure),
            format!("{:?}", info.structure),
        ),
        (
            "a number of weights of",
            plan.n_weights().to_string(),
            info.n_weights.to_string(),
        ),
    ];
    match facts.into_iter().find(|(_, expected, found)| expected != found) {
        None => Ok(()),
        Some((what, expected, found)) => Err(PosteriorError::Info {
            block: plan.name(),
            what,
            expected,
            found,
        }),
    }
}
