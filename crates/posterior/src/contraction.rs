//! The last step of a Jacobian-free predictive covariance: `V_kl = sum_i g_ki g_li h_i`.
//!
//! For a dense layer `J_theta = g_k (x) a`, and for a `P^-1` that is diagonal in some pair of bases, with elements `w_ji`, what is left is
//! `h_i = sum_j a_j^2 w_ji`, a product of matrices, and this sum. With `V^T a`, `U^T g` for a and g it is the Kronecker structure's
//! predictive, with a and g themselves the diagonal's.

use crate::product::{Scalar, dot, product, rows};

/// `V: [batch, K, K]` in f64 from the rotated inputs `[batch, in + 1]` (overwritten by their squares), the rotated gradients
/// `[K, batch, out]` and `inverse: [in + 1, out]`. The products are in `T`, the last sum is in f64.
pub(crate) fn contract<T: Scalar>(
    mut input: Vec<T>,
    grad: &[T],
    inverse: &[T],
    batch: usize,
    n_outputs: usize,
    threads: usize,
) -> Vec<f64> {
    let mut covariance = vec![0.0; batch * n_outputs * n_outputs];
    if batch == 0 || n_outputs == 0 || grad.is_empty() {
        return covariance;
    }
    let inputs = input.len() / batch;
    let outputs = grad.len() / (batch * n_outputs);
    for a in &mut input {
        *a = *a * *a;
    }
    let h = product(rows(&input, batch, inputs), rows(inverse, inputs, outputs), threads);
    let mut spectrum = vec![0.0; n_outputs * outputs];
    let mut weighted = vec![0.0; outputs];
    for n in 0..batch {
        for (k, row) in spectrum.chunks_exact_mut(outputs).enumerate() {
            let at = (k * batch + n) * outputs;
            for (to, &from) in row.iter_mut().zip(&grad[at..at + outputs]) {
                *to = from.to_f64();
            }
        }
        let h = &h[n * outputs..(n + 1) * outputs];
        for (k, row) in spectrum.chunks_exact(outputs).enumerate() {
            for ((w, &g), &h) in weighted.iter_mut().zip(row).zip(h) {
                *w = g * h.to_f64();
            }
            for (l, other) in spectrum.chunks_exact(outputs).take(k + 1).enumerate() {
                let sum = dot(&weighted, other);
                covariance[(n * n_outputs + k) * n_outputs + l] = sum;
                covariance[(n * n_outputs + l) * n_outputs + k] = sum;
            }
        }
    }
    covariance
}
