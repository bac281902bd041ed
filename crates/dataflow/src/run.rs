//! A run from claim to manifest.

pub(crate) mod calibration_notes;
pub(crate) mod claim;
pub(crate) mod claim_keeper;
pub(crate) mod data_notes;
pub(crate) mod inputs;
pub(crate) mod manifest;
pub(crate) mod membership;
pub(crate) mod prior_choice;
pub(crate) mod prior_facts;
pub(crate) mod read_back;
pub(crate) mod release;
pub(crate) mod stage_state;
pub(crate) mod stages;
pub(crate) mod still_there;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fisherflow_curvature::CurvatureKind;
use fisherflow_posterior::{BlockInfo, CellScatter, Certificate, LabelScale, Pulls, ScatterEstimate};
use fisherflow_store::{Changes, Holding, Manifest, WrittenFile};
use serde::Serialize;

use crate::basis;
use crate::cluster;
use crate::cluster::whereabouts::Whereabouts;
use crate::context::Context;
use crate::error::{RunError, with_causes};
use crate::fail_point::FailPoint;
use crate::files;
use crate::job::{Cluster, Job, Stage};
use crate::passes::exclusions;
use crate::passes::predict::PredictCounts;
use crate::plan::resources::Resources;
use crate::progress::meter::Meter;
use crate::progress::status::StatusWriter;
use crate::run::claim::Claimed;
use crate::run::claim_keeper::ClaimKeeper;
use crate::run::manifest::manifest;
use crate::run::prior_facts::PriorFacts;
use crate::run::stage_state::FitCounts;
use crate::run::stages::Found;

/// What a run left, for people to read.
#[derive(Clone, Debug, Serialize)]
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
    /// Pulls of each label over spectra that are not in the sums; `None` where fewer than two have labels.
    pub pulls: Option<Vec<Pulls>>,
    /// Which spectra those are.
    pub pulls_over: Option<PullsOver>,
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
    /// Labels times spectra in the sums (spectra, for the empirical Fisher): more is impossible, and betrays a structure that counts
    /// information that is not there.
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
    /// Those of the catalogue to predict: nothing here was fitted to them, unless they are in the fit's catalogue too.
    Predicted,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It did what was asked for.
    Done(Box<RunSummary>),
    /// The output already holds this very run, complete: nothing was done.
    AlreadyComplete(Box<Manifest>),
}

/// Runs a stage, or all of them, on this process's workers together with those of the other processes.
///
/// # Errors
/// Whatever ended it; [`RunError::exit_code`] says with which code the process should end. After an error in a cluster of several
/// processes the process must exit, so that the others learn of it.
pub fn run(job: Arc<Job>, stage: Stage, cluster: &Cluster, progress: Arc<Meter>) -> Result<Outcome, RunError> {
    let started = Instant::now();
    let context = Arc::new(Context::open(job, cluster.workers, progress)?);
    context.differentiating()?;
    context.faults.arm(&cluster.fail_points);
    context.faults.pass(FailPoint::Opened);
    if let Some(manifest) = release::of_same_inputs(&context)? {
        return Ok(Outcome::AlreadyComplete(manifest));
    }
    if cluster.process > 0 {
        let before = context.output.manifest();
        if let Some(manifest) = claim::finished(&context)? {
            still_there::check(&context.output, &manifest, &to_repair(&context)?)?;
            return Ok(Outcome::AlreadyComplete(manifest));
        }
        let done = work(&context, stage, cluster, None, |found| {
            summary(&context, stage, found, None, started)
        });
        // The first process may have ended well, and its word of it been lost.
        if let (Err(RunError::PeerLost(_)), Ok(before)) = (&done, &before)
            && let Some(manifest) = claim::finished_since(&context, before.as_ref())
        {
            return Ok(Outcome::AlreadyComplete(manifest));
        }
        return done.map(|summary| Outcome::Done(Box::new(summary)));
    }
    let (holding, overwrites) = match claim::claim(&context, cluster)? {
        Claimed::Held { holding, overwrites } => (holding, overwrites),
        Claimed::Complete(manifest) => {
            // Its last steps may have been cut short.
            if !context.output.is_marked()? {
                context.output.commit(&manifest)?;
            }
            still_there::check(&context.output, &manifest, &to_repair(&context)?)?;
            release::commit_again(&context)?;
            // Another run may wait for its processes, to overwrite it then.
            let held = context.output.held()?;
            if held.is_none_or(|held| held.generation == 1 || held.committed.is_some()) {
                tidy_up(&context)?;
            }
            return Ok(Outcome::AlreadyComplete(manifest));
        }
    };
    if overwrites && matches!(stage, Stage::Invert | Stage::Predict) {
        holding.release()?;
        return Err(RunError::Usage(format!(
            "{} holds a finished output, or what another run left, and `{}` needs what `fisherflow fit` of this run leaves: `fisherflow run \
             --overwrite` replaces it",
            context.output.uri(),
            stage.name()
        )));
    }
    context.hold(&holding);
    let overwriting = overwrites.then(|| holding.clone());
    let mut keeper = ClaimKeeper::start(holding, claim::beat(cluster.peer_timeout), &context.faults)?;
    context.faults.pass(FailPoint::Claimed);
    let summary = work(&context, stage, cluster, overwriting, |found| {
        summary(&context, stage, found, Some(&mut keeper), started)
    });
    match summary {
        Ok(summary) if summary.complete => Ok(Outcome::Done(Box::new(summary))),
        other => {
            keeper.release()?;
            other.map(|summary| Outcome::Done(Box::new(summary)))
        }
    }
}

