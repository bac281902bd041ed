//! Certify pass: every training spectrum once more, against the answers: the residual of what the posterior said of a few stars, and the gradient
//! of the loss at theta.

use std::sync::Arc;

use fisherflow_curvature::{BlockPlan, ProductSums, WeightJacobian, add_gradient};
use fisherflow_posterior::{NewtonStep, Probe, ProbeSums, newton_step};
use fisherflow_spectra::PixelPopulation;
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::curvature::{of_loss, precision_of};
use super::differentiated::Differentiated;
use super::{gathered, spectra_of_fit, through_network};
use crate::context::Context;
use crate::error::RunError;
use crate::job::Job;
use crate::operators::{Expected, GroupFold, accumulate, conclude, reduce_in_group_order};

/// The largest relative error of a block's probed variances, and its part of the gradient: each where it is known.
pub(crate) type BlockCheck = (Option<f64>, Option<NewtonStep>);

/// Checks every block with its probes; `noise`: `[K, K]`, normalised label units.
pub(crate) fn certify(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    probes: &[Vec<Probe>],
    noise: &[f64],
) -> Result<Vec<BlockCheck>, RunError> {
    let probes: Arc<[Vec<Probe>]> = probes.into();
    let checks = gathered(worker, context, |scope| {
        let (concluding, asked) = (Arc::clone(context), Arc::clone(&probes));
        let bytes = gradient_bytes(&context.job, &context.blocks).sum();
        let spectra = spectra_of_fit(scope, context, bytes);
        let derived = through_network(spectra, context, population, context.jacobian_of_sums());
        let fold = Fold::new(context, probes, noise);
        let contributions = accumulate(derived, "Certify", &context.faults, fold);
        let expected = Expected::of(&context.fit.groups, context.blocks.len());
        let totals = reduce_in_group_order(
            contributions,
            &context.faults,
            expected,
            |total: &mut BlockSums, group| {
                total.probes.merge(&group.probes);
                match (&mut total.fit, group.fit) {
                    (Some(total), Some(group)) => Ok(total.merge(&group)?),
                    _ => Ok(()),
                }
            },
        );
        conclude(totals, "Check", &context.faults, move |block, sums| {
            check(&concluding, block as usize, &asked[block as usize], &sums)
        })
    })?;
    Ok(checks.into_values().collect())
}

/// Bytes of a group's sums of each block: almost all of them are its part of the gradient.
pub(crate) fn gradient_bytes(job: &Job, blocks: &[BlockPlan]) -> impl Iterator<Item = u64> {
    let of_weight = if has_gradient(job) { 8 } else { 0 };
    blocks.iter().map(move |block| of_weight * block.n_weights() as u64)
}

fn has_gradient(job: &Job) -> bool {
    !job.catalogue.columns.labels.is_empty()
}

/// What streams past a block.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct BlockSums {
    probes: ProbeSums,
    /// `sum_n J_n^T Lam_n r_n`; `None` without labels.
    fit: Option<ProductSums>,
}

struct Fold {
    context: Arc<Context>,
    probes: Arc<[Vec<Probe>]>,
    noise: Vec<f64>,
    sums: Vec<BlockSums>,
}

impl Fold {
    fn new(context: &Arc<Context>, probes: Arc<[Vec<Probe>]>, noise: &[f64]) -> Self {
        Self {
            context: Arc::clone(context),
            probes,
            noise: noise.to_vec(),
            sums: empty(context),
        }
    }
}

fn empty(context: &Context) -> Vec<BlockSums> {
    let sums = context.blocks.iter().map(|plan| BlockSums {
        probes: ProbeSums::default(),
        fit: has_gradient(&context.job).then(|| ProductSums::empty(&plan.layers, &plan.shapes, 1)),
    });
    sums.collect()
}

impl GroupFold<Differentiated> for Fold {
    type Output = Vec<(u64, BlockSums)>;

    fn add(&mut self, _group: u64, all: Differentiated) -> Result<(), RunError> {
        let context = &self.context;
        let training = context.rows_in_sums(&all.batch);
        if training.is_empty() {
            return Ok(());
        }
        let threads = context.network.arithmetic().threads;
        let captures = all.captures_of(&training)?;
        let precision = precision_of(context, &self.noise, &all, &training)?;
        let residuals = all.normalised_residuals_of(&training, &context.network.labels().scale);
        let of_loss = of_loss(context.job.curvature.kind, &captures, &precision, &residuals)?;
        let (summed, weights) = of_loss
            .as_ref()
            .map_or((&captures, &precision), |(captures, one)| (captures, one));
        for ((plan, probes), sums) in context.blocks.iter().zip(self.probes.iter()).zip(&mut self.sums) {
            if !probes.is_empty() {
                let rows = WeightJacobian::new(plan, summed, weights)?;
                sums.probes.accumulate(plan, probes, &rows, threads)?;
            }
            if let Some(fit) = &mut sums.fit {
                add_gradient(&captures, &precision, &residuals, fit, threads)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, BlockSums)>, RunError> {
        let sums = std::mem::replace(&mut self.sums, empty(&self.context));
        Ok((0..).zip(sums).collect())
    }
}

/// A block's answers against all spectra.
fn check(context: &Context, block: usize, probes: &[Probe], sums: &BlockSums) -> Result<BlockCheck, RunError> {
    let newton = match &sums.fit {
        None => None,
        Some(fit) => {
            let mut theta = Vec::new();
            for &layer in &context.blocks[block].layers {
                theta.extend(context.network.weights_and_biases(layer)?);
            }
            let posterior = context.posterior()?;
            Some(newton_step(posterior[block].as_ref(), &fit.products()?, &theta)?)
        }
    };
    Ok((sums.probes.largest_error(probes), newton))
}
