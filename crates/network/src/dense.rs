//! Dense layers: weights `[out, in]` and biases `[out]`, where they have any.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::network::Network;
use crate::product::{product, product_plus_row};

/// Name and size of a layer with weights, as [`crate::Network::dense_layers`] lists them: a dense layer, or a convolution as the dense
/// layer that every position shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseShape {
    /// The name its tensors carry: `layers.0` for `layers.0.weight` and `layers.0.bias`.
    pub name: String,
    /// Number of inputs; of a convolution: channels times kernel, the kernel running fastest.
    pub inputs: usize,
    /// Number of outputs; of a convolution: its channels.
    pub outputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Positions that share the weights: 1 for a dense layer.
    pub shared: usize,
}

impl DenseShape {
    /// Columns of `[W | b]`: the inputs, and one more where there is a bias.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.inputs + usize::from(self.bias)
    }

    /// Number of weights, the biases included.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.outputs * self.columns()
    }
}

/// A dense layer: `a -> W a + b`.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    /// `[out, in]`, contiguous.
    pub weight: Tensor,
    /// `[out]`, contiguous; `None`: no bias.
    pub bias: Option<Tensor>,
}

impl Dense {
    /// `[batch, in]` to `[batch, out]`.
    pub fn forward(&self, input: &Tensor, threads: usize) -> candle_core::Result<Tensor> {
        match &self.bias {
            Some(bias) => product_plus_row(input, &self.weight.t()?, bias, threads),
            None => product(input, &self.weight.t()?, threads),
        }
    }

    /// The same without its biases: what becomes of a tangent.
    pub fn linear(&self) -> Self {
        Self {
            weight: self.weight.clone(),
            bias: None,
        }
    }

    /// Gradients `[rows, out]` at the pre-activation to gradients `[rows, in]` at the input.
    pub fn vjp(&self, output_grad: &Tensor, threads: usize) -> candle_core::Result<Tensor> {
        product(output_grad, &self.weight, threads)
    }
}

impl Network {
    /// `[W | b]` of dense layer `layer`: `[out, columns]`, the bias last where there is one; empty beyond the last layer.
    ///
    /// # Errors
    /// Only where the device refuses the copy.
    pub fn weights_and_biases(&self, layer: usize) -> Result<Vec<f64>, NetworkError> {
        let joint = match self.dense_weights(layer) {
            None => return Ok(Vec::new()),
            Some((weight, None)) => weight.clone(),
            Some((weight, Some(bias))) => Tensor::cat(&[weight, &bias.unsqueeze(1)?], 1)?,
        };
        Ok(joint.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    }
}
