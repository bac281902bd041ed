//! What one stage leaves for the next, under `<output>/stages/`: so that stages run alone, and a run goes on from the last one done.
//!
//! Every step is made of what those before it left, so what one left is taken back with all that came after ([`forget`]).

use fisherflow_curvature::References;
use fisherflow_posterior::{BlockInfo, Certificate, LabelEnds, ScatterEstimate};
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::{Damage, WrittenFile, with_causes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bad_rows::BadRows;
use crate::context::Context;
use crate::dual_files::DualChunk;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::passes::certify::CERTIFY;
use crate::passes::subset::SUBSET;
use crate::run::prior_choice::PriorChoice;

/// The steps of a run that leave something, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The curvature pass, where a second pass over the spectra follows it.
    Sums,
    /// All of `fit`.
    Fit,
    /// `invert`, but for its certificate.
    Invert,
    /// The certificate.
    Certificate,
    /// The groups of `predict`.
    Predict,
}

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
    pub(crate) bad_rows: BadRows,
    /// The chunks of a dual block's rows, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dual: Vec<DualChunk>,
    /// Of each label, over the spectra in the sums.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) label_ends: Vec<LabelEnds>,
    /// Digest of what decided the groups' sums: with it their names in the store are known.
    pub(crate) sums: String,
    pub(crate) files: Vec<WrittenFile>,
    /// The files of `stages/bases/`, which the correction pass reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) bases: Vec<WrittenFile>,
    /// The same of the second sums of `ekfac` blocks, where there are such.
    pub(crate) correction: Option<String>,
    /// Groups whose sums were computed, the others' being in the store.
    pub(crate) computed: u64,
}

/// Rows of the fit's catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FitCounts {
    /// All of them.
    pub spectra: u64,
    /// Counted in the sums.
    pub in_sums: u64,
    /// Of these, such as weigh nothing: with errors in variables, beside errors of their own far beyond R.
    pub overwhelmed: u64,
    /// Held out from the sums.
    pub held_out: u64,
    /// Without a prediction: see the flags.
    pub bad: u64,
    /// Left out by identifier; none of the bad.
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

impl Step {
    const ALL: [Self; 5] = [Self::Sums, Self::Fit, Self::Invert, Self::Certificate, Self::Predict];

    /// The command that makes it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::Sums | Self::Fit => "fit",
            Self::Invert | Self::Certificate => "invert",
            Self::Predict => "predict",
        }
    }

    /// Where it leaves what it found, in the output: a document, and of `predict` the folder of its groups.
    fn path(self) -> &'static str {
        match self {
            Self::Sums => "stages/sums.json",
            Self::Fit => "stages/fit.json",
            Self::Invert => "stages/invert.json",
            Self::Certificate => "stages/certificate.json",
            Self::Predict => "stages/groups/predict",
        }
    }
}

impl FitCounts {
    /// Adds the counts of other rows.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.spectra += other.spectra;
        self.in_sums += other.in_sums;
        self.overwhelmed += other.overwhelmed;
        self.held_out += other.held_out;
        self.bad += other.bad;
        self.excluded += other.excluded;
        self.unlabelled += other.unlabelled;
    }
}

/// What `step` left, if it belongs to this run: as one worker finds it, for [`crate::passes::agree`] to tell to all.
pub(crate) fn find(context: &Context, step: Step) -> Result<Option<Vec<u8>>, RunError> {
    #[derive(Deserialize)]
    struct Owner {
        run_id: String,
    }
    let uri = uri(context, step);
    if !context.stores.exists(&uri)? {
        return Ok(None);
    }
    let bytes = context.stores.read(&uri)?;
    let owner: Owner = parse(context, step, &bytes)?;
    Ok((owner.run_id == context.run_id).then_some(bytes))
}

/// What `step` left, from its bytes.
pub(crate) fn parse<T: DeserializeOwned>(context: &Context, step: Step, bytes: &[u8]) -> Result<T, RunError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let uri = uri(context, step);
        RunError::Refused(format!("{uri}: {error}: delete it, and run again"))
    })
}

/// Writes what `step` leaves.
pub(crate) fn write<T: Serialize>(context: &Context, step: Step, state: &T) -> Result<(), RunError> {
    let bytes = serde_json::to_vec_pretty(state).map_err(|error| RunError::Internal(error.to_string()))?;
    context.faults.pass(FailPoint::BeforeStage);
    context.check_claim()?;
    context.output.put(step.path(), bytes)?;
    context.faults.pass(FailPoint::StageLeft);
    Ok(())
}

/// Takes back what `from` left and all that was made of it, the last first: whoever is killed in between finds nothing that was made of what
/// is no longer there.
pub(crate) fn forget(context: &Context, from: Step) -> Result<(), RunError> {
    context.check_claim()?;
    for step in Step::ALL.into_iter().rev().filter(|&step| step >= from) {
        match step {
            Step::Predict => drop(context.stores.delete_prefix(&uri(context, step))?),
            _ => context.stores.delete(&uri(context, step))?,
        }
        if step == Step::Certificate {
            // What is kept for one that is interrupted.
            for pass in [CERTIFY, SUBSET] {
                context
                    .stores
                    .delete_prefix(&context.output.child(&format!("stages/groups/{pass}")))?;
            }
        }
        if step == Step::Invert && context.dual_plan().is_some() {
            // The tiles of the factor.
            context.stores.delete_prefix(&context.scratch())?;
        }
    }
    Ok(())
}

/// Takes back all that was made with the files that `step` left and that are damaged, and the files, so that the next run makes them again.
pub(crate) fn forget_damaged(context: &Context, step: Step, damages: &[Damage]) -> Result<(), RunError> {
    forget(context, step)?;
    for damage in damages {
        context.stores.delete(&context.output.child(&damage.path))?;
    }
    Ok(())
}

/// Where what is damaged, or was made with it, could not be taken back: the next run finds the same damage, and tries again.
pub(crate) fn warn_of_what_stays(taken_back: Result<(), RunError>) {
    if let Err(error) = taken_back {
        tracing::warn!(
            "what is damaged stays, or what was made with it: {}",
            with_causes(&error)
        );
    }
}

fn uri(context: &Context, step: Step) -> String {
    context.output.child(step.path())
}
