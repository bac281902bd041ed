//! The Gauss-Newton (GGN) curvature of a network, as mergeable f64 sums over spectra.
//!
//! `H = sum_n J_n^T Lam_n J_n`, with J the weight Jacobian `[K, weights]` of the outputs in normalised label units and `Lam_n` the precision of a
//! spectrum's labels: the exact Fisher information of `N(f, Lam^-1)`, always the sum over spectra with its count beside it. A layer's weights are
//! `[W | b]`, `[out, in + 1]`, bias last, row-major.
//!
//! [`plan_blocks`] cuts the network's layers into blocks, [`structure_of`] gives each block its [`Structure`], which adds batches of captures to
//! [`BlockSums`]; those merge by addition, and [`Structure::curvature`] says what they add up to. [`ReferenceSums`] come first: the sums of
//! `kfac` are taken about them.

mod block;
mod block_plan;
mod captured_rows;
mod dense;
mod dense_hessian;
mod diagonal;
mod error;
mod jacobian_rows;
mod kfac;
mod kind;
mod label_precision;
mod packed;
mod products;
mod reference;
mod structure;
mod vector_products;

pub use block::{BlockCurvature, BlockPlan, BlockSums, CurvatureForm, Matrix, StructureKind};
pub use block_plan::plan_blocks;
pub use dense_hessian::{add_residual_curvature, residual_flops};
pub use error::CurvatureError;
pub use kind::CurvatureKind;
pub use jacobian_rows::{JacobianRows, LayerRows};
pub use label_precision::LabelPrecision;
pub use reference::{ReferenceSums, References};
pub use structure::{Structure, structure_of};
pub use vector_products::{ProductSums, add_ggn_products, add_gradient, add_hessian_products, gradient_captures};
