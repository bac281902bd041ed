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
