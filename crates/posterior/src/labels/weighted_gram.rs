//! `sum_d w_d x_kd x_ld` of K rows of one spectrum, in f64: the last step of every covariance of labels.

use candle_core::{DType, Result, Tensor, WithDType};
use pulp::{Simd, WithSimd};

/// Columns that are widened at a time: K rows of them stay in the first cache level.
const COLUMNS: usize = 128;

/// Sums that are added up in one fixed order at the end.
const LANES: usize = 8;

/// Room for the products of K rows, to be used for one spectrum after the other.
pub(crate) struct WeightedGram {
    k: usize,
    /// `[K, COLUMNS]`.
    rows: Vec<[f64; COLUMNS]>,
    /// The lower triangle, row after row.
    sums: Vec<[f64; LANES]>,
}

impl WeightedGram {
    /// For K rows.
    pub(crate) fn new(k: usize) -> Self {
        Self {
            k,
            rows: vec![[0.0; COLUMNS]; k],
            sums: vec![[0.0; LANES]; k * (k + 1) / 2],
        }
    }

    /// Writes `[K, K]`, exactly symmetric; `row(k)` and `weights` are equally long.
    pub(crate) fn write<'a, T: WithDType, W: WithDType>(
        &mut self,
        row: impl Fn(usize) -> &'a [T],
        weights: &[W],
        covariance: &mut [f64],
    ) {
        let k = self.k;
        pulp::Arch::new().dispatch(Sums {
            room: self,
            row,
            weights,
        });
        let mut sums = self.sums.iter();
        for i in 0..k {
            for (l, lanes) in sums.by_ref().take(i + 1).enumerate() {
                let sum = lanes.iter().sum();
                covariance[i * k + l] = sum;
                covariance[l * k + i] = sum;
            }
        }
    }
}

/// Values of `rows` that are widened at a time on another device: 512 MiB in f64, of which there are three copies.
const ELEMENTS_ELSEWHERE: usize = 1 << 26;

/// `[batch, K, K]`, exactly symmetric, of `rows`, `[K, batch, width]`, and `weights`, `[batch, width]`, on whatever device, by candle's own products in
/// f64, some spectra at a time.
pub(crate) fn weighted_gram_elsewhere(rows: &Tensor, weights: &Tensor) -> Result<Vec<f64>> {
    weighted_gram_in_pieces(rows, weights, ELEMENTS_ELSEWHERE)
}

fn weighted_gram_in_pieces(rows: &Tensor, weights: &Tensor, elements: usize) -> Result<Vec<f64>> {
    let (k, batch, width) = rows.dims3()?;
    let at_once = (elements / (k * width).max(1)).clamp(1, batch.max(1));
    let mut grams = Vec::with_capacity(batch * k * k);
    for first in (0..batch).step_by(at_once) {
        let n = at_once.min(batch - first);
        let rows = rows.narrow(1, first, n)?.to_dtype(DType::F64)?;
        let weighted = rows.broadcast_mul(&weights.narrow(0, first, n)?.to_dtype(DType::F64)?)?;
        let by_spectrum = weighted.transpose(0, 1)?.contiguous()?;
        let gram = by_spectrum.matmul(&rows.permute((1, 2, 0))?.contiguous()?)?;
        grams.extend(gram.flatten_all()?.to_vec1::<f64>()?);
    }
    for gram in grams.chunks_exact_mut((k * k).max(1)) {
        for i in 0..k {
            (0..i).for_each(|l| gram[l * k + i] = gram[i * k + l]);
        }
    }
    Ok(grams)
}

/// The sums of one spectrum, for the widest registers there are.
struct Sums<'r, 'w, F, W> {
    room: &'r mut WeightedGram,
    row: F,
    weights: &'w [W],
}

impl<'a, T: WithDType, W: WithDType, F: Fn(usize) -> &'a [T]> WithSimd for Sums<'_, '_, F, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let WeightedGram { k, rows, sums } = self.room;
        sums.fill([0.0; LANES]);
        for (block, weights) in self.weights.chunks(COLUMNS).enumerate() {
            let first = block * COLUMNS;
            // Beyond the last column: 0.
            let mut wide = [0.0; COLUMNS];
            widen(&mut wide, weights);
            for (label, to) in rows.iter_mut().enumerate() {
                to[weights.len()..].fill(0.0);
                widen(to, &(self.row)(label)[first..first + weights.len()]);
            }
            let mut sums = sums.iter_mut();
            for i in 0..*k {
                let mut weighted = [0.0; COLUMNS];
                for ((to, x), w) in weighted.iter_mut().zip(&rows[i]).zip(&wide) {
                    *to = x * w;
                }
                for (other, sum) in rows.iter().take(i + 1).zip(sums.by_ref()) {
                    let mut lanes = *sum;
                    for (x, y) in weighted.as_chunks::<LANES>().0.iter().zip(other.as_chunks::<LANES>().0) {
                        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
                            *lane += x * y;
                        }
                    }
                    *sum = lanes;
                }
            }
        }
    }
}

#[inline(always)]
fn widen<T: WithDType>(to: &mut [f64], from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_direct_sum_of_whole_numbers() {
        for (k, columns) in [(1, 1), (3, 127), (2, 128), (4, 300), (2, 0)] {
            let x: Vec<f32> = (0..k * columns).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
            let w: Vec<f64> = (0..columns).map(|i| (i % 5) as f64).collect();
            let mut gram = WeightedGram::new(k);
            for _ in 0..2 {
                let mut found = vec![f64::NAN; k * k];
                gram.write(|row| &x[row * columns..][..columns], &w, &mut found);
                for i in 0..k {
                    for l in 0..k {
                        let at = |row: usize, d: usize| f64::from(x[row * columns + d]);
                        let direct: f64 = (0..columns).map(|d| w[d] * at(i, d) * at(l, d)).sum();
                        assert_eq!(found[i * k + l], direct, "{k} {columns}");
                    }
                }
            }
        }
    }

    /// What a GPU is given, here on the CPU: pieces of any size are the direct sum, of whole numbers exactly.
    #[test]
    fn pieces_elsewhere_are_the_direct_sum() {
        let (k, batch, width) = (3, 7, 5);
        let x: Vec<f32> = (0..k * batch * width).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
        let w: Vec<f64> = (0..batch * width).map(|i| (i % 5) as f64).collect();
        let of = |shape: &[usize]| Tensor::from_slice(&x, shape, &candle_core::Device::Cpu).unwrap();
        let weights = Tensor::from_slice(&w, (batch, width), &candle_core::Device::Cpu).unwrap();
        for elements in [1, 2 * k * width, 3 * k * width + 1, usize::MAX] {
            let found = weighted_gram_in_pieces(&of(&[k, batch, width]), &weights, elements).unwrap();
            assert_eq!(found.len(), batch * k * k);
            for (at, found) in found.into_iter().enumerate() {
                let (n, i, l) = (at / (k * k), at / k % k, at % k);
                let value = |row: usize, d: usize| f64::from(x[(row * batch + n) * width + d]);
                let direct: f64 = (0..width).map(|d| w[n * width + d] * value(i, d) * value(l, d)).sum();
                assert_eq!(found, direct, "{elements}: star {n}, {i}, {l}");
            }
        }
        let none = weighted_gram_elsewhere(
            &of(&[k, batch, width]).narrow(1, 0, 0).unwrap(),
            &weights.narrow(0, 0, 0).unwrap(),
        );
        assert!(none.unwrap().is_empty());
    }
}
