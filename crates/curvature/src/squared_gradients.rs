//! Sums of squared weight gradients, weight by weight: `sum_n sum_j (sum_t d_ntj b_nt^T)^2`, `[out, in]`.
//!
//! `d_ntj` are whitened gradients, `b_nt` inputs, in whichever bases; t runs over the positions of a spectrum that share the weights. With one
//! position the square of an outer product is the outer product of squares, and the whole is one product of matrices, `(sum_j d_j^2)^T b^2`, all
//! of whose terms are positive. With more, each spectrum's gradient is formed. Products are taken in the captures' type and added in f64.

use faer::{MatMut, MatRef};
use fisherflow_kernels::{Products, Start, multiply};
use fisherflow_network::DenseShape;
use fisherflow_network::product::in_wide_registers;
use fisherflow_network::scratch::{Number, Scratch};

use crate::products::add_cross_with_squares;

/// Sizes of a batch's inputs `[batch, shared, inputs]` and whitened gradients `[batch, shared, n_labels, outputs]`.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub shared: usize,
    pub n_labels: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// Operations that form the K rows of a spectrum's Jacobian of a layer whose weights positions share; 0 of a layer at one
/// position, whose rows are no sums.
pub(crate) fn shared_rows_flops(shape: &DenseShape, n_labels: usize) -> f64 {
    if shape.shared > 1 {
        2.0 * n_labels as f64 * shape.shared as f64 * shape.n_weights() as f64
    } else {
        0.0
    }
}

/// Adds a batch to `sums`, `[outputs, inputs]`.
pub(crate) fn add_squared_gradients<T: Number>(
    input: &[T],
    whitened: &[T],
    sizes: Sizes,
    sums: &mut [f64],
    products: impl Into<Products>,
) {
    let products = products.into();
    let Sizes {
        shared,
        n_labels,
        inputs,
        outputs,
    } = sizes;
    debug_assert_eq!(sums.len(), inputs * outputs);
    if shared == 1 {
        let squares = sums_of_squares(whitened, n_labels, outputs);
        let mut rounded = Scratch::new(squares.len());
        for (to, square) in rounded.iter_mut().zip(&squares) {
            *to = T::from_f64(*square);
        }
        return add_cross_with_squares(&rounded, outputs, input, inputs, sums, inputs, products);
    }
    let stride = n_labels * outputs;
    let mut gradient = vec![T::zero_impl(); outputs * inputs];
    for (input, whitened) in input
        .chunks_exact((shared * inputs).max(1))
        .zip(whitened.chunks_exact((shared * stride).max(1)))
    {
        let input = MatRef::from_row_major_slice(input, shared, inputs);
        for label in 0..n_labels {
            let rows = MatRef::from_row_major_slice_with_stride(&whitened[label * outputs..], shared, outputs, stride);
            multiply(
                MatMut::from_row_major_slice_mut(&mut gradient, outputs, inputs),
                Start::Zero,
                rows.transpose(),
                input,
                products,
            );
            for (sum, value) in sums.iter_mut().zip(&gradient) {
                let value = value.to_f64();
                *sum += value * value;
            }
        }
    }
}

/// `sum_j d_nj^2`, `[batch, outputs]` in f64, from whitened gradients `[batch, n_labels, outputs]` of one position a spectrum.
pub(crate) fn sums_of_squares<T: Number>(whitened: &[T], n_labels: usize, outputs: usize) -> Vec<f64> {
    let mut squares = vec![0.0; whitened.len() / n_labels.max(1)];
    let spectra = whitened.chunks_exact((n_labels * outputs).max(1));
    in_wide_registers(|| {
        for (spectrum, squares) in spectra.zip(squares.chunks_exact_mut(outputs)) {
            for row in spectrum.chunks_exact(outputs) {
                for (sum, value) in squares.iter_mut().zip(row) {
                    *sum += value.to_f64() * value.to_f64();
                }
            }
        }
    });
    squares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_add_before_the_square_and_labels_and_spectra_after() {
        // Two spectra, two positions, one label, one output, two inputs.
        let sizes = Sizes {
            shared: 2,
            n_labels: 1,
            inputs: 2,
            outputs: 1,
        };
        let input = [1.0, 2.0, 3.0, -1.0, 0.0, 1.0, 1.0, 1.0];
        let mut sums = vec![0.5; 2];
        add_squared_gradients(&input, &[2.0, 1.0, -1.0, 3.0], sizes, &mut sums, 1);
        // (2 + 3)^2 + (0 + 3)^2 and (4 - 1)^2 + (-1 + 3)^2
        assert_eq!(sums, [34.5, 13.5]);

        // The same four rows as one position of four spectra, and as two labels of two.
        let alone = Sizes { shared: 1, ..sizes };
        let input = [1.0f32, 2.0, 3.0, -1.0, 0.0, 1.0, 1.0, 1.0];
        let mut sums = vec![0.0; 2];
        add_squared_gradients(&input, &[2.0, 1.0, -1.0, 3.0], alone, &mut sums, 2);
        assert_eq!(sums, [4.0 + 9.0 + 0.0 + 9.0, 16.0 + 1.0 + 1.0 + 9.0]);
        assert_eq!(sums_of_squares(&[3.0, 4.0], 2, 1), [25.0]);
    }
}
