//! Holdout pass: the weights' part of held-out spectra at every prior precision of a grid, in one pass over them.
//!
//! Every process needs every block in its eigenbasis: its own workers' are at hand, the others' are factored again from their files.

use std::sync::Arc;

use fisherflow_network::InputJacobian;
use fisherflow_posterior::{KnownParts, PriorScan, ScannedStars, in_label_units};
use fisherflow_spectra::{Group, PixelPopulation};
use timely::worker::Worker;

use super::budget::flux_part;
use super::differentiated::{Differentiated, differentiate};
use super::{chosen_by_hash, run};
use crate::context::Context;
use crate::error::RunError;
use crate::operators::{Accumulate, Differentiate, Expected, Gather, GroupFold, ReduceInGroupOrder};

/// Held-out spectra that are plenty to choose a prior by: the standard deviation of so many pulls is good to 1 %.
const PLENTY: f64 = 4096.0;

/// Of so many held-out spectra the share that is looked at.
pub(crate) fn share(held_out: f64) -> f64 {
    (PLENTY / held_out).min(1.0)
}

/// The held-out spectra at the prior precisions of `grid`, label units.
pub(crate) fn scan(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    n_spectra: u64,
    grid: &[f64],
) -> Result<ScannedStars, RunError> {
    let scans = context.scans(n_spectra)?;
    let sampled: u64 = context.fit.sample.iter().map(Group::n_rows).sum();
    let held_out = context.job.compute.holdout_fraction;
    let fraction = held_out * share(sampled as f64 * held_out);
    let none = ScannedStars::new(context.network.n_labels(), grid.len());
    let total = run(worker, context, |scope, probe| {
        let (deriving, population) = (Arc::clone(context), population.cloned());
        Ok(chosen_by_hash(scope, context, fraction)
            .differentiate(&context.faults, move |held_out| {
                differentiate(&deriving, population.as_ref(), held_out, InputJacobian::InBlocks)
            })
            .accumulate(
                "Scan",
                &context.faults,
                Fold {
                    context: Arc::clone(context),
                    scans,
                    grid: grid.to_vec(),
                    stars: none.clone(),
                },
            )
            .reduce_in_group_order(
                &context.faults,
                Expected::of(&context.fit.sample, 1),
                |total: &mut ScannedStars, group| Ok(total.merge(&group)?),
            )
            .gather(probe))
    })?;
    let total = total.take().remove(&0);
    Ok(total.unwrap_or(none).without_overwhelmed())
}

struct Fold {
    context: Arc<Context>,
    scans: Vec<Arc<PriorScan>>,
    grid: Vec<f64>,
    stars: ScannedStars,
}

impl Fold {
    /// `[grid, n, K, K]`, label units: a block with a given prior precision is the same all along the grid.
    fn weights(&self, held_out: &Differentiated) -> Result<Vec<f64>, RunError> {
        let captures = &held_out.backward.captures;
        let k = self.context.network.n_labels();
        let mut total = vec![0.0; self.grid.len() * held_out.batch.n_rows() * k * k];
        for (scan, given) in self.scans.iter().zip(&self.context.given_priors) {
            let part = match given {
                Some(delta) => scan.covariance_at(captures, &[*delta])?,
                None => scan.covariance_at(captures, &self.grid)?,
            };
            total
                .iter_mut()
                .zip(part.iter().cycle())
                .for_each(|(total, part)| *total += part);
        }
        in_label_units(&mut total, &self.context.network.labels().scale)?;
        Ok(total)
    }
}

impl GroupFold<Differentiated> for Fold {
    type Output = Vec<(u64, ScannedStars)>;

    fn add(&mut self, _group: u64, held_out: Differentiated) -> Result<(), RunError> {
        let flux = flux_part(&held_out)?;
        let weights = self.weights(&held_out)?;
        let known = KnownParts {
            flux: Some(&flux),
            weights: None,
            label_covariance: held_out.batch.label_covariance.as_deref(),
        };
        Ok(self.stars.push(&held_out.residuals(), known, &weights)?)
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, ScannedStars)>, RunError> {
        let empty = ScannedStars::new(self.context.network.n_labels(), self.grid.len());
        Ok(vec![(0, std::mem::replace(&mut self.stars, empty))])
    }
}
