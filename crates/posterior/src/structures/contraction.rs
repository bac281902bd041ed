//! The last step of a Jacobian-free predictive covariance: `V_kl = sum_i g_ki g_li h_i`.
//!
//! For a dense layer `J_theta = g_k (x) a`, and for a `P^-1` that is diagonal in some pair of bases, with elements `w_ji`, what is left is
//! `h_i = sum_j a_j^2 w_ji`, a product of matrices, and this sum. With `V^T a`, `U^T g` for a and g it is the Kronecker structure's
//! predictive, with a and g themselves the diagonal's. Where a spectrum's positions share the weights, its rows of the Jacobian are
//! `sum_t g_kt (x) a_t`: they are formed, one spectrum at a time, and `V_kl = sum_ij J_kij J_lij w_ji`.

use candle_core::WithDType;
use fisherflow_network::scratch::{Number, Scratch};

use crate::labels::weighted_gram::WeightedGram;
use crate::product::{Right, dot, product, rows};
use crate::structures::captures::Sides;
use crate::structures::stieltjes::Reading;

/// `V: [batch, K, K]` in f64 from both sides of the Jacobian in the bases of `inverse`, `[columns, out]`.
pub(crate) fn covariance<T: Number>(sides: &Sides<T>, inverse: &[T], threads: usize) -> Vec<f64> {
    if sides.batch == 0 {
        Vec::new()
    } else if sides.shared == 1 {
        let columns = sides.input.len() / sides.batch;
        let inverse = Right::Plain(rows(inverse, columns, inverse.len() / columns.max(1)));
        let h = weighted_squares(&sides.input, sides.batch, inverse, threads);
        contract(&h, (sides.batch, sides.n_outputs), &sides.grad)
    } else {
        contract_positions(sides, inverse, threads)
    }
}

/// The same where a row of the Jacobian is a sum over positions.
fn contract_positions<T: Number>(sides: &Sides<T>, inverse: &[T], threads: usize) -> Vec<f64> {
    let Sides {
        batch,
        shared,
        n_outputs: k,
        ..
    } = *sides;
    let mut covariance = vec![0.0; batch * k * k];
    let positions = batch * shared;
    if positions == 0 || k == 0 {
        return covariance;
    }
    let (inputs, outputs) = (sides.input.len() / positions, sides.grad.len() / (k * positions));
    let mut weighted = vec![0.0; inputs * outputs];
    for (n, covariance) in covariance.chunks_exact_mut(k * k).enumerate() {
        let input = rows(&sides.input[n * shared * inputs..][..shared * inputs], shared, inputs);
        let jacobian: Vec<Vec<f64>> = (0..k)
            .map(|output| {
                let first = (output * positions + n * shared) * outputs;
                let grad = rows(&sides.grad[first..][..shared * outputs], shared, outputs);
                let row = product(input.transpose(), grad, threads);
                row.into_iter().map(WithDType::to_f64).collect()
            })
            .collect();
        for (i, row) in jacobian.iter().enumerate() {
            for ((to, x), w) in weighted.iter_mut().zip(row).zip(inverse) {
                *to = x * w.to_f64();
            }
            for (j, other) in jacobian.iter().enumerate().take(i + 1) {
                let sum = dot(&weighted, other);
                covariance[i * k + j] = sum;
                covariance[j * k + i] = sum;
            }
        }
    }
    covariance
}

/// `sum_j a_j^2 w_jx`, `[batch, columns of w]`, of one position a spectrum.
pub(crate) fn weighted_squares<T: Number>(
    input: &[T],
    batch: usize,
    weights: Right<'_, T>,
    threads: usize,
) -> Scratch<T> {
    let mut squares = Scratch::new(input.len());
    for (square, a) in squares.iter_mut().zip(input) {
        *square = *a * *a;
    }
    weights.product(rows(&squares, batch, input.len() / batch.max(1)), None, threads)
}

/// `V: [batch, K, K]` in f64 of h, `[batch, out]`, and `grad`, `[K, batch, out]`, one position a spectrum.
pub(crate) fn contract<T: Number>(h: &[T], (batch, k): (usize, usize), grad: &[T]) -> Vec<f64> {
    let outputs = h.len() / batch.max(1);
    grams(batch, k, grad, outputs, |n, own| {
        own.copy_from_slice(&h[n * outputs..][..outputs])
    })
}

/// The same with every `h_i` read off `values`, `[batch, points]`.
pub(crate) fn contract_read_off<T: Number>(
    values: &[T],
    (batch, k): (usize, usize),
    grad: &[T],
    readings: &[Reading<T>],
) -> Vec<f64> {
    let points = values.len() / batch.max(1);
    grams(batch, k, grad, readings.len(), |n, h| {
        let values = &values[n * points..][..points];
        for (h, reading) in h.iter_mut().zip(readings) {
            *h = reading.of(values);
        }
    })
}

/// `V_kl = sum_i g_ki g_li h_i` of every spectrum, whose h `write_h` gives.
fn grams<T: Number>(
    batch: usize,
    k: usize,
    grad: &[T],
    outputs: usize,
    mut write_h: impl FnMut(usize, &mut [T]),
) -> Vec<f64> {
    let mut covariance = vec![0.0; batch * k * k];
    let (mut gram, mut h) = (WeightedGram::new(k), vec![T::ZERO; outputs]);
    for (n, covariance) in covariance.chunks_exact_mut((k * k).max(1)).enumerate() {
        write_h(n, &mut h);
        gram.write(|row| &grad[(row * batch + n) * outputs..][..outputs], &h, covariance);
    }
    covariance
}
