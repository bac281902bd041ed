//! What is wrong with spectra as they were described.

use thiserror::Error;

/// A catalogue's description or a batch that cannot be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpectraError {
    /// The columns contradict one another.
    #[error("catalogue columns: {reason}")]
    Columns {
        /// What contradicts what, and the remedy.
        reason: String,
    },
    /// Two arrays that describe the same rows differ in length.
    #[error("{what} has {found} values, expected {expected}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// Rows of a table could not be taken, or not be put together.
    #[error("rows of a batch could not be selected or joined")]
    Select(#[source] arrow_schema::ArrowError),
    /// No pixel of any spectrum was good, so that nothing is known about what a masked pixel would hold.
    #[error(
        "no pixel was good in at least two of the {spectra} held-out spectra: check the error and mask columns, or raise holdout_fraction"
    )]
    NoPopulation {
        /// Spectra looked at.
        spectra: u64,
    },
}
