//! How long to try again with a store that is busy or away, and how often in between.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// The first pause; each further one is twice as long,
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A read that got so many bytes further begins to count its failures anew.
const PROGRESS: u64 = 64 << 10;

/// How long to try again with a store that is busy or away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts after the first one, at most; by default the time alone ends them.
    pub retries: usize,
    /// No attempt begins later than this after the first failure.
    pub retry_for: Duration,
    /// For one request with its body; a read goes on where it was cut off.
    pub timeout: Duration,
    /// For the connection of one request.
    pub connect_timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            retries: usize::MAX,
            retry_for: Duration::from_secs(180),
            timeout: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

impl Patience {
    /// For the first contact with a bucket: a wrong endpoint is to be told within seconds.
    pub(crate) fn at_first_contact(&self) -> Self {
        Self {
            retries: self.retries.min(5),
            retry_for: self.retry_for.min(Duration::from_secs(5)),
            timeout: self.timeout.min(Duration::from_secs(10)),
            connect_timeout: self.connect_timeout,
        }
    }
}

/// The failed attempts at one request.
#[derive(Clone, Debug)]
pub(crate) struct Attempts {
    began: Instant,
    failed: usize,
    first_failure: Option<Instant>,
    progress: u64,
    /// Whether new credentials were asked for after a refusal.
    pub renewed: bool,
}

impl Attempts {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            failed: 0,
            first_failure: None,
            progress: 0,
            renewed: false,
        }
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Since the first one began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The key of `[store]` that ends them, where the one that fails now is the last.
    pub fn limit(&self, patience: &Patience) -> &'static str {
        if self.failed < patience.retries {
            "retry_seconds"
        } else {
            "retries"
        }
    }

    /// One failed: how long to wait before the next; `None` where patience is spent.
    pub fn pause(&mut self, patience: &Patience) -> Option<Duration> {
        let first = *self.first_failure.get_or_insert_with(Instant::now);
        self.failed += 1;
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.failed - 1).min(16));
        // Those that failed together must not come back together.
        let pause = doubled.min(LONGEST_PAUSE).mul_f64(0.5 + 0.5 * unit());
        let is_granted = self.failed <= patience.retries && first.elapsed() + pause < patience.retry_for;
        is_granted.then_some(pause)
    }

    /// So many more bytes came.
    pub fn progressed(&mut self, bytes: u64) {
        self.progress += bytes;
        if self.progress >= PROGRESS && self.failed > 0 {
            *self = Self::new();
        }
    }
}

/// A number in [0, 1), another one each time.
fn unit() -> f64 {
    (RandomState::new().hash_one(0_u8) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let patience = Patience {
            retries: 4,
            ..Patience::default()
        };
        let mut attempts = Attempts::new();
        for doubled in [100, 200, 400, 800] {
            let pause = attempts.pause(&patience).unwrap().as_millis();
            assert!((doubled / 2..=doubled).contains(&pause), "{pause} of {doubled} ms");
        }
        assert_eq!(attempts.limit(&patience), "retries");
        assert_eq!(attempts.pause(&patience), None);
        assert_eq!(attempts.failed(), 5);
        attempts.progressed(PROGRESS);
        assert!(attempts.pause(&patience).is_some());
    }

    #[test]
    fn no_attempt_begins_after_the_time() {
        let patience = Patience {
            retry_for: Duration::ZERO,
            ..Patience::default()
        };
        assert_eq!(Attempts::new().limit(&patience), "retry_seconds");
        assert_eq!(Attempts::new().pause(&patience), None);
        // Nor behind a pause that ends after it.
        let patience = Patience {
            retry_for: Duration::from_secs(1),
            ..Patience::default()
        };
        let mut attempts = Attempts::new();
        let pauses: Vec<Duration> = (0..10).filter_map(|_| attempts.pause(&patience)).collect();
        assert!(pauses.iter().all(|pause| *pause < patience.retry_for), "{pauses:?}");
    }

    /// A store may refuse connections at once, and be back within the time.
    #[test]
    fn by_default_the_time_ends_patience_and_no_number_does() {
        for seconds in [180, 3600] {
            let patience = Patience {
                retry_for: Duration::from_secs(seconds),
                ..Patience::default()
            };
            let (mut attempts, mut waited) = (Attempts::new(), Duration::ZERO);
            while waited < patience.retry_for {
                waited += attempts.pause(&patience).unwrap();
            }
        }
        assert_eq!(Patience::default().retry_for, Duration::from_secs(180));
    }
}
