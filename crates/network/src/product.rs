//! Products of matrices of tensors: the one place where they happen. The arithmetic is in `fisherflow-kernels`, whose products have the same
//! bits for any number of threads.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail};
use faer::{MatMut, MatRef};
use fisherflow_kernels::{Packed, Products, RowGroups, Start, multiplied_packed_in_groups, multiply_packed_in_groups};

pub use fisherflow_kernels::{LentCores, lend, run_all, workspace_bytes};

use crate::in_place::part;
use crate::scratch::Number;

/// `lhs rhs`, `[m, k]` by `[k, n]`, row-major; either may be a transposed view, and is then not copied.
///
/// # Errors
/// Shapes that do not fit, types that differ, or a device that refuses.
pub fn product(lhs: &Tensor, rhs: &Tensor, threads: usize) -> Result<Tensor> {
    product_onto(None, lhs, rhs, threads)
}

/// `lhs rhs + row`, the row `[n]` added to every row of the product.
///
/// # Errors
/// Shapes that do not fit, types that differ, or a device that refuses.
pub fn product_plus_row(lhs: &Tensor, rhs: &Tensor, row: &Tensor, threads: usize) -> Result<Tensor> {
    product_onto(Some(row), lhs, rhs, threads)
}

fn product_onto(row: Option<&Tensor>, lhs: &Tensor, rhs: &Tensor, threads: usize) -> Result<Tensor> {
    check(row, lhs, rhs.dims2()?, rhs.dtype())?;
    match lhs.dtype() {
        DType::F32 if lhs.device().is_cpu() => on_cpu::<f32>(row, lhs, rhs, threads),
        DType::F64 if lhs.device().is_cpu() => on_cpu::<f64>(row, lhs, rhs, threads),
        _ => {
            let product = lhs.matmul(rhs)?;
            match row {
                None => Ok(product),
                Some(row) => product.broadcast_add(row),
            }
        }
    }
}

fn check(row: Option<&Tensor>, lhs: &Tensor, (k2, n): (usize, usize), dtype: DType) -> Result<()> {
    let (m, k) = lhs.dims2()?;
    if k != k2 {
        bail!("product of [{m}, {k}] by [{k2}, {n}]: the inner sizes differ");
    }
    if lhs.dtype() != dtype {
        bail!("product of {:?} by {dtype:?}: the types differ", lhs.dtype());
    }
    if let Some(row) = row
        && (row.dims() != [n] || row.dtype() != lhs.dtype())
    {
        bail!(
            "row {:?} {:?} cannot be added to a product [{m}, {n}] of {:?}",
            row.dims(),
            row.dtype(),
            lhs.dtype()
        );
    }
    Ok(())
}

fn on_cpu<T: Number>(row: Option<&Tensor>, lhs: &Tensor, rhs: &Tensor, threads: usize) -> Result<Tensor> {
    let rhs = dense_strides(rhs)?;
    let (storage, layout) = rhs.storage_and_layout();
    let rhs = matrix::<T>(&storage, layout)?;
    made::<T>(row, lhs, rhs.ncols(), |row, lhs| {
        fisherflow_kernels::multiplied(row, lhs, rhs, threads)
    })
}

