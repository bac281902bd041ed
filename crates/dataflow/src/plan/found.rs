//! What a run would find at its output.

use std::time::Duration;

use serde::Serialize;

use crate::context::Context;
use crate::error::RunError;
use crate::run::claim::{has_ended, own_claim};

/// A run that an output holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundRun {
    /// The run.
    pub run_id: String,
    /// Whether it is the planned one: then a run goes on with what it left, or finds it complete. Another's is replaced with `--overwrite` alone.
    pub is_planned: bool,
    /// When it was completed: RFC 3339, UTC; `None`: it is not.
    pub complete: Option<String>,
    /// When the process began that holds it or held it last: RFC 3339, UTC.
    pub started: String,
    /// The machine of that process.
    pub host: String,
}

/// Whose run is there; `None`: nobody's, as what another run claimed and never began is once that is gone, and what is of a line and was never
/// committed.
///
/// # Errors
/// What is there is no run's, so that none could claim the place.
pub(crate) fn found_run(context: &Context) -> Result<Option<FoundRun>, RunError> {
    let Some(held) = context.output.held()? else {
        context.output.check_claimable()?;
        return Ok(None);
    };
    if context.release.is_some() {
        return Ok(None);
    }
    let manifest = held.committed.clone().or(context.output.manifest()?);
    let run_of = manifest.as_ref().map(|manifest| &manifest.run_id);
    let run_id = run_of.unwrap_or(&held.claim.run_id).clone();
    let is_planned = run_id == context.run_id;
    if !is_planned && context.output.is_only_claimed()? && has_ended(context, &held, &own_claim("", Duration::ZERO))? {
        return Ok(None);
    }
    Ok(Some(FoundRun {
        is_planned,
        run_id,
        complete: manifest.map(|manifest| manifest.created),
        started: held.claim.started,
        host: held.claim.host,
    }))
}
