//! Puts layers one after another: what passes between them, and whether they fit.
//!
//! A spectrum comes in as one channel of D positions; convolutions and pooling turn channels of positions into others, and `flatten` and
//! dense layers make a row of numbers.

use candle_core::Tensor;

use crate::error::NetworkError;
use crate::layers::conv1d::Conv1d;
use crate::layers::dense::{Dense, DenseShape};
use crate::layers::flatten::{Flatten, FlattenOrder};
use crate::layers::pool1d::{Pool1d, Pooling};
use crate::layers::spec::LayerSpec;
use crate::layers::window::{Padding, Window};
use crate::network::Layer;

const FLATTEN: &str = "put `flatten(channels_first)` (torch) or `flatten(channels_last)` (Keras)";

/// Pixels a spectrum may have: a few words of a file may ask for more than there is memory.
const MOST_PIXELS: usize = 1 << 26;

/// The tensors of a layer that has weights.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub name: String,
    /// `[out, in]` of a dense layer, `[out channels, channels, kernel]` of a convolution.
    pub weight: Tensor,
    /// `[out]`, where the layer has biases.
    pub bias: Option<Tensor>,
}

/// Layers that fit each other.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Those that compute something.
    pub layers: Vec<Layer>,
    /// Of the layers with weights.
    pub shapes: Vec<DenseShape>,
    /// Pixels a spectrum.
    pub n_inputs: usize,
    pub n_outputs: usize,
}

/// What passes between two layers.
#[derive(Clone, Debug)]
enum Signal {
    Channels { channels: usize, positions: usize },
    Flattened { channels: usize, positions: usize },
    Row { width: usize, layer: String },
}

impl Chain {
    /// The layers of `specs` on spectra of `n_inputs` pixels, those with weights taken from `weights` in order.
    pub fn new(specs: &[LayerSpec], weights: Vec<Weights>, n_inputs: usize) -> Result<Self, NetworkError> {
        let mut chain = Self {
            layers: Vec::with_capacity(specs.len()),
            shapes: Vec::with_capacity(weights.len()),
            n_inputs,
            n_outputs: 0,
        };
        let mut signal = Signal::Channels {
            channels: 1,
            positions: n_inputs,
        };
        let mut weights = weights.into_iter();
        for (position, spec) in specs.iter().enumerate() {
            let misfit = |reason: String| misfit(&spec.to_string(), reason);
            signal = match *spec {
                LayerSpec::Input { .. } if position == 0 => signal,
                LayerSpec::Input { .. } => {
                    return Err(misfit(
                        "it says what a spectrum is, and can only be the first layer".to_owned(),
                    ));
                }
                LayerSpec::Activation(activation) => {
                    chain.layers.push(Layer::Activation(activation));
                    signal
                }
                LayerSpec::Dense => chain.dense(weights.next().ok_or(NetworkError::NoLayers)?, signal)?,
                LayerSpec::Conv1d { stride, padding } => {
                    let weights = weights.next().ok_or(NetworkError::NoLayers)?;
                    chain.conv1d(weights, stride, padding, &signal)?
                }
                LayerSpec::Pool1d {
                    pooling,
                    window,
                    stride,
                } => chain.pool1d(pooling, window, stride, &signal).map_err(misfit)?,
                LayerSpec::Flatten(order) => chain.flatten(order, &signal).map_err(misfit)?,
            };
        }
        match (signal, specs.last()) {
            (Signal::Row { width, .. }, _) => chain.n_outputs = width,
            (Signal::Flattened { channels, positions }, last) => {
                let too_many = || {
                    misfit(
                        &last.map_or_else(String::new, ToString::to_string),
                        overflow(channels, positions),
                    )
                };
                chain.n_outputs = channels.checked_mul(positions).ok_or_else(too_many)?;
            }
            (Signal::Channels { channels, positions }, last) => {
                return Err(misfit(
                    &last.map_or_else(String::new, ToString::to_string),
                    format!("the network ends in {channels} channels of {positions} positions; {FLATTEN} at its end"),
                ));
            }
        }
        Ok(chain)
    }

