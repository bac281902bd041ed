use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::path::Path;
use crate::tile::CHAIN;

/// A number type that tests draw.
trait Number: Element + std::fmt::Debug + PartialEq {
    fn of(x: f64) -> Self;
    fn bits(self) -> u64;
}

impl Number for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }

    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Number for f64 {
    fn of(x: f64) -> Self {
        x
    }

    fn bits(self) -> u64 {
        self.to_bits()
    }
}

fn draw<T: Number>(len: usize, seed: u64) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| T::of(rng.random_range(-1.0..1.0))).collect()
}

fn multiply_on<T: Element>(
    path: Path,
    dst: MatMut<'_, T>,
    start: Start<'_, T>,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
    threads: usize,
) {
    multiply(dst, start, lhs, rhs, Products { path, threads });
}

fn paths() -> impl Iterator<Item = Path> {
    Path::EXACT.into_iter().filter(|path| path.is_available())
}

/// The definition: chains of fused multiply-adds, added in order.
fn by_definition<T: Number>(start: impl Fn(usize, usize) -> T, a: MatRef<'_, T>, b: MatRef<'_, T>) -> Vec<T> {
    let mut out = Vec::new();
    for i in 0..a.nrows() {
        for j in 0..b.ncols() {
            let mut sum = start(i, j);
            for from in (0..a.ncols()).step_by(CHAIN) {
                let chain = (from..a.ncols().min(from + CHAIN))
                    .fold(T::ZERO, |chain, k| a[(i, k)].fused_multiply_add(b[(k, j)], chain));
                sum += chain;
            }
            out.push(sum);
        }
    }
    out
}

const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (1, 7, 5),
    (5, 7, 1),
    (14, 1, 32),
    (15, 255, 33),
    (13, 256, 31),
    (29, 257, 65),
    (3, 1100, 90),
    (260, 30, 40),
    (65, 1030, 150),
    (100, 520, 600),
    (0, 3, 2),
    (2, 0, 3),
    (2, 3, 0),
];

fn every_path_is_the_definition<T: Number>() {
    for (m, k, n) in SHAPES {
        let (a, b, c) = (draw::<T>(m * k, 1), draw::<T>(k * n, 2), draw::<T>(m * n + n, 3));
        let (row, c) = c.split_at(n);
        let mut a_turned = vec![T::ZERO; m * k];
        let mut b_turned = vec![T::ZERO; k * n];
        let (by_row, b_by_row) = (
            MatRef::from_row_major_slice(&a, m, k),
            MatRef::from_row_major_slice(&b, k, n),
        );
        MatMut::from_column_major_slice_mut(&mut a_turned, m, k).copy_from(by_row);
        MatMut::from_column_major_slice_mut(&mut b_turned, k, n).copy_from(b_by_row);
        let (by_col, b_by_col) = (
            MatRef::from_column_major_slice(&a_turned, m, k),
            MatRef::from_column_major_slice(&b_turned, k, n),
        );
        for path in paths() {
            for (start, expected) in [
                (Start::Zero, by_definition(|_, _| T::ZERO, by_row, b_by_row)),
                (Start::Kept, by_definition(|i, j| c[i * n + j], by_row, b_by_row)),
                (Start::Row(row), by_definition(|_, j| row[j], by_row, b_by_row)),
            ] {
                for (a, b) in [
                    (by_row, b_by_row),
                    (by_col, b_by_row),
                    (by_row, b_by_col),
                    (by_col, b_by_col),
                ] {
                    let mut out = c.to_vec();
                    multiply_on(path, MatMut::from_row_major_slice_mut(&mut out, m, n), start, a, b, 3);
                    assert_eq!(out, expected, "{path} {m} {k} {n} {start:?}");
                }
                let mut out = vec![T::of(7.0); m * n];
                let mut dst = MatMut::from_column_major_slice_mut(&mut out, m, n);
                dst.copy_from(MatRef::from_row_major_slice(c, m, n));
                multiply_on(path, dst.as_mut(), start, by_row, b_by_row, 2);
                assert!(
                    (0..m * n).all(|at| n == 0 || dst[(at / n, at % n)] == expected[at]),
                    "{path} {m} {k} {n}"
                );
                let packed = Packed::new(b_by_col, Products { path, threads: 2 });
                let mut out = c.to_vec();
                multiply_packed(
                    MatMut::from_row_major_slice_mut(&mut out, m, n),
                    start,
                    by_row,
                    &packed,
                    2,
                );
                assert_eq!(out, expected, "{path} {m} {k} {n} packed");
                let row = match start {
                    Start::Kept => continue,
                    Start::Zero => None,
                    Start::Row(row) => Some(row),
                };
                for (a, b) in [(by_row, b_by_col), (by_col, b_by_row)] {
                    let made = multiplied(row, a, b, Products { path, threads: 3 });
                    assert_eq!(made, expected, "{path} {m} {k} {n} in new memory");
                }
                let made = multiplied_packed(row, by_row, &packed, 2);
                assert_eq!(made, expected, "{path} {m} {k} {n} packed, in new memory");
            }
        }
    }
}

