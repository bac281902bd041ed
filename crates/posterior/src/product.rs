//! Matrix products in f32 and f64, bitwise the same for any number of threads.

use faer::{MatMut, MatRef, Par};
pub(crate) use fisherflow_curvature::dot;
use fisherflow_kernels::{Packed, RowGroups, Start, multiply, multiply_packed, multiply_packed_in_groups};
use fisherflow_network::scratch::{Number, Scratch};

/// What many batches are multiplied by: packed for products once, or as it is.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a, T> {
    Packed(&'a Packed<T>),
    Plain(MatRef<'a, T>),
}

impl<T: Number> Right<'_, T> {
    /// `lhs` times this, row-major; `row` is added to every row of the product.
    pub(crate) fn product(self, lhs: MatRef<'_, T>, row: Option<&[T]>, threads: usize) -> Scratch<T> {
        let (m, n) = (
            lhs.nrows(),
            match self {
                Self::Packed(packed) => packed.cols(),
                Self::Plain(matrix) => matrix.ncols(),
            },
        );
        let mut out = Scratch::new(m * n);
        let to = MatMut::from_row_major_slice_mut(&mut out, m, n);
        let start = row.map_or(Start::Zero, Start::Row);
        match self {
            Self::Packed(packed) => multiply_packed(to, start, lhs, packed, threads),
            Self::Plain(matrix) => multiply(to, start, lhs, matrix, threads),
        }
        out
    }
}

/// Gradients `[K * groups, k]` times a packed matrix, row-major: rows that are a multiple of `groups` apart are those of one spectrum.
pub(crate) fn product_of_gradients<T: Number>(
    gradients: MatRef<'_, T>,
    groups: usize,
    by: &Packed<T>,
    threads: usize,
) -> Scratch<T> {
    let mut out = Scratch::new(gradients.nrows() * by.cols());
    let to = MatMut::from_row_major_slice_mut(&mut out, gradients.nrows(), by.cols());
    multiply_packed_in_groups(to, Start::Zero, gradients, RowGroups::Apart(groups), by, threads);
    out
}

/// A row-major array as a matrix.
pub(crate) fn rows<T>(values: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::from_row_major_slice(values, rows, cols)
}

/// The values in f32.
pub(crate) fn as_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// faer's parallelism for a number of threads.
pub(crate) fn par(threads: usize) -> Par {
    if threads > 1 { Par::rayon(threads) } else { Par::Seq }
}

/// `lhs rhs`, row-major.
pub(crate) fn product<T: Number>(lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, threads: usize) -> Vec<T> {
    let (m, k, n) = (lhs.nrows(), lhs.ncols(), rhs.ncols());
    debug_assert_eq!(k, rhs.nrows());
    let mut out = vec![T::ZERO; m * n];
    if m == 0 || n == 0 || k == 0 {
        return out;
    }
    let to = MatMut::from_row_major_slice_mut(&mut out, m, n);
    multiply(to, Start::Zero, lhs, rhs, threads);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brute_force::Numbers;

    fn check<T: Number>(m: usize, k: usize, n: usize, eps: f64) {
        let mut numbers = Numbers::new((m * 1000 + k) as u64);
        let mut draw = |len: usize| -> Vec<T> { (0..len).map(|_| T::from_f64(numbers.next())).collect() };
        let (a, b) = (draw(m * k), draw(k * n));
        let one = product(rows(&a, m, k), rows(&b, k, n), 1);
        for threads in [2, 3, 8] {
            let more = product(rows(&a, m, k), rows(&b, k, n), threads);
            assert!(one == more, "{m} {k} {n} on {threads} threads");
        }
        for i in 0..m {
            for j in 0..n {
                let direct: f64 = (0..k).map(|l| a[i * k + l].to_f64() * b[l * n + j].to_f64()).sum();
                assert!((one[i * n + j].to_f64() - direct).abs() < eps * (k + 2) as f64);
            }
        }
    }

    #[test]
    fn products_are_right_and_do_not_depend_on_threads() {
        for (m, k, n) in [
            (3, 5, 4),
            (1, 700, 300),
            (300, 700, 1),
            (64, 1, 64),
            (96, 1100, 130),
            (257, 600, 259),
        ] {
            check::<f32>(m, k, n, f64::from(f32::EPSILON));
            check::<f64>(m, k, n, f64::EPSILON);
        }
    }

    #[test]
    fn nothing_times_something_is_nothing() {
        assert!(product::<f64>(rows(&[], 0, 3), rows(&[0.0; 6], 3, 2), 2).is_empty());
    }
}
