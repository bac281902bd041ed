//! A line of releases: one catalogue, one network, night after night.
//!
//! ```text
//! <line>/basis.json            what the sums of every release are taken about
//! <line>/releases/<v>/...      an ordinary output each
//! <line>/commits/<v>.json      created once, by a conditional write: this IS the release
//! <line>/groups/...            checkpoints of reduction groups, named by what went into them
//! ```
//!
//! A reader goes by `commits/` alone, so that it never sees half a release; two writers of one release are told apart by which of them creates
//! the commit.

pub(crate) mod commit;
pub(crate) mod garbage;
pub(crate) mod group_ids;
pub(crate) mod known_catalogue;

use serde::Deserialize;

use crate::objects::destination::refuse_no_folder;
use crate::{Commit, Creation, GroupStore, StoreError, Stores};

const COMMITS: &str = "commits";
const RELEASES: &str = "releases";
const GROUPS: &str = "groups";
const BASIS: &str = "basis.json";

/// The place of a line.
#[derive(Clone, Debug)]
pub struct Line {
    stores: Stores,
    uri: String,
}

/// The output that a URI means: an output's own, or a release of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// URI of the output.
    pub uri: String,
    /// Which release of which line it is; none: it is in no line.
    pub release: Option<(String, u64)>,
}

impl Line {
    /// The line at a URI; touches nothing.
    ///
    /// # Errors
    /// The URI cannot be one.
    pub fn open(stores: &Stores, uri: &str) -> Result<Self, StoreError> {
        Ok(Self {
            stores: stores.clone(),
            uri: own_folder(stores, uri, "a line")?,
        })
    }

    /// Its URI, absolute.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// URI of a release's output.
    #[must_use]
    pub fn release_uri(&self, release: u64) -> String {
        format!("{}/{RELEASES}/{release}", self.uri)
    }

    /// URI of what groups left.
    #[must_use]
    pub fn groups_uri(&self) -> String {
        format!("{}/{GROUPS}", self.uri)
    }

    /// What groups left there, for every release.
    #[must_use]
    pub fn groups(&self) -> GroupStore {
        GroupStore::new(&self.stores, &self.groups_uri())
    }

