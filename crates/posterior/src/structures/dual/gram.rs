//! Tiles of the Gram matrix of Jacobian rows, `Q[(n,j),(m,i)] = sum over layers of (a_n . a_m + 1) (g_nj . g_mi)` (without the 1 where
//! there is no bias), and its eigenvalues.
//!
//! Two products a layer and one pass over the tile: `2 n m (in + K^2 out)` operations where the Jacobian's own product would take
//! `2 n m K^2 in out` (the neural tangent kernel's usual form; Jacot et al. 2018, arXiv:1806.07572).

use faer::MatRef;
use fisherflow_curvature::{Matrix, WeightJacobian};

use super::DualLayout;
use crate::eigen::{Eigenpairs, decompose, eigenvalues};
use crate::product::{dot, product, rows as row_major};
use crate::{Factor, PosteriorError, Spectrum};

/// The inner products of the rows of some spectra with those of others, `[rows, columns]`; both of the same block.
#[must_use]
pub fn gram_tile(rows: &WeightJacobian, columns: &WeightJacobian, threads: usize) -> Matrix {
    let (k, across) = (rows.n_labels(), columns.n_labels());
    let (height, width) = (rows.n_rows(), columns.n_rows());
    let mut sum = vec![0.0; height * width];
    let mut weights = vec![0.0; width];
    for (left, right) in rows.layers().iter().zip(columns.layers()) {
        let inputs = product(view(&left.inputs), view(&right.inputs).transpose(), threads);
        let gradients = product(view(&left.gradients), view(&right.gradients).transpose(), threads);
        for spectrum in 0..rows.n_spectra() {
            let inputs = &inputs[spectrum * columns.n_spectra()..][..columns.n_spectra()];
            for (weights, input) in weights.chunks_exact_mut(across).zip(inputs) {
                weights.fill(input + left.one());
            }
            let here = spectrum * k * width..(spectrum + 1) * k * width;
            for (sum, gradients) in sum[here.clone()]
                .chunks_exact_mut(width)
                .zip(gradients[here].chunks_exact(width))
            {
                for ((sum, g), weight) in sum.iter_mut().zip(gradients).zip(&weights) {
                    *sum += g * weight;
                }
            }
        }
    }
    Matrix {
        rows: height,
        cols: width,
        values: sum,
    }
}

/// The diagonal of Q over some rows.
pub(super) fn gram_diagonal(rows: &WeightJacobian) -> Vec<f64> {
    let k = rows.n_labels();
    (0..rows.n_rows())
        .map(|row| own_product(rows, row / k, row % k, row % k))
        .collect()
}

/// The inner product of rows i and j of one spectrum.
pub(super) fn own_product(rows: &WeightJacobian, spectrum: usize, i: usize, j: usize) -> f64 {
    let k = rows.n_labels();
    let of = |matrix: &Matrix, row: usize| row * matrix.cols..(row + 1) * matrix.cols;
    rows.layers()
        .iter()
        .map(|layer| {
            let input = &layer.inputs.values[of(&layer.inputs, spectrum)];
            let gradient = |j: usize| &layer.gradients.values[of(&layer.gradients, spectrum * k + j)];
            (dot(input, input) + layer.one()) * dot(gradient(i), gradient(j))
        })
        .sum()
}

/// Q in one piece, tile by tile, for its eigenvalues.
pub struct WholeGram {
    layout: DualLayout,
    matrix: Matrix,
}

impl WholeGram {
    /// Of a layout, with no tile yet.
    #[must_use]
    pub fn new(layout: &DualLayout) -> Self {
        let n = layout.n_rows();
        Self {
            layout: layout.clone(),
            matrix: Matrix {
                rows: n,
                cols: n,
                values: vec![0.0; n * n],
            },
        }
    }

    /// Puts the values of a tile of the lower triangle, `column <= row`, to its place and its mirror.
    pub fn put(&mut self, row: usize, column: usize, values: &[f64]) {
        let (n, width) = (self.matrix.cols, self.layout.rows_of(column));
        let (first, left) = (self.layout.first_row(row), self.layout.first_row(column));
        for (i, line) in values.chunks_exact(width.max(1)).enumerate() {
            for (j, &value) in line.iter().enumerate() {
                self.matrix.values[(first + i) * n + left + j] = value;
                self.matrix.values[(left + j) * n + first + i] = value;
            }
        }
    }

    /// The eigenvalues of the block's Hessian: those of Q, but for zeros.
    ///
    /// # Errors
    /// If they do not converge, or the matrix is no sum of squares.
    pub fn spectrum(&self, threads: usize) -> Result<Spectrum, PosteriorError> {
        let plan = &self.layout.plan;
        let found = eigenvalues(&self.matrix, &plan.name(), Factor::Gram, threads)?;
        Ok(Spectrum::of_rank(found.values, plan.n_weights(), found.clipped))
    }

    /// The eigenpairs of Q.
    pub(super) fn into_pairs(self, threads: usize) -> Result<Eigenpairs, PosteriorError> {
        decompose(self.matrix, &self.layout.plan.name(), Factor::Gram, threads)
    }
}

/// A matrix as the products take it.
pub(super) fn view(matrix: &Matrix) -> MatRef<'_, f64> {
    row_major(&matrix.values, matrix.rows, matrix.cols)
}
