//! What is said about one spectrum: a bit field with stable numbers, written to every predictions file.

use std::ops::{BitOr, BitOrAssign};

use serde::{Deserialize, Serialize};

/// Flags of one spectrum. A bit's number never changes its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowFlags(i64);

/// What one bit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlagDescription {
    /// Its number: the flag is set where `flags >> bit & 1` is 1.
    pub bit: u8,
    /// Its name.
    pub name: &'static str,
    /// Whether it leaves the spectrum without a prediction.
    pub bad: bool,
    /// What it says.
    pub description: &'static str,
}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $bad:literal, $text:literal;)*) => {
        impl RowFlags {
            $(#[doc = $text] pub const $name: RowFlags = RowFlags(1 << $bit);)*

            /// Every flag, by bit.
            pub const DESCRIPTIONS: &'static [FlagDescription] = &[
                $(FlagDescription { bit: $bit, name: stringify!($name), bad: $bad, description: $text },)*
            ];

            /// The flags that leave a spectrum without a prediction.
            pub const BAD: RowFlags = RowFlags(0 $(| if $bad { 1 << $bit } else { 0 })*);
        }
    };
}

flags! {
    FLUX_NULL = 0, true, "the flux is null";
    ERROR_NULL = 1, true, "the flux error is null";
    MASK_NULL = 2, true, "the mask is null";
    WRONG_LENGTH = 3, true, "the flux, its error or the mask does not have the catalogue's number of pixels";
    FLUX_NOT_FINITE = 4, true, "the flux is not finite in a pixel that is not masked (by mask, an error of 0 or NaN, or a null in place of the flux)";
    NO_GOOD_PIXEL = 5, true, "every pixel is masked";
    ID_NULL = 6, true, "the identifier is null";
    RESULT_NOT_FINITE = 7, true, "the prediction or its covariance is not finite, or a variance is below 0";
    EXCLUDED = 8, true, "left out by a list of identifiers (exclude): in no sum, not held out";
    FLUX_OUT_OF_RANGE = 9, true, "a pixel that is not masked is noise.farthest_input times as far from the network's input mean as the farthest of a typical held-out spectrum, or overflows";
    PIXELS_MASKED = 16, false, "at least one pixel is masked: it was replaced with the population's mean and carries the population's variance";
    LABEL_MISSING = 17, false, "a label of the catalogue is null or not finite";
    LABEL_ERROR_MISSING = 18, false, "the error of a label is null, negative or not finite, no covariance, or of another number of values (a covariance has K * K of K labels)";
    HELD_OUT = 19, false, "held out from the sums over spectra";
    IN_SUMS = 20, false, "counted in the sums over spectra";
    WEIGHTS_IN_F32 = 21, false, "the weights' part was made in f32: in the shorter numbers of compute.precision it could have been off by more than 1e-3";
    UNLIKE_FIT = 22, false, "its flux is more than 5 standard deviations (of the held-out spectra of the fit, and of its own error) from the mean of these, root mean square over pixels";
}

impl RowFlags {
    /// No flag.
    pub const NONE: RowFlags = RowFlags(0);

    /// The flags as they are written.
    #[must_use]
    pub fn bits(self) -> i64 {
        self.0
    }

    /// Flags as they were written; bits without a name are kept.
    #[must_use]
    pub fn from_bits(bits: i64) -> Self {
        Self(bits)
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub fn contains(self, other: RowFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets all of `other`.
    pub fn insert(&mut self, other: RowFlags) {
        self.0 |= other.0;
    }

    /// Whether the spectrum has no prediction.
    #[must_use]
    pub fn is_bad(self) -> bool {
        self.0 & Self::BAD.0 != 0
    }

    /// The names of the flags that are set, by bit.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::DESCRIPTIONS
            .iter()
            .filter(move |flag| self.0 >> flag.bit & 1 == 1)
            .map(|flag| flag.name)
    }
}

impl BitOr for RowFlags {
    type Output = RowFlags;

    fn bitor(self, other: RowFlags) -> RowFlags {
        RowFlags(self.0 | other.0)
    }
}

impl BitOrAssign for RowFlags {
    fn bitor_assign(&mut self, other: RowFlags) {
        self.0 |= other.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_stable_and_distinct() {
        assert_eq!(RowFlags::FLUX_NULL.bits(), 1);
        assert_eq!(RowFlags::HELD_OUT.bits(), 1 << 19);
        let mut bits: Vec<u8> = RowFlags::DESCRIPTIONS.iter().map(|f| f.bit).collect();
        let n = bits.len();
        bits.dedup();
        assert_eq!(bits.len(), n);
    }

    #[test]
    fn only_bad_flags_are_bad() {
        assert!(!(RowFlags::HELD_OUT | RowFlags::PIXELS_MASKED).is_bad());
        let flags = RowFlags::HELD_OUT | RowFlags::NO_GOOD_PIXEL;
        assert!(flags.is_bad() && flags.contains(RowFlags::NO_GOOD_PIXEL));
        assert_eq!(flags.names().collect::<Vec<_>>(), ["NO_GOOD_PIXEL", "HELD_OUT"]);
        assert!(!RowFlags::NONE.is_bad());
    }
}
