//! Whether an output is what its manifest says: every file is read again and hashed.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

use crate::catalogue::hex;
use crate::failure::Action;
use crate::location::Location;
use crate::output::{DATA, MANIFEST, SUCCESS};
use crate::{Manifest, Output, StoreError, WrittenFile};

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
}

impl Output {
    /// Compares the output with its manifest.
    ///
    /// # Errors
    /// There is no manifest, or the store cannot be read. Files that are missing or changed are no errors but
    /// [`Verified::problems`].
    pub fn verify(&self) -> Result<Verified, StoreError> {
        let manifest = self.manifest()?.ok_or_else(|| StoreError::NotComplete {
            output: self.uri().to_owned(),
        })?;
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
        problems.extend(found.keys().map(|path| format!("{path} is not listed in {MANIFEST}")));
        Ok(Verified {
            manifest,
            files,
            bytes,
            problems,
        })
    }

    /// The first of some files that is not as it was written: what is wrong with it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn first_damage(&self, files: &[WrittenFile]) -> Result<Option<String>, StoreError> {
        Ok(self.check_all(files)?.into_iter().flatten().next())
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
                return Ok(Some(format!("{} is missing", file.path)));
            }
            Err(error) => return Err(failed(error)),
        };
        if object.meta.size != file.bytes {
            return Ok(Some(format!(
                "{} has {} bytes, was written with {}",
                file.path, object.meta.size, file.bytes
            )));
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
