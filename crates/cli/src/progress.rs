//! How far a run is: a bar with rate and ETA on a terminal, otherwise a log line of fields every few seconds.
//!
//! The first process shows all processes together; any other shows what it did itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fisherflow_dataflow::{PassCount, Progress, Slowest, Standing, Unit};
use fisherflow_network::train::Epoch;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::logging::Terminal;
use crate::printing::{rate, three_digits};

/// Time between two log lines.
const EVERY: Duration = Duration::from_secs(10);
/// A worker is worth a word that has done so much less than the average.
const BEHIND: f64 = 0.25;

/// The progress display that fits the terminal.
pub fn display(terminal: &Terminal) -> Arc<dyn Progress> {
    match &terminal.bars {
        Some(bars) => Arc::new(Bar {
            bars: bars.clone(),
            pass: Mutex::new(None),
        }),
        None => Arc::new(Lines {
            said: Mutex::new(Instant::now()),
        }),
    }
}

/// A bar on a terminal.
struct Bar {
    bars: MultiProgress,
    pass: Mutex<Option<ProgressBar>>,
}

impl Progress for Bar {
    fn begin(&self, pass: &str, of: u64) {
        let bar = self.bars.add(ProgressBar::new(of));
        bar.set_style(style("{prefix:<12} {wide_bar} {human_pos}/{human_len}  {msg}"));
        bar.set_prefix(pass.to_owned());
        if let Some(before) = held(&self.pass).replace(bar) {
            before.finish_and_clear();
        }
    }

    fn show(&self, standing: &Standing) {
        if let Some(bar) = held(&self.pass).as_ref()
            && standing.pass.as_deref() == Some(bar.prefix().as_str())
        {
            bar.set_position(standing.done);
            bar.set_message(in_words(standing));
        }
    }

    fn end(&self, _done: &PassCount) {
        if let Some(bar) = held(&self.pass).take() {
            bar.finish_and_clear();
        }
    }
}

/// What stands behind a bar.
fn in_words(standing: &Standing) -> String {
    let mut words = Vec::new();
    if standing.of_groups > 0 {
        words.push(format!("{}/{} groups", standing.groups, standing.of_groups));
    }
    words.push(format!("{}/s", rate(standing.rate)));
    if standing.unit == Unit::Spectra {
        words.push(format!("{:.1} MB/s", standing.bytes_rate / 1e6));
    }
    words.extend(standing.eta_s.map(|eta| format!("eta {}", time(eta))));
    words.extend(lagging(standing).map(|worker| {
        format!(
            "worker {} of process {} is {:.0} % behind",
            worker.worker,
            worker.process,
            100.0 * worker.behind()
        )
    }));
    words.join("  ")
}

/// The slowest worker, where it is worth a word.
pub fn lagging(standing: &Standing) -> Option<Slowest> {
    standing.slowest.filter(|worker| worker.behind() >= BEHIND)
}

/// `95 s`, `12 min`, `3 h 20 min`.
pub fn time(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0..=2 => format!("{seconds:.0} s"),
        3..=119 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// A log line of fields every few seconds.
struct Lines {
    said: Mutex<Instant>,
}

impl Progress for Lines {
    fn begin(&self, pass: &str, of: u64) {
        *held(&self.said) = Instant::now();
        tracing::info!(pass, done = 0, total = of, "begins");
    }

    fn show(&self, standing: &Standing) {
        let mut said = held(&self.said);
        if standing.pass.is_none() {
            return;
        }
        if said.elapsed() < EVERY {
            // Between two lines of the log, for who wants details.
            tracing::debug!(pass = standing.pass, "{}", in_words(standing));
            return;
        }
        *said = Instant::now();
        let lagging = lagging(standing);
        tracing::info!(
            pass = standing.pass,
            done = standing.done,
            total = standing.of,
            groups = standing.groups,
            of_groups = standing.of_groups,
            rate = three_digits(standing.rate),
            mb_per_s = three_digits(standing.bytes_rate / 1e6),
            eta_s = standing.eta_s.map(rounded),
            processes = standing.processes.len(),
            slowest_worker = lagging.map(|worker| worker.worker),
            slowest_process = lagging.map(|worker| worker.process),
            behind = lagging.map(|worker| rounded(worker.behind())),
            "goes on"
        );
    }

    fn end(&self, done: &PassCount) {
        tracing::info!(
            pass = done.pass,
            done_here = done.done,
            resumed_here = done.resumed,
            total = done.of,
            groups_here = done.groups,
            of_groups = done.of_groups,
            bytes_read_here = done.bytes_read,
            seconds = rounded(done.seconds),
            "done"
        );
    }
}

/// How far a training is.
pub struct Epochs {
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Epochs {
    /// The display that fits the terminal.
    pub fn new(terminal: &Terminal) -> Self {
        let bar = terminal.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::no_length());
            bar.set_style(style("{wide_bar} epoch {pos}/{len}  {msg}  eta {eta}"));
            bar
        });
        let said = Instant::now();
        Self { bar, said }
    }

    /// Shows a finished epoch; the log has one every few seconds, and the last.
    pub fn show(&mut self, epoch: &Epoch) {
        if let Some(bar) = &self.bar {
            bar.set_length(epoch.epochs as u64);
            bar.set_position(epoch.epoch as u64);
            let validation = epoch.validation_loss.map(|loss| format!(", validation {loss:.3e}"));
            bar.set_message(format!(
                "loss {:.3e}{}",
                epoch.train_loss,
                validation.unwrap_or_default()
            ));
        } else if self.said.elapsed() >= EVERY || epoch.epoch == epoch.epochs {
            self.said = Instant::now();
            tracing::info!(
                epoch = epoch.epoch,
                epochs = epoch.epochs,
                train_loss = epoch.train_loss,
                validation_loss = epoch.validation_loss,
                improved = epoch.improved,
            );
        }
    }

    /// The training is over.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar's style; the plain one where the template were wrong.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// To one decimal.
fn rounded(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

/// The value of a mutex, whoever else panicked: progress is only shown.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(least: u64) -> Standing {
        Standing {
            pass: Some("curvature".to_owned()),
            unit: Unit::Spectra,
            done: 500,
            of: 1000,
            groups: 5,
            of_groups: 10,
            seconds: 10.0,
            rate: 50.0,
            bytes_rate: 3e6,
            eta_s: Some(10.0),
            slowest: Some(Slowest {
                worker: 3,
                process: 1,
                done: least,
                mean: 100.0,
            }),
            silent: 0,
            processes: Vec::new(),
        }
    }

    #[test]
    fn a_bar_says_how_fast_and_who_is_behind() {
        let even = in_words(&standing(90));
        assert_eq!(even, "5/10 groups  50/s  3.0 MB/s  eta 10 s");
        let slow = Standing {
            unit: Unit::Blocks,
            of_groups: 0,
            rate: 0.0417,
            ..standing(90)
        };
        assert_eq!(in_words(&slow), "0.0417/s  eta 10 s");
        let uneven = in_words(&standing(60));
        assert!(uneven.ends_with("worker 3 of process 1 is 40 % behind"), "{uneven}");
    }

    #[test]
    fn times_are_said_in_their_units() {
        assert_eq!(time(95.4), "95 s");
        assert_eq!(time(720.0), "12 min");
        assert_eq!(time(12_000.0), "3 h 20 min");
    }
}
