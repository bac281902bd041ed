//! The prior precision, where it is not given: by evidence or by held-out spectra.

pub(crate) mod evidence;
#[cfg(test)]
pub(crate) mod evidence_oracle;
pub(crate) mod holdout;
pub(crate) mod scan;
pub(crate) mod spectrum;
