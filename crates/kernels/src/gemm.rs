//! The product of two matrices.

use std::mem::MaybeUninit;

use faer::{MatMut, MatRef};

use crate::blocks::{Place, Right, Room, Sink, product};
use crate::element::Element;
use crate::i16::{over_units_of_columns, over_units_of_rows, units_of_columns, units_of_rows};
use crate::packed::Packed;
use crate::path::Path;
use crate::products::Products;
use crate::strips::Operand;
use crate::tile::Tile;
use crate::zeros;
use crate::zeros::RowGroups;

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a, T> {
    /// Nothing.
    Zero,
    /// What is there.
    Kept,
    /// This row, to every row of the product.
    Row(&'a [T]),
}

/// `dst = start + lhs rhs`, on any strides, the same bits for any number of threads.
///
/// ```
/// use faer::{MatMut, MatRef};
/// use fisherflow_kernels::{Start, multiply};
/// let (a, b) = ([1.0f32, 2.0, 3.0, 4.0], [1.0, 1.0, 0.0, 1.0]);
/// let (a, b) = (MatRef::from_row_major_slice(&a, 2, 2), MatRef::from_row_major_slice(&b, 2, 2));
/// let mut c = [0.0; 4];
/// multiply(MatMut::from_row_major_slice_mut(&mut c, 2, 2), Start::Row(&[10.0, 20.0]), a, b, 1);
/// assert_eq!(c, [11.0, 23.0, 13.0, 27.0]);
/// ```
///
/// # Panics
/// If shapes do not fit, or the path is not there.
pub fn multiply<T: Element>(
    dst: MatMut<'_, T>,
    start: Start<'_, T>,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
    products: impl Into<Products>,
) {
    let Products { path, threads } = products.into();
    assert!(path.is_available(), "this machine has no {path} instructions");
    multiply_by(&T::tile(path), dst, start, lhs, rhs, threads);
}

/// `row + lhs rhs`, the row added to every row of the product, in memory of its own: row after row. As [`multiply`], but nothing is written to
/// that memory before the product is.
///
/// # Panics
/// As [`multiply`].
#[must_use]
pub fn multiplied<T: Element>(
    row: Option<&[T]>,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
    products: impl Into<Products>,
) -> Vec<T> {
    // SAFETY: a product that keeps nothing writes every element before it reads it.
    unsafe {
        in_new_memory(lhs.nrows(), rhs.ncols(), |dst| {
            multiply(dst, start(row), lhs, rhs, products)
        })
    }
}

/// The same with a packed right operand.
///
/// # Panics
/// As [`multiply_packed`].
#[must_use]
pub fn multiplied_packed<T: Element>(row: Option<&[T]>, lhs: MatRef<'_, T>, rhs: &Packed<T>, threads: usize) -> Vec<T> {
    // SAFETY: as above.
    unsafe {
        in_new_memory(lhs.nrows(), rhs.cols(), |dst| {
            multiply_packed(dst, start(row), lhs, rhs, threads)
        })
    }
}

/// `lhs rhs` as [`multiply_packed_in_groups`] makes it, in memory of its own.
///
/// # Panics
/// As [`multiply_packed_in_groups`].
#[must_use]
pub fn multiplied_packed_in_groups<T: Element>(
    lhs: MatRef<'_, T>,
    groups: RowGroups,
    rhs: &Packed<T>,
    threads: usize,
) -> Vec<T> {
    // SAFETY: as above.
    unsafe {
        in_new_memory(lhs.nrows(), rhs.cols(), |dst| {
            multiply_packed_in_groups(dst, Start::Zero, lhs, groups, rhs, threads);
        })
    }
}

fn start<T>(row: Option<&[T]>) -> Start<'_, T> {
    row.map_or(Start::Zero, Start::Row)
}

