//! Agreement on what an earlier stage left: the first worker looks, and every worker goes by what it found.
//!
//! Were each to look for itself, a file that appears in between (the same run started twice, a shared disk that shows it late) would send
//! workers into different passes, to wait for one another for ever.

use std::sync::Arc;

use fisherflow_store::WrittenFile;
use serde::de::DeserializeOwned;
use timely::worker::Worker;

use super::by_first;
use crate::context::Context;
use crate::error::RunError;
use crate::left_files;
use crate::run::stage_state::{self, Step};

/// What `step` left for this run, the same on every worker; `None` where it has not run.
pub(crate) fn left_by<T: DeserializeOwned>(
    worker: &mut Worker,
    context: &Arc<Context>,
    step: Step,
) -> Result<Option<T>, RunError> {
    let looking = Arc::clone(context);
    let found = by_first(worker, context, "Agree", move || stage_state::find(&looking, step))?;
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
    let looking = Arc::clone(context);
    let files: Vec<WrittenFile> = files
        .iter()
        .filter(|file| file.path.starts_with("posterior/"))
        .cloned()
        .collect();
    by_first(worker, context, "Whole", move || {
        left_files::whole(&looking.output, step, &files)
    })
}

/// Takes back what `from` left and all that was made of it, before any worker makes it anew.
pub(crate) fn forgotten(worker: &mut Worker, context: &Arc<Context>, from: Step) -> Result<(), RunError> {
    let forgetting = Arc::clone(context);
    by_first(worker, context, "Forget", move || {
        stage_state::forget(&forgetting, from)
    })
}
