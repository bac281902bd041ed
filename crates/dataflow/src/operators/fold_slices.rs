//! `fold_slices` and `assemble`: sums of the groups' arrays out of the store, slice by slice, wherever there is a worker.
//!
//! A slice of a total is the sum of that slice of every group's array, in group order. Slices are spread over all workers, which read them
//! from the store ahead of their use: a worker holds one slice's sum and a few that are read, whatever the number of groups.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fisherflow_store::{GroupStore, SliceReader, StoredSlice};
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::Part;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::fault::{Faults, Held};

/// Folds whose reading is under way in a worker: the one at hand, and the next.
const READ_AHEAD: usize = 2;
/// Slices that a worker holds at most: its readers', the sum, and the one that is added to it.
pub(crate) const IN_HAND: usize = READ_AHEAD * SliceReader::HOLDS + 2;
/// Slices that are added before other operators have their turn.
const AT_ONCE: usize = 16;
/// Numbers of a summed slice in one message, 512 KiB: timely receives into buffers of 1 MiB, one a process, and makes them of twice the largest message.
const MESSAGE: usize = 1 << 16;

/// A slice of a total, to be summed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SliceFold {
    /// By this worker.
    pub(crate) worker: u64,
    /// Which total.
    pub(crate) key: u64,
    /// Number of spectra that the total is of.
    pub(crate) n_spectra: u64,
    /// Its first number in the total.
    pub(crate) start: usize,
    /// Numbers of the whole total.
    pub(crate) of: usize,
    /// The slice of every group, in group order.
    pub(crate) slices: Vec<StoredSlice>,
}

/// Some of a slice of a total, summed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slice {
    n_spectra: u64,
    start: usize,
    of: usize,
    values: Vec<f64>,
}

/// A total.
#[derive(Clone, Debug)]
pub(crate) struct Total {
    /// Number of spectra that it is of.
    pub(crate) n_spectra: u64,
    pub(crate) values: Vec<f64>,
}

struct Folding {
    capability: Capability<u64>,
    fold: SliceFold,
    reader: Option<SliceReader>,
    sum: Option<Vec<f64>>,
    /// Groups in the sum.
    n: usize,
}

impl Folding {
    /// Adds some groups' slices; whether that was the last.
    fn step(&mut self) -> Result<bool, RunError> {
        for _ in 0..AT_ONCE {
            if self.n == self.fold.slices.len() {
                return Ok(true);
            }
            let values = self
                .reader
                .as_mut()
                .and_then(Iterator::next)
                .ok_or_else(|| RunError::Internal("the reading of sums stopped".into()))??;
            self.n += 1;
            match &mut self.sum {
                None => self.sum = Some(values),
                Some(sum) if sum.len() == values.len() => {
                    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
                Some(sum) => {
                    return Err(RunError::Internal(format!(
                        "the groups' sums have {} and {} numbers",
                        sum.len(),
                        values.len()
                    )));
                }
            }
        }
        Ok(self.n == self.fold.slices.len())
    }
}

/// Brings each slice to its worker, and sums it there.
pub(crate) fn fold_slices<'scope>(
    folds: StreamVec<'scope, u64, SliceFold>,
    faults: &Arc<Faults>,
    store: &GroupStore,
    pass: &'static str,
) -> StreamVec<'scope, u64, Part<Slice>> {
    let (faults, store) = (Arc::clone(faults), store.clone());
    let scope = folds.scope();
    folds.unary(
        Exchange::new(|fold: &SliceFold| fold.worker),
        "FoldSlices",
        move |_, info| {
            let activator = scope.activator_for(info.address);
            let mut pending: VecDeque<Folding> = VecDeque::new();
            move |input, output| {
                input.for_each(|capability, folds| {
                    if let Some(capability) = capability.retain_least(0) {
                        pending.extend(folds.drain(..).map(|fold| Folding {
                            capability: capability.clone(),
                            fold,
                            reader: None,
                            sum: None,
                            n: 0,
                        }));
                    }
                });
                if faults.raised() {
                    // What is pending keeps its capabilities.
                    return;
                }
                for next in pending.iter_mut().take(READ_AHEAD) {
                    if next.reader.is_none() {
                        next.reader = Some(store.read(pass, next.fold.slices.clone()));
                    }
                }
                let Some(mut first) = pending.pop_front() else {
                    return;
                };
                let stepped = first.step();
                faults.pass(FailPoint::Merged);
                match stepped {
                    Ok(true) => {
                        let Folding {
                            capability, fold, sum, ..
                        } = first;
                        for (n, values) in sum.unwrap_or_default().chunks(MESSAGE).enumerate() {
                            let value = Slice {
                                n_spectra: fold.n_spectra,
                                start: fold.start + n * MESSAGE,
                                of: fold.of,
                                values: values.to_vec(),
                            };
                            // A message each.
                            output.session(&capability).give(Part { key: fold.key, value });
                        }
                    }
                    Ok(false) => pending.push_front(first),
                    Err(error) => {
                        faults.raise(error);
                        pending.push_front(first);
                    }
                }
                activator.activate();
            }
        },
    )
}

/// Brings the slices of a total to worker `key % workers`; emits each total once it is whole.
pub(crate) fn assemble<'scope>(
    slices: StreamVec<'scope, u64, Part<Slice>>,
    faults: &Arc<Faults>,
) -> StreamVec<'scope, u64, Part<Total>> {
    let faults = Arc::clone(faults);
    slices.unary_frontier(
        Exchange::new(|part: &Part<Slice>| part.key),
        "Assemble",
        move |capability, _| {
            let mut at_end = Some(capability);
            let mut held = Held::default();
            // Each with the numbers that are in it.
            let mut totals: BTreeMap<u64, (usize, Total)> = BTreeMap::new();
            move |(input, frontier), output| {
                input.for_each(|capability, parts| {
                    for Part { key, value: slice } in parts.drain(..) {
                        if faults.raised() {
                            continue;
                        }
                        let (filled, total) = totals.entry(key).or_insert_with(|| {
                            let (n_spectra, values) = (slice.n_spectra, vec![0.0; slice.of]);
                            (0, Total { n_spectra, values })
                        });
                        let place = total.values.get_mut(slice.start..slice.start + slice.values.len());
                        let Some(place) = place else {
                            faults.raise(RunError::Internal(format!("a slice does not fit into total {key}")));
                            continue;
                        };
                        place.copy_from_slice(&slice.values);
                        *filled += slice.values.len();
                        if *filled == slice.of
                            && let Some((_, total)) = totals.remove(&key)
                        {
                            output.session(&capability).give(Part { key, value: total });
                        }
                    }
                    held.keep(&faults, capability.retain_least(0));
                });
                if frontier.is_empty() && !faults.raised() {
                    if totals.is_empty() {
                        at_end.take();
                    } else {
                        faults.raise(RunError::Internal("a total lacks a slice".into()));
                    }
                }
            }
        },
    )
}
