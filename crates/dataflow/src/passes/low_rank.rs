//! Low-rank passes: the leading eigenpairs of the block of all `low_rank` layers, by block power on products over the training spectra.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::{BlockPower, LeadingPairs, StructureKind};
use timely::worker::Worker;

use super::products::{Loss, Over, not_the_owner, products};
use crate::context::Context;
use crate::error::RunError;

/// What a pass leaves for the next one.
type Next = (Vec<f64>, Option<LeadingPairs>);

/// The eigenpairs, on every worker; `None` where no layer is held as `low_rank`. `begin` is told that a pass begins.
pub(crate) fn leading_pairs(
    worker: &mut Worker,
    context: &Arc<Context>,
    loss: &Loss,
    mut begin: impl FnMut(&Worker),
) -> Result<Option<LeadingPairs>, RunError> {
    let Some(plan) = context
        .blocks
        .iter()
        .find(|plan| plan.structure == StructureKind::LowRank)
    else {
        return Ok(None);
    };
    let over = Over {
        layers: plan.layers.clone(),
        shapes: plan.shapes.clone(),
    };
    let settings = context.job.curvature.low_rank;
    let power = BlockPower::new(plan.n_weights(), settings.rank, settings.passes);
    let mut next: Next = (power.directions(), None);
    // The owner of the sums, the first worker, goes on with its own; the others only take over what it finds.
    let power = Rc::new(RefCell::new((worker.index() == 0).then_some(power)));
    while next.1.is_none() {
        begin(worker);
        let owned = Rc::clone(&power);
        next = products(worker, context, loss, &over, next.0, move |sums| {
            let mut power = owned.borrow_mut();
            let power = power.as_mut().ok_or_else(not_the_owner)?;
            power.step(&sums.products()?)?;
            Ok((power.directions(), power.found()))
        })?;
    }
    Ok(next.1)
}
