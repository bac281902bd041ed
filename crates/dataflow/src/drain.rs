//! The orderly end of a process that was asked to go: groups under way are finished, no further one is begun.
//!
//! A group that is not begun keeps its capability, so that no operator takes the sums for complete; the run ends by a fault once nothing
//! is under way in any process ([`crate::cluster::heartbeat`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the workers of a process have under way, and whether they are to begin more.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    asked: AtomicBool,
    held_back: AtomicBool,
    under_way: Arc<AtomicUsize>,
}

/// A group that is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl Drain {
    /// No further group is to be begun.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// A group may be begun; `None` where it is to be held back.
    pub(crate) fn begin(&self) -> Option<UnderWay> {
        // Counted before it is asked for: whoever sees a drain and a count of 0 sees a process that begins nothing more.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let group = UnderWay(Arc::clone(&self.under_way));
        if self.is_asked() {
            self.held_back.store(true, Ordering::SeqCst);
            return None;
        }
        Some(group)
    }

    /// Whether no group is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) == 0
    }

    /// Whether a group was held back: the pass that it belongs to cannot end any more.
    pub(crate) fn has_held_back(&self) -> bool {
        self.held_back.load(Ordering::SeqCst)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_under_way_are_finished_and_no_other_is_begun() {
        let drain = Drain::default();
        let first = drain.begin().unwrap();
        drain.ask();
        assert!(!drain.is_quiet() && !drain.has_held_back());
        assert!(drain.begin().is_none());
        assert!(!drain.is_quiet() && drain.has_held_back());
        drop(first);
        assert!(drain.is_quiet());
    }
}