#[test]
fn every_path_is_the_definition_in_f32() {
    every_path_is_the_definition::<f32>();
}

#[test]
fn every_path_is_the_definition_in_f64() {
    every_path_is_the_definition::<f64>();
}

fn panics(make: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).is_err()
}

#[test]
#[should_panic(expected = "is more than memory can be")]
fn a_product_of_more_elements_than_there_are_numbers_is_refused() {
    let half: usize = 1 << (usize::BITS / 2);
    let (a, b) = (
        MatRef::from_row_major_slice(&[], half, 0),
        MatRef::from_row_major_slice(&[], 0, half),
    );
    drop(multiplied::<f32>(None, a, b, 1));
}

#[test]
fn a_row_of_another_length_is_refused() {
    let numbers = draw::<f32>(21, 3);
    for (m, k, n) in [(20, 5, 3), (3, 5, 20), (20, 0, 3)] {
        let (a, b) = (draw::<f32>(m * k, 1), draw::<f32>(k * n, 2));
        let (a, b) = (
            MatRef::from_row_major_slice(&a, m, k),
            MatRef::from_row_major_slice(&b, k, n),
        );
        for path in paths() {
            let products = Products { path, threads: 1 };
            let packed = Packed::new(b, products);
            for row in [&numbers[..n - 1], &numbers[..n + 1]] {
                let (mut out, start) = (vec![0.0; m * n], Start::Row(row));
                let said = format!("{path} {m} {k} {n} {}", row.len());
                let refused = [
                    panics(|| {
                        let dst = MatMut::from_row_major_slice_mut(&mut out, m, n);
                        multiply(dst, start, a, b, products);
                    }),
                    panics(|| {
                        let dst = MatMut::from_column_major_slice_mut(&mut out, m, n);
                        multiply(dst, start, a, b, products);
                    }),
                    panics(|| {
                        let dst = MatMut::from_row_major_slice_mut(&mut out, m, n);
                        multiply_packed(dst, start, a, &packed, 1);
                    }),
                    panics(|| drop(multiplied(Some(row), a, b, products))),
                    panics(|| drop(multiplied_packed(Some(row), a, &packed, 1))),
                ];
                assert_eq!(refused, [true; 5], "{said}");
            }
        }
    }
}

fn threads_and_paths_do_not_change_a_bit<T: Number>() {
    for (m, k, n) in [
        (1, 3000, 2000),
        (2000, 300, 1),
        (64, 700, 1500),
        (401, 611, 1009),
        (30, 40, 9000),
    ] {
        let (a, b) = (draw::<T>(m * k, 3), draw::<T>(k * n, 4));
        let (a, b) = (
            MatRef::from_row_major_slice(&a, m, k),
            MatRef::from_row_major_slice(&b, k, n),
        );
        let mut first: Option<Vec<u64>> = None;
        for path in paths() {
            // It is slow.
            if path == Path::Portable && m * k * n > 1 << 24 {
                continue;
            }
            for threads in [1, 2, 3, 8] {
                let mut out = vec![T::ZERO; m * n];
                multiply_on(
                    path,
                    MatMut::from_row_major_slice_mut(&mut out, m, n),
                    Start::Zero,
                    a,
                    b,
                    threads,
                );
                let bits: Vec<u64> = out.into_iter().map(Number::bits).collect();
                assert_eq!(
                    *first.get_or_insert_with(|| bits.clone()),
                    bits,
                    "{path} {m} {k} {n} {threads}"
                );
            }
        }
    }
}

