//! A network of dense layers and activations: what it is, and its forward pass.

use std::sync::OnceLock;

use candle_core::{DType, Tensor};

use crate::activation::Activation;
use crate::arithmetic::{Arithmetic, Precision};
use crate::blocks::in_blocks;
use crate::dense::{Dense, DenseShape};
use crate::error::NetworkError;
use crate::labels::Labels;
use crate::layer_spec::LayerSpec;
use crate::normalisation::InputNormalisation;

/// One layer with its numbers.
#[derive(Clone, Debug)]
pub(crate) enum Layer {
    Dense(Dense),
    Activation(Activation),
}

/// A network: `label = f((flux - input_mean) / input_scale) * label scale + label mean`.
///
/// Cloning shares the weights.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) layers: Vec<Layer>,
    pub(crate) shapes: Vec<DenseShape>,
    pub(crate) normalisation: InputNormalisation,
    pub(crate) labels: Labels,
    pub(crate) arithmetic: Arithmetic,
    /// The first layer's weights over the input scale, kept once the input Jacobian was asked for.
    pub(crate) weight_by_flux: OnceLock<Tensor>,
}

/// What a forward pass leaves: the outputs, and what the backward pass needs.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The input of each layer, `[batch, width]`.
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
    /// Puts a network together; `dense` holds name, weights `[out, in]` and biases `[out]` of the dense layers of `specs`, in order.
    pub(crate) fn assemble(
        specs: &[LayerSpec],
        dense: Vec<(String, Tensor, Tensor)>,
        labels: impl FnOnce(usize) -> Result<Labels, NetworkError>,
        input_mean: &[f64],
        input_scale: &[f64],
        arithmetic: Arithmetic,
    ) -> Result<Self, NetworkError> {
        let shapes = chain(&dense)?;
        let (Some(first), Some(last)) = (shapes.first(), shapes.last()) else {
            return Err(NetworkError::NoLayers);
        };
        let normalisation = InputNormalisation::new(input_mean, input_scale, first.inputs, &arithmetic)?;
        let labels = labels(last.outputs)?;
        let mut tensors = dense.into_iter();
        let mut layers = Vec::with_capacity(specs.len());
        for spec in specs {
            match *spec {
                LayerSpec::Activation(activation) => layers.push(Layer::Activation(activation)),
                LayerSpec::Dense => layers.extend(
                    tensors
                        .next()
                        .map(|(_, weight, bias)| Layer::Dense(Dense { weight, bias })),
                ),
            }
        }
        Ok(Self {
            layers,
            shapes,
            normalisation,
            labels,
            arithmetic,
            weight_by_flux: OnceLock::new(),
        })
    }

    /// Number of inputs: pixels a spectrum.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.shapes.first().map_or(0, |shape| shape.inputs)
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

    /// The dense layers, from the input on: what [`crate::LayerCapture::layer`] counts.
    #[must_use]
    pub fn dense_layers(&self) -> &[DenseShape] {
        &self.shapes
    }

    /// All layers, from the input on.
    #[must_use]
    pub fn layer_specs(&self) -> Vec<LayerSpec> {
        self.layers
            .iter()
            .map(|layer| match layer {
                Layer::Dense(_) => LayerSpec::Dense,
                Layer::Activation(activation) => LayerSpec::Activation(*activation),
            })
            .collect()
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

    /// The weights `[out, in]` and biases `[out]` of dense layer `layer`, in the arithmetic's type; `None` beyond the last.
    #[must_use]
    pub fn dense_weights(&self, layer: usize) -> Option<(&Tensor, &Tensor)> {
        self.dense_iter().nth(layer).map(|dense| (&dense.weight, &dense.bias))
    }

    pub(crate) fn dense_iter(&self) -> impl Iterator<Item = &Dense> {
        self.layers.iter().filter_map(|layer| match layer {
            Layer::Dense(dense) => Some(dense),
            Layer::Activation(_) => None,
        })
    }

    /// The same network with other weights of the same shapes.
    pub(crate) fn with_weights(self, weights: Vec<(Tensor, Tensor)>) -> Self {
        let mut weights = weights.into_iter();
        let layers = self.layers.into_iter().map(|layer| match layer {
            Layer::Dense(dense) => Layer::Dense(weights.next().map_or(dense, |(weight, bias)| Dense { weight, bias })),
            Layer::Activation(_) => layer,
        });
        Self {
            layers: layers.collect(),
            weight_by_flux: OnceLock::new(),
            ..self
        }
    }

    /// Spectra `[batch * D]`, row-major, in flux units, as a tensor `[batch, D]` of the arithmetic's type.
    ///
    /// # Errors
    /// A number of values that is no whole number of spectra.
    pub fn flux_tensor(&self, flux: &[f64]) -> Result<Tensor, NetworkError> {
        let inputs = self.n_inputs();
        if inputs == 0 || !flux.len().is_multiple_of(inputs) {
            return Err(NetworkError::FluxLength {
                found: flux.len(),
                inputs,
            });
        }
        let shape = (flux.len() / inputs, inputs);
        let device = self.arithmetic.device();
        Ok(match self.arithmetic.precision {
            Precision::F32 => Tensor::from_vec(flux.iter().map(|v| *v as f32).collect(), shape, &device)?,
            Precision::F64 => Tensor::from_slice(flux, shape, &device)?,
        })
    }

    /// The outputs of spectra `[batch, D]` in flux units, with what the backward pass needs.
    ///
    /// # Errors
    /// A tensor of another shape.
    pub fn forward(&self, flux: &Tensor) -> Result<Forward, NetworkError> {
        let inputs = self.n_inputs();
        if flux.rank() != 2 || flux.dims()[1] != inputs {
            return Err(NetworkError::FluxShape {
                found: flux.dims().to_vec(),
                inputs,
            });
        }
        let flux = flux.to_dtype(self.arithmetic.precision.dtype())?;
        let threads = self.arithmetic.threads;
        let mut x = self.normalisation.apply(&flux, threads)?;
        let mut kept = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let y = match layer {
                Layer::Dense(dense) => dense.forward(&x, threads)?,
                Layer::Activation(Activation::Linear) => x.clone(),
                Layer::Activation(activation) => in_blocks(&x, usize::MAX, threads, |_, x| activation.value(x))?,
            };
            kept.push(x);
            x = y;
        }
        Ok(Forward {
            inputs: kept,
            output: x,
        })
    }
}

