//! Element-wise work on a tensor in its own memory, where nobody has seen the tensor yet: the first touch of new memory costs more than the
//! arithmetic.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, WithDType, bail};

use crate::blocks::contiguous_values;
use crate::product::run_all;
use crate::scratch::Number;

/// Elements that a thread takes at a time.
const BLOCK: usize = 64 * 1024;

/// What becomes of numbers where they are.
pub(crate) trait Change: Sync {
    /// Its name in errors.
    const NAME: &'static str;

    /// `to[i]` from itself and `from[i]`; `from` is empty where there is no other tensor.
    fn apply<T: Number>(&self, to: &mut [T], from: &[T]);
}

/// Changes `to`, a contiguous tensor.
pub(crate) fn change(to: &Tensor, what: &impl Change, threads: usize) -> Result<()> {
    to.inplace_op1(&Alone(Changing { what, threads }))
}

/// Changes `to` by `from`, both contiguous; where `to` is longer, `from` begins again and again.
pub(crate) fn change_by(to: &Tensor, from: &Tensor, what: &impl Change, threads: usize) -> Result<()> {
    to.inplace_op2(&from.contiguous()?, &Changing { what, threads })
}

struct Changing<'a, C> {
    what: &'a C,
    threads: usize,
}

impl<C: Change> Changing<'_, C> {
    fn run<T: Number>(&self, to: &mut [T], from: &[T]) -> Result<()> {
        let period = if from.is_empty() { to.len() } else { from.len() }.max(1);
        if !to.len().is_multiple_of(period) {
            bail!("{}: {} elements by {period}", C::NAME, to.len());
        }
        let mut jobs = Vec::new();
        for to in to.chunks_mut(period) {
            for (index, to) in to.chunks_mut(BLOCK).enumerate() {
                let from = from.get(index * BLOCK..index * BLOCK + to.len()).unwrap_or_default();
                jobs.push(move || self.what.apply(to, from));
            }
        }
        run_all(jobs, self.threads);
        Ok(())
    }
}

/// Without another tensor.
struct Alone<'a, C>(Changing<'a, C>);

impl<C: Change> InplaceOp1 for Alone<'_, C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match to {
            CpuStorage::F32(to) => self.0.run(part(to, layout)?, &[]),
            CpuStorage::F64(to) => self.0.run(part(to, layout)?, &[]),
            _ => bail!("{}: neither f32 nor f64", C::NAME),
        }
    }
}

impl<C: Change> InplaceOp2 for Changing<'_, C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, layout: &Layout, from: &CpuStorage, from_layout: &Layout) -> Result<()> {
        match to {
            CpuStorage::F32(to) => self.run(part(to, layout)?, contiguous_values(from, from_layout)?),
            CpuStorage::F64(to) => self.run(part(to, layout)?, contiguous_values(from, from_layout)?),
            _ => bail!("{}: neither f32 nor f64", C::NAME),
        }
    }
}

/// The values of a contiguous tensor.
pub(crate) fn part<'a, T: WithDType>(values: &'a mut [T], layout: &Layout) -> Result<&'a mut [T]> {
    let part = layout
        .contiguous_offsets()
        .and_then(|(start, end)| values.get_mut(start..end));
    match part {
        Some(part) => Ok(part),
        None => bail!("only a contiguous tensor can be changed in its own memory"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    struct Add;

    impl Change for Add {
        const NAME: &'static str = "add";

        fn apply<T: Number>(&self, to: &mut [T], from: &[T]) {
            for (index, to) in to.iter_mut().enumerate() {
                *to += from.get(index).copied().unwrap_or(T::from_f64(1.0));
            }
        }
    }

    #[test]
    fn the_other_tensor_begins_again_and_again() {
        let n = BLOCK + 100;
        let from = Tensor::from_vec((0..n).map(|i| i as f32).collect(), (2, n / 2), &Device::Cpu).unwrap();
        for threads in [1, 3] {
            let to = Tensor::ones((6, n / 2), candle_core::DType::F32, &Device::Cpu).unwrap();
            change(&to, &Add, threads).unwrap();
            change_by(&to, &from, &Add, threads).unwrap();
            let found: Vec<f32> = to.flatten_all().unwrap().to_vec1().unwrap();
            assert!((0..3 * n).all(|i| found[i] == 2.0 + (i % n) as f32));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let to = Tensor::ones((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let four = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(change_by(&to, &four, &Add, 1).is_err());
        assert!(change(&to.t().unwrap(), &Add, 1).is_err());
        assert!(change(&to.to_dtype(candle_core::DType::U8).unwrap(), &Add, 1).is_err());
    }
}
