//! `assign`: groups to the workers that ask for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use fisherflow_spectra::Group;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;

use super::{Asking, Assigned};
use crate::fault::{Faults, Held};

/// Which process read a group last: its spectra may still be in the memory of that process, or of its machine. Known to the first worker alone.
pub(crate) type Readers = Arc<Mutex<BTreeMap<u64, usize>>>;

/// Groups for each worker among which a worker finds one that its process has read: as many as it may have at a time. Where few may wait, one:
/// whoever leaves the first to another soon waits for it.
const WINDOW: usize = 2;
/// Groups for each worker that may be given from the first one on that nobody has done: two are with the worker, and the rest is for whoever has a
/// large group, or hangs.
const AHEAD: usize = 6;
/// However much comes of each: one to work on, and the next.
const AHEAD_AT_LEAST: usize = 2;
/// Bytes of what comes of groups that may wait for one, as long as each worker has two.
const WAITING_BYTES: u64 = 1 << 30;

/// Where what comes of a group waits for all groups before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// In the owner's memory, about so many bytes of each (0: few): no group is given far ahead of one that is not done.
    InMemory(u64),
    /// In the store: a worker that hangs holds nobody up.
    InStore,
}

/// How many groups are given at most, from the first one on that nobody has done, where `bytes` of each wait in memory: with those of the first added up,
/// so many may be there at a time.
pub(crate) fn most_waiting(bytes: u64, workers: usize) -> usize {
    let fitting = usize::try_from(WAITING_BYTES / bytes.max(1)).unwrap_or(usize::MAX);
    fitting.clamp(AHEAD_AT_LEAST * workers, AHEAD * workers)
}

/// Gives one of `groups` to each worker that asks, each group once, nearly in order: the first worker hands them out. Of the next few come first
/// those that the worker's process read last, then those that nobody has read.
///
/// A worker that is slow, or has a large group, asks less often: it does not hold the others, as long as what they do need not wait for it in memory.
/// One that still has a group gets another ahead only while there is one left for each worker. Whoever gets none keeps its place until there is one.
pub(crate) fn assign<'scope>(
    asking: StreamVec<'scope, u64, Asking>,
    faults: &Arc<Faults>,
    groups: Vec<Group>,
    waits: Waits,
    readers: Readers,
    workers_of_process: usize,
) -> StreamVec<'scope, u64, Assigned> {
    let faults = Arc::clone(faults);
    let workers = asking.scope().peers();
    asking.unary(Exchange::new(|_: &Asking| 0), "Assign", move |_, _| {
        let known = readers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut left = Left::new(groups, waits, &known, workers, workers_of_process);
        let mut held = Held::default();
        move |input, output| {
            input.for_each(|capability, asking| {
                let mut session = output.session(&capability);
                let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
                for asking in asking.drain(..) {
                    left.hear(asking);
                    while let Some((worker, group)) = left.next() {
                        readers.insert(group.index, worker / workers_of_process);
                        let worker = worker as u64;
                        session.give(Assigned { worker, group });
                    }
                }
                drop(session);
                held.keep(&faults, capability.retain_least(0));
            });
        }
    })
}

/// Groups that are left, who has those that are not, and who waits for one.
struct Left {
    /// In order, each with its place among all and the process that read it last.
    groups: VecDeque<(usize, Group, Option<usize>)>,
    /// Places of those that a worker has, and has not done.
    under_way: BTreeSet<usize>,
    /// The place of each of these by its index.
    places: BTreeMap<u64, usize>,
    /// Of each worker, how many of these it has.
    has: Vec<usize>,
    /// Workers that asked and were given none, the first first: each waits for some worker to be done with a group, which tells.
    waiting: Vec<usize>,
    /// How far ahead of the first group left another may be given.
    window: usize,
    /// Number of groups, given or not.
    n: usize,
    /// How many may be given, from the first one on that nobody has done.
    most: Option<usize>,
    workers_of_process: usize,
}

impl Left {
    fn new(
        groups: Vec<Group>,
        waits: Waits,
        readers: &BTreeMap<u64, usize>,
        workers: usize,
        workers_of_process: usize,
    ) -> Self {
        let workers = workers.max(1);
        let most = match waits {
            Waits::InMemory(bytes) => Some(most_waiting(bytes, workers)),
            Waits::InStore => None,
        };
        let with_reader = |(place, group): (usize, Group)| {
            let reader = readers.get(&group.index).copied();
            (place, group, reader)
        };
        Self {
            n: groups.len(),
            groups: groups.into_iter().enumerate().map(with_reader).collect(),
            under_way: BTreeSet::new(),
            places: BTreeMap::new(),
            has: vec![0; workers],
            waiting: Vec::new(),
            window: most.map_or(usize::MAX, |most| most - workers).min(WINDOW * workers),
            most,
            workers_of_process,
        }
    }

