//! A network of dense layers, convolutions, pooling and activations: what it is, and its forward pass.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

use crate::arithmetic::{Arithmetic, Precision};
use crate::blocks::element_wise;
use crate::error::NetworkError;
use crate::in_place::change;
use crate::labels::Labels;
use crate::layers::activation::{Activation, Relu};
use crate::layers::chain::{Chain, Weights, n_inputs, refuse_transposed};
use crate::layers::conv1d::Conv1d;
use crate::layers::dense::{Dense, DenseShape, PackedWeight};
use crate::layers::flatten::Flatten;
use crate::layers::normalisation::InputNormalisation;
use crate::layers::pool1d::Pool1d;
use crate::layers::spec::LayerSpec;

/// One layer with its numbers.
#[derive(Clone, Debug)]
pub(crate) enum Layer {
    Dense(Dense),
    Conv1d(Conv1d),
    Pool1d(Pool1d),
    Flatten(Flatten),
    Activation(Activation),
}

/// A network: `label = f((flux - input_mean) / input_scale) * label scale + label mean`.
///
/// Cloning shares the weights.
#[derive(Clone, Debug)]
pub struct Network {
    /// As a list of layers names them, those that compute nothing too.
    specs: Vec<LayerSpec>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) shapes: Vec<DenseShape>,
    pub(crate) normalisation: InputNormalisation,
    pub(crate) labels: Labels,
    pub(crate) arithmetic: Arithmetic,
    /// Where its numbers are.
    pub(crate) device: Device,
    /// The first layer's weights over the input scale, kept once the input Jacobian was asked for.
    pub(crate) weight_by_flux: OnceLock<Tensor>,
}

/// What a forward pass leaves: the outputs, and what the backward pass needs.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The input of each layer, `[batch, width]`; of channels of positions, the channel running fastest. In place of a `relu`'s input there
    /// may be its value.
    pub(crate) inputs: Vec<Tensor>,
    /// `[batch, K]`.
    output: Tensor,
}

impl Forward {
    /// The outputs in normalised label units, `[batch, K]`.
    #[must_use]
    pub fn output(&self) -> &Tensor {
        &self.output
    }

    /// Number of spectra.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.output.dims().first().copied().unwrap_or(0)
    }

    /// The labels in their units, `[batch * K]`.
    ///
    /// # Errors
    /// Only where the device refuses the copy.
    pub fn labels(&self, network: &Network) -> Result<Vec<f64>, NetworkError> {
        let outputs = self.output.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(network.labels.from_outputs(&outputs))
    }
}

impl Network {
    /// Puts a network together; `weights` are those of the layers of `specs` that have any, in order.
    pub(crate) fn assemble(
        specs: &[LayerSpec],
        weights: Vec<Weights>,
        labels: impl FnOnce(usize) -> Result<Labels, NetworkError>,
        input_mean: &[f64],
        input_scale: &[f64],
        arithmetic: Arithmetic,
    ) -> Result<Self, NetworkError> {
        if weights.is_empty() {
            return Err(NetworkError::NoLayers);
        }
        refuse_transposed(&weights)?;
        let normalised = input_mean.len().max(input_scale.len());
        let n_inputs = n_inputs(specs, &weights, Some(normalised).filter(|n| *n > 1))?;
        let chain = Chain::new(specs, weights, n_inputs)?;
        let has_windows = specs.iter().any(LayerSpec::has_window);
        let input = has_windows.then_some(LayerSpec::Input { pixels: n_inputs });
        let rest = specs.iter().filter(|spec| !matches!(spec, LayerSpec::Input { .. }));
        Ok(Self {
            specs: input.into_iter().chain(rest.copied()).collect(),
            layers: chain.layers,
            shapes: chain.shapes,
            normalisation: InputNormalisation::new(input_mean, input_scale, n_inputs, &arithmetic)?,
            labels: labels(chain.n_outputs)?,
            arithmetic,
            device: Device::Cpu,
            weight_by_flux: OnceLock::new(),
        })
    }

    /// The same network on a device, where its forward and backward passes are made then, and where what they leave is. Products there are those of
    /// candle, in f32 or f64.
    ///
    /// # Errors
    /// A layer that runs on the CPU only; a device that refuses.
    pub fn on(&self, device: &Device) -> Result<Self, NetworkError> {
        if let Some(layer) = self.specs.iter().find(|spec| spec.has_window()) {
            return Err(NetworkError::NotOnGpu {
                layer: layer.to_string(),
            });
        }
        let mut network = self.clone();
        for layer in &mut network.layers {
            if let Layer::Dense(dense) = layer {
                *dense = dense.on(device)?;
            }
        }
        network.normalisation = network.normalisation.on(device)?;
        network.weight_by_flux = OnceLock::new();
        network.device = device.clone();
        Ok(network)
    }

