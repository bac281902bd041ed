//! What a line holds and no release needs any more: what gets removed, and what never is.
//!
//! Kept: every object of a kept release, the checkpoints and ids that its commit names, the basis, and whatever is younger than the grace.
//! What a run that died behind its commit had still to remove of its release (`stages/`, `claims/`) goes once all of the release is as old.
//! While a release is in the making no checkpoint is removed: it may be about to be named. What is none of a line's own is never touched.
//! On a disk the half-written checkpoints of killed processes go as well, which no listing shows.
//!
//! Removing takes long, and a run may go on with what looked abandoned. So a release that nobody committed is claimed before it goes, as a run would
//! claim it, and only if nothing in it has changed; and before each few checkpoints go it is looked whether the next release has a claim.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use fisherflow_spectra::ObjectVersion;
use serde::Deserialize;

use crate::groups::store::DONE;
use crate::line::{COMMITS, GROUPS, RELEASES};
use crate::objects::stores::REQUESTS;
use crate::output::claim::CLAIMS;
use crate::output::{CLAIM, MANIFEST, RENDEZVOUS, STAGES, SUCCESS};
use crate::{Claim, Commit, Holding, Line, Output, StoreError};

/// How much of a line is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The last so many releases; none: all.
    pub keep: Option<usize>,
    /// Nothing younger is removed.
    pub grace: Duration,
}

/// What a line holds beyond what is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Releases that stay.
    pub kept: Vec<u64>,
    /// Releases that go.
    pub expired: Vec<u64>,
    /// Releases that a run began and never committed: they go.
    pub abandoned: Vec<u64>,
    /// Releases in the making.
    pub in_the_making: Vec<u64>,
    /// Objects that go, with their bytes, in the order in which they go.
    pub objects: Vec<(String, u64)>,
    /// When the line was listed; `None`: never.
    listed: Option<SystemTime>,
    /// Nothing younger is removed.
    grace: Duration,
    /// What was in the abandoned releases then, and how old it was.
    of_abandoned: BTreeMap<u64, Vec<(ObjectVersion, Duration)>>,
}

/// What was removed of what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Releases that seemed abandoned, and that a run has gone on with since: they stay.
    pub spared: Vec<u64>,
    /// Checkpoints and ids that stay, for a run has begun since that may use them.
    pub checkpoints_spared: u64,
}

/// Times between two signs of life of whoever removes: a few deletions.
const BEAT: Duration = Duration::from_secs(1);

/// What an object of a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part<'p> {
    Commit(u64),
    OfRelease(u64),
    /// The ids of a group, by its membership.
    Ids(&'p str),
    /// Something of a group's checkpoint, by its pass and name.
    Checkpoint(String),
    Other,
}

