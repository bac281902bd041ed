//! Products over the spectra of a batch, added into f64 sums as soon as they are made: the same bits for any number of threads.

use candle_core::{DType, Result, Tensor};
use faer::MatRef;
use fisherflow_kernels::Products;
use fisherflow_network::scratch::Number;

use crate::packed::packed_len;

/// Adds the lower triangle of `X^T X` to `packed`, where `x` is `X [rows, n]` row-major.
///
/// Off the diagonal the product is in the element's arithmetic; the diagonal is a sum of squares in f64.
pub(crate) fn add_gram<T: Number>(x: &[T], n: usize, packed: &mut [f64], products: impl Into<Products>) {
    debug_assert_eq!(packed.len(), packed_len(n));
    if x.is_empty() {
        return;
    }
    let x = MatRef::from_row_major_slice(x, x.len() / n, n);
    fisherflow_kernels::add_gram(x, packed, products);
}

/// Rows whose product is added up in f64 where products are candle's: as many as are on the CPU.
const ROWS_ELSEWHERE: usize = 512;

/// The same of a tensor on whatever device, by candle's own products; its sums come to this machine's memory once.
pub(crate) fn add_gram_elsewhere(x: &Tensor, packed: &mut [f64]) -> Result<()> {
    let (rows, n) = x.dims2()?;
    debug_assert_eq!(packed.len(), packed_len(n));
    if rows == 0 {
        return Ok(());
    }
    let mut gram = Tensor::zeros((n, n), DType::F64, x.device())?;
    for first in (0..rows).step_by(ROWS_ELSEWHERE) {
        let x = x.narrow(0, first, ROWS_ELSEWHERE.min(rows - first))?.contiguous()?;
        gram = gram.add(&x.t()?.matmul(&x)?.to_dtype(DType::F64)?)?;
    }
    let gram: Vec<f64> = gram.flatten_all()?.to_vec1()?;
    let diagonal: Vec<f64> = x.to_dtype(DType::F64)?.sqr()?.sum(0)?.to_vec1()?;
    for (i, (row, square)) in gram.chunks_exact(n).zip(diagonal).enumerate() {
        let sums = &mut packed[packed_len(i)..packed_len(i + 1)];
        sums.iter_mut().zip(&row[..i]).for_each(|(sum, value)| *sum += value);
        sums[i] += square;
    }
    Ok(())
}

/// Adds `X^T Y` to the first `m` columns of `sums`, where `x` is `X [rows, n]`, `y` is `Y [rows, m]` and `sums` is `[n, stride]`, row-major.
pub(crate) fn add_cross<T: Number>(
    x: &[T],
    n: usize,
    y: &[T],
    m: usize,
    sums: &mut [f64],
    stride: usize,
    products: impl Into<Products>,
) {
    debug_assert_eq!(sums.len(), n * stride);
    if x.is_empty() || y.is_empty() {
        return;
    }
    let rows = x.len() / n;
    let x = MatRef::from_row_major_slice(x, rows, n);
    let y = MatRef::from_row_major_slice(y, rows, m);
    fisherflow_kernels::add_cross(x, y, sums, stride, products);
}

