//! Reference pass: residuals, mean activations and mean gradients of held-out spectra.
//!
//! With errors in variables their photons' part too, so that R is what is left beyond it. J_x depends on the network alone, whose weights
//! are given, and R's likelihood takes each star's part as known: R is found in one step, and nothing depends on it that it was found from.

use std::sync::Arc;

use fisherflow_curvature::ReferenceSums;
use fisherflow_posterior::{HeldOutStars, KnownParts};
use fisherflow_spectra::PixelPopulation;
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::budget::flux_part;
use super::differentiated::{Differentiated, overflow};
use super::{chosen_by_hash, rows, sampled, through_network, total_of_sample};
use crate::bad_rows::id_of;
use crate::context::Context;
use crate::error::RunError;

/// What the held-out spectra tell before the sums begin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HeldOut {
    pub(crate) references: ReferenceSums,
    pub(crate) stars: HeldOutStars,
}

/// The totals over held-out spectra.
pub(crate) fn reference(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
) -> Result<HeldOut, RunError> {
    let (mut found, _) = sampled(
        context,
        "reference",
        |share| look(worker, context, population, share),
        |found| found.references.n == 0,
    )?;
    // Calibration tells of them. By their photons only where the sums weigh spectra by these: else R is of all residuals, as the sums are of all spectra.
    let rms = found.stars.residual_rms();
    found.stars.leave_out_overwhelmed(&rms)?;
    Ok(found)
}

fn look(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    share: f64,
) -> Result<HeldOut, RunError> {
    let (empty, adding) = (Arc::clone(context), Arc::clone(context));
    total_of_sample(
        worker,
        context,
        "HeldOut",
        |scope| {
            let spectra = chosen_by_hash(scope, context, share);
            through_network(spectra, context, population, context.jacobian_of_sums())
        },
        move || HeldOut::none(&empty),
        move |total, held_out| add(&adding, total, &held_out),
        |total, group| {
            total.references.merge(&group.references)?;
            Ok(total.stars.merge(&group.stars)?)
        },
    )
}

impl HeldOut {
    fn none(context: &Context) -> Self {
        let network = &context.network;
        Self {
            references: ReferenceSums::empty(network.dense_layers(), network.n_labels()),
            stars: HeldOutStars::new(network.n_labels()),
        }
    }
}

/// Adds a batch.
fn add(context: &Context, total: &mut HeldOut, held_out: &Differentiated) -> Result<(), RunError> {
    if let Some(row) = held_out.first_that_overflows(0..held_out.batch.n_rows()) {
        let id = id_of(&held_out.batch, row);
        let is_held_out = rows::is_in_held_out_fraction(&held_out.batch, row, &context.job);
        let which = if is_held_out { ", which is held out" } else { "" };
        return Err(overflow(context, format!("id {id}{which}")));
    }
    total.references.accumulate(&held_out.backward.captures)?;
    let label_covariance = held_out.batch.label_covariance.as_deref();
    let in_variables = context.job.calibration.errors_in_variables;
    let flux = in_variables.then(|| flux_part(held_out)).transpose()?;
    Ok(total.stars.push(
        &held_out.residuals(),
        KnownParts {
            flux: flux.as_deref(),
            label_covariance,
            ..KnownParts::default()
        },
    )?)
}
