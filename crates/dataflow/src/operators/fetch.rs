//! `fetch`: each group goes to one worker, which reads its spectra in catalogue order.

use std::collections::VecDeque;
use std::sync::Arc;

use fisherflow_spectra::{Group, SpectrumBatch};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::GroupItem;
use crate::drain::UnderWay;
use crate::error::RunError;
use crate::fault::Faults;

/// The batches of one group, read ahead elsewhere.
pub(crate) type GroupReader = Box<dyn Iterator<Item = Result<SpectrumBatch, RunError>>>;

/// Groups whose reading is under way in a worker: the one being worked on, and the next.
const READ_AHEAD: usize = 2;
/// Steps of a worker after which the end of a group has reached its last operator here: a message moves by one operator a step or faster.
const SETTLED: usize = 8;

/// `fetch` on a stream of groups.
pub(crate) trait Fetch<'scope> {
    /// Gives each group to worker `index % workers`, which emits its batches one at a time, so that what is in flight stays bounded
    /// by `READ_AHEAD` readers and one batch.
    fn fetch(
        self,
        faults: &Arc<Faults>,
        open: impl Fn(&Group) -> GroupReader + 'static,
    ) -> StreamVec<'scope, u64, GroupItem<SpectrumBatch>>;
}

struct Pending {
    capability: Capability<u64>,
    group: Group,
    reader: Option<(GroupReader, UnderWay)>,
}

impl<'scope> Fetch<'scope> for StreamVec<'scope, u64, Group> {
    fn fetch(
        self,
        faults: &Arc<Faults>,
        open: impl Fn(&Group) -> GroupReader + 'static,
    ) -> StreamVec<'scope, u64, GroupItem<SpectrumBatch>> {
        let faults = Arc::clone(faults);
        let scope = self.scope();
        self.unary(Exchange::new(|group: &Group| group.index), "Fetch", move |_, info| {
            let activator = scope.activator_for(info.address);
            let mut pending: VecDeque<Pending> = VecDeque::new();
            let mut ended: VecDeque<Option<UnderWay>> = VecDeque::new();
            move |input, output| {
                input.for_each(|capability, groups| {
                    if let Some(capability) = capability.retain_least(0) {
                        pending.extend(groups.drain(..).map(|group| Pending {
                            capability: capability.delayed(&group.index),
                            group,
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
                for next in pending.iter_mut().take(READ_AHEAD) {
                    if next.reader.is_none()
                        && let Some(under_way) = faults.drain().begin()
                    {
                        next.reader = Some((open(&next.group), under_way));
                    }
                }
                ended.push_back(None);
                ended.drain(..ended.len().saturating_sub(SETTLED));
                if ended.iter().any(Option::is_some) {
                    activator.activate();
                }
                let Some(first) = pending.front_mut() else {
                    return;
                };
                let Some((reader, _)) = first.reader.as_mut() else {
                    return;
                };
                let mut session = output.session(&first.capability);
                match reader.next() {
                    Some(Ok(batch)) => session.give(GroupItem::Batch(batch)),
                    Some(Err(error)) => faults.raise(error),
                    None => {
                        session.give(GroupItem::End);
                        drop(session);
                        let done = pending.pop_front().and_then(|done| done.reader);
                        ended.push_back(done.map(|(_, under_way)| under_way));
                    }
                }
                activator.activate();
            }
        })
    }
}
