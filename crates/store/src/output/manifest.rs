//! `manifest.json`: what a finished run read, counted, wrote and was told to do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tables::parquet_out::WrittenFile;
use crate::{SkippedObject, StoreError};

/// A finished run. Nothing of an output is valid before it, and everything it lists is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this document: 1.
    pub version: u32,
    /// Of the program.
    pub fisherflow: String,
    /// The run.
    pub run_id: String,
    /// When it was committed: RFC 3339, UTC.
    pub created: String,
    /// What was read.
    pub inputs: Vec<ManifestInput>,
    /// Counts of everything: spectra, bad rows by flag, held out, ...
    pub counts: BTreeMap<String, u64>,
    /// Every file of the output but this one, by path.
    pub files: Vec<WrittenFile>,
    /// The run file as it was resolved, without credentials.
    pub settings: serde_json::Value,
    /// What a reader should know: repairs, clipping, objects left out.
    pub notes: Vec<String>,
}

/// One thing that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestInput {
    /// `network`, `catalogue`, `predict`.
    pub role: String,
    /// As the run file names it.
    pub uri: String,
    /// Of the bytes of a network; `None` for a catalogue, whose bytes no run reads all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Of the paths, sizes and etags of a catalogue's objects, whatever these hold: an etag on a disk is made of the inode, the size and the time of
    /// the last change. `None` for a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etags_sha256: Option<String>,
    /// Number of objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows; 0 for a network.
    pub rows: u64,
    /// Objects that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedObject>,
}

impl ManifestInput {
    /// What tells its version from others, and of what that is the hash: `sha256` of its bytes, or of `etags`.
    #[must_use]
    pub fn hash(&self) -> (&'static str, &str) {
        match (&self.sha256, &self.etags_sha256) {
            (_, Some(etags)) => ("etags", etags),
            (bytes, None) => ("sha256", bytes.as_deref().unwrap_or_default()),
        }
    }
}

impl Manifest {
    /// The version that is written.
    pub const VERSION: u32 = 1;

    /// For who reads the settings of the output at this URI: those of another version may mean something else. All else of a manifest is read
    /// whatever its version.
    ///
    /// # Errors
    /// [`StoreError::ManifestVersion`].
    pub fn check_version(&self, output: &str) -> Result<(), StoreError> {
        if self.version == Self::VERSION {
            return Ok(());
        }
        Err(StoreError::ManifestVersion {
            output: output.to_owned(),
            found: self.version,
            fisherflow: self.fisherflow.clone(),
            expected: Self::VERSION,
        })
    }

    /// In what two manifests of one output differ, as far as a reader of the data can see; `None`: in nothing.
    pub(crate) fn difference(&self, other: &Manifest) -> Option<&'static str> {
        if self.run_id != other.run_id {
            return Some("in the meantime");
        }
        let files = |manifest: &Manifest| {
            let mut files = manifest.files.clone();
            files.sort();
            files
        };
        (files(self) != files(other)).then_some("before, with files of other content")
    }
}
