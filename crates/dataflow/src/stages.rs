//! The stages of a run, in order, on every worker: each goes on from what the one before left in the output.

use std::sync::Arc;
use std::time::Instant;

use fisherflow_curvature::{CurvatureKind, References};
use fisherflow_posterior::{Certificate, ScatterEstimate, holdout_grid};
use fisherflow_spectra::{Group, PixelPopulation};
use timely::worker::Worker;

use crate::context::Context;
use crate::error::RunError;
use crate::job::{Noise, Prior, Stage};
use crate::passes::calibrate::Calibrated;
use crate::passes::predict::Predicted;
use crate::passes::products::Loss;
use crate::passes::{
    agree, calibrate, certify, correction, curvature, holdout, invert, low_rank, population, predict, reference, subset,
};
use crate::stage_state::{self, CertificateState, FitState, InvertState};

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
    let fitted = agree::left_by(worker, context, "fit")?;
    let fit = match (stage, fitted) {
        (Stage::Run, Some(fitted)) => fitted,
        (Stage::Invert | Stage::Predict, fitted) => fitted.ok_or_else(|| missing(context, "fit"))?,
        (Stage::Run | Stage::Fit, done) => {
            // A fit that is done and asked for again begins again; one that was interrupted goes on.
            let summed = match done {
                None if context.corrected().next().is_some() => agree::left_by(worker, context, SUMS)?,
                _ => None,
            };
            timed(&mut seconds, Stage::Fit, || fit(worker, context, summed))?
        }
    };
    if stage == Stage::Fit {
        return Ok(Found {
            fit,
            invert: None,
            certificate: None,
            predict: None,
            seconds,
        });
    }
    let inverted = agree::left_by(worker, context, "invert")?;
    let inverted = match (stage, inverted) {
        (Stage::Run, Some(inverted)) => inverted,
        (Stage::Predict, inverted) => inverted.ok_or_else(|| missing(context, "invert"))?,
        _ => timed(&mut seconds, Stage::Invert, || invert(worker, context, &fit))?,
    };
    context.take_over_prior(&inverted);
    let certified = agree::left_by(worker, context, "certificate")?;
    let certificate = match (stage, certified) {
        (Stage::Run | Stage::Predict, Some(CertificateState { certificate, .. })) => Some(certificate),
        _ if context.job.certificate.is_wanted() => Some(certificate(worker, context, &fit, &inverted)?),
        _ => None,
    };
    if stage == Stage::Invert {
        return Ok(Found {
            fit,
            invert: Some(inverted),
            certificate,
            predict: None,
            seconds,
        });
    }
    let predicted = timed(&mut seconds, Stage::Predict, || {
        predict(worker, context, &fit, &inverted)
    })?;
    Ok(Found {
        fit,
        invert: Some(inverted),
        certificate,
        predict: Some(predicted),
        seconds,
    })
}