/// Adds `X^T (Y o Y)`, likewise.
pub(crate) fn add_cross_with_squares<T: Number>(
    x: &[T],
    n: usize,
    y: &[T],
    m: usize,
    sums: &mut [f64],
    stride: usize,
    products: impl Into<Products>,
) {
    debug_assert_eq!(sums.len(), n * stride);
    if x.is_empty() || y.is_empty() {
        return;
    }
    let rows = x.len() / n;
    let x = MatRef::from_row_major_slice(x, rows, n);
    let y = MatRef::from_row_major_slice(y, rows, m);
    fisherflow_kernels::add_cross_with_squares(x, y, sums, stride, products);
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Whole numbers, whose products are exact in f32 too.
    fn whole_numbers(len: usize, seed: u64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| f64::from(rng.random_range(-8i32..=8))).collect()
    }

    fn uniform(len: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    }

    fn brute_force(x: &[f64], n: usize, y: &[f64], m: usize) -> Vec<f64> {
        let mut product = vec![0.0; n * m];
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact(m)) {
            for (row, x) in product.chunks_exact_mut(m).zip(x) {
                for (to, y) in row.iter_mut().zip(y) {
                    *to += x * y;
                }
            }
        }
        product
    }

    const TILE: usize = 512;

    const SIZES: [usize; 5] = [1, 7, TILE, TILE + 1, 2 * TILE + 133];

    #[test]
    fn gram_is_exact_on_whole_numbers_and_adds() {
        for n in SIZES {
            let x = whole_numbers(5 * n, n as u64);
            let expected = brute_force(&x, n, &x, n);
            let single: Vec<f32> = x.iter().map(|&v| v as f32).collect();
            let mut sums = vec![0.0; packed_len(n)];
            add_gram(&x, n, &mut sums, 1);
            let lower = |times: f64| -> Vec<f64> {
                let rows = (0..n).flat_map(|i| expected[i * n..=i * n + i].iter());
                rows.map(|value| times * value).collect()
            };
            assert_eq!(sums, lower(1.0));
            add_gram(&single, n, &mut sums, 2);
            assert_eq!(sums, lower(2.0));
        }
    }

    #[test]
    fn gram_elsewhere_is_exact_on_whole_numbers_and_adds() {
        let (rows, n) = (2 * ROWS_ELSEWHERE + 30, 23);
        let x = whole_numbers(rows * n, 8);
        let mut expected = vec![1.0; packed_len(n)];
        add_gram(&x, n, &mut expected, 1);
        for dtype in [DType::F64, DType::F32] {
            let x = Tensor::from_slice(&x, (rows, n), &candle_core::Device::Cpu).unwrap();
            let mut sums = vec![1.0; packed_len(n)];
            add_gram_elsewhere(&x.to_dtype(dtype).unwrap(), &mut sums).unwrap();
            assert_eq!(sums, expected);
        }
    }

    #[test]
    fn cross_is_exact_on_whole_numbers_and_leaves_the_last_column() {
        for (n, m) in [(1, 1), (3, 700), (700, 5), (TILE + 1, 2 * TILE + 9)] {
            let (x, y) = (whole_numbers(4 * n, 1), whole_numbers(4 * m, 2));
            let expected = brute_force(&x, n, &y, m);
            let mut sums = vec![1.0; n * (m + 1)];
            add_cross(&x, n, &y, m, &mut sums, m + 1, 2);
            for (row, expected) in sums.chunks_exact(m + 1).zip(expected.chunks_exact(m)) {
                assert!(row.iter().zip(expected).all(|(found, e)| *found == e + 1.0));
                assert_eq!(row[m], 1.0);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let n = 3 * TILE + 77;
        let (x, y) = (uniform(64 * n, 3), uniform(64 * 600, 4));
        let (mut gram, mut cross) = (Vec::new(), Vec::new());
        for threads in [1, 2, 3, 8] {
            let mut sums = vec![0.0; packed_len(n)];
            add_gram(&x, n, &mut sums, threads);
            gram.push(sums);
            let mut sums = vec![0.0; n * 600];
            add_cross(&x, n, &y, 600, &mut sums, 600, threads);
            cross.push(sums);
        }
        assert!(gram.iter().all(|g| *g == gram[0]));
        assert!(cross.iter().all(|c| *c == cross[0]));
    }

    #[test]
    fn no_rows_add_nothing() {
        let mut sums = vec![2.0; packed_len(4)];
        add_gram::<f32>(&[], 4, &mut sums, 2);
        add_cross::<f64>(&[], 5, &[], 2, &mut sums, 2, 2);
        assert_eq!(sums, vec![2.0; 10]);
    }
}
