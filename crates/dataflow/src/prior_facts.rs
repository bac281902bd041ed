//! The prior precision of a run and where it comes from, for the summary and the manifest.

use fisherflow_posterior::Evidence;
use serde::Serialize;

use crate::context::Context;
use crate::job::Prior;

/// The prior precision of every weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PriorFacts {
    /// Where it comes from.
    pub from: PriorFrom,
    /// `delta`, in normalised units, on the scale of the sum over spectra; `None` before `invert`, where it is chosen there.
    pub precision: Option<f64>,
    /// The maximum of the evidence; `None` where the run file gives the precision, and before `invert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceFacts>,
}

/// Where a prior precision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorFrom {
    /// The run file gives it.
    RunFile,
    /// It maximises the marginal likelihood.
    Evidence,
}

/// The maximum of the evidence; the curve is `posterior/evidence.parquet`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EvidenceFacts {
    /// Up to a constant, which the curve has too.
    pub log_evidence: f64,
    /// `gamma = sum lambda / (lambda + delta)` over all blocks.
    pub effective_parameters: f64,
    /// `|theta|^2` of all weights, biases included: the precision is `gamma` over it, inside the curve.
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

impl PriorFacts {
    /// What is known so far.
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            from: match context.job.prior {
                Prior::Fixed(_) => PriorFrom::RunFile,
                Prior::Evidence => PriorFrom::Evidence,
            },
            precision: context.prior_precision(),
            evidence: context.evidence().map(EvidenceFacts::of),
        }
    }
}

impl EvidenceFacts {
    fn of(evidence: &Evidence) -> Self {
        let end = |point: Option<&fisherflow_posterior::EvidencePoint>| {
            point.map_or(evidence.prior_precision, |point| point.prior_precision)
        };
        Self {
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
