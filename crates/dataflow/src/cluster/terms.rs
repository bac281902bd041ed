//! What the processes of a cluster must share, key by key, so that one that differs is told in what.
//!
//! What the run file and the arguments say stays as it is until somebody changes it. What stands where they point may be the same at the next try: an
//! object came while the processes started. Two that point elsewhere never find the same.

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
    /// What the run file and the arguments say, each of which decides.
    settings: Values,
    /// What they say in words of which two may mean the same: the path of a file, a choice that is left to the program.
    spelled: Values,
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

    /// With what the run file or the arguments say, and the identity holds.
    pub(crate) fn setting(&mut self, key: &str, value: String) {
        self.settings.insert(key.to_owned(), short(value));
    }

    /// With what they say, where the identity holds only what it comes to.
    pub(crate) fn spelled(&mut self, key: &str, value: String) {
        self.spelled.insert(key.to_owned(), short(value));
    }

    /// With what stands where they point: by what is spelled under the key, or under one that begins with it and a dot.
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
        let spelled = differences(&self.spelled, &theirs.spelled);
        let found = differences(&self.found, &theirs.found);
        let derived = differences(&self.derived, &theirs.derived);
        let passes = settings.is_none() && self.finds_otherwise(theirs);
        let said = match (found, derived) {
            (Some(found), _) if passes => format!(
                "the same run file, and found otherwise what it names ({found}); where that stays so, the processes do not read the \
                 same files"
            ),
            _ if settings.is_some() || spelled.is_some() => {
                let said: Vec<String> = settings.into_iter().chain(spelled).collect();
                let said = said.join("; ");
                format!("another run file or command ({said}): start every process with the same ones")
            }
            (_, Some(derived)) => format!(
                "another kind of CPU ({derived}): with [compute] precision = \"bf16x3\" or \"bf16\" start every process on the same kind, on unlike \
                 machines with precision = \"auto\""
            ),
            _ => "another run file, catalogue, command or -n: start every process with the same ones".to_owned(),
        };
        Difference { said, passes }
    }

    /// Whether something else stands where both point.
    fn finds_otherwise(&self, theirs: &Self) -> bool {
        let elsewhere = differing(&self.spelled, &theirs.spelled);
        differing(&self.found, &theirs.found).iter().any(|found| {
            let is_of = |key: &&String| {
                key.strip_prefix(found.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            !elsewhere.iter().any(is_of)
        })
    }
}

/// The keys whose values differ, in order.
fn differing<'a>(ours: &'a Values, theirs: &'a Values) -> Vec<&'a String> {
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    keys.into_iter()
        .filter(|key| ours.get(*key) != theirs.get(*key))
        .collect()
}

/// The same with both values; `None` where none differs.
fn differences(ours: &Values, theirs: &Values) -> Option<String> {
    let value = |of: &Values, key: &String| of.get(key).map_or("not said", String::as_str).to_owned();
    let mut said: Vec<String> = differing(ours, theirs)
        .into_iter()
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
    fn what_stands_elsewhere_does_not_pass_and_what_is_spelled_otherwise_does_not_matter() {
        let of = |network: (&str, &str), catalogue: (&str, &str), group: &str| {
            let mut terms = Terms::of("a run".to_owned());
            terms.setting("compute.batch", "16".to_owned());
            terms.spelled("compute.group", group.to_owned());
            for (key, pointer, (uri, found)) in [
                ("network", "network.uri", network),
                ("catalogue", "catalogue.uri", catalogue),
            ] {
                terms.spelled(pointer, uri.to_owned());
                terms.found(key, found.to_owned());
            }
            terms
        };
        let ours = of(("a", "1"), ("b", "2"), "4096");
        let same = "the same run file, and found otherwise what it names (network is 3 there and 1 here)";
        for (theirs, said, passes) in [
            (of(("a", "3"), ("b", "2"), "4096"), same, true),
            // What comes to the same, it may be: the next try shows it.
            (of(("a", "3"), ("b", "2"), "not said"), same, true),
            (of(("a", "3"), ("c", "2"), "4096"), same, true),
            (
                of(("c", "3"), ("b", "2"), "4096"),
                "another run file or command (network.uri is c there and a here): ",
                false,
            ),
            (
                of(("a", "1"), ("b", "2"), "not said"),
                "another run file or command (compute.group is not said there and 4096 here): ",
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
