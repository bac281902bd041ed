//! Products over rows that are added to sums in f64: `sums += X^T X` (its lower triangle) and `sums += X^T Y`.
//!
//! A tile is made in the operands' type, over at most one block of rows, and added in f64 while it is in the first cache level: the product
//! itself is never in memory.

use faer::MatRef;

use crate::blocks::{Operand, Place, Right, Room, Sink, product};
use crate::element::Element;
use crate::pack::Map;
use crate::path::Path;
use crate::tile::{LARGEST, Tile};

/// Adds the lower triangle of `X^T X` to `sums`, packed row after row; `x` is `[rows, n]`. The diagonal is a sum of squares in f64.
///
/// # Panics
/// If `sums` has not `n (n + 1) / 2` values.
pub fn add_gram<T: Element>(x: MatRef<'_, T>, sums: &mut [f64], threads: usize) {
    add_gram_on(Path::best(), x, sums, threads);
}

/// The same on a path that this machine has.
///
/// # Panics
/// Likewise, or if the path is not there.
pub fn add_gram_on<T: Element>(path: Path, x: MatRef<'_, T>, sums: &mut [f64], threads: usize) {
    assert!(path.is_available(), "this machine has no {path} instructions");
    let n = x.ncols();
    assert_eq!(sums.len(), packed_len(n), "packed lower triangle of [{n}, {n}]");
    let operand = Operand::new(x.transpose());
    let sink = Triangle { sums: sums.as_mut_ptr() };
    // SAFETY: the path is there; the sums have every place below the diagonal, and are borrowed for as long as this runs.
    unsafe { product(&T::tile(path), operand, Right::Plain(operand), &sink, threads) };
    let mut squares = vec![0.0; n];
    for row in 0..x.nrows() {
        for (square, value) in squares.iter_mut().zip(x.row(row).iter()) {
            let value = value.widen();
            *square += value * value;
        }
    }
    for (i, square) in squares.into_iter().enumerate() {
        sums[packed_len(i) + i] += square;
    }
}

/// Adds `X^T Y` to the first `m` columns of `sums`, `[n, stride]` row-major; `x` is `[rows, n]` and `y` `[rows, m]`.
///
/// # Panics
/// If shapes do not fit.
pub fn add_cross<T: Element>(x: MatRef<'_, T>, y: MatRef<'_, T>, sums: &mut [f64], stride: usize, threads: usize) {
    add_cross_mapped(Path::best(), Map::Identity, x, y, sums, stride, threads);
}

/// Adds `(X o X)^T (Y o Y)`, the products of squares, likewise: no square is ever in memory.
///
/// # Panics
/// If shapes do not fit.
pub fn add_cross_of_squares<T: Element>(
    x: MatRef<'_, T>,
    y: MatRef<'_, T>,
    sums: &mut [f64],
    stride: usize,
    threads: usize,
) {
    add_cross_mapped(Path::best(), Map::Square, x, y, sums, stride, threads);
}

fn add_cross_mapped<T: Element>(
    path: Path,
    map: Map,
    x: MatRef<'_, T>,
    y: MatRef<'_, T>,
    sums: &mut [f64],
    stride: usize,
    threads: usize,
) {
    assert_eq!(x.nrows(), y.nrows(), "rows of a product over rows");
    let (n, m) = (x.ncols(), y.ncols());
    assert!(m <= stride && sums.len() == n * stride, "sums [{n}, {stride}] of a product [{n}, {m}]");
    let sink = Rectangle {
        sums: sums.as_mut_ptr(),
        stride,
    };
    let of_x = Operand { matrix: x.transpose(), map };
    let of_y = Operand { matrix: y.transpose(), map };
    // SAFETY: the path is the best one; the sums have every place of the product, and are borrowed for as long as this runs.
    unsafe { product(&T::tile(path), of_x, Right::Plain(of_y), &sink, threads) };
}

const fn packed_len(n: usize) -> usize {
    n * (n + 1) / 2
}

/// Makes a tile, and adds the first `length(i)` values of its row i to what `row(i)` points at.
fn add_rows<T: Element>(
    tile: &Tile<T>,
    rows: usize,
    fill: impl Fn(*mut T, usize, bool),
    length: impl Fn(usize) -> usize,
    row: impl Fn(usize) -> *mut f64,
) {
    let mut room = Room([T::ZERO; LARGEST]);
    fill(room.0.as_mut_ptr(), tile.cols, false);
    for (i, values) in room.0.chunks_exact(tile.cols).take(rows).enumerate() {
        let length = length(i);
        if length > 0 {
            // SAFETY: the caller hands out rows of its own sums that are that long, which no other thread has now.
            let sums = unsafe { std::slice::from_raw_parts_mut(row(i), length) };
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value.widen();
            }
        }
    }
}

/// A packed lower triangle, of which what is below the diagonal is added to.
struct Triangle {
    sums: *mut f64,
}

// SAFETY: threads add to disjoint tiles alone.
unsafe impl Sync for Triangle {}

impl<T: Element> Sink<T> for Triangle {
    fn wants(&self, place: Place) -> bool {
        place.col + 1 < place.row + place.rows
    }

    unsafe fn take(&self, place: Place, tile: &Tile<T>, _: bool, fill: impl Fn(*mut T, usize, bool)) {
        let length = |i: usize| (place.row + i).saturating_sub(place.col).min(place.cols);
        let row = |i: usize| self.sums.wrapping_add(packed_len(place.row + i) + place.col);
        add_rows(tile, place.rows, fill, length, row);
    }
}

/// A row-major matrix of sums.
struct Rectangle {
    sums: *mut f64,
    stride: usize,
}

// SAFETY: threads add to disjoint tiles alone.
unsafe impl Sync for Rectangle {}

impl<T: Element> Sink<T> for Rectangle {
    fn wants(&self, _: Place) -> bool {
        true
    }

    unsafe fn take(&self, place: Place, tile: &Tile<T>, _: bool, fill: impl Fn(*mut T, usize, bool)) {
        let row = |i: usize| self.sums.wrapping_add((place.row + i) * self.stride + place.col);
        add_rows(tile, place.rows, fill, |_| place.cols, row);
    }
}
