//! The backward pass: every output's gradient at every layer at once, and the Jacobian of labels by flux.
//!
//! The K seeds of all spectra are stacked as `K * batch` rows, so a layer's vector-Jacobian product is one product of matrices.

use candle_core::Tensor;

use crate::blocks::in_blocks;
use crate::capture::LayerCapture;
use crate::error::NetworkError;
use crate::layers::dense::{Dense, get_or_try_init};
use crate::layers::normalisation::InverseScale;
use crate::network::{Forward, Layer, Network};
use crate::product::product;

/// Rows of a block of the Jacobian: enough for the weights to be read seldom, few enough for the third cache level.
pub const ROWS_OF_A_BLOCK: usize = 256;

/// The same on a GPU: enough to keep it busy.
const ROWS_ON_A_GPU: usize = 4096;

/// Whether the pass goes on to the flux, which costs the largest product of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputJacobian {
    /// Down to the flux.
    Wanted,
    /// As far as [`Network::jacobian_blocks`] goes on from, a few spectra at a time: for sums over pixels, where J_x need not be in memory.
    InBlocks,
    /// Only to the first layer's pre-activation.
    NotWanted,
}

/// What a backward pass gives.
#[derive(Clone, Debug)]
pub struct Backward {
    /// The two sides of the weight Jacobian of each of `Network::dense_layers`, from the input on; gradients of outputs in normalised
    /// label units.
    pub captures: Vec<LayerCapture>,
    /// `d label_k / d flux_d`: `[K, batch, D]`, label unit per flux unit; `None` where it was not wanted.
    pub input_jacobian: Option<Tensor>,
    /// `[K * batch, width]` before the last product on the way to the flux; `None` where no blocks were asked for.
    before_flux: Option<Tensor>,
}

impl Network {
    /// The gradients of all K outputs of every spectrum of a forward pass.
    ///
    /// # Errors
    /// A forward pass of another network.
    pub fn backward(&self, forward: &Forward, input_jacobian: InputJacobian) -> Result<Backward, NetworkError> {
        let (n_labels, batch) = (self.n_labels(), forward.batch());
        let mut seeds = vec![0.0f32; n_labels * batch * n_labels];
        for k in 0..n_labels {
            for row in seeds[k * batch * n_labels..(k + 1) * batch * n_labels].chunks_exact_mut(n_labels) {
                row[k] = 1.0;
            }
        }
        let seeds = Tensor::from_vec(seeds, (n_labels, batch, n_labels), &self.device)?;
        let seeds = seeds.to_dtype(self.arithmetic.precision.dtype())?;
        self.vjp(forward, &seeds, input_jacobian)
    }

    /// The gradients of the given combinations of outputs, `seeds: [S, batch, K]`; S takes the place of K in what is given back.
    ///
    /// The input Jacobian needs the identity as seeds: the label scale of seed k is that of label k.
    pub(crate) fn vjp(
        &self,
        forward: &Forward,
        seeds: &Tensor,
        input_jacobian: InputJacobian,
    ) -> Result<Backward, NetworkError> {
        if forward.inputs.len() != self.layers.len() {
            return Err(NetworkError::ForeignForward {
                found: forward.inputs.len(),
                expected: self.layers.len(),
            });
        }
        let (n_seeds, batch, n_labels) = seeds.dims3()?;
        let threads = self.arithmetic.threads;
        let mut dense_left = self.shapes.len();
        let mut captures = Vec::with_capacity(dense_left);
        // [S * batch, width], a copy: activations change it.
        let mut grad = seeds.reshape((n_seeds * batch, n_labels))?.force_contiguous()?;
        for (position, (layer, input)) in self.layers.iter().zip(&forward.inputs).enumerate().rev() {
            match layer {
                Layer::Activation(activation) => grad = activation.vjp(grad, input, threads)?,
                Layer::Pool1d(pool) => grad = pool.vjp(&grad, input, threads)?,
                Layer::Flatten(flatten) => grad = flatten.vjp(&grad, threads)?,
                Layer::Conv1d(conv) => {
                    dense_left -= 1;
                    let shape = &self.shapes[dense_left];
                    captures.push(LayerCapture {
                        layer: dense_left,
                        input: conv.patches(input, threads)?,
                        output_grad: grad.reshape((n_seeds, batch, shape.shared, shape.outputs))?,
                    });
                    if dense_left == 0 && input_jacobian == InputJacobian::NotWanted {
                        break;
                    }
                    grad = conv.vjp(&grad, threads)?;
                }
                Layer::Dense(dense) => {
                    dense_left -= 1;
                    let outputs = self.shapes[dense_left].outputs;
                    captures.push(LayerCapture {
                        layer: dense_left,
                        input: input.unsqueeze(1)?,
                        output_grad: grad.reshape((n_seeds, batch, 1, outputs))?,
                    });
                    if position == 0 || dense_left == 0 && input_jacobian == InputJacobian::NotWanted {
                        break;
                    }
                    grad = dense.vjp(&grad, batch, threads)?;
                }
            }
        }
        captures.reverse();
        let (input_jacobian, before_flux) = match input_jacobian {
            InputJacobian::NotWanted => (None, None),
            InputJacobian::Wanted => (Some(self.by_flux(&grad, batch, None)?), None),
            InputJacobian::InBlocks => (None, Some(grad)),
        };
        Ok(Backward {
            captures,
            input_jacobian,
            before_flux,
        })
    }

