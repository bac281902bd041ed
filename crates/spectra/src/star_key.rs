//! What a labelled star is known by in whatever catalogue it stands: its identifier and its labels, the same for all its spectra.
//!
//! By identifiers alone the first rows of two catalogues that count theirs from 0 were the same spectra: only where one of two has no labels are
//! stars known by those.

use serde::{Deserialize, Serialize};

use crate::key_hash::hash64;

/// The hash of an identifier and labels; the labels in single precision, so that a copy in another type has the same. The smallest of many
/// are drawn by lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StarKey(u64);

impl StarKey {
    /// `None` where a label is missing.
    ///
    /// ```
    /// use fisherflow_spectra::StarKey;
    /// assert_eq!(StarKey::of("a", &[4000.1]), StarKey::of("a", &[f64::from(4000.1_f32)]));
    /// assert_ne!(StarKey::of("a", &[4000.1]), StarKey::of("a", &[4000.2]));
    /// assert_eq!(StarKey::of("a", &[f64::NAN]), None);
    /// ```
    #[must_use]
    pub fn of(id: &str, labels: &[f64]) -> Option<Self> {
        let mut name = id.to_owned();
        for label in labels {
            if !label.is_finite() {
                return None;
            }
            name += &format!("\n{}", *label as f32);
        }
        Some(Self(hash64(&name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifier_and_labels_are_told_apart() {
        assert_ne!(StarKey::of("1", &[2.0, 3.0]), StarKey::of("1", &[3.0, 2.0]));
        assert_ne!(StarKey::of("12", &[3.0]), StarKey::of("1", &[23.0]));
        assert_ne!(StarKey::of("1", &[3.0]), StarKey::of("2", &[3.0]));
    }
}
