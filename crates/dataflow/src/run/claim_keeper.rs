//! Signs of life of the process that holds the output, and what becomes of it once the output is another's.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use fisherflow_store::{Holding, StoreError};

use crate::error::RunError;
use crate::fault::Faults;

/// How long a process that ends early may take to say so: the store may be what it ends of.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Gives signs of life until it is dropped.
pub(crate) struct ClaimKeeper {
    holding: Holding,
    /// Closed to end the beats.
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ClaimKeeper {
    /// Keeps a claim alive; once it is another's, every worker of this process stops.
    pub(crate) fn start(holding: Holding, every: Duration, faults: &Arc<Faults>) -> Result<Self, RunError> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (beating, faults) = (holding.clone(), Arc::clone(faults));
        let thread = std::thread::Builder::new()
            .name("claim".into())
            .spawn(move || {
                let mut number = 0;
                while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    number += 1;
                    match beating.beat(number) {
                        Ok(()) => {}
                        Err(error @ (StoreError::TakenOver { .. } | StoreError::ClaimRemoved { .. })) => {
                            return faults.raise(error.into());
                        }
                        Err(error) => tracing::warn!(%error, "no sign of life at the output's claim"),
                    }
                }
            })
            .map_err(|error| RunError::no_thread("the output's claim", &error))?;
        Ok(Self {
            holding,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The claim.
    pub(crate) fn holding(&self) -> &Holding {
        &self.holding
    }

    /// No further sign of life is given, and none is under way.
    pub(crate) fn rest(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread of the output's claim panicked");
        }
    }

    /// Gives the output up, in the time that there is: who comes next on another machine need not wait.
    ///
    /// # Errors
    /// It is another's already, which explains whatever else went wrong.
    pub(crate) fn release(mut self) -> Result<(), StoreError> {
        let (said, heard) = mpsc::channel();
        let work = move || {
            self.rest();
            // Nobody listens any more where it took too long.
            let _ = said.send(self.holding.release());
        };
        let started = std::thread::Builder::new().name("release".into()).spawn(work);
        match started.map(|_| heard.recv_timeout(LAST_WORD)) {
            Ok(Ok(Err(error @ (StoreError::TakenOver { .. } | StoreError::ClaimRemoved { .. })))) => Err(error),
            Ok(Ok(Ok(()))) => Ok(()),
            other => {
                tracing::debug!(?other, "the output's claim is not given up");
                Ok(())
            }
        }
    }
}
