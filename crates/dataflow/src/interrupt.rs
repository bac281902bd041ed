//! A wish from outside that this process end early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// By which a process is asked to end early; clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicU8>);

/// How soon a process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Once the groups that are under way are done (SIGTERM).
    Drain,
    /// At once (SIGINT).
    Quit,
}

impl Interrupt {
    /// Asks; a wish for less than was asked for before changes nothing.
    pub fn ask(&self, wish: Wish) {
        let level = match wish {
            Wish::Drain => 1,
            Wish::Quit => 2,
        };
        self.0.fetch_max(level, Ordering::AcqRel);
    }

    /// What was asked for.
    #[must_use]
    pub fn asked(&self) -> Option<Wish> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Wish::Drain),
            _ => Some(Wish::Quit),
        }
    }
}
