//! Flattening: a signal of several channels as a row of numbers, in one of the two orders that are in use.
//!
//! Signals are `[batch, positions * channels]`, the channel running fastest, so one order is what is there already, and of one channel both are.

use candle_core::{Result, Tensor};

use crate::layers::row_map::{RowMap, map_rows};
use crate::scratch::Number;

/// Where channel c of position t lies among C channels of T positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlattenOrder {
    /// At `c T + t`, as torch has it.
    ChannelsFirst,
    /// At `t C + c`, as Keras has it.
    ChannelsLast,
}

/// Flattening of signals of several channels and a known length to [`FlattenOrder::ChannelsFirst`].
#[derive(Clone, Debug)]
pub(crate) struct Flatten {
    pub channels: usize,
    pub positions: usize,
}

impl Flatten {
    /// `[batch, positions * channels]`, the channel running fastest, to the order that is wanted.
    pub fn forward(&self, input: &Tensor, threads: usize) -> Result<Tensor> {
        let (rows, columns) = (self.positions, self.channels);
        map_rows(input, &Transposed { rows, columns }, threads)
    }

    /// Gradients `[rows, positions * channels]` in that order to the channel running fastest.
    pub fn vjp(&self, output_grad: &Tensor, threads: usize) -> Result<Tensor> {
        let (rows, columns) = (self.channels, self.positions);
        map_rows(output_grad, &Transposed { rows, columns }, threads)
    }
}

/// Matrices `[rows, columns]` to their transposes.
struct Transposed {
    rows: usize,
    columns: usize,
}

impl RowMap for Transposed {
    fn out_width(&self) -> Result<usize> {
        Ok(self.rows * self.columns)
    }

    fn apply<T: Number>(&self, _: usize, matrices: &[T], out: &mut [T]) -> Result<()> {
        let size = self.rows * self.columns;
        for (matrix, out) in matrices.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
            for (j, column) in out.chunks_exact_mut(self.rows).enumerate() {
                for (i, value) in column.iter_mut().enumerate() {
                    *value = matrix[i * self.columns + j];
                }
            }
        }
        Ok(())
    }
}
