//! What a run left, for people and programs to read.

use std::collections::BTreeMap;

use fisherflow_posterior::{BlockInfo, CellScatter, Certificate, LabelScale, Pulls, ScatterEstimate};
use fisherflow_store::{Changes, WrittenFile};
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::RunError;
use crate::job::Stage;
use crate::passes::in_fit::InFit;
use crate::passes::predict::PredictCounts;
use crate::plan::resources::Resources;
use crate::run::notes::notes;
use crate::run::prior_facts::PriorFacts;
use crate::run::stage_state::FitCounts;
use crate::run::stages::Found;

/// What a run left, for people to read.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Names everything that decides the bits of the output.
    pub run_id: String,
    /// URI of the output.
    pub output: String,
    /// What was asked for.
    pub stage: &'static str,
    /// Names of the labels.
    pub labels: Vec<String>,
    /// Their units.
    pub units: Vec<String>,
    /// Weights of the network.
    pub n_weights: u64,
    /// Which release it is, and what it changes of the one before; `None` where the output is in no line.
    pub release: Option<(u64, Changes)>,
    /// Rows of the fit's catalogue.
    pub fit: FitCounts,
    /// R and what it was made of, label units; `None` where it was given.
    pub noise: Option<ScatterEstimate>,
    /// The prior precision and where it comes from.
    pub prior: PriorFacts,
    /// The inverted blocks; empty before `invert`.
    pub blocks: Vec<BlockInfo>,
    /// How many weights the data determine; `None` before `invert`.
    pub effective_parameters: Option<EffectiveParameters>,
    /// How far the error bars may be trusted; `None` before `invert`, and where nothing was to be checked.
    pub certificate: Option<Certificate>,
    /// C_intrinsic and what it was made of, label units; `None` before `predict`, or without labels.
    pub intrinsic: Option<ScatterEstimate>,
    /// C_intrinsic of each cell of label space, where it is cut into cells.
    pub intrinsic_cells: Vec<CellScatter>,
    /// The factors of the weights' part, where they are asked for.
    pub label_scale: Option<LabelScale>,
    /// Rows of the predictions; `None` before `predict`.
    pub predict: Option<PredictCounts>,
    /// Pulls of each label over spectra that are not in the sums; `None` where fewer than two have labels, and errors that these can be compared with.
    pub pulls: Option<Vec<Pulls>>,
    /// Which spectra those are.
    pub pulls_over: Option<PullsOver>,
    /// How many of their stars the fit has too; `None` where they are of its own catalogue, and where there were none to look up.
    pub pulls_in_fit: Option<InFit>,
    /// Pulls of each label over the held-out spectra that C_intrinsic, and what else the run file asks for, was fitted to; `None` where these
    /// are in the sums too.
    pub held_out_pulls: Option<Vec<Pulls>>,
    /// Files of the output so far.
    pub files: Vec<WrittenFile>,
    /// Whether they were all read back and found as they were written, before the output was committed.
    pub read_back: bool,
    /// Whether the output is complete: committed by its manifest.
    pub complete: bool,
    /// What a reader should know: repairs, clipping, objects left out.
    pub notes: Vec<String>,
    /// Memory and time of this process, as predicted and as measured.
    pub resources: Resources,
    /// Wall time.
    pub seconds: f64,
}

/// How many weights the data determine, and how many they can.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EffectiveParameters {
    /// `gamma` of each block, by its layers joined by `+`.
    pub by_layer: BTreeMap<String, f64>,
    /// Of all blocks together.
    pub all: f64,
    /// Labels times spectra in the sums (for the empirical Fisher spectra, for the true Hessian weights): more is impossible, and betrays a
    /// structure that counts information that is not there.
    pub limit: u64,
    /// What the limit counts.
    pub of: &'static str,
}

/// Which spectra the printed pulls are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PullsOver {
    /// Those of the fit's catalogue that are held out from the sums: what is fitted to held-out residuals has seen them.
    HeldOut,
    /// Those of the catalogue to predict: nothing here was fitted to them, but for those of stars that are in the fit's catalogue too.
    Predicted,
}