    /// The releases that are committed, from the first.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn releases(&self) -> Result<Vec<u64>, StoreError> {
        let commits = self.stores.list(&format!("{}/{COMMITS}/*.json", self.uri))?;
        let number = |path: &str| path.rsplit('/').next()?.strip_suffix(".json")?.parse().ok();
        let mut releases: Vec<u64> = commits.iter().filter_map(|commit| number(&commit.path)).collect();
        releases.sort_unstable();
        Ok(releases)
    }

    /// A committed release; none: it is not committed.
    ///
    /// # Errors
    /// The store does not say, or the commit cannot be understood.
    pub fn commit_of(&self, release: u64) -> Result<Option<Commit>, StoreError> {
        self.stores.document(&self.commit_uri(release))
    }

    /// The last committed release; none: nothing is released yet.
    ///
    /// # Errors
    /// As [`Line::commit_of`].
    pub fn latest(&self) -> Result<Option<Commit>, StoreError> {
        match self.releases()?.last() {
            Some(&release) => self.commit_of(release),
            None => Ok(None),
        }
    }

    /// Commits a release. The same run committing it again is no error.
    ///
    /// # Errors
    /// Another run committed that release first ([`StoreError::CommitConflict`]), or the store does not take it.
    pub fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let uri = self.commit_uri(commit.release);
        let document = self.stores.document_bytes(&uri, commit)?;
        match self.stores.create_once(&uri, document)? {
            Creation::Created | Creation::Ours => Ok(()),
            Creation::Others(found) => {
                let found: Commit = self.stores.parse_document(&uri, &found)?;
                let same_run = found.run_id == commit.run_id && found.manifest_sha256 == commit.manifest_sha256;
                if same_run {
                    return Ok(());
                }
                Err(StoreError::CommitConflict {
                    output: self.release_uri(commit.release),
                    run_id: found.run_id,
                    difference: format!("as release {} at {}", found.release, found.created),
                })
            }
        }
    }

    /// What the sums are taken about, as it was written; none: nothing is pinned yet.
    ///
    /// # Errors
    /// The store does not say.
    pub fn basis(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.stores.read_if_there(&self.basis_uri())
    }

    /// URI of the basis.
    #[must_use]
    pub fn basis_uri(&self) -> String {
        format!("{}/{BASIS}", self.uri)
    }

    /// Pins the basis; with the first release it is that of all.
    ///
    /// # Errors
    /// Another basis is pinned already ([`StoreError::CommitConflict`]), or the store does not take it.
    pub fn pin_basis(&self, bytes: Vec<u8>) -> Result<(), StoreError> {
        match self.stores.create_once(&self.basis_uri(), bytes)? {
            Creation::Others(pinned) => Err(StoreError::CommitConflict {
                output: self.basis_uri(),
                run_id: run_id_in(&pinned),
                difference: "with another basis, in the meantime".to_owned(),
            }),
            Creation::Created | Creation::Ours => Ok(()),
        }
    }

    /// Pins another basis in place of the one that stands there: for a line without a release, whose first one makes nobody's sums about the other.
    ///
    /// # Errors
    /// A release is committed ([`StoreError::CommitConflict`]), or the store does not take it.
    pub fn replace_basis(&self, bytes: Vec<u8>) -> Result<(), StoreError> {
        match self.latest()? {
            None => self.stores.write(&self.basis_uri(), bytes),
            Some(commit) => Err(StoreError::CommitConflict {
                output: self.basis_uri(),
                run_id: commit.run_id,
                difference: format!("as the basis of release {} at {}", commit.release, commit.created),
            }),
        }
    }

    /// The output that `uri` means: `<line>` is its last release, `<line>@3` and `<line>/releases/3` a given one, anything else the output
    /// itself.
    ///
    /// # Errors
    /// The line has no such release, or none yet.
    pub fn resolve(stores: &Stores, uri: &str) -> Result<Resolved, StoreError> {
        if let Some(named) = Self::named_release(stores, uri)? {
            return Ok(named);
        }
        let itself = Resolved {
            uri: uri.to_owned(),
            release: None,
        };
        if uri.contains('*') || stores.locate(uri)?.path.is_root() {
            return Ok(itself);
        }
        if let Some((line, release)) = release_of(uri) {
            let line = Self::open(stores, line)?;
            // An ordinary output may lie in a folder of that name.
            return if line.basis()?.is_some() || !line.releases()?.is_empty() {
                line.resolved(release)
            } else {
                Ok(itself)
            };
        }
        let line = Self::open(stores, uri)?;
        match line.releases()?.last() {
            Some(&release) => line.resolved(release),
            None if line.basis()?.is_some() => Err(StoreError::NotComplete { output: line.uri }),
            None => Ok(itself),
        }
    }

    /// The release that `<line>@<v>` means; none: the URI does not end so.
    ///
    /// # Errors
    /// The line has no such release.
    pub fn named_release(stores: &Stores, uri: &str) -> Result<Option<Resolved>, StoreError> {
        let named = named_by_at(uri);
        named
            .map(|(line, release)| Self::open(stores, line)?.resolved(release))
            .transpose()
    }

    fn resolved(&self, release: u64) -> Result<Resolved, StoreError> {
        let releases = self.releases()?;
        if !releases.contains(&release) {
            return Err(StoreError::NoRelease {
                line: self.uri.clone(),
                release,
                latest: releases.last().copied(),
            });
        }
        Ok(Resolved {
            uri: self.release_uri(release),
            release: Some((self.uri.clone(), release)),
        })
    }

    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    pub(crate) fn commit_uri(&self, release: u64) -> String {
        format!("{}/{COMMITS}/{release}.json", self.uri)
    }
}

/// The folder of an output or a line, absolute; `what` says which of them. Refused is one that cannot be a folder, and one whose name every
/// reader would take for a release of another.
pub(crate) fn own_folder(stores: &Stores, uri: &str, what: &str) -> Result<String, StoreError> {
    let location = stores.locate(uri)?;
    if uri.contains('*') || location.path.is_root() {
        return Err(StoreError::BadUri {
            uri: uri.to_owned(),
            reason: format!("{what} is one directory below the root, without *"),
        });
    }
    refuse_no_folder(&location)?;
    let folder = location.uri();
    match named_by_at(&folder) {
        None => Ok(folder),
        Some((line, release)) => Err(StoreError::BadUri {
            uri: folder.clone(),
            reason: format!(
                "to whoever reads it that is release {release} of the line {line}: choose a name that does not end so"
            ),
        }),
    }
}

/// `<line>@<v>` taken apart.
fn named_by_at(uri: &str) -> Option<(&str, u64)> {
    let (line, release) = uri.trim_end_matches('/').rsplit_once('@')?;
    Some((line, release.parse().ok()?))
}

/// `<line>/releases/<v>` taken apart.
fn release_of(uri: &str) -> Option<(&str, u64)> {
    let (folder, release) = uri.trim_end_matches('/').rsplit_once('/')?;
    let line = folder.strip_suffix(RELEASES)?.strip_suffix('/')?;
    Some((line, release.parse().ok()?))
}

/// The run that a document is of.
fn run_id_in(document: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Of {
        run_id: String,
    }
    serde_json::from_slice(document).map_or_else(|_| "another".to_owned(), |Of { run_id }| run_id)
}
