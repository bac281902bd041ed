//! Whether every process reaches the folders that all of them write to: what the first one wrote there is looked for by one worker of each other.
//!
//! Were it found out where sums or tiles of others are missed, that would be behind the pass that made them, and behind it again at every next try.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fisherflow_store::{StoreError, Stores};
use timely::worker::Worker;

use super::{by_first, each};
use crate::context::Context;
use crate::error::RunError;

/// Longer than a network file system shows a machine a folder as it was before (NFS: `acdirmax`).
const SHOWN_LATE: Duration = Duration::from_secs(75);
/// What is written into the folder of tiles to try it.
const PROBE: &str = "probe.json";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Looks for the claim of the first process, for as long as processes wait for one another.
pub(crate) fn output(worker: &mut Worker, context: &Arc<Context>, deadline: Duration) -> Result<(), RunError> {
    if context.processes == 1 {
        return Ok(());
    }
    let claiming = Arc::clone(context);
    let claim = by_first(worker, context, "Claim", move || claiming.claim_entry())?;
    let folder = context.output.uri().to_owned();
    folder_is_reached(worker, context, ("output.uri", folder), claim, deadline)
}

/// Tries where tiles are to go outside of the output: the first process writes there, and the others look for that.
pub(crate) fn scratch(worker: &mut Worker, context: &Arc<Context>, deadline: Duration) -> Result<(), RunError> {
    let Some(folder) = context.scratch_of_tiles() else {
        return Ok(());
    };
    let (writing, probe) = (Arc::clone(context), format!("{folder}/{PROBE}"));
    let at = probe.clone();
    let written = by_first(worker, context, "Probe", move || {
        let (_, claim) = writing.claim_entry()?;
        write_probe(&writing.stores, &at, &claim)?;
        Ok((PROBE.to_owned(), claim))
    })?;
    let reached = folder_is_reached(worker, context, ("compute.scratch", folder), written, deadline);
    if worker.index() == 0 {
        context.stores.delete(&probe)?;
    }
    reached
}

/// Writes as tiles are written, over what a process that was killed left.
fn write_probe(stores: &Stores, uri: &str, bytes: &[u8]) -> Result<(), RunError> {
    let written = stores
        .delete(uri)
        .and_then(|()| stores.create_once(uri, bytes.to_vec()));
    match written {
        Ok(_) => Ok(()),
        Err(StoreError::NotWritable { uri, source } | StoreError::Denied { uri, source, .. }) => {
            Err(RunError::Usage(format!(
                "compute.scratch: {uri} cannot be written ({source}): name a folder that exists or can be made, and that may be written to, or leave it \
             out: tiles go to the output then"
            )))
        }
        Err(error @ StoreError::NoHardLinks { .. }) => Err(RunError::Usage(format!("compute.scratch: {error}"))),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a folder, which a key of the run file names, where a process does not find in it what the first one wrote: a path, and what stands there.
fn folder_is_reached(
    worker: &mut Worker,
    context: &Arc<Context>,
    (key, folder): (&'static str, String),
    (path, written): (String, Vec<u8>),
    deadline: Duration,
) -> Result<(), RunError> {
    let (process, nth) = (worker.index() / context.workers, worker.index() % context.workers);
    let of_process = (process > 0 && nth == 0).then_some(process);
    let of_process = of_process.into_iter().collect();
    let (looking, uri) = (Arc::clone(context), format!("{folder}/{path}"));
    let found = each(worker, context, "Reached", of_process, move |process| {
        if is_found(&looking, &uri, &written, deadline.min(SHOWN_LATE))? {
            return Ok(());
        }
        Err(RunError::Usage(format!(
            "{key}: process {process} does not find at {uri} what process 0 wrote there: name a folder that all processes reach, on a disk that they \
             share or an object store"
        )))
    });
    found.map(drop)
}

/// Whether what was written is found at a place, at last.
fn is_found(context: &Context, uri: &str, written: &[u8], patience: Duration) -> Result<bool, RunError> {
    let began = Instant::now();
    loop {
        match context.stores.read(uri) {
            Ok(found) if found == written => return Ok(true),
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if context.faults.raised() {
            return Err(RunError::Stopped);
        }
        if began.elapsed() >= patience {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
}
