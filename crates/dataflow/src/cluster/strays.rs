//! Connections that were dropped: counted by reason, reported in one line of fields, and no more often than somebody can read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The same reason is not said again before.
const EVERY: Duration = Duration::from_secs(10);

/// What was dropped so far.
#[derive(Default)]
pub(crate) struct Strays(BTreeMap<String, Reported>);

struct Reported {
    times: u64,
    said: Instant,
}

impl Strays {
    /// Notes a dropped connection; says so unless its reason was said a moment ago.
    pub(crate) fn note(&mut self, with: &str, reason: String) {
        let now = Instant::now();
        let known = self.0.get_mut(&reason);
        let fresh = known
            .as_ref()
            .is_none_or(|known| now.duration_since(known.said) >= EVERY);
        let times = known.as_ref().map_or(1, |known| known.times + 1);
        if fresh {
            tracing::warn!(%with, %reason, times, "connection dropped");
        }
        let said = known.map_or(now, |known| if fresh { now } else { known.said });
        self.0.insert(reason, Reported { times, said });
    }

    /// For the error that ends the wait: empty where nothing was dropped.
    pub(crate) fn in_words(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let reasons: Vec<String> = self
            .0
            .iter()
            .map(|(reason, reported)| format!("{} x {reason}", reported.times))
            .collect();
        format!("; dropped: {}", reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted() {
        let mut strays = Strays::default();
        assert_eq!(strays.in_words(), "");
        for reason in ["no hello: closed", "not a fisherflow process", "no hello: closed"] {
            strays.note("192.0.2.1", reason.into());
        }
        assert_eq!(
            strays.in_words(),
            "; dropped: 2 x no hello: closed; 1 x not a fisherflow process"
        );
    }
}
