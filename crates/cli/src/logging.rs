//! Log lines with fields, on standard error, beside the progress bar and never through it.

use std::io::{IsTerminal, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::{LogFormat, LoggingArgs};
use crate::environment::Environment;

/// What standard error is, and what may be shown on it.
#[derive(Clone)]
pub struct Terminal {
    /// Where bars are drawn; `None` where progress goes to the log, or nowhere.
    pub bars: Option<MultiProgress>,
    /// Form of the log lines.
    pub format: LogFormat,
}

/// Starts logging.
///
/// Without `-v` and `-q` the log says what happens where nobody watches (`info`), and only what is odd where a bar does (`warn`).
pub fn start(args: &LoggingArgs, environment: &Environment) -> Terminal {
    let is_terminal = std::io::stderr().is_terminal();
    let watched = is_terminal && args.log == LogFormat::Text && !args.quiet;
    let bars = watched.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
    let writer = BesideBars { bars: bars.clone() };
    let filter = EnvFilter::builder().parse_lossy(environment.log.as_deref().unwrap_or_else(|| level(args, watched)));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal && !environment.no_color)
        // A log that nobody takes any more stops no run: of what could not be written nothing is said, and that where it would have been.
        .log_internal_errors(false)
        .with_writer(writer);
    // A second start, as tests in one process make, keeps the first.
    let _already = match args.log {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Terminal { bars, format: args.log }
}

/// The least level that is logged.
fn level(args: &LoggingArgs, watched: bool) -> &'static str {
    match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) if watched => "warn",
        (false, 0 | 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    }
}

/// Standard error, with the bars out of the way while a line is written.
struct BesideBars {
    bars: Option<MultiProgress>,
}

impl Write for &BesideBars {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let write = || std::io::stderr().write_all(buffer);
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl<'w> MakeWriter<'w> for BesideBars {
    type Writer = &'w BesideBars;

    fn make_writer(&'w self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_run_logs_only_what_is_odd() {
        let args = |verbose, quiet| LoggingArgs {
            verbose,
            quiet,
            log: LogFormat::Text,
        };
        assert_eq!(level(&args(0, false), true), "warn");
        assert_eq!(level(&args(0, false), false), "info");
        assert_eq!(level(&args(1, false), true), "info");
        assert_eq!(level(&args(2, false), false), "debug");
        assert_eq!(level(&args(0, true), false), "error");
    }
}
