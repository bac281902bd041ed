//! Prior and curvature to posterior: the inverse of every block, the predictive covariance it gives each star, and the error budget.
//!
//! A block of the Hessian arrives as a [`BlockCurvature`](fisherflow_curvature::BlockCurvature): a sum over spectra, in normalised
//! label units. [`invert`] adds the prior precision `delta` and gives the block's posterior: `P = H + delta I` as a [`Precision`], whose
//! [`covariance_of`](Precision::covariance_of) is the weights' part of a star's error, `J_theta P^-1 J_theta^T`. The photons' part is
//! [`flux_covariance`]; what held-out residuals show beyond both is [`HeldOutStars::intrinsic`]; [`total_covariance`] adds the three.
//!
//! Everything here is arithmetic on arrays: no files, no threads of its own beyond those of matrix products and eigenproblems. Factorisations and
//! eigenproblems are always f64; the products of a prediction follow the captures' type.

mod certificate;
mod cost;
mod eigen;
mod error;
mod invert;
mod labels;
mod or_null;
mod peers;
mod prior;
mod product;
mod shape_checks;
mod structures;

#[cfg(test)]
mod brute_force;

pub use certificate::{
    BlockCertificate, Certificate, ComparedStructure, Comparison, ComparisonSizes, CurvatureShare, NewtonStep, Probe,
    ProbeSums, SigmaRatio, Subset, curvature_share, newton_step, verdict,
};
pub use cost::{
    DualCost, bases_flops, dense_covariance_bytes, dense_covariance_flops, inverse_flops, measured_product_rate,
    spectrum_flops,
};
pub use error::PosteriorError;
pub use invert::{invert, precision_from_matrices};
pub use labels::cells::{CellScatter, FEWEST_STARS, Interval, LabelCells};
pub use labels::error_budget::{in_label_units, total_covariance};
pub use labels::fit::LabelFit;
pub use labels::flux_covariance::{flux_covariance, flux_covariance_in_blocks};
pub use labels::held_out::{HeldOutStars, KnownParts, OVERWHELMED, is_overwhelmed};
pub use labels::predictive::{WeightsPart, weights_part_of_blocks};
pub use labels::psd::{Clipped, clip_to_psd};
pub use labels::pulls::{PullSums, Pulls};
pub use labels::scale::LabelScale;
pub use labels::scatter::{NOISE_FLOOR, ScatterEstimate};
pub use labels::stray::{LabelEnds, StrayLabel};
pub use peers::{Convention, NamedTensor, Peer, Reduction};
pub use prior::evidence::{Evidence, EvidencePoint, evidence};
pub use prior::holdout::{HoldoutPoint, HoldoutPrior, ScannedStars, holdout_grid, prior_by_holdout};
pub use prior::scan::{PriorScan, scan_flops};
pub use prior::spectrum::Spectrum;
pub use structures::block_info::{BlockInfo, LowRankFacts};
pub use structures::dual::{
    DualFacts, DualLayout, DualPrecision, DualSource, OpenTile, WholeGram, dual_from_tiles, dual_marginal_variance,
    dual_prior_scan, exact_posterior, gram_tile, trace_of_inverse,
};
pub use structures::factor::{Factor, NamedMatrix};
pub use structures::factored_block::{FactoredBlock, factor, kronecker_bases};
pub use structures::matrices::{bases_from_matrices, bases_matrices, hessian_from_matrices, hessian_matrices};
pub use structures::part::PosteriorPart;
pub use structures::precision::Precision;
