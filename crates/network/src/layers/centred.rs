//! A dense layer's product about the mean of each row of its inputs: `W x + b = W (x - m) + m (W 1) + b`, m a row's mean.
//!
//! A product of bf16 is off by a share of its terms. Spectra that are not centred, and activations that are never negative, have terms that
//! are large beside their differences, and it is these that tell spectra apart: so the product is given numbers about 0, and the rest is added
//! in f64. A row's mean is of that row alone, in a fixed order: no bit depends on the batch.

use candle_core::{DType, Result, Tensor};

use crate::layers::row_map::{RowMap, map_rows, with_values};
use crate::product::PackedTensor;
use crate::scratch::Number;

/// `input W^T + bias`, about the mean of each row; `row_sums`: `W 1`, `[out]`, `weight`: `W^T` packed.
pub(crate) fn product_about_means(
    weight: &PackedTensor,
    row_sums: &[f64],
    input: &Tensor,
    bias: Option<&Tensor>,
    threads: usize,
) -> Result<Tensor> {
    let means: Vec<f64> = map_rows(input, &Means, threads)?
        .flatten_all()?
        .to_dtype(DType::F64)?
        .to_vec1()?;
    let centred = map_rows(
        input,
        &Less {
            means: &means,
            width: input.dims2()?.1,
        },
        threads,
    )?;
    let product = weight.product(&centred, None, threads)?;
    let bias = match bias {
        None => vec![0.0; row_sums.len()],
        Some(bias) => bias.to_dtype(DType::F64)?.to_vec1()?,
    };
    let plus = Plus {
        means: &means,
        row_sums,
        bias: &bias,
    };
    map_rows(&product, &plus, threads)
}

/// `W 1`, `[out]`, of `[out, in]`.
pub(crate) fn row_sums(weight: &Tensor) -> Result<Vec<f64>> {
    let width = weight.dims2()?.1.max(1);
    let weight = weight.to_dtype(DType::F64)?.contiguous()?;
    with_values(&weight, |w: &[f64]| {
        Ok(w.chunks_exact(width).map(|row| row.iter().sum()).collect())
    })
}

/// Sums that are formed beside each other, so that they need not wait for one another.
const LANES: usize = 16;

/// The mean of every row, in the numbers' own type.
struct Means;

impl RowMap for Means {
    fn out_width(&self) -> Result<usize> {
        Ok(1)
    }

    fn apply<T: Number>(&self, _: usize, rows: &[T], out: &mut [T]) -> Result<()> {
        let width = rows.len() / out.len().max(1);
        for (row, mean) in rows.chunks_exact(width.max(1)).zip(out) {
            let mut lanes = [0.0; LANES];
            let whole = row.chunks_exact(LANES);
            let rest: f64 = whole.remainder().iter().map(|x| x.widen()).sum();
            for values in whole {
                for (lane, x) in lanes.iter_mut().zip(values) {
                    *lane += x.widen();
                }
            }
            *mean = T::from_f64((lanes.iter().sum::<f64>() + rest) / width as f64);
        }
        Ok(())
    }
}

/// Every row less its mean.
struct Less<'a> {
    means: &'a [f64],
    width: usize,
}

impl RowMap for Less<'_> {
    fn out_width(&self) -> Result<usize> {
        Ok(self.width)
    }

    fn apply<T: Number>(&self, first: usize, rows: &[T], out: &mut [T]) -> Result<()> {
        let width = self.width.max(1);
        let rows = rows.chunks_exact(width).zip(&self.means[first..]);
        for ((row, mean), out) in rows.zip(out.chunks_exact_mut(width)) {
            let mean = T::from_f64(*mean);
            out.iter_mut().zip(row).for_each(|(out, x)| *out = *x - mean);
        }
        Ok(())
    }
}

/// Every row of a product and what was left out of it.
struct Plus<'a> {
    means: &'a [f64],
    row_sums: &'a [f64],
    bias: &'a [f64],
}

impl RowMap for Plus<'_> {
    fn out_width(&self) -> Result<usize> {
        Ok(self.row_sums.len())
    }

    fn apply<T: Number>(&self, first: usize, rows: &[T], out: &mut [T]) -> Result<()> {
        let width = self.row_sums.len().max(1);
        let rows = rows.chunks_exact(width).zip(&self.means[first..]);
        for ((row, mean), out) in rows.zip(out.chunks_exact_mut(width)) {
            let left = self.row_sums.iter().zip(self.bias);
            for ((out, x), (sum, bias)) in out.iter_mut().zip(row).zip(left) {
                *out = T::from_f64(x.widen() + (mean * sum + bias));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use fisherflow_kernels::Products;

    use super::*;

    /// Inputs far from 0, each row at a place of its own: `W x + b` by plain sums, with biases and without.
    #[test]
    fn about_means_it_is_the_same_product() {
        let (batch, inputs, outputs) = (5, 37, 3);
        let input: Vec<f64> = (0..batch * inputs)
            .map(|i| (i as f64).sin() + 10.0 * (1 + i / inputs) as f64)
            .collect();
        let weight: Vec<f64> = (0..outputs * inputs).map(|i| (0.7 * i as f64).cos()).collect();
        let bias = [3.0, -20.0, 0.5];
        let tensor = |values: &[f64], shape: (usize, usize)| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        let of_layer = tensor(&weight, (outputs, inputs));
        let packed = PackedTensor::new(&of_layer.t().unwrap(), Products::from(1)).unwrap();
        let sums = row_sums(&of_layer).unwrap();
        for bias in [Some(bias), None] {
            let as_tensor = bias.map(|bias| Tensor::from_slice(&bias, outputs, &Device::Cpu).unwrap());
            let input = tensor(&input, (batch, inputs));
            let found = product_about_means(&packed, &sums, &input, as_tensor.as_ref(), 2).unwrap();
            let rows = input.to_vec2::<f64>().unwrap();
            for (row, found) in rows.iter().zip(found.to_vec2::<f64>().unwrap()) {
                for (o, found) in found.iter().enumerate() {
                    let own = weight[o * inputs..][..inputs].iter().zip(row).map(|(w, x)| w * x);
                    let expected = own.sum::<f64>() + bias.map_or(0.0, |bias| bias[o]);
                    assert!((found - expected).abs() < 1e-11, "{found} {expected}");
                }
            }
        }
    }
}
