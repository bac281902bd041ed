//! What a process has done so far, and what the other processes last told of themselves: one place that workers add to, and that whoever
//! shows a run (terminal, log, status object, metrics) reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use fisherflow_store::{Traffic, TrafficCounts};

use crate::cluster::wire::{Wire, WireCounts};
use crate::plan::resources::resident;
use crate::progress::operator_times::OperatorTimes;
use crate::progress::standing::{PassCount, ProcessReport, Standing, Unit, WorkerCount};

/// Shows how far a run is.
pub trait Progress: Send + Sync {
    /// A pass begins, over so much in all processes together.
    fn begin(&self, pass: &str, of: u64);
    /// How far it is; called by one thread several times a second, in the first process with what all of them told.
    fn show(&self, standing: &Standing);
    /// It is over: what this process did of it.
    fn end(&self, done: &PassCount);
}

/// Shows nothing.
struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn show(&self, _: &Standing) {}
    fn end(&self, _: &PassCount) {}
}

/// The counts of one process.
pub struct Meter {
    display: Arc<dyn Progress>,
    started: Instant,
    place: OnceLock<Place>,
    run_id: OnceLock<String>,
    traffic: OnceLock<Arc<Traffic>>,
    wire: Arc<Wire>,
    counts: Mutex<Counts>,
    times: Mutex<BTreeMap<usize, Arc<Mutex<OperatorTimes>>>>,
    peers: Mutex<BTreeMap<u32, (ProcessReport, Instant)>>,
}

/// Which of the processes this one is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    process: usize,
    processes: usize,
}

#[derive(Default)]
struct Counts {
    passes: Vec<PassCount>,
    current: Option<Current>,
    /// By their index over all processes.
    workers: BTreeMap<usize, WorkerCount>,
    threads: HashMap<ThreadId, usize>,
    /// The pass that each worker last began.
    began: BTreeMap<usize, usize>,
}

#[derive(Clone, Copy)]
struct Current {
    pass: usize,
    begun: Instant,
    read_before: u64,
    /// Workers that have ended it.
    ended: usize,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter")
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}

impl Meter {
    /// Nothing is done yet; `display` is told what is.
    #[must_use]
    pub fn new(display: Arc<dyn Progress>) -> Arc<Self> {
        Arc::new(Self {
            display,
            started: Instant::now(),
            place: OnceLock::new(),
            run_id: OnceLock::new(),
            traffic: OnceLock::new(),
            wire: Arc::default(),
            counts: Mutex::default(),
            times: Mutex::default(),
            peers: Mutex::default(),
        })
    }

    /// Shows nothing to anybody.
    #[must_use]
    pub fn silent() -> Arc<Self> {
        Self::new(Arc::new(Silent))
    }

    /// Of this process alone.
    #[must_use]
    pub fn report(&self) -> ProcessReport {
        let counts = held(&self.counts);
        let read = self.traffic().bytes_read;
        let mut passes = counts.passes.clone();
        if let Some(current) = counts.current {
            passes[current.pass].seconds += current.begun.elapsed().as_secs_f64();
            passes[current.pass].bytes_read += read.saturating_sub(current.read_before);
        }
        ProcessReport {
            process: self.place().process as u32,
            passes,
            current: counts.current.map(|current| current.pass),
            workers: counts.workers.values().copied().collect(),
            bytes_read: read,
            bytes_written: self.traffic().bytes_written,
            resident: resident(),
        }
    }

