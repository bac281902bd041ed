//! The run's structures against the exact posterior of all weights, on a subset of the training spectra.
//!
//! The exact posterior is joint over all layers, cross-layer terms included, through the Gram matrix of the Jacobian's rows (or as one dense
//! block, where the weights are fewer than the rows). Blocks of different prior precisions `delta_b` are exact too: with `D` the diagonal of
//! prior precisions, `P = D^1/2 (D^-1/2 H D^-1/2 + I) D^1/2`, so that the rows of a layer are divided by `sqrt(delta_b)` and the prior is 1.
//!
//! In memory: the captures of the subset and the rows made of them, about `8 N (in + K out)` bytes a layer, and half a matrix of `K N` by
//! `K N` at a time; `(K N)^3` operations for each exact posterior.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::DType;
use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, LabelPrecision, References, Structure, StructureKind, correction_of,
    plan_blocks, structure_of,
};
use fisherflow_network::{DenseShape, LayerCapture};
use serde::{Deserialize, Serialize};

use super::SigmaRatio;
use super::span::InTheirSpan;
use crate::structures::dual::exact_covariance;
use crate::{PosteriorError, Precision, exact_posterior, invert, kronecker_bases, weights_part_of_blocks};

/// Spectra summed at once.
const BATCH: usize = 512;

/// Some training spectra and some stars that are not among them.
pub struct Subset<'a> {
    /// The network's dense layers.
    pub shapes: &'a [DenseShape],
    /// The run's blocks.
    pub plans: &'a [BlockPlan],
    /// Their prior precisions.
    pub prior_precisions: &'a [f64],
    /// The captures of all layers for the training spectra, and the labels' precision of each: their Gauss-Newton is the yardstick.
    pub training: (&'a [LayerCapture], &'a LabelPrecision),
    /// What the run's structures sum: the same, but for another kind of curvature.
    pub summed: (&'a [LayerCapture], &'a LabelPrecision),
    /// What their sums are taken about.
    pub references: &'a References,
    /// The captures of all layers for the stars.
    pub stars: &'a [LayerCapture],
    /// No result depends on it.
    pub threads: usize,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Training spectra of the subset.
    pub n_spectra: u64,
    /// Stars compared on.
    pub n_stars: u64,
    /// What effective parameters cannot exceed: labels times spectra.
    pub effective_limit: f64,
    /// Effective parameters of the exact posterior.
    pub effective_parameters: f64,
    /// The run's own structures first, then those asked for.
    pub structures: Vec<ComparedStructure>,
    /// The run's blocks, each against the exact posterior of its own weights with all others held fixed.
    pub blocks: Vec<Option<SigmaRatio>>,
}

/// A structure against the exact posterior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedStructure {
    /// `run` for the run's own structures, or the name of one that holds all layers.
    pub structure: String,
    /// Of the weights' part of each label's error; `None` without stars.
    pub ratio: Option<SigmaRatio>,
    /// Effective parameters on the subset, over all layers.
    pub effective_parameters: f64,
}

/// Captures and a label precision for each of their spectra.
type Spectra<'a> = (&'a [LayerCapture], &'a LabelPrecision);