impl Garbage {
    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Line {
    /// Finds what may go; removes nothing.
    ///
    /// # Errors
    /// The store cannot be listed, or a commit cannot be understood.
    pub fn garbage(&self, retention: Retention) -> Result<Garbage, StoreError> {
        let start = format!("{}/", self.uri());
        let now = SystemTime::now();
        let listed = self.stores().list_with_age(self.uri(), now)?;
        let objects: Vec<(&str, u64, bool)> = listed
            .iter()
            .filter_map(|(object, age)| Some((object.path.strip_prefix(&start)?, object.size, *age > retention.grace)))
            .collect();

        let mut commits: BTreeMap<u64, bool> = BTreeMap::new();
        let (mut begun, mut fresh): (BTreeSet<u64>, BTreeSet<u64>) = Default::default();
        for &(path, _, old) in &objects {
            match part_of(path) {
                Part::Commit(release) => drop(commits.insert(release, old)),
                Part::OfRelease(release) => {
                    begun.insert(release);
                    if !old {
                        fresh.insert(release);
                    }
                }
                _ => {}
            }
        }
        let keep = retention.keep.map_or(usize::MAX, |keep| keep.max(1));
        let surplus = commits.len().saturating_sub(keep);
        let expired: Vec<u64> = commits
            .iter()
            .take(surplus)
            .filter(|&(_, &old)| old)
            .map(|(&release, _)| release)
            .collect();
        let kept: Vec<u64> = commits
            .keys()
            .copied()
            .filter(|release| !expired.contains(release))
            .collect();
        begun.retain(|release| !commits.contains_key(release));
        let (in_the_making, abandoned): (Vec<u64>, Vec<u64>) =
            begun.into_iter().partition(|release| fresh.contains(release));

        let (mut checkpoints, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for &release in &kept {
            let Some(commit) = self.commit_of(release)? else {
                continue;
            };
            named_by(&commit, &mut checkpoints, &mut ids);
        }
        let numbers = if in_the_making.is_empty() {
            self.numbers_of(&checkpoints)?
        } else {
            BTreeSet::new()
        };
        let mut of_abandoned: BTreeMap<u64, Vec<(ObjectVersion, Duration)>> = BTreeMap::new();
        for (object, age) in &listed {
            if let Some(Part::OfRelease(release)) = object.path.strip_prefix(&start).map(part_of)
                && abandoned.contains(&release)
            {
                let of_release = of_abandoned.entry(release).or_default();
                of_release.push((object.clone(), *age));
            }
        }
        let mut found = Vec::new();
        for (path, bytes, _) in objects.into_iter().filter(|&(_, _, old)| old) {
            let goes = match part_of(path) {
                Part::Commit(release) => expired.contains(&release),
                Part::OfRelease(release) => {
                    expired.contains(&release)
                        || abandoned.contains(&release)
                        || (is_working_file(path) && !fresh.contains(&release))
                }
                Part::Ids(membership) => in_the_making.is_empty() && !ids.contains(membership),
                Part::Checkpoint(name) => {
                    in_the_making.is_empty()
                        && (!checkpoints.contains(&name) || !(path.ends_with(DONE) || numbers.contains(path)))
                }
                Part::Other => false,
            };
            if goes {
                found.push((format!("{start}{path}"), bytes));
            }
        }
        found.sort_by_key(|(path, _)| path.strip_prefix(&start).map(turn_of));
        Ok(Garbage {
            kept,
            expired,
            abandoned,
            in_the_making,
            objects: found,
            listed: Some(now),
            grace: retention.grace,
            of_abandoned,
        })
    }

    /// Leaves a release that seemed abandoned to the run that is at work on it, and with it all checkpoints.
    pub fn spare(&self, garbage: &mut Garbage, release: u64) {
        garbage.abandoned.retain(|&other| other != release);
        garbage.in_the_making.push(release);
        let start = format!("{}/", self.uri());
        garbage
            .objects
            .retain(|(object, _)| match object.strip_prefix(&start).map(part_of) {
                Some(Part::OfRelease(of)) => of != release,
                Some(Part::Ids(_) | Part::Checkpoint(_)) => false,
                _ => true,
            });
    }

    /// Removes what was found, but what a run has begun to use since; `own`: what this process writes into a claim.
    ///
    /// # Errors
    /// The store does not let us.
    pub fn remove(&self, garbage: &Garbage, own: &Claim) -> Result<Removed, StoreError> {
        let start = format!("{}/", self.uri());
        let mut removed = Removed::default();
        let mut of_releases: BTreeMap<u64, Vec<&(String, u64)>> = BTreeMap::new();
        let (mut of_groups, mut of_kept) = (Vec::new(), BTreeSet::new());
        for object in &garbage.objects {
            match object.0.strip_prefix(&start).map(part_of) {
                Some(Part::OfRelease(release)) if garbage.abandoned.contains(&release) => {
                    of_releases.entry(release).or_default().push(object);
                }
                Some(Part::OfRelease(release)) if garbage.kept.contains(&release) => {
                    of_kept.insert(release);
                    removed.objects += 1;
                    removed.bytes += object.1;
                }
                Some(Part::Ids(_) | Part::Checkpoint(_)) => of_groups.push(object),
                _ => self.remove_object(object, &mut removed)?,
            }
        }
        for release in of_kept {
            // As its run would have: what stays of the log says who made the release.
            Output::open(self.stores(), &self.release_uri(release))?.clear_working_files()?;
        }
        for &release in &garbage.expired {
            self.stores().delete_prefix(&self.release_uri(release))?;
        }
        for (&release, objects) in &of_releases {
            if !self.remove_abandoned(release, objects, garbage, own, &mut removed)? {
                removed.spared.push(release);
            }
        }
        let next = garbage.kept.iter().max().map_or(1, |last| last + 1);
        let claim = format!("{}/{CLAIM}", self.release_uri(next));
        for (at, some) in of_groups.chunks(REQUESTS).enumerate() {
            if !removed.spared.is_empty() || self.stores().exists(&claim)? {
                removed.checkpoints_spared = (of_groups.len() - at * REQUESTS) as u64;
                break;
            }
            self.stores()
                .delete_each(some.iter().map(|(object, _)| object.as_str()))?;
            removed.objects += some.len() as u64;
            removed.bytes += some.iter().map(|(_, bytes)| bytes).sum::<u64>();
        }
        for &release in of_releases.keys().filter(|release| !removed.spared.contains(release)) {
            self.stores().remove_empty_folders(&self.release_uri(release))?;
        }
        // A run that is at work goes on with what is half written, and may be about to write into an empty folder.
        if garbage.in_the_making.is_empty() && removed.spared.is_empty() && !self.stores().exists(&claim)? {
            self.stores().remove_half_written(&self.groups_uri(), garbage.grace);
            for folder in [RELEASES, GROUPS, COMMITS] {
                self.stores()
                    .remove_empty_folders(&format!("{}/{folder}", self.uri()))?;
            }
        }
        Ok(removed)
    }

    fn remove_object(&self, (object, bytes): &(String, u64), removed: &mut Removed) -> Result<(), StoreError> {
        self.stores().delete(object)?;
        removed.objects += 1;
        removed.bytes += bytes;
        Ok(())
    }

    /// Removes what was listed of a release that nobody committed, under a claim of its own; whether it could be had, and all of it went.
    fn remove_abandoned(
        &self,
        release: u64,
        objects: &[&(String, u64)],
        garbage: &Garbage,
        own: &Claim,
        removed: &mut Removed,
    ) -> Result<bool, StoreError> {
        let Some(listed) = garbage.listed else {
            return Ok(false);
        };
        let output = Output::open(self.stores(), &self.release_uri(release))?;
        let is_as_listed = |but: Option<&Holding>| -> Result<bool, StoreError> {
            let mut now = self.stores().list_with_age(output.uri(), listed)?;
            now.retain(|(object, _)| but.is_none_or(|own| !own.is_entry(&object.path)));
            Ok(garbage.of_abandoned.get(&release) == Some(&now) && self.commit_of(release)?.is_none())
        };
        // The place behind this holder is another's as soon as anybody claims it.
        let held = output.held()?;
        if !is_as_listed(None)? {
            return Ok(false);
        }
        let Some(holding) = output.claim_to_remove(held.as_ref(), own)? else {
            return Ok(false);
        };
        if !is_as_listed(Some(&holding))? {
            holding.withdraw()?;
            return Ok(false);
        }
        match self.remove_under(&holding, objects, removed) {
            // It is another's now, who removes what is left where it needs to.
            Err(StoreError::TakenOver { .. } | StoreError::ClaimRemoved { .. }) => Ok(false),
            done => done.map(|()| true),
        }
    }

    fn remove_under(
        &self,
        holding: &Holding,
        objects: &[&(String, u64)],
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let (mut beats, mut last) = (0, None::<Instant>);
        for object in objects.iter().filter(|(path, _)| !holding.is_of_log(path)) {
            if last.is_none_or(|last| last.elapsed() > BEAT) {
                beats += 1;
                holding.beat(beats)?;
                last = Some(Instant::now());
            } else {
                holding.check()?;
            }
            self.remove_object(object, removed)?;
        }
        holding.clear_half_written();
        holding.clear_log()?;
        for (_, bytes) in objects.iter().filter(|(path, _)| holding.is_of_log(path)) {
            removed.objects += 1;
            removed.bytes += bytes;
        }
        Ok(())
    }

    /// The objects of the line that hold the numbers of these checkpoints, as their records say. Others of their names are of attempts that came too late.
    fn numbers_of(&self, checkpoints: &BTreeSet<String>) -> Result<BTreeSet<String>, StoreError> {
        #[derive(Deserialize)]
        struct Record {
            object: Option<String>,
        }
        let records: Vec<String> = checkpoints
            .iter()
            .map(|name| format!("{}/{GROUPS}/{name}{DONE}", self.uri()))
            .collect();
        let mut numbers = BTreeSet::new();
        for ((uri, name), bytes) in records.iter().zip(checkpoints).zip(self.stores().read_each(&records)?) {
            let Some(bytes) = bytes else { continue };
            let record: Record = self.stores().parse_document(uri, &bytes)?;
            if let (Some((pass, _)), Some(object)) = (name.split_once('/'), record.object) {
                numbers.insert(format!("{GROUPS}/{pass}/{object}"));
            }
        }
        Ok(numbers)
    }
}

/// When an object goes. A commit goes before what it names: a reader finds all of a release or none; a manifest before what it lists. A claim goes behind
/// all that it covers: cut short, what is left is still an output that the next run may take.
fn turn_of(path: &str) -> u8 {
    match (part_of(path), path.split('/').nth(2)) {
        (Part::Commit(_), _) => 0,
        (Part::OfRelease(_), Some(SUCCESS | MANIFEST)) => 1,
        (Part::OfRelease(_), Some(CLAIM)) => 3,
        _ => 2,
    }
}

/// Whether an object of a release was its run's alone, which removes it behind its commit.
fn is_working_file(path: &str) -> bool {
    let folder = path.split('/').nth(2);
    folder.is_some_and(|folder| [STAGES, CLAIMS, RENDEZVOUS].contains(&folder))
}

/// The checkpoints (`<pass>/<name>`) and the memberships that a commit names.
fn named_by(commit: &Commit, checkpoints: &mut BTreeSet<String>, ids: &mut BTreeSet<String>) {
    for group in &commit.groups {
        ids.insert(group.membership.clone());
        let named = group.checkpoints.iter().map(|(pass, name)| format!("{pass}/{name}"));
        checkpoints.extend(named);
    }
}

fn part_of(path: &str) -> Part<'_> {
    let (folder, rest) = path.split_once('/').unwrap_or(("", path));
    let part = match folder {
        "commits" => rest
            .strip_suffix(".json")
            .and_then(|n| n.parse().ok())
            .map(Part::Commit),
        "releases" => rest
            .split_once('/')
            .and_then(|(n, _)| n.parse().ok())
            .map(Part::OfRelease),
        "groups" => match rest.split_once('/') {
            Some(("ids", file)) => {
                let name = file.strip_suffix(".parquet");
                name.map(|name| Part::Ids(name.split_once('-').map_or(name, |(membership, _)| membership)))
            }
            Some((pass, file)) => {
                let name = file
                    .strip_suffix(DONE)
                    .or_else(|| file.rsplit_once('-').map(|(name, _)| name));
                name.map(|name| Part::Checkpoint(format!("{pass}/{name}")))
            }
            None => None,
        },
        _ => None,
    };
    part.unwrap_or(Part::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lines_own_objects_are_known() {
        assert_eq!(part_of("commits/12.json"), Part::Commit(12));
        assert_eq!(part_of("releases/3/predictions/part-00000.parquet"), Part::OfRelease(3));
        for path in ["groups/ids/ab12.parquet", "groups/ids/ab12-77.parquet"] {
            assert_eq!(part_of(path), Part::Ids("ab12"));
        }
        for path in ["groups/curvature/ab12.done", "groups/curvature/ab12-77.sums"] {
            assert_eq!(part_of(path), Part::Checkpoint("curvature/ab12".to_owned()));
        }
        for path in [
            "basis.json",
            "commits/notes.txt",
            "releases/latest",
            "notes/a.json",
            "groups/a.done",
        ] {
            assert_eq!(part_of(path), Part::Other, "{path}");
        }
    }
}
