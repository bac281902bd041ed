//! `conclude`: what is done with a total by the worker that owns it.

use std::sync::Arc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::Part;
use crate::error::RunError;
use crate::fault::{Faults, Held};

/// Applies `conclusion` to each total, where it is.
pub(crate) fn conclude<'scope, P: 'static, U: 'static>(
    totals: StreamVec<'scope, u64, Part<P>>,
    name: &str,
    faults: &Arc<Faults>,
    mut conclusion: impl FnMut(u64, P) -> Result<U, RunError> + 'static,
) -> StreamVec<'scope, u64, Part<U>> {
    let faults = Arc::clone(faults);
    totals.unary(Pipeline, name, move |_, _| {
        let mut held = Held::default();
        move |input, output| {
            input.for_each(|capability, parts| {
                for Part { key, value } in parts.drain(..) {
                    if faults.raised() {
                        continue;
                    }
                    match conclusion(key, value) {
                        Ok(value) => output.session(&capability).give(Part { key, value }),
                        Err(error) => faults.raise(error),
                    }
                }
                held.keep(&faults, capability.retain_least(0));
            });
        }
    })
}
