//! Eigendecomposition of a large symmetric matrix in two stages: to a band, to a tridiagonal, and back.
//!
//! A reduction to a tridiagonal in one stage reads the whole trailing matrix for every column, so it runs at the memory's speed. Here `A = Q1 B
//! Q1^T` with a band B of [`BANDWIDTH`](band::BANDWIDTH) diagonals (matrix products), `B = Q2 T Q2^T` in the cache, and the eigenvectors of
//! T are multiplied by Q2 and by Q1 in blocks. Additions happen in an order that the size alone decides.

use faer::Par;
use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use fisherflow_kernels::{ColumnStrips, Path};

use super::{Failure, back, band, chase, divide};

/// Largest values below this, or above its inverse, are brought near 1.
const SMALL: f64 = 1e-60;

/// Ascending eigenvalues of the symmetric matrix of which `a` `[n, n]` holds the lower triangle, column-major.
pub(super) fn eigenvalues(mut a: Vec<f64>, n: usize, threads: usize) -> Result<Vec<f64>, Failure> {
    let unit = scale(&mut a)?;
    band::to_band(&mut a, n, threads);
    let chased = chase::to_tridiagonal(&a, n, threads);
    drop(a);
    let mut values = values_of_tridiagonal(&chased.diagonal, &chased.off_diagonal)?;
    values.iter_mut().for_each(|value| *value *= unit);
    Ok(values)
}

/// The same and the eigenvectors, `[n, n]` row-major, one a column.
pub(super) fn eigenpairs(mut a: Vec<f64>, n: usize, threads: usize) -> Result<(Vec<f64>, Vec<f64>), Failure> {
    let unit = scale(&mut a)?;
    let panels = band::to_band(&mut a, n, threads);
    let chased = chase::to_tridiagonal(&a, n, threads);
    let mut vectors = vec![0.0; ColumnStrips::room(Path::best(), n, n)];
    let mut values = divide::eigenpairs(&chased.diagonal, &chased.off_diagonal, &mut vectors[..n * n], threads)?;
    let mut vectors = ColumnStrips::from_columns(Path::best(), n, vectors, threads);
    back::from_tridiagonal(&chased, &mut vectors, n, threads);
    drop(chased);
    back::from_band(&a, &panels, &mut vectors, n, threads);
    vectors.to_rows(&mut a, threads);
    values.iter_mut().for_each(|value| *value *= unit);
    Ok((values, a))
}

/// Ascending eigenvalues of a tridiagonal matrix.
fn values_of_tridiagonal(diagonal: &[f64], off_diagonal: &[f64]) -> Result<Vec<f64>, Failure> {
    let n = diagonal.len();
    let request = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::No, Par::Seq, Default::default());
    let mut workspace = MemBuffer::try_new(request).map_err(|_| Failure::Memory(request.unaligned_bytes_required()))?;
    let mut values = vec![0.0; n];
    tridiagonal_self_adjoint_evd(
        DiagRef::from_slice(diagonal),
        DiagRef::from_slice(off_diagonal),
        DiagMut::from_slice_mut(&mut values),
        None,
        Par::Seq,
        MemStack::new(&mut workspace),
        Default::default(),
    )
    .map_err(|_| Failure::NoConvergence)?;
    Ok(values)
}

/// Multiplies by the power of two that brings the largest value near 1, where squares could over- or underflow; returns its inverse.
///
/// # Errors
/// A value is not finite: nothing would converge.
fn scale(a: &mut [f64]) -> Result<f64, Failure> {
    if !a.iter().all(|v| v.is_finite()) {
        return Err(Failure::NoConvergence);
    }
    let largest = a.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    if largest == 0.0 || (SMALL..=1.0 / SMALL).contains(&largest) {
        return Ok(1.0);
    }
    let exponent = largest.log2().round().clamp(-1000.0, 1000.0);
    let factor = (-exponent).exp2();
    a.iter_mut().for_each(|v| *v *= factor);
    Ok(exponent.exp2())
}