/// What `work` gives, and in `seconds` the time that it took.
fn timed<T>(
    seconds: &mut Vec<(&'static str, f64)>,
    stage: Stage,
    work: impl FnOnce() -> Result<T, RunError>,
) -> Result<T, RunError> {
    let started = Instant::now();
    let done = work()?;
    seconds.push((stage.name(), started.elapsed().as_secs_f64()));
    Ok(done)
}

fn missing(context: &Context, stage: &str) -> RunError {
    RunError::Refused(format!(
        "{} holds no `{stage}` of this run ({}): run `fisherflow {stage}` with the same run file first, or `fisherflow run`",
        context.output.uri(),
        context.run_id
    ))
}

/// What the curvature pass leaves where a second pass over the spectra follows it.
const SUMS: &str = "sums";

/// Noise, references and curvature sums, as far as they are not in `summed` already, and the correction of `ekfac` blocks.
fn fit(worker: &mut Worker, context: &Arc<Context>, summed: Option<FitState>) -> Result<FitState, RunError> {
    let mut state = match summed {
        Some(summed) => summed,
        None => sums(worker, context)?,
    };
    if context.corrected().next().is_some() {
        let noise = context.in_normalised_units(residual_covariance(context, state.estimate.as_ref())?)?;
        begin_over_fit(worker, context, "correction");
        let population = state.population.as_ref();
        let files = correction::correction(worker, context, population, &state.references, &noise, &state.sums)?;
        end(worker, context);
        state.files.extend(files);
    }
    if worker.index() == 0 {
        stage_state::write(context, "fit", &state)?;
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
    let sample = share(worker, context, &context.fit.sample);
    begin(worker, context, "population", sample);
    let population = population::population(worker, context)?;
    begin(worker, context, "reference", sample);
    let held_out = reference::reference(worker, context, population.as_ref())?;
    let estimate = noise(context, &held_out)?;
    let noise = context.in_normalised_units(residual_covariance(context, estimate.as_ref())?)?;
    Ok(Prepared {
        population,
        references: held_out.references.finish()?,
        estimate,
        noise,
    })
}

/// The loss whose curvature is asked for: with the noise and the population that `fit` left, or else those of passes of their own.
pub(crate) fn loss(worker: &mut Worker, context: &Arc<Context>, kind: CurvatureKind) -> Result<Loss, RunError> {
    let (population, noise) = match agree::left_by::<FitState>(worker, context, "fit")? {
        Some(fit) => {
            let noise = residual_covariance(context, fit.estimate.as_ref())?;
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
pub(crate) fn begin_over_fit(worker: &Worker, context: &Context, pass: &str) {
    begin(worker, context, pass, share(worker, context, &context.fit.groups));
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
    let mut pass = 0;
    let pairs = low_rank::leading_pairs(worker, context, &loss, |worker| {
        pass += 1;
        begin_over_fit(worker, context, &format!("eigenpairs {pass}"));
    })?;
    begin_over_fit(worker, context, "curvature");
    let fitted = curvature::curvature(
        worker,
        context,
        population.as_ref(),
        &references,
        &noise,
        pairs.as_ref(),
    )?;
    end(worker, context);
    if fitted.counts.in_sums == 0 {
        return Err(RunError::Refused(format!(
            "no spectrum of {} can be counted in the Hessian: {} are bad, {} lack labels or their errors, {} are held out",
            context.job.catalogue.uri, fitted.counts.bad, fitted.counts.unlabelled, fitted.counts.held_out
        )));
    }
    let state = FitState {
        run_id: context.run_id.clone(),
        population,
        references,
        estimate,
        counts: fitted.counts,
        dual: fitted.dual,
        sums: fitted.sums,
        files: fitted.files,
    };
    if worker.index() == 0 && context.corrected().next().is_some() {
        stage_state::write(context, SUMS, &state)?;
    }
    Ok(state)
}

/// R in label units, `[K, K]`: as given, or as estimated.
fn residual_covariance(context: &Context, estimate: Option<&ScatterEstimate>) -> Result<Vec<f64>, RunError> {
    match (&context.job.noise, estimate) {
        (Noise::Covariance(given), _) => Ok(given.concat()),
        (Noise::Holdout, Some(estimate)) => Ok(estimate.covariance.clone()),
        (Noise::Holdout, None) => Err(RunError::Internal("the residuals' covariance was not estimated".into())),
    }
}

/// The estimate of R from the residuals of held-out spectra; `None` where R is given.
fn noise(context: &Context, held_out: &reference::HeldOut) -> Result<Option<ScatterEstimate>, RunError> {
    if let Noise::Covariance(_) = &context.job.noise {
        return Ok(None);
    }
    let estimate = held_out.stars.noise().map_err(|error| {
        RunError::Refused(format!(
            "no noise from held-out residuals of {}: {error}; name its label columns, raise noise.holdout_fraction, or give \
             noise.covariance",
            context.job.catalogue.uri
        ))
    })?;
    Ok(Some(estimate))
}

fn invert(worker: &mut Worker, context: &Arc<Context>, fit: &FitState) -> Result<InvertState, RunError> {
    context.open_dual(fit);
    let (n_spectra, n_blocks) = (fit.counts.in_sums, context.blocks.len() as u64);
    let state = match context.job.prior {
        Prior::Fixed(_) => {
            let prior = context.prior_choice().ok_or_else(|| unknown_prior(context))?;
            begin(worker, context, "invert", n_blocks);
            invert::inverse(worker, context, n_spectra, prior)?
        }
        Prior::Evidence | Prior::EvidencePerBlock => {
            begin(worker, context, "evidence", n_blocks);
            let factored = invert::factors(worker, context, n_spectra)?;
            let prior = context.choose_by_evidence(&factored.spectra)?;
            begin(worker, context, "invert", n_blocks);
            invert::finish(worker, context, factored, prior)?
        }
        Prior::Holdout => {
            begin(worker, context, "evidence", n_blocks);
            let factored = invert::factors(worker, context, n_spectra)?;
            let grid = holdout_grid(context.evidence_of_all(&factored.spectra)?.prior_precision);
            begin(worker, context, "holdout", share(worker, context, &context.fit.sample));
            let scanned = holdout::scan(worker, context, fit.population.as_ref(), n_spectra, &grid)?;
            context.drop_scans();
            let prior = context.choose_by_holdout(&factored.spectra, &scanned)?;
            begin(worker, context, "invert", n_blocks);
            invert::finish(worker, context, factored, prior)?
        }
    };
    end(worker, context);
    if worker.index() == 0 {
        stage_state::write(context, "invert", &state)?;
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
    context.load_posterior(inverted)?;
    let noise = context.in_normalised_units(residual_covariance(context, fit.estimate.as_ref())?)?;
    let all = share(worker, context, &context.fit.groups);
    begin(worker, context, "subset", all);
    let compared = subset::subset(worker, context, fit, inverted, &noise)?;
    let mut checks = Vec::new();
    if context.job.certificate.full_pass {
        begin(worker, context, "certify", all);
        checks = certify::certify(worker, context, fit.population.as_ref(), &compared.probes, &noise)?;
    }
    end(worker, context);
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
        stage_state::write(context, "certificate", &state)?;
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
    begin(
        worker,
        context,
        "calibrate",
        share(worker, context, &context.fit.sample),
    );
    let calibrated = calibrate::calibrate(worker, context, fit.population.as_ref())?;
    context
        .progress
        .begin("predict", context.predicted().catalogue.n_rows());
    let predicted = predict::predict(worker, context, fit.population.as_ref(), &calibrated, &fit.sums)?;
    end(worker, context);
    Ok((calibrated, predicted))
}

/// Spectra that come to this process's workers, about: all of them alike.
fn share(worker: &Worker, context: &Context, groups: &[Group]) -> u64 {
    let all: u64 = groups.iter().map(Group::n_rows).sum();
    (all * context.workers as u64).div_ceil(worker.peers() as u64)
}

/// Shows that a pass begins; one worker of a process speaks for all.
fn begin(worker: &Worker, context: &Context, pass: &str, of: u64) {
    if speaks(worker, context) {
        context.progress.begin(pass, of);
    }
}

/// Shows that the last pass is over.
pub(crate) fn end(worker: &Worker, context: &Context) {
    if speaks(worker, context) {
        context.progress.end();
    }
}

fn speaks(worker: &Worker, context: &Context) -> bool {
    worker.index().is_multiple_of(context.workers)
}
