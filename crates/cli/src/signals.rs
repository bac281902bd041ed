//! SIGTERM and SIGINT while a run is under way: a wish to end, and an end by force where the wish is not heeded in time.

use std::time::Duration;

use fisherflow_dataflow::{Interrupt, RunError, Wish};
#[cfg(unix)]
use nix::sys::signal::{SigSet, Signal};

use crate::exit_code::{CliError, say};
use crate::logging::Terminal;

/// From SIGTERM to the end by force: longer than groups under way may take, shorter than schedulers wait.
const DRAIN: Duration = Duration::from_secs(25);
/// From SIGINT to the end by force.
const QUIT: Duration = Duration::from_millis(800);

/// Holds signals back until they are [heeded](heed). To be called before any other thread is started, the pools of libraries included: they inherit what
/// is blocked.
///
/// # Errors
/// The system refuses.
#[cfg(unix)]
pub fn hold_back() -> Result<(), CliError> {
    // A file that grows beyond a limit (`ulimit -f`) is then an error of that write, and not the end of the process without a word.
    let too_large = SigSet::from(Signal::SIGXFSZ);
    for signals in [wishes(), too_large] {
        signals.thread_block().map_err(|error| refused(error.into()))?;
    }
    Ok(())
}

#[cfg(unix)]
fn wishes() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

#[cfg(unix)]
fn refused(source: std::io::Error) -> CliError {
    CliError::System {
        what: "wait for signals",
        source,
    }
}

/// Turns signals that were [held back](hold_back) into wishes from now on.
///
/// # Errors
/// The system refuses.
#[cfg(unix)]
pub fn heed(interrupt: &Interrupt, terminal: &Terminal) -> Result<(), CliError> {
    let signals = wishes();
    let (interrupt, terminal) = (interrupt.clone(), terminal.clone());
    let waiting = std::thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            let (wish, time) = match signal {
                Signal::SIGTERM => (Wish::Drain, DRAIN),
                _ => (Wish::Quit, QUIT),
            };
            // Whoever asks for the same again does not want to wait.
            let time = match interrupt.asked() {
                Some(asked) if asked >= wish => Duration::ZERO,
                _ => time,
            };
            interrupt.ask(wish);
            let terminal = terminal.clone();
            std::thread::spawn(move || {
                std::thread::sleep(time);
                let error = RunError::Interrupted(format!("{}, at once", signal.as_str()));
                let code = say(&CliError::from(error), &terminal);
                std::process::exit(i32::from(code));
            });
        }
    });
    waiting.map(drop).map_err(refused)
}

/// Nothing to hold back.
#[cfg(not(unix))]
pub fn hold_back() -> Result<(), CliError> {
    Ok(())
}

/// Nothing to heed.
#[cfg(not(unix))]
pub fn heed(_: &Interrupt, _: &Terminal) -> Result<(), CliError> {
    Ok(())
}
