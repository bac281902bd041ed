//! Invert pass: each block's posterior at the worker that owns it, from and to the files of `posterior/`.

use std::sync::Arc;

use fisherflow_posterior::{BlockInfo, inverse_flops, invert};
use fisherflow_store::WrittenFile;
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::run;
use crate::context::Context;
use crate::error::RunError;
use crate::files;
use crate::operators::{Conclude, Gather, owned};
use crate::stage_state::InvertState;

/// One inverted block, its matrices written.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Inverted {
    info: BlockInfo,
    files: Vec<WrittenFile>,
}

/// Inverts every block of a Hessian over `n_spectra` spectra.
pub(crate) fn inverse(worker: &mut Worker, context: &Arc<Context>, n_spectra: u64) -> Result<InvertState, RunError> {
    let mine = owners(context, worker.peers())
        .into_iter()
        .enumerate()
        .filter_map(|(block, owner)| (owner == worker.index()).then_some(block as u64))
        .collect();
    let inverted = run(worker, context, |scope, probe| {
        let inverting = Arc::clone(context);
        Ok(owned(scope, mine)
            .conclude("Invert", &context.faults, move |block, _| {
                let plan = &inverting.blocks[block as usize];
                let curvature = files::read_hessian(&inverting, plan, n_spectra)?;
                let posterior = invert(plan, curvature, inverting.job.prior_precision, inverting.cores)?;
                let files = vec![
                    files::write_inverse(&inverting, plan, &posterior.precision.inverse_matrices())?,
                    files::write_marginal_variance(&inverting, plan, &posterior.precision.marginal_variance())?,
                ];
                inverting.progress.advance(1);
                Ok(Inverted {
                    info: posterior.info,
                    files,
                })
            })
            .gather(probe))
    })?;
    let (blocks, files): (Vec<_>, Vec<_>) = inverted
        .take()
        .into_values()
        .map(|inverted| (inverted.info, inverted.files))
        .unzip();
    Ok(InvertState {
        run_id: context.run_id.clone(),
        blocks,
        files: files.into_iter().flatten().collect(),
    })
}

/// Which worker inverts which block: the costliest first, each to the worker with the least to do.
fn owners(context: &Context, workers: usize) -> Vec<usize> {
    let mut by_cost: Vec<(f64, usize)> = context
        .blocks
        .iter()
        .enumerate()
        .map(|(block, plan)| (inverse_flops(plan), block))
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
