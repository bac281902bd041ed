//! Prior and curvature to posterior: the inverse of every block, the predictive covariance it gives each star, and the error budget.
//!
//! A block of the Hessian arrives as a [`BlockCurvature`](fisherflow_curvature::BlockCurvature): a sum over spectra, in normalised
//! label units. [`invert`] adds the prior precision `delta` and gives the block's posterior: `P = H + delta I` as a [`Precision`], whose
//! [`covariance_of`](Precision::covariance_of) is the weights' part of a star's error, `J_theta P^-1 J_theta^T`. The photons' part is
//! [`flux_covariance`]; what held-out residuals show beyond both is [`HeldOutStars::intrinsic`]; [`ErrorBudget::total`] adds the three.
//!
//! Everything here is arithmetic on arrays: no files, no threads of its own beyond those of the matrix products. Factorisations and
//! eigenproblems are always f64; the products of a prediction follow the captures' type.

mod block_info;
mod captures;
mod certificate;
mod contraction;
mod cost;
mod dense;
mod diagonal;
mod dual;
mod eigen;
mod eigenbasis;
mod elements;
mod error;
mod error_budget;
mod evidence;
mod factor;
mod factored_block;
mod flux_covariance;
mod held_out;
mod invert;
mod kronecker;
mod label_cells;
mod label_fit;
mod label_scale;
mod low_rank;
mod matrices;
mod matrix_set;
mod part;
mod peers;
mod precision;
mod predictive;
mod prior_by_holdout;
mod prior_scan;
mod product;
mod psd;
mod pulls;
mod scatter;
mod shape_checks;
mod small;
mod spectrum;
mod weighted_gram;

#[cfg(test)]
mod brute_force;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod evidence_oracle;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod refusals;

pub use block_info::{BlockInfo, LowRankFacts};
pub use certificate::{
    BlockCertificate, Certificate, ComparedStructure, Comparison, CurvatureShare, NewtonStep, Probe, ProbeSums,
    SigmaRatio, Subset, curvature_share, newton_step, verdict,
};
pub use cost::{DualCost, bases_flops, inverse_flops, measured_product_rate, spectrum_flops};
pub use dual::{
    DualFacts, DualLayout, DualPrecision, DualSource, OpenTile, WholeGram, dual_from_tiles, dual_marginal_variance,
    dual_posterior, dual_prior_scan, dual_spectrum, exact_posterior, gram_tile, trace_of_inverse,
};
pub use error::PosteriorError;
pub use error_budget::{ErrorBudget, in_label_units};
pub use evidence::{Evidence, EvidencePoint, evidence};
pub use factor::{Factor, NamedMatrix};
pub use factored_block::{FactoredBlock, factor, kronecker_bases};
pub use flux_covariance::{flux_covariance, flux_covariance_in_blocks};
pub use held_out::{HeldOutStars, KnownParts, OVERWHELMED};
pub use invert::{BlockPosterior, invert, precision_from_matrices};
pub use label_cells::{CellScatter, FEWEST_STARS, Interval, LabelCells};
pub use label_fit::{LabelFit, StrayLabel};
pub use label_scale::LabelScale;
pub use matrices::{bases_from_matrices, bases_matrices, hessian_from_matrices, hessian_matrices};
pub use part::PosteriorPart;
pub use peers::{Convention, NamedTensor, Peer, Reduction};
pub use precision::Precision;
pub use predictive::covariance_of_blocks;
pub use prior_by_holdout::{HoldoutPoint, HoldoutPrior, ScannedStars, holdout_grid, prior_by_holdout};
pub use prior_scan::{PriorScan, scan_flops};
pub use psd::{Clipped, clip_to_psd};
pub use pulls::{PullSums, Pulls};
pub use scatter::{NOISE_FLOOR, ScatterEstimate};
pub use spectrum::Spectrum;
