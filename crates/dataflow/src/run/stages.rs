//! The stages of a run, in order, on every worker: each goes on from what the one before left in the output.

use std::sync::Arc;
use std::time::Instant;

use fisherflow_curvature::{CurvatureKind, References};
use fisherflow_posterior::{Certificate, ScatterEstimate};
use fisherflow_spectra::{Group, PixelPopulation};
use fisherflow_store::StoreError;
use timely::worker::Worker;

use crate::basis::{Basis, Pinned};
use crate::context::Context;
use crate::error::RunError;
use crate::job::{Noise, Prior, Stage};
use crate::passes::calibrate::Calibrated;
use crate::passes::predict::Predicted;
use crate::passes::products::Loss;
use crate::passes::{
    agree, calibrate, certify, correction, curvature, exclusions, holdout, invert, low_rank, population, predict,
    reference, subset, unusable,
};
use crate::run::notes::{calibration, data};
use crate::run::prior_choice;
use crate::run::stage_state::{self, CertificateState, FitState, InvertState, Step};

/// What the stages that ran found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) fit: FitState,
    pub(crate) invert: Option<InvertState>,
    /// `None` where nothing was to be checked.
    pub(crate) certificate: Option<Certificate>,
    /// What held-out spectra show beyond the known parts, and the predictions.
    pub(crate) predict: Option<(Calibrated, Predicted)>,
    /// Of each stage that ran, on this worker.
    pub(crate) seconds: Vec<(&'static str, f64)>,
}

/// Runs `stage` on this worker, together with all others.
pub(crate) fn work(worker: &mut Worker, context: &Arc<Context>, stage: Stage) -> Result<Found, RunError> {
    let mut seconds = Vec::new();
    exclusions::look_up(worker, context)?;
    let fitted: Option<FitState> = agree::left_by(worker, context, Step::Fit)?;
    let fit = match (stage, fitted) {
        (Stage::Run | Stage::Invert | Stage::Predict, Some(fitted)) => {
            agree::whole(worker, context, Step::Sums, &fitted.files)?;
            fitted
        }
        (Stage::Invert | Stage::Predict, None) => return Err(missing(context, "fit")),
        (Stage::Run | Stage::Fit, done) => {
            // A fit that is done and asked for again begins again; one that was interrupted goes on.
            let begins = if done.is_some() {
                warn_of_again(worker, context, "fit");
                Step::Sums
            } else {
                Step::Fit
            };
            agree::forgotten(worker, context, begins)?;
            let summed = match done {
                None if context.corrected().next().is_some() => agree::left_by(worker, context, Step::Sums)?,
                _ => None,
            };
            timed(&mut seconds, "fit", || fit(worker, context, summed))?
        }
    };
    take_over_limit(context, fit.population.as_ref());
    context.left_files.take_over(Step::Sums, &fit.files);
    let mut found = Found {
        fit,
        invert: None,
        certificate: None,
        predict: None,
        seconds,
    };
    if stage == Stage::Fit {
        return Ok(found);
    }
    let inverted: Option<InvertState> = agree::left_by(worker, context, Step::Invert)?;
    let certified: Option<CertificateState> = agree::left_by(worker, context, Step::Certificate)?;
    let is_certified = certified.is_some() || !context.job.certificate.is_wanted();
    let (inverted, certified) = match (stage, inverted) {
        (Stage::Predict, None) => return Err(missing(context, "invert")),
        // Of `invert` one that was interrupted in its certificate.
        (stage, Some(inverted)) if stage != Stage::Invert || !is_certified => {
            agree::whole(worker, context, Step::Invert, &inverted.files)?;
            (inverted, certified)
        }
        (_, done) => {
            // Likewise.
            let begins = if done.is_some() {
                warn_of_again(worker, context, "invert");
                Step::Invert
            } else {
                Step::Certificate
            };
            agree::forgotten(worker, context, begins)?;
            let inverted = timed(&mut found.seconds, "invert", || invert(worker, context, &found.fit))?;
            (inverted, None)
        }
    };
    context.left_files.take_over(Step::Invert, &inverted.files);
    context.take_over_prior(&inverted);
    found.certificate = match certified {
        Some(CertificateState { certificate, .. }) => Some(certificate),
        None if context.job.certificate.is_wanted() => Some(timed(&mut found.seconds, "certificate", || {
            certificate(worker, context, &found.fit, &inverted)
        })?),
        None => None,
    };
    if stage != Stage::Invert {
        let predicted = timed(&mut found.seconds, "predict", || {
            predict(worker, context, &found.fit, &inverted)
        });
        found.predict = Some(predicted?);
    }
    found.invert = Some(inverted);
    Ok(found)
}

