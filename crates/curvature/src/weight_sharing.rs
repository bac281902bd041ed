//! How Kronecker factors sum over positions of a spectrum that share a layer's weights (Eschenhagen et al. 2023, arXiv:2311.00636).
//!
//! The weight gradient of output k is `sum_t g_kt [a_t; 1]^T`, whose second moment is no Kronecker product. With T positions and N spectra,
//!
//! ```text
//! expand   S_A = sum_n sum_t [a;1][a;1]^T                       S_G = sum_n sum_t sum_kl Lam_kl g_k g_l^T       H ~ S_G (x) S_A / (N T)
//! reduce   the same of mean_t a and sum_t g_k, one term a spectrum                                              H ~ S_G (x) S_A / N
//! ```
//!
//! With one position a spectrum, as in every dense layer on a vector, they are the same.

use fisherflow_network::scratch::Number;
use serde::{Deserialize, Serialize};

/// What a term of the Kronecker factors' sums is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightSharing {
    /// A position: exact where the positions of a spectrum are independent, as are those of a sequence whose loss is a sum over them.
    #[default]
    Expand,
    /// A spectrum, its input averaged and its gradients summed over positions: exact where the network averages over positions.
    Reduce,
}

/// The means over positions of inputs `[batch, shared, width]`, in f64 rounded once: `[batch, width]`.
pub(crate) fn mean_over_positions<T: Number>(values: &[T], shared: usize, width: usize) -> Vec<T> {
    over_positions(values, shared, width, shared as f64)
}

/// The sums over positions of gradients `[.., shared, width]`, in f64 rounded once: `[.., width]`.
pub(crate) fn sum_over_positions<T: Number>(values: &[T], shared: usize, width: usize) -> Vec<T> {
    over_positions(values, shared, width, 1.0)
}

fn over_positions<T: Number>(values: &[T], shared: usize, width: usize, divisor: f64) -> Vec<T> {
    let mut result = Vec::with_capacity(values.len() / shared.max(1));
    let mut sum = vec![0.0; width];
    for positions in values.chunks_exact((shared * width).max(1)) {
        sum.fill(0.0);
        for row in positions.chunks_exact(width) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += value.to_f64();
            }
        }
        result.extend(sum.iter().map(|&sum| T::from_f64(sum / divisor)));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_positions_of_two_spectra_by_hand() {
        let values = [1.0f32, 2.0, 3.0, 6.0, 0.0, 0.0, -2.0, 4.0];
        assert_eq!(mean_over_positions(&values, 2, 2), [2.0, 4.0, -1.0, 2.0]);
        assert_eq!(sum_over_positions(&values, 2, 2), [4.0, 8.0, -2.0, 4.0]);
        assert_eq!(mean_over_positions(&values, 1, 4), values);
        assert!(mean_over_positions::<f64>(&[], 3, 2).is_empty());
    }
}
