//! Where a worker's time went, from timely's own log: the time that each operator was scheduled, without that of the operators inside it, and
//! the time that the worker was parked, exchanged messages, or was in no dataflow at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timely::logging::{ParkEvent, StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

/// What a worker is doing, of all that it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Waiting for spectra that are read ahead, and handing them on.
    Fetch,
    /// Forward and backward passes over batches.
    Differentiate,
    /// Sums over batches, and error bars of them.
    Accumulate,
    /// Messages between workers, and who has got how far.
    Exchange,
    /// Sums over groups, out of the store.
    Reduce,
    /// Eigenproblems, factors and inverses of blocks.
    Invert,
    /// Groups' sums to the store, eigenbases, and matrices to the output.
    Write,
    /// Parked: nothing to do until another worker is done.
    Idle,
    /// Between two dataflows: what one pass left is read, and the next is made ready.
    Between,
    /// Any other operator.
    Other,
}

impl Activity {
    /// Every one of them, in the order data flows.
    pub const ALL: [Self; 10] = [
        Self::Fetch,
        Self::Differentiate,
        Self::Accumulate,
        Self::Exchange,
        Self::Reduce,
        Self::Invert,
        Self::Write,
        Self::Idle,
        Self::Between,
        Self::Other,
    ];

    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Differentiate => "differentiate",
            Self::Accumulate => "accumulate",
            Self::Exchange => "exchange",
            Self::Reduce => "reduce",
            Self::Invert => "invert",
            Self::Write => "write",
            Self::Idle => "idle",
            Self::Between => "between",
            Self::Other => "other",
        }
    }

    /// That of an operator by its name: those that move data have names of their own, folds and conclusions the name of what they do.
    #[must_use]
    pub fn of(operator: &str) -> Self {
        match operator {
            PARKED => Self::Idle,
            BETWEEN => Self::Between,
            "Fetch" => Self::Fetch,
            "Differentiate" => Self::Differentiate,
            DATAFLOW | "Agree" | "Assign" | "Broadcast" | "Concatenate" | "Deliver" | "Exchange" | "Feedback"
            | "FlatMap" | "Gather" | "Inspect" | "OkErr" | "Plan" | "Probe" => Self::Exchange,
            "Assemble" | "FoldSlices" | "ReduceInGroupOrder" => Self::Reduce,
            "Compare" | "Factor" | "Finish" | "Invert" | "MarginalVariance" | "Rows" | "Spectrum" => Self::Invert,
            "Commit" | "Conclude" => Self::Write,
            "Choose" | "HeldOut" | "LabelScale" | "Population" | "Products" | "Scan" | "certify" | "correction"
            | "curvature" | "predict" => Self::Accumulate,
            _ => Self::Other,
        }
    }
}

/// The dataflow itself, and what a worker does for it outside of any operator.
const DATAFLOW: &str = "Dataflow";
/// Parked by timely.
const PARKED: &str = "Parked";
/// In no dataflow.
const BETWEEN: &str = "Between";

/// Where one worker's time went.
#[derive(Clone, Debug, Default)]
pub struct OperatorTimes {
    seconds: BTreeMap<String, f64>,
    names: HashMap<usize, String>,
    /// The dataflows that are there.
    roots: Vec<usize>,
    scheduled: Vec<usize>,
    parked: bool,
    until: Duration,
}

impl OperatorTimes {
    /// Seconds by the operator's name.
    #[must_use]
    pub fn by_operator(&self) -> &BTreeMap<String, f64> {
        &self.seconds
    }

    /// Seconds by what they were spent on; nothing is missing that was spent on anything.
    #[must_use]
    pub fn by_activity(&self) -> BTreeMap<Activity, f64> {
        let mut sums = BTreeMap::new();
        for (operator, seconds) in &self.seconds {
            *sums.entry(Activity::of(operator)).or_default() += seconds;
        }
        sums
    }

