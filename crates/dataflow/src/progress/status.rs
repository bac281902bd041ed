//! `stages/status.json`: what the first process tells of a run while it is at work, for anybody who reaches the store.
//!
//! It is written over again and again, and decides nothing: that it cannot be written is a warning. It goes with the other stages when the
//! run is committed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fisherflow_store::{Output, StoreError, Stores, now_utc};
use serde::{Deserialize, Serialize};

use crate::error::RunError;
use crate::job::Stage;
use crate::progress::meter::Meter;
use crate::progress::repeated::Repeated;
use crate::progress::standing::Standing;

/// Time between two of them.
const EVERY: Duration = Duration::from_secs(10);
/// Time between two looks whether another pass has begun.
const LOOK: Duration = Duration::from_secs(1);
/// How long a run that ends by a fault waits for the last of them.
const LAST: Duration = Duration::from_millis(500);

/// How far a run is, as its first process told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Of this document: 1.
    pub version: u32,
    /// The run.
    pub run_id: String,
    /// What was asked for: `run`, `fit`, ...
    pub stage: String,
    /// Machine of the first process.
    pub host: String,
    /// Its process number there.
    pub pid: u32,
    /// When it began: RFC 3339, UTC.
    pub started: String,
    /// When it told this: RFC 3339, UTC;
    pub written: String,
    /// the same in seconds since 1970, by its own clock.
    pub written_s: u64,
    /// The same by the clock of the store that it was read from; `None` where it was not read.
    #[serde(skip)]
    pub stored_s: Option<u64>,
    /// It tells again after so many seconds.
    pub every_s: u64,
    /// Number of processes of the run.
    pub processes: u64,
    /// How the run ended, in words; `None` while it is at work.
    pub ended: Option<String>,
    /// With which exit code: 0 where what was asked for is done.
    pub ended_code: Option<u8>,
    /// How far it is.
    pub standing: Standing,
}

impl RunStatus {
    /// What is there; `None` where no run has told anything.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(stores: &Stores, output: &Output) -> Result<Option<Self>, RunError> {
        let uri = output.child(Output::STATUS);
        match stores.read_with_time(&uri) {
            Ok((bytes, stored_s)) => serde_json::from_slice(&bytes)
                .map(|status| {
                    Some(Self {
                        stored_s: Some(stored_s),
                        ..status
                    })
                })
                .map_err(|error| RunError::Refused(format!("{uri}: {error}: another release of fisherflow wrote it"))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Seconds since it was written, by the clocks of its store and of this machine; that of whoever wrote it may be wrong.
    #[must_use]
    pub fn age_s(&self) -> u64 {
        seconds_since_1970().saturating_sub(self.moment_s())
    }

    /// Seconds by which the clock of its store is ahead of this machine's, at least.
    #[must_use]
    pub fn ahead_s(&self) -> u64 {
        self.moment_s().saturating_sub(seconds_since_1970())
    }

    fn moment_s(&self) -> u64 {
        self.stored_s.unwrap_or(self.written_s)
    }

    /// Whether its run has been silent for so long that it is most likely dead.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.ended.is_none() && self.age_s() > 3 * self.every_s
    }
}

/// Writes the status of a run while it is at work.
pub(crate) struct StatusWriter {
    writing: Repeated,
    source: Arc<Source>,
}

struct Source {
    meter: Arc<Meter>,
    output: Output,
    stage: &'static str,
    host: String,
    started: String,
    /// What was last written, and when.
    written: Mutex<Option<(Instant, Option<String>)>>,
}

impl StatusWriter {
    /// Begins to write, at once and then every few seconds, on a thread of its own.
    pub(crate) fn start(meter: &Arc<Meter>, output: &Output, stage: Stage, host: &str) -> Result<Self, RunError> {
        let source = Arc::new(Source {
            meter: Arc::clone(meter),
            output: output.clone(),
            stage: stage.name(),
            host: host.to_owned(),
            started: now_utc(),
            written: Mutex::default(),
        });
        let writing = Arc::clone(&source);
        let writing = Repeated::start("status", LOOK, move || writing.write_if_due())?;
        Ok(Self { writing, source })
    }

    /// The last one, which says how the run ended. Where that is by a fault, a store that does not take it in time goes without.
    pub(crate) fn end(mut self, error: Option<&RunError>) {
        self.writing.stop();
        let ended = error.map_or_else(
            || ("done".to_owned(), 0),
            |error| (error.to_string(), error.exit_code()),
        );
        let waiting = Instant::now();
        let is_fault = error.is_some();
        let source = Arc::clone(&self.source);
        let last = std::thread::Builder::new().name("status".into()).spawn(move || {
            // One left to itself would be written after the stages are deleted.
            while !self.writing.is_over() && (!is_fault || waiting.elapsed() < LAST) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if self.writing.is_over() {
                source.write(Some(ended));
            } else {
                self.writing.leave();
            }
        });
        if let Ok(last) = last {
            // Whoever deletes the stages next must not be overtaken; whoever ends by a fault must not be held up.
            while !last.is_finished() && (!is_fault || waiting.elapsed() < LAST) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Source {
    fn write_if_due(&self) {
        let pass = self.meter.standing().pass;
        let due = match &*self.written.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((when, what)) => when.elapsed() >= EVERY || *what != pass,
            None => true,
        };
        if due {
            self.write(None);
        }
    }

    /// `ended`: the words and the exit code.
    fn write(&self, ended: Option<(String, u8)>) {
        let (ended, ended_code) = ended.unzip();
        let standing = self.meter.standing();
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), standing.pass.clone()));
        let status = RunStatus {
            version: 1,
            run_id: self.meter.run_id().unwrap_or_default().to_owned(),
            stage: self.stage.to_owned(),
            host: self.host.clone(),
            pid: std::process::id(),
            started: self.started.clone(),
            written: now_utc(),
            written_s: seconds_since_1970(),
            stored_s: None,
            every_s: EVERY.as_secs(),
            processes: self.meter.position().1 as u64,
            ended,
            ended_code,
            standing,
        };
        let written = serde_json::to_vec_pretty(&status)
            .map_err(|error| error.to_string())
            .and_then(|json| self.output.put(Output::STATUS, json).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::warn!(error, "no status for other terminals");
        }
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fisherflow_store::StoreOptions;

    #[test]
    fn a_run_tells_what_it_does_and_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let output = Output::open(&stores, folder.path().join("out").to_str().unwrap()).unwrap();
        assert_eq!(RunStatus::read(&stores, &output).unwrap(), None);

        let meter = Meter::silent();
        meter.begin_over_spectra("curvature", 100, 10);
        meter.advance(25);
        let writer = StatusWriter::start(&meter, &output, Stage::Run, "node-1").unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = RunStatus::read(&stores, &output).unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is written");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!((status.standing.done, status.standing.of), (25, 100));
        assert_eq!((status.host.as_str(), status.ended.as_deref()), ("node-1", None));
        assert!(!status.is_silent());
        // The clock of whoever wrote it may be wrong: the store's counts.
        let behind = RunStatus {
            written_s: status.written_s - 3600,
            ..status
        };
        assert!(!behind.is_silent() && behind.age_s() < 60);
        let old = RunStatus {
            stored_s: behind.stored_s.map(|stored| stored - 31),
            ..behind
        };
        assert!(old.is_silent());

        writer.end(Some(&RunError::PeerLost("process 1 at b has ended".into())));
        let status = RunStatus::read(&stores, &output).unwrap().unwrap();
        assert!(status.ended.unwrap().contains("process 1 at b has ended"));
        assert_eq!(status.ended_code, Some(75));
    }
}