    /// J_x of some spectra at a time, `take(the first of them, [K, n, D])`, label unit per flux unit: the bits of the whole Jacobian. It is gone
    /// when `take` returns; `backward` is of [`InputJacobian::InBlocks`].
    ///
    /// # Errors
    /// A backward pass that was not asked for blocks; what `take` fails with.
    pub fn jacobian_blocks<E: From<NetworkError>>(
        &self,
        backward: &Backward,
        mut take: impl FnMut(usize, &Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let grad = backward.before_flux.as_ref().ok_or(NetworkError::NoBlocks)?;
        let k = self.n_labels();
        let of_block = |first: usize, n: usize| -> Result<Tensor, NetworkError> {
            let width = grad.dims2()?.1;
            let grad = grad.reshape((k, (), width))?.narrow(1, first, n)?;
            Ok(grad.contiguous()?.reshape((k * n, width))?)
        };
        let batch = grad.dims()[0] / k.max(1);
        let rows = if grad.device().is_cpu() {
            ROWS_OF_A_BLOCK
        } else {
            ROWS_ON_A_GPU
        };
        let at_once = (rows / k.max(1)).clamp(1, batch.max(1));
        // Only kernels of this project write to memory that they are given.
        let room = (grad.device().is_cpu())
            .then(|| Tensor::zeros((k * at_once, self.n_inputs()), grad.dtype(), grad.device()))
            .transpose()
            .map_err(NetworkError::from)?;
        for first in (0..batch).step_by(at_once) {
            let n = at_once.min(batch - first);
            take(first, &self.by_flux(&of_block(first, n)?, n, room.as_ref())?)?;
        }
        Ok(())
    }

    /// From the gradients `[K * batch, width]` at the first layer's pre-activation (or at the input, where the network does not begin with
    /// a dense layer) to `[K, batch, D]`, label unit per flux unit.
    /// It is written to the first rows of `room`, where that is given and the last product can be made there.
    fn by_flux(&self, grad: &Tensor, batch: usize, room: Option<&Tensor>) -> Result<Tensor, NetworkError> {
        let (threads, n_labels) = (self.arithmetic.threads, self.n_labels());
        let inverse_scale = self.normalisation.inverse_scale();
        let uniform = match inverse_scale {
            InverseScale::Uniform(s) => *s,
            InverseScale::ByPixel(_) => 1.0,
        };
        let scales: Vec<f64> = self.labels.scale.iter().map(|scale| scale * uniform).collect();
        let scaled = if scales.iter().all(|scale| *scale == 1.0) {
            grad.clone()
        } else {
            in_blocks(grad, batch, threads, |first, grad| {
                let label = first / batch.max(1);
                grad.affine(scales.get(label).copied().unwrap_or(1.0), 0.0)
            })?
        };
        let jacobian = match (self.layers.first(), inverse_scale) {
            (Some(Layer::Dense(dense)), _) => {
                self.times_weight_by_flux(&scaled, batch, (dense, inverse_scale), room)?
            }
            (_, InverseScale::Uniform(_)) => scaled,
            (_, InverseScale::ByPixel(row)) => in_blocks(&scaled, batch, threads, |_, x| x.broadcast_mul(row))?,
        };
        Ok(jacobian.reshape((n_labels, batch, self.n_inputs()))?)
    }

    /// `grad` times the first layer's weights over the input scale, so that no pass over the Jacobian is needed afterwards.
    fn times_weight_by_flux(
        &self,
        grad: &Tensor,
        batch: usize,
        (dense, scale): (&Dense, &InverseScale),
        room: Option<&Tensor>,
    ) -> Result<Tensor, NetworkError> {
        let threads = self.arithmetic.threads;
        let scaled = || match scale {
            InverseScale::Uniform(_) => Ok(dense.weight.clone()),
            InverseScale::ByPixel(row) => in_blocks(&dense.weight, usize::MAX, threads, |_, w| w.broadcast_mul(row)),
        };
        let Some(packed) = &dense.packed else {
            return Ok(match scale {
                InverseScale::Uniform(_) => dense.vjp(grad, batch, threads)?,
                InverseScale::ByPixel(_) => product(grad, get_or_try_init(&self.weight_by_flux, scaled)?, threads)?,
            });
        };
        let weight = match scale {
            InverseScale::Uniform(_) => packed.backward(&dense.weight)?,
            InverseScale::ByPixel(_) => packed.by_flux(scaled)?,
        };
        Ok(match room {
            None => weight.product_of_gradients(grad, batch, threads)?,
            Some(room) => {
                let to = room.narrow(0, 0, grad.dims2()?.0)?;
                weight.product_of_gradients_into(&to, grad, batch, threads)?;
                to
            }
        })
    }
}
