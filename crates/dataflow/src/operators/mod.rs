//! The operators that every pass over spectra is made of, in the order data flows through them.
//!
//! ```text
//! assign -> fetch -> differentiate -> accumulate -> reduce_in_group_order -> conclude -> gather        small sums, as messages
//!    ^        |                                  -> commit                                             large ones, to the store;
//!    +- ask --+                                                 fold_slices -> assemble -> conclude -> gather   then from there
//! ```
//!
//! Workers ask for groups, and get them nearly in the order of their index, of the next few those first that their process has read: a time is a round of
//! asking, and says nothing of a group. What flows carries its group's index. A total is complete when every group of a known list is in it, never because a frontier has passed.
//! Groups are few (thousands), spectra many, so nothing here is per spectrum.
//!
//! The same bits for any cluster follow from the order alone: f64 sums of fixed groups, added in the order of the groups. Sums in fixed
//! point would be free of any order, but need a scale that is known ahead and lose what is below it; a fixed order costs a wait, and
//! that only where a group comes early. Where a group changes, all that must be done again is the fold over what the store has.

mod accumulate;
mod assign;
mod commit;
mod conclude;
mod deliver;
mod differentiate;
mod fetch;
mod fold_slices;
mod gather;
mod plan;
mod reduce;

pub(crate) use accumulate::{Accumulated, GroupFold, accumulate};
pub(crate) use assign::{Readers, Waits, assign, most_waiting};
pub(crate) use commit::{CommittedGroup, GroupSums, commit};
pub(crate) use conclude::conclude;
pub(crate) use deliver::deliver;
pub(crate) use differentiate::differentiate;
pub(crate) use fetch::{GroupReader, READ_AHEAD, fetch};
pub(crate) use fold_slices::IN_HAND as SLICES_IN_HAND;
pub(crate) use fold_slices::{SliceFold, Total, assemble, fold_slices};
pub(crate) use gather::gather;
pub(crate) use plan::{emit, owned};
pub(crate) use reduce::reduce_in_group_order;

use fisherflow_spectra::Group;
use serde::{Deserialize, Serialize};

use crate::drain::UnderWay;

/// What flows through a worker: the batches of a group in catalogue order, then its end.
#[derive(Debug)]
pub(crate) struct GroupItem<T> {
    /// The group's index.
    pub(crate) group: u64,
    pub(crate) what: Piece<T>,
}

/// A piece of a group.
#[derive(Debug)]
pub(crate) enum Piece<T> {
    /// A batch of the group, or what became of it.
    Batch(T),
    /// The group has no more batches.
    End(UnderWay),
}

/// A contribution to one total, or the total itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part<P> {
    /// Which total; also decides which worker owns it.
    pub(crate) key: u64,
    /// What is added.
    pub(crate) value: P,
}

/// A worker asks for a group: as often at first as it may have groups, then each time that it is done with one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Asking {
    pub(crate) worker: u64,
    /// The index of the one that it is done with; `None` at first.
    pub(crate) done: Option<u64>,
}

