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

/// Gives one of `groups` to each worker that asks, each group once: the first worker hands them out. First come those that the worker's
/// process read last, then in order those that nobody has read.
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
        let mut left = Left::new(groups, &readers.lock().unwrap_or_else(PoisonError::into_inner));
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

/// Groups that are left, by the process that read them last.
struct Left {
    by_reader: BTreeMap<Option<usize>, VecDeque<Group>>,
    n: usize,
}

impl Left {
    fn new(groups: Vec<Group>, readers: &BTreeMap<u64, usize>) -> Self {
        let mut left = Self {
            by_reader: BTreeMap::new(),
            n: groups.len(),
        };
        for group in groups {
            let reader = readers.get(&group.index).copied();
            left.by_reader.entry(reader).or_default().push_back(group);
        }
        left
    }

    /// The next group for a worker of `process` that has so many: one that the process read last; else one that nobody has read; else of the process
    /// that has most left the one that it would come to last.
    fn next(&mut self, has: u64, workers: usize, process: usize) -> Option<Group> {
        if has > 0 && self.n < workers {
            return None;
        }
        let mut first_of = |reader| self.by_reader.get_mut(&reader)?.pop_front();
        let group = first_of(Some(process)).or_else(|| first_of(None)).or_else(|| {
            let most = self.by_reader.values_mut().max_by_key(|groups| groups.len());
            most?.pop_back()
        })?;
        self.n -= 1;
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(n: u64, readers: &BTreeMap<u64, usize>) -> Left {
        let group = |index| Group {
            index,
            shards: Vec::new(),
        };
        Left::new((0..n).map(group).collect(), readers)
    }

    /// Groups given to workers that ask, each by how many it has.
    fn given(n: u64, workers: usize, asking: &[u64]) -> Vec<Option<u64>> {
        let mut left = left(n, &BTreeMap::new());
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

    /// Processes 0 and 1 have read the even and the odd ones of the first eight; nobody the last two.
    #[test]
    fn a_process_gets_what_it_read_last_before_it_takes_from_others() {
        let readers = (0..8).map(|group| (group, group as usize % 2)).collect();
        let mut left = left(10, &readers);
        let given: Vec<_> = [1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]
            .into_iter()
            .map(|process| left.next(0, 2, process).map(|group| group.index))
            .collect();
        let expected = [1, 0, 3, 5, 7, 8, 9, 6, 2, 4].map(Some).into_iter().chain([None]);
        assert_eq!(given, expected.collect::<Vec<_>>());
    }
}
