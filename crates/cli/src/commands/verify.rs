//! `verify`: every file of an output against its manifest.

use fisherflow_store::Output;

use crate::exit_code::CliError;
use crate::printing::{Page, bytes, count};
use crate::resolve::Place;

use super::releases::output_at;
use super::stores;

/// Reads every file again, and prints what is not as the manifest says.
///
/// # Errors
/// The output has no manifest, cannot be read, or is not as its manifest says.
pub fn verify(place: &Place) -> Result<(), CliError> {
    let stores = stores(place)?;
    let output = Output::open(&stores, &output_at(&stores, &place.uri)?)?;
    let found = output.verify()?;
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
        problem: "is not as its manifest says: run it again with --overwrite".to_owned(),
    })
}
