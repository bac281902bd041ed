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
    fn no_rows_add_nothing() {
        let mut sums = vec![2.0; packed_len(4)];
        add_gram::<f32>(&[], 4, &mut sums, 2);
        add_cross::<f64>(&[], 5, &[], 2, &mut sums, 2, 2);
        assert_eq!(sums, vec![2.0; 10]);
    }
}
