//! The prior precision of a run and where it comes from, for the summary and the manifest.

use std::collections::BTreeMap;

use fisherflow_posterior::{Evidence, HoldoutPrior};
use serde::Serialize;

use crate::context::Context;
use crate::job::Prior;

/// The prior precision of the weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PriorFacts {
    /// Where it comes from.
    pub from: PriorFrom,
    /// `delta`, in normalised units, on the scale of the sum over spectra; `None` before `invert`, where it is chosen there.
    pub precision: Option<PriorPrecision>,
    /// What the run file gives to single layers, whatever finds the others'.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub given: BTreeMap<String, f64>,
    /// The maximum of the evidence of one precision for all; `None` where the run file gives it, and before `invert`. Where held-out spectra
    /// choose, it stands beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceFacts>,
    /// The maximum of each block's evidence, by its layers joined by `+`, where each has a precision of its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence_by_block: BTreeMap<String, EvidenceFacts>,
    /// The maximum of the held-out spectra's likelihood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<HoldoutFacts>,
}

/// One prior precision, or one a block.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum PriorPrecision {
    /// Of every weight.
    One(f64),
    /// By block, its layers joined by `+`.
    ByBlock(BTreeMap<String, f64>),
}

/// Where a prior precision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorFrom {
    /// The run file gives it.
    RunFile,
    /// It maximises the marginal likelihood.
    Evidence,
    /// Each block's maximises the marginal likelihood.
    EvidencePerLayer,
    /// It makes the residuals of held-out spectra most likely.
    Holdout,
}

/// The maximum of the evidence; the curve is `posterior/evidence.parquet`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EvidenceFacts {
    /// Where it is.
    pub precision: f64,
    /// Up to a constant, which the curve has too.
    pub log_evidence: f64,
    /// `gamma = sum lambda / (lambda + delta)` over the blocks that the precision is found for.
    pub effective_parameters: f64,
    /// `|theta|^2` of all their weights, biases included: the precision is `gamma` over it, inside the curve.
    pub weights_squared: f64,
    /// Whether the optimum lies beyond the curve, and the curve's end was taken.
    pub at_edge: bool,
    /// Eigenvalues that were negative from rounding and count as 0.
    pub clipped_eigenvalues: u64,
    /// The first prior precision of the curve.
    pub curve_from: f64,
    /// The last.
    pub curve_to: f64,
    /// Number of points of the curve.
    pub curve_points: usize,
}

/// The maximum of the held-out spectra's likelihood; the curve is `posterior/holdout.parquet`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HoldoutFacts {
    /// Log likelihood of the best.
    pub log_likelihood: f64,
    /// `gamma` at the precision taken, over the blocks without a given one.
    pub effective_parameters: f64,
    /// First prior precision that these spectra cannot tell from the best (a log likelihood within 2), interpolated between the curve's points.
    pub indistinct_from: f64,
    /// The last.
    pub indistinct_to: f64,
    /// Whether these reach an end of the curve: then the one of them nearest to the evidence's was taken.
    pub flat: bool,
    /// Whether the best is an end of the curve.
    pub at_edge: bool,
    /// Number of held-out spectra.
    pub n_spectra: u64,
    /// The first prior precision of the curve.
    pub curve_from: f64,
    /// The last.
    pub curve_to: f64,
    /// Number of points of the curve.
    pub curve_points: usize,
}

impl PriorFacts {
    /// What is known so far.
    pub(crate) fn of(context: &Context) -> Self {
        let choice = context.prior_choice();
        let all = choice.into_iter().flat_map(|choice| &choice.evidence);
        let of_block = |block: Option<usize>| block.and_then(|block| context.blocks.get(block));
        Self {
            from: match context.job.prior {
                Prior::Fixed(_) => PriorFrom::RunFile,
                Prior::Evidence => PriorFrom::Evidence,
                Prior::EvidencePerBlock => PriorFrom::EvidencePerLayer,
                Prior::Holdout => PriorFrom::Holdout,
            },
            precision: context.prior_precision(),
            given: context.job.prior_by_layer.clone(),
            evidence: all
                .clone()
                .find(|of| of.block.is_none())
                .map(|of| EvidenceFacts::of(&of.evidence)),
            evidence_by_block: all
                .filter_map(|of| Some((of_block(of.block)?.name(), EvidenceFacts::of(&of.evidence))))
                .collect(),
            holdout: choice.and_then(|choice| choice.holdout.as_ref()).map(HoldoutFacts::of),
        }
    }
}

impl PriorPrecision {
    /// Of blocks with these names, in their order.
    pub(crate) fn of_blocks(names: impl Iterator<Item = String>, by_block: &[f64]) -> Self {
        match by_block {
            [first, rest @ ..] if rest.iter().all(|other| other == first) => Self::One(*first),
            _ => Self::ByBlock(names.zip(by_block.iter().copied()).collect()),
        }
    }

    /// The one number, where all blocks have the same.
    #[must_use]
    pub fn one(&self) -> Option<f64> {
        match self {
            Self::One(precision) => Some(*precision),
            Self::ByBlock(_) => None,
        }
    }
}

impl EvidenceFacts {
    fn of(evidence: &Evidence) -> Self {
        let end = |point: Option<&fisherflow_posterior::EvidencePoint>| {
            point.map_or(evidence.prior_precision, |point| point.prior_precision)
        };
        Self {
            precision: evidence.prior_precision,
            log_evidence: evidence.log_evidence,
            effective_parameters: evidence.effective_parameters,
            weights_squared: evidence.weights_squared,
            at_edge: evidence.at_edge,
            clipped_eigenvalues: evidence.clipped_eigenvalues,
            curve_from: end(evidence.curve.first()),
            curve_to: end(evidence.curve.last()),
            curve_points: evidence.curve.len(),
        }
    }
}

impl HoldoutFacts {
    fn of(holdout: &HoldoutPrior) -> Self {
        let end = |point: Option<&fisherflow_posterior::HoldoutPoint>| {
            point.map_or(holdout.prior_precision, |point| point.prior_precision)
        };
        Self {
            log_likelihood: holdout.log_likelihood,
            effective_parameters: holdout.effective_parameters,
            indistinct_from: holdout.indistinct.0,
            indistinct_to: holdout.indistinct.1,
            flat: holdout.flat,
            at_edge: holdout.at_edge,
            n_spectra: holdout.n_spectra,
            curve_from: end(holdout.curve.first()),
            curve_to: end(holdout.curve.last()),
            curve_points: holdout.curve.len(),
        }
    }
}
