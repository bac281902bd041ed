//! How far a run's error bars may be trusted: numbers that would have shown if they were wrong, and what they mean in words.
//!
//! - [`Subset::compare`]: the standard deviations that the run's structures give, against those of the exact posterior of all weights, on a
//!   subset of the training spectra.
//! - [`Precision::probes`](crate::Precision::probes) and [`ProbeSums`]: what arithmetic has done to the answer for a few stars.
//! - [`NewtonStep`]: whether the weights are a minimum of the loss at all.
//! - [`curvature_share`]: how much of the true Hessian is negative.
//! - [`verdict`]: the thresholds, all in one place, and the sentences.

mod cost;
mod curvature_share;
mod newton;
mod probe;
mod sigma_ratio;
mod span;
mod subset;
pub mod verdict;

#[cfg(test)]
mod probe_tests;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use cost::ComparisonSizes;
pub use curvature_share::{CurvatureShare, curvature_share};
pub use newton::{NewtonStep, newton_step};
use probe::larger;
pub use probe::{Probe, ProbeSums};
pub(crate) use probe::{diagonal_probes, kronecker_probes, of_weights};
pub use sigma_ratio::SigmaRatio;
pub use subset::{ComparedStructure, Comparison, Subset};

use crate::BlockInfo;

/// What is known of one block's trustworthiness, beside its [`BlockInfo`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockCertificate {
    /// Its standard deviations over the exact ones of the same weights, all others held fixed; `None` where they were not compared.
    pub sigma_ratio: Option<SigmaRatio>,
    /// The largest relative error of a probed star's variance that arithmetic has left; `None` where the structure has no such check.
    pub answer_error: Option<f64>,
    /// The block's part of the gradient of the loss; `None` without labels.
    pub newton: Option<NewtonStep>,
    /// What follows, in words; none where nothing was checked.
    pub verdict: Vec<String>,
}

/// What is known of a run's trustworthiness.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Against the exact posterior, on a subset; `None` where it was switched off or is impossible.
    pub comparison: Option<Comparison>,
    /// Why there is no comparison although one was asked for.
    pub not_compared: Option<String>,
    /// The largest over the blocks.
    pub answer_error: Option<f64>,
    /// Of the whole network; `None` without labels.
    pub newton: Option<NewtonStep>,
    /// Effective parameters of all blocks.
    pub effective_parameters: f64,
    /// What they cannot exceed: labels times spectra for Gauss-Newton.
    pub effective_limit: f64,
    /// Of the true Hessian plus the prior precision on the subset; `None` where it was not asked for.
    pub curvature: Option<CurvatureShare>,
    /// One a block, in the run's order.
    pub blocks: Vec<BlockCertificate>,
    /// What follows, in words.
    pub verdict: Vec<String>,
}

impl Certificate {
    /// Puts the findings together and says what follows. `limit` is what effective parameters cannot exceed.
    #[must_use]
    pub fn new(
        infos: &[BlockInfo],
        limit: f64,
        (comparison, not_compared): (Option<Comparison>, Option<String>),
        checks: &[(Option<f64>, Option<NewtonStep>)],
        curvature: Option<CurvatureShare>,
    ) -> Self {
        let mut blocks = Vec::with_capacity(infos.len());
        for (at, info) in infos.iter().enumerate() {
            let (answer_error, newton) = checks.get(at).copied().unwrap_or_default();
            let sigma_ratio = comparison
                .as_ref()
                .and_then(|found| found.blocks.get(at).copied().flatten());
            let mut block = BlockCertificate {
                sigma_ratio,
                answer_error,
                newton,
                verdict: Vec::new(),
            };
            block.verdict = verdict::of_block(&block, info);
            blocks.push(block);
        }
        let mut whole = Self {
            answer_error: blocks.iter().filter_map(|block| block.answer_error).reduce(larger),
            newton: NewtonStep::total(blocks.iter().map(|block| block.newton)),
            effective_parameters: infos.iter().map(|info| info.effective_parameters).sum(),
            effective_limit: limit,
            comparison,
            not_compared,
            curvature,
            blocks,
            verdict: Vec::new(),
        };
        whole.verdict = verdict::of_run(&whole);
        whole
    }
}
