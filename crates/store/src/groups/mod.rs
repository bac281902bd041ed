//! What the finished groups of a pass left, so that no group is computed twice.

pub(crate) mod commit;
pub(crate) mod kept_arrays;
pub(crate) mod record;
pub(crate) mod store;
