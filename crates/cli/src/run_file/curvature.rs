//! `[curvature]` and `[curvature.layers]`: how each layer's block of the Hessian is held.

use std::collections::BTreeMap;

use fisherflow_curvature::{BlockOptions, StructureKind, WeightSharing};

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;

/// Keys of `[curvature]`.
pub const KEYS: &[&str] = &["structure", "memory", "layers", "weight_sharing", "split_bias"];

/// Structures of the contract that a later version does.
const LATER: &[&str] = &["low_rank", "auto"];

/// `[curvature]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvatureTable {
    /// Every layer not named below.
    pub structure: StructureKind,
    /// By layer name.
    pub layers: BTreeMap<String, StructureKind>,
    /// Of every block.
    pub options: BlockOptions,
    /// Bytes that a process may take for a dual block.
    pub memory: Option<u64>,
}

impl CurvatureTable {
    /// Reads the table. `structure` has no default while `"auto"`, which it will be, is not supported.
    ///
    /// # Errors
    /// Missing or wrong values.
    pub fn read(table: &Table<'_>) -> Result<Self, RunFileError> {
        let entry = table.get("structure").ok_or_else(|| {
            table.missing(
                "structure",
                "write structure = \"full\", \"block\", \"kfac\", \"ekfac\", \"diagonal\" or \"dual\"",
            )
        })?;
        let mut layers = BTreeMap::new();
        if let Some(by_layer) = table.table("layers")? {
            for (name, entry) in by_layer.entries() {
                layers.insert(name, structure(&entry)?);
            }
        }
        let mut options = BlockOptions::default();
        if let Some(entry) = table.get("weight_sharing") {
            let known = [("expand", WeightSharing::Expand), ("reduce", WeightSharing::Reduce)];
            options.weight_sharing = entry.choice(&known, &[])?;
        }
        if let Some(entry) = table.get("split_bias") {
            options.split_bias = entry.boolean()?;
        }
        Ok(Self {
            structure: structure(&entry)?,
            layers,
            options,
            memory: table.get("memory").map(|entry| entry.bytes()).transpose()?,
        })
    }
}

/// A structure by name.
fn structure(entry: &Entry<'_>) -> Result<StructureKind, RunFileError> {
    entry.choice(
        &[
            ("full", StructureKind::Full),
            ("block", StructureKind::Block),
            ("kfac", StructureKind::Kfac),
            ("ekfac", StructureKind::Ekfac),
            ("diagonal", StructureKind::Diagonal),
            ("dual", StructureKind::Dual),
        ],
        LATER,
    )
}
