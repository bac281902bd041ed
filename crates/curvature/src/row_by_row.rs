//! Matrices whose rows are formed when they are asked for: one that is written and not kept need never be whole in memory.

use std::ops::Range;

use crate::Matrix;
use crate::packed::packed_len;

/// A matrix, some rows at a time.
pub trait RowByRow {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize);

    /// Writes the rows from `first` on, as many as `to` has room for, one after another.
    ///
    /// # Panics
    /// If there are fewer rows.
    fn rows_from(&self, first: usize, to: &mut [f64]);

    /// All rows.
    fn whole(self: Box<Self>) -> Matrix {
        /// Rows that are formed together: of each of them a cache line stays near.
        const AT_ONCE: usize = 64;
        let (rows, cols) = self.shape();
        let mut values = vec![0.0; rows * cols];
        for (at, to) in values.chunks_mut((AT_ONCE * cols).max(1)).enumerate() {
            self.rows_from(at * AT_ONCE, to);
        }
        Matrix { rows, cols, values }
    }
}

impl RowByRow for Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn rows_from(&self, first: usize, to: &mut [f64]) {
        to.copy_from_slice(&self.values[first * self.cols..][..to.len()]);
    }

    fn whole(self: Box<Self>) -> Matrix {
        *self
    }
}

impl<M: RowByRow + ?Sized> RowByRow for Box<M> {
    fn shape(&self) -> (usize, usize) {
        (**self).shape()
    }

    fn rows_from(&self, first: usize, to: &mut [f64]) {
        (**self).rows_from(first, to);
    }

    fn whole(self: Box<Self>) -> Matrix {
        (*self).whole()
    }
}

impl From<Matrix> for Box<dyn RowByRow + '_> {
    fn from(matrix: Matrix) -> Self {
        Box::new(matrix)
    }
}

/// A matrix that lies elsewhere, row after row.
pub(crate) struct Borrowed<'a> {
    pub cols: usize,
    pub values: &'a [f64],
}

impl RowByRow for Borrowed<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.values.len().checked_div(self.cols).unwrap_or(0), self.cols)
    }

    fn rows_from(&self, first: usize, to: &mut [f64]) {
        to.copy_from_slice(&self.values[first * self.cols..][..to.len()]);
    }
}

impl<'a> Borrowed<'a> {
    pub fn of(matrix: &'a Matrix) -> Self {
        Self {
            cols: matrix.cols,
            values: &matrix.values,
        }
    }
}

/// `form(row, columns, packed, to)`: the elements `to` of a row, of columns not right of its diagonal, from those that are packed there.
pub(crate) trait Form: Fn(usize, Range<usize>, &[f64], &mut [f64]) {}

impl<F: Fn(usize, Range<usize>, &[f64], &mut [f64])> Form for F {}

/// A symmetric `[n, n]` matrix of which the lower triangle is packed, each element changed by `form` as it is read.
pub(crate) struct Symmetric<'a, F> {
    packed: &'a [f64],
    n: usize,
    form: F,
}

impl<'a, F: Form> Symmetric<'a, F> {
    pub fn new(packed: &'a [f64], n: usize, form: F) -> Self {
        debug_assert_eq!(packed.len(), packed_len(n));
        Self { packed, n, form }
    }

    /// Writes the rows from `first` on, each of the first `n` elements of `stride`.
    pub fn rows_from(&self, first: usize, to: &mut [f64], stride: usize) {
        let n_rows = to.len().checked_div(stride).unwrap_or(0);
        let last = first + n_rows;
        for (row, to) in (first..last).zip(to.chunks_exact_mut(stride.max(1))) {
            (self.form)(row, 0..row + 1, &self.packed_row(row)[..=row], &mut to[..=row]);
        }
        // Right of the diagonal: columns of these rows are pieces of the rows below.
        let mut piece = vec![0.0; n_rows];
        for below in first + 1..self.n {
            let columns = first..last.min(below);
            let piece = &mut piece[..columns.len()];
            (self.form)(below, columns.clone(), &self.packed_row(below)[columns], piece);
            for (to, value) in to.chunks_exact_mut(stride).zip(piece) {
                to[below] = *value;
            }
        }
    }

    fn packed_row(&self, row: usize) -> &[f64] {
        &self.packed[packed_len(row)..packed_len(row + 1)]
    }
}

impl<F: Form> RowByRow for Symmetric<'_, F> {
    fn shape(&self) -> (usize, usize) {
        (self.n, self.n)
    }

    fn rows_from(&self, first: usize, to: &mut [f64]) {
        Symmetric::rows_from(self, first, to, self.n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_triangle_is_the_symmetric_matrix_in_pieces_of_any_size() {
        for n in [0, 1, 5, 70, 131] {
            let packed: Vec<f64> = (0..packed_len(n)).map(|i| i as f64).collect();
            let twice = || {
                Symmetric::new(
                    &packed,
                    n,
                    |row, columns: Range<usize>, packed: &[f64], to: &mut [f64]| {
                        assert!(columns.end <= row + 1 && columns.len() == packed.len() && packed.len() == to.len());
                        to.iter_mut().zip(packed).for_each(|(to, from)| *to = 2.0 * from);
                    },
                )
            };
            let full = Box::new(twice()).whole();
            assert_eq!((full.rows, full.cols, full.values.len()), (n, n, n * n));
            for i in 0..n {
                for j in 0..=i {
                    assert_eq!(full.values[i * n + j], 2.0 * packed[packed_len(i) + j]);
                    assert_eq!(full.values[j * n + i], 2.0 * packed[packed_len(i) + j]);
                }
            }
            for (first, rows) in [(0, n), (n / 3, n / 2), (n.saturating_sub(1), 1.min(n)), (n, 0)] {
                for matrix in [&twice() as &dyn RowByRow, &full] {
                    let mut some = vec![-1.0; rows * n];
                    matrix.rows_from(first, &mut some);
                    assert_eq!(some, full.values[first * n..(first + rows) * n]);
                }
            }
        }
    }
}
