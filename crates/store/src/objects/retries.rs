//! The attempts that failed and were made again: counted, and logged without flooding the log.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::Error;
use object_store::path::Path;

use crate::Cause;
use crate::objects::patience::Attempts;

/// One line a second, at most.
const PERIOD: Duration = Duration::from_secs(1);

/// A request, for messages.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    /// `GET`, `PUT`, ...
    pub method: &'static str,
    pub path: &'a Path,
    /// Bytes that were asked for.
    pub range: Option<Range<u64>>,
}

/// Counts what is tried again.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    count: AtomicU64,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Retries {
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// A request failed and will be made again after a pause.
    pub fn note(
        &self,
        request: &Request<'_>,
        bucket: &str,
        attempts: &Attempts,
        pause: Duration,
        error: &Error,
        secrets: &Arc<Vec<String>>,
    ) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| last.elapsed() < PERIOD) {
            said.unsaid += 1;
            return;
        }
        tracing::warn!(
            request = request.method,
            object = format!("s3://{bucket}/{}", request.path),
            bytes = request.range.as_ref().map(in_words),
            attempt = attempts.failed(),
            pause_ms = pause.as_millis() as u64,
            others_unsaid = said.unsaid,
            said = %Cause::new(error, secrets),
            "the store failed: trying again"
        );
        *said = Said {
            last: Some(Instant::now()),
            unsaid: 0,
        };
    }
}

/// Bytes as HTTP counts them: the last one is in.
pub(crate) fn in_words(range: &Range<u64>) -> String {
    format!("{}-{}", range.start, range.end.saturating_sub(1))
}
