//! `[curvature]` and `[curvature.layers]`: how each layer's block of the Hessian is held.

use std::collections::BTreeMap;

use fisherflow_curvature::StructureKind;

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;

/// Keys of `[curvature]`.
pub const KEYS: &[&str] = &["structure", "memory", "layers"];

/// Structures of the contract that a later version does.
const LATER: &[&str] = &["ekfac", "low_rank", "auto"];

/// `[curvature]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvatureTable {
    /// Every layer not named below.
    pub structure: StructureKind,
    /// By layer name.
    pub layers: BTreeMap<String, StructureKind>,
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
                "write structure = \"full\", \"block\", \"kfac\", \"diagonal\" or \"dual\"",
            )
        })?;
        let mut layers = BTreeMap::new();
        if let Some(by_layer) = table.table("layers")? {
            for (name, entry) in by_layer.entries() {
                layers.insert(name, structure(&entry)?);
            }
        }
        Ok(Self {
            structure: structure(&entry)?,
            layers,
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
            ("diagonal", StructureKind::Diagonal),
            ("dual", StructureKind::Dual),
        ],
        LATER,
    )
}
