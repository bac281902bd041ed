//! Work shared among threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::lent::borrow;

/// Runs every job once, on `threads` threads and what is lent ([`crate::lend`]), each taking the next job when it is idle.
pub fn run_all<F: FnOnce() + Send>(jobs: Vec<F>, threads: usize) {
    let borrowed = (jobs.len() > threads).then(|| borrow(threads));
    run_on(jobs, borrowed.as_ref().map_or(threads, |borrowed| borrowed.threads));
}

/// Likewise, on no more than `threads` threads.
pub(crate) fn run_on<F: FnOnce() + Send>(jobs: Vec<F>, threads: usize) {
    let threads = threads.min(jobs.len());
    if threads <= 1 {
        jobs.into_iter().for_each(|job| job());
        return;
    }
    let jobs: Vec<Mutex<Option<F>>> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
    run_numbered(jobs.len(), threads, |number| {
        let job = jobs[number].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(job) = job {
            job();
        }
    });
}

/// Runs `job(0) .. job(n - 1)`, likewise. The calling thread is one of them, and need not wait for another to begin. It returns only when all of them
/// have come and found nothing left: it must hold nothing that they may be waiting for.
pub(crate) fn run_numbered(n: usize, threads: usize, job: impl Fn(usize) + Sync) {
    let threads = threads.min(n);
    if threads <= 1 {
        return (0..n).for_each(job);
    }
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= n {
                return;
            }
            job(number);
        }
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_runs_once() {
        for threads in [0, 1, 2, 8] {
            let done: Vec<AtomicUsize> = (0..37).map(|_| AtomicUsize::new(0)).collect();
            let add = |number: usize| {
                done[number].fetch_add(1, Ordering::Relaxed);
            };
            run_all((0..37).map(|number| move || add(number)).collect(), threads);
            run_on((0..37).map(|number| move || add(number)).collect(), threads);
            run_numbered(37, threads, add);
            assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 3));
            run_numbered(0, threads, |_| panic!("there is no job"));
        }
    }
}
