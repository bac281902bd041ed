//! `gather`: small totals brought to every worker, so that the next pass can start anywhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use timely::ExchangeData;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::{ProbeHandle, StreamVec};

use super::Part;

/// The totals of a pass by key, complete once the pass's probe is done.
pub(crate) type Gathered<P> = Rc<RefCell<BTreeMap<u64, P>>>;

/// Brings the totals to every worker.
pub(crate) fn gather<P: ExchangeData + Clone>(
    totals: StreamVec<'_, u64, Part<P>>,
    probe: &ProbeHandle<u64>,
) -> Gathered<P> {
    let gathered: Gathered<P> = Rc::default();
    let into = Rc::clone(&gathered);
    totals
        .broadcast()
        .unary::<timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "Gather", move |_, _| {
            move |input, _output| {
                input.for_each(|_, parts| {
                    into.borrow_mut()
                        .extend(parts.drain(..).map(|part| (part.key, part.value)));
                });
            }
        })
        .probe_with(probe);
    gathered
}
