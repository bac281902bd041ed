//! Population pass: the mean and the variance of each pixel over held-out spectra.

use std::sync::Arc;

use fisherflow_spectra::{PixelPopulation, PixelSums, SpectraError, SpectrumBatch};
use timely::worker::Worker;

use super::{held_out, run};
use crate::context::Context;
use crate::error::RunError;
use crate::operators::{Accumulate, Expected, Gather, GroupFold, ReduceInGroupOrder};

/// The population, or `None` where no pixel is known: then no pixel may be masked.
pub(crate) fn population(worker: &mut Worker, context: &Arc<Context>) -> Result<Option<PixelPopulation>, RunError> {
    let total = run(worker, context, |scope, probe| {
        Ok(held_out(scope, context)
            .accumulate("Population", &context.faults, Population::new(context))
            .reduce_in_group_order(
                &context.faults,
                Expected::of(&context.fit.sample, 1),
                |total: &mut PixelSums, group| Ok(total.merge(&group)?),
            )
            .gather(probe))
    })?;
    let total = total.borrow_mut().remove(&0);
    match total.map(|sums| sums.finish()) {
        None | Some(Err(SpectraError::NoPopulation { .. })) => Ok(None),
        Some(population) => Ok(Some(population?)),
    }
}

struct Population {
    context: Arc<Context>,
    sums: PixelSums,
}

impl Population {
    fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            sums: PixelSums::new(context.network.n_inputs()),
        }
    }
}

impl GroupFold<SpectrumBatch> for Population {
    type Output = Vec<(u64, PixelSums)>;

    fn add(&mut self, _group: u64, batch: SpectrumBatch) -> Result<(), RunError> {
        self.context.progress.advance(batch.n_rows() as u64);
        Ok(self.sums.accumulate(&batch, 0..batch.n_rows())?)
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, PixelSums)>, RunError> {
        let empty = PixelSums::new(self.context.network.n_inputs());
        Ok(vec![(0, std::mem::replace(&mut self.sums, empty))])
    }
}