/// The shapes of the dense layers, each checked against the one before it.
fn chain(dense: &[(String, Tensor, Tensor)]) -> Result<Vec<DenseShape>, NetworkError> {
    let mut shapes: Vec<DenseShape> = Vec::with_capacity(dense.len());
    for (name, weight, bias) in dense {
        let &[outputs, inputs] = weight.dims() else {
            return Err(NetworkError::TensorShape {
                name: format!("{name}.weight"),
                found: weight.dims().to_vec(),
                expected: "[outputs, inputs]".to_owned(),
            });
        };
        if outputs == 0 || inputs == 0 {
            return Err(NetworkError::TensorShape {
                name: format!("{name}.weight"),
                found: weight.dims().to_vec(),
                expected: "at least one output and one input".to_owned(),
            });
        }
        if bias.dims() != [outputs] {
            return Err(NetworkError::TensorShape {
                name: format!("{name}.bias"),
                found: bias.dims().to_vec(),
                expected: format!("[{outputs}], the layer's outputs"),
            });
        }
        if let Some(before) = shapes.last()
            && before.outputs != inputs
        {
            return Err(NetworkError::LayerChain {
                layer: name.clone(),
                inputs,
                before: before.name.clone(),
                outputs: before.outputs,
            });
        }
        shapes.push(DenseShape {
            name: name.clone(),
            inputs,
            outputs,
        });
    }
    Ok(shapes)
}
