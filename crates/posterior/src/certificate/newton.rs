//! Whether theta is a minimum: the gradient of `E = 1/2 sum_n r_n^T Lam_n r_n + 1/2 delta |theta|^2` and how far the minimum is.
//!
//! With the gradient `g = - sum_n J_n^T Lam_n r_n + delta theta` the minimum of the posterior's quadratic is at `theta - P^-1 g`; its distance
//! in posterior standard deviations is the Newton decrement `sqrt(g^T P^-1 g)` (Boyd and Vandenberghe 2004, 9.5). A weight drawn from the
//! posterior is at a distance of about `sqrt(gamma)` in the directions that the spectra determine.

use serde::{Deserialize, Serialize};

use crate::product::dot;
use crate::{PosteriorError, Precision, or_null};

/// The gradient of E at theta.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewtonStep {
    /// `|g|`, normalised label units.
    #[serde(with = "or_null")]
    pub gradient_norm: f64,
    /// `sqrt(g^T P^-1 g)`: posterior standard deviations to the minimum of the quadratic.
    #[serde(with = "or_null")]
    pub decrement: f64,
}

impl NewtonStep {
    /// Of several blocks together; `None` where one is not known, or there is none.
    #[must_use]
    pub fn total(blocks: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        let mut blocks = blocks.into_iter().peekable();
        blocks.peek()?;
        let squares = blocks.try_fold((0.0, 0.0), |(norm, decrement), block| {
            let block = block?;
            Some((norm + block.gradient_norm.powi(2), decrement + block.decrement.powi(2)))
        })?;
        Some(Self {
            gradient_norm: squares.0.sqrt(),
            decrement: squares.1.sqrt(),
        })
    }
}

/// From `fit = sum_n J_n^T Lam_n r_n` of a block and its weights `theta`, both layer after layer `[W | b]`.
///
/// # Errors
/// Vectors that are not as long as the block has weights.
pub fn newton_step(precision: &dyn Precision, fit: &[f64], theta: &[f64]) -> Result<NewtonStep, PosteriorError> {
    if fit.len() != theta.len() {
        return Err(PosteriorError::Shape {
            what: "the weights beside a gradient".to_owned(),
            expected: vec![fit.len()],
            found: vec![theta.len()],
        });
    }
    let delta = precision.info().prior_precision;
    let gradient: Vec<f64> = fit.iter().zip(theta).map(|(fit, theta)| delta * theta - fit).collect();
    let square = precision.quadratic(&gradient)?;
    Ok(NewtonStep {
        gradient_norm: dot(&gradient, &gradient).sqrt(),
        // Below 0 from rounding; `max` would take what is not a number for 0, a minimum.
        decrement: if square < 0.0 { 0.0 } else { square.sqrt() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_read_back() {
        for (gradient_norm, decrement) in [(2.0, f64::NAN), (f64::NAN, f64::NAN), (2.0, 1.5)] {
            let step = NewtonStep {
                gradient_norm,
                decrement,
            };
            let json = serde_json::to_string(&step).unwrap();
            let read: NewtonStep = serde_json::from_str(&json).unwrap();
            for (read, written) in [(read.gradient_norm, gradient_norm), (read.decrement, decrement)] {
                assert!(read == written || (read.is_nan() && written.is_nan()), "{json}");
            }
        }
    }
}
