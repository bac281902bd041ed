//! How far a run is: a bar with rate and ETA on a terminal, otherwise a log line of fields every few seconds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fisherflow_dataflow::Progress;
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
        None => Arc::new(Lines {
            pass: Mutex::new(None),
        }),
    }
}

/// A bar on a terminal.
struct Bar {
    bars: MultiProgress,
    pass: Mutex<Option<ProgressBar>>,
}

impl Progress for Bar {
    fn begin(&self, pass: &str, spectra: u64) {
        let style = ProgressStyle::with_template(
            "{prefix:<12} {wide_bar} {human_pos}/{human_len} spectra  {per_sec}  eta {eta}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(spectra));
        bar.set_style(style);
        bar.set_prefix(pass.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        if let Some(left) = held(&self.pass).replace(bar) {
            left.finish_and_clear();
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
        let now = Instant::now();
        tracing::info!(pass, done = 0, total = spectra);
        *held(&self.pass) = Some(Pass {
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
    fn pace_by_hand() {
        let halfway = pace(500, 1000, Duration::from_secs(10));
        assert_eq!(halfway, Pace { rate: 50.0, eta_s: Some(10.0) });
        assert_eq!(pace(0, 1000, Duration::from_secs(10)).eta_s, None);
        assert_eq!(pace(12, 10, Duration::from_secs(1)).eta_s, Some(0.0));
    }
}
