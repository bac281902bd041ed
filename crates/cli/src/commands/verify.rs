//! `verify`: every file of an output against its manifest, and of a release the manifest against its commit.

use fisherflow_store::{Line, Output, Resolved};

use crate::exit_code::CliError;
use crate::printing::{Page, bytes, count};
use crate::resolve::Place;

use super::{resolved, stores};

/// Reads every file again, and prints what is not as the manifest says.
///
/// # Errors
/// The output has no manifest, cannot be read, or is not as its manifest says.
pub fn verify(place: &Place) -> Result<(), CliError> {
    let stores = stores(place)?;
    let Resolved { uri, release } = resolved(&stores, &place.uri)?;
    let output = Output::open(&stores, &uri)?;
    let found = match &release {
        Some((line, release)) => Line::open(&stores, line)?.verify(*release)?,
        None => output.verify()?,
    };
    let mut page = Page::new();
    for problem in &found.problems {
        page.line(format!("problem: {problem}"));
    }
    page.line(format!(
        "{}: {} of {} files are as the manifest of run {} says, {}",
        output.uri(),
        count(found.files),
        count(found.manifest.files.len() as u64),
        found.manifest.run_id,
        bytes(found.bytes)
    ));
    page.print()?;
    if found.problems.is_empty() {
        return Ok(());
    }
    Err(CliError::Refused {
        uri: output.uri().to_owned(),
        problem: match release {
            _ if found.strangers == found.problems.len() as u64 => {
                "holds tables that no run wrote there, and readers of its folders read them too: remove them; all that the manifest lists is as it \
                 was written"
            }
            None => "is not as its manifest says: run it again with --overwrite",
            Some(_) => {
                "is not as it was committed, and releases never change: put back from a copy what is not as it was, or make the next release, which \
                 of the same inputs needs --overwrite"
            }
        }
        .to_owned(),
    })
}
