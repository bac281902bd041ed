//! Calibrate pass: what held-out residuals show beyond the photons' part, the weights' part and the labels' own errors.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_network::InputJacobian;
use fisherflow_posterior::BudgetSums;
use fisherflow_spectra::PixelPopulation;
use timely::worker::Worker;

use super::budget::{flux_part, weights_part};
use super::differentiated::{Differentiated, differentiate};
use super::{held_out, run};
use crate::context::Context;
use crate::error::RunError;
use crate::operators::{Accumulate, Differentiate, Gather, GroupFold, ReduceInGroupOrder};

/// The sums over held-out spectra, label units.
pub(crate) fn calibrate(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
) -> Result<BudgetSums, RunError> {
    let total = run(worker, context, |scope, probe| {
        let (deriving, population) = (Arc::clone(context), population.cloned());
        Ok(held_out(scope, context)
            .differentiate(&context.faults, move |held_out| {
                differentiate(&deriving, population.as_ref(), held_out, InputJacobian::Wanted)
            })
            .accumulate("Budget", &context.faults, Fold::new(context))
            .reduce_in_group_order(&context.faults, |total: &mut BudgetSums, group| Ok(total.merge(&group)?))
            .gather(probe))
    })?;
    let total = total.take().remove(&0);
    Ok(total.unwrap_or_else(|| BudgetSums::new(context.network.n_labels())))
}

struct Fold {
    context: Arc<Context>,
    sums: BudgetSums,
}

impl Fold {
    fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::clone(context), sums: BudgetSums::new(context.network.n_labels()) }
    }
}

impl GroupFold<Rc<Differentiated>> for Fold {
    type Output = BudgetSums;

    fn add(&mut self, _group: u64, held_out: Rc<Differentiated>) -> Result<(), RunError> {
        let flux = flux_part(&held_out)?;
        let weights = weights_part(&self.context, &held_out)?;
        let own = held_out.batch.label_covariance.as_deref();
        Ok(self.sums.accumulate(&held_out.residuals(), &flux, &weights, own)?)
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, BudgetSums)>, RunError> {
        let empty = BudgetSums::new(self.context.network.n_labels());
        Ok(vec![(0, std::mem::replace(&mut self.sums, empty))])
    }
}
