//! The stages of a run, in order, on every worker: each goes on from what the one before left in the output.

use std::sync::Arc;

use fisherflow_posterior::{Certificate, ScatterEstimate};
use fisherflow_spectra::Group;
use timely::worker::Worker;

use crate::context::Context;
use crate::error::RunError;
use crate::job::{Noise, Prior, Stage};
use crate::passes::predict::Predicted;
use crate::passes::{agree, calibrate, certify, curvature, invert, population, predict, reference, subset};
use crate::stage_state::{self, CertificateState, FitState, InvertState};

/// What the stages that ran found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) fit: FitState,
    pub(crate) invert: Option<InvertState>,
    /// `None` where nothing was to be checked.
    pub(crate) certificate: Option<Certificate>,
    /// C_intrinsic's estimate, where held-out spectra have labels, and the predictions.
    pub(crate) predict: Option<(Option<ScatterEstimate>, Predicted)>,
}

/// Runs `stage` on this worker, together with all others.
pub(crate) fn work(worker: &mut Worker, context: &Arc<Context>, stage: Stage) -> Result<Found, RunError> {
    let fitted = agree::left_by(worker, context, "fit")?;
    let fit = match (stage, fitted) {
        (Stage::Run, Some(fitted)) => fitted,
        (Stage::Invert | Stage::Predict, fitted) => fitted.ok_or_else(|| missing(context, "fit"))?,
        (Stage::Run | Stage::Fit, _) => fit(worker, context)?,
    };
    if stage == Stage::Fit {
        return Ok(Found {
            fit,
            invert: None,
            certificate: None,
            predict: None,
        });
    }
    let inverted = agree::left_by(worker, context, "invert")?;
    let inverted = match (stage, inverted) {
        (Stage::Run, Some(inverted)) => inverted,
        (Stage::Predict, inverted) => inverted.ok_or_else(|| missing(context, "invert"))?,
        _ => invert(worker, context, &fit)?,
    };
    context.take_over_evidence(&inverted);
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
        });
    }
    let predicted = predict(worker, context, &fit, &inverted)?;
    Ok(Found {
        fit,
        invert: Some(inverted),
        certificate,
        predict: Some(predicted),
    })
}

fn missing(context: &Context, stage: &str) -> RunError {
    RunError::Refused(format!(
        "{} holds no `{stage}` of this run ({}): run `fisherflow {stage}` with the same run file first, or `fisherflow run`",
        context.output.uri(),
        context.run_id
    ))
}

/// Noise, references and curvature sums.
fn fit(worker: &mut Worker, context: &Arc<Context>) -> Result<FitState, RunError> {
    let sample = share(worker, context, &context.fit.sample);
    begin(worker, context, "population", sample);
    let population = population::population(worker, context)?;
    begin(worker, context, "reference", sample);
    let held_out = reference::reference(worker, context, population.as_ref())?;
    let (noise, estimate) = noise(context, &held_out)?;
    let references = held_out.references.finish()?;
    let normalised = context.in_normalised_units(noise)?;
    begin(
        worker,
        context,
        "curvature",
        share(worker, context, &context.fit.groups),
    );
    let fitted = curvature::curvature(worker, context, population.as_ref(), &references, &normalised)?;
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
        files: fitted.files,
    };
    if worker.index() == 0 {
        stage_state::write(context, "fit", &state)?;
    }
    Ok(state)
}

/// R in label units, `[K, K]`: as given, or estimated from the residuals of held-out spectra.
fn noise(context: &Context, held_out: &reference::HeldOut) -> Result<(Vec<f64>, Option<ScatterEstimate>), RunError> {
    if let Noise::Covariance(given) = &context.job.noise {
        return Ok((given.concat(), None));
    }
    let estimate = held_out.stars.noise().map_err(|error| {
        RunError::Refused(format!(
            "no noise from held-out residuals of {}: {error}; name its label columns, raise noise.holdout_fraction, or give \
             noise.covariance",
            context.job.catalogue.uri
        ))
    })?;
    Ok((estimate.covariance.clone(), Some(estimate)))
}

fn invert(worker: &mut Worker, context: &Arc<Context>, fit: &FitState) -> Result<InvertState, RunError> {
    let (n_spectra, n_blocks) = (fit.counts.in_sums, context.blocks.len() as u64);
    let state = match context.job.prior {
        Prior::Fixed(precision) => {
            begin(worker, context, "invert", n_blocks);
            invert::inverse(worker, context, n_spectra, precision)?
        }
        Prior::Evidence => {
            begin(worker, context, "evidence", n_blocks);
            let factored = invert::factors(worker, context, n_spectra)?;
            let evidence = context.maximise_evidence(&factored.spectra)?;
            begin(worker, context, "invert", n_blocks);
            invert::finish(worker, context, factored, evidence)?
        }
    };
    end(worker, context);
    if worker.index() == 0 {
        stage_state::write(context, "invert", &state)?;
    }
    Ok(state)
}

/// How far the error bars may be trusted.
fn certificate(
    worker: &mut Worker,
    context: &Arc<Context>,
    fit: &FitState,
    inverted: &InvertState,
) -> Result<Certificate, RunError> {
    context.load_posterior(inverted)?;
    let noise = match (&context.job.noise, &fit.estimate) {
        (Noise::Covariance(given), _) => given.concat(),
        (Noise::Holdout, Some(estimate)) => estimate.covariance.clone(),
        (Noise::Holdout, None) => return Err(missing(context, "fit")),
    };
    let noise = context.in_normalised_units(noise)?;
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
) -> Result<(Option<ScatterEstimate>, Predicted), RunError> {
    context.load_posterior(inverted)?;
    begin(
        worker,
        context,
        "calibrate",
        share(worker, context, &context.fit.sample),
    );
    let held_out = calibrate::calibrate(worker, context, fit.population.as_ref())?;
    let intrinsic = (held_out.n_spectra() > 0).then(|| held_out.intrinsic()).transpose()?;
    let k = context.network.n_labels();
    let covariance = intrinsic
        .as_ref()
        .map_or_else(|| vec![0.0; k * k], |intrinsic| intrinsic.covariance.clone());
    context
        .progress
        .begin("predict", context.predicted().catalogue.n_rows());
    let predicted = predict::predict(worker, context, fit.population.as_ref(), &covariance)?;
    end(worker, context);
    Ok((intrinsic, predicted))
}

/// Spectra of the groups that come to this process's workers.
fn share(worker: &Worker, context: &Context, groups: &[Group]) -> u64 {
    let process = |worker: usize| worker / context.workers;
    let owner = |group: &Group| (group.index % worker.peers() as u64) as usize;
    groups
        .iter()
        .filter(|group| process(owner(group)) == process(worker.index()))
        .map(Group::n_rows)
        .sum()
}

/// Shows that a pass begins; one worker of a process speaks for all.
fn begin(worker: &Worker, context: &Context, pass: &str, of: u64) {
    if speaks(worker, context) {
        context.progress.begin(pass, of);
    }
}

/// Shows that the last pass is over.
fn end(worker: &Worker, context: &Context) {
    if speaks(worker, context) {
        context.progress.end();
    }
}

fn speaks(worker: &Worker, context: &Context) -> bool {
    worker.index().is_multiple_of(context.workers)
}
