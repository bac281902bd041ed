//! Cores that one thread lends to the others of its process while it has nothing to do.
//!
//! No result depends on how many threads make it, so who lends what and when shows in no bit.

use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

/// Those of this process.
static CORES: Cores = Cores::new();

/// Lends so many cores to products and other shared work of this process, until what comes back is dropped.
pub fn lend(cores: usize) -> LentCores {
    CORES.lend(cores)
}

/// Threads for one piece of shared work: those that it was given, and what is lent.
pub(crate) fn borrow(threads: usize) -> Borrowed {
    let most = if ALONE.get() {
        threads
    } else {
        rayon::current_num_threads()
    };
    CORES.borrow(threads, most)
}

thread_local!(static ALONE: Cell<bool> = const { Cell::new(false) });

/// Runs `work`, whose products borrow nothing: given one thread each, they wait for no other, which may itself wait for what `work` makes.
pub(crate) fn alone<R>(work: impl FnOnce() -> R) -> R {
    let before = ALONE.replace(true);
    let result = work();
    ALONE.set(before);
    result
}

/// Cores that are lent until this is dropped; who has borrowed them by then keeps them to the end of what he is at.
#[derive(Debug)]
pub struct LentCores {
    of: &'static Cores,
    cores: usize,
}

impl Drop for LentCores {
    fn drop(&mut self) {
        self.of.lent.fetch_sub(self.cores, Ordering::Relaxed);
        self.of.free.fetch_sub(self.cores as isize, Ordering::Relaxed);
    }
}

/// Threads of one piece of work, of which those that were lent go back when this is dropped.
#[derive(Debug)]
pub(crate) struct Borrowed {
    of: &'static Cores,
    extra: usize,
    /// With those that the work was given: at least one.
    pub threads: usize,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.of.free.fetch_add(self.extra as isize, Ordering::Relaxed);
        self.of.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Cores {
    lent: AtomicUsize,
    /// Of these, not borrowed now: below 0 where a lender was back before his borrower was done.
    free: AtomicIsize,
    /// Pieces of work that may borrow.
    at_work: AtomicUsize,
}

impl Cores {
    const fn new() -> Self {
        Self {
            lent: AtomicUsize::new(0),
            free: AtomicIsize::new(0),
            at_work: AtomicUsize::new(0),
        }
    }

    fn lend(&'static self, cores: usize) -> LentCores {
        self.lent.fetch_add(cores, Ordering::Relaxed);
        self.free.fetch_add(cores as isize, Ordering::Relaxed);
        LentCores { of: self, cores }
    }

    /// The share of what is lent that falls to one of those at work, as far as it is free and `most` threads allow.
    fn borrow(&'static self, threads: usize, most: usize) -> Borrowed {
        let threads = threads.max(1);
        let at_work = self.at_work.fetch_add(1, Ordering::Relaxed) + 1;
        let share = self.lent.load(Ordering::Relaxed).div_ceil(at_work);
        let wanted = share.min(most.saturating_sub(threads));
        let mut extra = 0;
        if wanted > 0 {
            let found = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                let taken = free.min(wanted as isize);
                (taken > 0).then(|| free - taken)
            });
            extra = found.map_or(0, |free| wanted.min(free as usize));
        }
        Borrowed {
            of: self,
            extra,
            threads: threads + extra,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_borrowed_once_and_given_back() {
        static OWN: Cores = Cores::new();
        assert_eq!(OWN.borrow(0, 8).threads, 1);
        let lent = OWN.lend(2);
        let first = OWN.borrow(1, 8);
        assert_eq!(first.threads, 3);
        assert_eq!(OWN.borrow(1, 8).threads, 1);
        drop(first);
        assert_eq!(OWN.borrow(2, 3).threads, 3);
        assert_eq!(OWN.borrow(4, 3).threads, 4);
        let kept = OWN.borrow(1, 8);
        drop(lent);
        // What was borrowed is still out: none of what comes after it is there twice.
        let again = OWN.lend(2);
        assert_eq!(OWN.borrow(1, 8).threads, 1);
        drop(kept);
        assert_eq!(OWN.borrow(1, 8).threads, 3);
        drop(again);
        assert_eq!(OWN.borrow(1, 8).threads, 1);
    }

    #[test]
    fn those_at_work_share_what_is_lent() {
        static OWN: Cores = Cores::new();
        let at_work = [OWN.borrow(1, 8), OWN.borrow(1, 8)];
        let lent = OWN.lend(6);
        let third = OWN.borrow(1, 8);
        assert_eq!(third.threads, 3);
        drop(at_work);
        assert_eq!(OWN.borrow(1, 8).threads, 4);
        drop((third, lent));
        assert_eq!(OWN.borrow(1, 8).threads, 1);
    }

    #[test]
    fn work_that_is_alone_borrows_nothing() {
        let lent = lend(3);
        assert_eq!(alone(|| borrow(2).threads), 2);
        assert_eq!(alone(|| alone(|| borrow(0).threads) + borrow(1).threads), 2);
        assert!(!ALONE.get());
        drop(lent);
    }

    #[test]
    fn cores_come_back_from_work_that_panics() {
        static OWN: Cores = Cores::new();
        let ended = std::panic::catch_unwind(|| {
            let _lent = OWN.lend(3);
            let _borrowed = OWN.borrow(1, 8);
            panic!("at work");
        });
        assert!(ended.is_err());
        assert_eq!(OWN.lent.load(Ordering::Relaxed), 0);
        assert_eq!(OWN.free.load(Ordering::Relaxed), 0);
        assert_eq!(OWN.at_work.load(Ordering::Relaxed), 0);
    }
}
