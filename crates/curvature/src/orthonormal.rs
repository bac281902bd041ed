//! Long vectors: orthogonalisation, and eigenpairs of the small symmetric matrices that projections on them give.

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{MatMut, MatRef, Par};
use fisherflow_network::product::release_wide_registers;

use crate::CurvatureError;

/// `a . b`, in eight sums that are added in one fixed order.
#[must_use]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a.zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `|a|`.
pub(crate) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// `a += factor b`.
pub(crate) fn add_scaled(a: &mut [f64], factor: f64, b: &[f64]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += factor * b;
    }
}

/// `a` times `factor`.
pub(crate) fn scale(a: &mut [f64], factor: f64) {
    for a in a {
        *a *= factor;
    }
}

/// Takes from `v` what lies along the orthonormal `basis`, twice, which is enough for full precision (Giraud, Langou and Rozloznik 2005).
pub(crate) fn orthogonalise(v: &mut [f64], basis: &[Vec<f64>]) {
    for _ in 0..2 {
        for q in basis {
            let along = dot(v, q);
            add_scaled(v, -along, q);
        }
    }
}

/// Ascending eigenvalues of a symmetric `[n, n]` matrix, and its eigenvectors one after the other, `[n, n]`.
///
/// # Errors
/// They do not converge: a value is not finite.
pub(crate) fn eigenpairs(matrix: &[f64], n: usize) -> Result<(Vec<f64>, Vec<f64>), CurvatureError> {
    let request = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    let (mut values, mut vectors) = (vec![0.0; n], vec![0.0; n * n]);
    let mut workspace = MemBuffer::try_new(request).map_err(|_| CurvatureError::Eigenvalues { size: n })?;
    let solved = self_adjoint_evd(
        MatRef::from_column_major_slice(matrix, n, n),
        DiagMut::from_slice_mut(&mut values),
        Some(MatMut::from_column_major_slice_mut(&mut vectors, n, n)),
        Par::Seq,
        MemStack::new(&mut workspace),
        Default::default(),
    );
    release_wide_registers();
    match solved {
        Ok(()) if values.iter().all(|value| value.is_finite()) => Ok((values, vectors)),
        _ => Err(CurvatureError::Eigenvalues { size: n }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_products_of_any_length() {
        for len in [0, 1, 7, 8, 9, 40] {
            let a: Vec<f64> = (0..len).map(f64::from).collect();
            let expected: f64 = (0..len).map(|i| f64::from(i * i)).sum();
            assert_eq!(dot(&a, &a), expected);
        }
    }
}
