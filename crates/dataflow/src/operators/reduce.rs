//! `reduce_in_group_order`: the groups' parts summed at the owner of each total, always in the order of the groups.
//!
//! Floating-point addition does not associate. Which worker took a group, and when its part arrives, depends on the run; the order in
//! which parts are added does not: a part waits until the frontier has passed every earlier group.

use std::collections::BTreeMap;
use std::sync::Arc;

use timely::ExchangeData;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::Part;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::fault::Faults;

/// `reduce_in_group_order` on the parts of groups.
pub(crate) trait ReduceInGroupOrder<'scope, P> {
    /// Sends each part to worker `key % workers` and merges the parts of a key in group order; emits each total at the end.
    fn reduce_in_group_order(
        self,
        faults: &Arc<Faults>,
        merge: impl FnMut(&mut P, P) -> Result<(), RunError> + 'static,
    ) -> StreamVec<'scope, u64, Part<P>>;
}

impl<'scope, P: ExchangeData> ReduceInGroupOrder<'scope, P> for StreamVec<'scope, u64, Part<P>> {
    fn reduce_in_group_order(
        self,
        faults: &Arc<Faults>,
        mut merge: impl FnMut(&mut P, P) -> Result<(), RunError> + 'static,
    ) -> StreamVec<'scope, u64, Part<P>> {
        let faults = Arc::clone(faults);
        self.unary_frontier(
            Exchange::new(|part: &Part<P>| part.key),
            "ReduceInGroupOrder",
            move |capability, _| {
                let mut at_end: Option<Capability<u64>> = Some(capability);
                let mut waiting: BTreeMap<u64, Vec<Part<P>>> = BTreeMap::new();
                let mut totals: BTreeMap<u64, P> = BTreeMap::new();
                move |(input, frontier), output| {
                    input.for_each(|capability, parts| {
                        if let Some(&group) = capability.least() {
                            waiting.entry(group).or_default().append(parts);
                        }
                    });
                    let complete = match frontier.frontier().iter().next() {
                        Some(open) => {
                            let later = waiting.split_off(open);
                            std::mem::replace(&mut waiting, later)
                        }
                        None => std::mem::take(&mut waiting),
                    };
                    for part in complete.into_values().flatten() {
                        match totals.entry(part.key) {
                            std::collections::btree_map::Entry::Vacant(first) => {
                                first.insert(part.value);
                            }
                            std::collections::btree_map::Entry::Occupied(mut total) => {
                                match merge(total.get_mut(), part.value) {
                                    Ok(()) => faults.pass(FailPoint::Merged),
                                    Err(error) => faults.raise(error),
                                }
                            }
                        }
                    }
                    if faults.raised() {
                        // A total may lack a part: keeping its capability keeps the pass from ending anywhere.
                    } else if frontier.is_empty() {
                        if let Some(capability) = at_end.take() {
                            for (key, value) in std::mem::take(&mut totals) {
                                output.session(&capability).give(Part { key, value });
                            }
                        }
                    } else if let (Some(capability), Some(open)) = (at_end.as_mut(), frontier.frontier().iter().next())
                    {
                        capability.downgrade(open);
                    }
                }
            },
        )
    }
}
