//! Unusable pass: what is wrong with held-out spectra of which none gives a residual. Only then are they looked at once more, each where it is.

use std::sync::Arc;

use fisherflow_spectra::RowFlags;
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::{rows, spectra_of, total_of_sample};
use crate::bad_rows::BadRows;
use crate::context::Context;
use crate::error::RunError;
use crate::operators::Waits;

/// Held-out spectra, and what is wrong with them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Unusable {
    pub(crate) held_out: u64,
    pub(crate) rows: BadRows,
}

/// Looks at the held-out spectra of the fit's sample.
pub(crate) fn unusable(worker: &mut Worker, context: &Arc<Context>) -> Result<Unusable, RunError> {
    let looking = Arc::clone(context);
    total_of_sample(
        worker,
        context,
        "Unusable",
        |scope| {
            let sample = context.fit.sample.clone();
            spectra_of(scope, context, sample, Waits::InMemory(0), |context| &context.fit)
        },
        Unusable::default,
        move |seen, batch| {
            let among = RowFlags::BAD | RowFlags::LABEL_MISSING | RowFlags::LABEL_ERROR_MISSING;
            for row in (0..batch.n_rows()).filter(|&row| rows::is_in_held_out_fraction(&batch, row, &looking.job)) {
                seen.held_out += 1;
                seen.rows.add(&batch, row, batch.flags[row], among);
            }
            looking.progress.advance(batch.n_rows() as u64);
            Ok(())
        },
        |total, group| {
            total.held_out += group.held_out;
            total.rows.merge(group.rows);
            Ok(())
        },
    )
}
