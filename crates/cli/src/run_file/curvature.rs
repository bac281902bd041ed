//! `[curvature]` and `[curvature.layers]`: how each layer's block of the Hessian is held.

use std::collections::BTreeMap;

use fisherflow_curvature::{BlockOptions, CurvatureKind, StructureKind, WeightSharing};
use fisherflow_dataflow::LowRankSettings;

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

/// Structures of the contract that a later version does.
const LATER: &[&str] = &["auto"];

/// `[curvature]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvatureTable {
    /// Every layer not named below.
    pub structure: StructureKind,
    /// By layer name.
    pub layers: BTreeMap<String, StructureKind>,
    /// Which curvature of the loss; left out: Gauss-Newton.
    pub kind: CurvatureKind,
    /// Of the layers held as `low_rank`.
    pub low_rank: LowRankSettings,
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
                "write structure = \"full\", \"block\", \"kfac\", \"ekfac\", \"diagonal\", \"low_rank\" or \"dual\"",
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
        let structure = structure(&entry)?;
        let held = std::iter::once(&structure).chain(layers.values());
        Ok(Self {
            low_rank: low_rank(table, held.copied().any(|kind| kind == StructureKind::LowRank))?,
            structure,
            layers,
            kind: match table.get("kind") {
                Some(entry) => kind(&entry)?,
                None => CurvatureKind::default(),
            },
            options,
            memory: table.get("memory").map(|entry| entry.bytes()).transpose()?,
        })
    }
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
            ("low_rank", StructureKind::LowRank),
        ],
        LATER,
    )
}
