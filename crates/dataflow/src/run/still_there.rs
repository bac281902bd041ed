//! Whether a complete output is still there, as far as its listing tells: asked before a run says that there is nothing to do.

use fisherflow_store::{Manifest, Output};

use crate::error::RunError;

/// Refuses an output of which a file is missing or of another size; `remedy`: what brings it back.
pub(crate) fn check(output: &Output, manifest: &Manifest, remedy: &str) -> Result<(), RunError> {
    let damages = output.listed_damages(&manifest.files)?;
    let Some(first) = damages.first() else {
        return Ok(());
    };
    Err(RunError::Refused(format!(
        "{}: {first}: the output of run {} is not as its manifest says ({} of {} files; `fisherflow verify` tells all of it); {remedy}",
        output.uri(),
        manifest.run_id,
        damages.len(),
        manifest.files.len()
    )))
}