/// What brings a damaged output back: of a release that is complete and not committed, its removal, for no run overwrites one.
fn to_repair(context: &Context) -> Result<String, RunError> {
    Ok(match &context.release {
        None => "run again with --overwrite".to_owned(),
        Some(release) if release::is_committed(context)? => release::to_repair_committed(release.number + 1),
        Some(release) => format!("no reader has seen it: remove {} and run again", release.uri()),
    })
}

/// The stages, on this process's workers together with those of the others, and what `conclude` makes of them: the first process's is the
/// commit, which the others wait for. `overwriting`: the claim of an output that holds what is to go, as soon as all of them are there.
fn work<T>(
    context: &Arc<Context>,
    stage: Stage,
    cluster: &Cluster,
    overwriting: Option<Holding>,
    conclude: impl FnOnce(Found) -> Result<T, RunError>,
) -> Result<T, RunError> {
    let working = Arc::clone(context);
    let identity = format!("{} {stage:?} {}", context.run_id, context.agreement());
    let whereabouts = Whereabouts::new(cluster, context.output.rendezvous(&context.run_id));
    let mut status = (cluster.process == 0)
        .then(|| StatusWriter::start(&context.progress, &context.output, stage, &claim::host()))
        .transpose()?;
    let ending = &mut status;
    let concluded = cluster::execute(
        cluster,
        &identity,
        &whereabouts,
        &context.faults,
        &context.progress,
        move |worker| {
            if worker.index() == 0 {
                // No worker comes past its first agreement with this one before.
                overwriting.as_ref().map_or(Ok(()), Holding::clear)?;
                inputs::note(&working)?;
                working.faults.pass(FailPoint::Begun);
            }
            stages::work(worker, &working, stage)
        },
        |found| {
            // Before the stages go, which it is written to.
            if let Some(status) = ending.take() {
                status.end(None);
            }
            conclude(found)
        },
    );
    if let Some(status) = status {
        status.end(concluded.as_ref().err());
    }
    if let Some((step, damage)) = concluded.as_ref().err().and_then(RunError::damaged) {
        // Where it fails, the next run finds the same damage.
        if let Err(error) = stage_state::forget_damaged(context, step, damage) {
            tracing::warn!("{} keeps what was made with it: {}", damage.path, with_causes(&error));
        }
    }
    concluded
}

/// What is left to do once the output is complete: also for a process before this one, that died in between.
fn tidy_up(context: &Context) -> Result<(), RunError> {
    context.output.clear_stages()?;
    if context.job.compute.scratch.is_some() && context.dual_plan().is_some() {
        context.stores.delete_prefix(&context.scratch())?;
    }
    context.output.clear_rendezvous()?;
    context.output.clear_claims()?;
    context.output.clear_staged();
    Ok(())
}

