//! Log lines with fields, on standard error, beside the progress bar and never through it.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};

use fisherflow_dataflow::Meter;
use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::Value;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::args::{LogFormat, LoggingArgs};
use crate::environment::Environment;

/// What standard error is, and what may be shown on it.
#[derive(Clone)]
pub struct Terminal {
    /// Where bars are drawn; `None` where progress goes to the log, or nowhere.
    pub bars: Option<MultiProgress>,
    /// Form of the log lines.
    pub format: LogFormat,
    /// Whether what was done is said: not with `-q`.
    pub tells: bool,
    /// The run that the log is of.
    pub run: RunOfLog,
}

/// The run that a log is of, once it has a name.
#[derive(Clone, Default)]
pub struct RunOfLog(Arc<OnceLock<Arc<Meter>>>);

impl RunOfLog {
    /// It is the one that is counted there.
    pub fn is_counted_by(&self, meter: &Arc<Meter>) {
        self.0.get_or_init(|| Arc::clone(meter));
    }

    fn id(&self) -> Option<&str> {
        self.0.get()?.run_id()
    }
}

/// Lines of JSON with the field `run_id`, so that those of several runs can be told apart.
struct WithRun<F> {
    lines: F,
    run: RunOfLog,
}

impl<S, N, F> FormatEvent<S, N> for WithRun<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let says_so = event.metadata().fields().field("run_id").is_some();
        let Some(run_id) = self.run.id().filter(|_| !says_so) else {
            return self.lines.format_event(context, out, event);
        };
        let mut line = String::new();
        self.lines.format_event(context, Writer::new(&mut line), event)?;
        match line.trim_end().strip_suffix('}') {
            Some(object) => writeln!(out, "{object},\"run_id\":{}}}", Value::from(run_id)),
            None => out.write_str(&line),
        }
    }
}

/// Starts logging.
///
/// Without `-v` and `-q` the log says what happens where nobody watches (`info`), and only what is odd where a bar shows the rest (`warn`), as
/// with `-q`. Each `-v` is a step more.
pub fn start(args: &LoggingArgs, environment: &Environment) -> Terminal {
    let is_terminal = std::io::stderr().is_terminal();
    let watched = is_terminal && args.log == LogFormat::Text && !args.quiet;
    let bars = watched.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
    let writer = BesideBars { bars: bars.clone() };
    let run = RunOfLog::default();
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
        LogFormat::Json => {
            let run = run.clone();
            let lines = lines.json().flatten_event(true);
            lines.map_event_format(|lines| WithRun { lines, run }).try_init()
        }
    };
    if args.log == LogFormat::Json {
        std::panic::set_hook(Box::new(log_panic));
    }
    Terminal {
        bars,
        format: args.log,
        tells: !args.quiet,
        run,
    }
}

/// A panic as one line of the log: who reads lines of JSON cannot read a backtrace.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    tracing::error!(
        panic = info.payload_as_str().unwrap_or("without words"),
        location = info.location().map(tracing::field::display),
        thread = thread.name(),
        "a thread panicked"
    );
}

/// The least level that is logged.
fn level(args: &LoggingArgs, watched: bool) -> &'static str {
    if args.quiet {
        return "warn";
    }
    match args.verbose.saturating_add(u8::from(!watched)) {
        0 => "warn",
        1 => "info",
        // The details of the libraries below would bury those of a run.
        2 => "info,fisherflow=debug",
        3 => "debug",
        _ => "trace",
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
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A place that a log is written to.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(buffer)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_one_line_of_a_json_log() {
        let written = Written::default();
        let to = written.clone();
        let log = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || to.clone());
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let ended =
            tracing::subscriber::with_default(log.finish(), || std::panic::catch_unwind(|| panic!("of two\nlines")));
        std::panic::set_hook(before);
        assert!(ended.is_err());
        let said = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (said.lines().count(), &line["level"], &line["panic"]),
            (1, &"ERROR".into(), &"of two\nlines".into())
        );
        assert!(line["location"].as_str().unwrap().contains("logging.rs:"), "{said}");
    }

    #[test]
    fn a_line_of_a_json_log_names_its_run_once() {
        let (written, run) = (Written::default(), RunOfLog::default());
        let (to, of) = (written.clone(), run.clone());
        let lines = tracing_subscriber::fmt().json().flatten_event(true);
        let log = lines.map_event_format(|lines| WithRun { lines, run: of });
        let log = log.with_writer(move || to.clone()).finish();
        let meter = Meter::silent();
        tracing::subscriber::with_default(log, || {
            tracing::info!(a = 1, "before the run has a name");
            run.is_counted_by(&meter);
            tracing::info!("still");
            meter.reads_from(&Arc::default(), "\"r\"");
            tracing::info!(b = "}", "}}");
            tracing::info!(run_id = "of its own", "says so");
        });
        let said = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<&Value> = lines.iter().map(|line| &line["run_id"]).collect();
        assert_eq!(
            names,
            [&Value::Null, &Value::Null, &"\"r\"".into(), &"of its own".into()]
        );
        assert_eq!(
            (&lines[0]["a"], &lines[2]["b"], &lines[2]["message"]),
            (&1.into(), &"}".into(), &"}".into())
        );
        assert_eq!(said.matches("run_id").count(), 2, "{said}");
    }

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
        for watched in [true, false] {
            let levels = [0, 1, 2, 3, 4, 255].map(|verbose| level(&args(verbose, false), watched));
            let steps = levels.windows(2).take(3).all(|pair| pair[0] != pair[1]);
            assert!(steps, "each -v says more: {levels:?}");
            assert_eq!(levels[5], "trace");
            assert_eq!(level(&args(0, true), watched), "warn");
        }
    }
}
