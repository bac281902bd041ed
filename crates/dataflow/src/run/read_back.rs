//! Before the commit: the output's files are read back, for what the store did not keep must never be announced.
//!
//! A file that is not as it was written is removed, and so is what says that its stage is done, with all that was made of it: the same run,
//! started again, makes them anew.

use fisherflow_store::WrittenFile;

use crate::context::Context;
use crate::error::RunError;
use crate::run::stage_state::{self, FitState, InvertState, Step};

/// Bytes of an output that a run reads back; larger ones are left to `fisherflow verify`.
const READ_BACK: u64 = 1 << 30;

/// Reads the files of an output back, unless that would take long; whether it did. `fit` and `invert`: what these stages left.
///
/// # Errors
/// A file is not as it was written, or the store cannot be read.
pub(crate) fn read_back(
    context: &Context,
    files: &[WrittenFile],
    fit: &FitState,
    invert: Option<&InvertState>,
) -> Result<bool, RunError> {
    if files.iter().map(|file| file.bytes).sum::<u64>() > READ_BACK {
        return Ok(false);
    }
    let damages = context.output.damages(files)?;
    let Some(first) = damages.first() else {
        return Ok(true);
    };
    context.check_claim()?;
    let is_damaged = |file: &WrittenFile| damages.iter().any(|damage| damage.path == file.path);
    if fit.files.iter().any(is_damaged) {
        stage_state::forget(context, Step::Sums)?;
    } else if invert.is_some_and(|invert| invert.files.iter().any(is_damaged)) {
        stage_state::forget(context, Step::Invert)?;
    }
    for damage in &damages {
        context.stores.delete(&context.output.child(&damage.path))?;
    }
    Err(RunError::Refused(format!(
        "{}: {first}: the store did not keep what was written ({} of {} files), and nothing is committed: look at the store and run again, which \
         makes them anew",
        context.output.uri(),
        damages.len(),
        files.len()
    )))
}
