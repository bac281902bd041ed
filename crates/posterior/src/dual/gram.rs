//! Tiles of the Gram matrix of Jacobian rows, `Q[(n,j),(m,i)] = sum over layers of (a_n . a_m + 1) (g_nj . g_mi)`, and its eigenvalues.
//!
//! Two products a layer and one pass over the tile: `2 n m (in + K^2 out)` operations where the Jacobian's own product would take
//! `2 n m K^2 in out` (the neural tangent kernel's usual form; Jacot et al. 2018, arXiv:1806.07572).

use faer::MatRef;
use fisherflow_curvature::{BlockPlan, JacobianRows, Matrix};

use crate::eigen::eigenvalues;
use crate::product::{product, rows as row_major};
use crate::{Factor, PosteriorError, Spectrum};

/// The inner products of the rows of some spectra with those of others, `[rows, columns]`; both of the same block.
#[must_use]
pub fn gram_tile(rows: &JacobianRows, columns: &JacobianRows, threads: usize) -> Matrix {
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
                weights.fill(input + 1.0);
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

/// The eigenvalues of a dual block's Hessian from those of its Gram matrix `[K N, K N]`, of which one triangle is read: the same but for
/// zeros.
///
/// # Errors
/// If they do not converge, or the matrix is no sum of squares.
pub fn gram_spectrum(plan: &BlockPlan, gram: &Matrix, threads: usize) -> Result<Spectrum, PosteriorError> {
    let found = eigenvalues(gram, &plan.name(), Factor::Gram, threads)?;
    Ok(Spectrum::of_rank(found.values, plan.n_weights(), found.clipped))
}

/// A matrix as the products take it.
pub(super) fn view(matrix: &Matrix) -> MatRef<'_, f64> {
    row_major(&matrix.values, matrix.rows, matrix.cols)
}
