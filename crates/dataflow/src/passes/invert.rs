//! Invert pass: each block's posterior at the worker that owns it, from and to the files of `posterior/`.
//!
//! With a given prior that is one dataflow. A prior that is to be found needs the eigenvalues of all blocks first: then a dataflow before it
//! factors each block, which stays with its owner, and brings the eigenvalues to every worker.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_posterior::{
    BlockInfo, FactoredBlock, Precision, Spectrum, factor, inverse_flops, invert, scan_flops, spectrum_flops,
};
use fisherflow_store::WrittenFile;
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::{dual, each};
use crate::context::Context;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::files;
use crate::job::Prior;
use crate::run::prior_choice::PriorChoice;
use crate::run::stage_state::InvertState;

/// One inverted block, its matrices written.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Inverted {
    info: BlockInfo,
    files: Vec<WrittenFile>,
}

/// This worker's blocks, by their position in the run's plan.
type Kept = Rc<RefCell<BTreeMap<usize, FactoredBlock>>>;

/// Every block factored, without a prior.
pub(crate) struct Factored {
    /// This worker's own blocks.
    kept: Kept,
    /// Of all blocks, in order; empty of a dual block that has its precision and whose eigenvalues nobody asks for.
    pub(crate) spectra: Vec<Spectrum>,
}

/// Inverts every block of a Hessian over `n_spectra` spectra with a given prior.
pub(crate) fn inverse(
    worker: &mut Worker,
    context: &Arc<Context>,
    n_spectra: u64,
    prior: &PriorChoice,
) -> Result<InvertState, RunError> {
    let (inverting, by_block) = (Arc::clone(context), prior.by_block.clone());
    let blocks = each_block(worker, context, "Invert", move |block| {
        let plan = &inverting.blocks[block];
        let curvature = files::read_hessian(&inverting, plan, n_spectra)?;
        let posterior = invert(plan, curvature, by_block[block], inverting.cores)?;
        write(&inverting, block, posterior.as_ref())
    })?;
    let blocks = with_dual(worker, context, blocks, prior)?;
    Ok(state(context, blocks, prior))
}

/// Factors every block of a Hessian over `n_spectra` spectra.
pub(crate) fn factors(worker: &mut Worker, context: &Arc<Context>, n_spectra: u64) -> Result<Factored, RunError> {
    let kept = Kept::default();
    let (factoring, keeping) = (Arc::clone(context), Rc::clone(&kept));
    let mut spectra = each_block(worker, context, "Factor", move |block| {
        let plan = &factoring.blocks[block];
        let curvature = files::read_hessian(&factoring, plan, n_spectra)?;
        let factored = factor(plan, curvature, factoring.cores)?;
        let spectrum = if factoring.job.prior == Prior::Holdout {
            let scan = factored.prior_scan(factoring.captures(), factoring.network.arithmetic().threads)?;
            let spectrum = scan.spectrum().clone();
            factoring.keep_scan(block, scan);
            spectrum
        } else {
            factored.spectrum()?
        };
        keeping.borrow_mut().insert(block, factored);
        factoring.progress.advance(1);
        Ok(spectrum)
    })?;
    if let Some(plan) = context.dual_plan() {
        let rows = context.dual_rows()?;
        let spectrum = if !dual::needs_spectrum(context) {
            // The evidence is that of other blocks.
            Spectrum::default()
        } else if context.job.prior == Prior::Holdout {
            dual::check_spectrum(rows.layout.n_rows())?;
            // Every process needs the eigenvectors for its own spectra.
            let scans = context.scans(n_spectra)?;
            let scan = scans.get(plan.id);
            let scan = scan.ok_or_else(|| RunError::Internal("the dual block is not scanned".into()))?;
            scan.spectrum().clone()
        } else {
            dual::spectrum(worker, context, rows)?
        };
        spectra.insert(plan.id as u64, spectrum);
    }
    Ok(Factored {
        kept,
        spectra: spectra.into_values().collect(),
    })
}

