//! `assign`: groups to the workers that ask for them.

use std::collections::VecDeque;
use std::sync::Arc;

use fisherflow_spectra::Group;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;

use super::Assigned;
use crate::fault::{Faults, Held};

/// Gives the next of `groups` to each worker that `asking` names, in order, each group once: the first worker hands them out.
///
/// A worker that is slow, or has a large group, asks less often: it does not hold the others.
pub(crate) fn assign<'scope>(
    asking: StreamVec<'scope, u64, u64>,
    faults: &Arc<Faults>,
    groups: Vec<Group>,
) -> StreamVec<'scope, u64, Assigned> {
    let faults = Arc::clone(faults);
    asking.unary(Exchange::new(|_: &u64| 0), "Assign", move |_, _| {
        let mut left = VecDeque::from(groups);
        let mut held = Held::default();
        move |input, output| {
            input.for_each(|capability, workers| {
                let mut session = output.session(&capability);
                for worker in workers.drain(..) {
                    if let Some(group) = left.pop_front() {
                        session.give(Assigned { worker, group });
                    }
                }
                drop(session);
                held.keep(&faults, capability.retain_least(0));
            });
        }
    })
}