impl RunSummary {
    /// Of what the stages found; of which release it is, and whether it counts, is not known yet.
    pub(crate) fn of(context: &Context, stage: Stage, found: &Found) -> Result<Self, RunError> {
        let invert = found.invert.as_ref();
        let (calibrated, predicted) = found
            .predict
            .as_ref()
            .map(|(calibrated, predicted)| (calibrated, predicted))
            .unzip();
        let mut files = found.fit.files.clone();
        files.extend(invert.iter().flat_map(|invert| invert.files.clone()));
        files.extend(predicted.iter().flat_map(|predicted| predicted.files.clone()));
        let resources = Resources::of(context, &found.seconds)?;
        let mut notes = notes(context, found);
        notes.extend(resources.note());
        let pulls = predicted.and_then(|predicted| predicted.pulls.pulls());
        // Where nothing keeps them out they are in the sums, and their pulls tell nothing.
        let kept_out = calibrated.filter(|_| context.job.keeps_out());
        let labels = context.network.labels();
        Ok(Self {
            run_id: context.run_id.clone(),
            output: context.output.uri().to_string(),
            stage: stage.name(),
            labels: labels.names.clone(),
            units: labels.units.clone(),
            n_weights: context.network.n_weights() as u64,
            release: None,
            fit: found.fit.counts,
            noise: found.fit.estimate.clone(),
            prior: PriorFacts::of(context),
            blocks: invert.map(|invert| invert.blocks.clone()).unwrap_or_default(),
            effective_parameters: invert.map(|_| EffectiveParameters::of(context, found)),
            certificate: found.certificate.clone(),
            intrinsic: calibrated.and_then(|calibrated| calibrated.intrinsic.clone()),
            intrinsic_cells: calibrated
                .map(|calibrated| calibrated.cells.clone())
                .unwrap_or_default(),
            label_scale: calibrated.and_then(|calibrated| calibrated.label_scale.clone()),
            predict: predicted.map(|predicted| predicted.counts),
            pulls_over: pulls.is_some().then_some(if context.is_fused() {
                PullsOver::HeldOut
            } else {
                PullsOver::Predicted
            }),
            pulls_in_fit: predicted.and_then(|predicted| predicted.in_fit),
            pulls,
            held_out_pulls: kept_out.and_then(|calibrated| calibrated.pulls.pulls()),
            files,
            read_back: false,
            complete: false,
            notes,
            resources,
            seconds: 0.0,
        })
    }

    /// What the run found out, as the manifest's `settings` have it.
    #[must_use]
    pub fn findings(&self) -> BTreeMap<&'static str, Value> {
        BTreeMap::from([
            (
                "network",
                json!({ "weights": self.n_weights, "labels": self.labels, "units": self.units }),
            ),
            ("prior", json!(self.prior)),
            ("noise_estimate", json!(self.noise)),
            ("intrinsic_estimate", json!(self.intrinsic)),
            ("intrinsic_cells", json!(self.intrinsic_cells)),
            ("label_scale", json!(self.label_scale)),
            ("pulls", json!(self.pulls)),
            ("pulls_over", json!(self.pulls_over)),
            ("pulls_in_fit", json!(self.pulls_in_fit)),
            ("held_out_pulls", json!(self.held_out_pulls)),
            ("effective_parameters", json!(self.effective_parameters)),
            ("blocks", json!(self.blocks)),
            ("certificate", json!(self.certificate)),
        ])
    }
}

impl EffectiveParameters {
    /// Of all blocks that were inverted.
    pub(crate) fn of(context: &Context, found: &Found) -> Self {
        let blocks = found.invert.iter().flat_map(|invert| &invert.blocks);
        let by_layer: BTreeMap<String, f64> = blocks
            .map(|info| (info.layers.join("+"), info.effective_parameters))
            .collect();
        let (of, limit) = context.effective_limit(&found.fit.counts);
        Self {
            all: by_layer.values().sum(),
            by_layer,
            limit,
            of,
        }
    }
}
