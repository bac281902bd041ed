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
use crate::operators::{Conclude, Gather, owned};
use crate::run::stage_state;

/// What `stage` left for this run, the same on every worker; `None` where it has not run.
pub(crate) fn left_by<T: DeserializeOwned>(
    worker: &mut Worker,
    context: &Arc<Context>,
    stage: &'static str,
) -> Result<Option<T>, RunError> {
    let mine = if worker.index() == 0 { vec![0] } else { Vec::new() };
    let found = run(worker, context, |scope, probe| {
        let looking = Arc::clone(context);
        Ok(owned(scope, mine)
            .conclude("Agree", &context.faults, move |_, _| stage_state::find(&looking, stage))
            .gather(probe))
    })?;
    let found = found.borrow_mut().remove(&0).flatten();
    found
        .map(|bytes| stage_state::parse(context, stage, &bytes))
        .transpose()
}

/// Looks whether what a stage left of the posterior is still as it wrote it: what is made of anything else would be wrong, and nothing would
/// show it.
///
/// # Errors
/// One is not: how to make it again.
pub(crate) fn whole(
    worker: &mut Worker,
    context: &Arc<Context>,
    stage: &'static str,
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
                match looking.output.damages(&files)?.first() {
                    None => Ok(()),
                    Some(damage) => Err(RunError::Refused(format!(
                        "{}: {damage}: `fisherflow {stage}` with the same run file makes it again",
                        looking.output.uri()
                    ))),
                }
            })
            .gather(probe);
        Ok(())
    })
}
