//! The posterior of a block, a structure a file, and what all structures answer.

pub(crate) mod block_info;
pub(crate) mod cancellation;
pub(crate) mod captures;
#[cfg(test)]
pub(crate) mod cases;
#[cfg(test)]
pub(crate) mod conformance;
pub(crate) mod contraction;
pub(crate) mod dense;
pub(crate) mod diagonal;
pub(crate) mod dual;
pub(crate) mod eigenbasis;
pub(crate) mod elements;
pub(crate) mod factor;
pub(crate) mod factored_block;
pub(crate) mod input_side;
pub(crate) mod kronecker;
pub(crate) mod low_rank;
pub(crate) mod matrices;
pub(crate) mod matrix_set;
pub(crate) mod pairs;
pub(crate) mod part;
pub(crate) mod precision;
#[cfg(test)]
mod queries_tests;
#[cfg(test)]
mod refusals_tests;
pub(crate) mod stieltjes;