/// The matrix that `make` writes, row after row.
///
/// # Safety
/// `make` returns only after it has written every element, and reads none before it has.
unsafe fn in_new_memory<T: Element>(rows: usize, cols: usize, make: impl FnOnce(MatMut<'_, T>)) -> Vec<T> {
    let Some(len) = rows.checked_mul(cols) else {
        panic!("a product of {rows} rows and {cols} columns is more than memory can be");
    };
    let mut values = Vec::with_capacity(len);
    // SAFETY: there is room for so many elements, which nobody else has. They are plain numbers behind a pointer: that they are not yet
    // initialised matters to whoever reads them, and nobody does before they are.
    unsafe {
        make(MatMut::from_raw_parts_mut(
            values.as_mut_ptr(),
            rows,
            cols,
            cols as isize,
            1,
        ));
        values.set_len(len);
    }
    values
}

/// The same with a tile whose instructions are there.
pub(crate) fn multiply_by<T: Element>(
    tile: &Tile<T>,
    dst: MatMut<'_, T>,
    start: Start<'_, T>,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
    threads: usize,
) {
    assert_eq!(lhs.ncols(), rhs.nrows(), "inner sizes of a product");
    check(&dst, &start, lhs.nrows(), rhs.ncols());
    if tile.whole {
        let units = units_of_columns(rhs);
        let whole = over_units_of_columns(rhs, &units);
        let rhs = MatRef::from_row_major_slice(&whole, rhs.nrows(), rhs.ncols());
        let rhs = Right::Plain(Operand::new(rhs.transpose()));
        of_whole_numbers(tile, dst, start, lhs, rhs, &units, threads);
        return;
    }
    // A few columns are better a few rows. Where numbers are taken apart, sides are not alike.
    let narrow = tile.step == 1 && rhs.ncols() <= tile.rows && rhs.ncols() < lhs.nrows();
    if dst.col_stride() != 1 && dst.row_stride() == 1 || narrow {
        // (lhs rhs)^T = rhs^T lhs^T
        let (mut dst, mut start) = (dst, start);
        if let Start::Row(row) = start {
            fill(dst.as_mut(), row);
            start = Start::Kept;
        }
        return into(
            tile,
            dst.transpose_mut(),
            start,
            rhs.transpose(),
            Right::Plain(Operand::new(lhs)),
            threads,
        );
    }
    into(
        tile,
        dst,
        start,
        lhs,
        Right::Plain(Operand::new(rhs.transpose())),
        threads,
    );
}

/// `dst = start + lhs rhs` with a packed right operand, on the path that it was packed for.
///
/// # Panics
/// If shapes do not fit.
pub fn multiply_packed<T: Element>(
    dst: MatMut<'_, T>,
    start: Start<'_, T>,
    lhs: MatRef<'_, T>,
    rhs: &Packed<T>,
    threads: usize,
) {
    multiply_in_units(dst, start, lhs, rhs, threads);
}

/// The same, where rows of one of the `groups` of `lhs` are often 0 in the same columns, as gradients of all outputs of one spectrum behind ReLUs
/// are: what is 0 in all of them is left out where that is faster. The values are the same where `rhs` is finite.
///
/// # Panics
/// As [`multiply_packed`], or if rows of `lhs` are left over.
pub fn multiply_packed_in_groups<T: Element>(
    mut dst: MatMut<'_, T>,
    start: Start<'_, T>,
    lhs: MatRef<'_, T>,
    groups: RowGroups,
    rhs: &Packed<T>,
    threads: usize,
) {
    assert_eq!(lhs.ncols(), rhs.rows(), "inner sizes of a product");
    check(&dst, &start, lhs.nrows(), rhs.cols());
    let sink = Destination::new(dst.as_mut(), start);
    // SAFETY: the path was checked when the operand was packed; the destination has the product's shape, and is borrowed for as long as this runs.
    if !unsafe { zeros::product(&sink, lhs, groups, rhs, threads) } {
        multiply_packed(dst, start, lhs, rhs, threads);
    }
}

/// `dst += lhs rhs` of a symmetric product: at least its diagonal and what is right of it. Whatever is left of the diagonal is of no use then.
///
/// # Panics
/// If shapes do not fit.
pub fn add_upper<T: Element>(dst: MatMut<'_, T>, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, threads: usize) {
    assert_eq!(lhs.ncols(), rhs.nrows(), "inner sizes of a product");
    check(&dst, &Start::Kept, lhs.nrows(), rhs.ncols());
    let sink = Destination {
        upper: true,
        ..Destination::new(dst, Start::Kept)
    };
    let rhs = Right::Plain(Operand::new(rhs.transpose()));
    // SAFETY: the best path is there; the destination has the product's shape, and is borrowed for as long as this runs.
    unsafe { product(&T::tile(Path::best()), Operand::new(lhs), rhs, &sink, threads) };
}

/// As [`multiply_packed`], and what a step of a number is in each row of `lhs`, on [`Path::I16`](crate::Path::I16): NaN where a number of the row is not finite. None of
/// them on other paths.
///
/// # Panics
/// As [`multiply_packed`].
pub fn multiply_in_units<T: Element>(
    dst: MatMut<'_, T>,
    start: Start<'_, T>,
    lhs: MatRef<'_, T>,
    rhs: &Packed<T>,
    threads: usize,
) -> Vec<f32> {
    assert_eq!(lhs.ncols(), rhs.rows(), "inner sizes of a product");
    let (tile, right) = (T::tile(rhs.path()), Right::Packed(rhs));
    match rhs.units() {
        Some(units) => of_whole_numbers(&tile, dst, start, lhs, right, units, threads),
        None => {
            into(&tile, dst, start, lhs, right, threads);
            Vec::new()
        }
    }
}

/// `dst = start + lhs rhs` where `rhs` is over the units of its columns, and `lhs` is not yet; gives those of its rows.
fn of_whole_numbers<T: Element>(
    tile: &Tile<T>,
    mut dst: MatMut<'_, T>,
    start: Start<'_, T>,
    lhs: MatRef<'_, T>,
    rhs: Right<'_, T>,
    units: &[f32],
    threads: usize,
) -> Vec<f32> {
    let (m, k) = lhs.shape();
    check(&dst, &start, m, units.len());
    let units_of_lhs = units_of_rows(lhs);
    let whole = over_units_of_rows(lhs, &units_of_lhs);
    let lhs = MatRef::from_row_major_slice(&whole, m, k);
    if let (Start::Zero, true) = (&start, dst.col_stride() == 1) {
        into(tile, dst.as_mut(), Start::Zero, lhs, rhs, threads);
        for (i, unit) in units_of_lhs.iter().enumerate() {
            for (value, of_column) in dst.as_mut().row_mut(i).iter_mut().zip(units) {
                *value = value.times(*unit).times(*of_column);
            }
        }
        return units_of_lhs;
    }
    let mut product = vec![T::ZERO; m * units.len()];
    let to = MatMut::from_row_major_slice_mut(&mut product, m, units.len());
    into(tile, to, Start::Zero, lhs, rhs, threads);
    for (i, (unit, product)) in units_of_lhs
        .iter()
        .zip(product.chunks_exact(units.len().max(1)))
        .enumerate()
    {
        for (j, (product, of_column)) in product.iter().zip(units).enumerate() {
            let before = match start {
                Start::Zero => T::ZERO,
                Start::Kept => dst[(i, j)],
                Start::Row(row) => row[j],
            };
            dst[(i, j)] = before + product.times(*unit).times(*of_column);
        }
    }
    units_of_lhs
}

fn into<T: Element>(
    tile: &Tile<T>,
    mut dst: MatMut<'_, T>,
    start: Start<'_, T>,
    lhs: MatRef<'_, T>,
    rhs: Right<'_, T>,
    threads: usize,
) {
    let n = match rhs {
        Right::Plain(operand) => operand.matrix.nrows(),
        Right::Packed(packed) => packed.cols(),
    };
    check(&dst, &start, lhs.nrows(), n);
    if lhs.ncols() == 0 {
        match start {
            Start::Kept => {}
            Start::Zero => dst.fill(T::ZERO),
            Start::Row(row) => fill(dst, row),
        }
        return;
    }
    let sink = Destination::new(dst, start);
    // SAFETY: the path was checked, by the caller or when the operand was packed; the destination has the product's shape, and is borrowed
    // for as long as this runs.
    unsafe { product(tile, Operand::new(lhs), rhs, &sink, threads) };
}

fn check<T>(dst: &MatMut<'_, T>, start: &Start<'_, T>, rows: usize, cols: usize) {
    assert_eq!(dst.shape(), (rows, cols), "shape of a product");
    if let Start::Row(row) = start {
        assert_eq!(row.len(), cols, "length of the row added to a product");
    }
}

/// Every row of `dst = row`.
fn fill<T: Element>(mut dst: MatMut<'_, T>, row: &[T]) {
    for (j, value) in row.iter().enumerate() {
        dst.as_mut().col_mut(j).fill(*value);
    }
}

/// A matrix that tiles are written to.
pub(crate) struct Destination<'a, T> {
    values: *mut T,
    row_stride: isize,
    col_stride: isize,
    start: Start<'a, T>,
    /// Whether only tiles with an element on or right of the diagonal are wanted.
    upper: bool,
}

