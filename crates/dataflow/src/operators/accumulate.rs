//! `accumulate`: the batches of a group folded into the group's contributions.

use std::sync::Arc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::{GroupItem, Piece};
use crate::drain::UnderWay;
use crate::error::RunError;
use crate::fault::{Faults, Held};

/// A worker's own fold over the batches of one group after another.
pub(crate) trait GroupFold<T>: 'static {
    /// What a group contributes.
    type Output: 'static;

    /// A batch of the group, in catalogue order.
    fn add(&mut self, group: u64, batch: T) -> Result<(), RunError>;

    /// The group is complete: what it contributes; the fold is ready for the next group.
    fn finish(&mut self, group: u64) -> Result<Self::Output, RunError>;
}

/// What a group contributes, on the worker that computed it.
#[derive(Debug)]
pub(crate) struct Accumulated<P> {
    /// The group's index.
    pub(crate) group: u64,
    pub(crate) value: P,
    /// The group counts as under way until this is dropped.
    pub(crate) under_way: UnderWay,
}

/// Folds each group with `fold`, and emits what it contributes when the group ends.
pub(crate) fn accumulate<'scope, T: 'static, F: GroupFold<T>>(
    batches: StreamVec<'scope, u64, GroupItem<T>>,
    name: &str,
    faults: &Arc<Faults>,
    mut fold: F,
) -> StreamVec<'scope, u64, Accumulated<F::Output>> {
    let faults = Arc::clone(faults);
    batches.unary(Pipeline, name, move |_, _| {
        let mut held = Held::default();
        move |input, output| {
            input.for_each(|capability, items| {
                for GroupItem { group, what } in items.drain(..) {
                    if faults.raised() {
                        continue;
                    }
                    let done = match what {
                        Piece::Batch(batch) => fold.add(group, batch),
                        Piece::End(under_way) => fold.finish(group).map(|value| {
                            // One message a group: contributions are large, and a container holds hundreds of records.
                            output.session(&capability).give(Accumulated {
                                group,
                                value,
                                under_way,
                            });
                        }),
                    };
                    if let Err(error) = done {
                        faults.raise(error);
                    }
                }
                held.keep(&faults, capability.retain_least(0));
            });
        }
    })
}