    /// A worker asks for a group, done with the one that it names.
    fn hear(&mut self, Asking { worker, done }: Asking) {
        let worker = worker as usize;
        if let Some(place) = done.and_then(|group| self.places.remove(&group)) {
            self.under_way.remove(&place);
            if let Some(has) = self.has.get_mut(worker) {
                *has = has.saturating_sub(1);
            }
        }
        self.waiting.push(worker);
    }

    /// A group for one of those that wait: of those with the fewest the one that asked first. `None` where all have to wait.
    fn next(&mut self) -> Option<(usize, Group)> {
        let (first, ..) = self.groups.front()?;
        let oldest = self.under_way.first().map_or(*first, |oldest| *oldest.min(first));
        let given = self.n - oldest - self.groups.len();
        // Then the one that all others wait for is with a worker: while it is left, none beyond the window is given.
        if self.most.is_some_and(|most| given >= most) {
            return None;
        }
        let end = first + self.window;
        let has = |worker: usize| self.has.get(worker).copied().unwrap_or_default();
        let (at, &worker) = (self.waiting.iter().enumerate()).min_by_key(|(_, worker)| has(**worker))?;
        if has(worker) > 0 && self.groups.len() < self.has.len() {
            return None;
        }
        let (place, group) = self.near(end, worker / self.workers_of_process.max(1))?;
        self.waiting.remove(at);
        self.under_way.insert(place);
        self.places.insert(group.index, place);
        if let Some(has) = self.has.get_mut(worker) {
            *has += 1;
        }
        Some((worker, group))
    }

