//! Convolutions along a spectrum, as torch and Keras have them (a cross-correlation, the signal 0 beyond its ends):
//! `y[t, o] = b[o] + sum over c, j of W[o, c, j] x[t stride + j - before, c]`.
//!
//! A convolution is one dense layer at every position t, whose input is the patch `[channels, kernel]` of the signal under its window:
//! the positions share its weights (Grosse and Martens 2016, arXiv:1602.01407). Signals are `[batch, positions * channels]`, the channel
//! running fastest. Patches are written out for one block of spectra at a time, but for those that a capture keeps.

use candle_core::{Result, Tensor};
use faer::{MatMut, MatRef};
use fisherflow_kernels::{Start, multiply};

use crate::layers::dense::Dense;
use crate::layers::row_map::{RowMap, map_rows};
use crate::layers::window::Window;
use crate::product::matrix;
use crate::scratch::Number;

/// A convolution on signals of a known length.
#[derive(Clone, Debug)]
pub(crate) struct Conv1d {
    /// Weights `[out channels, channels * kernel]`, the kernel running fastest, and biases.
    pub dense: Dense,
    /// Channels of the signal.
    pub channels: usize,
    pub window: Window,
}

impl Conv1d {
    /// `[batch, positions * channels]` to `[batch, out positions * out channels]`.
    pub fn forward(&self, input: &Tensor, threads: usize) -> Result<Tensor> {
        map_rows(input, &Convolved(self), threads)
    }

    /// Gradients `[rows, out positions * out channels]` at the pre-activation to gradients `[rows, positions * channels]` at the input.
    pub fn vjp(&self, output_grad: &Tensor, threads: usize) -> Result<Tensor> {
        map_rows(output_grad, &PulledBack(self), threads)
    }

    /// The patches under the window, `[batch, out positions, channels * kernel]`.
    pub fn patches(&self, input: &Tensor, threads: usize) -> Result<Tensor> {
        map_rows(input, &Patches(self), threads)?.reshape((
            input.dims2()?.0,
            self.window.out_positions,
            self.patch_width(),
        ))
    }

    /// The same convolution with other weights of the same shape.
    pub fn with(&self, dense: Dense) -> Self {
        Self { dense, ..self.clone() }
    }

    fn out_channels(&self) -> Result<usize> {
        Ok(self.dense.weight.dims2()?.0)
    }

    fn patch_width(&self) -> usize {
        self.channels * self.window.size
    }

    /// Numbers in all patches of a signal.
    fn patches_width(&self) -> usize {
        self.window.out_positions * self.patch_width()
    }

    fn signal_width(&self) -> usize {
        self.window.positions * self.channels
    }

    /// Writes the patches of some signals over zeros.
    fn write_patches<T: Number>(&self, signals: &[T], patches: &mut [T]) {
        let (channels, kernel) = (self.channels, self.window.size);
        let patches = patches.chunks_exact_mut(self.patches_width());
        for (signal, patches) in signals.chunks_exact(self.signal_width()).zip(patches) {
            for (t, patch) in patches.chunks_exact_mut(self.patch_width()).enumerate() {
                let (place, covered) = self.window.covered(t);
                let pixels = signal[covered.start * channels..covered.end * channels].chunks_exact(channels);
                for (j, pixel) in (place..).zip(pixels) {
                    for (c, value) in pixel.iter().enumerate() {
                        patch[c * kernel + j] = *value;
                    }
                }
            }
        }
    }

    /// Adds patches to the signals where they lie.
    fn add_patches<T: Number>(&self, patches: &[T], signals: &mut [T]) {
        let (channels, kernel) = (self.channels, self.window.size);
        let patches = patches.chunks_exact(self.patches_width());
        for (signal, patches) in signals.chunks_exact_mut(self.signal_width()).zip(patches) {
            for (t, patch) in patches.chunks_exact(self.patch_width()).enumerate() {
                let (place, covered) = self.window.covered(t);
                let pixels = signal[covered.start * channels..covered.end * channels].chunks_exact_mut(channels);
                for (j, pixel) in (place..).zip(pixels) {
                    for (c, value) in pixel.iter_mut().enumerate() {
                        *value += patch[c * kernel + j];
                    }
                }
            }
        }
    }
}

/// Signals to their patches.
struct Patches<'a>(&'a Conv1d);

impl RowMap for Patches<'_> {
    fn out_width(&self) -> Result<usize> {
        Ok(self.0.patches_width())
    }

    fn apply<T: Number>(&self, _: usize, signals: &[T], patches: &mut [T]) -> Result<()> {
        self.0.write_patches(signals, patches);
        Ok(())
    }
}

/// Signals to pre-activations.
struct Convolved<'a>(&'a Conv1d);

impl RowMap for Convolved<'_> {
    fn out_width(&self) -> Result<usize> {
        Ok(self.0.window.out_positions * self.0.out_channels()?)
    }

    fn scratch_width(&self) -> usize {
        self.0.patches_width()
    }

    fn apply<T: Number>(&self, _: usize, signals: &[T], out: &mut [T]) -> Result<()> {
        let (conv, out_channels) = (self.0, self.0.out_channels()?);
        let (positions, width) = (out.len() / out_channels, conv.patch_width());
        let mut patches = vec![T::ZERO; positions * width];
        conv.write_patches(signals, &mut patches);
        if let Some(bias) = &conv.dense.bias {
            let bias = bias.to_vec1::<T>()?;
            out.chunks_exact_mut(out_channels)
                .for_each(|y| y.copy_from_slice(&bias));
        }
        let (storage, layout) = conv.dense.weight.storage_and_layout();
        let weight = matrix::<T>(&storage, layout)?;
        multiply(
            MatMut::from_row_major_slice_mut(out, positions, out_channels),
            Start::Kept,
            MatRef::from_row_major_slice(&patches, positions, width),
            weight.transpose(),
            1,
        );
        Ok(())
    }
}

/// Gradients at the pre-activation to gradients at the signal.
struct PulledBack<'a>(&'a Conv1d);

impl RowMap for PulledBack<'_> {
    fn out_width(&self) -> Result<usize> {
        Ok(self.0.signal_width())
    }

    fn scratch_width(&self) -> usize {
        self.0.patches_width()
    }

    fn apply<T: Number>(&self, _: usize, output_grad: &[T], signals: &mut [T]) -> Result<()> {
        let (conv, out_channels) = (self.0, self.0.out_channels()?);
        let (positions, width) = (output_grad.len() / out_channels, conv.patch_width());
        let mut patches = vec![T::ZERO; positions * width];
        let (storage, layout) = conv.dense.weight.storage_and_layout();
        multiply(
            MatMut::from_row_major_slice_mut(&mut patches, positions, width),
            Start::Zero,
            MatRef::from_row_major_slice(output_grad, positions, out_channels),
            matrix::<T>(&storage, layout)?,
            1,
        );
        conv.add_patches(&patches, signals);
        Ok(())
    }
}
