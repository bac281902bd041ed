//! Functions of rows of numbers, `[rows, width]` to `[rows, out width]`, row by row: what moves numbers about rather than multiplying them.
//!
//! Rows are taken in blocks whose borders depend on their widths alone, each on one thread: no bit depends on the number of threads, and
//! what a block needs for a while is bounded by the block.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Storage, Tensor, WithDType, bail};

use crate::blocks::contiguous_values;
use crate::product::run_all;
use crate::scratch::Number;

/// Numbers of a block, of whatever is widest: its rows, their images, or what is needed between them.
const BLOCK: usize = 256 * 1024;

/// A function of rows.
pub(crate) trait RowMap: Sync {
    /// Width of a row's image.
    fn out_width(&self) -> Result<usize>;

    /// Numbers that a row needs for a while.
    fn scratch_width(&self) -> usize {
        0
    }

    /// The images of some whole rows, the first of which is row `first`; `out` is 0 before.
    fn apply<T: Number>(&self, first: usize, rows: &[T], out: &mut [T]) -> Result<()>;
}

/// The image of every row of `x`, `[rows, width]`.
pub(crate) fn map_rows(x: &Tensor, map: &impl RowMap, threads: usize) -> Result<Tensor> {
    if !x.device().is_cpu() {
        bail!("convolution, pooling and flattening run on the CPU only");
    }
    match x.dtype() {
        DType::F32 => on_cpu::<f32>(x, map, threads),
        DType::F64 => on_cpu::<f64>(x, map, threads),
        other => bail!("a network cannot compute in {other:?}"),
    }
}

fn on_cpu<T: Number>(x: &Tensor, map: &impl RowMap, threads: usize) -> Result<Tensor> {
    let ((rows, width), out_width) = (x.dims2()?, map.out_width()?);
    let x = x.contiguous()?;
    let widest = width.max(out_width).max(map.scratch_width()).max(1);
    let rows_of_a_block = (BLOCK / widest).max(1);
    let mut out = vec![T::ZERO; rows * out_width];
    let failure = Mutex::new(None);
    with_values::<T, _>(&x, |values| {
        let blocks = values
            .chunks(rows_of_a_block * width)
            .zip(out.chunks_mut(rows_of_a_block * out_width));
        let jobs = blocks.enumerate().map(|(index, (rows, out))| {
            let failure = &failure;
            move || {
                if let Err(error) = map.apply(index * rows_of_a_block, rows, out) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
        });
        run_all(jobs.collect(), threads);
        Ok(())
    })?;
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Tensor::from_vec(out, (rows, out_width), &Device::Cpu),
    }
}

/// Hands over the values of a contiguous tensor on the CPU.
pub(crate) fn with_values<T: WithDType, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(contiguous_values(storage, layout)?),
        _ => bail!("a tensor on the CPU was expected"),
    }
}
