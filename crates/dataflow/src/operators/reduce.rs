//! `reduce_in_group_order`: the groups' contributions summed at the first worker, always in the order of the groups.
//!
//! Floating-point addition does not associate. Which worker took a group, and when its part arrives, depends on the run; the order in
//! which parts are added does not: a part waits until every earlier group of the list is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use fisherflow_spectra::Group;
use serde::{Deserialize, Serialize};
use timely::ExchangeData;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::vec::Map;

use super::{Accumulated, Part};
use crate::error::RunError;
use crate::fault::{Faults, Held};

/// A group's part of the total, on its way to the first worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OfGroup<P> {
    group: u64,
    part: P,
}

/// The total, as far as it has come.
struct Sum<P> {
    /// Groups that are in it.
    n: usize,
    value: Option<P>,
    /// Parts that came before an earlier one.
    waiting: BTreeMap<u64, P>,
}

impl<P> Sum<P> {
    fn add(
        &mut self,
        order: &[u64],
        OfGroup { group, part }: OfGroup<P>,
        merge: &mut impl FnMut(&mut P, P) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        self.waiting.insert(group, part);
        while let Some(part) = order.get(self.n).and_then(|next| self.waiting.remove(next)) {
            self.n += 1;
            match &mut self.value {
                None => self.value = Some(part),
                Some(value) => merge(value, part)?,
            }
        }
        Ok(())
    }
}

/// Sends the part of each of `groups` to the first worker, which merges them in their order; emits the total, with key 0, once all are in.
pub(crate) fn reduce_in_group_order<'scope, P: ExchangeData>(
    contributions: StreamVec<'scope, u64, Accumulated<P>>,
    faults: &Arc<Faults>,
    groups: &[Group],
    mut merge: impl FnMut(&mut P, P) -> Result<(), RunError> + 'static,
) -> StreamVec<'scope, u64, Part<P>> {
    let faults = Arc::clone(faults);
    let order: Vec<u64> = groups.iter().map(|group| group.index).collect();
    let is_first = contributions.scope().index() == 0;
    let parts = contributions.map(|Accumulated { group, value, .. }| OfGroup { group, part: value });
    parts.unary_frontier(
        Exchange::new(|_: &OfGroup<P>| 0),
        "ReduceInGroupOrder",
        move |capability, _| {
            let mut at_end = Some(capability);
            let mut held = Held::default();
            let mut sum = Sum {
                n: 0,
                value: None,
                waiting: BTreeMap::new(),
            };
            move |(input, frontier), output| {
                input.for_each(|capability, parts| {
                    for part in parts.drain(..) {
                        if faults.raised() {
                            continue;
                        }
                        if let Err(error) = sum.add(&order, part, &mut merge) {
                            faults.raise(error);
                        }
                    }
                    held.keep(&faults, capability.retain_least(0));
                });
                if faults.raised() || !frontier.is_empty() {
                    // The total may lack a part: the capability keeps the pass from ending anywhere.
                    return;
                }
                if is_first && sum.n != order.len() {
                    faults.raise(RunError::Internal("a total lacks a group".into()));
                    return;
                }
                if let Some(capability) = at_end.take()
                    && let Some(value) = sum.value.take()
                {
                    output.session(&capability).give(Part { key: 0, value });
                }
            }
        },
    )
}
