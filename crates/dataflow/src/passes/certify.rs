//! Certify pass: every training spectrum once more, against the answers: the residual of what the posterior said of a few stars, and the gradient
//! of the loss at theta.

use std::sync::Arc;

use fisherflow_curvature::{BlockPlan, ProductSums, WeightJacobian, add_gradient};
use fisherflow_posterior::{NewtonStep, Probe, ProbeSums, newton_step};
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::{GroupArray, Purpose};
use timely::worker::Worker;

use super::curvature::{of_loss, precision_of};
use super::differentiated::{Differentiated, differentiate};
use super::groups::{GroupPass, over_groups};
use crate::context::Context;
use crate::error::RunError;
use crate::group_name::PassInputs;
use crate::job::Job;
use crate::operators::{GroupFold, GroupSums, Total};

/// The pass's folder among the groups.
pub(crate) const CERTIFY: &str = "certify";

/// What is summed: another number where it is something else.
const SUMS_VERSION: &str = "1";

/// The largest relative error of a block's probed variances, and its part of the gradient: each where it is known.
pub(crate) type BlockCheck = (Option<f64>, Option<NewtonStep>);

/// Checks every block with its probes; `noise`: `[K, K]`, normalised label units.
pub(crate) fn certify(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    probes: Vec<Vec<Probe>>,
    noise: &[f64],
) -> Result<Vec<BlockCheck>, RunError> {
    let probes: Arc<[Vec<Probe>]> = probes.into();
    let pass = GroupPass {
        name: CERTIFY,
        inputs: inputs(context, population, &probes, noise),
        over: |context| &context.fit,
    };
    let (deriving, concluding, asked) = (Arc::clone(context), Arc::clone(context), Arc::clone(&probes));
    let population = population.cloned();
    let over = over_groups(
        worker,
        context,
        &pass,
        move |batch| differentiate(&deriving, population.as_ref(), batch, deriving.jacobian_of_sums()),
        Fold {
            context: Arc::clone(context),
            probes,
            noise: noise.to_vec(),
            sums: None,
        },
        move |key, total| check(&concluding, &asked, key as usize, total),
    )?;
    let n_blocks = context.blocks.len() as u64;
    let of = |key: u64| over.concluded.get(&key).copied().unwrap_or_default();
    let checks = (0..n_blocks).map(|block| (of(n_blocks + block).0, of(block).1));
    Ok(checks.collect())
}

/// What decides the sums of a group: of the posterior they know the answers that are probed.
pub(crate) fn inputs(
    context: &Context,
    population: Option<&PixelPopulation>,
    probes: &[Vec<Probe>],
    noise: &[f64],
) -> PassInputs {
    let mut inputs = PassInputs::of_run(context, CERTIFY);
    inputs.add("sums", SUMS_VERSION);
    inputs.numbers("noise", noise);
    inputs.population(population);
    for of_block in probes {
        inputs.add("probes", &of_block.len().to_string());
        for probe in of_block {
            inputs.numbers("probe", &probe.to_numbers());
        }
    }
    inputs
}

/// Bytes of a group's sums of each block, where there are some: almost all of them are its part of the gradient.
pub(crate) fn gradient_bytes(job: &Job, blocks: &[BlockPlan]) -> Vec<u64> {
    if !job.certificate.full_pass || !has_gradient(job) {
        return Vec::new();
    }
    blocks.iter().map(|block| 8 * block.n_weights() as u64).collect()
}

fn has_gradient(job: &Job) -> bool {
    !job.catalogue.columns.labels.is_empty()
}

/// What streams past a block: an array of the gradient, under the block's number, and one of the probes, under so many more as there are blocks.
struct BlockSums {
    probes: ProbeSums,
    /// `sum_n J_n^T Lam_n r_n`; `None` without labels.
    fit: Option<ProductSums>,
}

impl BlockSums {
    fn empty(context: &Context, plan: &BlockPlan) -> Self {
        Self {
            probes: ProbeSums::default(),
            fit: has_gradient(&context.job).then(|| no_gradient(plan)),
        }
    }
}

fn no_gradient(plan: &BlockPlan) -> ProductSums {
    ProductSums::empty(&plan.layers, &plan.shapes, 1)
}

struct Fold {
    context: Arc<Context>,
    probes: Arc<[Vec<Probe>]>,
    noise: Vec<f64>,
    /// Of the group at hand, from its first batch on: between groups there is nothing in memory.
    sums: Option<Vec<BlockSums>>,
}

impl Fold {
    fn begun(&mut self) -> Vec<BlockSums> {
        let context = &self.context;
        let empty = |plan| BlockSums::empty(context, plan);
        let begun = self.sums.take();
        begun.unwrap_or_else(|| context.blocks.iter().map(empty).collect())
    }
}

impl GroupFold<Differentiated> for Fold {
    type Output = GroupSums<()>;

    fn add(&mut self, _group: u64, all: Differentiated) -> Result<(), RunError> {
        let mut sums = self.begun();
        let context = &self.context;
        let training = context.rows_in_sums(&all.batch);
        if training.is_empty() {
            self.sums = Some(sums);
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
        for ((plan, probes), sums) in context.blocks.iter().zip(self.probes.iter()).zip(&mut sums) {
            if !probes.is_empty() {
                let rows = WeightJacobian::new(plan, summed, weights)?;
                sums.probes.accumulate(plan, probes, &rows, threads)?;
            }
            if let Some(fit) = &mut sums.fit {
                add_gradient(&captures, &precision, &residuals, fit, threads)?;
            }
        }
        self.sums = Some(sums);
        Ok(())
    }

    fn finish(&mut self, _group: u64) -> Result<GroupSums<()>, RunError> {
        let n_blocks = self.context.blocks.len() as u64;
        let mut arrays = Vec::new();
        let mut keep = |key, n_spectra, values| {
            arrays.push(GroupArray {
                key,
                purpose: Purpose::Sum,
                n_spectra,
                values,
            });
        };
        for ((block, sums), probes) in (0..).zip(self.begun()).zip(self.probes.iter()) {
            if let Some(fit) = sums.fit {
                keep(block, fit.n_spectra, fit.into_sums());
            }
            if !probes.is_empty() {
                let mut of_probes = sums.probes.sums;
                // Of a group without a spectrum in the sums there are none yet.
                of_probes.resize(probes.len(), 0.0);
                keep(n_blocks + block, 0, of_probes);
            }
        }
        Ok(GroupSums {
            arrays,
            files: Vec::new(),
            found: (),
        })
    }
}

/// What a total says of its block.
fn check(context: &Context, probes: &[Vec<Probe>], key: usize, total: Total) -> Result<BlockCheck, RunError> {
    let Some(plan) = context.blocks.get(key) else {
        let asked = &probes[key - context.blocks.len()];
        return Ok((ProbeSums { sums: total.values }.largest_error(asked), None));
    };
    let fit = no_gradient(plan).with(total.n_spectra, total.values)?;
    let mut theta = Vec::new();
    for &layer in &plan.layers {
        theta.extend(context.network.weights_and_biases(layer)?);
    }
    let posterior = context.posterior()?;
    let step = newton_step(posterior[key].as_ref(), &fit.products()?, &theta)?;
    Ok((None, Some(step)))
}
