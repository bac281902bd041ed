//! The layers of a network, a kind a file, and how they follow one another.

pub(crate) mod activation;
pub(crate) mod arguments;
pub(crate) mod centred;
pub(crate) mod chain;
pub(crate) mod conv1d;
pub(crate) mod dense;
pub(crate) mod flatten;
pub(crate) mod normalisation;
pub(crate) mod pool1d;
pub(crate) mod row_map;
pub(crate) mod spec;
pub(crate) mod window;
