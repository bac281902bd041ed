//! Calibrate pass: what held-out residuals show beyond the photons' part, the weights' part and the labels' own errors.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_network::InputJacobian;
use fisherflow_posterior::{HeldOutStars, KnownParts};
use fisherflow_spectra::PixelPopulation;
use timely::worker::Worker;

use super::budget::{flux_part, weights_part};
use super::differentiated::{Differentiated, differentiate};
use super::{held_out, run};
use crate::context::Context;
use crate::error::RunError;
use crate::operators::{Accumulate, Differentiate, Gather, GroupFold, ReduceInGroupOrder};

/// The held-out spectra with all that is known of their errors, label units.
pub(crate) fn calibrate(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
) -> Result<HeldOutStars, RunError> {
    let total = run(worker, context, |scope, probe| {
        let (deriving, population) = (Arc::clone(context), population.cloned());
        Ok(held_out(scope, context)
            .differentiate(&context.faults, move |held_out| {
                differentiate(&deriving, population.as_ref(), held_out, InputJacobian::Wanted)
            })
            .accumulate("HeldOut", &context.faults, Fold::new(context))
            .reduce_in_group_order(&context.faults, |total: &mut HeldOutStars, group| {
                Ok(total.merge(&group)?)
            })
            .gather(probe))
    })?;
    let total = total.take().remove(&0);
    Ok(total.unwrap_or_else(|| HeldOutStars::new(context.network.n_labels())))
}

struct Fold {
    context: Arc<Context>,
    stars: HeldOutStars,
}

impl Fold {
    fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            stars: HeldOutStars::new(context.network.n_labels()),
        }
    }
}

impl GroupFold<Rc<Differentiated>> for Fold {
    type Output = HeldOutStars;

    fn add(&mut self, _group: u64, held_out: Rc<Differentiated>) -> Result<(), RunError> {
        let flux = flux_part(&held_out)?;
        let weights = weights_part(&self.context, &held_out)?;
        let label_covariance = held_out.batch.label_covariance.as_deref();
        let known = KnownParts {
            flux: Some(&flux),
            weights: Some(&weights),
            label_covariance,
        };
        Ok(self.stars.push(&held_out.residuals(), known)?)
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, HeldOutStars)>, RunError> {
        let empty = HeldOutStars::new(self.context.network.n_labels());
        Ok(vec![(0, std::mem::replace(&mut self.stars, empty))])
    }
}
