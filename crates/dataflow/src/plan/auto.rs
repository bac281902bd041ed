//! `[curvature] structure = "auto"`: the structure of each layer that the run file names none for, as exact as memory allows.
//!
//! In this order, the first that one process of one worker has room for ([`Sizes::memory`]):
//!
//! 1. `full`: all layers in one dense block, where it has no more weights than the spectra have labels, P <= K N;
//! 2. `dual`: the same posterior through the Gram matrix of the spectra, K N at most [`LARGEST_SPECTRUM`] where its eigenvalues are asked for
//!    (its prior is to be found, or any by held-out spectra) and at most [`LARGEST_GRAM`] otherwise;
//! 3. layer by layer: `diagonal` at least, then in three rounds, each from the last layer to the first, `kfac`, `ekfac` and `block`, each
//!    where the whole run still has room. A layer's exact block so never takes the room for which another falls to a coarser structure.
//!
//! A structure that the kind of curvature, a split bias, a prior by layer or a layer's shared weights exclude is passed over. N is the catalogue's
//! rows less the share held out.

use std::collections::BTreeMap;

use fisherflow_curvature::{BlockPlan, CurvatureKind, StructureKind, WeightJacobian, plan_blocks};
use fisherflow_network::DenseShape;
use fisherflow_store::in_words::bytes as bytes_in_words;
use serde::Serialize;

use crate::error::RunError;
use crate::job::Prior;
use crate::passes::dual::{LARGEST_SPECTRUM, spectrum_is_needed};
use crate::plan::memory::Sizes;

/// Rows of a Gram matrix that `auto` has factored: half of it takes 2.5 GB, its Cholesky factor 5 TFLOP.
const LARGEST_GRAM: u64 = 25_000;

/// What `auto` chose for a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChosenStructure {
    /// The layer.
    pub layer: String,
    /// How it is held.
    pub structure: &'static str,
    /// What decided, in words.
    pub why: String,
}

/// The structures of all layers, and what decided on those that the run file does not name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Choice {
    pub(crate) by_layer: BTreeMap<String, StructureKind>,
    pub(crate) chosen: Vec<ChosenStructure>,
}

/// Chooses within `memory` bytes of a process.
///
/// # Errors
/// Not even the coarsest structures fit, with the bytes that they take; names of layers that the network does not have.
pub(crate) fn choose(sizes: &Sizes<'_>, memory: u64) -> Result<Choice, RunError> {
    let named = &sizes.job.curvature.by_layer;
    let free: Vec<&DenseShape> = sizes
        .shapes
        .iter()
        .filter(|shape| !named.contains_key(&shape.name))
        .collect();
    if free.is_empty() {
        return Ok(Choice {
            by_layer: named.clone(),
            chosen: Vec::new(),
        });
    }
    let room = Room { sizes, memory };
    for kind in [StructureKind::Full, StructureKind::Dual] {
        if let Some(why) = room.joined(kind, &free)? {
            return Ok(choice(room.all(kind, &free), &free, |_| why.clone()));
        }
    }
    room.by_layer(&free)
}

/// How many bytes there are for what.
struct Room<'a> {
    sizes: &'a Sizes<'a>,
    memory: u64,
}

