//! The Cholesky factor of `Q + delta I`, tile by tile, left-looking by block columns.
//!
//! ```text
//! L_jj L_jj^T = Q_jj + delta I - sum_{k<j} L_jk L_jk^T
//! L_ij        = (Q_ij - sum_{k<j} L_ik L_jk^T) L_jj^-T            i > j
//! ```
//!
//! Terms are subtracted in the order of k. The substitution for right-hand sides is the second line with their rows for i, so it is the
//! same code.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{MatMut, MatRef, Par};
use fisherflow_curvature::{Matrix, WeightJacobian};
use fisherflow_kernels::{Start, multiply};
use fisherflow_network::product::{release_wide_registers, run_all};

use super::gram::{gram_diagonal, view};
use super::layout::DualLayout;
use crate::PosteriorError;

/// Rows that are solved for at once.
const PANEL: usize = 96;

/// A tile that has not yet had everything subtracted. It is kept negated: products are only ever added.
pub struct OpenTile {
    negative: Matrix,
}

impl OpenTile {
    /// From a tile of Q, or of right-hand sides.
    #[must_use]
    pub fn new(mut tile: Matrix) -> Self {
        tile.values.iter_mut().for_each(|value| *value = -*value);
        Self { negative: tile }
    }

    /// A tile of zeros.
    pub(super) fn zeros(rows: usize, cols: usize) -> Self {
        let values = vec![0.0; rows * cols];
        Self {
            negative: Matrix { rows, cols, values },
        }
    }

    /// Subtracts `L_ik L_jk^T`.
    pub fn subtract(&mut self, row: &Matrix, column: &Matrix, threads: usize) {
        let Matrix { rows, cols, values } = &mut self.negative;
        debug_assert_eq!((*rows, *cols, row.cols), (row.rows, column.rows, column.cols));
        let to = MatMut::from_row_major_slice_mut(values, *rows, *cols);
        multiply(to, Start::Kept, view(row), view(column).transpose(), threads);
    }

    /// `L_ij`, from `L_jj`.
    #[must_use]
    pub fn solve(self, diagonal: &Matrix, threads: usize) -> Matrix {
        let mut tile = self.negative;
        tile.values.iter_mut().for_each(|value| *value = -*value);
        let n = diagonal.rows;
        debug_assert_eq!(tile.cols, n);
        let panels = tile.values.chunks_mut((PANEL * n).max(1)).map(|panel| {
            move || {
                let rows = panel.len() / n;
                let transposed = MatMut::from_column_major_slice_mut(panel, n, rows);
                solve_lower_triangular_in_place(view(diagonal), transposed, Par::Seq);
                release_wide_registers();
            }
        });
        run_all(panels.collect(), threads);
        tile
    }

    /// `L_jj` of the tile of `rows` on the diagonal, which gets the prior precision here. Only one triangle is read.
    ///
    /// # Errors
    /// If the prior precision vanishes in the rounding of Q, or Q is no sum of squares.
    pub fn factor(
        self,
        layout: &DualLayout,
        rows: &WeightJacobian,
        prior_precision: f64,
    ) -> Result<Matrix, PosteriorError> {
        let n = self.negative.rows;
        let largest = gram_diagonal(rows).into_iter().fold(0.0, f64::max);
        layout.check_prior(prior_precision, largest)?;
        let mut values = self.negative.values;
        values.iter_mut().for_each(|value| *value = -*value);
        for i in 0..n {
            values[i * n + i] += prior_precision;
        }
        let request = cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
        let mut workspace = MemBuffer::try_new(request).map_err(|_| PosteriorError::Memory {
            block: layout.plan.name(),
            bytes: request.unaligned_bytes_required(),
        })?;
        let factored = cholesky_in_place(
            MatMut::from_column_major_slice_mut(&mut values, n, n),
            Default::default(),
            Par::Seq,
            MemStack::new(&mut workspace),
            Default::default(),
        );
        release_wide_registers();
        let mut pivots = (0..n).map(|i| values[i * n + i]);
        // No Schur complement of Q + delta I has an eigenvalue below delta.
        let bad = |pivot: f64| pivot.is_nan() || pivot * pivot < 0.5 * prior_precision;
        if factored.is_err() || pivots.any(bad) {
            return Err(PosteriorError::DualPrior {
                block: layout.plan.name(),
                prior_precision,
                largest,
                least: layout.n_rows() as f64 * f64::EPSILON * largest,
            });
        }
        let upper = MatRef::from_column_major_slice(&values, n, n);
        let mut lower = vec![0.0; n * n];
        for (i, row) in lower.chunks_exact_mut(n.max(1)).enumerate() {
            for (j, value) in row.iter_mut().take(i + 1).enumerate() {
                *value = upper[(i, j)];
            }
        }
        Ok(Matrix {
            rows: n,
            cols: n,
            values: lower,
        })
    }
}
