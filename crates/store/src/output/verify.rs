//! Whether an output is what its manifest says: every file is read again and hashed.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::objects::failure::Action;
use crate::objects::location::Location;
use crate::output::{DATA, MANIFEST, SUCCESS};
use crate::{Commit, Line, Manifest, Output, StoreError, WrittenFile};

/// Files hashed at a time.
const PARALLEL: usize = 4;

/// What a verification found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The manifest it was compared with.
    pub manifest: Manifest,
    /// Files that are as listed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is not as listed, a line each; empty: the output is whole.
    pub problems: Vec<String>,
    /// Tables that are not listed, each one of the problems: what is listed is whole without them.
    pub strangers: u64,
}

/// A file that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Within the output.
    pub path: String,
    /// What is wrong with it; names the file.
    pub problem: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem)
    }
}

impl Output {
    /// Compares the output with its manifest.
    ///
    /// # Errors
    /// There is no manifest, as [`Output::complete`] says it, or the store cannot be read. Files that are missing or changed are no errors but
    /// [`Verified::problems`].
    pub fn verify(&self) -> Result<Verified, StoreError> {
        let manifest = self.complete()?;
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for directory in DATA {
            for object in self.stores().list_all(&self.child(directory))? {
                found.insert(object.path, object.size);
            }
        }
        let mut problems = Vec::new();
        if !self.stores().exists(&self.child(SUCCESS))? {
            problems.push(format!("{SUCCESS} is missing: the commit was cut short"));
        }
        let (mut files, mut bytes) = (0, 0);
        for (file, check) in manifest.files.iter().zip(self.check_all(&manifest.files)?) {
            found.remove(&self.child(&file.path));
            match check {
                None => {
                    files += 1;
                    bytes += file.bytes;
                }
                Some(problem) => problems.push(problem),
            }
        }
        let strangers = found.len() as u64;
        problems.extend(found.keys().map(|path| format!("{path} is not listed in {MANIFEST}")));
        Ok(Verified {
            manifest,
            files,
            bytes,
            problems,
            strangers,
        })
    }

    /// Which of some files are not as they were written.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn damages(&self, files: &[WrittenFile]) -> Result<Vec<Damage>, StoreError> {
        let checks = files.iter().zip(self.check_all(files)?);
        let damages = checks.filter_map(|(file, check)| {
            let path = file.path.clone();
            check.map(|problem| Damage { path, problem })
        });
        Ok(damages.collect())
    }

    /// Which of some files are not there, or of another size than they were written with: what a listing tells, and nothing is read.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn listed_damages(&self, files: &[WrittenFile]) -> Result<Vec<Damage>, StoreError> {
        let sizes: BTreeMap<String, u64> = self.contents()?.into_iter().collect();
        let damages = files.iter().filter_map(|file| {
            let problem = unlike_in_size(file, sizes.get(&file.path).copied())?;
            let path = file.path.clone();
            Some(Damage { path, problem })
        });
        Ok(damages.collect())
    }

    /// What is wrong with each of some files.
    fn check_all(&self, files: &[WrittenFile]) -> Result<Vec<Option<String>>, StoreError> {
        let places = files
            .iter()
            .map(|file| Ok((file, self.stores().locate(&self.child(&file.path))?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let checks = futures::stream::iter(places)
            .map(|(file, place)| self.check(file, place))
            .buffered(PARALLEL);
        self.stores().block_on(checks.try_collect())
    }

    async fn check(&self, file: &WrittenFile, location: Location) -> Result<Option<String>, StoreError> {
        let failed = |error| self.stores().failed(&location, Action::Read, error);
        let object = match location.store.get(&location.path).await {
            Ok(object) => object,
            Err(object_store::Error::NotFound { .. }) => {
                return Ok(unlike_in_size(file, None));
            }
            Err(error) => return Err(failed(error)),
        };
        if let Some(problem) = unlike_in_size(file, Some(object.meta.size)) {
            return Ok(Some(problem));
        }
        let mut hash = Sha256::new();
        let mut stream = object.into_stream();
        while let Some(bytes) = stream.next().await {
            hash.update(bytes.map_err(failed)?);
        }
        let sha256 = hex(&hash.finalize());
        Ok((sha256 != file.sha256)
            .then(|| format!("{} has SHA-256 {sha256}, was written with {}", file.path, file.sha256)))
    }
}

impl Line {
    /// Compares a release with its manifest, and its manifest and the line's basis with its commit.
    ///
    /// # Errors
    /// As [`Output::verify`], or the release is not committed.
    pub fn verify(&self, release: u64) -> Result<Verified, StoreError> {
        let commit = self.commit_of(release)?.ok_or_else(|| StoreError::NotComplete {
            output: self.release_uri(release),
        })?;
        let mut found = Output::open(self.stores(), &self.release_uri(release))?.verify()?;
        found.problems.extend(self.manifest_problem(&commit)?);
        found.problems.extend(self.basis_problem(&commit)?);
        Ok(found)
    }

    /// What is wrong with the manifest of a release, which its commit knows; `None`: nothing.
    ///
    /// # Errors
    /// The store does not say.
    pub fn manifest_problem(&self, commit: &Commit) -> Result<Option<String>, StoreError> {
        let uri = format!("{}/{MANIFEST}", self.release_uri(commit.release));
        let found = self.stores().read_if_there(&uri)?;
        Ok(unlike_its_commit(MANIFEST, found, commit, &commit.manifest_sha256))
    }

    /// What is wrong with the basis that the sums of a release were taken about; `None`: nothing.
    ///
    /// # Errors
    /// The store does not say.
    pub fn basis_problem(&self, commit: &Commit) -> Result<Option<String>, StoreError> {
        let found = self.basis()?;
        Ok(unlike_its_commit(
            &self.basis_uri(),
            found,
            commit,
            &commit.basis_sha256,
        ))
    }
}

/// What is wrong with a document of a line, of which a commit holds the hash.
fn unlike_its_commit(name: &str, found: Option<Vec<u8>>, commit: &Commit, expected: &str) -> Option<String> {
    let release = commit.release;
    let Some(found) = found else {
        return Some(format!(
            "{name} is missing, and release {release} was committed with it"
        ));
    };
    let sha256 = hex(&Sha256::digest(&found));
    (sha256 != expected)
        .then(|| format!("{name} has SHA-256 {sha256}, and release {release} was committed with {expected}"))
}

/// What a file's size tells, where it is there.
fn unlike_in_size(file: &WrittenFile, found: Option<u64>) -> Option<String> {
    match found {
        None => Some(format!("{} is missing", file.path)),
        Some(bytes) if bytes != file.bytes => Some(format!(
            "{} has {bytes} bytes, was written with {}",
            file.path, file.bytes
        )),
        Some(_) => None,
    }
}
