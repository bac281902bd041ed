//! What a run left, read without the program's own reader of outputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fisherflow_store::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The folders of an output that hold data.
const DATA: [&str; 3] = ["predictions", "jacobians", "posterior"];

/// Whether the run is complete.
#[must_use]
pub fn has_manifest(output: &Path) -> bool {
    output.join("manifest.json").exists()
}

/// The manifest.
///
/// # Panics
/// There is none, or it is not JSON.
#[must_use]
pub fn manifest(output: &Path) -> Value {
    let file = output.join("manifest.json");
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&bytes).expect("a manifest is JSON")
}

/// The manifest's counts.
///
/// # Panics
/// As [`manifest`].
#[must_use]
pub fn counts(output: &Path) -> BTreeMap<String, u64> {
    serde_json::from_value(manifest(output)["counts"].clone()).expect("counts are whole numbers")
}

/// Every file under the data folders, relative to the output, sorted.
#[must_use]
pub fn data_files(output: &Path) -> Vec<String> {
    let mut files = everything_in(output);
    files.retain(|file| is_data(file));
    files
}

/// SHA-256 of every data file, computed here, and checked against what the manifest says of it.
///
/// # Panics
/// The output is not complete, or the manifest lists other files or hashes.
#[must_use]
pub fn digests(output: &Path) -> BTreeMap<String, String> {
    let found: BTreeMap<String, String> = data_files(output)
        .into_iter()
        .map(|name| {
            let bytes = std::fs::read(output.join(&name)).expect("a data file can be read");
            (name, sha256(&bytes))
        })
        .collect();
    let listed: BTreeMap<String, String> = manifest(output)["files"]
        .as_array()
        .expect("a manifest lists files")
        .iter()
        .map(|file| (text(&file["path"]), text(&file["sha256"])))
        .filter(|(path, _)| is_data(path))
        .collect();
    assert_eq!(
        found,
        listed,
        "the manifest of {} and the files there",
        output.display()
    );
    found
}

/// Files of intermediate results that are still there.
#[must_use]
pub fn stages_left(output: &Path) -> usize {
    everything_in(&output.join("stages")).len()
}

/// Every file of an output, relative to it, sorted; hidden and half-written ones too.
#[must_use]
pub fn everything_in(output: &Path) -> Vec<String> {
    let mut folders = vec![PathBuf::from(output)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(output) {
                files.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    files
}

/// SHA-256 as manifests and commits write it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn is_data(file: &str) -> bool {
    DATA.iter().any(|folder| file.starts_with(&format!("{folder}/")))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
