//! The exact posterior of up to a few thousand spectra in memory, from their captures alone: the yardstick of every other structure.

use std::sync::Arc;

use fisherflow_curvature::{BlockPlan, LabelPrecision, Matrix, WeightJacobian};
use fisherflow_network::LayerCapture;

use super::stored::InMemory;
use super::{DualFacts, DualLayout, DualPrecision, OpenTile, gram_tile, trace_of_inverse};
use crate::structures::factored_block::check_prior;
use crate::{PosteriorError, Precision};

/// The exact posterior of a block's weights given training spectra: jointly over all layers of the plan, whatever its structure; a plan
/// of one layer gives that layer's alone, the others held fixed.
///
/// `captures` are those of all layers for the training spectra, `precision` has the labels' precision of each. In memory: their rows, and
/// half a matrix of `K N` by `K N`.
///
/// # Errors
/// Captures that do not fit, or a prior precision that is none or vanishes in the rounding of the Gram matrix.
pub fn exact_posterior(
    plan: &BlockPlan,
    captures: &[LayerCapture],
    precision: &LabelPrecision,
    prior_precision: f64,
    threads: usize,
) -> Result<Box<dyn Precision>, PosteriorError> {
    let rows = WeightJacobian::new(plan, captures, precision)?;
    dual_posterior(plan, &rows, prior_precision, threads)
}

/// The same from rows.
pub(super) fn dual_posterior(
    plan: &BlockPlan,
    rows: &WeightJacobian,
    prior_precision: f64,
    threads: usize,
) -> Result<Box<dyn Precision>, PosteriorError> {
    let (layout, memory, mut facts) = factored(plan, rows, prior_precision, threads)?;
    for chunk in 0..layout.n_chunks() {
        facts.trace_of_inverse += trace_of_inverse(&layout, &memory, chunk, threads)?;
    }
    let info = layout.info(prior_precision, &facts);
    Ok(Box::new(DualPrecision::new(layout, info, Arc::new(memory), threads)))
}

/// The covariances of stars' labels under [`exact_posterior`], `[stars, K, K]`, without its effective parameters: those are twice the work of its
/// factor.
///
/// # Errors
/// As [`exact_posterior`], and captures of the stars that do not fit.
pub fn exact_covariance(
    plan: &BlockPlan,
    (captures, precision): (&[LayerCapture], &LabelPrecision),
    prior_precision: f64,
    stars: &[LayerCapture],
    threads: usize,
) -> Result<Vec<f64>, PosteriorError> {
    let rows = WeightJacobian::new(plan, captures, precision)?;
    let (layout, memory, mut facts) = factored(plan, &rows, prior_precision, threads)?;
    facts.trace_of_inverse = f64::NAN;
    let info = layout.info(prior_precision, &facts);
    DualPrecision::new(layout, info, Arc::new(memory), threads).covariance_of(stars)
}

/// The Cholesky factor of the Gram matrix plus the prior precision.
pub(super) fn factored(
    plan: &BlockPlan,
    rows: &WeightJacobian,
    prior_precision: f64,
    threads: usize,
) -> Result<(DualLayout, InMemory, DualFacts), PosteriorError> {
    check_prior(plan, prior_precision)?;
    let layout = DualLayout::of(plan, rows.n_labels(), rows.n_spectra());
    layout.check_prior(prior_precision, 0.0)?;
    let mut memory = InMemory::of_rows(&layout, rows);
    let mut facts = DualFacts::default();
    for i in 0..layout.n_chunks() {
        let mut row: Vec<Arc<Matrix>> = Vec::with_capacity(i + 1);
        for j in 0..=i {
            let mut open = OpenTile::new(gram_tile(&memory.rows[i], &memory.rows[j], threads));
            let column = if i == j { &row } else { &memory.factor[j] };
            for (left, right) in row.iter().zip(column).take(j) {
                open.subtract(left, right, threads);
            }
            row.push(Arc::new(if i == j {
                let tile = open.factor(&layout, &memory.rows[i], prior_precision)?;
                facts.add(&DualFacts::of(&memory.rows[i], &tile));
                tile
            } else {
                open.solve(&memory.factor[j][j], threads)
            }));
        }
        memory.factor.push(row);
    }
    Ok((layout, memory, facts))
}
