//! `commit`: what a finished group contributes, to the store, while the next group is computed.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_store::{Committed, Committing, GroupArray, GroupStore, WrittenFile};
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::Accumulated;
use crate::drain::UnderWay;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::fault::{Faults, Held};

/// What a group gives to the store.
#[derive(Clone, Debug)]
pub(crate) struct GroupSums<S> {
    /// Its numbers.
    pub(crate) arrays: Vec<GroupArray>,
    /// Files that it left in the output.
    pub(crate) files: Vec<WrittenFile>,
    /// What else it found: small.
    pub(crate) found: S,
}

/// A group that is in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CommittedGroup {
    /// The group's index.
    pub(crate) group: u64,
    /// Its record as JSON: what is in it names its own types, and the wire format cannot.
    pub(crate) record: Vec<u8>,
    /// Bytes written for it.
    pub(crate) bytes: u64,
}

/// A group that is being written.
struct Writing {
    capability: Capability<u64>,
    group: u64,
    committing: Committing,
    /// Until it is written the group counts as under way.
    _under_way: UnderWay,
}

/// Writes what each group gives under its name, on the I/O threads: the groups are done once it is there. One group at a time; a worker
/// that has finished the next one waits, so that at most two are in its memory.
pub(crate) fn commit<'scope, S: Serialize + 'static>(
    contributions: StreamVec<'scope, u64, Accumulated<GroupSums<S>>>,
    faults: &Arc<Faults>,
    store: &GroupStore,
    pass: &'static str,
    names: Rc<BTreeMap<u64, String>>,
) -> StreamVec<'scope, u64, CommittedGroup> {
    let (faults, store) = (Arc::clone(faults), store.clone());
    let scope = contributions.scope();
    let me = scope.index() as u64;
    contributions.unary(Pipeline, "Commit", move |_, info| {
        let activator = scope.worker().sync_activator_for(info.address.to_vec());
        let mut writing: Option<Writing> = None;
        let mut held = Held::default();
        move |input, output| {
            let mut ended = Vec::new();
            input.for_each(|capability, groups| {
                for done in groups.drain(..) {
                    if faults.raised() {
                        continue;
                    }
                    if let Some(before) = writing.take() {
                        let committed = before.committing.wait();
                        ended.push((before, committed));
                    }
                    let activator = activator.clone();
                    let wake = move || {
                        // A worker that is gone needs no waking.
                        let _ = activator.activate();
                    };
                    let group = done.group;
                    faults.pass(FailPoint::GroupSummed);
                    let begun = begin(&store, pass, &names, (me, group), done.value, wake);
                    match (begun, capability.retain_least(0)) {
                        (Ok(committing), Some(capability)) => {
                            writing = Some(Writing {
                                capability,
                                group,
                                committing,
                                _under_way: done.under_way,
                            });
                        }
                        (Ok(_), None) => faults.raise(RunError::Internal("a group came at no time".into())),
                        (Err(error), _) => faults.raise(error),
                    }
                }
                held.keep(&faults, capability.retain_least(0));
            });
            if let Some(committed) = writing.as_ref().and_then(|at_work| at_work.committing.poll())
                && let Some(at_work) = writing.take()
            {
                ended.push((at_work, committed));
            }
            for (of, committed) in ended {
                match committed
                    .map_err(RunError::from)
                    .and_then(|committed| told(of.group, &committed))
                {
                    Ok(committed) => {
                        faults.pass(FailPoint::GroupDone);
                        output.session(&of.capability).give(committed);
                    }
                    Err(error) => {
                        faults.raise(error);
                        held.keep(&faults, Some(of.capability));
                    }
                }
            }
        }
    })
}

fn begin<S: Serialize>(
    store: &GroupStore,
    pass: &str,
    names: &BTreeMap<u64, String>,
    (worker, group): (u64, u64),
    sums: GroupSums<S>,
    wake: impl FnOnce() + Send + 'static,
) -> Result<Committing, RunError> {
    let name = names
        .get(&group)
        .ok_or_else(|| RunError::Internal(format!("group {group} has no name")))?;
    let found = serde_json::to_value(&sums.found).map_err(|error| RunError::Internal(error.to_string()))?;
    let attempt = format!("{:016x}", rand::random::<u64>());
    Ok(store.commit(pass, name, &attempt, worker, (sums.arrays, sums.files, found), wake)?)
}

fn told(group: u64, committed: &Committed) -> Result<CommittedGroup, RunError> {
    Ok(CommittedGroup {
        group,
        record: serde_json::to_vec(&committed.record).map_err(|error| RunError::Internal(error.to_string()))?,
        bytes: committed.bytes,
    })
}