    /// Of the groups before place `end` one that a process read last; else one that nobody has read; else the one that its reader would come to last.
    fn near(&mut self, end: usize, process: usize) -> Option<(usize, Group)> {
        let near = self.groups.iter().take_while(|(place, ..)| *place < end);
        let readers: Vec<Option<usize>> = near.map(|(.., reader)| *reader).collect();
        let first_of = |wanted: Option<usize>| readers.iter().position(|reader| *reader == wanted);
        let at = first_of(Some(process)).or_else(|| first_of(None));
        let (place, group, _) = self.groups.remove(at.or(readers.len().checked_sub(1))?)?;
        Some((place, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(n: u64, waits: Waits, readers: &BTreeMap<u64, usize>, workers: usize, of_process: usize) -> Left {
        let group = |index| Group {
            index,
            shards: Vec::new(),
        };
        Left::new((0..n).map(group).collect(), waits, readers, workers, of_process)
    }

    impl Left {
        /// What is given to whom once a worker asks, done with a group or with none.
        fn given(&mut self, worker: u64, done: Option<u64>) -> Vec<(usize, u64)> {
            self.hear(Asking { worker, done });
            std::iter::from_fn(|| self.next().map(|(worker, group)| (worker, group.index))).collect()
        }
    }

    /// Groups given to workers that ask, done with none.
    fn given(n: u64, workers: usize, asking: &[u64]) -> Vec<(usize, u64)> {
        let mut left = left(n, Waits::InMemory(0), &BTreeMap::new(), workers, 1);
        asking.iter().flat_map(|&worker| left.given(worker, None)).collect()
    }

    #[test]
    fn a_group_for_each_worker_before_one_ahead() {
        assert_eq!(given(2, 2, &[0, 0, 1, 1]), [(0, 0), (1, 1)]);
        assert_eq!(given(4, 2, &[0, 1, 0, 1]), [(0, 0), (1, 1), (0, 2)]);
        assert_eq!(given(5, 3, &[0, 1, 0, 2, 1]), [(0, 0), (1, 1), (0, 2), (2, 3)]);
    }

    #[test]
    fn who_has_none_is_never_refused_one() {
        assert_eq!(given(3, 8, &[5, 3, 7, 1]), [(5, 0), (3, 1), (7, 2)]);
    }

    /// Who waits is given one as soon as there is one for it, whoever was done with what.
    #[test]
    fn nothing_is_given_far_ahead_of_what_is_not_done() {
        for workers in [1, 2, 5] {
            let n = 20 * workers;
            let mut left = left(n as u64, Waits::InMemory(0), &BTreeMap::new(), workers, 1);
            let mut given: VecDeque<(usize, u64)> = (0..2)
                .flat_map(|_| 0..workers as u64)
                .flat_map(|worker| left.given(worker, None))
                .collect();
            assert_eq!(given.len(), 2 * workers);
            // The first worker hangs on its first group.
            let hangs = given.pop_front().unwrap();
            let mut of_hanging = Vec::new();
            let mut last = 0;
            while let Some((worker, group)) = given.pop_front() {
                last = last.max(group);
                if worker == 0 {
                    of_hanging.push(group);
                } else {
                    given.extend(left.given(worker as u64, Some(group)));
                }
            }
            assert_eq!(hangs, (0, 0));
            let expected = if workers == 1 { 1 } else { AHEAD * workers - 1 };
            assert_eq!(last, expected as u64, "{workers} workers");
            // It comes round: all others go on at once, and the pass to its end.
            given.extend(left.given(0, Some(0)));
            assert!(workers == 1 || given.iter().any(|&(worker, _)| worker > 0), "{given:?}");
            given.extend(of_hanging.into_iter().map(|group| (0, group)));
            while let Some((worker, group)) = given.pop_front() {
                given.extend(left.given(worker as u64, Some(group)));
            }
            assert!(left.groups.is_empty() && left.under_way.is_empty());
        }
    }

    #[test]
    fn more_is_given_ahead_where_less_comes_of_each_group() {
        let most = [0, 1 << 20, 1 << 28, 1 << 29, u64::MAX].map(|bytes| most_waiting(bytes, 1));
        assert_eq!(most, [6, 6, 4, 2, 2]);
    }

    /// Two groups a worker, until the first one is done; also where processes leave the groups of others to the last.
    #[test]
    fn of_large_parts_few_wait_and_none_is_left() {
        for workers in [1, 2, 5] {
            for readers in [BTreeMap::new(), (0..60).map(|group| (group, 0)).collect()] {
                let mut left = left(60, Waits::InMemory(u64::MAX), &readers, workers, 1);
                let asking = (0..2).flat_map(|_| 0..workers as u64);
                let mut given: VecDeque<(usize, u64)> = asking.flat_map(|worker| left.given(worker, None)).collect();
                assert_eq!((given.len(), given[0]), (2 * workers, (0, 0)));
                // The first worker hangs on its first group; the others are done with theirs.
                let (others, mut of_first): (VecDeque<_>, VecDeque<_>) =
                    given.drain(..).partition(|&(worker, _)| worker > 0);
                for (worker, group) in others {
                    assert!(left.given(worker as u64, Some(group)).is_empty());
                }
                while let Some((worker, group)) = of_first.pop_front() {
                    of_first.extend(left.given(worker as u64, Some(group)));
                }
                assert!(left.groups.is_empty() && left.under_way.is_empty());
            }
        }
    }

    /// What is in the store waits in no memory.
    #[test]
    fn who_hangs_holds_nobody_up_where_groups_are_kept_in_the_store() {
        let mut left = left(100, Waits::InStore, &BTreeMap::new(), 2, 1);
        let mut given = left.given(0, None);
        given = [given, left.given(1, None), left.given(1, None)].concat();
        let mut done = 0;
        given.remove(0);
        while let Some((worker, group)) = given.pop() {
            done += 1;
            given.extend(left.given(worker as u64, Some(group)));
        }
        assert_eq!(done, 99);
    }

    /// Workers that are equally fast never wait, whatever they have read.
    #[test]
    fn equals_do_not_wait() {
        let workers = 4;
        for readers in [0, 7, 13].map(|by| (0..400).map(|group| (group, (group * by) as usize % 4)).collect()) {
            let mut left = left(400, Waits::InMemory(0), &readers, workers, 1);
            let asking = (0..2).flat_map(|_| 0..workers as u64);
            let mut given: VecDeque<(usize, u64)> = asking.flat_map(|worker| left.given(worker, None)).collect();
            while let Some((worker, group)) = given.pop_front() {
                given.extend(left.given(worker as u64, Some(group)));
                assert!(
                    left.waiting.is_empty() || left.groups.len() < workers,
                    "{:?}",
                    left.waiting
                );
            }
        }
    }

    /// Nor has any of them nothing to do where few groups may wait.
    #[test]
    fn equals_always_have_a_group() {
        let workers = 4;
        for readers in [0, 7, 13].map(|by| (0..400).map(|group| (group, (group * by) as usize % 4)).collect()) {
            let mut left = left(400, Waits::InMemory(u64::MAX), &readers, workers, 1);
            let asking = (0..2).flat_map(|_| 0..workers as u64);
            let mut given: VecDeque<(usize, u64)> = asking.flat_map(|worker| left.given(worker, None)).collect();
            while let Some((worker, group)) = given.pop_front() {
                given.extend(left.given(worker as u64, Some(group)));
                let has_none = |worker: &usize| left.has[*worker] == 0;
                assert!(!left.waiting.iter().any(has_none) || left.groups.len() < workers);
            }
        }
    }

    /// What processes get of ten groups, two workers in all: each with the one that asked and is done with it at once.
    fn given_to(readers: &BTreeMap<u64, usize>, asking: &[usize]) -> Vec<Option<u64>> {
        let mut left = left(10, Waits::InStore, readers, 2, 1);
        let next = |&process: &usize| {
            left.has.fill(0);
            left.waiting.clear();
            left.given(process as u64, None).first().map(|&(_, group)| group)
        };
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