impl Subset<'_> {
    /// Compares the run's structures, and every structure of `compare` over all layers, with the exact posterior. `own` are the run's posteriors
    /// where the subset is all of its training spectra; otherwise its structures are summed over the subset.
    ///
    /// # Errors
    /// Captures that do not fit, or a prior precision that is 0 or vanishes in the rounding of the Gram matrix: then nothing can be compared.
    pub fn compare(
        &self,
        own: Option<&[Box<dyn Precision>]>,
        compare: &[StructureKind],
    ) -> Result<Comparison, PosteriorError> {
        // The run's own posteriors take the network's inputs.
        if own.is_none()
            && let Some(in_their_span) = InTheirSpan::of(self, compare)?
        {
            return in_their_span.subset(self).compared(None, compare);
        }
        self.compared(own, compare)
    }

    fn compared(
        &self,
        own: Option<&[Box<dyn Precision>]>,
        compare: &[StructureKind],
    ) -> Result<Comparison, PosteriorError> {
        let (n_labels, n_spectra) = (self.training.1.n_labels, self.training.1.batch());
        let exact = self.exact(&self.joint_plan(StructureKind::Dual)?)?;
        let mut structures = Vec::with_capacity(1 + compare.len());
        let mut add = |structure: String, posteriors: &[Box<dyn Precision>]| -> Result<(), PosteriorError> {
            let covariance = weights_part_of_blocks(posteriors, self.stars)?.covariance;
            structures.push(ComparedStructure {
                structure,
                ratio: SigmaRatio::of(&covariance, &exact.1, n_labels),
                effective_parameters: posteriors.iter().map(|block| block.info().effective_parameters).sum(),
            });
            Ok(())
        };
        let summed;
        let own = match own {
            Some(own) => own,
            None => {
                summed = self.posteriors(self.plans)?;
                &summed
            }
        };
        add("run".to_owned(), own)?;
        for &structure in compare {
            let options = compared_options(self.plans, structure);
            let plans = plan_blocks(self.shapes, structure, &BTreeMap::new(), options)?;
            add(structure.to_string(), &self.posteriors(&plans)?)?;
        }
        let mut blocks = Vec::with_capacity(self.plans.len());
        for (plan, own) in self.plans.iter().zip(own) {
            let alone = match plan.layers.len() == self.shapes.len() {
                true => &exact.1,
                false => &self.exact_covariance(plan)?,
            };
            blocks.push(SigmaRatio::of(&own.covariance_of(self.stars)?, alone, n_labels));
        }
        Ok(Comparison {
            n_spectra: n_spectra as u64,
            n_stars: (exact.1.len() / (n_labels * n_labels).max(1)) as u64,
            effective_limit: (self.summed.1.n_labels * (n_spectra - self.training.1.n_without_weight())) as f64,
            effective_parameters: exact.0,
            structures,
            blocks,
        })
    }

    /// The exact posterior of a block's weights, jointly over its layers: its effective parameters, and the covariances of the stars' labels.
    fn exact(&self, plan: &BlockPlan) -> Result<(f64, Vec<f64>), PosteriorError> {
        let (training, stars, prior_precision) = self.with_one_prior(plan)?;
        let posterior = self.exact_posterior(&jointly(plan), (&training, self.training.1), prior_precision)?;
        let covariance = posterior.covariance_of(&stars)?;
        Ok((posterior.info().effective_parameters, covariance))
    }

    /// The covariances alone.
    fn exact_covariance(&self, plan: &BlockPlan) -> Result<Vec<f64>, PosteriorError> {
        let (training, stars, prior_precision) = self.with_one_prior(plan)?;
        let (joint, spectra) = (jointly(plan), (training.as_slice(), self.training.1));
        if exact_form(&joint, rows_of(self.training.1)) == StructureKind::Full {
            let posterior = self.exact_posterior(&joint, spectra, prior_precision)?;
            return posterior.covariance_of(&stars);
        }
        exact_covariance(
            &in_form(&joint, StructureKind::Dual),
            spectra,
            prior_precision,
            &stars,
            self.threads,
        )
    }

    /// In f64, and by whichever of the two forms is the smaller.
    fn exact_posterior(
        &self,
        plan: &BlockPlan,
        (captures, precision): Spectra<'_>,
        prior_precision: f64,
    ) -> Result<Box<dyn Precision>, PosteriorError> {
        let form = exact_form(plan, rows_of(precision));
        let plan = in_form(plan, form);
        if form == StructureKind::Dual {
            return exact_posterior(&plan, captures, precision, prior_precision, self.threads);
        }
        let captures = in_f64(captures)?;
        invert(
            &plan,
            self.sums(&plan, (&captures, precision))?,
            prior_precision,
            self.threads,
        )
    }

    /// The posteriors of blocks that sum the subset, at the run's prior precisions.
    fn posteriors(&self, plans: &[BlockPlan]) -> Result<Vec<Box<dyn Precision>>, PosteriorError> {
        plans.iter().map(|plan| self.posterior(plan)).collect()
    }

    fn posterior(&self, plan: &BlockPlan) -> Result<Box<dyn Precision>, PosteriorError> {
        let prior_precision = self.prior_precision(plan.layers.first().copied().unwrap_or_default());
        match plan.structure {
            StructureKind::Full | StructureKind::Block | StructureKind::Dual => {
                self.exact_posterior(plan, self.summed, prior_precision)
            }
            StructureKind::Kfac | StructureKind::Diagonal => {
                invert(plan, self.sums(plan, self.summed)?, prior_precision, self.threads)
            }
            StructureKind::Ekfac => invert(plan, self.corrected(plan)?, prior_precision, self.threads),
            StructureKind::LowRank => Err(PosteriorError::NoScan { block: plan.name() }),
        }
    }

    /// The curvature of an `ekfac` block over the subset.
    fn corrected(&self, plan: &BlockPlan) -> Result<BlockCurvature, PosteriorError> {
        let factors = self.sums(plan, self.summed)?;
        let bases = Arc::new(kronecker_bases(plan, factors, self.threads)?);
        let k = self.summed.1.n_labels;
        let structure = correction_of(plan, self.references, bases, k, self.threads)?;
        self.sums_in(&*structure, self.summed)
    }

    /// A block's curvature over spectra.
    fn sums(&self, plan: &BlockPlan, (captures, precision): Spectra<'_>) -> Result<BlockCurvature, PosteriorError> {
        let structure = structure_of(plan, self.references, precision.n_labels, self.threads)?;
        self.sums_in(&*structure, (captures, precision))
    }

    fn sums_in(
        &self,
        structure: &dyn Structure,
        (captures, precision): Spectra<'_>,
    ) -> Result<BlockCurvature, PosteriorError> {
        let (k, n) = (precision.n_labels, precision.batch());
        let mut sums = structure.empty()?;
        for first in (0..n).step_by(BATCH) {
            let len = BATCH.min(n - first);
            let cut = |values: &[f64]| values[first * k * k..(first + len) * k * k].to_vec();
            let precision = LabelPrecision {
                n_labels: k,
                lam: cut(&precision.lam),
                factor: cut(&precision.factor),
            };
            structure.accumulate(&rows(captures, first, len)?, &precision, &mut sums)?;
        }
        Ok(structure.curvature(&sums)?)
    }

    /// The run's prior precision of a layer.
    fn prior_precision(&self, layer: usize) -> f64 {
        let mut blocks = self.plans.iter().zip(self.prior_precisions);
        blocks
            .find(|(plan, _)| plan.layers.contains(&layer))
            .map_or(0.0, |(_, &delta)| delta)
    }

    /// Training spectra and stars with which a block has one prior precision, and that.
    fn with_one_prior(&self, plan: &BlockPlan) -> Result<(Vec<LayerCapture>, Vec<LayerCapture>, f64), PosteriorError> {
        let deltas: Vec<f64> = plan.layers.iter().map(|&layer| self.prior_precision(layer)).collect();
        let first = deltas.first().copied().unwrap_or_default();
        if deltas.iter().all(|&delta| delta == first) {
            return Ok((self.training.0.to_vec(), self.stars.to_vec(), first));
        }
        let scaled = |captures: &[LayerCapture]| -> Result<Vec<LayerCapture>, PosteriorError> {
            let mut scaled = in_f64(captures)?;
            for capture in &mut scaled {
                let factor = 1.0 / self.prior_precision(capture.layer).sqrt();
                capture.output_grad = capture.output_grad.affine(factor, 0.0)?;
            }
            Ok(scaled)
        };
        match plan.layers.iter().zip(&deltas).find(|(_, delta)| **delta <= 0.0) {
            Some((_, &value)) => Err(PosteriorError::Prior {
                block: plan.name(),
                value,
            }),
            None => Ok((scaled(self.training.0)?, scaled(self.stars)?, 1.0)),
        }
    }

    /// All layers as one block.
    fn joint_plan(&self, structure: StructureKind) -> Result<BlockPlan, PosteriorError> {
        let mut plans = plan_blocks(self.shapes, structure, &BTreeMap::new(), joint_options(self.plans))?;
        Ok(plans.remove(0))
    }
}

