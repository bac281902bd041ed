//! A block of the Hessian: which layers it covers, which structure holds it, its sums over spectra, and the curvature they add up to.

use fisherflow_network::DenseShape;
use serde::{Deserialize, Serialize};

use crate::CurvatureError;

/// How a block of the GGN is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StructureKind {
    /// One dense matrix over several layers, cross terms included.
    Full,
    /// One exact dense matrix a layer.
    Block,
    /// Kronecker-factored: `S_G (x) S_A / n` (Martens and Grosse 2015, arXiv:1503.05671), with the exact expectation over outputs.
    Kfac,
    /// The diagonal alone.
    Diagonal,
    /// Exact over several layers, cross terms included, through the rows of the weight Jacobian instead of their Gram matrix over weights:
    /// it has no sums, but [`JacobianRows`](crate::JacobianRows).
    Dual,
}

impl StructureKind {
    /// Whether a block so held has sums over spectra.
    #[must_use]
    pub fn has_sums(self) -> bool {
        self != Self::Dual
    }

    /// Whether all layers so held form one block, cross terms included.
    #[must_use]
    pub fn joins_layers(self) -> bool {
        matches!(self, Self::Full | Self::Dual)
    }
}

impl std::fmt::Display for StructureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Block => "block",
            Self::Kfac => "kfac",
            Self::Diagonal => "diagonal",
            Self::Dual => "dual",
        })
    }
}

/// One block of the Hessian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockPlan {
    /// Position in the run's list of blocks.
    pub id: usize,
    /// How it is held.
    pub structure: StructureKind,
    /// The dense layers it covers, as counted by `Network::dense_layers`, ascending; one, except where the structure
    /// [joins layers](StructureKind::joins_layers).
    pub layers: Vec<usize>,
    /// Name and size of each of them.
    pub shapes: Vec<DenseShape>,
}

impl BlockPlan {
    /// Number of weights in the block.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.shapes.iter().map(DenseShape::n_weights).sum()
    }

    /// The layers' names joined by `+`: what files, logs and errors call the block.
    #[must_use]
    pub fn name(&self) -> String {
        self.shapes
            .iter()
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>()
            .join("+")
    }
}

/// A block's sums over spectra: the only thing merged, sent and checkpointed.
///
/// Always a sum with its count, never a mean: sums merge by addition. What `sums` holds, and about which reference, is the business
/// of the block's structure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockSums {
    /// The block's id.
    pub block: usize,
    /// How the block is held.
    pub structure: StructureKind,
    /// Number of spectra summed over.
    pub n_spectra: u64,
    /// The structure's own layout.
    pub sums: Vec<f64>,
}

impl BlockSums {
    /// Adds the sums over other spectra of the same block. Floating-point addition is not associative: a run merges in a fixed order.
    ///
    /// # Errors
    /// Sums of another block, structure or length; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), CurvatureError> {
        if (self.block, self.structure, self.sums.len()) != (other.block, other.structure, other.sums.len()) {
            return Err(CurvatureError::SumsDiffer {
                block: self.block,
                structure: self.structure,
                length: self.sums.len(),
                found_block: other.block,
                found_structure: other.structure,
                found_length: other.sums.len(),
            });
        }
        self.n_spectra += other.n_spectra;
        for (sum, value) in self.sums.iter_mut().zip(&other.sums) {
            *sum += value;
        }
        Ok(())
    }
}

/// A dense matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` values, row after row.
    pub values: Vec<f64>,
}

/// The GGN block that the sums add up to, in f64, about no reference: what is written out and inverted.
///
/// Always the SUM over `n_spectra`, in normalised label units, weighted by each spectrum's label precision.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockCurvature {
    /// Number of spectra summed over.
    pub n_spectra: u64,
    /// The numbers.
    pub form: CurvatureForm,
}

/// The numbers of a [`BlockCurvature`].
#[derive(Clone, Debug, PartialEq)]
pub enum CurvatureForm {
    /// `H`, `[p, p]`: layer after layer in the block's order, each `[W | b]` row-major (index = out * (in + 1) + in, bias last).
    Dense(Matrix),
    /// `H ~ (g (x) a) / n_spectra` with `a = sum [a;1][a;1]^T`, `[in + 1, in + 1]`, and `g = sum_n sum_kl Lam_n,kl g_k g_l^T`, `[out, out]`.
    Kronecker {
        /// The input factor `S_A`.
        a: Matrix,
        /// The gradient factor `S_G`.
        g: Matrix,
    },
    /// `diag(H)` as `[out, in + 1]`, bias last.
    Diagonal(Matrix),
}
