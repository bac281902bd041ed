//! The Gauss-Newton (GGN) curvature of a network, as mergeable f64 sums over spectra.
//!
//! `H = sum_n J_n^T Lam_n J_n`, with J the weight Jacobian `[K, weights]` of the outputs in normalised label units and `Lam_n` the precision of a
//! spectrum's labels: the exact Fisher information of `N(f, Lam^-1)`, always the sum over spectra with its count beside it. A layer's weights are
//! `[W | b]`, `[out, in + 1]`, bias last, row-major.
//!
//! [`plan_blocks`] cuts the network's layers into blocks, [`structure_of`] gives each block its [`Structure`], which adds batches of captures to
//! [`BlockSums`]; those merge by addition, and [`Structure::curvature`] says what they add up to. [`ReferenceSums`] come first: the sums of
//! `kfac` are taken about them. An `ekfac` block is summed twice: its factors as those of `kfac`, then, in their eigenbases, what
//! [`correction_of`] gives. A layer may use its weights at several positions of a spectrum: exact structures are of the weight gradient, a sum
//! over positions; [`WeightSharing`] says how Kronecker factors take them.

mod block;
mod block_plan;
mod block_power;
mod captured_rows;
mod correction;
mod dense;
mod dense_hessian;
mod diagonal;
mod error;
mod kfac;
mod kind;
mod label_precision;
mod lanczos;
mod low_rank;
mod orthonormal;
mod packed;
mod pairs;
mod products;
mod reference;
mod row_by_row;
mod spectral_density;
mod squared_gradients;
mod structure;
mod vector_products;
mod weight_jacobian;
mod weight_sharing;

pub use block::{BlockCurvature, BlockOptions, BlockPlan, BlockSums, CurvatureForm, Matrix, StructureKind};
pub use block_plan::{check_layer_names, plan_blocks};
pub use block_power::{BlockPower, LeadingPairs};
pub use correction::{KroneckerBases, correction_bytes, correction_flops, correction_of};
pub use dense_hessian::{add_residual_curvature, residual_flops};
pub use error::CurvatureError;
pub use kind::CurvatureKind;
pub use label_precision::LabelPrecision;
pub use lanczos::{Lanczos, Ritz, Tridiagonal};
pub use low_rank::LowRank;
pub use orthonormal::dot;
pub use reference::{ReferenceSums, References};
pub use row_by_row::RowByRow;
pub use spectral_density::{DensityPoint, Node, SpectralDensity, SpectralProbes};
pub use structure::{CurvatureByRow, Structure, structure_of};
pub use vector_products::{ProductSums, add_ggn_products, add_gradient, add_hessian_products, gradient_captures};
pub use weight_jacobian::{LayerSides, WeightJacobian};
pub use weight_sharing::WeightSharing;
