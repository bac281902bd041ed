//! The backward pass: every output's gradient at every layer at once, and the Jacobian of labels by flux.
//!
//! The K seeds of all spectra are stacked as `K * batch` rows, so a layer's vector-Jacobian product is one product of matrices.

use candle_core::Tensor;

use crate::capture::LayerCapture;
use crate::dense::Dense;
use crate::error::NetworkError;
use crate::network::{Forward, Layer, Network};
use crate::normalisation::InverseScale;

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
    /// The two sides of each dense layer's weight Jacobian, from the input on; gradients of outputs in normalised label units.
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
        let (n_seeds, batch, _) = seeds.dims3()?;
        let threads = self.arithmetic.threads;
        let mut dense_left = self.shapes.len();
        let mut captures = Vec::with_capacity(dense_left);
        let mut grad = seeds.clone(); // [S, batch, width]
        for (position, (layer, input)) in self.layers.iter().zip(&forward.inputs).enumerate().rev() {
            match layer {
                Layer::Activation(activation) => {
                    if let Some(derivative) = activation.derivative(input)? {
                        grad = grad.broadcast_mul(&derivative)?;
                    }
                }
                Layer::Dense(dense) => {
                    dense_left -= 1;
                    captures.push(LayerCapture {
                        layer: dense_left,
                        input: input.unsqueeze(1)?,
                        output_grad: grad.unsqueeze(2)?,
                    });
                    if position == 0 || dense_left == 0 && input_jacobian == InputJacobian::NotWanted {
                        break;
                    }
                    let width = grad.dims()[2];
                    let below = dense.vjp(&grad.reshape((n_seeds * batch, width))?, threads)?;
                    grad = below.reshape((n_seeds, batch, input.dims()[1]))?;
                }
            }
        }
        captures.reverse();
        let input_jacobian = match input_jacobian {
            InputJacobian::NotWanted => None,
            InputJacobian::Wanted => Some(self.by_flux(&grad)?),
        };
        Ok(Backward {
            captures,
            input_jacobian,
        })
    }

    /// From the gradients at the first layer's pre-activation (or at the input, where the network begins with an activation) to
    /// `[K, batch, D]`, label unit per flux unit.
    fn by_flux(&self, grad: &Tensor) -> Result<Tensor, NetworkError> {
        let (n_labels, batch, width) = grad.dims3()?;
        let by_label = |factor: f64| -> Result<Tensor, NetworkError> {
            let scale: Vec<f64> = self.labels.scale.iter().map(|s| s * factor).collect();
            let scale = Tensor::from_vec(scale, (n_labels, 1, 1), grad.device())?;
            Ok(grad.broadcast_mul(&scale.to_dtype(grad.dtype())?)?)
        };
        let inverse_scale = self.normalisation.inverse_scale();
        let uniform = match inverse_scale {
            InverseScale::Uniform(s) => *s,
            InverseScale::ByPixel(_) => 1.0,
        };
        let scaled = by_label(uniform)?;
        match (self.layers.first(), inverse_scale) {
            (Some(Layer::Dense(dense)), _) => {
                let weight = self.weight_by_flux(dense, inverse_scale)?;
                let rows = scaled.reshape((n_labels * batch, width))?;
                let jacobian = crate::product::product(&rows, weight, self.arithmetic.threads)?;
                Ok(jacobian.reshape((n_labels, batch, self.n_inputs()))?)
            }
            (_, InverseScale::Uniform(_)) => Ok(scaled),
            (_, InverseScale::ByPixel(row)) => Ok(scaled.broadcast_mul(row)?),
        }
    }

    /// The first layer's weights over the input scale, so that its product needs no pass over the Jacobian afterwards.
    fn weight_by_flux<'a>(&'a self, dense: &'a Dense, scale: &InverseScale) -> Result<&'a Tensor, NetworkError> {
        match scale {
            InverseScale::Uniform(_) => Ok(&dense.weight),
            InverseScale::ByPixel(row) => {
                if let Some(weight) = self.weight_by_flux.get() {
                    return Ok(weight);
                }
                let weight = dense.weight.broadcast_mul(row)?;
                Ok(self.weight_by_flux.get_or_init(|| weight))
            }
        }
    }
}
