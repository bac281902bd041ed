//! Population pass: the mean and the variance of each pixel over held-out spectra, and how far a spectrum's inputs may be from 0.

use std::sync::Arc;

use fisherflow_spectra::{InputRange, PixelPopulation, PixelSums, SpectraError};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::{chosen_by_hash, sampled, total_of_sample};
use crate::context::Context;
use crate::error::RunError;
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
    let n_inputs = context.network.n_inputs();
    let (range, progress) = (context.input_range(f64::INFINITY), Arc::clone(&context.progress));
    total_of_sample(
        worker,
        context,
        "Population",
        |scope| chosen_by_hash(scope, context, share),
        move || Seen {
            sums: PixelSums::new(n_inputs),
            farthest: Vec::new(),
        },
        move |seen, batch| {
            progress.advance(batch.n_rows() as u64);
            seen.farthest.extend(range.farthest(&batch));
            Ok(seen.sums.accumulate(&batch, 0..batch.n_rows())?)
        },
        |total, group| {
            total.farthest.extend(group.farthest);
            Ok(total.sums.merge(&group.sums)?)
        },
    )
}
