//! The exact posterior of all weights of a block, cross terms included, through the Gram matrix of the rows of its weight Jacobian.
//!
//! With `J` the whitened Jacobian of N training spectra (K rows each, [`WeightJacobian`]) the GGN is `H = J^T J`, of rank at most `K N`. Its
//! Gram matrix over rows, `Q = J J^T`, needs no J: `Q[(n,j),(m,i)] = sum over layers of (a_n . a_m + 1) (g_nj . g_mi)`. With the prior
//! precision `delta`, `P = J^T J + delta I` over p weights, and `L L^T = Q + delta I` (Woodbury's identity):
//!
//! ```text
//! P^-1               = (I - J^T (Q + delta I)^-1 J) / delta
//! J* P^-1 J*^T       = (k** - Y Y^T) / delta,     k** = J* J*^T,   Y = J* J^T L^-T
//! ln det P           = (p - K N) ln delta + 2 sum ln L_ii
//! gamma              = tr H P^-1 = K N - delta |L^-1|_F^2
//! ```
//!
//! Everything is f64. A variance is a difference of two numbers of the size of `k**`: of its digits as many are lost as `condition` has, so
//! that a prior precision that vanishes in the rounding of Q is refused. Nothing here knows where rows and tiles are kept:
//! [`DualSource`] hands them out. Q and L are cut into tiles by the chunks of the rows, so every result has the same bits wherever they are,
//! whoever computed them and on however many threads.

mod exact;
mod gram;
mod layout;
mod marginal;
mod precision;
mod scan;
mod stored;
mod substitution;
mod tiles;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use fisherflow_curvature::{Matrix, WeightJacobian};

pub(crate) use exact::exact_covariance;
pub use exact::exact_posterior;
pub use gram::{WholeGram, gram_tile};
pub use layout::{DualFacts, DualLayout};
pub use marginal::dual_marginal_variance;
pub use precision::DualPrecision;
pub(crate) use precision::times_weights;
pub(crate) use scan::DualScan;
pub use scan::dual_prior_scan;
pub use stored::dual_from_tiles;
pub(crate) use stored::from_matrices;
pub use substitution::trace_of_inverse;
pub use tiles::OpenTile;

use crate::PosteriorError;

/// Where the rows of the training spectra and the Cholesky factor of `Q + delta I` are.
pub trait DualSource: Send + Sync {
    /// The whitened Jacobian rows of a chunk of training spectra.
    ///
    /// # Errors
    /// [`PosteriorError::Source`] where they cannot be had.
    fn rows(&self, chunk: usize) -> Result<Arc<WeightJacobian>, PosteriorError>;

    /// A tile of L, `[rows of chunk row, rows of chunk column]`, `column <= row`; 0 above the diagonal.
    ///
    /// # Errors
    /// [`PosteriorError::Source`] where it cannot be had.
    fn factor(&self, row: usize, column: usize) -> Result<Arc<Matrix>, PosteriorError>;
}
