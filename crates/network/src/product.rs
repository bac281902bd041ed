//! Products of matrices: the one place where they happen.
//!
//! On the CPU a product is cut into panels whose borders depend on its shape alone; each panel is computed on one thread, and threads
//! take panels as they become idle. So the bits of a product do not depend on how many threads there are.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType, bail};
use faer::linalg::matmul::matmul;
use faer::traits::RealField;
use faer::{Accum, MatMut, MatRef, Par};

/// Rows or columns of a panel: a multiple of the register tile of every kernel (f32: 96, f64: 48).
const PANEL: usize = 384;

/// A product of fewer multiplications is one panel.
const SMALL: usize = 1 << 20;

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
    let ((m, k), (k2, n)) = (lhs.dims2()?, rhs.dims2()?);
    if k != k2 {
        bail!("product of [{m}, {k}] by [{k2}, {n}]: the inner sizes differ");
    }
    if lhs.dtype() != rhs.dtype() {
        bail!("product of {:?} by {:?}: the types differ", lhs.dtype(), rhs.dtype());
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

fn on_cpu<T: WithDType + RealField>(
    row: Option<&Tensor>,
    lhs: &Tensor,
    rhs: &Tensor,
    threads: usize,
) -> Result<Tensor> {
    let ((m, _), (_, n)) = (lhs.dims2()?, rhs.dims2()?);
    let (lhs, rhs) = (dense_strides(lhs)?, dense_strides(rhs)?);
    let (accum, mut out) = match row {
        None => (Accum::Replace, vec![<T as WithDType>::from_f64(0.0); m * n]),
        Some(row) => (Accum::Add, row.to_vec1::<T>()?.repeat(m)),
    };
    {
        let (lhs_storage, lhs_layout) = lhs.storage_and_layout();
        let (rhs_storage, rhs_layout) = rhs.storage_and_layout();
        let lhs = matrix::<T>(&lhs_storage, lhs_layout)?;
        let rhs = matrix::<T>(&rhs_storage, rhs_layout)?;
        panels(
            MatMut::from_row_major_slice_mut(&mut out, m, n),
            accum,
            lhs,
            rhs,
            threads,
        );
    }
    Tensor::from_vec(out, (m, n), &candle_core::Device::Cpu)
}

/// `dst = lhs rhs` on matrices that are no tensors, with the same bits for any number of threads.
pub fn multiply<T: RealField>(dst: MatMut<'_, T>, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, threads: usize) {
    panels(dst, Accum::Replace, lhs, rhs, threads);
}

/// `dst += lhs rhs`, likewise.
pub fn multiply_add<T: RealField>(dst: MatMut<'_, T>, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, threads: usize) {
    panels(dst, Accum::Add, lhs, rhs, threads);
}

/// `dst = lhs rhs` or `dst += lhs rhs`, on one thread.
pub(crate) fn panel<T: RealField>(dst: MatMut<'_, T>, accum: Accum, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>) {
    matmul(dst, accum, lhs, rhs, faer::traits::math_utils::one(), Par::Seq);
    release_wide_registers();
}

/// Marks the upper parts of the vector registers as unused.
///
/// The product's assembly kernels leave them in use, and then every plain SSE instruction of this thread, such as those of all
/// element-wise loops, waits for the one before it. A function compiled for AVX ends with the instruction that mends this. To be called
/// after any other use of faer's products on this thread.
pub fn release_wide_registers() {
    let values = std::hint::black_box([1.0f32; 16]);
    pulp::Arch::new().dispatch(|| {
        std::hint::black_box(values.map(|v| v * v));
    });
}

/// The same in fixed panels of columns, or of rows where those are more.
fn panels<T: RealField>(dst: MatMut<'_, T>, accum: Accum, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, threads: usize) {
    let (m, n, k) = (dst.nrows(), dst.ncols(), lhs.ncols());
    if m.saturating_mul(n).saturating_mul(k) < SMALL || m.max(n) <= PANEL {
        return panel(dst, accum, lhs, rhs);
    }
    if n < m {
        // (lhs rhs)^T = rhs^T lhs^T: panels of rows are panels of columns of the transposed product
        return panels_of_columns(dst.transpose_mut(), accum, rhs.transpose(), lhs.transpose(), threads);
    }
    panels_of_columns(dst, accum, lhs, rhs, threads);
}

fn panels_of_columns<T: RealField>(
    mut dst: MatMut<'_, T>,
    accum: Accum,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
    threads: usize,
) {
    let n = dst.ncols();
    let mut jobs = Vec::with_capacity(n.div_ceil(PANEL));
    for start in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - start);
        let (head, rest) = dst.split_at_col_mut(width);
        dst = rest;
        let rhs = rhs.subcols(start, width);
        jobs.push(move || panel(head, accum, lhs, rhs));
    }
    run_all(jobs, threads);
}

/// Runs every job once, on at most `threads` threads, each taking the next job when it is idle.
pub fn run_all<F: FnOnce() + Send>(jobs: Vec<F>, threads: usize) {
    let threads = threads.min(jobs.len());
    if threads <= 1 {
        jobs.into_iter().for_each(|job| job());
        return;
    }
    let next = AtomicUsize::new(0);
    let jobs: Vec<Mutex<Option<F>>> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
    let work = || {
        while let Some(slot) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let job = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(job) = job {
                job();
            }
        }
    };
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
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
