//! `assign`: groups to the workers that ask for them.

use std::collections::VecDeque;
use std::sync::Arc;

use fisherflow_spectra::Group;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;

use super::{Asking, Assigned};
use crate::fault::{Faults, Held};

/// Gives the next of `groups` to each worker that asks, in order, each group once: the first worker hands them out.
///
/// A worker that is slow, or has a large group, asks less often: it does not hold the others. One that still has a group gets another ahead
/// only while there is one left for each worker; it asks again when it has none.
pub(crate) fn assign<'scope>(
    asking: StreamVec<'scope, u64, Asking>,
    faults: &Arc<Faults>,
    groups: Vec<Group>,
) -> StreamVec<'scope, u64, Assigned> {
    let faults = Arc::clone(faults);
    let workers = asking.scope().peers();
    asking.unary(Exchange::new(|_: &Asking| 0), "Assign", move |_, _| {
        let mut left = VecDeque::from(groups);
        let mut held = Held::default();
        move |input, output| {
            input.for_each(|capability, asking| {
                let mut session = output.session(&capability);
                for Asking { worker, has } in asking.drain(..) {
                    if let Some(group) = next(&mut left, has, workers) {
                        session.give(Assigned { worker, group });
                    }
                }
                drop(session);
                held.keep(&faults, capability.retain_least(0));
            });
        }
    })
}

/// The next group for a worker that has so many.
fn next(left: &mut VecDeque<Group>, has: u64, workers: usize) -> Option<Group> {
    if has > 0 && left.len() < workers {
        return None;
    }
    left.pop_front()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups given to workers that ask, each by how many it has.
    fn given(groups: u64, workers: usize, asking: &[u64]) -> Vec<Option<u64>> {
        let group = |index| Group {
            index,
            shards: Vec::new(),
        };
        let mut left = (0..groups).map(group).collect();
        let next = |&has: &u64| next(&mut left, has, workers).map(|group| group.index);
        asking.iter().map(next).collect()
    }

    #[test]
    fn a_group_for_each_worker_before_one_ahead() {
        assert_eq!(given(2, 2, &[0, 1, 0, 1]), [Some(0), None, Some(1), None]);
        assert_eq!(given(4, 2, &[0, 1, 0, 1]), [Some(0), Some(1), Some(2), None]);
        assert_eq!(
            given(5, 3, &[0, 1, 0, 1, 0]),
            [Some(0), Some(1), Some(2), None, Some(3)]
        );
    }

    #[test]
    fn who_has_none_is_never_refused_one() {
        assert_eq!(given(3, 8, &[0, 0, 0, 0]), [Some(0), Some(1), Some(2), None]);
    }
}
