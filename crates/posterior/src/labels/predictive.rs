//! The weights' part of a star's error over the whole network: the sum over independent blocks.

use fisherflow_network::LayerCapture;

use crate::{PosteriorError, Precision};

/// The weights' part of some stars' errors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightsPart {
    /// `J_theta P^-1 J_theta^T`: `[batch, K, K]`, normalised label units.
    pub covariance: Vec<f64>,
    /// The stars, in order, of which a layer's inputs were rotated in f32, because in the shorter numbers that were asked for their covariance would
    /// have been off by more than 1e-3.
    pub in_f32: Vec<usize>,
}

impl From<Vec<f64>> for WeightsPart {
    fn from(covariance: Vec<f64>) -> Self {
        Self {
            covariance,
            in_f32: Vec::new(),
        }
    }
}

/// `J_theta P^-1 J_theta^T` with P block-diagonal: the sum of the blocks' parts, in their order, and the stars that any of them took the slower
/// path for.
///
/// # Errors
/// As [`Precision::covariance_of`].
pub fn weights_part_of_blocks(
    blocks: &[Box<dyn Precision>],
    captures: &[LayerCapture],
) -> Result<WeightsPart, PosteriorError> {
    let mut total = WeightsPart::default();
    for block in blocks {
        let part = block.weights_part(captures)?;
        if total.covariance.is_empty() {
            total.covariance = part.covariance;
        } else {
            let sums = total.covariance.iter_mut().zip(part.covariance);
            sums.for_each(|(total, part)| *total += part);
        }
        total.in_f32.extend(part.in_f32);
    }
    total.in_f32.sort_unstable();
    total.in_f32.dedup();
    Ok(total)
}
