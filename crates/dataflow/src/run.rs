//! A run from claim to manifest.

pub(crate) mod claim;
pub(crate) mod claim_keeper;
pub(crate) mod inputs;
pub(crate) mod manifest;
pub(crate) mod membership;
pub(crate) mod notes;
pub(crate) mod prior_choice;
pub(crate) mod prior_facts;
pub(crate) mod read_back;
pub(crate) mod release;
pub(crate) mod stage_state;
pub(crate) mod stages;
pub(crate) mod still_there;
pub(crate) mod summary;

use std::sync::Arc;
use std::time::Instant;

use fisherflow_store::{Holding, Manifest, Output, with_causes};

use crate::cluster;
use crate::cluster::whereabouts::Whereabouts;
use crate::context::Context;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::files;
use crate::job::{Cluster, Job, Stage};
use crate::passes::reached;
use crate::progress::meter::Meter;
use crate::progress::status::StatusWriter;
use crate::run::claim::Claimed;
use crate::run::claim_keeper::ClaimKeeper;
use crate::run::manifest::manifest;
use crate::run::stages::Found;
use crate::run::summary::RunSummary;

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
/// Whatever ended it; [`RunError::exit_code`] says with which code the process should end. After an error the process must exit: a worker may be
/// left in the middle of something, and the other processes of a cluster learn of it by that.
pub fn run(job: Arc<Job>, stage: Stage, cluster: &Cluster, progress: Arc<Meter>) -> Result<Outcome, RunError> {
    let started = Instant::now();
    let makes_release = job.releases;
    let context = Context::open(job, (cluster.processes, cluster.workers), progress)
        .map_err(|error| error.of_run(makes_release))?;
    let context = Arc::new(context);
    tracing::info!(run_id = %context.run_id, output = %context.output.uri(), "inputs are open");
    context.differentiating()?;
    context.faults.arm(&cluster.fail_points);
    context.faults.pass(FailPoint::Opened);
    if cluster.process == 0
        && let Err(error) = tidy_up_before(&context)
    {
        // Nothing that is asked for needs it gone.
        tracing::warn!(
            "what the last release's run left behind its commit stays: {}",
            with_causes(&error)
        );
    }
    if let Some(manifest) = release::of_same_inputs(&context)? {
        return Ok(Outcome::AlreadyComplete(manifest));
    }
    if cluster.process > 0 {
        return beside_the_first(&context, stage, cluster, started);
    }
    let (holding, overwrites) = match claim::claim(&context, cluster)? {
        Claimed::Held { holding, overwrites } => (holding, overwrites),
        Claimed::Complete(manifest) => {
            end_of_complete(&context, cluster, &manifest)?;
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
    let summary = work(&context, stage, cluster, overwriting, |found, status| {
        conclude(&context, stage, &found, Some((&mut keeper, status)), started)
    });
    match summary {
        Ok(summary) if summary.complete => Ok(Outcome::Done(Box::new(summary))),
        other => {
            keeper.release()?;
            other.map(|summary| Outcome::Done(Box::new(summary)))
        }
    }
}

/// A stage in any process but the first, which holds the output.
fn beside_the_first(
    context: &Arc<Context>,
    stage: Stage,
    cluster: &Cluster,
    started: Instant,
) -> Result<Outcome, RunError> {
    let before = context.output.manifest();
    if let Some(manifest) = claim::finished(context)? {
        still_there::check(&context.output, &manifest, &to_repair(context)?)?;
        return Ok(Outcome::AlreadyComplete(manifest));
    }
    let done = work(context, stage, cluster, None, |found, _| {
        conclude(context, stage, &found, None, started)
    });
    // The first process may have ended well, and its word of it been lost.
    if let (Err(RunError::PeerLost(_) | RunError::NotFormed(_)), Ok(before)) = (&done, &before)
        && let Some(manifest) = claim::finished_since(context, before.as_ref())
    {
        return Ok(Outcome::AlreadyComplete(manifest));
    }
    done.map(|summary| Outcome::Done(Box::new(summary)))
}

/// The last steps of a run that is complete, which may have been cut short: its mark, its release, and what is to be tidied up behind it.
fn end_of_complete(context: &Arc<Context>, cluster: &Cluster, manifest: &Manifest) -> Result<(), RunError> {
    // Another run may wait for its processes, to overwrite it then.
    let is_free = || -> Result<bool, RunError> {
        let held = context.output.held()?;
        Ok(held.is_none_or(|held| held.generation == 1 || held.committed.is_some()))
    };
    // Some are still to come; or else the other has begun to remove it.
    if !context.output.is_marked()? {
        if !is_free()? {
            claim::check_idle(context, cluster)?;
        }
        still_there::check(&context.output, manifest, &to_repair(context)?)?;
        context.output.commit(manifest)?;
    }
    if release_again(context, cluster, manifest)? || is_free()? {
        tidy_up(context, &context.output, &context.run_id)?;
    }
    Ok(())
}

/// What brings a damaged output back: of a release that is complete and not committed, its removal, for no run overwrites one.
fn to_repair(context: &Context) -> Result<String, RunError> {
    Ok(match &context.release {
        None => "run again with --overwrite".to_owned(),
        Some(release) if release::is_committed(context)? => release::to_repair_committed(release.number + 1),
        Some(release) => format!("no reader has seen it: remove {} and run again", release.uri()),
    })
}

/// Releases what is complete and was not released; whether it had to be claimed for that.
fn release_again(context: &Arc<Context>, cluster: &Cluster, manifest: &Manifest) -> Result<bool, RunError> {
    let released = || {
        still_there::check(&context.output, manifest, &to_repair(context)?)?;
        release::commit_again(context)
    };
    let Some(holding) = claim::claim_to_release(context, cluster)? else {
        return released().map(|()| false);
    };
    let mut keeper = ClaimKeeper::start(holding, claim::beat(cluster.peer_timeout), &context.faults)?;
    context.faults.pass(FailPoint::Claimed);
    match released() {
        Ok(()) => {
            context.faults.pass(FailPoint::Released);
            keeper.rest();
            Ok(true)
        }
        Err(error) => {
            keeper.release()?;
            Err(error)
        }
    }
}

/// The stages, on this process's workers together with those of the others, and what `conclude` makes of them: the first process's is the
/// commit, which the others wait for, and which ends the status that it is given. `overwriting`: the claim of an output that holds what is to
/// go, as soon as all of them are there.
fn work<T>(
    context: &Arc<Context>,
    stage: Stage,
    cluster: &Cluster,
    overwriting: Option<Holding>,
    conclude: impl FnOnce(Found, &mut Option<StatusWriter>) -> Result<T, RunError>,
) -> Result<T, RunError> {
    let working = Arc::clone(context);
    let identity = format!("{} {stage:?} {}", context.run_id, context.agreement());
    let terms = context.terms(identity, stage.name());
    let whereabouts = Whereabouts::new(cluster, context.output.rendezvous(&context.run_id));
    let mut status = (cluster.process == 0)
        .then(|| StatusWriter::start(&context.progress, &context.output, stage, &claim::host()))
        .transpose()?;
    let (ending, deadline) = (&mut status, cluster.deadline);
    let concluded = cluster::execute(
        cluster,
        &terms,
        &whereabouts,
        &context.faults,
        &context.progress,
        move |worker| {
            // What is there goes only for a run that can end.
            reached::output(worker, &working, deadline)?;
            reached::scratch(worker, &working, deadline)?;
            if worker.index() == 0 {
                // No worker comes past its next agreement with this one before.
                overwriting.as_ref().map_or(Ok(()), Holding::clear)?;
                inputs::note(&working)?;
                working.faults.pass(FailPoint::Begun);
            }
            stages::work(worker, &working, stage)
        },
        |found| conclude(found, ending),
    );
    if let Some(status) = status {
        status.end(concluded.as_ref().err());
    }
    if let Some((step, damages)) = concluded.as_ref().err().and_then(RunError::damaged) {
        stage_state::warn_of_what_stays(stage_state::forget_damaged(context, step, damages));
    }
    concluded
}

/// What the stages found, summed up; in the first process, which holds the output and tells how far the run is, committed where the error bars
/// are all there.
fn conclude(
    context: &Context,
    stage: Stage,
    found: &Found,
    first: Option<(&mut ClaimKeeper, &mut Option<StatusWriter>)>,
    started: Instant,
) -> Result<RunSummary, RunError> {
    let mut summary = RunSummary::of(context, stage, found)?;
    if let Some((keeper, status)) = first {
        summary.release = release::changes(context, context.excluded(), found.fit.computed)
            .zip(context.release.as_ref())
            .map(|(changes, release)| (release.number, changes));
        if found.predict.is_some() {
            write_tables(context, &mut summary)?;
            commit(context, found, &mut summary, keeper, status)?;
        }
        end(status);
    }
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// The small tables of the output.
fn write_tables(context: &Context, summary: &mut RunSummary) -> Result<(), RunError> {
    // Whoever was followed would write them over the other's.
    context.check_claim()?;
    let certificate = summary.certificate.as_ref();
    let mut written = vec![files::write_blocks(context, &summary.blocks, certificate)?];
    if let Some(certificate) = certificate {
        written.push(files::write_certificate(context, certificate)?);
    }
    if let Some(choice) = context.prior_choice() {
        if !choice.evidence.is_empty() {
            written.push(files::write_evidence(context, &choice.evidence)?);
        }
        if let Some(holdout) = &choice.holdout {
            written.push(files::write_holdout(context, holdout)?);
        }
    }
    if !summary.intrinsic_cells.is_empty() {
        let (cells, all) = (&summary.intrinsic_cells, summary.intrinsic.as_ref());
        written.push(files::write_intrinsic(context, cells, all)?);
    }
    summary.files.extend(written);
    summary.files.sort();
    Ok(())
}

/// The last word of a run that did what was asked for.
fn end(status: &mut Option<StatusWriter>) {
    if let Some(status) = status.take() {
        status.end(None);
    }
}

/// Makes the output count.
fn commit(
    context: &Context,
    found: &Found,
    summary: &mut RunSummary,
    keeper: &mut ClaimKeeper,
    status: &mut Option<StatusWriter>,
) -> Result<(), RunError> {
    context.faults.pass(FailPoint::BeforeManifest);
    summary.read_back = read_back::read_back(context, &summary.files, &found.fit, found.invert.as_ref())?;
    let manifest = manifest(context, summary)?;
    keeper.holding().commit(&manifest)?;
    context.faults.pass(FailPoint::Sealed);
    // Committing deletes what the manifest does not list, and tidying up the claims: of an output that is another's by now neither may.
    keeper.holding().check()?;
    context.output.commit(&manifest)?;
    context.faults.pass(FailPoint::Committed);
    release::commit(context, context.excluded(), &found.fit)?;
    context.faults.pass(FailPoint::Released);
    keeper.holding().check()?;
    // Before the stages go, which it is written to.
    end(status);
    // Of thousands of objects: signs of life go on for as long as that takes.
    clear_scratch(context, &context.run_id)?;
    context.output.clear_stages()?;
    keeper.rest();
    keeper.holding().check()?;
    tidy_up(context, &context.output, &context.run_id)?;
    context.faults.pass(FailPoint::Cleared);
    summary.complete = true;
    Ok(())
}

/// What is left to do once a run's output is complete: also for a process before this one, that died in between.
fn tidy_up(context: &Context, output: &Output, run_id: &str) -> Result<(), RunError> {
    clear_scratch(context, run_id)?;
    Ok(output.clear_working_files()?)
}

fn clear_scratch(context: &Context, run_id: &str) -> Result<(), RunError> {
    if let (Some(scratch), Some(_)) = (context.scratch_outside(run_id), context.dual_plan()) {
        context.stores.delete_prefix(&scratch)?;
    }
    Ok(())
}

/// The same for the release before, whose process may have died behind its commit.
fn tidy_up_before(context: &Context) -> Result<(), RunError> {
    match release::cut_short(context)? {
        Some((output, run_id)) => tidy_up(context, &output, &run_id),
        None => Ok(()),
    }
}
