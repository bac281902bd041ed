//! Agreement on what an earlier stage left: the first worker looks, and every worker goes by what it found.
//!
//! Were each to look for itself, a file that appears in between (the same run started twice, a shared disk that shows it late) would send
//! workers into different passes, to wait for one another for ever.

use std::sync::Arc;

use fisherflow_store::WrittenFile;
use serde::de::DeserializeOwned;
use timely::worker::Worker;

use super::run;
use crate::context::Context;
use crate::error::RunError;
use crate::left_files;
use crate::operators::{Conclude, Gather, owned};
use crate::run::stage_state::{self, Step};

/// What `step` left for this run, the same on every worker; `None` where it has not run.
pub(crate) fn left_by<T: DeserializeOwned>(
    worker: &mut Worker,
    context: &Arc<Context>,
    step: Step,
) -> Result<Option<T>, RunError> {
    let mine = if worker.index() == 0 { vec![0] } else { Vec::new() };
    let found = run(worker, context, |scope, probe| {
        let looking = Arc::clone(context);
        Ok(owned(scope, mine)
            .conclude("Agree", &context.faults, move |_, _| stage_state::find(&looking, step))
            .gather(probe))
    })?;
    let found = found.borrow_mut().remove(&0).flatten();
    found.map(|bytes| stage_state::parse(context, step, &bytes)).transpose()
}

/// Looks whether what a step left of the posterior is still as it wrote it.
///
/// # Errors
/// One is not ([`RunError::Damaged`]): how to make it again.
pub(crate) fn whole(
    worker: &mut Worker,
    context: &Arc<Context>,
    step: Step,
    files: &[WrittenFile],
) -> Result<(), RunError> {
    let mine = if worker.index() == 0 { vec![0] } else { Vec::new() };
    let looking = Arc::clone(context);
    let files: Vec<WrittenFile> = files
        .iter()
        .filter(|file| file.path.starts_with("posterior/"))
        .cloned()
        .collect();
    run(worker, context, |scope, probe| {
        owned(scope, mine)
            .conclude("Whole", &context.faults, move |_, _| {
                left_files::whole(&looking.output, step, &files)
            })
            .gather(probe);
        Ok(())
    })
}

/// Takes back what `from` left and all that was made of it, before any worker makes it anew.
pub(crate) fn forgotten(worker: &mut Worker, context: &Arc<Context>, from: Step) -> Result<(), RunError> {
    let mine = if worker.index() == 0 { vec![0] } else { Vec::new() };
    let forgetting = Arc::clone(context);
    run(worker, context, |scope, probe| {
        owned(scope, mine)
            .conclude("Forget", &context.faults, move |_, _| {
                stage_state::forget(&forgetting, from)
            })
            .gather(probe);
        Ok(())
    })
}
