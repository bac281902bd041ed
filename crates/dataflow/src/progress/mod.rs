//! How far a run is, and who is told.

pub(crate) mod meter;
pub(crate) mod operator_times;
pub(crate) mod repeated;
pub(crate) mod standing;
pub(crate) mod status;
