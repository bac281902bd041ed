//! `releases` and `gc`: what a line has released, and what it holds that no release needs.

use std::time::Duration;

use fisherflow_store::{Line, Resolved, Retention, Stores};

use super::stores;
use crate::args::GcArgs;
use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count};
use crate::resolve::Place;

/// Objects that are listed one by one.
const LISTED: usize = 20;

/// The output that a URI means: of a line the last release, or the one named by `@`.
///
/// # Errors
/// The line has no such release.
pub fn output_at(stores: &Stores, uri: &str) -> Result<String, CliError> {
    let Resolved { uri, release } = Line::resolve(stores, uri)?;
    if let Some((line, release)) = release {
        tracing::info!(line, release, "reads");
    }
    Ok(uri)
}

/// Prints the releases of a line.
///
/// # Errors
/// There is no line, or it cannot be read.
pub fn releases(place: &Place) -> Result<(), CliError> {
    let stores = stores(place)?;
    let line = Line::open(&stores, &place.uri)?;
    let releases = line.releases()?;
    if releases.is_empty() {
        let problem = match line.basis()? {
            Some(_) => "has no release yet: finish its first run",
            None => "is no line of releases: write releases = true below [output] uri in the run file",
        };
        return Err(CliError::Refused {
            uri: line.uri().to_owned(),
            problem: problem.to_owned(),
        });
    }
    let mut grid = Grid::new(&[
        "release",
        "committed",
        "run",
        "spectra",
        "groups",
        "computed",
        "reused",
        "added",
        "replaced",
        "retracted",
        "excluded",
    ]);
    for release in releases {
        let Some(commit) = line.commit_of(release)? else {
            continue;
        };
        let changes = &commit.changes;
        let touched = changes.touched.len() as u64;
        grid.row(vec![
            release.to_string(),
            commit.created.clone(),
            commit.run_id.clone(),
            count(commit.spectra),
            count(changes.groups),
            count(touched),
            count(changes.groups.saturating_sub(touched)),
            count(changes.added.len() as u64),
            count(changes.replaced.len() as u64),
            count(changes.retracted.len() as u64),
            format!("{:+}", changes.excluded as i64 - changes.no_longer_excluded as i64),
        ]);
    }
    let mut page = Page::new();
    page.facts(&[("line", line.uri().to_owned()), ("basis", line.basis_uri())]);
    page.gap().grid(&grid);
    Ok(page.print()?)
}

/// Removes what no release of a line needs.
///
/// # Errors
/// There is no line, or it cannot be read or removed from.
pub fn gc(place: &Place, args: &GcArgs) -> Result<(), CliError> {
    let stores = stores(place)?;
    let line = Line::open(&stores, &place.uri)?;
    if line.basis()?.is_none() {
        return Err(CliError::Refused {
            uri: line.uri().to_owned(),
            problem: "is no line of releases: nothing is removed".to_owned(),
        });
    }
    let garbage = line.garbage(Retention {
        keep: args.keep,
        grace: Duration::from_secs_f64(args.grace * 3600.0),
    })?;
    let list = |releases: &[u64]| match releases {
        [] => "none".to_owned(),
        some => some.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut facts = vec![
        ("line", line.uri().to_owned()),
        ("kept", format!("releases {}", list(&garbage.kept))),
        ("expired", format!("releases {}", list(&garbage.expired))),
    ];
    if !garbage.abandoned.is_empty() {
        facts.push(("never committed", format!("releases {}", list(&garbage.abandoned))));
    }
    if !garbage.in_the_making.is_empty() {
        let making = list(&garbage.in_the_making);
        facts.push((
            "in the making",
            format!("release {making}: no checkpoint of a group is removed"),
        ));
    }
    let verb = if args.dry_run { "to remove" } else { "removed" };
    facts.push((
        verb,
        format!(
            "{} objects, {}",
            count(garbage.objects.len() as u64),
            bytes(garbage.bytes())
        ),
    ));
    if !args.dry_run {
        line.remove(&garbage)?;
    }
    let mut page = Page::new();
    page.facts(&facts);
    if args.dry_run && !garbage.objects.is_empty() {
        page.gap();
        for (object, _) in garbage.objects.iter().take(LISTED) {
            page.line(object);
        }
        if garbage.objects.len() > LISTED {
            page.line(format!(
                "... and {} more",
                count((garbage.objects.len() - LISTED) as u64)
            ));
        }
    }
    Ok(page.print()?)
}