    /// Of all processes, as far as they told: in the first process all of them do, in any other none.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let now = Instant::now();
        let mut reports = vec![(self.report(), Duration::ZERO)];
        let peers = held(&self.peers);
        reports.extend(peers.values().map(|(report, heard)| (report.clone(), now - *heard)));
        Standing::new(reports, self.place().processes)
    }

    /// Names the run, once it is known.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.get().map(String::as_str)
    }

    /// Time since the process began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Which process this one is, and of how many.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        (self.place().process, self.place().processes)
    }

    /// What this process exchanged with its object stores.
    #[must_use]
    pub fn traffic(&self) -> TrafficCounts {
        self.traffic
            .get()
            .map_or_else(TrafficCounts::default, |traffic| traffic.counts())
    }

    /// What this process exchanged with the others.
    #[must_use]
    pub fn wire(&self) -> WireCounts {
        self.wire.counts()
    }

    /// Where each worker of this process spent its time, by its index over all processes.
    #[must_use]
    pub fn times(&self) -> BTreeMap<usize, OperatorTimes> {
        let times = held(&self.times);
        times
            .iter()
            .map(|(&worker, times)| (worker, held(times).clone()))
            .collect()
    }

    /// A pass begins (`evidence`, `invert`, ...) over so many blocks of all processes; it ends the pass before. Every worker of the process
    /// may tell: a pass that is under way does not begin again.
    pub(crate) fn begin(&self, pass: &str, of: u64) {
        self.begin_pass(pass, Unit::Blocks, of, 0);
    }

    /// A pass begins over so many tiles of all processes; likewise.
    pub(crate) fn begin_over_tiles(&self, pass: &str, of: u64) {
        self.begin_pass(pass, Unit::Tiles, of, 0);
    }

    /// A pass begins (`population`, `curvature`, ...) over so many spectra and groups of all processes; likewise.
    pub(crate) fn begin_over_spectra(&self, pass: &str, spectra: u64, groups: u64) {
        self.begin_pass(pass, Unit::Spectra, spectra, groups);
    }

    fn begin_pass(&self, pass: &str, unit: Unit, of: u64, of_groups: u64) {
        let read_before = self.traffic().bytes_read;
        let ended = {
            let mut counts = held(&self.counts);
            if let Some(current) = counts
                .current
                .filter(|current| counts.passes[current.pass].pass == pass)
            {
                counts.begun_by_this_worker(current.pass);
                return;
            }
            let ended = counts.end(read_before);
            let found = counts.passes.iter().position(|known| known.pass == pass);
            let at = found.unwrap_or_else(|| {
                counts.passes.push(PassCount::new(pass, unit));
                counts.passes.len() - 1
            });
            counts.passes[at].of += of;
            counts.passes[at].of_groups += of_groups;
            counts.current = Some(Current {
                pass: at,
                begun: Instant::now(),
                read_before,
                ended: 0,
            });
            counts.begun_by_this_worker(at);
            for worker in counts.workers.values_mut() {
                (worker.done, worker.groups) = (0, 0);
            }
            ended
        };
        if let Some(ended) = ended {
            self.display.end(&ended);
        }
        self.display.begin(pass, of);
    }

    /// So many more are done, by this thread's worker.
    pub(crate) fn advance(&self, done: u64) {
        let counts = &mut *held(&self.counts);
        if let Some(current) = counts.current {
            counts.passes[current.pass].done += done;
            if let Some(worker) = counts.this_worker() {
                worker.done += done;
            }
        }
    }

    /// So many groups and their spectra were done by an earlier try of the run: they are done, and say nothing of how fast this one is.
    pub(crate) fn resume(&self, groups: u64, spectra: u64) {
        let counts = &mut *held(&self.counts);
        if let Some(current) = counts.current {
            let pass = &mut counts.passes[current.pass];
            (pass.done, pass.resumed, pass.groups) =
                (pass.done + spectra, pass.resumed + spectra, pass.groups + groups);
        }
    }

    /// This thread's worker has one more group behind it.
    pub(crate) fn group_done(&self) {
        let counts = &mut *held(&self.counts);
        if let Some(current) = counts.current {
            counts.passes[current.pass].groups += 1;
            if let Some(worker) = counts.this_worker() {
                worker.groups += 1;
            }
        }
    }

    /// This thread's worker is done with the last pass that it began; it is over once all workers of the process are. A worker may be in the next pass
    /// already.
    pub(crate) fn end(&self) {
        let read = self.traffic().bytes_read;
        let ended = {
            let mut counts = held(&self.counts);
            if counts.is_last_to_end() {
                counts.end(read)
            } else {
                None
            }
        };
        if let Some(ended) = ended {
            self.display.end(&ended);
        }
    }

    /// What of the current pass is to be shown.
    pub(crate) fn show(&self) {
        self.display.show(&self.standing());
    }

    /// The run's name, and its stores, whose traffic is this process's.
    pub fn reads_from(&self, traffic: &Arc<Traffic>, run_id: &str) {
        self.traffic.get_or_init(|| Arc::clone(traffic));
        self.run_id.get_or_init(|| run_id.to_owned());
    }

    /// Which of the processes this one is.
    pub(crate) fn is_process(&self, process: usize, processes: usize) {
        self.place.get_or_init(|| Place { process, processes });
    }

    /// The calling thread is this worker; where its time is to be added.
    pub(crate) fn is_worker(&self, worker: usize) -> Arc<Mutex<OperatorTimes>> {
        let mut counts = held(&self.counts);
        counts.threads.insert(std::thread::current().id(), worker);
        counts.workers.insert(
            worker,
            WorkerCount {
                worker: worker as u32,
                ..WorkerCount::default()
            },
        );
        Arc::clone(held(&self.times).entry(worker).or_default())
    }

    /// Where what goes to other processes is counted.
    pub(crate) fn on_the_wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Another process told this of itself.
    pub(crate) fn hear(&self, report: ProcessReport) {
        held(&self.peers).insert(report.process, (report, Instant::now()));
    }

    fn place(&self) -> Place {
        self.place.get().copied().unwrap_or(Place {
            process: 0,
            processes: 1,
        })
    }
}

