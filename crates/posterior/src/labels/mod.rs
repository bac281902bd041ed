//! The error of a star's labels: its parts, what held-out stars say of them, and their sum.

pub(crate) mod cells;
pub(crate) mod climb;
pub(crate) mod deviance;
pub(crate) mod error_budget;
pub(crate) mod fit;
pub(crate) mod flux_covariance;
pub(crate) mod held_out;
pub(crate) mod maximum;
pub(crate) mod predictive;
pub(crate) mod psd;
pub(crate) mod pulls;
pub(crate) mod scale;
pub(crate) mod scatter;
pub(crate) mod small;
pub(crate) mod stray;
pub(crate) mod weighted_gram;
