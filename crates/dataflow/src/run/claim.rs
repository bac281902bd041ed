//! How the first process comes to hold the output, and when it refuses to.
//!
//! A holder on this machine is asked of the system: it runs or it does not. One elsewhere is watched for a few of its beats: its signs of
//! life change, or it is given up and followed by the next claim ([`fisherflow_store::Holding`]). A wrong guess costs a run its attempt and
//! never its output: who was followed can commit nothing.

use std::time::{Duration, Instant};

use fisherflow_store::{Claim, Held, Holding, Manifest, Output, SignOfLife, StoreError, now_utc};

use crate::context::Context;
use crate::error::RunError;
use crate::interrupt::Interrupt;
use crate::job::{Cluster, ExistingOutput};
use crate::run::{inputs, release};

/// Beats without a sign of life after which a holder elsewhere is given up.
const SILENT_BEATS: u32 = 3;
/// At most so long between two looks at a holder's signs of life.
const LOOK: Duration = Duration::from_millis(250);

/// What became of a claim.
pub(crate) enum Claimed {
    /// The output is this process's.
    Held {
        /// Its claim.
        holding: Holding,
        /// Whether what is there is to be removed, once all processes of the run are there.
        overwrites: bool,
    },
    /// This very run is complete there.
    Complete(Box<Manifest>),
}

/// Time between two signs of life of a holder.
pub(crate) fn beat(peer_timeout: Duration) -> Duration {
    (peer_timeout / 5).min(Duration::from_secs(5))
}

/// Takes the output for this run; removes nothing yet.
///
/// What an attempt before left of this very run is gone on with, whether or not it is to overwrite: that removes finished outputs, and what is
/// another run's. One whose last steps were cut short is not finished yet.
pub(crate) fn claim(context: &Context, cluster: &Cluster) -> Result<Claimed, RunError> {
    let output = &context.output;
    let own = own_claim(&context.run_id, beat(cluster.peer_timeout));
    let asked = is_asked_to_overwrite(context);
    loop {
        // A place that cannot even be looked at is one that a claim cannot write to, and says so better.
        if let Ok(Some(manifest)) = finished(context) {
            return Ok(Claimed::Complete(manifest));
        }
        let found = output.held();
        let Ok(Some(held)) = found else {
            // Told before it is claimed, and looked at again before anything goes.
            if asked && matches!(finished_by(output), Ok(Some(_))) {
                output.check_removable()?;
            }
            match output.claim(&own, asked)? {
                Some(holding) => {
                    return Ok(Claimed::Held {
                        holding,
                        overwrites: finished_by(output)?.is_some(),
                    });
                }
                None => found?,
            };
            continue;
        };
        let complete = finished_by(output)?;
        // A claim that came to nothing leaves the output to whoever finished it before.
        let is_same = *complete.as_ref().unwrap_or(&held.claim.run_id) == context.run_id;
        // What another run left of a release that it never committed is nobody's: its groups are the line's.
        let may_overwrite = match &context.release {
            None => is_same || asked,
            Some(release) => {
                release.check_open()?;
                true
            }
        };
        // So is a claim under which nothing was begun, as of processes that found unlike catalogues.
        let may_take = || Ok::<_, RunError>(may_overwrite || output.is_only_claimed()?);
        if !may_take()? {
            let is_over = has_ended(context, &held, &own)?;
            return Err(refusal(context, held, is_over)?);
        }
        if let (Some(manifest), true, None) = (&held.committed, is_same, &complete) {
            // Its holder died between its commit and the manifest.
            let lost = output.listed_damages(&manifest.files)?;
            let Some(first) = lost.first() else {
                output.commit(manifest)?;
                return Ok(Claimed::Complete(Box::new(manifest.clone())));
            };
            // It can never count. What is lost is found where it is looked for, as behind any other claim.
            let (output, files) = (output.uri(), lost.len());
            tracing::warn!(
                output,
                files,
                "{first}: lost behind the commit; looked for again, and made anew where it is missed"
            );
        }
        if is_at_work(output, &held, &own, &cluster.interrupt)? {
            return Err(held_by(context, held.claim).into());
        }
        // Its holder may have begun, and ended, while this process looked whether it lives.
        if !may_take()? {
            continue;
        }
        if !is_same || complete.is_some() {
            output.check_removable()?;
        }
        let Some(holding) = output.succeed(&held, &own)? else {
            continue;
        };
        if let Some(manifest) = finished(context)? {
            // Completed while this process looked.
            return Ok(Claimed::Complete(manifest));
        }
        let overwrites = !is_same || finished_by(output)?.is_some();
        if !overwrites {
            tracing::info!(run_id = %context.run_id, output = %output.uri(), claim = holding.generation(), "goes on after the last finished stage");
        }
        return Ok(Claimed::Held { holding, overwrites });
    }
}