#[test]
fn threads_and_paths_do_not_change_a_bit_in_f32() {
    threads_and_paths_do_not_change_a_bit::<f32>();
}

#[test]
fn threads_and_paths_do_not_change_a_bit_in_f64() {
    threads_and_paths_do_not_change_a_bit::<f64>();
}

#[test]
fn what_is_not_finite_stays_in_its_rows_and_columns() {
    let (m, k, n) = (37, 300, 70);
    let (mut a, mut b) = (draw::<f32>(m * k, 1), draw::<f32>(k * n, 2));
    a[5 * k + 299] = f32::NAN;
    b[17 * n + 69] = f32::INFINITY;
    for path in paths() {
        let mut out = vec![0.0; m * n];
        multiply_on(
            path,
            MatMut::from_row_major_slice_mut(&mut out, m, n),
            Start::Zero,
            MatRef::from_row_major_slice(&a, m, k),
            MatRef::from_row_major_slice(&b, k, n),
            2,
        );
        for (at, value) in out.iter().enumerate() {
            let (i, j) = (at / n, at % n);
            assert_eq!(value.is_nan(), i == 5, "{path} {i} {j}");
            assert_eq!(value.is_infinite(), i != 5 && j == 69, "{path} {i} {j}");
        }
    }
}

#[test]
fn what_is_subnormal_is_kept() {
    let tiny = f32::MIN_POSITIVE / 4.0;
    for path in paths() {
        let mut out = [0.0f32];
        let dst = MatMut::from_row_major_slice_mut(&mut out, 1, 1);
        let (a, b) = ([tiny, tiny], [1.0, 1.0]);
        let (a, b) = (
            MatRef::from_row_major_slice(&a, 1, 2),
            MatRef::from_row_major_slice(&b, 2, 1),
        );
        multiply_on(path, dst, Start::Zero, a, b, 1);
        assert_eq!(out[0], 2.0 * tiny, "{path}");
    }
}

#[test]
fn parts_of_larger_matrices_and_reversed_ones() {
    let (a, b) = (draw::<f64>(40 * 50, 1), draw::<f64>(50 * 60, 2));
    let a = MatRef::from_row_major_slice(&a, 40, 50).submatrix(3, 4, 20, 30);
    let b = MatRef::from_row_major_slice(&b, 50, 60)
        .submatrix(5, 6, 30, 33)
        .reverse_cols();
    for path in paths() {
        let mut out = vec![9.0; 25 * 40];
        let dst = MatMut::from_row_major_slice_mut(&mut out, 25, 40).submatrix_mut(2, 3, 20, 33);
        multiply_on(path, dst.reverse_rows_mut(), Start::Zero, a, b, 1);
        let expected = by_definition(|_, _| 0.0, a, b);
        for i in 0..25 {
            for j in 0..40 {
                let inside = (2..22).contains(&i) && (3..36).contains(&j);
                let wanted = if inside { expected[(21 - i) * 33 + j - 3] } else { 9.0 };
                assert_eq!(out[i * 40 + j], wanted, "{path} {i} {j}");
            }
        }
    }
}

#[test]
fn an_upper_triangle_is_that_of_the_whole_product() {
    for (n, k) in [(1, 1), (13, 5), (130, 128), (301, 33)] {
        let (a, b, c) = (draw::<f64>(n * k, 1), draw::<f64>(k * n, 2), draw::<f64>(n * n, 3));
        let (a, b) = (
            MatRef::from_row_major_slice(&a, n, k),
            MatRef::from_row_major_slice(&b, k, n),
        );
        let expected = by_definition(|i, j| c[i * n + j], a, b);
        for threads in [1, 3] {
            let mut out = c.clone();
            add_upper(MatMut::from_row_major_slice_mut(&mut out, n, n), a, b, threads);
            for i in 0..n {
                assert_eq!(out[i * n + i..][..n - i], expected[i * n + i..][..n - i], "{n} {k} {i}");
            }
        }
    }
}
