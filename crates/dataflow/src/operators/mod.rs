//! The operators that every pass over spectra is made of, in the order data flows through them.
//!
//! A reduction group's index is its timestamp: the frontier then says which groups are complete, and "in group order" is the order
//! of time. Groups are few (thousands), spectra many, so nothing here is per spectrum.

mod accumulate;
mod conclude;
mod deliver;
mod differentiate;
mod fetch;
mod gather;
mod plan;
mod reduce;

pub(crate) use accumulate::{Accumulate, GroupFold};
pub(crate) use conclude::Conclude;
pub(crate) use deliver::deliver;
pub(crate) use differentiate::Differentiate;
pub(crate) use fetch::{Fetch, GroupReader};
pub(crate) use gather::Gather;
pub(crate) use plan::{owned, plan};
pub(crate) use reduce::ReduceInGroupOrder;

use serde::{Deserialize, Serialize};

/// What flows through a worker: the batches of a group in catalogue order, then its end.
#[derive(Clone, Debug)]
pub(crate) enum GroupItem<T> {
    /// A batch of the group, or what became of it.
    Batch(T),
    /// The group has no more batches.
    End,
}

/// A group's contribution to one total, or the total itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part<P> {
    /// Which total; also decides which worker owns it.
    pub(crate) key: u64,
    /// What is added.
    pub(crate) value: P,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RunError;
    use crate::fault::Faults;
    use fisherflow_spectra::Group;
    use std::sync::Arc;
    use std::time::{Duration, Instant};
    use timely::dataflow::ProbeHandle;

    /// Counts groups; the group `fails` does.
    struct Count {
        fails: Option<u64>,
    }

    impl GroupFold<()> for Count {
        type Output = u64;

        fn add(&mut self, _group: u64, (): ()) -> Result<(), RunError> {
            Ok(())
        }

        fn finish(&mut self, group: u64) -> Result<Vec<(u64, u64)>, RunError> {
            if self.fails == Some(group) {
                // By now the other process is done with its own groups.
                std::thread::sleep(Duration::from_millis(200));
                return Err(RunError::Stopped);
            }
            Ok(vec![(0, 1)])
        }
    }

    /// Two processes (a worker each, with faults of its own) count six groups; `before`: what happens to the second first. Whether the first one
    /// takes the pass for complete within a second.
    fn first_sees_an_end(fails: Option<u64>, before: fn(&Faults)) -> (bool, Arc<Faults>) {
        let second: Arc<Faults> = Arc::default();
        before(&second);
        let of_second = Arc::clone(&second);
        let guards = timely::execute(timely::Config::process(2), move |worker| {
            let faults = match worker.index() {
                0 => Arc::default(),
                _ => Arc::clone(&of_second),
            };
            let probe = ProbeHandle::new();
            worker.dataflow::<u64, _, _>(|scope| {
                let groups = (0..6).map(|index| Group {
                    index,
                    shards: Vec::new(),
                });
                plan(scope, groups.collect())
                    .fetch(&faults, |_| Box::new(std::iter::empty()))
                    .differentiate(&faults, |_| Ok(()))
                    .accumulate("Count", &faults, Count { fails })
                    .reduce_in_group_order(&faults, |total, more| {
                        *total += more;
                        Ok(())
                    })
                    .gather(&probe);
            });
            let started = Instant::now();
            while !probe.done() && !faults.raised() && started.elapsed() < Duration::from_secs(1) {
                worker.step_or_park(Some(Duration::from_millis(5)));
            }
            let ended = worker.index() == 0 && probe.done();
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            ended
        });
        let ended = guards.unwrap().join().into_iter().any(Result::unwrap);
        (ended, second)
    }

    /// Otherwise that process would write sums that lack a group.
    #[test]
    fn a_fault_in_one_process_keeps_the_pass_from_ending_in_another() {
        assert!(first_sees_an_end(None, |_| ()).0, "without a fault the pass ends");
        let (ended, faults) = first_sees_an_end(Some(5), |_| ());
        assert!(faults.raised() && !ended);
        let (ended, _) = first_sees_an_end(None, |faults| faults.raise(RunError::Stopped));
        assert!(!ended);
    }

    #[test]
    fn a_drain_in_one_process_keeps_the_pass_from_ending_in_another() {
        let (ended, faults) = first_sees_an_end(None, |faults| faults.drain().ask());
        assert!(!ended && !faults.raised());
        assert!(faults.drain().has_held_back() && faults.drain().is_quiet());
    }
}
