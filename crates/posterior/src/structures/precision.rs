//! What a block's posterior can do, whichever structure holds it.

use fisherflow_curvature::{BlockPlan, Matrix};
use fisherflow_network::LayerCapture;

use crate::certificate::of_weights;
use crate::labels::predictive::WeightsPart;
use crate::product::dot;
use crate::structures::elements::by_solving;
use crate::{BlockInfo, NamedMatrix, PosteriorError, Probe};

/// The posterior precision `P = H + delta I` of one block of weights, factored.
///
/// Everything is in normalised label units. Vectors over the block's weights run layer after layer in the block's order, each
/// `[W | b]` row-major (index = out * columns + column, the bias last where there is one).
pub trait Precision: Send + Sync {
    /// `P^-1 v`; `v`: one value a weight of the block.
    ///
    /// # Errors
    /// If `v` is not as long as the block has weights.
    fn solve(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError>;

    /// `v^T P^-1 v`: the variance of `v^T theta`.
    ///
    /// # Errors
    /// As of [`solve`](Self::solve).
    fn quadratic(&self, v: &[f64]) -> Result<f64, PosteriorError> {
        Ok(dot(v, &self.solve(v)?))
    }

    /// Some elements of `P^-1`, `[rows, cols]`: those of the weights `rows` with the weights `cols`.
    ///
    /// Here one [`solve`](Self::solve) a column; a structure that knows its elements gives them itself.
    ///
    /// # Errors
    /// If there is no such weight in the block.
    fn elements(&self, rows: &[usize], cols: &[usize]) -> Result<Matrix, PosteriorError> {
        by_solving(self, rows, cols)
    }

    /// The block's part of the outputs' covariance, `J_theta P^-1 J_theta^T`: `[batch, K, K]`, exactly symmetric.
    ///
    /// `captures` are those of all layers of the network, in f32 or f64; the block picks its own.
    ///
    /// # Errors
    /// If a layer of the block is not among the captures, or its shape, number of shared positions or type is one that the block's
    /// structure does not handle.
    fn covariance_of(&self, captures: &[LayerCapture]) -> Result<Vec<f64>, PosteriorError>;

    /// The same, and the stars that it took the slower path for.
    ///
    /// # Errors
    /// As [`covariance_of`](Self::covariance_of).
    fn weights_part(&self, captures: &[LayerCapture]) -> Result<WeightsPart, PosteriorError> {
        Ok(self.covariance_of(captures)?.into())
    }

    /// The diagonal of `P^-1`: for each layer of the block `[out, columns]`, the bias last where there is one.
    ///
    /// # Errors
    /// Of a dual block alone: it takes more operations than are affordable, its rows or factor cannot be had, or rounding swamps a variance.
    fn marginal_variance(&self) -> Result<Vec<Matrix>, PosteriorError>;

    /// What `posterior/inverse/` holds, enough for [`precision_from_matrices`](crate::precision_from_matrices) to build this again, so
    /// that it answers bit for bit the same.
    ///
    /// # Errors
    /// If the rows or the factor of a dual block cannot be had.
    fn inverse_matrices(&self) -> Result<Vec<NamedMatrix>, PosteriorError>;

    /// What shows, once it has met the training spectra, how far arithmetic has put the variances of some stars off: see [`Probe`]. `stars`
    /// are captures of all layers. Empty where the structure has no such check: with weights and biases in blocks of their own what the block
    /// answers with is not the H that the spectra have.
    ///
    /// # Errors
    /// As [`covariance_of`](Self::covariance_of).
    fn probes(&self, plan: &BlockPlan, stars: &[LayerCapture]) -> Result<Vec<Probe>, PosteriorError> {
        if plan.options.split_bias {
            return Ok(Vec::new());
        }
        of_weights(self, plan, stars)
    }

    /// Size, determinant, effective parameters, condition, and what was repaired.
    fn info(&self) -> &BlockInfo;
}
