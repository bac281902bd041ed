//! `releases` and `gc`: what a line has released, and what it holds that no release needs.

use std::time::Duration;

use fisherflow_dataflow::{Interrupt, is_at_work, own_claim};
use fisherflow_store::{Commit, Line, Output, Retention, StoreError, with_causes};
use serde_json::{Value, json};

use super::stores;
use crate::args::GcArgs;
use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Grid, Page, bytes, count};
use crate::resolve::Place;

/// Objects that are listed one by one.
const LISTED: usize = 20;

/// Prints the releases of a line, for people or as JSON.
///
/// # Errors
/// There is no line, or it cannot be read.
pub fn releases(place: &Place, json: bool) -> Result<(), CliError> {
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
    let mut commits = Vec::with_capacity(releases.len());
    for release in releases {
        match line.commit_of(release) {
            Ok(commit) => commits.extend(commit),
            // The others are still there, and still to be read.
            Err(error @ StoreError::BadDocument { .. }) => {
                tracing::warn!(release, "left out of the list: {}", with_causes(&error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if json {
        let told: Vec<Value> = commits.iter().map(|commit| told(&line, commit)).collect();
        return Ok(Page::print_json(
            &json!({ "line": line.uri(), "basis": line.basis_uri(), "releases": told }),
        )?);
    }
    let mut page = Page::new();
    page.facts(&[("line", line.uri().to_owned()), ("basis", line.basis_uri())]);
    page.gap().grid(&listed(&commits));
    Ok(page.print()?)
}

/// A row a release.
fn listed(commits: &[Commit]) -> Grid {
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
    for commit in commits {
        let changes = &commit.changes;
        let known = |groups: fn(u64, u64) -> u64| {
            let computed = changes.computed.map(|computed| groups(changes.groups, computed));
            computed.map_or("-".to_owned(), count)
        };
        grid.row(vec![
            commit.release.to_string(),
            commit.created.clone(),
            commit.run_id.clone(),
            count(commit.spectra),
            count(changes.groups),
            known(|_, computed| computed),
            known(u64::saturating_sub),
            count(changes.added.len() as u64),
            count(changes.replaced.len() as u64),
            count(changes.retracted.len() as u64),
            format!("{:+}", changes.excluded as i64 - changes.no_longer_excluded as i64),
        ]);
    }
    grid
}

/// The same of one release for programs; which objects changed is in the line's `commits/<n>.json`.
fn told(line: &Line, commit: &Commit) -> Value {
    let changes = &commit.changes;
    json!({
        "release": commit.release,
        "uri": line.release_uri(commit.release),
        "created": commit.created,
        "run_id": commit.run_id,
        "spectra": commit.spectra,
        "groups": changes.groups,
        "computed": changes.computed,
        "added": changes.added.len(),
        "replaced": changes.replaced.len(),
        "retracted": changes.retracted.len(),
        "excluded": changes.excluded,
        "no_longer_excluded": changes.no_longer_excluded,
    })
}

/// What `gc` is called in the claims that it makes.
const GC: &str = "gc";
/// Between its signs of life.
const BEAT: Duration = Duration::from_secs(5);

/// Removes what no release of a line needs.
///
/// # Errors
/// There is no line, or it cannot be read or removed from.
pub fn gc(place: &Place, args: &GcArgs, terminal: &Terminal) -> Result<(), CliError> {
    let stores = stores(place)?;
    let line = Line::open(&stores, &place.uri)?;
    if line.basis()?.is_none() {
        return Err(CliError::Refused {
            uri: line.uri().to_owned(),
            problem: "is no line of releases: nothing is removed".to_owned(),
        });
    }
    let found = line.garbage(Retention {
        keep: args.keep,
        grace: Duration::from_secs_f64(args.grace * 3600.0),
    });
    let mut garbage = match found {
        Err(StoreError::BadDocument { uri, source }) => {
            return Err(CliError::Refused {
                problem: format!(
                    "is damaged, or from a newer fisherflow ({source}), and what it names would be removed: nothing is. Put it back from a copy, \
                     or give up what it stands for by deleting it"
                ),
                uri,
            });
        }
        found => found?,
    };
    let own = own_claim(GC, BEAT);
    for release in garbage.abandoned.clone() {
        let output = Output::open(&stores, &line.release_uri(release))?;
        if let Some(held) = output.held()?
            && is_at_work(&output, &held, &own, &Interrupt::default())?
        {
            line.spare(&mut garbage, release);
        }
    }
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
    let of = |objects: u64, size: u64| format!("{} objects, {}", count(objects), bytes(size));
    if args.dry_run {
        facts.push(("to remove", of(garbage.objects.len() as u64, garbage.bytes())));
    } else {
        let removed = line.remove(&garbage, &own)?;
        facts.push(("removed", of(removed.objects, removed.bytes)));
        if !removed.spared.is_empty() {
            let spared = list(&removed.spared);
            facts.push((
                "spared",
                format!("releases {spared}: a run has gone on with them since"),
            ));
        }
        if removed.checkpoints_spared > 0 {
            let spared = count(removed.checkpoints_spared);
            facts.push((
                "checkpoints",
                format!("{spared} objects spared: a run has begun since that may use them"),
            ));
        }
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
    if args.dry_run {
        return Ok(page.print()?);
    }
    page.tell(terminal);
    Ok(())
}