    fn dense(&mut self, weights: Weights, before: Signal) -> Result<Signal, NetworkError> {
        let (outputs, inputs) = dense_sides(&weights)?;
        check_bias(&weights, outputs)?;
        match before {
            // Without a bias only the layer before tells.
            Signal::Row { width, .. } if width != inputs && width == outputs && weights.bias.is_none() => {
                return Err(transposed(&weights));
            }
            Signal::Row { width, layer } if width != inputs => {
                return Err(NetworkError::LayerChain {
                    layer: weights.name,
                    inputs,
                    before: layer,
                    outputs: width,
                });
            }
            Signal::Channels { channels, positions } if channels > 1 => {
                return Err(misfit(
                    &weights.name,
                    format!("it is given {channels} channels of {positions} positions; {FLATTEN} before it"),
                ));
            }
            Signal::Channels { channels, positions } | Signal::Flattened { channels, positions }
                if channels.checked_mul(positions) != Some(inputs) =>
            {
                let Some(given) = channels.checked_mul(positions) else {
                    return Err(misfit(&weights.name, overflow(channels, positions)));
                };
                return Err(misfit(
                    &weights.name,
                    format!(
                        "it has {inputs} inputs, and is given {given} ({channels} channels of {positions} positions, of spectra of \
                         {} pixels); check the pixels, strides, padding and pooling",
                        self.n_inputs
                    ),
                ));
            }
            _ => {}
        }
        self.shapes.push(DenseShape {
            name: weights.name.clone(),
            inputs,
            outputs,
            bias: weights.bias.is_some(),
            shared: 1,
        });
        self.layers.push(Layer::Dense(Dense::new(weights.weight, weights.bias)));
        Ok(Signal::Row {
            width: outputs,
            layer: weights.name,
        })
    }

    fn conv1d(
        &mut self,
        weights: Weights,
        stride: usize,
        padding: Padding,
        before: &Signal,
    ) -> Result<Signal, NetworkError> {
        let (out_channels, in_channels, kernel) = conv1d_sides(&weights)?;
        check_bias(&weights, out_channels)?;
        let misfit = |reason| misfit(&weights.name, reason);
        let (channels, positions) = before.channels().map_err(misfit)?;
        if channels != in_channels {
            return Err(misfit(format!(
                "its weight takes {in_channels} channels, and it is given {channels}; check the order of the layers"
            )));
        }
        let window = self.window(kernel, stride, padding, positions).map_err(misfit)?;
        self.shapes.push(DenseShape {
            name: weights.name.clone(),
            inputs: channels * kernel,
            outputs: out_channels,
            bias: weights.bias.is_some(),
            shared: window.out_positions,
        });
        self.layers.push(Layer::Conv1d(Conv1d {
            dense: Dense::new(weights.weight.reshape((out_channels, channels * kernel))?, weights.bias),
            channels,
            window,
        }));
        Ok(Signal::Channels {
            channels: out_channels,
            positions: window.out_positions,
        })
    }

    fn pool1d(&mut self, pooling: Pooling, size: usize, stride: usize, before: &Signal) -> Result<Signal, String> {
        let (channels, positions) = before.channels()?;
        let window = self.window(size, stride, Padding::Valid, positions)?;
        self.layers.push(Layer::Pool1d(Pool1d {
            pooling,
            channels,
            window,
        }));
        Ok(Signal::Channels {
            channels,
            positions: window.out_positions,
        })
    }

    fn flatten(&mut self, order: FlattenOrder, before: &Signal) -> Result<Signal, String> {
        let (channels, positions) = before.channels()?;
        // Else the numbers are in that order already, and what follows stands where it would stand without.
        if order == FlattenOrder::ChannelsFirst && channels > 1 {
            self.layers.push(Layer::Flatten(Flatten { channels, positions }));
        }
        Ok(Signal::Flattened { channels, positions })
    }

    fn window(&self, size: usize, stride: usize, padding: Padding, positions: usize) -> Result<Window, String> {
        Window::new(size, stride, padding, positions).ok_or_else(|| {
            format!(
                "its window of {size} does not fit the {positions} positions it is given; spectra of {} pixels are too short",
                self.n_inputs
            )
        })
    }
}

impl Signal {
    /// Channels and positions, or why there are none.
    fn channels(&self) -> Result<(usize, usize), String> {
        match self {
            Self::Channels { channels, positions } => Ok((*channels, *positions)),
            Self::Flattened { .. } | Self::Row { .. } => {
                Err("it needs channels of positions, and is given a row of numbers; \
                 convolutions, pooling and `flatten` come before dense layers, `flatten` last"
                    .to_owned())
            }
        }
    }
}

/// Pixels a spectrum, as [`said_or_fitting`] has them, but no more than memory may hold.
pub(crate) fn n_inputs(
    specs: &[LayerSpec],
    weights: &[Weights],
    normalised: Option<usize>,
) -> Result<usize, NetworkError> {
    let pixels = said_or_fitting(specs, weights, normalised)?;
    if pixels <= MOST_PIXELS {
        return Ok(pixels);
    }
    Err(misfit(
        &specs.first().map_or_else(String::new, ToString::to_string),
        format!(
            "the network takes spectra of {pixels} pixels, and they may have {MOST_PIXELS} at most; check `input(...)`, strides and pooling"
        ),
    ))
}

