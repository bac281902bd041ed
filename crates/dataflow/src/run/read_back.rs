//! Before the commit: the output's files are read back, for what the store did not keep must never be announced.
//!
//! A file that is not as it was written is removed, and so is what says that its stage is done, with all that was made of it: the same run,
//! started again, makes them anew.

use fisherflow_store::{Damage, Output, WrittenFile};

use crate::context::Context;
use crate::error::RunError;
use crate::run::stage_state::{self, FitState, InvertState, Step};

/// Bytes of an output that a run reads back; of larger ones it looks at the listing, and leaves the rest to `fisherflow verify`.
const READ_BACK: u64 = 1 << 30;

/// Reads the files of an output back, or looks for them where that would take long; whether it read them. `fit` and `invert`: what these
/// stages left.
///
/// # Errors
/// A file is not as it was written, or the store cannot be read.
pub(crate) fn read_back(
    context: &Context,
    files: &[WrittenFile],
    fit: &FitState,
    invert: Option<&InvertState>,
) -> Result<bool, RunError> {
    let (damages, were_read) = compared(&context.output, files)?;
    let Some(first) = damages.first() else {
        return Ok(were_read);
    };
    stage_state::warn_of_what_stays(take_back(context, &damages, fit, invert));
    Err(RunError::NotKept {
        output: context.output.uri().to_owned(),
        first: first.clone(),
        damaged: damages.len(),
        files: files.len(),
    })
}

/// What is wrong with files of the output, and whether they were read for that.
fn compared(output: &Output, files: &[WrittenFile]) -> Result<(Vec<Damage>, bool), RunError> {
    let were_read = files.iter().map(|file| file.bytes).sum::<u64>() <= READ_BACK;
    let damages = if were_read {
        output.damages(files)?
    } else {
        output.listed_damages(files)?
    };
    Ok((damages, were_read))
}

/// Removes damaged files, and what says that their stages are done, with all that was made of them.
fn take_back(
    context: &Context,
    damages: &[Damage],
    fit: &FitState,
    invert: Option<&InvertState>,
) -> Result<(), RunError> {
    context.check_claim()?;
    let is_damaged = |file: &WrittenFile| damages.iter().any(|damage| damage.path == file.path);
    if fit.files.iter().any(is_damaged) {
        stage_state::forget(context, Step::Sums)?;
    } else if invert.is_some_and(|invert| invert.files.iter().any(is_damaged)) {
        stage_state::forget(context, Step::Invert)?;
    }
    for damage in damages {
        context.stores.delete(&context.output.child(&damage.path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fisherflow_store::{StoreOptions, Stores};

    use super::*;

    #[test]
    fn a_listing_tells_of_what_takes_long_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let output = Output::open(&stores, folder.path().to_str().unwrap()).unwrap();
        let small = output.put("posterior/blocks.parquet", vec![1]).unwrap();
        let large = WrittenFile {
            path: "jacobians/part-00000.parquet".to_owned(),
            rows: 0,
            bytes: READ_BACK,
            sha256: String::new(),
        };
        let both = [small.clone(), large];
        let damages = |files: &[WrittenFile]| {
            let (damages, were_read) = compared(&output, files).unwrap();
            let paths: Vec<String> = damages.into_iter().map(|damage| damage.path).collect();
            (paths, were_read)
        };
        assert_eq!(damages(&both), (vec![both[1].path.clone()], false));
        // Of its size, and nothing in it.
        let place = folder.path().join(&both[1].path);
        std::fs::create_dir(place.parent().unwrap()).unwrap();
        std::fs::File::create(&place).unwrap().set_len(READ_BACK).unwrap();
        assert_eq!(damages(&both), (Vec::new(), false));
        output.put(&small.path, vec![2]).unwrap();
        assert_eq!(damages(&both), (Vec::new(), false));
        assert_eq!(damages(std::slice::from_ref(&small)), (vec![small.path.clone()], true));
    }
}
