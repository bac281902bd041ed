//! Unusable pass: what is wrong with held-out spectra of which none gives a residual. Only then are they looked at once more, each where it is.

use std::sync::Arc;

use fisherflow_spectra::{RowFlags, SpectrumBatch};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::{rows, run, spectra_of};
use crate::bad_rows::BadRows;
use crate::context::Context;
use crate::error::RunError;
use crate::operators::{Accumulate, Expected, Gather, GroupFold, ReduceInGroupOrder, Waits};

/// Held-out spectra, and what is wrong with them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Unusable {
    pub(crate) held_out: u64,
    pub(crate) rows: BadRows,
}

/// Looks at the held-out spectra of the fit's sample.
pub(crate) fn unusable(worker: &mut Worker, context: &Arc<Context>) -> Result<Unusable, RunError> {
    let total = run(worker, context, |scope, probe| {
        let look = Look {
            context: Arc::clone(context),
            seen: Unusable::default(),
        };
        let sample = context.fit.sample.clone();
        Ok(
            spectra_of(scope, context, sample, Waits::InMemory(0), |context| &context.fit)
                .accumulate("Unusable", &context.faults, look)
                .reduce_in_group_order(
                    &context.faults,
                    Expected::of(&context.fit.sample, 1),
                    |total: &mut Unusable, group| {
                        total.held_out += group.held_out;
                        total.rows.merge(group.rows);
                        Ok(())
                    },
                )
                .gather(probe),
        )
    })?;
    let total = total.take().remove(&0);
    Ok(total.unwrap_or_default())
}

struct Look {
    context: Arc<Context>,
    seen: Unusable,
}

impl GroupFold<SpectrumBatch> for Look {
    type Output = Vec<(u64, Unusable)>;

    fn add(&mut self, _group: u64, batch: SpectrumBatch) -> Result<(), RunError> {
        let among = RowFlags::BAD | RowFlags::LABEL_MISSING | RowFlags::LABEL_ERROR_MISSING;
        for row in (0..batch.n_rows()).filter(|&row| rows::is_in_held_out_fraction(&batch, row, &self.context.job)) {
            self.seen.held_out += 1;
            self.seen.rows.add(&batch, row, batch.flags[row], among);
        }
        self.context.progress.advance(batch.n_rows() as u64);
        Ok(())
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, Unusable)>, RunError> {
        Ok(vec![(0, std::mem::take(&mut self.seen))])
    }
}
