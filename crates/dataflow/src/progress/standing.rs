//! How far a run is: what one process tells of itself, and what the reports of all of them add up to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the things are that a pass counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Spectra, in groups.
    Spectra,
    /// Blocks of the Hessian: one may take as long as all others, so that nobody knows how long those left will.
    Blocks,
    /// Tiles of a block, all of one size.
    Tiles,
}

/// One pass of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassCount {
    /// Its name.
    pub pass: String,
    /// What it counts.
    pub unit: Unit,
    /// How many there are, in all processes together.
    pub of: u64,
    /// Groups of spectra, likewise; 0 for blocks.
    pub of_groups: u64,
    /// How many this process has done, or found done by an earlier try.
    pub done: u64,
    /// Those of an earlier try.
    pub resumed: u64,
    /// Groups that this process has read to their end, or found done.
    pub groups: u64,
    /// Bytes that came from the stores meanwhile.
    pub bytes_read: u64,
    /// Wall time.
    pub seconds: f64,
}

/// A worker in the current pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCount {
    /// Its index over all processes.
    pub worker: u32,
    /// Spectra or blocks it has done.
    pub done: u64,
    /// Groups it has read to their end.
    pub groups: u64,
}

/// What a process tells of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// Which of the processes.
    pub process: u32,
    /// Its passes, in the order they began.
    pub passes: Vec<PassCount>,
    /// The one under way; `None` between two.
    pub current: Option<usize>,
    /// Its workers.
    pub workers: Vec<WorkerCount>,
    /// Bytes that came from the stores, in all.
    pub bytes_read: u64,
    /// Bytes that went there.
    pub bytes_written: u64,
    /// Bytes of memory it has now; `None` where the system does not tell.
    pub resident: Option<u64>,
}

/// How far all processes are in the first one's pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The pass; `None` between two.
    pub pass: Option<String>,
    /// What it counts.
    pub unit: Unit,
    /// Spectra or blocks done,
    pub done: u64,
    /// and how many there are.
    pub of: u64,
    /// Groups read to their end,
    pub groups: u64,
    /// and how many there are.
    pub of_groups: u64,
    /// Wall time of the pass so far.
    pub seconds: f64,
    /// Spectra or blocks a second.
    pub rate: f64,
    /// Bytes a second from the stores.
    pub bytes_rate: f64,
    /// Seconds to go in this pass; `None` before the first spectrum is done, and where this process does not know of all others.
    pub eta_s: Option<f64>,
    /// The worker that has done least, of two or more.
    pub slowest: Option<Slowest>,
    /// Processes that told nothing yet.
    pub silent: u64,
    /// What each of the others told, the first process first.
    pub processes: Vec<ProcessStanding>,
}

/// The worker that has done least.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slowest {
    /// Its index over all processes.
    pub worker: u32,
    /// Its process.
    pub process: u32,
    /// What it has done.
    pub done: u64,
    /// What the workers have done on average.
    pub mean: f64,
}

impl Slowest {
    /// How far it is behind the average, as a share of it.
    #[must_use]
    pub fn behind(&self) -> f64 {
        if self.mean > 0.0 {
            1.0 - self.done as f64 / self.mean
        } else {
            0.0
        }
    }
}

/// What a process told, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessStanding {
    /// Seconds ago.
    pub heard_s: f64,
    /// What it told.
    #[serde(flatten)]
    pub report: ProcessReport,
}

impl PassCount {
    pub(crate) fn new(pass: &str, unit: Unit) -> Self {
        Self {
            pass: pass.to_owned(),
            unit,
            of: 0,
            of_groups: 0,
            done: 0,
            resumed: 0,
            groups: 0,
            bytes_read: 0,
            seconds: 0.0,
        }
    }
}

impl ProcessReport {
    /// The pass under way.
    #[must_use]
    pub fn pass(&self) -> Option<&PassCount> {
        self.passes.get(self.current?)
    }
}

