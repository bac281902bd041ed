//! Products over rows that are added to sums in f64: `sums += X^T X` (its lower triangle) and `sums += X^T Y`.
//!
//! A tile is made in the operands' type, over at most one block of rows, and added in f64 while it is in the first cache level: the product
//! itself is never in memory.

use faer::MatRef;

use crate::blocks::{Place, Right, Room, Sink, product};
use crate::element::Element;
use crate::pack::Map;
use crate::path::Path;
use crate::products::Products;
use crate::strips::Operand;
use crate::threads::run_all;
use crate::tile::{Tile, prefetch};

/// Adds the lower triangle of `X^T X` to `sums`, packed row after row; `x` is `[rows, n]`. The diagonal is a sum of squares in f64.
///
/// # Panics
/// If `sums` has not `n (n + 1) / 2` values, or the path is not there.
pub fn add_gram<T: Element>(x: MatRef<'_, T>, sums: &mut [f64], products: impl Into<Products>) {
    let Products { path, threads } = products.into();
    assert!(path.is_available() && path != Path::I16, "no sums on path {path} here");
    let n = x.ncols();
    assert_eq!(sums.len(), packed_len(n), "packed lower triangle of [{n}, {n}]");
    let operand = Operand::new(x.transpose());
    let sink = Triangle {
        sums: sums.as_mut_ptr(),
    };
    // SAFETY: the path is there; the sums have every place below the diagonal, and are borrowed for as long as this runs.
    unsafe { product(&T::tile(path), operand, Right::Plain(operand), &sink, threads) };
    for (i, square) in squares(&T::tile(path), x, threads).into_iter().enumerate() {
        sums[packed_len(i) + i] += square;
    }
}

/// The sum of squares of every column, in f64.
fn squares<T: Element>(tile: &Tile<T>, x: MatRef<'_, T>, threads: usize) -> Vec<f64> {
    let mut squares = vec![0.0; x.ncols()];
    let threads = if x.nrows() * x.ncols() < SQUARES_WORTH_SHARING {
        1
    } else {
        threads
    };
    let jobs = squares.chunks_mut(COLUMNS_OF_A_JOB).enumerate().map(|(job, squares)| {
        let x = x.subcols(job * COLUMNS_OF_A_JOB, squares.len());
        move || {
            for row in x.row_iter() {
                match row.try_as_row_major() {
                    // SAFETY: the tile's path is there.
                    Some(row) => unsafe { (tile.add_squares)(squares, row.as_slice()) },
                    None => squares.iter_mut().zip(row.iter()).for_each(|(square, x)| {
                        let x = x.widen();
                        *square += x * x;
                    }),
                }
            }
        }
    });
    run_all(jobs.collect(), threads);
    squares
}

/// Adds `X^T Y` to the first `m` columns of `sums`, `[n, stride]` row-major; `x` is `[rows, n]` and `y` `[rows, m]`.
///
/// # Panics
/// If shapes do not fit, or the path is not there.
pub fn add_cross<T: Element>(
    x: MatRef<'_, T>,
    y: MatRef<'_, T>,
    sums: &mut [f64],
    stride: usize,
    products: impl Into<Products>,
) {
    add_cross_mapped(Map::Identity, x, y, sums, stride, products.into());
}

/// Adds `X^T (Y o Y)`, products with squares, likewise: no square is ever in memory.
///
/// # Panics
/// If shapes do not fit, or the path is not there.
pub fn add_cross_with_squares<T: Element>(
    x: MatRef<'_, T>,
    y: MatRef<'_, T>,
    sums: &mut [f64],
    stride: usize,
    products: impl Into<Products>,
) {
    add_cross_mapped(Map::Square, x, y, sums, stride, products.into());
}

fn add_cross_mapped<T: Element>(
    map: Map,
    x: MatRef<'_, T>,
    y: MatRef<'_, T>,
    sums: &mut [f64],
    stride: usize,
    Products { path, threads }: Products,
) {
    assert!(path.is_available() && path != Path::I16, "no sums on path {path} here");
    assert_eq!(x.nrows(), y.nrows(), "rows of a product over rows");
    let (n, m) = (x.ncols(), y.ncols());
    assert!(
        m <= stride && n.checked_mul(stride) == Some(sums.len()),
        "sums [{n}, {stride}] of a product [{n}, {m}]"
    );
    let sink = Rectangle {
        sums: sums.as_mut_ptr(),
        stride,
    };
    let of_y = Operand {
        matrix: y.transpose(),
        map,
    };
    // SAFETY: the path is there; the sums have every place of the product, and are borrowed for as long as this runs.
    unsafe {
        product(
            &T::tile(path),
            Operand::new(x.transpose()),
            Right::Plain(of_y),
            &sink,
            threads,
        )
    };
}