impl Counts {
    /// Ends the current pass.
    fn end(&mut self, read: u64) -> Option<PassCount> {
        let current = self.current.take()?;
        let pass = &mut self.passes[current.pass];
        pass.seconds += current.begun.elapsed().as_secs_f64();
        pass.bytes_read += read.saturating_sub(current.read_before);
        Some(pass.clone())
    }

    fn begun_by_this_worker(&mut self, pass: usize) {
        if let Some(&worker) = self.threads.get(&std::thread::current().id()) {
            self.began.insert(worker, pass);
        }
    }

    /// Whether with this thread's worker all of the process are done with the current pass.
    fn is_last_to_end(&mut self) -> bool {
        let worker = self.threads.get(&std::thread::current().id());
        match (&mut self.current, worker) {
            (Some(current), Some(worker)) if self.began.get(worker) == Some(&current.pass) => {
                current.ended += 1;
                current.ended >= self.workers.len()
            }
            (Some(_), Some(_)) => false,
            (current, None) => current.is_some(),
            (None, _) => false,
        }
    }

    fn this_worker(&mut self) -> Option<&mut WorkerCount> {
        let worker = self.threads.get(&std::thread::current().id())?;
        self.workers.get_mut(worker)
    }
}

/// The value of a mutex, whoever else panicked: counts are only shown.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_pass() {
        let meter = Meter::silent();
        let in_thread = |worker: usize, done: u64| {
            let meter = Arc::clone(&meter);
            let thread = std::thread::spawn(move || {
                meter.is_worker(worker);
                meter.begin_over_spectra("curvature", 10, 2);
                meter.advance(done);
                meter.group_done();
            });
            thread.join().unwrap();
        };
        in_thread(0, 3);
        in_thread(1, 4);
        let report = meter.report();
        let pass = &report.passes[0];
        assert_eq!((pass.done, pass.of, pass.groups, pass.of_groups), (7, 10, 2, 2));
        let by_worker: Vec<u64> = report.workers.iter().map(|worker| worker.done).collect();
        assert_eq!(by_worker, [3, 4]);

        meter.begin("invert", 5);
        let report = meter.report();
        assert_eq!(report.current, Some(1));
        assert!(
            report
                .workers
                .iter()
                .all(|worker| worker.done == 0 && worker.groups == 0)
        );
        assert_eq!(report.passes[0].done, 7, "what was done stays");
        meter.end();
        meter.advance(1);
        assert_eq!(meter.report().passes[1].done, 0);
    }

    /// One worker is done with a pass and in the next before another has ended the first.
    #[test]
    fn a_worker_that_is_late_ends_nothing_but_its_own_pass() {
        let meter = Meter::silent();
        let in_thread = |worker: usize, act: fn(&Meter)| {
            let meter = Arc::clone(&meter);
            std::thread::spawn(move || {
                held(&meter.counts).threads.insert(std::thread::current().id(), worker);
                act(&meter);
            })
            .join()
            .unwrap();
        };
        for worker in 0..2 {
            in_thread(worker, |meter| {
                let worker = held(&meter.counts).threads[&std::thread::current().id()];
                meter.is_worker(worker);
                meter.begin_over_spectra("curvature", 10, 2);
            });
        }
        in_thread(0, |meter| {
            meter.end();
            meter.begin_over_spectra("correction", 10, 2);
        });
        in_thread(1, Meter::end);
        in_thread(1, |meter| meter.begin_over_spectra("correction", 10, 2));
        let report = meter.report();
        assert_eq!((report.current, report.passes[1].of), (Some(1), 10));
        in_thread(1, Meter::end);
        assert_eq!(meter.report().current, Some(1));
        in_thread(0, Meter::end);
        assert_eq!(meter.report().current, None);
    }

    #[test]
    fn what_others_tell_is_added() {
        let meter = Meter::silent();
        meter.is_process(0, 2);
        meter.begin_over_spectra("predict", 100, 10);
        meter.advance(20);
        let other = Meter::silent();
        other.is_process(1, 2);
        other.begin_over_spectra("predict", 100, 10);
        other.advance(30);
        meter.hear(other.report());
        let standing = meter.standing();
        assert_eq!((standing.done, standing.of, standing.silent), (50, 100, 0));
        let rate = standing.rate * standing.seconds;
        meter.resume(4, 40);
        let standing = meter.standing();
        assert_eq!((standing.done, standing.groups), (90, 4));
        assert!(
            (standing.rate * standing.seconds - rate).abs() < 1e-6,
            "what was there is no speed"
        );
    }
}