/// A group, and the worker that asked for one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Assigned {
    pub(crate) worker: u64,
    pub(crate) group: Group,
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RunError;
    use crate::fault::Faults;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};
    use timely::dataflow::ProbeHandle;

    /// Lists groups; the group `fails` does, and this worker takes `pause` for each.
    struct List {
        fails: Option<u64>,
        pause: Duration,
        done: Arc<Mutex<Vec<(usize, u64)>>>,
        worker: usize,
    }

    impl GroupFold<()> for List {
        type Output = Vec<u64>;

        fn add(&mut self, _group: u64, (): ()) -> Result<(), RunError> {
            Ok(())
        }

        fn finish(&mut self, group: u64) -> Result<Self::Output, RunError> {
            std::thread::sleep(self.pause);
            if self.fails == Some(group) {
                // By now the other worker is done with its own groups.
                std::thread::sleep(Duration::from_millis(200));
                return Err(RunError::Stopped);
            }
            self.done.lock().unwrap().push((self.worker, group));
            Ok(vec![group])
        }
    }

    /// What a pass over groups came to.
    struct Seen {
        /// Whether the first process takes the pass for complete within some seconds, and the groups in the order in which they were added.
        ended: Option<Vec<u64>>,
        /// Which worker did which group.
        done: Vec<(usize, u64)>,
        /// Of the second process.
        faults: Arc<Faults>,
    }

    fn groups(n: u64) -> Vec<Group> {
        (0..n)
            .map(|index| Group {
                index,
                shards: Vec::new(),
            })
            .collect()
    }

    /// Two processes (a worker each, with faults of its own) go through `n` groups; `before`: what happens to the second first.
    fn pass(n: u64, fails: Option<u64>, pauses: [u64; 2], before: fn(&Faults)) -> Seen {
        let second: Arc<Faults> = Arc::default();
        before(&second);
        let is_disturbed = fails.is_some() || second.raised() || second.drain().is_asked();
        let patience = Duration::from_secs(if is_disturbed { 1 } else { 20 });
        let (of_second, done) = (Arc::clone(&second), Arc::default());
        let into = Arc::clone(&done);
        let guards = timely::execute(timely::Config::process(2), move |worker| {
            let faults = match worker.index() {
                0 => Arc::default(),
                _ => Arc::clone(&of_second),
            };
            let list = List {
                fails,
                pause: Duration::from_millis(pauses[worker.index()]),
                done: Arc::clone(&into),
                worker: worker.index(),
            };
            let probe = ProbeHandle::new();
            let total = worker.dataflow::<u64, _, _>(|scope| {
                let readers = Readers::default();
                let batches = fetch(scope, &faults, groups(n), Waits::InMemory(0), (&readers, 1), 1, |_| {
                    Box::new(std::iter::empty())
                });
                let batches = differentiate(batches, &faults, |_| Ok(()));
                let lists = accumulate(batches, "List", &faults, list);
                let total = reduce_in_group_order(lists, &faults, &groups(n), |total: &mut Vec<u64>, mut more| {
                    total.append(&mut more);
                    Ok(())
                });
                gather(total, &probe)
            });
            let started = Instant::now();
            while !probe.done() && !faults.raised() && started.elapsed() < patience {
                worker.step_or_park(Some(Duration::from_millis(5)));
            }
            let ended = (worker.index() == 0 && probe.done())
                .then(|| total.take().remove(&0))
                .flatten();
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            ended
        });
        let ended = guards.unwrap().join().into_iter().find_map(Result::unwrap);
        let done = done.lock().unwrap().clone();
        Seen {
            ended,
            done,
            faults: second,
        }
    }

    #[test]
    fn every_group_is_handed_out_once_and_added_in_order() {
        let seen = pass(40, None, [0, 0], |_| ());
        assert_eq!(seen.ended, Some((0..40).collect()));
        let mut done: Vec<u64> = seen.done.iter().map(|&(_, group)| group).collect();
        done.sort_unstable();
        assert_eq!(done, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn a_slow_worker_takes_fewer_groups() {
        let seen = pass(40, None, [0, 60], |_| ());
        assert_eq!(seen.ended, Some((0..40).collect()));
        let of_slow = seen.done.iter().filter(|&&(worker, _)| worker == 1).count();
        assert!(of_slow < 20, "{of_slow} of 40");
    }

    /// What comes after it waits in memory.
    #[test]
    fn a_worker_that_hangs_holds_the_others_back() {
        let seen = pass(60, None, [0, 300], |_| ());
        assert_eq!(seen.ended, Some((0..60).collect()));
        let before = seen.done.iter().take_while(|&&(worker, _)| worker == 0).count();
        assert!(before < 20, "{before} of 60 before the second worker's first");
    }

    /// Otherwise that process would write sums that lack a group.
    #[test]
    fn a_fault_in_one_process_keeps_the_pass_from_ending_in_another() {
        assert!(
            pass(6, None, [0, 0], |_| ()).ended.is_some(),
            "without a fault the pass ends"
        );
        let seen = pass(6, Some(5), [0, 0], |_| ());
        assert!(seen.ended.is_none());
        let seen = pass(6, None, [50, 0], |faults| faults.raise(RunError::Stopped));
        assert!(seen.ended.is_none());
    }

    #[test]
    fn a_drain_in_one_process_keeps_the_pass_from_ending_in_another() {
        // The first takes its time over its groups: the second is given some too.
        let seen = pass(6, None, [50, 0], |faults| faults.drain().ask());
        assert!(seen.ended.is_none() && !seen.faults.raised());
        assert!(seen.faults.drain().has_held_back() && seen.faults.drain().is_quiet());
    }
}
