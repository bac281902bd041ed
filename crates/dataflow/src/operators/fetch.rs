//! `fetch`: each group goes to one worker, which reads its spectra in catalogue order.

use std::collections::VecDeque;
use std::sync::Arc;

use fisherflow_spectra::{Group, SpectrumBatch};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::GroupItem;
use crate::error::RunError;
use crate::fault::Faults;

/// The batches of one group, read ahead elsewhere.
pub(crate) type GroupReader = Box<dyn Iterator<Item = Result<SpectrumBatch, RunError>>>;

/// Groups whose reading is under way in a worker: the one being worked on, and the next.
const READ_AHEAD: usize = 2;

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
    reader: Option<GroupReader>,
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
                    pending.clear();
                }
                for next in pending.iter_mut().take(READ_AHEAD) {
                    next.reader.get_or_insert_with(|| open(&next.group));
                }
                let Some(first) = pending.front_mut() else {
                    return;
                };
                let mut session = output.session(&first.capability);
                match first.reader.as_mut().and_then(Iterator::next) {
                    Some(Ok(batch)) => session.give(GroupItem::Batch(batch)),
                    Some(Err(error)) => faults.raise(error),
                    None => {
                        session.give(GroupItem::End);
                        drop(session);
                        pending.pop_front();
                    }
                }
                activator.activate();
            }
        })
    }
}
