//! The first fault of a process, seen by all its workers.
//!
//! After a fault an operator skips what comes in. It must keep the capabilities of what it skips ([`Held`]): otherwise the frontier passes, and
//! a process that has not heard of the fault yet takes sums that lack a group for complete, and writes them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use timely::dataflow::operators::Capability;

use crate::drain::Drain;
use crate::error::RunError;
use crate::fail_point::{FailPoint, FailPoints};

/// Where an operator leaves its error: timely's operators return nothing, so the pass that runs them looks here.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    makes_release: bool,
    raised: AtomicBool,
    first: Mutex<Option<RunError>>,
    drain: Drain,
    fail_points: OnceLock<FailPoints>,
}

/// Capabilities of what an operator skipped, kept until the dataflow is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<Capability<u64>>);

impl Held {
    /// Keeps the capability of what was just worked on where a fault stands: part of it may have been skipped.
    pub(crate) fn keep(&mut self, faults: &Faults, capability: Option<Capability<u64>>) {
        if faults.raised() {
            self.0.extend(capability);
        }
    }
}

impl Faults {
    /// Of a run, which makes a release or not.
    pub(crate) fn of_run(makes_release: bool) -> Self {
        Self {
            makes_release,
            ..Self::default()
        }
    }

    /// Records `error` unless an earlier one stands; every worker of the process then stops at its next step.
    pub(crate) fn raise(&self, error: RunError) {
        let mut first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert_with(|| error.of_run(self.makes_release));
        self.raised.store(true, Ordering::Release);
    }

    /// From now on this process fails where it was told to; told twice, it is the first that counts.
    pub(crate) fn arm(&self, fail_points: &FailPoints) {
        self.fail_points.get_or_init(|| fail_points.clone());
    }

    /// The run comes by a point at which this process may have been told to fail.
    pub(crate) fn pass(&self, point: FailPoint) {
        if let Some(fail_points) = self.fail_points.get() {
            fail_points.pass(point);
        }
    }

    /// What is under way, and whether more may be begun.
    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Whether a fault was raised.
    pub(crate) fn raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// What `look` makes of the fault, where one stands.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&RunError) -> T) -> Option<T> {
        let first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.as_ref().map(look)
    }

    /// Takes the fault out.
    pub(crate) fn take(&self) -> Option<RunError> {
        self.first
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
    }
}
