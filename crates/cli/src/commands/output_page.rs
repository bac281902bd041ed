//! What an output holds, from its manifest: for `inspect` and `report`.

use fisherflow_store::{Manifest, Output};

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count};
use crate::resolve::Place;

use super::findings::Findings;
use super::releases::output_at;
use super::{run, stores};

/// Writes the page of plots of a complete output again, and prints what it holds.
///
/// # Errors
/// There is no output, it is not complete, or cannot be read.
pub fn report(place: &Place) -> Result<(), CliError> {
    let stores = stores(place)?;
    let output = Output::open(&stores, &output_at(&stores, &place.uri)?)?;
    let manifest = output.manifest()?.ok_or_else(|| CliError::Refused {
        uri: output.uri().to_owned(),
        problem: "holds no complete output: finish its run first".to_owned(),
    })?;
    let report = fisherflow_report::write(&stores, output.uri())?;
    let mut page = complete(&output, &manifest);
    page.gap().line(format!("report     {}", report.uri));
    Ok(page.print()?)
}

/// What an output holds; `None` where there is none.
///
/// # Errors
/// It cannot be read.
pub fn page(output: &Output) -> Result<Option<Page>, CliError> {
    if let Some(manifest) = output.manifest()? {
        return Ok(Some(complete(output, &manifest)));
    }
    Ok(output.holder()?.map(|claim| {
        let mut page = Page::new();
        page.facts(&[
            ("output", format!("{} (not complete)", output.uri())),
            ("run", claim.run_id),
            (
                "held by",
                format!("process {} on {} since {}", claim.pid, claim.host, claim.started),
            ),
        ]);
        page
    }))
}

/// A committed output.
fn complete(output: &Output, manifest: &Manifest) -> Page {
    let mut page = Page::new();
    let size: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    page.facts(&[
        (
            "output",
            format!(
                "{} (complete), {} files, {}",
                output.uri(),
                count(manifest.files.len() as u64),
                bytes(size)
            ),
        ),
        ("run", manifest.run_id.clone()),
        (
            "written",
            format!("{} by fisherflow {}", manifest.created, manifest.fisherflow),
        ),
    ]);
    let mut inputs = Grid::new(&["input", "uri", "objects", "rows", "size", "sha256"]);
    for input in &manifest.inputs {
        inputs.row(vec![
            input.role.clone(),
            input.uri.clone(),
            count(input.objects),
            count(input.rows),
            bytes(input.bytes),
            input.sha256.chars().take(12).collect(),
        ]);
    }
    page.gap().grid(&inputs);
    if !manifest.counts.is_empty() {
        let mut counts = Grid::new(&["count", "of"]);
        for (name, n) in &manifest.counts {
            counts.row(vec![count(*n), name.replace('_', " ")]);
        }
        page.gap().grid(&counts);
    }
    Findings::of_manifest(manifest).print_to(&mut page);
    page.gap().grid(&run::files(&manifest.files));
    let skipped = manifest.inputs.iter().flat_map(|input| &input.skipped);
    let mut notes = manifest.notes.clone();
    for object in skipped {
        let note = format!("object left out: {}: {}", object.object, object.reason);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    if !notes.is_empty() {
        page.gap();
        for note in notes {
            page.line(format!("note: {note}"));
        }
    }
    page
}