impl Standing {
    /// From what processes told, and how long ago: the asking one's report first, which names the pass.
    pub(crate) fn new(reports: Vec<(ProcessReport, Duration)>, processes: usize) -> Self {
        let own = reports.first().and_then(|(report, _)| report.pass());
        let (pass, unit) = (
            own.map(|own| own.pass.clone()),
            own.map_or(Unit::Spectra, |own| own.unit),
        );
        let (of, of_groups, seconds) = own.map_or((0, 0, 0.0), |own| (own.of, own.of_groups, own.seconds));
        let of_pass = || {
            let reports = reports.iter().filter_map(|(report, _)| Some((report, pass.as_ref()?)));
            reports.filter_map(|(report, pass)| report.passes.iter().find(|known| known.pass == *pass))
        };
        let done = of_pass().map(|known| known.done).sum::<u64>().min(of);
        let groups = of_pass().map(|known| known.groups).sum::<u64>().min(of_groups);
        let bytes_read: u64 = of_pass().map(|known| known.bytes_read).sum();
        let resumed: u64 = of_pass().map(|known| known.resumed).sum();
        let rate = done.saturating_sub(resumed) as f64 / seconds.max(1e-9);
        let silent = processes.saturating_sub(reports.len()) as u64;
        Self {
            unit,
            done,
            of,
            groups,
            of_groups,
            seconds,
            rate,
            bytes_rate: bytes_read as f64 / seconds.max(1e-9),
            eta_s: (rate > 0.0 && silent == 0 && unit != Unit::Blocks).then(|| (of - done) as f64 / rate),
            slowest: slowest(&reports, pass.as_deref()),
            silent,
            pass,
            processes: reports
                .into_iter()
                .map(|(report, heard)| ProcessStanding {
                    heard_s: heard.as_secs_f64(),
                    report,
                })
                .collect(),
        }
    }
}

/// The worker that has done least in a pass over spectra, of those that are in it.
fn slowest(reports: &[(ProcessReport, Duration)], pass: Option<&str>) -> Option<Slowest> {
    let in_pass = |report: &ProcessReport| {
        let current = report.pass();
        current.is_some_and(|current| current.unit == Unit::Spectra && Some(current.pass.as_str()) == pass)
    };
    let workers: Vec<(u32, WorkerCount)> = reports
        .iter()
        .filter(|(report, _)| in_pass(report))
        .flat_map(|(report, _)| report.workers.iter().map(|worker| (report.process, *worker)))
        .collect();
    if workers.len() < 2 {
        return None;
    }
    let all: u64 = workers.iter().map(|(_, worker)| worker.done).sum();
    let (process, least) = workers.iter().min_by_key(|(_, worker)| (worker.done, worker.worker))?;
    Some(Slowest {
        worker: least.worker,
        process: *process,
        done: least.done,
        mean: all as f64 / workers.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(process: u32, pass: &str, done: &[u64]) -> ProcessReport {
        let workers = done.iter().zip(0..).map(|(&done, i)| WorkerCount {
            worker: 2 * process + i,
            done,
            groups: done / 100,
        });
        ProcessReport {
            process,
            passes: vec![PassCount {
                of: 1000,
                of_groups: 10,
                done: done.iter().sum(),
                groups: done.iter().sum::<u64>() / 100,
                bytes_read: 5000,
                seconds: 10.0,
                ..PassCount::new(pass, Unit::Spectra)
            }],
            current: Some(0),
            workers: workers.collect(),
            bytes_read: 5000,
            bytes_written: 0,
            resident: None,
        }
    }

    #[test]
    fn a_standing_by_hand() {
        let reports = vec![
            (report(0, "curvature", &[200, 100]), Duration::ZERO),
            (report(1, "curvature", &[150, 50]), Duration::from_secs(1)),
        ];
        let standing = Standing::new(reports, 2);
        assert_eq!((standing.done, standing.groups), (500, 5));
        assert_eq!(
            (standing.rate, standing.eta_s, standing.bytes_rate),
            (50.0, Some(10.0), 1000.0)
        );
        let slowest = standing.slowest.unwrap();
        assert_eq!((slowest.worker, slowest.process, slowest.mean), (3, 1, 125.0));
        assert_eq!(slowest.behind(), 0.6);

        // Of a few blocks, that may be of any size, nobody knows when they end.
        let of_blocks = |unit| {
            let mut told = report(0, "invert", &[3, 1]);
            told.passes[0].unit = unit;
            Standing::new(vec![(told, Duration::ZERO)], 1).eta_s.is_some()
        };
        assert_eq!([Unit::Blocks, Unit::Tiles].map(of_blocks), [false, true]);
    }

    #[test]
    fn a_process_in_another_pass_is_not_counted_and_a_silent_one_leaves_the_end_open() {
        let reports = vec![
            (report(0, "curvature", &[200, 100]), Duration::ZERO),
            (report(1, "reference", &[150, 50]), Duration::from_secs(1)),
        ];
        let standing = Standing::new(reports, 3);
        assert_eq!((standing.done, standing.silent, standing.eta_s), (300, 1, None));
        assert_eq!(standing.slowest.unwrap().process, 0);
    }
}
