//! What one stage leaves for the next, under `<output>/stages/`: so that stages run alone, and a run goes on from the last one done.

use fisherflow_curvature::References;
use fisherflow_posterior::{BlockInfo, Certificate, ScatterEstimate};
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::WrittenFile;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bad_rows::BadRows;
use crate::context::Context;
use crate::dual_files::DualChunk;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::run::prior_choice::PriorChoice;

/// What `fit` found, beside `posterior/hessian/`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FitState {
    pub(crate) run_id: String,
    /// What a masked pixel is replaced with; `None` where nothing is known: then no pixel may be masked.
    pub(crate) population: Option<PixelPopulation>,
    /// What the sums were taken about.
    pub(crate) references: References,
    /// The residual covariance R of the labels and what it was made of; `None` where the run file gives R.
    pub(crate) estimate: Option<ScatterEstimate>,
    /// Rows of the catalogue, and what became of them.
    pub(crate) counts: FitCounts,
    /// What is wrong with the bad ones.
    #[serde(default)]
    pub(crate) bad_rows: BadRows,
    /// The chunks of a dual block's rows, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dual: Vec<DualChunk>,
    /// Digest of what decided the groups' sums: with it their names in the store are known.
    pub(crate) sums: String,
    pub(crate) files: Vec<WrittenFile>,
    /// The same of the second sums of `ekfac` blocks, where there are such.
    #[serde(default)]
    pub(crate) correction: Option<String>,
    /// Groups whose sums were computed, the others' being in the store; `None` where an earlier version wrote it.
    #[serde(default)]
    pub(crate) computed: Option<u64>,
}

/// Rows of the fit's catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FitCounts {
    /// All of them.
    pub spectra: u64,
    /// Counted in the sums.
    pub in_sums: u64,
    /// Held out from the sums.
    pub held_out: u64,
    /// Without a prediction: see the flags.
    pub bad: u64,
    /// Left out by identifier; none of the bad.
    #[serde(default)]
    pub excluded: u64,
    /// Good, but without all their labels or the labels' errors: not counted in the sums.
    pub unlabelled: u64,
}

/// What `invert` found, beside the rest of `posterior/`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InvertState {
    pub(crate) run_id: String,
    /// The prior precision of every block.
    pub(crate) prior: PriorChoice,
    pub(crate) blocks: Vec<BlockInfo>,
    pub(crate) files: Vec<WrittenFile>,
}

/// What the certificate found, between `invert` and `predict`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CertificateState {
    pub(crate) run_id: String,
    pub(crate) certificate: Certificate,
}

impl FitCounts {
    /// Adds the counts of other rows.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.spectra += other.spectra;
        self.in_sums += other.in_sums;
        self.held_out += other.held_out;
        self.bad += other.bad;
        self.excluded += other.excluded;
        self.unlabelled += other.unlabelled;
    }
}

/// What `stage` left, if it belongs to this run: as one worker finds it, for [`crate::passes::agree`] to tell to all.
pub(crate) fn find(context: &Context, stage: &str) -> Result<Option<Vec<u8>>, RunError> {
    #[derive(Deserialize)]
    struct Owner {
        run_id: String,
    }
    let uri = context.output.child(&path(stage));
    if !context.stores.exists(&uri)? {
        return Ok(None);
    }
    let bytes = context.stores.read(&uri)?;
    let owner: Owner = parse(context, stage, &bytes)?;
    Ok((owner.run_id == context.run_id).then_some(bytes))
}

/// What `stage` left, from its bytes.
pub(crate) fn parse<T: DeserializeOwned>(context: &Context, stage: &str, bytes: &[u8]) -> Result<T, RunError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let uri = context.output.child(&path(stage));
        RunError::Refused(format!("{uri}: {error}: delete it, and run again"))
    })
}

/// Writes what `stage` leaves.
pub(crate) fn write<T: Serialize>(context: &Context, stage: &str, state: &T) -> Result<(), RunError> {
    let bytes = serde_json::to_vec_pretty(state).map_err(|error| RunError::Internal(error.to_string()))?;
    context.faults.pass(FailPoint::BeforeStage);
    context.check_claim()?;
    context.output.put(&path(stage), bytes)?;
    context.faults.pass(FailPoint::StageLeft);
    Ok(())
}

/// Takes back what a stage left, so that it is made again.
pub(crate) fn forget(context: &Context, stage: &str) -> Result<(), RunError> {
    Ok(context.stores.delete(&context.output.child(&path(stage)))?)
}

fn path(stage: &str) -> String {
    format!("stages/{stage}.json")
}
