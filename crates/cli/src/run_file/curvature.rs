//! `[curvature]` and `[curvature.layers]`: how each layer's block of the Hessian is held.

use std::collections::BTreeMap;

use fisherflow_curvature::{BlockOptions, CurvatureKind, StructureKind, WeightSharing};
use fisherflow_dataflow::{Curvature, LowRankSettings, StructureChoice};

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;

/// Keys of `[curvature]`.
pub const KEYS: &[&str] = &[
    "structure",
    "memory",
    "layers",
    "kind",
    "rank",
    "passes",
    "weight_sharing",
    "split_bias",
];

/// Reads the table, and the bytes that a process may take for a dual block that the table names.
///
/// # Errors
/// Wrong values.
pub fn read(table: &Table<'_>) -> Result<(Curvature, Option<u64>), RunFileError> {
    let mut layers = BTreeMap::new();
    if let Some(by_layer) = table.table("layers")? {
        for (name, entry) in by_layer.entries() {
            by_name(&entry)?;
            layers.insert(name, entry.choice(&STRUCTURES, &[])?);
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
    let given = table
        .get("structure")
        .map(|entry| structure(&entry))
        .transpose()?
        .flatten();
    let held_as = |kind: StructureKind| given.iter().chain(layers.values()).any(|held| *held == kind);
    let is_dual = held_as(StructureKind::Dual);
    let memory = memory(table, given.is_none() || is_dual)?;
    let auto = StructureChoice::Auto {
        memory: memory.unwrap_or(StructureChoice::MEMORY),
    };
    let curvature = Curvature {
        low_rank: low_rank(table, held_as(StructureKind::LowRank))?,
        structure: given.map_or(auto, StructureChoice::Given),
        by_layer: layers,
        kind: match table.get("kind") {
            Some(entry) => kind(&entry)?,
            None => CurvatureKind::default(),
        },
        options,
    };
    Ok((curvature, memory.filter(|_| is_dual)))
}

/// Refuses a table where a layer's value should be: `layers.4 = ...` is one, of a layer called `layers`.
///
/// # Errors
/// It is one.
pub fn by_name(entry: &Entry<'_>) -> Result<(), RunFileError> {
    match entry.is_table() {
        true => {
            Err(entry
                .invalid("is a table: the name of a layer that has a point goes in quotes, as in \"layers.4\" = ..."))
        }
        false => Ok(()),
    }
}

/// Whether a block may be dual: it is said to be, or structures are to be chosen.
pub fn may_be_dual(curvature: &Curvature) -> bool {
    match curvature.structure {
        StructureChoice::Auto { .. } => true,
        StructureChoice::Given(kind) => {
            let mut kinds = curvature.by_layer.values();
            kind == StructureKind::Dual || kinds.any(|kind| *kind == StructureKind::Dual)
        }
    }
}

/// `memory`; `used`: whether structures are to be chosen, or a block is dual.
fn memory(table: &Table<'_>, used: bool) -> Result<Option<u64>, RunFileError> {
    let Some(entry) = table.get("memory") else {
        return Ok(None);
    };
    let bytes = entry.bytes(1)?;
    if !used {
        return Err(entry
            .invalid("is of structure = \"auto\" and of layers held as \"dual\", and there is neither: leave it out"));
    }
    Ok(Some(bytes))
}

/// `rank` and `passes`; `used`: whether a layer is held as `low_rank`.
fn low_rank(table: &Table<'_>, used: bool) -> Result<LowRankSettings, RunFileError> {
    let mut settings = LowRankSettings::default();
    for (key, value) in [("rank", &mut settings.rank), ("passes", &mut settings.passes)] {
        if let Some(entry) = table.get(key) {
            if !used {
                return Err(entry.invalid("is of layers held as \"low_rank\", and there is none: leave it out"));
            }
            *value = entry.count(1)?;
        }
    }
    Ok(settings)
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

/// The structures by name.
const STRUCTURES: [(&str, StructureKind); 7] = [
    ("full", StructureKind::Full),
    ("block", StructureKind::Block),
    ("kfac", StructureKind::Kfac),
    ("ekfac", StructureKind::Ekfac),
    ("diagonal", StructureKind::Diagonal),
    ("dual", StructureKind::Dual),
    ("low_rank", StructureKind::LowRank),
];

/// A structure by name; none where it is to be chosen.
fn structure(entry: &Entry<'_>) -> Result<Option<StructureKind>, RunFileError> {
    let mut names = vec![("auto", None)];
    names.extend(STRUCTURES.map(|(name, kind)| (name, Some(kind))));
    entry.choice(&names, &[])
}