impl Room<'_> {
    /// Every free layer held as `kind`, beside the layers that the run file names.
    fn all(&self, kind: StructureKind, free: &[&DenseShape]) -> BTreeMap<String, StructureKind> {
        let mut by_layer = self.sizes.job.curvature.by_layer.clone();
        by_layer.extend(free.iter().map(|shape| (shape.name.clone(), kind)));
        by_layer
    }

    fn blocks(&self, by_layer: &BTreeMap<String, StructureKind>) -> Result<Vec<BlockPlan>, RunError> {
        let options = self.sizes.job.curvature.options;
        Ok(plan_blocks(
            self.sizes.shapes,
            StructureKind::Diagonal,
            by_layer,
            options,
        )?)
    }

    /// Bytes of the run whose layers are so held.
    fn taken(&self, by_layer: &BTreeMap<String, StructureKind>) -> Result<u64, RunError> {
        Ok(self.sizes.memory(&self.blocks(by_layer)?)?.widest())
    }

    /// Why all free layers are held as one block of `kind`; none where they are not.
    fn joined(&self, kind: StructureKind, free: &[&DenseShape]) -> Result<Option<String>, RunError> {
        let job = self.sizes.job;
        let prior_of = |shape: &DenseShape| job.prior_by_layer.get(&shape.name);
        let by_layer = self.all(kind, free);
        let members = || {
            self.sizes
                .shapes
                .iter()
                .filter(|shape| by_layer.get(&shape.name) == Some(&kind))
        };
        let one_prior = members().map(prior_of).all(|prior| prior == prior_of(free[0]));
        let no_prior = prior_of(free[0]).map_or(job.prior == Prior::Fixed(0.0), |&given| given == 0.0);
        let excluded = job.curvature.options.split_bias
            || !one_prior
            || (kind == StructureKind::Dual
                && (job.curvature.kind != CurvatureKind::Ggn
                    || no_prior
                    || members().any(|shape| WeightJacobian::check_layer(shape).is_err())));
        if excluded {
            return Ok(None);
        }
        let n_weights: u64 = members().map(|shape| shape.n_weights() as u64).sum();
        let rows = self.sizes.n_spectra().saturating_mul(self.sizes.n_labels as u64);
        let most = match kind {
            StructureKind::Full => None,
            _ if spectrum_is_needed(job.prior, prior_of(free[0]).copied()) => Some(LARGEST_SPECTRUM as u64),
            _ => Some(LARGEST_GRAM),
        };
        if most.map_or(n_weights > rows, |most| rows > most) {
            return Ok(None);
        }
        let taken = self.taken(&by_layer)?;
        let takes = format!("{} of {}", bytes_in_words(taken), bytes_in_words(self.memory));
        Ok((taken <= self.memory).then(|| match kind {
            StructureKind::Full => {
                format!("exact: {n_weights} weights, {rows} labels x spectra; the run takes {takes}")
            }
            _ => format!("exact: {rows} labels x spectra, {n_weights} weights; the run takes {takes}"),
        }))
    }

    fn by_layer(&self, free: &[&DenseShape]) -> Result<Choice, RunError> {
        // The true Hessian has no form but the dense one.
        let (least, rounds): (_, &[StructureKind]) = match self.sizes.job.curvature.kind {
            CurvatureKind::Hessian => (StructureKind::Block, &[]),
            CurvatureKind::Ggn | CurvatureKind::EmpiricalFisher => (
                StructureKind::Diagonal,
                &[StructureKind::Kfac, StructureKind::Ekfac, StructureKind::Block],
            ),
        };
        let mut by_layer = self.all(least, free);
        let mut taken = self.taken(&by_layer)?;
        if taken > self.memory {
            return Err(RunError::Usage(format!(
                "curvature.memory: even with every layer that the run file does not name held as \"{least}\" a process takes {} ({taken} bytes), and \
                 curvature.memory is {} ({} bytes): raise it, or name coarser structures in [curvature.layers]",
                bytes_in_words(taken),
                bytes_in_words(self.memory),
                self.memory
            )));
        }
        let mut passed_over: BTreeMap<&str, (StructureKind, u64)> = BTreeMap::new();
        for &kind in rounds {
            for shape in free.iter().rev() {
                if passed_over.contains_key(shape.name.as_str()) && kind == StructureKind::Ekfac {
                    continue;
                }
                let before = by_layer.insert(shape.name.clone(), kind);
                let would = self.taken(&by_layer)?;
                if would <= self.memory {
                    taken = would;
                    passed_over.remove(shape.name.as_str());
                } else {
                    passed_over.entry(&shape.name).or_insert((kind, would));
                    by_layer.extend(before.map(|before| (shape.name.clone(), before)));
                }
            }
        }
        let memory = bytes_in_words(self.memory);
        let run = format!("the run takes {} of {memory}", bytes_in_words(taken));
        Ok(choice(by_layer, free, |shape| {
            match passed_over.get(shape.name.as_str()) {
                None => format!("exact: {} weights; {run}", shape.n_weights()),
                Some((kind, would)) => format!(
                    "{} weights: as {kind} the run would take {} of {memory}",
                    shape.n_weights(),
                    bytes_in_words(*would)
                ),
            }
        }))
    }
}

fn choice(
    by_layer: BTreeMap<String, StructureKind>,
    free: &[&DenseShape],
    why: impl Fn(&DenseShape) -> String,
) -> Choice {
    let chosen = free.iter().filter_map(|shape| {
        Some(ChosenStructure {
            layer: shape.name.clone(),
            structure: by_layer.get(&shape.name)?.name(),
            why: why(shape),
        })
    });
    Choice {
        chosen: chosen.collect(),
        by_layer,
    }
}

#[cfg(test)]
#[path = "auto_tests.rs"]
mod tests;
