//! The prior precision of every block of a run, and how it was found.
//!
//! A layer named in `[prior.layers]` has the precision given there, whatever finds that of the others.

use fisherflow_curvature::{BlockPlan, check_layer_names};
use fisherflow_network::Network;
use fisherflow_posterior::{Evidence, HoldoutPrior, ScannedStars, Spectrum, evidence, holdout_grid, prior_by_holdout};
use serde::{Deserialize, Serialize};

use crate::error::RunError;
use crate::job::{Job, Prior};

/// The prior precision of every block, in the order of the plan, and what it is the best of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PriorChoice {
    pub(crate) by_block: Vec<f64>,
    /// Where the prior is chosen by it, or by held-out spectra near it.
    pub(crate) evidence: Vec<EvidenceOf>,
    /// Where the prior is chosen by held-out spectra.
    pub(crate) holdout: Option<HoldoutPrior>,
}

/// The evidence of one block, or of all blocks without a given precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EvidenceOf {
    /// The block's position in the plan; none: one precision serves all.
    pub(crate) block: Option<usize>,
    pub(crate) evidence: Evidence,
}

/// What the run file gives: a precision a block, none where it is to be found.
pub(crate) fn given(job: &Job, network: &Network, blocks: &[BlockPlan]) -> Result<Vec<Option<f64>>, RunError> {
    let wrong = |what: String| Err(RunError::Usage(format!("[prior.layers]: {what}")));
    if let Err(error) = check_layer_names(network.dense_layers(), job.prior_by_layer.keys()) {
        return wrong(error.to_string());
    }
    let default = match job.prior {
        Prior::Fixed(precision) => Some(precision),
        Prior::Evidence | Prior::EvidencePerBlock | Prior::Holdout => None,
    };
    let mut given = Vec::with_capacity(blocks.len());
    for block in blocks {
        let of = |name: &String| job.prior_by_layer.get(name).copied().or(default);
        let of_layers: Vec<Option<f64>> = block.shapes.iter().map(|shape| of(&shape.name)).collect();
        if of_layers.windows(2).any(|pair| pair[0] != pair[1]) {
            let said = |precision: &Option<f64>| precision.map_or("one to be found".to_owned(), |p| p.to_string());
            return wrong(format!(
                "{} are one block, and must have one prior precision, not {}: give all of them the same, or hold them by another structure",
                block
                    .shapes
                    .iter()
                    .map(|shape| shape.name.as_str())
                    .collect::<Vec<_>>()
                    .join(" and "),
                of_layers.iter().map(said).collect::<Vec<_>>().join(" and ")
            ));
        }
        given.push(of_layers.first().copied().flatten());
    }
    if default.is_none() && given.iter().all(Option::is_some) {
        return wrong(
            "every layer has a precision, and none is left to be found: give prior.precision a number".into(),
        );
    }
    Ok(given)
}

/// `|theta|^2` of a block, biases included.
fn weights_squared(network: &Network, block: &BlockPlan) -> Result<f64, RunError> {
    let mut sum = 0.0;
    for &layer in &block.layers {
        let weights = network.weights_and_biases(layer)?;
        sum += weights.iter().map(|weight| weight * weight).sum::<f64>();
    }
    Ok(sum)
}

/// The evidence of one precision for all blocks without a given one.
pub(crate) fn evidence_of_all(
    network: &Network,
    blocks: &[BlockPlan],
    given: &[Option<f64>],
    spectra: &[Spectrum],
) -> Result<Evidence, RunError> {
    let mut squared = 0.0;
    let mut open = Vec::new();
    for ((block, spectrum), _) in blocks
        .iter()
        .zip(spectra)
        .zip(given)
        .filter(|(_, given)| given.is_none())
    {
        squared += weights_squared(network, block)?;
        open.push(spectrum.clone());
    }
    Ok(evidence(&open, squared)?)
}

impl PriorChoice {
    /// As the run file gives it; none where some of it is to be found.
    pub(crate) fn as_given(given: &[Option<f64>]) -> Option<Self> {
        Some(Self {
            by_block: given.iter().copied().collect::<Option<_>>()?,
            evidence: Vec::new(),
            holdout: None,
        })
    }

    /// One precision, of maximum evidence, for all blocks without a given one.
    pub(crate) fn by_evidence(given: &[Option<f64>], evidence: Evidence) -> Self {
        Self {
            by_block: given.iter().map(|g| g.unwrap_or(evidence.prior_precision)).collect(),
            evidence: vec![EvidenceOf { block: None, evidence }],
            holdout: None,
        }
    }

    /// The precision of maximum evidence of each block without a given one: P is block-diagonal, so each is a maximum of its own.
    pub(crate) fn by_evidence_per_block(
        network: &Network,
        blocks: &[BlockPlan],
        given: &[Option<f64>],
        spectra: &[Spectrum],
    ) -> Result<Self, RunError> {
        let mut found = Vec::new();
        let mut by_block = Vec::with_capacity(blocks.len());
        for (at, (block, (given, spectrum))) in blocks.iter().zip(given.iter().zip(spectra)).enumerate() {
            if let Some(given) = given {
                by_block.push(*given);
                continue;
            }
            let squared = weights_squared(network, block)?;
            let evidence = evidence(std::slice::from_ref(spectrum), squared)
                .map_err(|error| RunError::Refused(format!("{} by itself: {error} in [prior.layers]", block.name())))?;
            by_block.push(evidence.prior_precision);
            found.push(EvidenceOf {
                block: Some(at),
                evidence,
            });
        }
        Ok(Self {
            by_block,
            evidence: found,
            holdout: None,
        })
    }

    /// One precision, that of the likeliest held-out spectra, for all blocks without a given one.
    pub(crate) fn by_holdout(
        given: &[Option<f64>],
        spectra: &[Spectrum],
        evidence: Evidence,
        scanned: &[ScannedStars],
    ) -> Result<Self, RunError> {
        let effective = |delta: f64| {
            let found = without_given(given, spectra);
            found.map(|spectrum| spectrum.effective_parameters(delta)).sum::<f64>()
        };
        let grid = grid(given, spectra, &evidence);
        let holdout = prior_by_holdout(scanned, &grid, evidence.prior_precision, effective)
            .map_err(|error| RunError::Refused(format!("no prior precision by held-out spectra: {error}; raise noise.holdout_fraction, or give prior.precision a number")))?;
        Ok(Self {
            by_block: given.iter().map(|g| g.unwrap_or(holdout.prior_precision)).collect(),
            evidence: vec![EvidenceOf { block: None, evidence }],
            holdout: Some(holdout),
        })
    }
}

/// The spectra of the blocks without a given precision.
fn without_given<'s>(given: &'s [Option<f64>], spectra: &'s [Spectrum]) -> impl Iterator<Item = &'s Spectrum> {
    let blocks = given.iter().zip(spectra);
    blocks
        .filter(|(given, _)| given.is_none())
        .map(|(_, spectrum)| spectrum)
}

/// The prior precisions that held-out spectra are scanned at: such as every block without a given one can have.
pub(crate) fn grid(given: &[Option<f64>], spectra: &[Spectrum], evidence: &Evidence) -> Vec<f64> {
    let rounding = without_given(given, spectra).map(Spectrum::rounding);
    holdout_grid(evidence.prior_precision, rounding.fold(0.0, f64::max))
}
