//! Values of a label that are far from all others, as missing labels are that are written as numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Fewer stars tell nothing.
pub(crate) const FEWEST: u64 = 10;
/// One star alone has a stray label where the gap is so many times the range of all others: labels may have a long tail, and the end of an exponential
/// one over ten stars is beyond that in one catalogue of 165.
const FAR_ALONE: f64 = 3.0;
/// The same of a value that missing labels are given, which no star has by chance: a third of the gap from temperatures to -9999 is no wider than their range.
const FAR_MISSING: f64 = 0.1;

/// A value of a label that is farther from all others than these are from one another; where one star alone has it, three times as far, and where it is
/// one that missing labels are given (99.99, -999, -9999), a tenth as far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StrayLabel {
    /// Its value, label units.
    pub value: f64,
    /// Number of stars that have it.
    pub n_spectra: u64,
}

impl fmt::Display for StrayLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, n_spectra } = self;
        let why = match stands_for_missing(*value) {
            true => "far from all other values, as missing labels are given",
            false => "farther from all other values than these are from one another",
        };
        write!(f, "{value} in {n_spectra} of them, {why}")
    }
}

/// The lowest and the highest values of a label: all that tells a stray one, whatever the number of stars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelEnds {
    n_spectra: u64,
    /// The lowest value; the highest, as its negative.
    ends: Option<[End; 2]>,
}

/// The lowest value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct End {
    value: f64,
    /// Stars that have it.
    n_spectra: u64,
    /// The lowest but one.
    next: Option<f64>,
}

impl LabelEnds {
    /// Of values of one label; what is not finite is none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut ends = Self::default();
        values.into_iter().for_each(|value| ends.add(value));
        ends
    }

    /// Adds a value; what is not finite is none.
    pub fn add(&mut self, value: f64) {
        if value.is_finite() {
            let end = |value| End {
                value,
                n_spectra: 1,
                next: None,
            };
            self.merge(&Self {
                n_spectra: 1,
                ends: Some([end(value), end(-value)]),
            });
        }
    }

    /// Adds the ends of other stars.
    pub fn merge(&mut self, other: &Self) {
        self.n_spectra += other.n_spectra;
        self.ends = match (self.ends, other.ends) {
            (Some([low, high]), Some(other)) => Some([low.and(other[0]), high.and(other[1])]),
            (own, other) => own.or(other),
        };
    }

    /// Number of values.
    #[must_use]
    pub fn n_spectra(&self) -> u64 {
        self.n_spectra
    }

    /// The lowest or the highest value, where a wide gap is next to it. None among fewer than ten.
    #[must_use]
    pub fn stray(&self) -> Option<StrayLabel> {
        let [low, high] = self.ends.filter(|_| self.n_spectra >= FEWEST)?;
        [(low, high, 1.0), (high, low, -1.0)]
            .into_iter()
            .find_map(|(end, opposite, sign)| {
                // The others, from `first` to `last`.
                let (first, last) = (end.next?, -opposite.value);
                let (value, n_spectra) = (sign * end.value, end.n_spectra);
                let far = match n_spectra {
                    _ if stands_for_missing(value) => FAR_MISSING,
                    1 => FAR_ALONE,
                    _ => 1.0,
                };
                let strays = 2 * n_spectra < self.n_spectra && last > first && first - end.value > far * (last - first);
                strays.then_some(StrayLabel { value, n_spectra })
            })
    }
}

impl End {
    /// Of the values of both.
    fn and(self, other: Self) -> Self {
        let (low, high) = if other.value < self.value {
            (other, self)
        } else {
            (self, other)
        };
        if low.value < high.value {
            return Self {
                next: Some(low.next.map_or(high.value, |next| next.min(high.value))),
                ..low
            };
        }
        Self {
            n_spectra: low.n_spectra + high.n_spectra,
            next: low.next.into_iter().chain(high.next).reduce(f64::min),
            ..low
        }
    }
}

/// Whether a value is written in nothing but nines, two or more before the point.
fn stands_for_missing(value: f64) -> bool {
    // A column of single precision has 99.98999786 in place of 99.99.
    let digits = (value.abs() as f32).to_string();
    digits.starts_with("99") && digits.chars().all(|digit| matches!(digit, '9' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(values: &[f64]) -> Option<StrayLabel> {
        LabelEnds::of(values.iter().copied()).stray()
    }

    #[test]
    fn ends_merge_as_if_seen_at_once() {
        let mut values: Vec<f64> = (0..40).map(|i| f64::from(i % 7)).collect();
        values.extend([-9999.0, 3.5, -9999.0, f64::NAN, 6.0]);
        let all = LabelEnds::of(values.iter().copied());
        assert_eq!((all.n_spectra(), all.stray().unwrap().n_spectra), (44, 2));
        for size in [1, 2, 7, 41, 44, 45] {
            let mut merged = LabelEnds::default();
            for some in values.chunks(size) {
                merged.merge(&LabelEnds::of(some.iter().copied()));
            }
            assert_eq!(merged, all, "{size}");
        }
    }

    #[test]
    fn a_value_is_stray_where_few_stars_have_it_and_the_gap_is_wider_than_all_others() {
        let others: Vec<f64> = (0..=10).map(f64::from).collect();
        let with = |value: f64, n: usize| among(&[&others[..], &vec![value; n]].concat()).map(|stray| stray.n_spectra);
        assert_eq!(
            (with(40.0, 1), with(41.0, 1), with(-9999.0, 1)),
            (None, Some(1), Some(1)),
            "one star may be the end of a tail"
        );
        assert_eq!(among(&[0.0, 1.0, 1000.0]), None, "three stars tell nothing");
        assert_eq!((with(18.0, 2), with(21.0, 2), with(-11.0, 3)), (None, Some(2), Some(3)));
        assert_eq!(
            (with(-9999.0, 10), with(-9999.0, 11)),
            (Some(10), None),
            "most are no strays"
        );
    }

    #[test]
    fn a_value_that_missing_labels_are_given_is_told_of_whatever_the_range_of_the_others() {
        let teff: Vec<f64> = (0..=100).map(|i| 3500.0 + 45.0 * f64::from(i)).collect();
        let with = |value: f64| among(&[&teff[..], &[value]].concat()).map(|stray| stray.value);
        for missing in [-9999.0, -999.0, -99.9, 99.0, f64::from(99.99_f32), 9999.0, -1e20] {
            assert_eq!(with(missing), Some(missing));
        }
        // The tail of hot stars, and what no survey writes for a missing label.
        for value in [9000.0, 15_000.0, 20_000.0, -1000.0, 9.99, 8100.0] {
            assert_eq!(with(value), None, "{value}");
        }
        // Within the others, or hardly outside of them, it is one of them.
        let near: Vec<f64> = (0..=100).map(|i| 98.0 - f64::from(i)).collect();
        assert_eq!(among(&[&near[..], &[99.0]].concat()), None);
        let said = among(&[&teff[..], &[-999.0]].concat()).unwrap().to_string();
        assert!(
            said.starts_with("-999 in 1 of them, far from all other values, as missing labels"),
            "{said}"
        );
    }
}
