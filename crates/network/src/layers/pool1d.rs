//! Pooling along a spectrum: the maximum or the mean of each channel under a window that stays inside the signal.
//!
//! Signals are `[batch, positions * channels]`, the channel running fastest. The gradient of a maximum goes to the first of equals, as in
//! torch, and a NaN under the window is the maximum.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::layers::row_map::{RowMap, map_rows, with_values};
use crate::layers::window::Window;
use crate::scratch::Number;

/// What a window makes of the numbers under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their maximum.
    Max,
    /// Their mean.
    Average,
}

/// Pooling of signals of a known length.
#[derive(Clone, Debug)]
pub(crate) struct Pool1d {
    pub pooling: Pooling,
    pub channels: usize,
    pub window: Window,
}

impl Pool1d {
    /// `[batch, positions * channels]` to `[batch, out positions * channels]`.
    pub fn forward(&self, input: &Tensor, threads: usize) -> Result<Tensor> {
        map_rows(input, &Pooled(self), threads)
    }

    /// Gradients `[rows, out positions * channels]` at the output to gradients `[rows, positions * channels]` at the input; row r belongs
    /// to row `r mod batch` of `input`, `[batch, positions * channels]`.
    pub fn vjp(&self, output_grad: &Tensor, input: &Tensor, threads: usize) -> Result<Tensor> {
        let input = &input.contiguous()?;
        map_rows(output_grad, &PulledBack { pool: self, input }, threads)
    }

    /// Tangents `[batch, positions * channels]` at the input to tangents `[batch, out positions * channels]` at the output.
    pub fn jvp(&self, tangent: &Tensor, input: &Tensor, threads: usize) -> Result<Tensor> {
        match self.pooling {
            Pooling::Max => {
                let input = &input.contiguous()?;
                map_rows(tangent, &AtMaxima { pool: self, input }, threads)
            }
            Pooling::Average => self.forward(tangent, threads),
        }
    }

    fn signal_width(&self) -> usize {
        self.window.positions * self.channels
    }

    fn out_width(&self) -> usize {
        self.window.out_positions * self.channels
    }

    /// Where in a signal each channel has its maximum under the window at `t`: the first of equals, or a NaN.
    fn find_maxima<T: Number>(&self, signal: &[T], t: usize, maxima: &mut [usize]) {
        let covered = self.window.covered(t).1;
        for (c, maximum) in maxima.iter_mut().enumerate() {
            *maximum = covered.start * self.channels + c;
        }
        for position in covered.skip(1) {
            for (c, maximum) in maxima.iter_mut().enumerate() {
                let at = position * self.channels + c;
                let (value, best) = (signal[at], signal[*maximum]);
                if value > best || value.partial_cmp(&value).is_none() {
                    *maximum = at;
                }
            }
        }
    }

    /// The elements of a signal under the window at `t`, position by position.
    fn under(&self, t: usize) -> Range<usize> {
        let covered = self.window.covered(t).1;
        covered.start * self.channels..covered.end * self.channels
    }
}

/// Signals to pooled signals.
struct Pooled<'a>(&'a Pool1d);

