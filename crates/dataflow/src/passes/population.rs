//! Population pass: the mean and the variance of each pixel over held-out spectra, and how far a spectrum's inputs may be from 0.

use std::sync::Arc;

use fisherflow_spectra::{InputRange, PixelPopulation, PixelSums, SpectraError, SpectrumBatch};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::{chosen_by_hash, run, sampled};
use crate::context::Context;
use crate::error::RunError;
use crate::operators::{Accumulate, Expected, Gather, GroupFold, ReduceInGroupOrder};
use crate::run::stages::begin_over;

/// The population, or `None` where no pixel is known: then no pixel may be masked. From here on spectra beyond its limit of inputs are bad.
pub(crate) fn population(worker: &mut Worker, context: &Arc<Context>) -> Result<Option<PixelPopulation>, RunError> {
    let (seen, share) = sampled(
        context,
        "population",
        |share| look(worker, context, share),
        |seen| seen.farthest.is_empty(),
    )?;
    let mut population = match seen.sums.finish() {
        Err(SpectraError::NoPopulation { .. }) => return Ok(None),
        found => found?,
    };
    let limit = InputRange::limit_by(seen.farthest.clone(), context.job.compute.farthest_input);
    context.set_input_limit(limit);
    if limit.is_some_and(|limit| seen.farthest.iter().any(|&input| input > limit)) {
        // Such spectra are in the sums over pixels: once more without them.
        begin_over(context, "population without those out of range", &context.fit.sample);
        population = look(worker, context, share)?.sums.finish()?;
    }
    population.input_limit = limit;
    Ok(Some(population))
}

/// What the held-out spectra hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Seen {
    sums: PixelSums,
    /// The farthest input of each of them.
    farthest: Vec<f64>,
}

fn look(worker: &mut Worker, context: &Arc<Context>, share: f64) -> Result<Seen, RunError> {
    let total = run(worker, context, |scope, probe| {
        Ok(chosen_by_hash(scope, context, share)
            .accumulate("Population", &context.faults, Population::new(context))
            .reduce_in_group_order(
                &context.faults,
                Expected::of(&context.fit.sample, 1),
                |total: &mut Seen, group| {
                    total.farthest.extend(group.farthest);
                    Ok(total.sums.merge(&group.sums)?)
                },
            )
            .gather(probe))
    })?;
    let total = total.borrow_mut().remove(&0);
    Ok(total.unwrap_or_else(|| none(context)))
}

struct Population {
    context: Arc<Context>,
    range: InputRange,
    seen: Seen,
}

impl Population {
    fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            range: context.input_range(f64::INFINITY),
            seen: none(context),
        }
    }
}

fn none(context: &Context) -> Seen {
    Seen {
        sums: PixelSums::new(context.network.n_inputs()),
        farthest: Vec::new(),
    }
}

impl GroupFold<SpectrumBatch> for Population {
    type Output = Vec<(u64, Seen)>;

    fn add(&mut self, _group: u64, batch: SpectrumBatch) -> Result<(), RunError> {
        self.context.progress.advance(batch.n_rows() as u64);
        self.seen.farthest.extend(self.range.farthest(&batch));
        Ok(self.seen.sums.accumulate(&batch, 0..batch.n_rows())?)
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, Seen)>, RunError> {
        Ok(vec![(0, std::mem::replace(&mut self.seen, none(&self.context)))])
    }
}