/// The product `make(row, lhs)`, `[m, n]`.
fn made<T: Number>(
    row: Option<&Tensor>,
    lhs: &Tensor,
    n: usize,
    make: impl FnOnce(Option<&[T]>, MatRef<'_, T>) -> Vec<T>,
) -> Result<Tensor> {
    let lhs = dense_strides(lhs)?;
    let m = lhs.dims2()?.0;
    let row = row.map(Tensor::to_vec1::<T>).transpose()?;
    let (storage, layout) = lhs.storage_and_layout();
    let product = make(row.as_deref(), matrix::<T>(&storage, layout)?);
    Tensor::from_vec(product, (m, n), &Device::Cpu)
}

/// A right operand that was packed once for many products.
#[derive(Debug)]
pub(crate) enum PackedTensor {
    F32(Packed<f32>),
    F64(Packed<f64>),
}

impl PackedTensor {
    /// Packs `[k, n]`, or a transposed view, for products that are made so.
    pub fn new(rhs: &Tensor, products: Products) -> Result<Self> {
        let rhs = dense_strides(rhs)?;
        let (storage, layout) = rhs.storage_and_layout();
        match rhs.dtype() {
            DType::F32 => Ok(Self::F32(Packed::new(matrix(&storage, layout)?, products))),
            DType::F64 => Ok(Self::F64(Packed::new(matrix(&storage, layout)?, products))),
            other => bail!("an operand of {other:?} cannot be packed"),
        }
    }

    /// `lhs` times this, and the row added to every row of the product.
    pub fn product(&self, lhs: &Tensor, row: Option<&Tensor>, threads: usize) -> Result<Tensor> {
        match self {
            Self::F32(packed) => Self::with(packed, DType::F32, lhs, row, threads),
            Self::F64(packed) => Self::with(packed, DType::F64, lhs, row, threads),
        }
    }

    /// Gradients `[K * groups, k]` times this: rows that are a multiple of `groups` apart are those of one spectrum, often 0 in the same columns.
    pub fn product_of_gradients(&self, gradients: &Tensor, groups: usize, threads: usize) -> Result<Tensor> {
        match self {
            Self::F32(packed) => Self::of_gradients(packed, DType::F32, gradients, groups, threads),
            Self::F64(packed) => Self::of_gradients(packed, DType::F64, gradients, groups, threads),
        }
    }

    fn of_gradients<T: Number>(
        packed: &Packed<T>,
        dtype: DType,
        gradients: &Tensor,
        groups: usize,
        threads: usize,
    ) -> Result<Tensor> {
        check(None, gradients, (packed.rows(), packed.cols()), dtype)?;
        made::<T>(None, gradients, packed.cols(), |_, lhs| {
            multiplied_packed_in_groups(lhs, RowGroups::Apart(groups), packed, threads)
        })
    }

    /// The same written to `to`, `[m, n]` and contiguous.
    pub fn product_of_gradients_into(
        &self,
        to: &Tensor,
        gradients: &Tensor,
        groups: usize,
        threads: usize,
    ) -> Result<()> {
        let (n, dtype) = match self {
            Self::F32(packed) => ((packed.rows(), packed.cols()), DType::F32),
            Self::F64(packed) => ((packed.rows(), packed.cols()), DType::F64),
        };
        check(None, gradients, n, dtype)?;
        let m = gradients.dims2()?.0;
        if to.dims() != [m, n.1] {
            bail!("a product [{m}, {}] cannot be written to {:?}", n.1, to.dims());
        }
        let gradients = dense_strides(gradients)?;
        to.inplace_op1(&Writing {
            gradients: &gradients,
            groups,
            rhs: self,
            threads,
        })
    }

    fn with<T: Number>(
        packed: &Packed<T>,
        dtype: DType,
        lhs: &Tensor,
        row: Option<&Tensor>,
        threads: usize,
    ) -> Result<Tensor> {
        check(row, lhs, (packed.rows(), packed.cols()), dtype)?;
        made::<T>(row, lhs, packed.cols(), |row, lhs| {
            fisherflow_kernels::multiplied_packed(row, lhs, packed, threads)
        })
    }
}

/// A product that is written to a tensor that is there.
struct Writing<'a> {
    gradients: &'a Tensor,
    groups: usize,
    rhs: &'a PackedTensor,
    threads: usize,
}

impl Writing<'_> {
    fn write<T: Number>(&self, to: &mut [T], rhs: &Packed<T>) -> Result<()> {
        let (storage, layout) = self.gradients.storage_and_layout();
        let lhs = matrix::<T>(&storage, layout)?;
        let to = MatMut::from_row_major_slice_mut(to, lhs.nrows(), rhs.cols());
        let groups = RowGroups::Apart(self.groups);
        multiply_packed_in_groups(to, Start::Zero, lhs, groups, rhs, self.threads);
        Ok(())
    }
}

impl InplaceOp1 for Writing<'_> {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (to, self.rhs) {
            (CpuStorage::F32(to), PackedTensor::F32(rhs)) => self.write(part(to, layout)?, rhs),
            (CpuStorage::F64(to), PackedTensor::F64(rhs)) => self.write(part(to, layout)?, rhs),
            _ => bail!("a product is written to a tensor of another type"),
        }
    }
}

/// Marks the upper parts of the vector registers as unused.
///
/// faer's assembly kernels leave them in use, and then every plain SSE instruction of this thread, such as those of all
/// element-wise loops, waits for the one before it. A function compiled for AVX ends with the instruction that mends this. To be called
/// after any use of faer's products and decompositions on this thread.
pub fn release_wide_registers() {
    let values = std::hint::black_box([1.0f32; 16]);
    pulp::Arch::new().dispatch(|| {
        std::hint::black_box(values.map(|v| v * v));
    });
}

/// Runs loops over numbers compiled for the widest registers that this machine has. No bit depends on it: nothing is fused that is not written
/// so.
pub fn in_wide_registers<R>(loops: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(loops)
}

/// The tensor itself where its rows or its columns are contiguous, else a copy.
fn dense_strides(tensor: &Tensor) -> Result<Tensor> {
    let (rows, cols) = tensor.dims2()?;
    let stride = tensor.stride();
    let by_row = stride[1] == 1 && stride[0] >= cols;
    let by_column = stride[0] == 1 && stride[1] >= rows;
    if by_row || by_column {
        Ok(tensor.clone())
    } else {
        tensor.force_contiguous()
    }
}

