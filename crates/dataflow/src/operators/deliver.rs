//! `deliver`: parts brought to the workers that they are addressed to.

use std::sync::Arc;

use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{ProbeHandle, Scope};

use super::Part;
use super::plan::emit;
use crate::error::RunError;
use crate::fault::{Faults, Held};

/// Sends each of this worker's parts to worker `key`, where `receive` takes it. Done once every worker has received its own: a barrier, even
/// where nothing is sent.
pub(crate) fn deliver<P: ExchangeData>(
    scope: Scope<'_, u64>,
    faults: &Arc<Faults>,
    parts: Vec<Part<P>>,
    mut receive: impl FnMut(P) -> Result<(), RunError> + 'static,
    probe: &ProbeHandle<u64>,
) {
    let faults = Arc::clone(faults);
    emit(scope, parts.into_iter().map(|part| (0, part)).collect())
        .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Exchange::new(|part: &Part<P>| part.key),
            "Deliver",
            move |_, _| {
                let mut held = Held::default();
                move |input, _output| {
                    input.for_each(|capability, parts| {
                        for part in parts.drain(..) {
                            if let Err(error) = receive(part.value) {
                                faults.raise(error);
                            }
                        }
                        held.keep(&faults, capability.retain_least(0));
                    });
                }
            },
        )
        .probe_with(probe);
}
