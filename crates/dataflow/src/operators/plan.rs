//! `plan`: what a pass is to work on.

use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{Scope, StreamVec};

use super::Part;

/// Emits the keys that this worker owns.
pub(crate) fn owned<'scope>(scope: Scope<'scope, u64>, keys: Vec<u64>) -> StreamVec<'scope, u64, Part<u64>> {
    emit(
        scope,
        keys.into_iter().map(|key| (key, Part { key, value: key })).collect(),
    )
}

/// Emits items at their times.
pub(crate) fn emit<'scope, T: 'static>(
    scope: Scope<'scope, u64>,
    mut items: Vec<(u64, T)>,
) -> StreamVec<'scope, u64, T> {
    source(scope, "Plan", move |capability, _info| {
        let mut capability = Some(capability);
        move |output| {
            if let Some(capability) = capability.take() {
                for (time, item) in items.drain(..) {
                    output.session(&capability.delayed(&time)).give(item);
                }
            }
        }
    })
}
