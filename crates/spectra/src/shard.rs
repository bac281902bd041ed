//! A shard: one row group of one object; a group: a fixed list of shards.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One version of one object: what was listed when the run was planned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectVersion {
    /// Its URI: an absolute path, or `s3://bucket/key`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// The store's tag of the version, where it has one.
    pub etag: Option<String>,
}

impl ObjectVersion {
    /// Its name below the folder of its catalogue; its own name where the catalogue is this one object, and what its name starts from the object.
    #[must_use]
    pub fn name_below(&self, folder: &str) -> &str {
        let below = self.path.strip_prefix(folder).map(|name| name.trim_start_matches('/'));
        match below {
            Some("") => self.path.rsplit('/').next().unwrap_or(&self.path),
            Some(name) => name,
            None => &self.path,
        }
    }
}

/// One row group of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shard {
    /// The object.
    pub object: ObjectVersion,
    /// Position of the row group in the object.
    pub row_group: usize,
    /// Rows in the row group.
    pub n_rows: u64,
    /// Position of its first row in the object.
    pub first_row: u64,
}

/// A reduction group: the unit of work, of checkpoint and of retry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Group {
    /// Position among the groups of its catalogue: sums are added in this order, whoever made them.
    pub index: u64,
    /// Its shards, in order.
    pub shards: Vec<Shard>,
}

impl Group {
    /// Number of spectra.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.n_rows).sum()
    }

    /// Names what it holds, whatever its index: the first 16 bytes, in hexadecimal, of the SHA-256 of the versions of its objects and of its
    /// row groups in order.
    #[must_use]
    pub fn membership(&self) -> String {
        let mut hash = Sha256::new();
        for Shard {
            object,
            row_group,
            n_rows,
            first_row,
        } in &self.shards
        {
            let etag = object.etag.as_deref().unwrap_or("");
            for text in [&object.path, etag] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            for number in [object.size, *row_group as u64, *n_rows, *first_row] {
                hash.update(number.to_le_bytes());
            }
        }
        let digest = hash.finalize();
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objects_name_is_what_its_catalogue_does_not_say() {
        let name = |path: &str, folder: &str| {
            let object = ObjectVersion {
                path: path.to_owned(),
                size: 1,
                etag: None,
            };
            object.name_below(folder).to_owned()
        };
        assert_eq!(name("/data/dr17/a.parquet", "/data/dr17"), "a.parquet");
        assert_eq!(name("/data/dr17/night=1/a.parquet", "/data/dr17"), "night=1/a.parquet");
        assert_eq!(name("s3://survey/dr17/a.parquet", "s3://survey/"), "dr17/a.parquet");
        assert_eq!(name("/a.parquet", "/"), "a.parquet");
        // The catalogue is the object.
        assert_eq!(name("/data/dr17/a.parquet", "/data/dr17/a.parquet"), "a.parquet");
        assert_eq!(name("s3://survey/a.parquet", "s3://survey/a.parquet"), "a.parquet");
    }
}
