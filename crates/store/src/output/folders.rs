//! How much each folder of an output holds.

use std::collections::BTreeMap;

use crate::WrittenFile;

/// What a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FolderSize {
    /// Number of files.
    pub files: u64,
    /// Rows of them all.
    pub rows: u64,
    /// Bytes of them all.
    pub bytes: u64,
}

/// The folders of an output that have these files, each by its path; `.` is the output itself.
#[must_use]
pub fn by_folder(files: &[WrittenFile]) -> BTreeMap<&str, FolderSize> {
    let mut folders: BTreeMap<&str, FolderSize> = BTreeMap::new();
    for file in files {
        let folder = file.path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let of = folders.entry(folder).or_default();
        of.files += 1;
        of.rows += file.rows;
        of.bytes += file.bytes;
    }
    folders
}