    /// Number of inputs: pixels a spectrum.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.normalisation.mean.len()
    }

    /// Number of labels.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        self.labels.len()
    }

    /// Number of weights, the biases included.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.shapes.iter().map(DenseShape::n_weights).sum()
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The layers with weights, dense ones and convolutions, from the input on: what [`crate::LayerCapture::layer`] counts.
    #[must_use]
    pub fn dense_layers(&self) -> &[DenseShape] {
        &self.shapes
    }

    /// All layers, from the input on; where there are convolutions or pooling, headed by the pixels that they are for.
    #[must_use]
    pub fn layer_specs(&self) -> &[LayerSpec] {
        &self.specs
    }

    /// Subtracted from each pixel: `[D]`, flux units.
    #[must_use]
    pub fn input_mean(&self) -> &[f64] {
        &self.normalisation.mean
    }

    /// What each pixel is then divided by: `[D]`, flux units.
    #[must_use]
    pub fn input_scale(&self) -> &[f64] {
        &self.normalisation.scale
    }

    /// Precision and threads of the products.
    #[must_use]
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// The weights `[out, in]` and biases `[out]` (`None`: it has none) of dense layer `layer`, in the arithmetic's type; `None` beyond the
    /// last.
    #[must_use]
    pub fn dense_weights(&self, layer: usize) -> Option<(&Tensor, Option<&Tensor>)> {
        let dense = self.dense_iter().nth(layer)?;
        Some((&dense.weight, dense.bias.as_ref()))
    }

    /// The layers with weights; a convolution as the dense layer of its patches.
    pub(crate) fn dense_iter(&self) -> impl Iterator<Item = &Dense> {
        self.layers.iter().filter_map(|layer| match layer {
            Layer::Dense(dense) | Layer::Conv1d(Conv1d { dense, .. }) => Some(dense),
            Layer::Pool1d(_) | Layer::Flatten(_) | Layer::Activation(_) => None,
        })
    }

    /// The same network with its dense layers' weights packed for products when they are first needed, once for all its clones. For
    /// networks that are applied to many batches: it takes the memory of the weights once more for each direction they are used in. Only
    /// these products are made in bf16 where the precision says so.
    #[must_use]
    pub fn with_packed_weights(mut self) -> Self {
        let dense = self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Dense(dense) => Some(dense),
            _ => None,
        });
        for (position, dense) in dense.enumerate() {
            dense.packed = Some(Arc::new(PackedWeight::new(self.arithmetic, position == 0)));
        }
        self
    }

    /// The same network with other weights of the same shapes.
    pub(crate) fn with_weights(mut self, weights: Vec<Dense>) -> Self {
        let layers = self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Dense(dense) | Layer::Conv1d(Conv1d { dense, .. }) => Some(dense),
            Layer::Pool1d(_) | Layer::Flatten(_) | Layer::Activation(_) => None,
        });
        for (dense, other) in layers.zip(weights) {
            *dense = other;
        }
        self.weight_by_flux = OnceLock::new();
        self
    }

    /// The outputs of spectra `[batch * D]`, row-major, in flux units, with what the backward pass needs.
    ///
    /// # Errors
    /// A number of values that is no whole number of spectra.
    pub fn forward(&self, flux: &[f64]) -> Result<Forward, NetworkError> {
        let inputs = self.n_inputs();
        if inputs == 0 || !flux.len().is_multiple_of(inputs) {
            return Err(NetworkError::FluxLength {
                found: flux.len(),
                inputs,
            });
        }
        let shape = (flux.len() / inputs, inputs);
        let mut x = match self.arithmetic.precision {
            Precision::F32 | Precision::Auto | Precision::Bf16x3 | Precision::Bf16 => {
                Tensor::from_vec(self.normalisation.apply::<f32>(flux), shape, &self.device)?
            }
            Precision::F64 => Tensor::from_vec(self.normalisation.apply::<f64>(flux), shape, &self.device)?,
        };
        let threads = self.arithmetic.threads;
        let mut kept = Vec::with_capacity(self.layers.len());
        let mut is_new = false;
        for layer in &self.layers {
            let y = match layer {
                Layer::Dense(dense) => dense.forward(&x, threads)?,
                Layer::Conv1d(conv) => conv.forward(&x, threads)?,
                Layer::Pool1d(pool) => pool.forward(&x, threads)?,
                Layer::Flatten(flatten) => flatten.forward(&x, threads)?,
                Layer::Activation(Activation::Linear) => x.clone(),
                // What its derivative needs to know of its input can be seen in its value.
                Layer::Activation(Activation::Relu) if is_new && x.device().is_cpu() => {
                    change(&x, &Relu, threads)?;
                    x.clone()
                }
                Layer::Activation(activation) => element_wise(&x, usize::MAX, threads, |_, x| activation.value(x))?,
            };
            is_new = matches!(layer, Layer::Dense(_) | Layer::Conv1d(_));
            kept.push(x);
            x = y;
        }
        Ok(Forward {
            inputs: kept,
            output: x,
        })
    }
}
