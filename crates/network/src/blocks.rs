//! Element-wise work on large tensors, in blocks of rows.
//!
//! candle hands an element-wise operation on 65,536 elements or more to a pool of all the machine's cores, one operation at a time in
//! the whole process, and waits for every one of them, whatever number of threads was asked for. Smaller operations stay on the thread
//! that calls. So large tensors are taken in blocks of rows below that size, which the threads that were asked for share, and which a
//! formula of several operations finds in its core's own cache.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, WithDType, bail};

use crate::product::run_all;

/// Elements of a block: half of what candle would share out.
const BLOCK: usize = 32 * 1024;

/// `f` of every block of rows of `x`, `[rows, width]`, put together; `f` keeps a block's shape, and is told its first row.
///
/// No block crosses a multiple of `period` rows. Blocks do not depend on the number of threads.
pub(crate) fn in_blocks(
    x: &Tensor,
    period: usize,
    threads: usize,
    f: impl Fn(usize, &Tensor) -> Result<Tensor> + Sync,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let period = period.clamp(1, rows.max(1));
    if !x.device().is_cpu() {
        if rows <= period {
            return f(0, x);
        }
        let whole: Result<Vec<Tensor>> = (0..rows)
            .step_by(period)
            .map(|first| f(first, &x.narrow(0, first, period.min(rows - first))?))
            .collect();
        return Tensor::cat(&whole?, 0);
    }
    let rows_of_a_block = (BLOCK / width.max(1)).clamp(1, period);
    if rows <= rows_of_a_block {
        return f(0, x);
    }
    match x.dtype() {
        DType::F32 => on_cpu::<f32>(x, period, rows_of_a_block, threads, f),
        DType::F64 => on_cpu::<f64>(x, period, rows_of_a_block, threads, f),
        other => bail!("element-wise work on {other:?} is not supported"),
    }
}

/// `f` of every element of `x`, `[rows, width]`, where `f` looks at one element at a time: blocks may end inside a row, which may be long.
///
/// `f` is told how many elements lie before its block, which crosses no multiple of `period` rows.
pub(crate) fn element_wise(
    x: &Tensor,
    period: usize,
    threads: usize,
    f: impl Fn(usize, &Tensor) -> Result<Tensor> + Sync,
) -> Result<Tensor> {
    let width = x.dims2()?.1;
    let elements = x.reshape((x.elem_count(), 1))?;
    in_blocks(&elements, period.saturating_mul(width), threads, f)?.reshape(x.shape())
}

fn on_cpu<T: WithDType>(
    x: &Tensor,
    period: usize,
    rows_of_a_block: usize,
    threads: usize,
    f: impl Fn(usize, &Tensor) -> Result<Tensor> + Sync,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let mut out = vec![T::from_f64(0.0); rows * width];
    let failure = Mutex::new(None);
    let mut jobs = Vec::new();
    for (of_period, part) in out.chunks_mut(period * width).enumerate() {
        for (index, out) in part.chunks_mut(rows_of_a_block * width).enumerate() {
            let (f, failure) = (&f, &failure);
            jobs.push(move || {
                let first = of_period * period + index * rows_of_a_block;
                let rows = out.len() / width;
                let done = x
                    .narrow(0, first, rows)
                    .and_then(|x| f(first, &x))
                    .and_then(|x| copy_to(out, &x));
                if let Err(error) = done {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
        }
    }
    run_all(jobs, threads);
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Tensor::from_vec(out, (rows, width), &Device::Cpu),
    }
}

/// The values of a tensor on the CPU.
fn copy_to<T: WithDType>(out: &mut [T], block: &Tensor) -> Result<()> {
    let block = block.contiguous()?;
    let (storage, layout) = block.storage_and_layout();
    let values = match &*storage {
        Storage::Cpu(storage) => contiguous_values::<T>(storage, layout)?,
        _ => bail!("a block left the CPU"),
    };
    if values.len() != out.len() {
        bail!("a block of {} elements became one of {}", out.len(), values.len());
    }
    out.copy_from_slice(values);
    Ok(())
}

/// The values of a tensor in its own storage.
pub(crate) fn contiguous_values<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &candle_core::Layout,
) -> Result<&'a [T]> {
    let values = layout
        .contiguous_offsets()
        .and_then(|(start, end)| T::cpu_storage_as_slice(storage).ok()?.get(start..end));
    match values {
        Some(values) => Ok(values),
        None => bail!("a tensor's values are not contiguous, or of another type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn blocks_make_the_whole() {
        for (rows, width, period) in [
            (700, 90, 700),
            (2100, 90, 700),
            (3, 40_000, 3),
            (0, 5, 0),
            (5, 1, 5),
            (900, 500, 100),
        ] {
            let x: Vec<f64> = (0..rows * width).map(|i| i as f64).collect();
            let x = Tensor::from_vec(x, (rows, width), &Device::Cpu).unwrap();
            let f = |first: usize, block: &Tensor| {
                let n = block.dims2()?.0;
                assert_eq!(
                    first / period.max(1),
                    (first + n.max(1) - 1) / period.max(1),
                    "a block crosses the period"
                );
                block.affine(2.0, 1.0)
            };
            let whole = values(&x.affine(2.0, 1.0).unwrap());
            for threads in [1, 3] {
                let out = in_blocks(&x, period, threads, f).unwrap();
                assert_eq!(out.dims(), [rows, width]);
                assert_eq!(values(&out), whole);
            }
        }
    }

    #[test]
    fn the_first_row_and_failures_are_passed_on() {
        let x = Tensor::zeros((1000, 100), DType::F64, &Device::Cpu).unwrap();
        let out = in_blocks(&x, 1000, 2, |first, block| block.affine(1.0, first as f64)).unwrap();
        let (out, height) = (values(&out), BLOCK / 100);
        assert!((0..1000).all(|row| out[row * 100] == (row / height * height) as f64));
        assert!(in_blocks(&x, 1000, 2, |_, block| block.narrow(0, 0, 1)).is_err());
        assert!(in_blocks(&x, 1000, 2, |_, block| block.to_dtype(DType::F32)).is_err());
    }
}
