//! The prior precision, where it is not given: by evidence or by held-out spectra.

pub(crate) mod evidence;
#[cfg(test)]
mod evidence_oracle_tests;
pub(crate) mod holdout;
pub(crate) mod scan;
pub(crate) mod spectrum;
