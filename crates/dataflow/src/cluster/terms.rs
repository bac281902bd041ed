//! What the processes of a cluster must share, key by key, so that one that differs is told in what.
//!
//! What the run file and the arguments say stays as it is until somebody changes it. What stands where they point may be the same at the next try: an
//! object came while the processes started.

use std::collections::{BTreeMap, BTreeSet};

use fisherflow_store::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes of a value that is told as it is; of a longer one its beginning and its hash.
const LONG: usize = 160;
/// Differences that are told; others are counted.
const TOLD: usize = 8;

/// By key of the run file, or in words.
type Values = BTreeMap<String, String>;

/// What a process takes part in. Only its digest decides, the rest explains: no secret is in it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// Names all that must be the same.
    #[serde(skip)]
    identity: String,
    /// What the run file and the arguments say.
    settings: Values,
    /// What stands where they point.
    found: Values,
    /// What follows from both on this machine.
    derived: Values,
}

/// In what another process differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// In words.
    pub(crate) said: String,
    /// Whether there may be none at the next try.
    pub(crate) passes: bool,
}

impl Terms {
    /// Those of a name that only what is the same in everything has.
    pub(crate) fn of(identity: String) -> Self {
        Self {
            identity,
            ..Self::default()
        }
    }

    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// With what the run file or the arguments say.
    pub(crate) fn setting(&mut self, key: &str, value: String) {
        self.settings.insert(key.to_owned(), short(value));
    }

    /// With what stands where they point.
    pub(crate) fn found(&mut self, key: &str, value: String) {
        self.found.insert(key.to_owned(), short(value));
    }

    /// With what follows from both on this machine.
    pub(crate) fn derived(&mut self, key: &str, value: String) {
        self.derived.insert(key.to_owned(), short(value));
    }

    /// In what a process of another identity differs from this one; continues "process 1 is of".
    pub(crate) fn difference(&self, theirs: &Self) -> Difference {
        let settings = differences(&self.settings, &theirs.settings);
        let found = differences(&self.found, &theirs.found);
        let derived = differences(&self.derived, &theirs.derived);
        let passes = settings.is_none() && found.is_some();
        let said = match (settings, found, derived) {
            (Some(settings), ..) => {
                format!("another run file or command ({settings}): start every process with the same ones")
            }
            (None, Some(found), _) => format!(
                "the same run file, and found otherwise what it names ({found}); where that stays so, the processes do not read the \
                 same files"
            ),
            (None, None, Some(derived)) => format!(
                "another kind of CPU ({derived}): with [compute] precision = \"bf16x3\" or \"bf16\" start every process on the same kind, on unlike \
                 machines with precision = \"auto\""
            ),
            (None, None, None) => {
                "another run file, catalogue, command or -n: start every process with the same ones".to_owned()
            }
        };
        Difference { said, passes }
    }
}

/// The keys whose values differ, with both; `None` where none does.
fn differences(ours: &Values, theirs: &Values) -> Option<String> {
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let value = |of: &Values, key: &String| of.get(key).map_or("not said", String::as_str).to_owned();
    let mut said: Vec<String> = keys
        .into_iter()
        .filter(|key| ours.get(*key) != theirs.get(*key))
        .map(|key| format!("{key} is {} there and {} here", value(theirs, key), value(ours, key)))
        .collect();
    let others = said.len().saturating_sub(TOLD);
    said.truncate(TOLD);
    if others > 0 {
        said.push(format!("{others} more"));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// A value as it is told.
fn short(value: String) -> String {
    if value.len() <= LONG {
        return value;
    }
    let start: String = value.chars().take(LONG / 4).collect();
    format!("{start}... (SHA-256 {})", &hex(&Sha256::digest(&value))[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(batch: u64, catalogue: &str, kernel: &str) -> Terms {
        let mut terms = Terms::of("a run".to_owned());
        terms.setting("compute.batch", batch.to_string());
        terms.setting("compute.device", "cpu".to_owned());
        terms.found("catalogue", catalogue.to_owned());
        terms.derived("arithmetic", kernel.to_owned());
        terms
    }

    #[test]
    fn what_differs_is_named_with_both_values_and_only_what_was_found_passes() {
        let ours = terms(16, "12 objects", "avx2");
        for (theirs, said, passes) in [
            (
                terms(32, "13 objects", "amx"),
                "another run file or command (compute.batch is 32 there and 16 here): ",
                false,
            ),
            (
                terms(16, "13 objects", "amx"),
                "the same run file, and found otherwise what it names (catalogue is 13 objects there and 12 objects here)",
                true,
            ),
            (
                terms(16, "12 objects", "amx"),
                "another kind of CPU (arithmetic is amx there and avx2 here): ",
                false,
            ),
            (
                terms(16, "12 objects", "avx2"),
                "another run file, catalogue, command or -n: ",
                false,
            ),
        ] {
            let difference = ours.difference(&theirs);
            assert!(difference.said.starts_with(said), "{difference:?}");
            assert_eq!(difference.passes, passes, "{difference:?}");
        }
    }

    #[test]
    fn values_and_lists_of_any_length_are_told_in_a_line() {
        let of = |value: char| {
            let mut terms = Terms::of("a run".to_owned());
            for key in 0..12 {
                terms.setting(&format!("key {key:02}"), value.to_string().repeat(100_000));
            }
            terms
        };
        let (ours, theirs) = (of('a'), of('b'));
        let said = ours.difference(&theirs).said;
        assert!(said.contains("key 07 is bbbb") && !said.contains("key 08"), "{said}");
        assert!(said.contains("; 4 more)") && said.len() < 3000, "{said}");
        // A key that one of them does not know.
        let said = Terms::default().difference(&theirs).said;
        assert!(said.contains(" there and not said here"), "{said}");
    }
}
