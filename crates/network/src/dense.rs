//! Dense layers: weights `[out, in]` and biases `[out]`.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::network::Network;
use crate::product::{product, product_plus_row};

/// A dense layer's name and size, as [`crate::Network::dense_layers`] lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseShape {
    /// The name its tensors carry: `layers.0` for `layers.0.weight` and `layers.0.bias`.
    pub name: String,
    /// Number of inputs.
    pub inputs: usize,
    /// Number of outputs.
    pub outputs: usize,
}

impl DenseShape {
    /// Number of weights, the biases included.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.outputs * (self.inputs + 1)
    }
}

/// A dense layer: `a -> W a + b`.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    /// `[out, in]`, contiguous.
    pub weight: Tensor,
    /// `[out]`, contiguous.
    pub bias: Tensor,
}

impl Dense {
    /// `[batch, in]` to `[batch, out]`.
    pub fn forward(&self, input: &Tensor, threads: usize) -> candle_core::Result<Tensor> {
        product_plus_row(input, &self.weight.t()?, &self.bias, threads)
    }

    /// Gradients `[rows, out]` at the pre-activation to gradients `[rows, in]` at the input.
    pub fn vjp(&self, output_grad: &Tensor, threads: usize) -> candle_core::Result<Tensor> {
        product(output_grad, &self.weight, threads)
    }
}

impl Network {
    /// `[W | b]` of dense layer `layer`: `[out, in + 1]`, the bias last; empty beyond the last layer.
    ///
    /// # Errors
    /// Only where the device refuses the copy.
    pub fn weights_and_biases(&self, layer: usize) -> Result<Vec<f64>, NetworkError> {
        let Some((weight, bias)) = self.dense_weights(layer) else {
            return Ok(Vec::new());
        };
        let joint = Tensor::cat(&[weight, &bias.unsqueeze(1)?], 1)?;
        Ok(joint.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    }
}