/// Pixels a spectrum: what `input(...)` says, else what the first dense layer leaves no choice about, else `normalised`: how many pixels
/// the normalisation speaks of, where it speaks of each.
fn said_or_fitting(specs: &[LayerSpec], weights: &[Weights], normalised: Option<usize>) -> Result<usize, NetworkError> {
    if let Some(LayerSpec::Input { pixels }) = specs.first() {
        return Ok(*pixels);
    }
    let (mut channels, mut windows) = (1, Vec::new());
    let mut weights = weights.iter();
    let mut fitting = None;
    for spec in specs {
        match *spec {
            LayerSpec::Conv1d { stride, padding } => {
                let (out_channels, _, kernel) = conv1d_sides(weights.next().ok_or(NetworkError::NoLayers)?)?;
                windows.push((kernel, stride, padding));
                channels = out_channels;
            }
            LayerSpec::Pool1d { window, stride, .. } => windows.push((window, stride, Padding::Valid)),
            LayerSpec::Dense => {
                let (_, inputs) = dense_sides(weights.next().ok_or(NetworkError::NoLayers)?)?;
                if inputs.is_multiple_of(channels) {
                    fitting = Some((inputs / channels, inputs / channels));
                }
                break;
            }
            LayerSpec::Input { .. } | LayerSpec::Flatten(_) | LayerSpec::Activation(_) => {}
        }
    }
    for (size, stride, padding) in windows.into_iter().rev() {
        fitting = fitting.map(|(fewest, most)| {
            (
                *Window::lengths(size, stride, padding, fewest).start(),
                *Window::lengths(size, stride, padding, most).end(),
            )
        });
    }
    match (fitting, normalised) {
        (Some((fewest, most)), _) if fewest == most => Ok(fewest),
        (_, Some(pixels)) => Ok(pixels),
        (Some((fewest, most)), None) => Err(NetworkError::PixelsUnsaid {
            fitting: format!("{fewest} to {most} would do"),
        }),
        (None, None) => Err(NetworkError::PixelsUnsaid {
            fitting: "no number is certain to do".to_owned(),
        }),
    }
}

fn overflow(channels: usize, positions: usize) -> String {
    format!(
        "it is given {channels} channels of {positions} positions, more numbers than memory can hold; check the pixels and strides"
    )
}

fn misfit(layer: &str, reason: String) -> NetworkError {
    NetworkError::LayerFit {
        layer: layer.to_owned(),
        reason,
    }
}

/// Outputs and inputs of a dense layer.
fn dense_sides(weights: &Weights) -> Result<(usize, usize), NetworkError> {
    match *weights.weight.dims() {
        [outputs, inputs] if outputs > 0 && inputs > 0 => Ok((outputs, inputs)),
        [_, _] => Err(wrong_shape(weights, "at least one output and one input")),
        _ => Err(wrong_shape(weights, "[outputs, inputs]")),
    }
}

/// Output channels, channels and kernel of a convolution.
fn conv1d_sides(weights: &Weights) -> Result<(usize, usize, usize), NetworkError> {
    match *weights.weight.dims() {
        [out_channels, channels, kernel] if out_channels > 0 && channels > 0 && kernel > 0 => {
            Ok((out_channels, channels, kernel))
        }
        _ => Err(wrong_shape(
            weights,
            "[output channels, channels, kernel] of a `conv1d`, each at least 1",
        )),
    }
}

fn wrong_shape(weights: &Weights, expected: &str) -> NetworkError {
    NetworkError::TensorShape {
        name: format!("{}.weight", weights.name),
        found: weights.weight.dims().to_vec(),
        expected: expected.to_owned(),
    }
}

/// Refuses weights whose outputs, by their biases and by the layer behind, are along the last axis: Keras' kernels as they are. Asked before
/// what rests on their shapes, so that this is said and not what follows from it.
pub(crate) fn refuse_transposed(weights: &[Weights]) -> Result<(), NetworkError> {
    for (at, of) in weights.iter().enumerate() {
        let dims = of.weight.dims();
        let ([first, .., last], Some([outputs])) = (dims, of.bias.as_ref().map(Tensor::dims)) else {
            continue;
        };
        // A dense layer behind a convolution takes its channels at all positions.
        let behind = weights.get(at + 1).map(|next| next.weight.dims());
        let fits = behind.is_none_or(|next| next.len() != dims.len() || next.contains(outputs));
        if first != outputs && last == outputs && fits {
            return Err(transposed(of));
        }
    }
    Ok(())
}

fn transposed(weights: &Weights) -> NetworkError {
    NetworkError::Transposed {
        name: format!("{}.weight", weights.name),
        found: weights.weight.dims().to_vec(),
    }
}

fn check_bias(weights: &Weights, outputs: usize) -> Result<(), NetworkError> {
    match &weights.bias {
        Some(bias) if bias.dims() != [outputs] => Err(NetworkError::TensorShape {
            name: format!("{}.bias", weights.name),
            found: bias.dims().to_vec(),
            expected: format!("[{outputs}], the layer's outputs"),
        }),
        _ => Ok(()),
    }
}
