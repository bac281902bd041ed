//! Low-rank passes: the leading eigenpairs of the block of all `low_rank` layers, by block power on products over the training spectra.
//!
//! What a pass comes to is in the store before the next one begins, and what the one before came to is removed then. A run that was killed goes
//! on after the last pass that is there, and so comes to the same bits; where what that came to is damaged, it begins again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::{BlockPower, LeadingPairs, StructureKind};
use fisherflow_store::{GroupArray, Purpose};
use serde_json::Value;
use timely::worker::Worker;

use super::by_first;
use super::products::{Loss, Over, not_the_owner, products};
use crate::context::Context;
use crate::error::RunError;
use crate::group_name::{PassInputs, Serves};

/// The passes' folder among the groups: what each leaves is kept as that of one group is.
const EIGENPAIRS: &str = "eigenpairs";

/// What passes leave for the next one: how many there were, its vectors and, after the last, the eigenpairs.
type Next = (usize, Vec<f64>, Option<LeadingPairs>);

/// The iteration, where the sums are: with the first worker.
type Power = Rc<RefCell<Option<BlockPower>>>;

/// The eigenpairs, on every worker; `None` where no layer is held as `low_rank`. `begin` is told which pass begins, from 1.
pub(crate) fn leading_pairs(
    worker: &mut Worker,
    context: &Arc<Context>,
    loss: &Loss,
    begin: impl Fn(usize),
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
    // The owner of the sums, the first worker, goes on with its own; the others only take over what it finds.
    let power = (worker.index() == 0).then(|| BlockPower::new(plan.n_weights(), settings.rank, settings.passes));
    let power: Power = Rc::new(RefCell::new(power));
    let (mut done, mut directions, mut found) = left(worker, context, &power)?;
    while found.is_none() {
        let pass = done + 1;
        begin(pass);
        let (owned, keeping) = (Rc::clone(&power), Arc::clone(context));
        (done, directions, found) = products(worker, context, loss, &over, directions, move |sums| {
            let mut power = owned.borrow_mut();
            let power = power.as_mut().ok_or_else(not_the_owner)?;
            let products = sums.products()?;
            let n_spectra = sums.n_spectra;
            drop(sums);
            power.step(&products)?;
            drop(products);
            keep(&keeping, pass, n_spectra, power.state())?;
            Ok((pass, power.directions(), power.found()))
        })?;
    }
    Ok(found)
}

/// Where an earlier run of this name came to, as the first worker finds it for all.
fn left(worker: &mut Worker, context: &Arc<Context>, power: &Power) -> Result<Next, RunError> {
    let (looking, power) = (Arc::clone(context), Rc::clone(power));
    by_first(worker, context, "Agree", move || {
        let mut power = power.borrow_mut();
        let power = power.as_mut().ok_or_else(not_the_owner)?;
        let mut done = looking.job.curvature.low_rank.passes;
        while done > 0 {
            if let Some(state) = kept(&looking, done)? {
                power.resume(done, &state);
                break;
            }
            done -= 1;
        }
        Ok((done, power.directions(), power.found()))
    })
}

/// What the state after a pass is called: the run alone decides it.
fn name(context: &Context, pass: usize) -> String {
    let mut inputs = PassInputs::of_run(context, EIGENPAIRS);
    inputs.add("state after", &pass.to_string());
    inputs.digest()[..32].to_owned()
}

/// Keeps the state after a pass, in place of the one before.
fn keep(context: &Context, pass: usize, n_spectra: u64, state: Vec<f64>) -> Result<(), RunError> {
    let store = context.groups_that_serve(Serves::ThisRun);
    let array = GroupArray {
        key: 0,
        purpose: Purpose::Keep,
        n_spectra,
        values: state,
    };
    let attempt = format!("{:016x}", rand::random::<u64>());
    let what = (vec![array], Vec::new(), Value::Null);
    store
        .commit(EIGENPAIRS, &name(context, pass), &attempt, 0, what, || ())?
        .wait()?;
    // This run has no more use for it.
    store.release();
    store.remove(EIGENPAIRS, &name(context, pass - 1))?;
    Ok(())
}

/// The state after a pass, if it is there.
fn kept(context: &Context, pass: usize) -> Result<Option<Vec<f64>>, RunError> {
    let store = context.groups_that_serve(Serves::ThisRun);
    let name = name(context, pass);
    let mut finished = store.finished(EIGENPAIRS, &BTreeSet::from([name.clone()]))?;
    let Some(slices) = finished.remove(&name).and_then(|record| record.slices(0)) else {
        return Ok(None);
    };
    Ok(Some(store.read(EIGENPAIRS, slices).concat()?))
}
