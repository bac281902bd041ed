//! `differentiate`: what is computed from each batch by itself.

use std::sync::Arc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::{GroupItem, Piece};
use crate::error::RunError;
use crate::fault::{Faults, Held};

/// Applies `derive` to every batch, in order, on the worker that fetched it.
pub(crate) fn differentiate<'scope, T: 'static, U: 'static>(
    batches: StreamVec<'scope, u64, GroupItem<T>>,
    faults: &Arc<Faults>,
    mut derive: impl FnMut(T) -> Result<U, RunError> + 'static,
) -> StreamVec<'scope, u64, GroupItem<U>> {
    let faults = Arc::clone(faults);
    batches.unary(Pipeline, "Differentiate", move |_, _| {
        let mut held = Held::default();
        move |input, output| {
            input.for_each(|capability, items| {
                let mut session = output.session(&capability);
                for GroupItem { group, what } in items.drain(..) {
                    let derived = match what {
                        Piece::End(under_way) => Piece::End(under_way),
                        Piece::Batch(_) if faults.raised() => continue,
                        Piece::Batch(batch) => match derive(batch) {
                            Ok(derived) => Piece::Batch(derived),
                            Err(error) => {
                                faults.raise(error);
                                continue;
                            }
                        },
                    };
                    session.give(GroupItem { group, what: derived });
                }
                drop(session);
                held.keep(&faults, capability.retain_least(0));
            });
        }
    })
}