    /// Adds what a worker's log tells, in the order of time.
    fn add(&mut self, at: Duration, event: TimelyEvent) {
        match event {
            TimelyEvent::Operates(operator) => {
                if operator.addr.len() == 1 {
                    self.spend(at);
                    self.roots.push(operator.id);
                    self.names.insert(operator.id, DATAFLOW.to_owned());
                } else {
                    self.names.insert(operator.id, operator.name);
                }
            }
            TimelyEvent::Schedule(schedule) => {
                self.spend(at);
                match schedule.start_stop {
                    StartStop::Start => self.scheduled.push(schedule.id),
                    StartStop::Stop => self.scheduled.truncate(self.scheduled.len().saturating_sub(1)),
                }
            }
            TimelyEvent::Park(park) => {
                self.spend(at);
                self.parked = matches!(park, ParkEvent::Park(_));
            }
            TimelyEvent::Shutdown(operator) => {
                self.spend(at);
                self.names.remove(&operator.id);
                self.roots.retain(|&root| root != operator.id);
            }
            _ => {}
        }
    }

    /// Everything up to now was what the worker was doing.
    fn spend(&mut self, now: Duration) {
        let spent = now.saturating_sub(self.until);
        self.until = now;
        let what = if self.parked {
            PARKED
        } else if let Some(operator) = self.scheduled.last() {
            self.names.get(operator).map_or(DATAFLOW, String::as_str)
        } else if !self.roots.is_empty() {
            DATAFLOW
        } else {
            BETWEEN
        };
        match self.seconds.get_mut(what) {
            Some(seconds) => *seconds += spent.as_secs_f64(),
            None => {
                self.seconds.insert(what.to_owned(), spent.as_secs_f64());
            }
        }
    }
}

/// Lets a worker's log be added up in `times`, from its first dataflow on.
pub(crate) fn observe(worker: &Worker, times: Arc<Mutex<OperatorTimes>>) {
    if let Some(mut logs) = worker.log_register() {
        logs.insert::<TimelyEventBuilder, _>("timely", move |_time, events| {
            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
            for (at, event) in events.take().unwrap_or_default() {
                times.add(at, event);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use timely::logging::{OperatesEvent, ScheduleEvent, ShutdownEvent};

    #[test]
    fn every_moment_belongs_to_one_activity() {
        let mut times = OperatorTimes::default();
        let operates = |id: usize, addr: &[usize], name: &str| {
            TimelyEvent::Operates(OperatesEvent {
                id,
                addr: addr.to_vec(),
                name: name.to_owned(),
            })
        };
        let start = |id| TimelyEvent::Schedule(ScheduleEvent::start(id));
        let stop = |id| TimelyEvent::Schedule(ScheduleEvent::stop(id));
        let events = [
            (2, operates(1, &[0, 1], "Fetch")),
            (3, operates(0, &[0], "Dataflow")),
            (4, start(0)),
            (5, start(1)),
            (9, stop(1)),
            (10, stop(0)),
            (11, TimelyEvent::Park(ParkEvent::Park(None))),
            (31, TimelyEvent::Park(ParkEvent::Unpark)),
            (32, TimelyEvent::Shutdown(ShutdownEvent { id: 1 })),
            (32, TimelyEvent::Shutdown(ShutdownEvent { id: 0 })),
            (35, operates(2, &[1], "Dataflow")),
        ];
        for (at, event) in events {
            times.add(Duration::from_secs(at), event);
        }
        let spent: Vec<(Activity, f64)> = times.by_activity().into_iter().collect();
        assert_eq!(
            spent,
            [
                (Activity::Fetch, 4.0),
                // Before, around and behind the operator, and until and from the parking.
                (Activity::Exchange, 5.0),
                (Activity::Idle, 20.0),
                (Activity::Between, 6.0)
            ]
        );
        assert_eq!(spent.iter().map(|(_, seconds)| seconds).sum::<f64>(), 35.0);
    }

    #[test]
    fn a_worker_tells_what_its_operators_do() {
        use timely::dataflow::operators::{Inspect, ToStream};
        let times = timely::execute_directly(|worker| {
            let times = Arc::<Mutex<OperatorTimes>>::default();
            observe(worker, Arc::clone(&times));
            worker.dataflow::<u64, _, _>(|scope| {
                (0..3_u64)
                    .to_stream(scope)
                    .container::<Vec<_>>()
                    .inspect(|_| std::thread::sleep(Duration::from_millis(20)));
            });
            while worker.step() {}
            times
        });
        let times = times.lock().unwrap();
        let slept = times.by_operator().iter().find(|(name, _)| name.starts_with("Inspect"));
        assert!(*slept.unwrap().1 >= 0.06, "{times:?}");
    }
}