/// Columns whose squares a thread sums at a time.
const COLUMNS_OF_A_JOB: usize = 1024;
const SQUARES_WORTH_SHARING: usize = 1 << 17;

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
    let mut room = Room::new();
    for i in 0..rows {
        for line in (0..length(i)).step_by(8) {
            prefetch(row(i).wrapping_add(line));
        }
    }
    fill(room.0.as_mut_ptr().cast(), tile.cols, false);
    for (i, values) in room.0.chunks_exact(tile.cols).take(rows).enumerate() {
        let length = length(i);
        if length > 0 {
            // SAFETY: the first `rows` rows of the room were written; the caller hands out rows of its own sums that are that long, which no
            // other thread has now, and a tile of a path that is there.
            unsafe { (tile.add)(std::slice::from_raw_parts_mut(row(i), length), values.assume_init_ref()) };
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
    fn takes_pieces(&self) -> bool {
        false
    }

    fn wants(&self, place: Place) -> bool {
        place.col + 1 < place.row + place.rows
    }

    fn first_row(&self, left: usize) -> usize {
        left
    }

    unsafe fn take(&self, place: Place, tile: &Tile<T>, _: usize, _: bool, fill: impl Fn(*mut T, usize, bool)) {
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
    fn takes_pieces(&self) -> bool {
        false
    }

    fn wants(&self, _: Place) -> bool {
        true
    }

    fn first_row(&self, _: usize) -> usize {
        0
    }

    unsafe fn take(&self, place: Place, tile: &Tile<T>, _: usize, _: bool, fill: impl Fn(*mut T, usize, bool)) {
        let row = |i: usize| self.sums.wrapping_add((place.row + i) * self.stride + place.col);
        add_rows(tile, place.rows, fill, |_| place.cols, row);
    }
}

#[cfg(test)]
mod tests {
    use faer::traits::math_utils::from_f64;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::path::Path;

    fn drawn<T: Element>(len: usize, seed: u64, draw: impl Fn(&mut ChaCha8Rng) -> f64) -> Vec<T> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| from_f64(draw(&mut rng))).collect()
    }

    /// Whole numbers, whose products are exact in f32 too.
    fn whole_numbers<T: Element>(len: usize, seed: u64) -> Vec<T> {
        drawn(len, seed, |rng| f64::from(rng.random_range(-8i8..=8)))
    }

    fn brute_force<T: Element>(x: &[T], n: usize, y: &[T], m: usize, power: i32) -> Vec<f64> {
        let mut product = vec![0.0; n * m];
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact(m)) {
            for (row, x) in product.chunks_exact_mut(m).zip(x) {
                for (to, y) in row.iter_mut().zip(y) {
                    *to += x.widen() * y.widen().powi(power);
                }
            }
        }
        product
    }

    fn paths() -> impl Iterator<Item = Path> {
        Path::EXACT.into_iter().filter(|path| path.is_available())
    }

    const SIZES: [(usize, usize); 6] = [(1, 1), (5, 7), (3, 14), (1300, 33), (9, 141), (40, 700)];

    fn the_triangle_is_exact<T: Element>() {
        for (rows, n) in SIZES {
            let x = whole_numbers::<T>(rows * n, n as u64);
            let expected = brute_force(&x, n, &x, n, 1);
            for path in paths() {
                let mut sums = vec![0.5; packed_len(n)];
                add_gram(
                    MatRef::from_row_major_slice(&x, rows, n),
                    &mut sums,
                    Products { path, threads: 2 },
                );
                for i in 0..n {
                    for j in 0..=i {
                        assert_eq!(sums[packed_len(i) + j], expected[i * n + j] + 0.5, "{path} {rows} {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_triangle_is_exact_on_whole_numbers_and_adds() {
        the_triangle_is_exact::<f32>();
        the_triangle_is_exact::<f64>();
    }

    fn the_rectangle_is_exact<T: Element>() {
        for (rows, n) in SIZES {
            for m in [1, 31, 260] {
                let (x, y) = (whole_numbers::<T>(rows * n, 1), whole_numbers::<T>(rows * m, 2));
                let (of_x, of_y) = (
                    MatRef::from_row_major_slice(&x, rows, n),
                    MatRef::from_row_major_slice(&y, rows, m),
                );
                let mut sums = [vec![1.0; n * (m + 1)], vec![1.0; n * (m + 1)]];
                add_cross(of_x, of_y, &mut sums[0], m + 1, 2);
                add_cross_with_squares(of_x, of_y, &mut sums[1], m + 1, 2);
                for (sums, power) in sums.iter().zip([1, 2]) {
                    let expected = brute_force(&x, n, &y, m, power);
                    for (row, expected) in sums.chunks_exact(m + 1).zip(expected.chunks_exact(m)) {
                        assert!(
                            row.iter().zip(expected).all(|(found, e)| *found == e + 1.0),
                            "{rows} {n} {m}"
                        );
                        assert_eq!(row[m], 1.0);
                    }
                }
            }
        }
    }

    #[test]
    fn the_rectangle_is_exact_on_whole_numbers_and_leaves_the_rest() {
        the_rectangle_is_exact::<f32>();
        the_rectangle_is_exact::<f64>();
    }

    fn nothing_changes_a_bit<T: Element>() {
        let (rows, n, m) = (1100, 333, 150);
        let draw = |rng: &mut ChaCha8Rng| rng.random_range(-1.0..1.0);
        let (x, y) = (drawn::<T>(rows * n, 5, draw), drawn::<T>(rows * m, 6, draw));
        let x = MatRef::from_row_major_slice(&x, rows, n);
        let y = MatRef::from_row_major_slice(&y, rows, m);
        let sums = |path: Path, threads: usize| {
            let products = Products { path, threads };
            let (mut triangle, mut rectangle) = (vec![0.0; packed_len(n)], vec![0.0; n * m]);
            add_gram(x, &mut triangle, products);
            add_cross(x, y, &mut rectangle, m, products);
            (triangle, rectangle)
        };
        let first = sums(Path::best(), 1);
        for path in paths() {
            for threads in [1, 2, 3, 8] {
                assert!(sums(path, threads) == first, "{path} {threads}");
            }
        }
    }

    #[test]
    fn threads_and_paths_do_not_change_a_bit() {
        nothing_changes_a_bit::<f32>();
        nothing_changes_a_bit::<f64>();
    }
}
