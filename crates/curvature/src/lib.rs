//! The Gauss-Newton (GGN) curvature of a network, as mergeable f64 sums over spectra.

mod block;

pub use block::{BlockCurvature, BlockPlan, BlockSums, CurvatureForm, Matrix, StructureKind};
