//! `accumulate`: the batches of a group folded into the group's contributions.

use std::sync::Arc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::{GroupItem, Part};
use crate::error::RunError;
use crate::fault::{Faults, Held};

/// A worker's own fold over the batches of one group after another.
pub(crate) trait GroupFold<T>: 'static {
    /// What a group contributes to each total.
    type Output: 'static;

    /// A batch of the group, in catalogue order.
    fn add(&mut self, group: u64, batch: T) -> Result<(), RunError>;

    /// The group is complete: its contributions by key; the fold is ready for the next group.
    fn finish(&mut self, group: u64) -> Result<Vec<(u64, Self::Output)>, RunError>;
}

/// `accumulate` on the batches of a group.
pub(crate) trait Accumulate<'scope, T> {
    /// Folds each group with `fold`, and emits its parts when the group ends.
    fn accumulate<F: GroupFold<T>>(
        self,
        name: &str,
        faults: &Arc<Faults>,
        fold: F,
    ) -> StreamVec<'scope, u64, Part<F::Output>>;
}

impl<'scope, T: 'static> Accumulate<'scope, T> for StreamVec<'scope, u64, GroupItem<T>> {
    fn accumulate<F: GroupFold<T>>(
        self,
        name: &str,
        faults: &Arc<Faults>,
        mut fold: F,
    ) -> StreamVec<'scope, u64, Part<F::Output>> {
        let faults = Arc::clone(faults);
        self.unary(Pipeline, name, move |_, _| {
            let mut held = Held::default();
            move |input, output| {
                input.for_each(|capability, items| {
                    let Some(&group) = capability.least() else {
                        return;
                    };
                    for item in items.drain(..) {
                        if faults.raised() {
                            continue;
                        }
                        let done = match item {
                            GroupItem::Batch(batch) => fold.add(group, batch).map(|()| Vec::new()),
                            GroupItem::End => fold.finish(group),
                        };
                        match done {
                            Err(error) => faults.raise(error),
                            Ok(parts) => {
                                for (key, value) in parts {
                                    // One message a part: parts are large, and a container holds hundreds of records.
                                    output.session(&capability).give(Part { key, value });
                                }
                            }
                        }
                    }
                    held.keep(&faults, capability.retain_least(0));
                });
            }
        })
    }
}