/// Adds the prior to every factored block and inverts it.
pub(crate) fn finish(
    worker: &mut Worker,
    context: &Arc<Context>,
    factored: Factored,
    prior: &PriorChoice,
) -> Result<InvertState, RunError> {
    let Factored { kept, spectra } = factored;
    drop(spectra);
    let (finishing, by_block) = (Arc::clone(context), prior.by_block.clone());
    let blocks = each_block(worker, context, "Finish", move |block| {
        let factored = kept.borrow_mut().remove(&block).ok_or_else(|| {
            RunError::Internal(format!(
                "block {block} is finished by a worker that has not factored it"
            ))
        })?;
        let posterior = factored.finish(by_block[block])?;
        write(&finishing, block, posterior.as_ref())
    })?;
    let blocks = with_dual(worker, context, blocks, prior)?;
    Ok(state(context, blocks, prior))
}

/// Inverts the dual block too, if there is one: by all workers together.
fn with_dual(
    worker: &mut Worker,
    context: &Arc<Context>,
    mut blocks: BTreeMap<u64, Inverted>,
    prior: &PriorChoice,
) -> Result<BTreeMap<u64, Inverted>, RunError> {
    if let Some(plan) = context.dual_plan() {
        let storage = context.dual_storage(prior.by_block[plan.id])?;
        let (info, files) = dual::invert(worker, context, &storage)?;
        blocks.insert(plan.id as u64, Inverted { info, files });
    }
    Ok(blocks)
}

/// One dataflow: something done with each block that has sums, by its owner, and what came of it brought to every worker.
fn each_block<U: timely::ExchangeData + Clone>(
    worker: &mut Worker,
    context: &Arc<Context>,
    name: &str,
    what: impl FnMut(usize) -> Result<U, RunError> + 'static,
) -> Result<BTreeMap<u64, U>, RunError> {
    let mine = owners(context, worker.peers())
        .into_iter()
        .enumerate()
        .filter(|&(block, owner)| owner == worker.index() && context.blocks[block].structure.has_sums())
        .map(|(block, _)| block)
        .collect();
    each(worker, context, name, mine, what)
}

/// Writes a block's posterior.
fn write(context: &Context, block: usize, posterior: &dyn Precision) -> Result<Inverted, RunError> {
    let plan = &context.blocks[block];
    context.faults.pass(FailPoint::BeforeInverse);
    let inverse = files::write_inverse(context, plan, &posterior.inverse_matrices()?)?;
    context.faults.pass(FailPoint::InverseWritten);
    let variance = files::write_marginal_variance(context, plan, &posterior.marginal_variance()?)?;
    context.progress.advance(1);
    Ok(Inverted {
        info: posterior.info().clone(),
        files: vec![inverse, variance],
    })
}

fn state(context: &Context, blocks: BTreeMap<u64, Inverted>, prior: &PriorChoice) -> InvertState {
    let (blocks, files): (Vec<_>, Vec<_>) = blocks
        .into_values()
        .map(|inverted| (inverted.info, inverted.files))
        .unzip();
    InvertState {
        run_id: context.run_id.clone(),
        prior: prior.clone(),
        blocks,
        files: files.into_iter().flatten().collect(),
    }
}

/// Which worker inverts which block: the costliest first, each to the worker with the least to do.
fn owners(context: &Context, workers: usize) -> Vec<usize> {
    let cost = |plan| match context.job.prior {
        Prior::Fixed(_) => inverse_flops(plan),
        Prior::Evidence | Prior::EvidencePerBlock => inverse_flops(plan) + spectrum_flops(plan),
        Prior::Holdout => inverse_flops(plan) + scan_flops(plan),
    };
    let mut by_cost: Vec<(f64, usize)> = context
        .blocks
        .iter()
        .enumerate()
        .map(|(block, plan)| (cost(plan), block))
        .collect();
    by_cost.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut load = vec![0.0; workers];
    let mut owners = vec![0; by_cost.len()];
    for (cost, block) in by_cost {
        let owner = (0..workers)
            .min_by(|&a, &b| f64::total_cmp(&load[a], &load[b]))
            .unwrap_or(0);
        load[owner] += cost;
        owners[block] = owner;
    }
    owners
}
