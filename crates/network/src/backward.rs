//! The backward pass: every output's gradient at every layer at once, and the Jacobian of labels by flux.
//!
//! The K seeds of all spectra are stacked as `K * batch` rows, so a layer's vector-Jacobian product is one product of matrices.

use candle_core::Tensor;

use crate::blocks::in_blocks;
use crate::capture::LayerCapture;
use crate::dense::{Dense, get_or_try_init};
use crate::error::NetworkError;
use crate::network::{Forward, Layer, Network};
use crate::normalisation::InverseScale;
use crate::product::product;

/// Whether the pass goes on to the flux, which costs the largest product of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputJacobian {
    /// Down to the flux.
    Wanted,
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
        let seeds = Tensor::from_vec(seeds, (n_labels, batch, n_labels), &self.arithmetic.device())?;
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
                Layer::Activation(activation) => activation.vjp(&grad, input, threads)?,
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
                    grad = dense.vjp(&grad, threads)?;
                }
            }
        }
        captures.reverse();
        let input_jacobian = match input_jacobian {
            InputJacobian::NotWanted => None,
            InputJacobian::Wanted => Some(self.by_flux(&grad, batch)?),
        };
        Ok(Backward {
            captures,
            input_jacobian,
        })
    }

    /// From the gradients `[K * batch, width]` at the first layer's pre-activation (or at the input, where the network does not begin with
    /// a dense layer) to `[K, batch, D]`, label unit per flux unit.
    fn by_flux(&self, grad: &Tensor, batch: usize) -> Result<Tensor, NetworkError> {
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
            (Some(Layer::Dense(dense)), _) => self.times_weight_by_flux(&scaled, dense, inverse_scale)?,
            (_, InverseScale::Uniform(_)) => scaled,
            (_, InverseScale::ByPixel(row)) => in_blocks(&scaled, batch, threads, |_, x| x.broadcast_mul(row))?,
        };
        Ok(jacobian.reshape((n_labels, batch, self.n_inputs()))?)
    }

    /// `grad` times the first layer's weights over the input scale, so that no pass over the Jacobian is needed afterwards.
    fn times_weight_by_flux(&self, grad: &Tensor, dense: &Dense, scale: &InverseScale) -> Result<Tensor, NetworkError> {
        let threads = self.arithmetic.threads;
        let InverseScale::ByPixel(row) = scale else {
            return Ok(dense.vjp(grad, threads)?);
        };
        let scaled = || in_blocks(&dense.weight, usize::MAX, threads, |_, w| w.broadcast_mul(row));
        Ok(match &dense.packed {
            None => product(grad, get_or_try_init(&self.weight_by_flux, scaled)?, threads)?,
            Some(packed) => packed.by_flux(grad, scaled)?,
        })
    }
}
