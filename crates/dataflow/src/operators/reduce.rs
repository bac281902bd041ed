//! `reduce_in_group_order`: the groups' contributions summed at the owner of each total, always in the order of the groups.
//!
//! Floating-point addition does not associate. Which worker took a group, and when its part arrives, depends on the run; the order in
//! which parts are added does not: a part waits until every earlier group of the list is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use fisherflow_spectra::Group;
use serde::{Deserialize, Serialize};
use timely::ExchangeData;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::Operator;

use super::{Accumulated, Part};
use crate::error::RunError;
use crate::fault::{Faults, Held};

/// What must be there before a total is one.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// The groups' indices, in order.
    groups: Vec<u64>,
    /// Every group contributes to totals `0..totals`.
    totals: u64,
}

impl Expected {
    /// A contribution of each group to each of so many totals.
    pub(crate) fn of(groups: &[Group], totals: usize) -> Self {
        Self {
            groups: groups.iter().map(|group| group.index).collect(),
            totals: totals as u64,
        }
    }
}

/// A group's part of a total, on its way to the owner.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OfGroup<P> {
    group: u64,
    part: Part<P>,
}

/// A total, as far as it has come.
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
        group: u64,
        part: P,
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

/// Sends each part to worker `key % workers` and merges the parts of a key in group order; emits each total at the end.
pub(crate) fn reduce_in_group_order<'scope, P: ExchangeData>(
    contributions: StreamVec<'scope, u64, Accumulated<Vec<(u64, P)>>>,
    faults: &Arc<Faults>,
    expected: Expected,
    mut merge: impl FnMut(&mut P, P) -> Result<(), RunError> + 'static,
) -> StreamVec<'scope, u64, Part<P>> {
    let faults = Arc::clone(faults);
    let scope = contributions.scope();
    let (me, workers) = (scope.index() as u64, scope.peers() as u64);
    let parts = contributions.unary(Pipeline, "Parts", |_, _| {
        move |input, output| {
            input.for_each(|capability, groups| {
                for Accumulated { group, value, .. } in groups.drain(..) {
                    for (key, value) in value {
                        // One message a part.
                        let part = Part { key, value };
                        output.session(&capability).give(OfGroup { group, part });
                    }
                }
            });
        }
    });
    parts.unary_frontier(
        Exchange::new(|of: &OfGroup<P>| of.part.key),
        "ReduceInGroupOrder",
        move |capability, _| {
            let mut at_end = Some(capability);
            let mut held = Held::default();
            let own = (0..expected.totals).filter(|key| key % workers == me);
            let mut sums: BTreeMap<u64, Sum<P>> = own.map(|key| (key, Sum::none())).collect();
            move |(input, frontier), output| {
                input.for_each(|capability, parts| {
                    for OfGroup { group, part } in parts.drain(..) {
                        if faults.raised() {
                            continue;
                        }
                        let added = match sums.get_mut(&part.key) {
                            Some(sum) => sum.add(&expected.groups, group, part.value, &mut merge),
                            None => Err(RunError::Internal(format!("there is no total {}", part.key))),
                        };
                        if let Err(error) = added {
                            faults.raise(error);
                        }
                    }
                    held.keep(&faults, capability.retain_least(0));
                });
                if faults.raised() || !frontier.is_empty() {
                    // A total may lack a part: the capability keeps the pass from ending anywhere.
                    return;
                }
                if sums.values().any(|sum| sum.n != expected.groups.len()) {
                    faults.raise(RunError::Internal("a total lacks a group".into()));
                    return;
                }
                if let Some(capability) = at_end.take() {
                    for (key, sum) in std::mem::take(&mut sums) {
                        if let Some(value) = sum.value {
                            output.session(&capability).give(Part { key, value });
                        }
                    }
                }
            }
        },
    )
}

impl<P> Sum<P> {
    fn none() -> Self {
        Self {
            n: 0,
            value: None,
            waiting: BTreeMap::new(),
        }
    }
}
