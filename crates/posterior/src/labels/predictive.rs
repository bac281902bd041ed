//! The weights' part of a star's error over the whole network: the sum over independent blocks.

use fisherflow_network::LayerCapture;

use crate::{PosteriorError, Precision};

/// `J_theta P^-1 J_theta^T` with P block-diagonal: the sum of the blocks' parts, in their order; `[batch, K, K]`, normalised label units.
///
/// # Errors
/// As [`Precision::covariance_of`].
pub fn covariance_of_blocks(
    blocks: &[Box<dyn Precision>],
    captures: &[LayerCapture],
) -> Result<Vec<f64>, PosteriorError> {
    let mut total: Vec<f64> = Vec::new();
    for block in blocks {
        let part = block.covariance_of(captures)?;
        if total.is_empty() {
            total = part;
        } else {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    }
    Ok(total)
}