// SAFETY: threads write to disjoint tiles of the matrix alone.
unsafe impl<T: Send + Sync> Sync for Destination<'_, T> {}

impl<'a, T: Element> Destination<'a, T> {
    fn new(dst: MatMut<'_, T>, start: Start<'a, T>) -> Self {
        Self {
            values: dst.as_ptr_mut(),
            row_stride: dst.row_stride(),
            col_stride: dst.col_stride(),
            start,
            upper: false,
        }
    }

    /// Row `first` and those that are a multiple of `apart` further.
    pub(crate) fn rows(&self, first: usize, apart: usize) -> Self {
        Self {
            values: self.at(first, 0),
            row_stride: self.row_stride * apart as isize,
            ..*self
        }
    }

    fn at(&self, row: usize, col: usize) -> *mut T {
        self.values
            .wrapping_offset(row as isize * self.row_stride + col as isize * self.col_stride)
    }
}

impl<T: Element> Sink<T> for Destination<'_, T> {
    fn takes_pieces(&self) -> bool {
        true
    }

    fn wants(&self, place: Place) -> bool {
        !self.upper || place.col + place.cols > place.row
    }

    fn first_row(&self, _: usize) -> usize {
        0
    }

    unsafe fn take(&self, place: Place, tile: &Tile<T>, made: usize, first: bool, fill: impl Fn(*mut T, usize, bool)) {
        let Place { row, col, rows, cols } = place;
        let add = match self.start {
            Start::Zero => !first,
            Start::Kept | Start::Row(_) => true,
        };
        if let (Start::Row(values), true) = (self.start, first) {
            for i in 0..rows {
                for j in 0..cols {
                    // SAFETY: the place lies in the matrix, and no other thread has it now.
                    unsafe { *self.at(row + i, col + j) = values[col + j] };
                }
            }
        }
        if (rows, cols) == (made, tile.cols) && self.col_stride == 1 && self.row_stride >= 0 {
            return fill(self.at(row, col), self.row_stride as usize, add);
        }
        let mut room = Room::new();
        if add {
            for row in room.0.chunks_exact_mut(tile.cols).take(made) {
                row.fill(MaybeUninit::new(T::ZERO));
            }
            for i in 0..rows {
                for j in 0..cols {
                    // SAFETY: as above.
                    room.0[i * tile.cols + j] = MaybeUninit::new(unsafe { *self.at(row + i, col + j) });
                }
            }
        }
        fill(room.0.as_mut_ptr().cast(), tile.cols, add);
        for i in 0..rows {
            for j in 0..cols {
                // SAFETY: as above; `made >= rows` rows of the room were written.
                unsafe { *self.at(row + i, col + j) = room.0[i * tile.cols + j].assume_init() };
            }
        }
    }
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
