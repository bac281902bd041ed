//! When the difference of two numbers is rounding, and no result.

/// What is left of the larger number where the rounding of sums in f64 makes up a thousandth of the difference.
pub(crate) const LOST: f64 = 1e-12;

/// Whether a difference from `whole` is so small that rounding makes up a thousandth of it or more.
pub(crate) fn is_lost(difference: f64, whole: f64) -> bool {
    difference.is_nan() || difference <= LOST * whole
}