/// Takes the place behind a holder that died between an output's manifest and its release, for as long as it takes to release it: what nobody
/// holds may be removed meanwhile. `None` where there is nothing to release, or this run's own holder is at work on it.
pub(crate) fn claim_to_release(context: &Context, cluster: &Cluster) -> Result<Option<Holding>, RunError> {
    let output = &context.output;
    let own = own_claim(&context.run_id, beat(cluster.peer_timeout));
    while context.release.is_some() && !release::is_committed(context)? {
        let holding = match output.held()? {
            None => output.claim(&own, true)?,
            Some(held) if is_at_work(output, &held, &own, &cluster.interrupt)? => {
                let is_own = held.claim.run_id == context.run_id;
                return if is_own {
                    Ok(None)
                } else {
                    Err(held_by(context, held.claim).into())
                };
            }
            Some(held) => output.succeed(&held, &own)?,
        };
        let Some(holding) = holding else { continue };
        if finished(context)?.is_some() {
            return Ok(Some(holding));
        }
        holding.release()?;
        let uri = output.uri();
        return Err(RunError::Interrupted(format!(
            "the removal of {uri}, which was never released"
        )));
    }
    Ok(None)
}

/// Refuses where the holder of an output that is complete is at work on it: it has claimed it to overwrite it.
pub(crate) fn check_idle(context: &Context, cluster: &Cluster) -> Result<(), RunError> {
    let output = &context.output;
    let own = own_claim(&context.run_id, beat(cluster.peer_timeout));
    match output.held()? {
        Some(held) if is_at_work(output, &held, &own, &cluster.interrupt)? => Err(held_by(context, held.claim).into()),
        _ => Ok(()),
    }
}

/// The run that finished what is in an output, nobody's where its manifest cannot be understood; `None` where nothing is finished.
fn finished_by(output: &Output) -> Result<Option<String>, RunError> {
    match output.manifest() {
        Ok(manifest) => Ok(manifest.map(|manifest| manifest.run_id)),
        Err(StoreError::BadDocument { .. }) => Ok(Some(String::new())),
        Err(error) => Err(error.into()),
    }
}

/// Releases never change: what is of this run in the next one is gone on with, what is of another is nobody's.
fn is_asked_to_overwrite(context: &Context) -> bool {
    context.release.is_none() && context.job.existing_output == ExistingOutput::Overwrite
}

/// The manifest, where this very run is already complete in the output and is to stay: then the first process does not wait for the others.
pub(crate) fn finished(context: &Context) -> Result<Option<Box<Manifest>>, RunError> {
    if is_asked_to_overwrite(context) && !is_cut_short(context)? {
        return Ok(None);
    }
    let manifest = context.output.manifest()?;
    Ok(manifest
        .filter(|manifest| manifest.run_id == context.run_id)
        .map(Box::new))
}

/// Whether a process of this very run died behind its commit, and all of it is there: started again with the same arguments, the run ends its
/// last steps, and does not overwrite what it has just done. The commit stays in the log until the last of them.
fn is_cut_short(context: &Context) -> Result<bool, RunError> {
    let held = context.output.held()?;
    let Some(manifest) = held.and_then(|held| held.committed) else {
        return Ok(false);
    };
    Ok(manifest.run_id == context.run_id && context.output.listed_damages(&manifest.files)?.is_empty())
}

/// The manifest of this very run, where it came after `before`: then the output is complete, whatever became of the process that completed it.
pub(crate) fn finished_since(context: &Context, before: Option<&Manifest>) -> Option<Box<Manifest>> {
    let manifest = context.output.manifest().ok().flatten()?;
    let is_new = before.is_none_or(|before| (&before.run_id, &before.created) != (&manifest.run_id, &manifest.created));
    (is_new && manifest.run_id == context.run_id).then(|| Box::new(manifest))
}

/// Why the output cannot be had; `is_over`: its holder is known to be at work no more.
fn refusal(context: &Context, held: Held, is_over: bool) -> Result<RunError, RunError> {
    let output = context.output.uri().to_owned();
    let manifest = held.committed.or(context.output.manifest()?);
    let claim = held.claim;
    let refusal = match &manifest {
        Some(manifest) if manifest.run_id != context.run_id => StoreError::Complete {
            output,
            run_id: manifest.run_id.clone(),
        },
        _ if is_over => StoreError::Unfinished {
            output,
            run_id: claim.run_id,
            started: claim.started,
        },
        _ => held_by(context, claim),
    };
    if matches!(refusal, StoreError::Held { .. }) {
        return Ok(refusal.into());
    }
    Ok(match inputs::difference(context, manifest.as_ref())? {
        Some(difference) => RunError::AnotherRun {
            refusal: Box::new(refusal),
            difference,
        },
        None => refusal.into(),
    })
}