/// Says what goes where a stage that is done is asked for again; on the first worker alone.
fn warn_of_again(worker: &Worker, context: &Context, stage: &str) {
    if worker.index() == 0 {
        let output = context.output.uri();
        tracing::warn!(
            stage,
            output,
            "is done there, and made again: what it left and all that was made of it is taken back"
        );
    }
}

/// What `work` gives, and in `seconds` the time that it took.
fn timed<T>(
    seconds: &mut Vec<(&'static str, f64)>,
    stage: &'static str,
    work: impl FnOnce() -> Result<T, RunError>,
) -> Result<T, RunError> {
    let started = Instant::now();
    let done = work()?;
    seconds.push((stage, started.elapsed().as_secs_f64()));
    Ok(done)
}

fn missing(context: &Context, stage: &str) -> RunError {
    RunError::Refused(format!(
        "{} holds no `{stage}` of this run ({}): run `fisherflow {stage}` with the same run file first, or `fisherflow run`",
        context.output.uri(),
        context.run_id
    ))
}

/// Noise, references and curvature sums, as far as they are not in `summed` already, and the correction of `ekfac` blocks.
fn fit(worker: &mut Worker, context: &Arc<Context>, summed: Option<FitState>) -> Result<FitState, RunError> {
    let mut state = match summed {
        Some(summed) => summed,
        None => sums(worker, context)?,
    };
    take_over_limit(context, state.population.as_ref());
    if context.corrected().next().is_some() {
        let noise = context.in_normalised_units(residual_covariance(context, state.estimate.as_ref())?)?;
        begin_over_fit(context, "correction");
        context.left_files.take_over(Step::Sums, &state.bases);
        let population = state.population.as_ref();
        let (files, digest) =
            correction::correction(worker, context, population, &state.references, &noise, &state.sums)?;
        context.progress.end();
        state.files.extend(files);
        state.correction = Some(digest);
    }
    if worker.index() == 0 {
        stage_state::write(context, Step::Fit, &state)?;
    }
    Ok(state)
}

/// What the held-out spectra tell before anything is summed.
struct Prepared {
    population: Option<PixelPopulation>,
    references: References,
    estimate: Option<ScatterEstimate>,
    /// R, `[K, K]`, normalised label units.
    noise: Vec<f64>,
}

/// Population, references and noise.
fn prepare(worker: &mut Worker, context: &Arc<Context>) -> Result<Prepared, RunError> {
    if let Some(Pinned { basis, bytes, .. }) = &context.basis {
        pin(worker, context, || Ok(bytes.clone()))?;
        take_over_limit(context, basis.population.as_ref());
        return Ok(Prepared {
            population: basis.population.clone(),
            references: basis.references.clone(),
            noise: context.in_normalised_units(residual_covariance(context, basis.estimate.as_ref())?)?,
            estimate: basis.estimate.clone(),
        });
    }
    begin_over(context, "population", &context.fit.sample);
    let population = population::population(worker, context)?;
    begin_over(context, "reference", &context.fit.sample);
    let held_out = reference::reference(worker, context, population.as_ref())?;
    let estimate = noise(worker, context, &held_out)?;
    let noise = context.in_normalised_units(residual_covariance(context, estimate.as_ref())?)?;
    let references = held_out.references.finish()?;
    let found = Basis::found(context, population, references, estimate);
    pin(worker, context, || found.to_bytes())?;
    Ok(Prepared {
        population: found.population,
        references: found.references,
        estimate: found.estimate,
        noise,
    })
}

/// Spectra beyond what the held-out ones allow are bad from here on, whoever found out.
fn take_over_limit(context: &Context, population: Option<&PixelPopulation>) {
    context.set_input_limit(population.and_then(|population| population.input_limit));
}

/// Pins what the sums are taken about, where the run is of a line: no worker sums before it stands. Before the first release, what another run
/// pinned and never committed gives way to what the holder of that release sums about.
fn pin(worker: &Worker, context: &Context, bytes: impl FnOnce() -> Result<Vec<u8>, RunError>) -> Result<(), RunError> {
    let Some(release) = context.release.as_ref().filter(|_| worker.index() == 0) else {
        return Ok(());
    };
    let bytes = bytes()?;
    match release.line.pin_basis(bytes.clone()) {
        Err(StoreError::CommitConflict { .. }) if release.parent.is_none() => {
            if !context.holds() {
                // It makes no release.
                return Ok(());
            }
            context.check_claim()?;
            tracing::info!(basis = %release.line.basis_uri(), "replaces the basis of a run that released nothing");
            Ok(release.line.replace_basis(bytes)?)
        }
        pinned => Ok(pinned?),
    }
}

/// The loss whose curvature is asked for: with the noise and the population that `fit` left, or else those of passes of their own.
pub(crate) fn loss(worker: &mut Worker, context: &Arc<Context>, kind: CurvatureKind) -> Result<Loss, RunError> {
    let (population, noise) = match agree::left_by::<FitState>(worker, context, Step::Fit)? {
        Some(fit) => {
            let noise = residual_covariance(context, fit.estimate.as_ref())?;
            take_over_limit(context, fit.population.as_ref());
            (fit.population, context.in_normalised_units(noise)?)
        }
        None => {
            let prepared = prepare(worker, context)?;
            (prepared.population, prepared.noise)
        }
    };
    Ok(Loss {
        population,
        noise,
        kind,
    })
}

/// Shows that a pass over all spectra of the fit begins.
pub(crate) fn begin_over_fit(context: &Context, pass: &str) {
    begin_over(context, pass, &context.fit.groups);
}

/// Noise, references and curvature sums.
fn sums(worker: &mut Worker, context: &Arc<Context>) -> Result<FitState, RunError> {
    let Prepared {
        population,
        references,
        estimate,
        noise,
    } = prepare(worker, context)?;
    let loss = Loss {
        population: population.clone(),
        noise: noise.clone(),
        kind: context.job.curvature.kind,
    };
    let pairs = low_rank::leading_pairs(worker, context, &loss, |pass| {
        begin_over_fit(context, &format!("eigenpairs {pass}"));
    })?;
    begin_over_fit(context, "curvature");
    let fitted = curvature::curvature(worker, context, population.as_ref(), &references, &noise, pairs)?;
    context.progress.end();
    let rows = fitted.rows;
    if rows.counts.in_sums == 0 {
        return Err(RunError::Refused(format!(
            "no spectrum of {} can be counted in the Hessian: {} are bad, {} lack labels or their errors, {} are held out",
            context.job.catalogue.uri, rows.counts.bad, rows.counts.unlabelled, rows.counts.held_out
        )));
    }
    let state = FitState {
        run_id: context.run_id.clone(),
        population,
        references,
        estimate,
        counts: rows.counts,
        bad_rows: rows.bad_rows,
        dual: rows.dual,
        label_ends: rows.label_ends,
        sums: fitted.sums,
        files: fitted.files,
        bases: fitted.bases,
        correction: None,
        computed: fitted.computed,
    };
    if worker.index() == 0 {
        for note in calibration::of_labels_in_sums(context, &state) {
            tracing::warn!("{note}");
        }
    }
    if worker.index() == 0 && context.corrected().next().is_some() {
        stage_state::write(context, Step::Sums, &state)?;
    }
    Ok(state)
}

/// R in label units, `[K, K]`: as given, or as estimated.
pub(crate) fn residual_covariance(context: &Context, estimate: Option<&ScatterEstimate>) -> Result<Vec<f64>, RunError> {
    match (&context.job.noise, estimate) {
        (Noise::Covariance(given), _) => Ok(given.concat()),
        (Noise::Holdout, Some(estimate)) => Ok(estimate.covariance.clone()),
        (Noise::Holdout, None) => Err(RunError::Internal("the residuals' covariance was not estimated".into())),
    }
}

/// The estimate of R from the residuals of held-out spectra; `None` where R is given.
fn noise(
    worker: &mut Worker,
    context: &Arc<Context>,
    held_out: &reference::HeldOut,
) -> Result<Option<ScatterEstimate>, RunError> {
    if let Noise::Covariance(_) = &context.job.noise {
        return Ok(None);
    }
    let refused = |why: String, remedy: &str| {
        let uri = &context.job.catalogue.uri;
        RunError::Refused(format!(
            "no noise from held-out residuals of {uri}: {why}; {remedy}, or give noise.covariance"
        ))
    };
    if held_out.stars.n_spectra() == 0 && !context.job.catalogue.columns.labels.is_empty() {
        begin_over(context, "what is wrong with held-out spectra", &context.fit.sample);
        let found = unusable::unusable(worker, context)?;
        context.progress.end();
        if found.held_out == 0 {
            let why = format!(
                "none of its {} spectra is in the {} of them that are held out, by hash of their id",
                context.fit.catalogue.n_rows(),
                context.job.compute.holdout_fraction
            );
            return Err(refused(why, "raise noise.holdout_fraction"));
        }
        if !found.rows.is_empty() {
            let why = data::of_held_out(found.held_out, held_out.stars.skipped(), &found.rows);
            return Err(refused(why, "mend these, raise noise.holdout_fraction"));
        }
    }
    let remedy = match held_out.stars.n_spectra() {
        0 => "name its label columns",
        _ => "raise noise.holdout_fraction",
    };
    let estimate = held_out.stars.noise();
    let estimate = estimate.map_err(|error| refused(error.to_string(), remedy))?;
    Ok(Some(estimate))
}

fn invert(worker: &mut Worker, context: &Arc<Context>, fit: &FitState) -> Result<InvertState, RunError> {
    context.open_dual(fit);
    let (n_spectra, n_blocks) = (fit.counts.in_sums, context.blocks.len() as u64);
    let state = match context.job.prior {
        Prior::Fixed(_) => {
            let prior = context.prior_choice().ok_or_else(|| unknown_prior(context))?;
            context.progress.begin("invert", n_blocks);
            invert::inverse(worker, context, n_spectra, prior)?
        }
        Prior::Evidence | Prior::EvidencePerBlock => {
            context.progress.begin("evidence", n_blocks);
            let factored = invert::factors(worker, context, n_spectra)?;
            let prior = context.choose_by_evidence(&factored.spectra)?;
            context.progress.begin("invert", n_blocks);
            invert::finish(worker, context, factored, prior)?
        }
        Prior::Holdout => {
            context.progress.begin("evidence", n_blocks);
            let factored = invert::factors(worker, context, n_spectra)?;
            let evidence = context.evidence_of_all(&factored.spectra)?;
            let grid = prior_choice::grid(&context.given_priors, &factored.spectra, evidence);
            begin_over(context, "holdout", &context.fit.sample);
            let known = (&*factored.spectra, evidence);
            let prior = holdout::choose(worker, context, fit.population.as_ref(), n_spectra, &grid, known)?;
            context.drop_scans();
            let prior = context.keep_prior(prior)?;
            context.progress.begin("invert", n_blocks);
            invert::finish(worker, context, factored, prior)?
        }
    };
    context.progress.end();
    if worker.index() == 0 {
        stage_state::write(context, Step::Invert, &state)?;
    }
    Ok(state)
}

fn unknown_prior(context: &Context) -> RunError {
    RunError::Internal(format!("{:?} gives not every block its precision", context.job.prior))
}

/// How far the error bars may be trusted.
fn certificate(
    worker: &mut Worker,
    context: &Arc<Context>,
    fit: &FitState,
    inverted: &InvertState,
) -> Result<Certificate, RunError> {
    context.open_dual(fit);
    context.load_posterior(inverted)?;
    let noise = context.in_normalised_units(residual_covariance(context, fit.estimate.as_ref())?)?;
    let compared = subset::subset(worker, context, fit, inverted, &noise)?;
    let mut checks = Vec::new();
    if context.job.certificate.full_pass {
        begin_over_fit(context, certify::CERTIFY);
        checks = certify::certify(worker, context, fit.population.as_ref(), compared.probes, &noise)?;
    }
    context.progress.end();
    let certificate = Certificate::new(
        &inverted.blocks,
        context.effective_limit(&fit.counts).1 as f64,
        (compared.comparison, compared.not_compared),
        &checks,
        compared.curvature,
    );
    if worker.index() == 0 {
        let state = CertificateState {
            run_id: context.run_id.clone(),
            certificate: certificate.clone(),
        };
        stage_state::write(context, Step::Certificate, &state)?;
    }
    Ok(certificate)
}

fn predict(
    worker: &mut Worker,
    context: &Arc<Context>,
    fit: &FitState,
    inverted: &InvertState,
) -> Result<(Calibrated, Predicted), RunError> {
    context.open_dual(fit);
    context.load_posterior(inverted)?;
    begin_over(context, "calibrate", &context.fit.sample);
    let noise = residual_covariance(context, fit.estimate.as_ref())?;
    let calibrated = calibrate::calibrate(worker, context, fit.population.as_ref(), &noise)?;
    if worker.index() == 0 {
        if calibrated.intrinsic.is_none() && !context.job.catalogue.columns.labels.is_empty() {
            tracing::warn!("{}", calibration::of_no_intrinsic(context));
        }
        let of_labels = calibration::of_labels(context, &calibrated.label_fits);
        for note in
            of_labels
                .into_iter()
                .chain(calibration::of_pulls(context, &calibrated.pulls, calibration::HELD_OUT))
        {
            tracing::warn!("{note}");
        }
    }
    begin_over(context, "predict", &context.predicted().groups);
    let predicted = predict::predict(worker, context, fit.population.as_ref(), &calibrated, &fit.sums)?;
    context.progress.end();
    if worker.index() == 0
        && data::is_most(&predicted)
        && let Some(note) = data::of_predictions(context, &predicted)
    {
        tracing::warn!("{note}");
    }
    if worker.index() == 0 {
        let odd = [data::of_unlike, data::of_slower_path].map(|of| of(context, &predicted));
        let of_pulls = calibration::of_predicted_pulls(context, &predicted);
        for note in odd.into_iter().flatten().chain(of_pulls) {
            tracing::warn!("{note}");
        }
    }
    Ok((calibrated, predicted))
}

/// Shows that a pass over the spectra of these groups begins.
pub(crate) fn begin_over(context: &Context, pass: &str, groups: &[Group]) {
    let spectra = groups.iter().map(Group::n_rows).sum();
    context.progress.begin_over_spectra(pass, spectra, groups.len() as u64);
}
