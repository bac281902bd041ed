//! Eigendecomposition of a large symmetric matrix in two stages: to a band, to a tridiagonal, and back.
//!
//! A reduction to a tridiagonal in one stage reads the whole trailing matrix for every column, so it runs at the memory's speed. Here `A = Q1 B
//! Q1^T` with a band B of [`BANDWIDTH`](band::BANDWIDTH) diagonals (matrix products), `B = Q2 T Q2^T` in the cache, and the eigenvectors of
//! T are multiplied by Q2 and by Q1 in blocks. Additions happen in an order that the size alone decides.

use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use faer::{MatMut, Par};

use super::{Failure, PARTS, back, band, chase};

/// Ascending eigenvalues of the symmetric matrix of which `a` `[n, n]` holds the lower triangle, column-major.
pub(super) fn eigenvalues(mut a: Vec<f64>, n: usize, threads: usize) -> Result<Vec<f64>, Failure> {
    band::to_band(&mut a, n, threads);
    let chased = chase::to_tridiagonal(&a, n, threads);
    drop(a);
    tridiagonal(&chased.diagonal, &chased.off_diagonal, None)
}

/// The same and the eigenvectors, `[n, n]`, one after the other.
pub(super) fn eigenpairs(mut a: Vec<f64>, n: usize, threads: usize) -> Result<(Vec<f64>, Vec<f64>), Failure> {
    let panels = band::to_band(&mut a, n, threads);
    let chased = chase::to_tridiagonal(&a, n, threads);
    let mut vectors = vec![0.0; n * n];
    let values = tridiagonal(&chased.diagonal, &chased.off_diagonal, Some(&mut vectors))?;
    back::from_tridiagonal(&chased, &mut vectors, n, threads);
    drop(chased);
    back::from_band(&a, &panels, &mut vectors, n, threads);
    Ok((values, vectors))
}

/// Eigenvalues of a tridiagonal matrix and, where they are wanted, its eigenvectors.
fn tridiagonal(diagonal: &[f64], off_diagonal: &[f64], vectors: Option<&mut [f64]>) -> Result<Vec<f64>, Failure> {
    let n = diagonal.len();
    let compute = match vectors {
        Some(_) => ComputeEigenvectors::Yes,
        None => ComputeEigenvectors::No,
    };
    let par = Par::rayon(PARTS);
    let request = self_adjoint_evd_scratch::<f64>(n, compute, par, Default::default());
    let mut workspace = MemBuffer::try_new(request).map_err(|_| Failure::Memory(request.unaligned_bytes_required()))?;
    let mut values = vec![0.0; n];
    tridiagonal_self_adjoint_evd(
        DiagRef::from_slice(diagonal),
        DiagRef::from_slice(off_diagonal),
        DiagMut::from_slice_mut(&mut values),
        vectors.map(|vectors| MatMut::from_column_major_slice_mut(vectors, n, n)),
        par,
        MemStack::new(&mut workspace),
        Default::default(),
    )
    .map_err(|_| Failure::NoConvergence)?;
    Ok(values)
}
