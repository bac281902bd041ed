//! The parts of a batch's error budget that the network and its posterior give.

use fisherflow_posterior::{WeightsPart, in_label_units, weights_part_of_blocks};

use super::differentiated::{Differentiated, not_computed};
use crate::context::Context;
use crate::error::RunError;

/// `J_x C_flux J_x^T` of every row: `[n, K, K]`, label units.
pub(crate) fn flux_part(differentiated: &Differentiated) -> Result<Vec<f64>, RunError> {
    differentiated.flux_part.clone().ok_or_else(not_computed)
}

/// `J_theta P^-1 J_theta^T` of every row, summed over the blocks of weights: `[n, K, K]`, label units; times the factors of the labels from
/// both sides, where they are asked for and known.
pub(crate) fn weights_part(context: &Context, differentiated: &Differentiated) -> Result<WeightsPart, RunError> {
    let mut part = weights_part_of_blocks(&context.posterior()?, &differentiated.backward.captures)?;
    in_label_units(&mut part.covariance, &context.network.labels().scale)?;
    if let Some(scale) = context.label_scale() {
        in_label_units(&mut part.covariance, scale)?;
    }
    Ok(part)
}
