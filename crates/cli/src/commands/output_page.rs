//! What an output holds, from its manifest: for `inspect` and `report`.

use fisherflow_store::{Manifest, Output, Resolved, Stores};

use crate::args::ReportArgs;
use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count};
use crate::resolve::Place;

use super::{check_out, findings, resolved, run, status, stores};

/// Prints what a complete output holds, and writes its page of plots: again, but for a release, which never changes.
///
/// # Errors
/// There is no output, it is not complete or cannot be read, or the page's file is there already, would be read as spectra or cannot be written.
pub fn report(place: &Place, args: &ReportArgs) -> Result<(), CliError> {
    let stores = stores(place)?;
    if let Some(out) = &args.out {
        stores.check_new(out, args.overwrite)?;
    }
    let Resolved { uri, release } = resolved(&stores, &place.uri)?;
    if let Some(out) = &args.out {
        check_out(&stores, &uri, out)?;
    }
    let output = Output::open(&stores, &uri)?;
    let manifest = output.complete()?;
    let mut page = committed(&stores, &output, &manifest)?;
    let own = output.child(fisherflow_report::REPORT);
    if args.out.is_none() && release.is_some() && stores.exists(&own)? {
        page.gap().line(format!(
            "report     {own}, as it was released; --out FILE draws it anew"
        ));
        return Ok(page.print()?);
    }
    let html = fisherflow_report::draw(&stores, output.uri())?.html.into_bytes();
    let written = match &args.out {
        Some(out) => stores.write_new(out, html, args.overwrite).map_err(CliError::from),
        None => stores.write(&own, html).map_err(|source| CliError::NoPlaceForReport {
            uri: own.clone(),
            source: Box::new(source),
        }),
    };
    if written.is_ok() {
        page.gap()
            .line(format!("report     {}", args.out.as_ref().unwrap_or(&own)));
    }
    // What the output holds is told wherever its page can or cannot go.
    page.print()?;
    written
}

/// What an output holds; `None` where there is none.
///
/// # Errors
/// It cannot be read.
pub fn page(stores: &Stores, output: &Output) -> Result<Option<Page>, CliError> {
    if let Some(manifest) = output.manifest()? {
        return Ok(Some(committed(stores, output, &manifest)?));
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

/// An output with a manifest, complete or in its commit's last steps.
fn committed(stores: &Stores, output: &Output, manifest: &Manifest) -> Result<Page, CliError> {
    let since = status::open_commit(stores, output)?.unwrap_or_else(|| "complete".to_owned());
    let mut page = Page::new();
    let size: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    page.facts(&[
        (
            "output",
            format!(
                "{} ({since}), {} files, {}",
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
    let mut inputs = Grid::new(&["input", "uri", "objects", "rows", "size", "hash of"]);
    for input in &manifest.inputs {
        let (of, hash) = input.hash();
        inputs.row(vec![
            input.role.clone(),
            input.uri.clone(),
            count(input.objects),
            count(input.rows),
            bytes(input.bytes),
            format!("{of} {}", hash.chars().take(12).collect::<String>()),
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
    findings::of_manifest(output.uri(), manifest, &mut page);
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
    Ok(page)
}