/// Those of the run's blocks.
fn run_options(plans: &[BlockPlan]) -> BlockOptions {
    plans.first().map_or_else(BlockOptions::default, |plan| plan.options)
}

/// Those of the run's blocks, without what a joint block cannot have.
pub(super) fn joint_options(plans: &[BlockPlan]) -> BlockOptions {
    BlockOptions {
        split_bias: false,
        ..run_options(plans)
    }
}

/// Those of a structure compared: the run's, but that `block` beside other structures keeps its cross terms. Without them it has no form by the
/// Jacobian's rows, and nothing says that a dense one of every layer fits in memory.
pub(super) fn compared_options(plans: &[BlockPlan], structure: StructureKind) -> BlockOptions {
    if structure == StructureKind::Block && plans.iter().any(|plan| plan.structure != structure) {
        return joint_options(plans);
    }
    run_options(plans)
}

/// The block without what a joint one cannot have.
pub(super) fn jointly(plan: &BlockPlan) -> BlockPlan {
    BlockPlan {
        options: BlockOptions {
            split_bias: false,
            ..plan.options
        },
        ..plan.clone()
    }
}

/// Rows of the Jacobian: labels times spectra.
fn rows_of(precision: &LabelPrecision) -> usize {
    precision.n_labels * precision.batch()
}

/// The smaller of the two forms of an exact posterior: of the weights, or of the `n_rows` rows of their Jacobian.
pub(super) fn exact_form(plan: &BlockPlan, n_rows: usize) -> StructureKind {
    // A dual block knows no cross terms that are left out.
    if plan.options.split_bias || plan.n_weights() <= n_rows {
        StructureKind::Full
    } else {
        StructureKind::Dual
    }
}

pub(super) fn in_form(plan: &BlockPlan, structure: StructureKind) -> BlockPlan {
    BlockPlan {
        structure,
        ..plan.clone()
    }
}

/// The captures of `len` spectra from `first` on.
fn rows(captures: &[LayerCapture], first: usize, len: usize) -> Result<Vec<LayerCapture>, PosteriorError> {
    captures
        .iter()
        .map(|capture| {
            Ok(LayerCapture {
                layer: capture.layer,
                input: capture.input.narrow(0, first, len)?,
                output_grad: capture.output_grad.narrow(1, first, len)?,
            })
        })
        .collect()
}

/// The same captures in f64.
fn in_f64(captures: &[LayerCapture]) -> Result<Vec<LayerCapture>, PosteriorError> {
    captures
        .iter()
        .map(|capture| {
            Ok(LayerCapture {
                layer: capture.layer,
                input: capture.input.to_dtype(DType::F64)?,
                output_grad: capture.output_grad.to_dtype(DType::F64)?,
            })
        })
        .collect()
}