/// The output is in a process's hands.
fn held_by(context: &Context, claim: Claim) -> StoreError {
    StoreError::Held {
        output: context.output.uri().to_owned(),
        claim: Box::new(claim),
    }
}

/// Whether a holder is a process of this machine that runs, other than this one; `None`: it is elsewhere.
fn runs_here(holder: &Claim, own: &Claim) -> Option<bool> {
    let is_here = !holder.machine.is_empty() && holder.machine == own.machine;
    let is_itself = (holder.pid, holder.born) == (own.pid, own.born);
    is_here.then(|| !is_itself && born(&holder.pid.to_string()) == Some(holder.born))
}

/// Whether the process that holds an output runs; `None`: it is on another machine, or in another container.
#[must_use]
pub fn holder_runs(holder: &Claim) -> Option<bool> {
    runs_here(holder, &own_claim("", Duration::ZERO))
}

/// Whether the holder of an output is known to be at work no more, without waiting for its signs of life.
pub(crate) fn has_ended(context: &Context, held: &Held, own: &Claim) -> Result<bool, RunError> {
    match runs_here(&held.claim, own) {
        Some(runs) => Ok(!runs),
        None => Ok(context.output.sign_of_life(held)? == SignOfLife::Released),
    }
}

/// Whether the holder of an output is alive; takes a few of its beats where it is on another machine. `own`: what this process would claim with.
///
/// # Errors
/// The store does not say, or the process was asked to end.
pub fn is_at_work(output: &Output, held: &Held, own: &Claim, interrupt: &Interrupt) -> Result<bool, RunError> {
    let holder = &held.claim;
    if let Some(runs) = runs_here(holder, own) {
        return Ok(runs);
    }
    if holder.beat == 0 {
        // Of an earlier version: nothing is known of it, and the same run may go on with what it left.
        return Ok(false);
    }
    let silence = Duration::from_millis(holder.beat) * SILENT_BEATS;
    tracing::info!(host = %holder.host, pid = holder.pid, started = %holder.started, seconds = silence.as_secs_f64(), "held elsewhere: looks whether its holder lives");
    let first = output.sign_of_life(held)?;
    let started = Instant::now();
    let mut sign = first.clone();
    while sign == first && sign != SignOfLife::Released && started.elapsed() < silence {
        if interrupt.asked().is_some() {
            return Err(RunError::Interrupted(
                "a signal while it looked whether the output's holder lives".into(),
            ));
        }
        std::thread::sleep(LOOK.min(silence / 8));
        sign = output.sign_of_life(held)?;
    }
    Ok(sign != first && sign != SignOfLife::Released)
}

/// The name of this machine.
pub(crate) fn host() -> String {
    said("/proc/sys/kernel/hostname")
}

fn said(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

/// What this process writes into a claim; `beat`: between its signs of life.
#[must_use]
pub fn own_claim(run_id: &str, beat: Duration) -> Claim {
    // Process numbers mean the same to all that share a boot of a kernel and a namespace of them.
    let boot = said("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    Claim {
        run_id: run_id.to_owned(),
        host: host(),
        pid: std::process::id(),
        started: now_utc(),
        machine: if boot.is_empty() {
            boot
        } else {
            format!("{boot} {}", namespace.display())
        },
        born: born("self").unwrap_or_default(),
        beat: u64::try_from(beat.as_millis()).unwrap_or(u64::MAX),
    }
}

/// When a process of this machine began, in ticks since the machine did; `None` where it has ended.
fn born(process: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name stands in brackets and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let born = fields.nth(18)?.parse().ok()?;
    (!["Z", "X"].contains(&state)).then_some(born)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        let own = own_claim("r", Duration::from_secs(5));
        assert_eq!(born(&own.pid.to_string()), Some(own.born));
        assert!(own.born > 0 && own.beat == 5000 && own.machine.contains("pid:["));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = child.id().to_string();
        assert!(born(&id).is_some_and(|born| born >= own.born));
        child.kill().unwrap();
        // Nobody has waited for it yet, and it is dead.
        while born(&id).is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert_eq!(born(&id), None);
    }

    #[test]
    fn a_beat_follows_the_peer_timeout() {
        assert_eq!(beat(Duration::from_secs(1)), Duration::from_millis(200));
        assert_eq!(beat(Duration::from_secs(3600)), Duration::from_secs(5));
    }
}