impl RowMap for Pooled<'_> {
    fn out_width(&self) -> Result<usize> {
        Ok(self.0.out_width())
    }

    fn apply<T: Number>(&self, _: usize, signals: &[T], out: &mut [T]) -> Result<()> {
        let pool = self.0;
        let share = T::from_f64(1.0 / pool.window.size as f64);
        let mut maxima = vec![0; pool.channels];
        let pooled = out.chunks_exact_mut(pool.out_width());
        for (signal, pooled) in signals.chunks_exact(pool.signal_width()).zip(pooled) {
            for (t, values) in pooled.chunks_exact_mut(pool.channels).enumerate() {
                match pool.pooling {
                    Pooling::Max => {
                        pool.find_maxima(signal, t, &mut maxima);
                        for (value, at) in values.iter_mut().zip(&maxima) {
                            *value = signal[*at];
                        }
                    }
                    Pooling::Average => {
                        for position in signal[pool.under(t)].chunks_exact(pool.channels) {
                            for (value, x) in values.iter_mut().zip(position) {
                                *value += *x * share;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Tangents at signals to their values where the signals have their maxima.
struct AtMaxima<'a> {
    pool: &'a Pool1d,
    /// The signals, `[batch, positions * channels]`.
    input: &'a Tensor,
}

impl RowMap for AtMaxima<'_> {
    fn out_width(&self) -> Result<usize> {
        Ok(self.pool.out_width())
    }

    fn apply<T: Number>(&self, first: usize, tangents: &[T], out: &mut [T]) -> Result<()> {
        let (pool, width) = (self.pool, self.pool.signal_width());
        let rows = tangents.chunks_exact(width).zip(out.chunks_exact_mut(pool.out_width()));
        with_values::<T, _>(self.input, |signals| {
            let mut maxima = vec![0; pool.channels];
            for ((tangent, out), signal) in rows.zip(signals[first * width..].chunks_exact(width)) {
                for (t, values) in out.chunks_exact_mut(pool.channels).enumerate() {
                    pool.find_maxima(signal, t, &mut maxima);
                    for (value, at) in values.iter_mut().zip(&maxima) {
                        *value = tangent[*at];
                    }
                }
            }
            Ok(())
        })
    }
}

/// Gradients at pooled signals to gradients at the signals.
struct PulledBack<'a> {
    pool: &'a Pool1d,
    /// The signals, `[batch, positions * channels]`.
    input: &'a Tensor,
}

impl RowMap for PulledBack<'_> {
    fn out_width(&self) -> Result<usize> {
        Ok(self.pool.signal_width())
    }

    fn apply<T: Number>(&self, first: usize, output_grad: &[T], out: &mut [T]) -> Result<()> {
        let (pool, width, batch) = (self.pool, self.pool.signal_width(), self.input.dims2()?.0);
        let share = T::from_f64(1.0 / pool.window.size as f64);
        let gradients = output_grad.chunks_exact(pool.out_width());
        with_values::<T, _>(self.input, |signals| {
            let mut maxima = vec![0; pool.channels];
            for (row, (gradient, out)) in (first..).zip(gradients.zip(out.chunks_exact_mut(width))) {
                let signal = &signals[row % batch * width..][..width];
                for (t, values) in gradient.chunks_exact(pool.channels).enumerate() {
                    match pool.pooling {
                        Pooling::Max => {
                            pool.find_maxima(signal, t, &mut maxima);
                            for (value, at) in values.iter().zip(&maxima) {
                                out[*at] += *value;
                            }
                        }
                        Pooling::Average => {
                            for position in out[pool.under(t)].chunks_exact_mut(pool.channels) {
                                for (x, value) in position.iter_mut().zip(values) {
                                    *x += *value * share;
                                }
                            }
                        }
                    }
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::layers::window::Padding;

    /// Two channels at four positions, a window of two: what is no number is not hidden by one that is, wherever it stands, and of equals the first
    /// is the maximum.
    #[test]
    fn the_maximum_is_the_first_of_equals_or_what_is_no_number() {
        let pool = Pool1d {
            pooling: Pooling::Max,
            channels: 2,
            window: Window::new(2, 2, Padding::Valid, 4).unwrap(),
        };
        let nan = f64::NAN;
        let signals = [
            [5.0, nan, 5.0, 7.0, 1.0, 2.0, nan, 3.0],
            [nan, 4.0, 9.0, 4.0, 8.0, nan, 3.0, nan],
        ];
        let input = Tensor::new(&signals, &Device::Cpu).unwrap();
        let found: Vec<Vec<f64>> = pool.forward(&input, 1).unwrap().to_vec2().unwrap();
        let bits = |rows: &[Vec<f64>]| -> Vec<Option<u64>> {
            let one = |x: &f64| (!x.is_nan()).then_some(x.to_bits());
            rows.iter().flatten().map(one).collect()
        };
        assert_eq!(
            bits(&found),
            bits(&[vec![5.0, nan, nan, 3.0], vec![nan, 4.0, 8.0, nan]])
        );

        // The gradients 1, 2, 3, 4 of each, and by two seeds: those of the second spectrum go by its own maxima.
        let gradient = Tensor::new(&[[1.0, 2.0, 3.0, 4.0]; 4], &Device::Cpu).unwrap();
        let back: Vec<Vec<f64>> = pool.vjp(&gradient, &input, 1).unwrap().to_vec2().unwrap();
        let expected = [
            [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0],
            [1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 4.0],
        ];
        for (row, back) in back.iter().enumerate() {
            assert_eq!(back[..], expected[row % 2], "row {row}");
        }
    }
}
