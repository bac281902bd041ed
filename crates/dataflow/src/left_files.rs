//! The files that stages left in the output, with the hashes they were written with: a later stage reads one as it was written, or not at all.
//!
//! A number made of a damaged file would be wrong, and nothing would show it once it is written too.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use fisherflow_store::{Output, WrittenFile};

use crate::error::RunError;
use crate::run::stage_state::Step;

/// The files of earlier stages, by their path in the output; the same for all workers of a process.
#[derive(Debug, Default)]
pub(crate) struct LeftFiles(Mutex<BTreeMap<String, (Step, WrittenFile)>>);

impl LeftFiles {
    /// Takes over what `step` left.
    pub(crate) fn take_over(&self, step: Step, files: &[WrittenFile]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(files.iter().map(|file| (file.path.clone(), (step, file.clone()))));
    }

    /// Looks whether a file is as it was written, before it is read; one that no earlier stage left is the stage's own.
    ///
    /// # Errors
    /// It is not ([`RunError::Damaged`]), or the store cannot be read.
    pub(crate) fn check(&self, output: &Output, path: &str) -> Result<(), RunError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let Some((step, file)) = known else { return Ok(()) };
        if output.damages(&[file])?.is_empty() {
            return Ok(());
        }
        // Where one is damaged others may be: all of them at once, or each costs a run.
        whole(output, step, &self.beside(step, path))
    }

    /// The files that `step` left in the folder of one.
    fn beside(&self, step: Step, path: &str) -> Vec<WrittenFile> {
        let folder = Path::new(path).parent();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let beside = known
            .values()
            .filter(|(by, file)| *by == step && Path::new(&file.path).parent() == folder);
        beside.map(|(_, file)| file.clone()).collect()
    }
}

/// Looks whether files that `step` left are as it wrote them.
///
/// # Errors
/// One is not ([`RunError::Damaged`]), or the store cannot be read.
pub(crate) fn whole(output: &Output, step: Step, files: &[WrittenFile]) -> Result<(), RunError> {
    let damages = output.damages(files)?;
    if damages.is_empty() {
        return Ok(());
    }
    Err(RunError::Damaged {
        output: output.uri().to_owned(),
        step,
        damages,
    })
}
