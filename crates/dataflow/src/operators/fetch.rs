//! `fetch`: every worker asks for groups, and reads the spectra of those that it gets in catalogue order.

use std::collections::VecDeque;
use std::sync::Arc;

use fisherflow_network::product::{LentCores, lend};
use fisherflow_spectra::{Group, SpectrumBatch};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Capability, Concat, ConnectLoop, Feedback, OkErr};
use timely::dataflow::{Scope, StreamVec};

use super::plan::emit;
use super::{Asking, Assigned, GroupItem, Piece, Readers, Waits, assign};
use crate::drain::UnderWay;
use crate::error::RunError;
use crate::fault::Faults;

/// The batches of one group, read ahead elsewhere.
pub(crate) type GroupReader = Box<dyn Iterator<Item = Result<SpectrumBatch, RunError>>>;

/// Groups that a worker has at a time: the one being worked on, and the next, whose reading is under way.
pub(crate) const READ_AHEAD: u64 = 2;

/// A group that this worker was given.
struct Pending {
    capability: Capability<u64>,
    group: Group,
    reader: Option<(GroupReader, UnderWay)>,
}

/// What comes out of a worker's reading; at the end of a group, its index.
type Fetched = Result<GroupItem<SpectrumBatch>, u64>;

/// Brings the spectra of `groups` to the workers, each group to one that asks for it. A worker asks for another group when it is done with
/// one, and emits batches one at a time: what is in flight stays bounded by `READ_AHEAD` readers and one batch. While it has no group, its
/// `cores` are lent to the other workers of the process. `waits`: where what comes of a group does, for those before it.
pub(crate) fn fetch<'scope>(
    scope: Scope<'scope, u64>,
    faults: &Arc<Faults>,
    groups: Vec<Group>,
    waits: Waits,
    (readers, workers_of_process): (&Readers, usize),
    cores: usize,
    open: impl Fn(&Group) -> GroupReader + 'static,
) -> StreamVec<'scope, u64, GroupItem<SpectrumBatch>> {
    let me = scope.index() as u64;
    let (asking_again, again) = scope.feedback::<Vec<Asking>>(1);
    // The first worker asks for all at first: what another sends it is not looked at before its first batch is done.
    let workers = if me == 0 { scope.peers() as u64 } else { 0 };
    let at_first = (0..READ_AHEAD).flat_map(|_| (0..workers).map(|worker| (0, Asking { worker, done: None })));
    let first = emit(scope, at_first.collect());
    // It alone hands them out: the others need not keep them.
    let groups = if me == 0 { groups } else { Vec::new() };
    let assigned = assign(
        first.concat(again),
        faults,
        groups,
        waits,
        Arc::clone(readers),
        workers_of_process,
    );
    let (items, ended) = read(assigned, faults, cores, open).ok_err(|fetched| fetched);
    ended
        .map(move |group| Asking {
            worker: me,
            done: Some(group),
        })
        .connect_loop(asking_again);
    items
}

fn read<'scope>(
    assigned: StreamVec<'scope, u64, Assigned>,
    faults: &Arc<Faults>,
    cores: usize,
    open: impl Fn(&Group) -> GroupReader + 'static,
) -> StreamVec<'scope, u64, Fetched> {
    let faults = Arc::clone(faults);
    let scope = assigned.scope();
    assigned.unary(
        Exchange::new(|assigned: &Assigned| assigned.worker),
        "Fetch",
        move |_, info| {
            let activator = scope.activator_for(info.address);
            let mut pending: VecDeque<Pending> = VecDeque::new();
            let mut lent: Option<LentCores> = None;
            move |input, output| {
                input.for_each(|capability, assigned| {
                    if let Some(capability) = capability.retain_least(0) {
                        pending.extend(assigned.drain(..).map(|assigned| Pending {
                            capability: capability.clone(),
                            group: assigned.group,
                            reader: None,
                        }));
                    }
                });
                if faults.raised() {
                    // What is pending keeps its capabilities: no other process may take its sums for complete.
                    return;
                }
                if faults.drain().is_asked() {
                    pending.iter_mut().skip(1).for_each(|ahead| ahead.reader = None);
                }
                for next in &mut pending {
                    if next.reader.is_none()
                        && let Some(under_way) = faults.drain().begin()
                    {
                        next.reader = Some((open(&next.group), under_way));
                    }
                }
                let Some(mut first) = pending.pop_front() else {
                    lent.get_or_insert_with(|| lend(cores));
                    return;
                };
                lent = None;
                let Some((mut reader, under_way)) = first.reader.take() else {
                    pending.push_front(first);
                    return;
                };
                let group = first.group.index;
                let mut session = output.session(&first.capability);
                match reader.next() {
                    Some(Ok(batch)) => session.give(Ok(GroupItem {
                        group,
                        what: Piece::Batch(batch),
                    })),
                    Some(Err(error)) => faults.raise(error),
                    None => {
                        session.give(Ok(GroupItem {
                            group,
                            what: Piece::End(under_way),
                        }));
                        session.give(Err(group));
                        drop(session);
                        activator.activate();
                        return;
                    }
                }
                drop(session);
                first.reader = Some((reader, under_way));
                pending.push_front(first);
                activator.activate();
            }
        },
    )
}
