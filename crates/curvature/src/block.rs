//! A block of the Hessian: which layers it covers, which structure holds it, its sums over spectra, and the curvature they add up to.

use fisherflow_network::DenseShape;
use serde::{Deserialize, Serialize};

use crate::WeightSharing;

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
    /// Kronecker-factored with corrected eigenvalues: `(U (x) V) diag(Lambda) (U (x) V)^T` in the eigenbases of the factors, `Lambda` the
    /// diagonal of the exact block there (George et al. 2018, arXiv:1806.03884).
    Ekfac,
    /// The diagonal alone.
    Diagonal,
    /// Leading eigenpairs of the exact curvature over several layers, cross terms included, and the diagonal of the rest.
    LowRank,
    /// Exact over several layers, cross terms included, through the rows of the weight Jacobian instead of their Gram matrix over weights:
    /// it has no sums, but [`WeightJacobian`](crate::WeightJacobian).
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
        matches!(self, Self::Full | Self::LowRank | Self::Dual)
    }

    /// As run files name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Block => "block",
            Self::Kfac => "kfac",
            Self::Ekfac => "ekfac",
            Self::Diagonal => "diagonal",
            Self::LowRank => "low_rank",
            Self::Dual => "dual",
        }
    }
}

impl std::fmt::Display for StructureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
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
    /// What the run says of all its blocks.
    pub options: BlockOptions,
}

/// What is summed and what is kept of a block, where there is a choice: the same for every block of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockOptions {
    /// How the Kronecker factors of a layer sum over positions that share its weights.
    pub weight_sharing: WeightSharing,
    /// Whether a layer's weights and its bias are blocks of their own, their cross terms dropped.
    pub split_bias: bool,
}

impl BlockPlan {
    /// Number of weights in the block.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.shapes.iter().map(DenseShape::n_weights).sum()
    }

    /// The name of the layer that one of the block's weights is in.
    pub(crate) fn layer_of_weight(&self, weight: usize) -> &str {
        let mut end = 0;
        let layer = self.shapes.iter().find(|shape| {
            end += shape.n_weights();
            weight < end
        });
        layer.map_or("", |shape| shape.name.as_str())
    }

    /// Terms of the Kronecker factors' sums that a spectrum has: its positions, where each is one
    /// ([`WeightSharing::Expand`]), else 1.
    #[must_use]
    pub fn terms_a_spectrum(&self) -> u64 {
        match (self.options.weight_sharing, self.shapes.as_slice()) {
            (WeightSharing::Expand, [shape]) => shape.shared as u64,
            _ => 1,
        }
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

/// A block's sums over spectra: over those of a group, or of all groups.
///
/// Always a sum with its count, never a mean: sums of different spectra merge by addition of their numbers. What `sums` holds, and about which
/// reference, is the business of the block's structure.
#[derive(Clone, Debug, PartialEq)]
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
pub struct BlockCurvature<M = Matrix> {
    /// Number of spectra summed over.
    pub n_spectra: u64,
    /// The numbers.
    pub form: CurvatureForm<M>,
}

/// The numbers of a [`BlockCurvature`].
#[derive(Clone, Debug, PartialEq)]
pub enum CurvatureForm<M = Matrix> {
    /// `H`, `[p, p]`: layer after layer in the block's order, each `[W | b]` row-major (index = out * columns + column, the bias
    /// last where there is one).
    Dense(M),
    /// `H ~ (g (x) a) / n_terms` with `a = sum [a;1][a;1]^T`, `[columns, columns]` (the 1 is the bias's), and `g = sum_n sum_kl Lam_n,kl g_k g_l^T`, `[out, out]`.
    ///
    /// `n_terms` is the number of spectra times [`BlockPlan::terms_a_spectrum`]; where there is a bias, the last diagonal element of `a`.
    Kronecker {
        /// The input factor `S_A`.
        a: M,
        /// The gradient factor `S_G`.
        g: M,
    },
    /// `H ~ (U (x) V) diag(eigenvalues) (U (x) V)^T`.
    Eigenbasis {
        /// V, the eigenvectors of `S_A`, one a column: `[columns, columns]`.
        a_vectors: M,
        /// U, the eigenvectors of `S_G`, one a column: `[out, out]`.
        g_vectors: M,
        /// `Lambda_ij`, `[out, columns]`: a sum over spectra, like everything here.
        eigenvalues: M,
    },
    /// `diag(H)` as `[out, columns]`, the bias last where there is one.
    Diagonal(M),
    /// `H ~ U diag(lambda) U^T + D`, with D the part of `diag(H)` that the first term lacks.
    LowRank {
        /// `U`, `[p, rank]`, orthonormal columns.
        eigenvectors: M,
        /// `lambda`, descending; from rounding some may be below 0.
        eigenvalues: Vec<f64>,
        /// `|H u - lambda u|` of each.
        residuals: Vec<f64>,
        /// `diag(H)`, `[p]`.
        diagonal: Vec<f64>,
    },
}

impl<M> BlockCurvature<M> {
    /// The same with every matrix turned into something else.
    pub fn map<N>(self, mut matrix: impl FnMut(M) -> N) -> BlockCurvature<N> {
        let form = match self.form {
            CurvatureForm::Dense(h) => CurvatureForm::Dense(matrix(h)),
            CurvatureForm::Kronecker { a, g } => CurvatureForm::Kronecker {
                a: matrix(a),
                g: matrix(g),
            },
            CurvatureForm::Eigenbasis {
                a_vectors,
                g_vectors,
                eigenvalues,
            } => CurvatureForm::Eigenbasis {
                a_vectors: matrix(a_vectors),
                g_vectors: matrix(g_vectors),
                eigenvalues: matrix(eigenvalues),
            },
            CurvatureForm::Diagonal(d) => CurvatureForm::Diagonal(matrix(d)),
            CurvatureForm::LowRank {
                eigenvectors,
                eigenvalues,
                residuals,
                diagonal,
            } => CurvatureForm::LowRank {
                eigenvectors: matrix(eigenvectors),
                eigenvalues,
                residuals,
                diagonal,
            },
        };
        BlockCurvature {
            n_spectra: self.n_spectra,
            form,
        }
    }
}
