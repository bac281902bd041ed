//! Holdout pass: the weights' part of held-out spectra at every prior precision of a grid, in one pass over them.
//!
//! Every process needs every block in its eigenbasis: its own workers' are at hand, the others' are factored again from their files.

use std::sync::Arc;

use fisherflow_network::InputJacobian;
use fisherflow_posterior::{Evidence, KnownParts, PriorScan, ScannedStars, Spectrum, in_label_units};
use fisherflow_spectra::{Group, PixelPopulation};
use timely::worker::Worker;

use super::budget::flux_part;
use super::differentiated::Differentiated;
use super::{chosen_by_hash, concluded_of_sample, through_network};
use crate::context::Context;
use crate::error::RunError;
use crate::run::prior_choice::PriorChoice;

/// Held-out spectra that are plenty to choose a prior by: the standard deviation of so many pulls is good to 1 %.
pub(crate) const PLENTY: f64 = 4096.0;

/// Of so many held-out spectra the share that is looked at.
pub(crate) fn share(held_out: f64) -> f64 {
    (PLENTY / held_out).min(1.0)
}

/// The prior precision of every block by held-out spectra, at those of `grid`; `spectra` and `evidence` of all blocks.
pub(crate) fn choose(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    n_spectra: u64,
    grid: &[f64],
    (spectra, evidence): (&[Spectrum], &Evidence),
) -> Result<PriorChoice, RunError> {
    let scans = context.scans(n_spectra)?;
    let sampled: u64 = context.fit.sample.iter().map(Group::n_rows).sum();
    let held_out = context.job.compute.holdout_fraction;
    let fraction = held_out * share(sampled as f64 * held_out);
    let none = vec![ScannedStars::new(context.network.n_labels(), grid.len()); context.cells.n_cells()];
    let (adding, choosing, grid) = (Arc::clone(context), Arc::clone(context), grid.to_vec());
    // The first worker chooses.
    let spectra = if worker.index() == 0 {
        spectra.to_vec()
    } else {
        Vec::new()
    };
    let evidence = evidence.clone();
    concluded_of_sample(
        worker,
        context,
        ("Scan", |scope| {
            let spectra = chosen_by_hash(scope, context, fraction);
            through_network(spectra, context, population, InputJacobian::InBlocks)
        }),
        move || none.clone(),
        (
            move |by_cell: &mut Vec<ScannedStars>, held_out: Differentiated| {
                let weights = weights(&adding, &scans, &grid, &held_out)?;
                add(&adding, by_cell, &held_out, &weights)
            },
            |total: &mut Vec<ScannedStars>, group: Vec<ScannedStars>| {
                for (total, group) in total.iter_mut().zip(&group) {
                    total.merge(group)?;
                }
                Ok(())
            },
        ),
        move |mut by_cell| {
            ScannedStars::leave_out_overwhelmed(&mut by_cell)?;
            PriorChoice::by_holdout(&choosing.given_priors, &spectra, evidence.clone(), &by_cell)
        },
    )
}

/// Adds a batch, each star to its cell; `weights`: `[grid, n, K, K]`, label units.
fn add(
    context: &Context,
    by_cell: &mut [ScannedStars],
    held_out: &Differentiated,
    weights: &[f64],
) -> Result<(), RunError> {
    let flux = flux_part(held_out)?;
    let own = held_out.batch.label_covariance.as_deref();
    let k = context.network.n_labels();
    let at_one_prior = held_out.batch.n_rows() * k * k;
    // Without label columns there are no residuals.
    for (star, residual) in held_out.residuals().chunks_exact(k).enumerate() {
        let square = star * k * k..(star + 1) * k * k;
        let known = KnownParts {
            flux: Some(&flux[square.clone()]),
            weights: None,
            label_covariance: own.map(|own| &own[square.clone()]),
        };
        let of_star = weights.chunks_exact(at_one_prior).flat_map(|of| &of[square.clone()]);
        let of_star: Vec<f64> = of_star.copied().collect();
        let cell = context.cells.cell_of(&held_out.labels[star * k..(star + 1) * k]);
        by_cell[cell].push(residual, known, &of_star)?;
    }
    Ok(())
}

/// The weights' part at each precision of `grid`, `[grid, n, K, K]`, label units: a block with a given prior precision is the same all along it.
fn weights(
    context: &Context,
    scans: &[Arc<PriorScan>],
    grid: &[f64],
    held_out: &Differentiated,
) -> Result<Vec<f64>, RunError> {
    let captures = &held_out.backward.captures;
    let k = context.network.n_labels();
    let mut total = vec![0.0; grid.len() * held_out.batch.n_rows() * k * k];
    for (scan, given) in scans.iter().zip(&context.given_priors) {
        let part = match given {
            Some(delta) => scan.covariance_at(captures, &[*delta])?,
            None => scan.covariance_at(captures, grid)?,
        };
        total
            .iter_mut()
            .zip(part.iter().cycle())
            .for_each(|(total, part)| *total += part);
    }
    in_label_units(&mut total, &context.network.labels().scale)?;
    Ok(total)
}
