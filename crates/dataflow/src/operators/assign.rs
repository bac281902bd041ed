//! `assign`: groups to the workers that ask for them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use fisherflow_spectra::Group;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;

use super::{Asking, Assigned};
use crate::fault::{Faults, Held};

/// Which process read a group last: its spectra may still be in the memory of that process, or of its machine. Known to the first worker alone.
pub(crate) type Readers = Arc<Mutex<BTreeMap<u64, usize>>>;

/// Groups for each worker among which a worker finds one that its process has read: as many as it may have at a time.
const WINDOW: usize = 2;

/// Gives one of `groups` to each worker that asks, each group once, nearly in order: the first worker hands them out. Of the next few come first
/// those that the worker's process read last, then those that nobody has read.
///
/// A worker that is slow, or has a large group, asks less often: it does not hold the others. One that still has a group gets another ahead
/// only while there is one left for each worker; it asks again when it has none.
pub(crate) fn assign<'scope>(
    asking: StreamVec<'scope, u64, Asking>,
    faults: &Arc<Faults>,
    groups: Vec<Group>,
    readers: Readers,
    workers_of_process: usize,
) -> StreamVec<'scope, u64, Assigned> {
    let faults = Arc::clone(faults);
    let workers = asking.scope().peers();
    asking.unary(Exchange::new(|_: &Asking| 0), "Assign", move |_, _| {
        let known = readers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut left = Left::new(groups, &known, workers);
        let mut held = Held::default();
        move |input, output| {
            input.for_each(|capability, asking| {
                let mut session = output.session(&capability);
                let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
                for Asking { worker, has } in asking.drain(..) {
                    let process = worker as usize / workers_of_process;
                    if let Some(group) = left.next(has, workers, process) {
                        readers.insert(group.index, process);
                        session.give(Assigned { worker, group });
                    }
                }
                drop(session);
                held.keep(&faults, capability.retain_least(0));
            });
        }
    })
}

/// Groups that are left, in order, each with its place among all and the process that read it last.
struct Left {
    groups: VecDeque<(usize, Group, Option<usize>)>,
    /// How far ahead of the first group left another may be given.
    window: usize,
}

impl Left {
    fn new(groups: Vec<Group>, readers: &BTreeMap<u64, usize>, workers: usize) -> Self {
        let with_reader = |(place, group): (usize, Group)| {
            let reader = readers.get(&group.index).copied();
            (place, group, reader)
        };
        Self {
            groups: groups.into_iter().enumerate().map(with_reader).collect(),
            window: WINDOW * workers.max(1),
        }
    }

    /// The next group for a worker of `process` that has so many: one that the process read last; else one that nobody has read; else the one that
    /// its reader would come to last. None is far ahead of the first that is left: what comes of it waits in memory for all that come before.
    fn next(&mut self, has: u64, workers: usize, process: usize) -> Option<Group> {
        if has > 0 && self.groups.len() < workers {
            return None;
        }
        let end = self.groups.front()?.0 + self.window;
        let near = self.groups.iter().take_while(|(place, ..)| *place < end);
        let readers: Vec<Option<usize>> = near.map(|(.., reader)| *reader).collect();
        let first_of = |wanted: Option<usize>| readers.iter().position(|reader| *reader == wanted);
        let at = first_of(Some(process)).or_else(|| first_of(None));
        let (_, group, _) = self.groups.remove(at.unwrap_or(readers.len() - 1))?;
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(n: u64, readers: &BTreeMap<u64, usize>, workers: usize) -> Left {
        let group = |index| Group {
            index,
            shards: Vec::new(),
        };
        Left::new((0..n).map(group).collect(), readers, workers)
    }

    /// Groups given to workers that ask, each by how many it has.
    fn given(n: u64, workers: usize, asking: &[u64]) -> Vec<Option<u64>> {
        let mut left = left(n, &BTreeMap::new(), workers);
        let next = |&has: &u64| left.next(has, workers, 0).map(|group| group.index);
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

    /// What processes get of ten groups, two workers in all: each with the one that asked.
    fn given_to(readers: &BTreeMap<u64, usize>, asking: &[usize]) -> Vec<Option<u64>> {
        let mut left = left(10, readers, 2);
        let next = |&process: &usize| left.next(0, 2, process).map(|group| group.index);
        asking.iter().map(next).collect()
    }

    /// Processes 0 and 1 have read the even and the odd ones of the first eight; nobody the last two.
    #[test]
    fn a_process_gets_what_it_read_last_before_it_takes_from_others() {
        let readers = (0..8).map(|group| (group, group as usize % 2)).collect();
        let given = given_to(&readers, &[1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0]);
        let expected = [1, 0, 3, 2, 4, 5, 7, 8, 6, 9].map(Some).into_iter().chain([None]);
        assert_eq!(given, expected.collect::<Vec<_>>());
    }

    /// Whatever a process has read: what it sums must not wait for long.
    #[test]
    fn no_group_comes_far_ahead_of_one_that_is_left() {
        let sample = [(0, 0), (6, 0), (9, 0)].into();
        assert_eq!(given_to(&sample, &[0; 10]), [0, 1, 2, 6, 3, 4, 5, 9, 7, 8].map(Some));
        // The first asks for nothing any more.
        let of_first = (0..10).map(|group| (group, 0)).collect();
        assert_eq!(given_to(&of_first, &[1; 10]), [3, 2, 1, 0, 7, 6, 5, 4, 9, 8].map(Some));
    }
}
