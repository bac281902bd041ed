//! `[curvature]` and `[curvature.layers]`: how each layer's block of the Hessian is held.

use std::collections::BTreeMap;

use fisherflow_curvature::{CurvatureKind, StructureKind};

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;

/// Keys of `[curvature]`.
pub const KEYS: &[&str] = &["structure", "memory", "layers", "kind"];

/// Structures of the contract that a later version does.
const LATER: &[&str] = &["ekfac", "low_rank", "dual", "auto"];

/// `[curvature]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvatureTable {
    /// Every layer not named below.
    pub structure: StructureKind,
    /// By layer name.
    pub layers: BTreeMap<String, StructureKind>,
    /// Which curvature of the loss; left out: Gauss-Newton.
    pub kind: CurvatureKind,
}

impl CurvatureTable {
    /// Reads the table. `structure` has no default while `"auto"`, which it will be, is not supported.
    ///
    /// # Errors
    /// Missing or wrong values.
    pub fn read(table: &Table<'_>) -> Result<Self, RunFileError> {
        if let Some(memory) = table.get("memory") {
            return Err(memory.unsupported(
                "a budget for structure = \"auto\"",
                "leave it out and choose the structure of each layer",
            ));
        }
        let entry = table.get("structure").ok_or_else(|| {
            table.missing(
                "structure",
                "write structure = \"full\", \"block\", \"kfac\" or \"diagonal\"",
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
            kind: match table.get("kind") {
                Some(entry) => kind(&entry)?,
                None => CurvatureKind::default(),
            },
        })
    }
}

/// A kind of curvature by name.
fn kind(entry: &Entry<'_>) -> Result<CurvatureKind, RunFileError> {
    let kinds = [
        CurvatureKind::Ggn,
        CurvatureKind::EmpiricalFisher,
        CurvatureKind::Hessian,
    ];
    entry.choice(&kinds.map(|kind| (kind.name(), kind)), &[])
}

/// A structure by name.
fn structure(entry: &Entry<'_>) -> Result<StructureKind, RunFileError> {
    entry.choice(
        &[
            ("full", StructureKind::Full),
            ("block", StructureKind::Block),
            ("kfac", StructureKind::Kfac),
            ("diagonal", StructureKind::Diagonal),
        ],
        LATER,
    )
}
