//! Dense layers: weights `[out, in]` and biases `[out]`, where they have any.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use fisherflow_kernels::{Path, Products};
use serde::{Deserialize, Serialize};

use crate::arithmetic::Arithmetic;
use crate::error::NetworkError;
use crate::layers::centred::{product_about_means, row_sums};
use crate::network::Network;
use crate::product::{PackedTensor, product, product_plus_row};

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

/// A layer's weights in the order in which products read them, each made when it is first needed.
#[derive(Debug)]
pub(crate) struct PackedWeight {
    /// How products forward are made, and how those backward.
    products: (Products, Products),
    /// `W^T`: inputs to outputs.
    forward: OnceLock<PackedTensor>,
    /// `W 1`, `[out]`, where products forward are about the means of rows.
    row_sums: OnceLock<Vec<f64>>,
    /// `W`: gradients at the outputs to gradients at the inputs.
    backward: OnceLock<PackedTensor>,
    /// `W` over the input scale of the network whose first layer this is.
    by_flux: OnceLock<PackedTensor>,
}

impl PackedWeight {
    /// `first`: whether it is of the network's first packed layer.
    pub fn new(arithmetic: Arithmetic, first: bool) -> Self {
        Self {
            products: if first {
                (arithmetic.forward(), arithmetic.backward())
            } else {
                arithmetic.after_the_first()
            },
            forward: OnceLock::new(),
            row_sums: OnceLock::new(),
            backward: OnceLock::new(),
            by_flux: OnceLock::new(),
        }
    }

    /// The weights as gradients are multiplied by them.
    pub fn backward(&self, weight: &Tensor) -> candle_core::Result<&PackedTensor> {
        get_or_try_init(&self.backward, || PackedTensor::new(weight, self.products.1))
    }

    /// The same over the input scale, which `scaled` gives.
    pub fn by_flux(&self, scaled: impl FnOnce() -> candle_core::Result<Tensor>) -> candle_core::Result<&PackedTensor> {
        get_or_try_init(&self.by_flux, || PackedTensor::new(&scaled()?, self.products.1))
    }
}

/// What the lock holds, or what `make` gives.
pub(crate) fn get_or_try_init<T, E>(lock: &OnceLock<T>, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
    if let Some(value) = lock.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(lock.get_or_init(|| value))
}

/// A dense layer: `a -> W a + b`.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    /// `[out, in]`; contiguous, but in a direction of weights that has biases ([`crate::WeightDirections`]).
    pub weight: Tensor,
    /// `[out]`, contiguous; `None`: no bias.
    pub bias: Option<Tensor>,
    /// `None` where the weights may change.
    pub packed: Option<Arc<PackedWeight>>,
}

impl Dense {
    /// Weights that may change.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight,
            bias,
            packed: None,
        }
    }

    /// `[batch, in]` to `[batch, out]`.
    pub fn forward(&self, input: &Tensor, threads: usize) -> candle_core::Result<Tensor> {
        if let Some(packed) = &self.packed {
            let weight = get_or_try_init(&packed.forward, || {
                PackedTensor::new(&self.weight.t()?, packed.products.0)
            })?;
            if Path::EXACT.contains(&packed.products.0.path) {
                return weight.product(input, self.bias.as_ref(), threads);
            }
            let row_sums = get_or_try_init(&packed.row_sums, || row_sums(&self.weight))?;
            return product_about_means(weight, row_sums, input, self.bias.as_ref(), threads);
        }
        match &self.bias {
            Some(bias) => product_plus_row(input, &self.weight.t()?, bias, threads),
            None => product(input, &self.weight.t()?, threads),
        }
    }

    /// The same on a device, not packed.
    pub fn on(&self, device: &Device) -> candle_core::Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.to_device(device)).transpose()?;
        Ok(Self::new(self.weight.to_device(device)?, bias))
    }

    /// The same without its biases: what becomes of a tangent.
    pub fn linear(&self) -> Self {
        Self {
            bias: None,
            ..self.clone()
        }
    }

    /// Gradients `[S * batch, out]` at the pre-activation to gradients `[S * batch, in]` at the input.
    pub fn vjp(&self, output_grad: &Tensor, batch: usize, threads: usize) -> candle_core::Result<Tensor> {
        match &self.packed {
            None => product(output_grad, &self.weight, threads),
            Some(packed) => packed
                .backward(&self.weight)?
                .product_of_gradients(output_grad, batch, threads),
        }
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