/// A matrix over a tensor's own storage, whose rows or columns are contiguous.
pub(crate) fn matrix<'a, T: WithDType>(storage: &'a Storage, layout: &Layout) -> Result<MatRef<'a, T>> {
    let Storage::Cpu(storage) = storage else {
        bail!("a product on the CPU was asked of a tensor elsewhere");
    };
    matrix_of_storage(storage, layout)
}

/// The same for storage that is known to be the CPU's.
pub(crate) fn matrix_of_storage<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<MatRef<'a, T>> {
    let (rows, cols) = layout.shape().dims2()?;
    let stride = layout.stride();
    let values = T::cpu_storage_as_slice(storage)?;
    let Some(values) = values.get(layout.start_offset()..) else {
        bail!("a tensor's layout begins beyond its storage");
    };
    if rows == 0 || cols == 0 {
        Ok(MatRef::from_row_major_slice(&values[..0], rows, cols))
    } else if stride[1] == 1 && stride[0] >= cols {
        Ok(MatRef::from_row_major_slice_with_stride(values, rows, cols, stride[0]))
    } else {
        Ok(MatRef::from_column_major_slice_with_stride(
            values, rows, cols, stride[1],
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(rows: usize, cols: usize, seed: u64) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f64> = (0..rows * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
        Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor
            .to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    fn by_loops(lhs: &Tensor, rhs: &Tensor) -> Vec<f64> {
        let ((m, k), (_, n)) = (lhs.dims2().unwrap(), rhs.dims2().unwrap());
        let (a, b) = (values(lhs), values(rhs));
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for l in 0..k {
                for j in 0..n {
                    out[i * n + j] += a[i * k + l] * b[l * n + j];
                }
            }
        }
        out
    }

    #[test]
    fn equals_the_triple_loop_for_every_layout() {
        for (m, k, n) in [
            (1, 1, 1),
            (1, 7, 5),
            (5, 7, 1),
            (3, 4, 900),
            (900, 30, 40),
            (65, 130, 500),
            (0, 3, 2),
            (2, 0, 3),
        ] {
            let (a, b) = (random(m, k, 1), random(k, n, 2));
            let expected = by_loops(&a, &b);
            let turned = |t: &Tensor| t.t().unwrap().contiguous().unwrap().t().unwrap();
            let inside = |t: &Tensor| {
                let (rows, cols) = t.dims2().unwrap();
                let wide = Tensor::zeros((rows + 2, cols + 3), DType::F64, &Device::Cpu).unwrap();
                let wide = wide.slice_assign(&[1..rows + 1, 2..cols + 2], t).unwrap();
                wide.narrow(0, 1, rows).unwrap().narrow(1, 2, cols).unwrap()
            };
            for (a, b) in [
                (a.clone(), b.clone()),
                (turned(&a), b.clone()),
                (a.clone(), turned(&b)),
                (turned(&a), turned(&b)),
            ] {
                for (out, e) in values(&product(&a, &b, 1).unwrap()).iter().zip(&expected) {
                    assert!((out - e).abs() < 1e-13 * (1.0 + k as f64));
                }
            }
            if m * n * k > 0 {
                let out = product(&inside(&a), &inside(&b), 1).unwrap();
                for (out, e) in values(&out).iter().zip(&expected) {
                    assert!((out - e).abs() < 1e-13 * (1.0 + k as f64));
                }
            }
        }
    }

    #[test]
    fn the_row_is_added_to_every_row() {
        let (a, b) = (random(5, 4, 1), random(4, 3, 2));
        let row = Tensor::new(&[1.0f64, 2.0, 3.0], &Device::Cpu).unwrap();
        let sum = product(&a, &b, 1).unwrap().broadcast_add(&row).unwrap();
        let out = product_plus_row(&a, &b, &row, 1).unwrap();
        for (x, y) in values(&out).iter().zip(values(&sum)) {
            assert!((x - y).abs() < 1e-15);
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        for dtype in [DType::F32, DType::F64] {
            for (m, k, n) in [
                (1, 3000, 2000),
                (2000, 3000, 1),
                (64, 700, 1500),
                (1500, 700, 64),
                (400, 600, 1000),
            ] {
                let a = random(m, k, 3).to_dtype(dtype).unwrap();
                let b = random(k, n, 4).to_dtype(dtype).unwrap();
                let one = values(&product(&a, &b, 1).unwrap());
                for threads in [2, 3, 8] {
                    assert_eq!(one, values(&product(&a, &b, threads).unwrap()), "{m} {k} {n} {threads}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (a, b) = (random(2, 3, 1), random(2, 3, 1));
        assert!(product(&a, &b, 1).is_err());
        assert!(product(&a, &b.t().unwrap().to_dtype(DType::F32).unwrap(), 1).is_err());
        let row = Tensor::zeros(5, DType::F64, &Device::Cpu).unwrap();
        assert!(product_plus_row(&a, &b.t().unwrap(), &row, 1).is_err());
    }
}
