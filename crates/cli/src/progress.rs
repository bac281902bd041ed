//! How far a run is: a bar with rate and ETA on a terminal, otherwise a log line of fields every few seconds.
//!
//! Every worker of the process tells: a pass that is under way does not begin again, and the next pass ends it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fisherflow_dataflow::Progress;
use fisherflow_network::train::Epoch;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::logging::Terminal;

/// Time between two log lines.
const EVERY: Duration = Duration::from_secs(10);

/// The progress display that fits the terminal.
pub fn display(terminal: &Terminal) -> Arc<dyn Progress> {
    match &terminal.bars {
        Some(bars) => Arc::new(Bar {
            bars: bars.clone(),
            pass: Mutex::new(None),
        }),
        None => Arc::new(Lines { pass: Mutex::new(None) }),
    }
}

/// A bar on a terminal.
struct Bar {
    bars: MultiProgress,
    pass: Mutex<Option<ProgressBar>>,
}

impl Progress for Bar {
    fn begin(&self, pass: &str, spectra: u64) {
        let mut under_way = held(&self.pass);
        if under_way.as_ref().is_some_and(|bar| bar.prefix() == pass) {
            return;
        }
        let bar = self.bars.add(ProgressBar::new(spectra));
        bar.set_style(style(
            "{prefix:<12} {wide_bar} {human_pos}/{human_len}  {per_sec}  eta {eta}",
        ));
        bar.set_prefix(pass.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        if let Some(before) = under_way.replace(bar) {
            before.finish_and_clear();
        }
    }

    fn advance(&self, spectra: u64) {
        if let Some(bar) = held(&self.pass).as_ref() {
            bar.inc(spectra);
        }
    }

    fn end(&self) {
        if let Some(bar) = held(&self.pass).take() {
            bar.finish_and_clear();
        }
    }
}

/// A log line of fields every few seconds.
struct Lines {
    pass: Mutex<Option<Pass>>,
}

/// One pass over spectra.
struct Pass {
    name: String,
    total: u64,
    done: u64,
    begun: Instant,
    said: Instant,
}

/// What a line says of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    /// Spectra a second.
    rate: f64,
    /// Seconds to go; `None` before the first spectrum is done.
    eta_s: Option<f64>,
}

impl Progress for Lines {
    fn begin(&self, pass: &str, spectra: u64) {
        let mut under_way = held(&self.pass);
        if under_way.as_ref().is_some_and(|before| before.name == pass) {
            return;
        }
        if let Some(mut before) = under_way.take() {
            before.say();
        }
        let now = Instant::now();
        tracing::info!(pass, done = 0, total = spectra);
        *under_way = Some(Pass {
            name: pass.to_owned(),
            total: spectra,
            done: 0,
            begun: now,
            said: now,
        });
    }

    fn advance(&self, spectra: u64) {
        if let Some(pass) = held(&self.pass).as_mut() {
            pass.done += spectra;
            if pass.said.elapsed() >= EVERY {
                pass.say();
            }
        }
    }

    fn end(&self) {
        if let Some(mut pass) = held(&self.pass).take() {
            pass.say();
        }
    }
}

impl Pass {
    fn say(&mut self) {
        self.said = Instant::now();
        let pace = pace(self.done, self.total, self.begun.elapsed());
        tracing::info!(
            pass = self.name,
            done = self.done,
            total = self.total,
            rate = rounded(pace.rate),
            eta_s = pace.eta_s.map(rounded),
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

/// The pace of a pass.
fn pace(done: u64, total: u64, elapsed: Duration) -> Pace {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = total.saturating_sub(done) as f64;
    Pace {
        rate,
        eta_s: (done > 0).then(|| left / rate),
    }
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

    #[test]
    fn workers_share_a_pass() {
        let lines = Lines { pass: Mutex::new(None) };
        lines.begin("population", 10);
        lines.advance(3);
        lines.begin("population", 10);
        lines.advance(4);
        let done = |lines: &Lines| held(&lines.pass).as_ref().map(|p| (p.name.clone(), p.done));
        assert_eq!(done(&lines), Some(("population".to_owned(), 7)));
        lines.begin("reference", 10);
        assert_eq!(done(&lines), Some(("reference".to_owned(), 0)));
        lines.end();
        lines.end();
        lines.advance(1);
        assert_eq!(done(&lines), None);
    }

    #[test]
    fn pace_by_hand() {
        let halfway = pace(500, 1000, Duration::from_secs(10));
        assert_eq!(
            halfway,
            Pace {
                rate: 50.0,
                eta_s: Some(10.0)
            }
        );
        assert_eq!(pace(0, 1000, Duration::from_secs(10)).eta_s, None);
        assert_eq!(pace(12, 10, Duration::from_secs(1)).eta_s, Some(0.0));
    }
}
