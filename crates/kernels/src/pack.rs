//! Packing: a strip of `W` rows of an operand (or columns, of a transposed one) as `[inner][W]`, the order in which a register tile reads it.

use faer::MatRef;

use crate::element::Element;

/// Inner indices whose values are turned over together: a cache line of f32.
const TURNED: usize = 16;

/// What becomes of an element on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Identity,
    /// `x^2`.
    Square,
}

/// Packs rows `first .. first + W` and columns `from .. from + out.len() / W` of `matrix`; rows beyond the last are 0.
#[inline(always)]
pub(crate) fn pack_strip<T: Element, const W: usize>(
    matrix: MatRef<'_, T>,
    first: usize,
    from: usize,
    map: Map,
    out: &mut [T],
) {
    match map {
        Map::Identity => pack_mapped::<T, W>(matrix, first, from, |x| x, out),
        Map::Square => pack_mapped::<T, W>(matrix, first, from, T::square, out),
    }
}

#[inline(always)]
fn pack_mapped<T: Element, const W: usize>(
    matrix: MatRef<'_, T>,
    first: usize,
    from: usize,
    map: impl Fn(T) -> T + Copy,
    out: &mut [T],
) {
    let (inner, rest) = out.as_chunks_mut::<W>();
    debug_assert!(rest.is_empty() && first < matrix.nrows() && from + inner.len() <= matrix.ncols());
    let height = W.min(matrix.nrows() - first);
    let (row_stride, col_stride) = (matrix.row_stride(), matrix.col_stride());
    let at = |row: usize, col: usize| {
        matrix
            .as_ptr()
            .wrapping_offset(row as isize * row_stride + col as isize * col_stride)
    };
    if height < W {
        inner.as_flattened_mut().fill(T::ZERO);
        for row in 0..height {
            for (col, to) in inner.iter_mut().enumerate() {
                // SAFETY: row `first + row < nrows` and column `from + col < ncols` lie in the matrix, which is borrowed.
                to[row] = map(unsafe { *at(first + row, from + col) });
            }
        }
    } else if row_stride == 1 {
        for (col, to) in inner.iter_mut().enumerate() {
            // SAFETY: rows `first .. first + W` of column `from + col` lie in the matrix, one after another since the row stride is 1.
            let values = unsafe { &*at(first, from + col).cast::<[T; W]>() };
            for (to, value) in to.iter_mut().zip(values) {
                *to = map(*value);
            }
        }
    } else if col_stride == 1 {
        let blocks = inner.as_chunks_mut::<TURNED>();
        let turned = blocks.0.len() * TURNED;
        for (block, to) in blocks.0.iter_mut().enumerate() {
            let rows: [&[T; TURNED]; W] = std::array::from_fn(|row| {
                // SAFETY: columns `from + block * TURNED ..`, TURNED of them, of row `first + row` lie in the matrix, one after another
                // since the column stride is 1.
                unsafe { &*at(first + row, from + block * TURNED).cast::<[T; TURNED]>() }
            });
            for (col, to) in to.iter_mut().enumerate() {
                for (to, row) in to.iter_mut().zip(&rows) {
                    *to = map(row[col]);
                }
            }
        }
        for (col, to) in (turned..).zip(blocks.1) {
            for (row, to) in to.iter_mut().enumerate() {
                // SAFETY: row `first + row < nrows` and column `from + col < ncols` lie in the matrix.
                *to = map(unsafe { *at(first + row, from + col) });
            }
        }
    } else {
        for (col, to) in inner.iter_mut().enumerate() {
            for (row, to) in to.iter_mut().enumerate() {
                // SAFETY: row `first + row < nrows` and column `from + col < ncols` lie in the matrix.
                *to = map(unsafe { *at(first + row, from + col) });
            }
        }
    }
}
