//! Eigendecomposition of a factor that is a sum of squares, in f64, with rounding's negative eigenvalues set to 0.
//!
//! Large matrices go through a band ([`two_stage`]), small ones to faer. How the work is split is fixed by the size of the problem alone,
//! since that decides the last bits; `threads` is how many of the parts are worked on at a time.

mod back;
mod band;
mod chase;
mod divide;
mod householder;
mod secular;
mod two_stage;

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use fisherflow_curvature::Matrix;

use crate::{Factor, PosteriorError};

/// A negative eigenvalue larger than this share of the largest is no rounding error, whatever products were summed: ten times what was ever found. The
/// least exact are those of f32 as three of bf16 (no sums are made as one), which leave out up to `3 2^-16` of a term: that makes some 3e-6, and 1e-5
/// where all spectra are alike; f32 makes 1e-7, and 2e-6.
const INDEFINITE: f64 = 1e-4;

/// A problem of fewer rows is faer's, on one thread.
const LARGE: usize = 256;

/// Eigenvalues and eigenvectors of a symmetric positive semidefinite matrix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Eigenpairs {
    /// Ascending, none negative.
    pub values: Vec<f64>,
    /// `[n, n]` row-major: eigenvector j is column j.
    pub vectors: Vec<f64>,
    /// How many eigenvalues were negative and are 0 now.
    pub clipped: u64,
    /// The most negative, relative to the largest.
    pub most_negative: f64,
}

/// Eigenvalues of a symmetric positive semidefinite matrix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Eigenvalues {
    /// Ascending, none negative.
    pub values: Vec<f64>,
    /// How many were negative and are 0 now.
    pub clipped: u64,
    /// The most negative, relative to the largest.
    pub most_negative: f64,
}

/// Decomposes a symmetric matrix of which one triangle is read.
pub(crate) fn decompose(
    matrix: Matrix,
    block: &str,
    factor: Factor,
    threads: usize,
) -> Result<Eigenpairs, PosteriorError> {
    let (values, vectors) = pairs(matrix, block, factor, threads)?;
    let Eigenvalues {
        values,
        clipped,
        most_negative,
    } = not_negative(values, block, factor)?;
    Ok(Eigenpairs {
        values,
        vectors,
        clipped,
        most_negative,
    })
}

/// The eigenvalues alone of a symmetric matrix of which one triangle is read.
pub(crate) fn eigenvalues(
    matrix: &Matrix,
    block: &str,
    factor: Factor,
    threads: usize,
) -> Result<Eigenvalues, PosteriorError> {
    not_negative(values(matrix, block, factor, threads)?, block, factor)
}

/// The smallest and the largest eigenvalue of a symmetric matrix, of any sign, of which one triangle is read.
pub(crate) fn extremes(
    matrix: &Matrix,
    block: &str,
    factor: Factor,
    threads: usize,
) -> Result<(f64, f64), PosteriorError> {
    let values = values(matrix, block, factor, threads)?;
    Ok(match (values.first(), values.last()) {
        (Some(&smallest), Some(&largest)) => (smallest, largest),
        _ => (0.0, 0.0),
    })
}

/// Refuses eigenvalues of a sum of squares that reach farther below 0 than rounding takes them.
pub(crate) fn check_ends((smallest, largest): (f64, f64), block: &str, factor: Factor) -> Result<(), PosteriorError> {
    if smallest < -INDEFINITE * largest.max(0.0) {
        return Err(PosteriorError::Indefinite {
            block: block.to_owned(),
            factor,
            smallest,
            largest,
        });
    }
    Ok(())
}

