//! The operators that every pass over spectra is made of, in the order data flows through them.
//!
//! A reduction group's index is its timestamp: the frontier then says which groups are complete, and "in group order" is the order
//! of time. Groups are few (thousands), spectra many, so nothing here is per spectrum.

mod accumulate;
mod conclude;
mod deliver;
mod differentiate;
mod fetch;
mod gather;
mod plan;
mod reduce;

pub(crate) use accumulate::{Accumulate, GroupFold};
pub(crate) use conclude::Conclude;
pub(crate) use deliver::deliver;
pub(crate) use differentiate::Differentiate;
pub(crate) use fetch::{Fetch, GroupReader};
pub(crate) use gather::Gather;
pub(crate) use plan::{owned, plan};
pub(crate) use reduce::ReduceInGroupOrder;

use serde::{Deserialize, Serialize};

/// What flows through a worker: the batches of a group in catalogue order, then its end.
#[derive(Clone, Debug)]
pub(crate) enum GroupItem<T> {
    /// A batch of the group, or what became of it.
    Batch(T),
    /// The group has no more batches.
    End,
}

/// A group's contribution to one total, or the total itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part<P> {
    /// Which total; also decides which worker owns it.
    pub(crate) key: u64,
    /// What is added.
    pub(crate) value: P,
}