fn summary(
    context: &Context,
    stage: Stage,
    found: Found,
    keeper: Option<&mut ClaimKeeper>,
    started: Instant,
) -> Result<RunSummary, RunError> {
    let blocks = found
        .invert
        .as_ref()
        .map(|invert| invert.blocks.clone())
        .unwrap_or_default();
    let mut written = found.fit.files.clone();
    written.extend(found.invert.iter().flat_map(|invert| invert.files.clone()));
    written.extend(found.predict.iter().flat_map(|(_, predicted)| predicted.files.clone()));
    let resources = Resources::of(context, &found.seconds)?;
    let mut notes = notes(context, &found);
    notes.extend(resources.note());
    let effective_parameters = found.invert.is_some().then(|| effective_parameters(context, &found));
    let (calibrated, predicted) = found.predict.map_or((None, None), |(calibrated, predicted)| {
        (Some(calibrated), Some(predicted))
    });
    let pulls = predicted.as_ref().and_then(|predicted| predicted.pulls.pulls());
    // Where nothing keeps them out they are in the sums, and their pulls tell nothing.
    let kept_out = calibrated.as_ref().filter(|_| context.job.keeps_out());
    let held_out_pulls = kept_out.and_then(|calibrated| calibrated.pulls.pulls());
    let (intrinsic, intrinsic_cells, label_scale) = calibrated.map_or((None, Vec::new(), None), |calibrated| {
        (calibrated.intrinsic, calibrated.cells, calibrated.label_scale)
    });
    let labels = context.network.labels();
    let mut summary = RunSummary {
        run_id: context.run_id.clone(),
        output: context.output.uri().to_string(),
        stage: stage.name(),
        labels: labels.names.clone(),
        units: labels.units.clone(),
        n_weights: context.network.n_weights() as u64,
        release: keeper
            .is_some()
            .then(|| release::changes(context, context.excluded(), found.fit.computed))
            .flatten()
            .zip(context.release.as_ref())
            .map(|(changes, release)| (release.number, changes)),
        fit: found.fit.counts,
        noise: found.fit.estimate.clone(),
        prior: PriorFacts::of(context),
        blocks,
        effective_parameters,
        certificate: found.certificate,
        intrinsic,
        intrinsic_cells,
        label_scale,
        predict: predicted.as_ref().map(|predicted| predicted.counts),
        pulls_over: pulls.is_some().then_some(if context.is_fused() {
            PullsOver::HeldOut
        } else {
            PullsOver::Predicted
        }),
        pulls,
        held_out_pulls,
        files: written,
        read_back: false,
        complete: false,
        notes,
        resources,
        seconds: 0.0,
    };
    if let (Some(keeper), true) = (keeper, predicted.is_some()) {
        summary.files.push(files::write_blocks(
            context,
            &summary.blocks,
            summary.certificate.as_ref(),
        )?);
        if let Some(certificate) = &summary.certificate {
            summary.files.push(files::write_certificate(context, certificate)?);
        }
        if let Some(choice) = context.prior_choice() {
            if !choice.evidence.is_empty() {
                summary.files.push(files::write_evidence(context, &choice.evidence)?);
            }
            if let Some(holdout) = &choice.holdout {
                summary.files.push(files::write_holdout(context, holdout)?);
            }
        }
        if !summary.intrinsic_cells.is_empty() {
            let (cells, all) = (&summary.intrinsic_cells, summary.intrinsic.as_ref());
            summary.files.push(files::write_intrinsic(context, cells, all)?);
        }
        summary.files.sort();
        context.faults.pass(FailPoint::BeforeManifest);
        summary.read_back = read_back::read_back(context, &summary.files, &found.fit, found.invert.as_ref())?;
        let manifest = manifest(context, &summary)?;
        keeper.holding().commit(&manifest)?;
        context.faults.pass(FailPoint::Sealed);
        // Committing deletes what the manifest does not list, and tidying up the claims: of an output that is another's by now neither may.
        keeper.holding().check()?;
        context.output.commit(&manifest)?;
        context.faults.pass(FailPoint::Committed);
        release::commit(context, context.excluded(), &found.fit)?;
        keeper.rest();
        keeper.holding().check()?;
        tidy_up(context)?;
        context.faults.pass(FailPoint::Cleared);
        summary.complete = true;
    }
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// Every repair and everything left out, in words.
fn notes(context: &Context, found: &Found) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some((_, predicted)) = &found.predict {
        notes.extend(data_notes::of_predictions(context, predicted));
        notes.extend(data_notes::of_unlike(context, predicted));
    }
    notes.extend(data_notes::of_fit(context, &found.fit));
    notes.extend(data_notes::of_range(context, &found.fit));
    notes.extend(exclusions::unmatched(context));
    if let (Some(pinned), Some((calibrated, _))) = (&found.fit.estimate, &found.predict)
        && let Some(today) = &calibrated.noise_today
    {
        notes.extend(basis::drift(pinned, today, &context.network.labels().names));
    }
    for catalogue in [Some(&context.fit), context.predict.as_ref()].into_iter().flatten() {
        for skipped in catalogue.catalogue.skipped() {
            notes.push(format!("object left out: {}: {}", skipped.object, skipped.reason));
        }
    }
    notes.extend(
        found
            .fit
            .estimate
            .as_ref()
            .and_then(|noise| calibration_notes::of_climb("noise", noise)),
    );
    if let Some(noise) = found.fit.estimate.as_ref().filter(|noise| noise.clipped > 0) {
        notes.push(format!(
            "noise: {} of {} eigenvalues raised to the floor: there the labels' own errors are as large as the residuals",
            noise.clipped,
            noise.eigenvalues.len()
        ));
    }
    if let Some(population) = found
        .fit
        .population
        .as_ref()
        .filter(|population| population.borrowed > 0)
    {
        notes.push(format!(
            "masked pixels: {} pixels are good in fewer than two held-out spectra and take the nearest pixel's mean and variance",
            population.borrowed
        ));
    }
    for info in found
        .invert
        .iter()
        .flat_map(|invert| &invert.blocks)
        .filter(|info| info.clipped_eigenvalues > 0)
    {
        notes.push(format!(
            "{}: {} eigenvalues below 0 set to 0, the lowest {:.1e} of the largest",
            info.layers.join("+"),
            info.clipped_eigenvalues,
            info.most_negative_eigenvalue
        ));
    }
    for (info, facts) in found
        .invert
        .iter()
        .flat_map(|invert| &invert.blocks)
        .filter_map(|info| Some((info, info.low_rank?)))
    {
        notes.push(format!(
            "{}: {} eigenpairs hold {:.1} % of the trace, eigenvalues from {:.3e} down to {:.3e}, each within {:.1e} of one of the Hessian's; of the \
             rest the diagonal alone is held",
            info.layers.join("+"),
            facts.rank,
            100.0 * facts.trace_share,
            facts.largest_eigenvalue,
            facts.smallest_eigenvalue,
            facts.largest_residual
        ));
    }
    if found.invert.is_some() {
        let EffectiveParameters { all, limit, of, .. } = effective_parameters(context, found);
        if all > limit as f64 {
            notes.push(format!(
                "effective parameters {all:.0} exceed {of} = {limit}: the structure counts information that is not there, and the \
                 weights' part is too small"
            ));
        }
    }
    if let (Some(invert), Some(plan)) = (&found.invert, context.dual_plan())
        && !invert
            .files
            .iter()
            .any(|file| file.path == files::marginal_variance_path(plan))
    {
        notes.push(format!(
            "{}: the marginal variance of each weight is not written: for so many weights and spectra it takes more than all the rest",
            plan.name()
        ));
    }
    if let Some(choice) = context.prior_choice().filter(|_| found.invert.is_some()) {
        let pulls = found
            .predict
            .as_ref()
            .map(|(_, predicted)| predicted.pulls.pulls().is_some());
        notes.extend(calibration_notes::of_prior(context, choice, pulls));
    }
    if let Some((calibrated, _)) = &found.predict {
        match &calibrated.intrinsic {
            None => notes.push("C_intrinsic is 0: no held-out spectrum has labels, and errors that these can be compared with; error bars are not calibrated".into()),
            Some(intrinsic) if intrinsic.vanishing > 0 => notes.push(format!(
                "C_intrinsic vanishes in {} of {} directions: there the photons' part, the weights' part and the labels' own errors already \
                 explain the held-out residuals, or exceed them",
                intrinsic.vanishing,
                intrinsic.eigenvalues.len()
            )),
            Some(_) => {}
        }
        notes.extend(calibration_notes::of_calibration(context, calibrated));
    }
    notes
}

fn effective_parameters(context: &Context, found: &Found) -> EffectiveParameters {
    let blocks = found.invert.iter().flat_map(|invert| &invert.blocks);
    let by_layer: BTreeMap<String, f64> = blocks
        .map(|info| (info.layers.join("+"), info.effective_parameters))
        .collect();
    let (of, limit) = match context.job.curvature.kind {
        CurvatureKind::Ggn => (
            "labels x spectra",
            found.fit.counts.in_sums * context.network.n_labels() as u64,
        ),
        CurvatureKind::EmpiricalFisher => ("spectra", found.fit.counts.in_sums),
        CurvatureKind::Hessian => ("weights", context.network.n_weights() as u64),
    };
    EffectiveParameters {
        all: by_layer.values().sum(),
        by_layer,
        limit,
        of,
    }
}