/// Sets rounding's negative eigenvalues to 0.
fn not_negative(mut values: Vec<f64>, block: &str, factor: Factor) -> Result<Eigenvalues, PosteriorError> {
    let (smallest, largest) = match (values.first(), values.last()) {
        (Some(&smallest), Some(&largest)) => (smallest, largest),
        _ => (0.0, 0.0),
    };
    check_ends((smallest, largest), block, factor)?;
    let mut clipped = 0;
    for value in values.iter_mut().filter(|v| **v < 0.0) {
        *value = 0.0;
        clipped += 1;
    }
    Ok(Eigenvalues {
        values,
        clipped,
        most_negative: if clipped == 0 { 0.0 } else { smallest / largest },
    })
}

/// Ascending eigenvalues, and eigenvectors `[n, n]` row-major, one a column.
fn pairs(matrix: Matrix, block: &str, factor: Factor, threads: usize) -> Result<(Vec<f64>, Vec<f64>), PosteriorError> {
    let n = matrix.rows;
    let found = if n < LARGE {
        let mut vectors = vec![0.0; n * n];
        small(&matrix, Some(&mut vectors)).map(|values| {
            transpose_square(&mut vectors, n);
            (values, vectors)
        })
    } else {
        pool(threads)?.install(|| two_stage::eigenpairs(matrix.values, n, threads))
    };
    found.map_err(|failure| failure.of(block, factor))
}

/// Ascending eigenvalues.
fn values(matrix: &Matrix, block: &str, factor: Factor, threads: usize) -> Result<Vec<f64>, PosteriorError> {
    let found = if matrix.rows < LARGE {
        small(matrix, None)
    } else {
        pool(threads)?.install(|| two_stage::eigenvalues(matrix.values.clone(), matrix.rows, threads))
    };
    found.map_err(|failure| failure.of(block, factor))
}

fn pool(threads: usize) -> Result<rayon::ThreadPool, PosteriorError> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build()?)
}

/// Why there is no decomposition.
enum Failure {
    /// So many bytes could not be had.
    Memory(usize),
    NoConvergence,
}

impl Failure {
    fn of(self, block: &str, factor: Factor) -> PosteriorError {
        let block = block.to_owned();
        match self {
            Self::Memory(bytes) => PosteriorError::Memory { block, bytes },
            Self::NoConvergence => PosteriorError::Eigenvalues { block, factor },
        }
    }
}

/// Ascending eigenvalues, and eigenvectors one after the other where they are wanted, on one thread.
fn small(matrix: &Matrix, vectors: Option<&mut [f64]>) -> Result<Vec<f64>, Failure> {
    let n = matrix.rows;
    let compute = match vectors {
        Some(_) => ComputeEigenvectors::Yes,
        None => ComputeEigenvectors::No,
    };
    let request = self_adjoint_evd_scratch::<f64>(n, compute, Par::Seq, Default::default());
    let mut workspace = MemBuffer::try_new(request).map_err(|_| Failure::Memory(request.unaligned_bytes_required()))?;
    let mut values = vec![0.0; n];
    self_adjoint_evd(
        MatRef::from_column_major_slice(&matrix.values, n, n),
        DiagMut::from_slice_mut(&mut values),
        vectors.map(|vectors| MatMut::from_column_major_slice_mut(vectors, n, n)),
        Par::Seq,
        MemStack::new(&mut workspace),
        Default::default(),
    )
    .map_err(|_| Failure::NoConvergence)?;
    Ok(values)
}

/// Transposes in place, tile by tile.
fn transpose_square(values: &mut [f64], n: usize) {
    const TILE: usize = 32;
    for top in (0..n).step_by(TILE) {
        for left in (top..n).step_by(TILE) {
            for i in top..(top + TILE).min(n) {
                for j in left.max(i + 1)..(left + TILE).min(n) {
                    values.swap(i * n + j, j * n + i);
                }
            }
        }
    }
}

/// `dst = f lhs rhs` or `dst += f lhs rhs` on this thread.
fn gemm(dst: MatMut<'_, f64>, accum: Accum, lhs: MatRef<'_, f64>, rhs: MatRef<'_, f64>, f: f64) {
    matmul(dst, accum, lhs, rhs, f, Par::Seq);
}

#[cfg(test)]
mod tests;
