//! What is done again and again beside the workers, on a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::RunError;
use crate::progress::meter::Meter;

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(250);

/// A task of its own thread, done again and again until this is dropped.
pub(crate) struct Repeated {
    until: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Repeated {
    /// Does `task` at once, and then every so often.
    pub(crate) fn start(
        name: &str,
        every: Duration,
        mut task: impl FnMut() + Send + 'static,
    ) -> Result<Self, RunError> {
        let (until, ended) = channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                task();
                while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    task();
                }
            })
            .map_err(|error| RunError::no_thread(name, &error))?;
        Ok(Self {
            until: Some(until),
            thread: Some(thread),
        })
    }

    /// No further task begins.
    pub(crate) fn stop(&mut self) {
        self.until = None;
    }

    /// Whether the last task is over.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Leaves a task that may take long to itself.
    pub(crate) fn leave(mut self) {
        self.stop();
        self.thread = None;
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Shows what a meter counts, until it is dropped.
pub(crate) fn shown(meter: &Arc<Meter>) -> Result<Repeated, RunError> {
    let meter = Arc::clone(meter);
    Repeated::start("progress", EVERY, move || meter.show())
}
