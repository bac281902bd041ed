//! Before a commit: what the manifest does not list goes, what it lists must be there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::objects::location::Place;
use crate::output::{DATA, DOCUMENTS};
use crate::{Manifest, Output, StoreError, Stores, WrittenFile};

/// Of the name of a file that was not yet at its place (`part-00000.parquet#1`), that which it was to have there.
pub(crate) fn half_written(name: &str) -> Option<&str> {
    let (name, number) = name.rsplit_once('#')?;
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then_some(name)
}

impl Stores {
    /// Removes, on a disk, the half-written files below a URI that are older than this (`c9-1.sums#1` of a killed process): no listing shows them.
    pub(crate) fn remove_half_written(&self, uri: &str, older_than: Duration) {
        if let Ok(location) = self.locate(uri)
            && location.place == Place::Local
        {
            remove_half_written(Path::new(&location.uri()), Some(older_than));
        }
    }
}

impl Output {
    /// Deletes what an attempt before left in the tables' directories; fails where a listed file is not there.
    pub(crate) fn tidy(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mut missing: BTreeMap<String, &WrittenFile> = manifest
            .files
            .iter()
            .map(|file| (self.child(&file.path), file))
            .collect();
        for directory in DATA {
            for object in self.stores().list_all(&self.child(directory))? {
                match missing.remove(&object.path) {
                    Some(file) if file.bytes == object.size => {}
                    Some(file) => return Err(self.unlike(file, object.size)),
                    None => {
                        tracing::warn!(object = object.path, "left by an attempt before: deleted");
                        self.stores().delete(&object.path)?;
                    }
                }
            }
            self.remove_staged(directory);
        }
        self.clear_staged();
        for (uri, file) in missing {
            match self.stores().head(&uri)? {
                Some(object) if object.size == file.bytes => {}
                Some(object) => return Err(self.unlike(file, object.size)),
                None => return Err(StoreError::NotFound { uri }),
            }
        }
        Ok(())
    }

    /// Removes, on a disk, the half-written files of a killed process (`part-00000.parquet#1`): no listing shows them.
    pub(crate) fn remove_staged(&self, directory: &str) {
        let Ok(location) = self.stores().locate(&self.child(directory)) else {
            return;
        };
        if location.place != Place::Local {
            return;
        }
        remove_half_written(Path::new(&location.uri()), None);
    }

    /// Removes, on a disk, what a killed process left half written beside the manifest (`report.html#1`).
    pub fn clear_staged(&self) {
        let Ok(location) = self.stores().locate(self.uri()) else {
            return;
        };
        if location.place != Place::Local {
            return;
        }
        let is_staged = |name: &str| half_written(name).is_some_and(|document| DOCUMENTS.contains(&document));
        for entry in std::fs::read_dir(location.uri()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_file()
                && entry.file_name().to_str().is_some_and(is_staged)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "a half-written file stays");
            }
        }
    }

    fn unlike(&self, file: &WrittenFile, found: u64) -> StoreError {
        StoreError::Shape {
            what: format!("bytes of {}", self.child(&file.path)),
            found: usize::try_from(found).unwrap_or(usize::MAX),
            expected: usize::try_from(file.bytes).unwrap_or(usize::MAX),
        }
    }
}

/// Removes the half-written files of a folder and those below it, where an age is given only those that nobody has written to for as long.
fn remove_half_written(folder: &Path, older_than: Option<Duration>) {
    let is_old = |entry: &std::fs::DirEntry| {
        older_than.is_none_or(|age| {
            let written = entry.metadata().and_then(|found| found.modified());
            written.is_ok_and(|written| written.elapsed().is_ok_and(|elapsed| elapsed > age))
        })
    };
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            // The names of the folders above are the user's.
            let is_staged = name.to_str().and_then(half_written).is_some();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if is_staged
                && is_old(&entry)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "a half-written file stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_written_file_is_known_by_the_number_behind_its_name() {
        assert_eq!(half_written("part-00000.parquet#12"), Some("part-00000.parquet"));
        assert_eq!(half_written("night#2#1"), Some("night#2"));
        for name in ["part-00000.parquet", "night#two", "night#", "night#-1", "a#1.parquet"] {
            assert_eq!(half_written(name), None, "{name}");
        }
    }
}
