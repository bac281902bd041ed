//! The files that stages left in the output, with the hashes they were written with: a later stage reads one as it was written, or not at all.
//!
//! A number made of a damaged file would be wrong, and nothing would show it once it is written too.

use std::collections::BTreeMap;
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
        match known {
            Some((step, file)) => whole(output, step, &[file]),
            None => Ok(()),
        }
    }
}

/// Looks whether files that `step` left are as it wrote them.
///
/// # Errors
/// One is not ([`RunError::Damaged`]), or the store cannot be read.
pub(crate) fn whole(output: &Output, step: Step, files: &[WrittenFile]) -> Result<(), RunError> {
    match output.damages(files)?.into_iter().next() {
        None => Ok(()),
        Some(damage) => Err(RunError::Damaged {
            output: output.uri().to_owned(),
            step,
            damage,
        }),
    }
}
