//! The names of layers in run files and file descriptions, and what they stand for.

use std::fmt;
use std::str::FromStr;

use crate::error::NetworkError;
use crate::files::nearest_name::nearest_name;
use crate::layers::activation::Activation;
use crate::layers::arguments::Arguments;
use crate::layers::flatten::FlattenOrder;
use crate::layers::pool1d::Pooling;
use crate::layers::window::Padding;

const ELU_ALPHA: f64 = 1.0;

const NAMES: [&str; 16] = [
    "input",
    "dense",
    "conv1d",
    "max_pool1d",
    "average_pool1d",
    "flatten",
    "relu",
    "leaky_relu",
    "tanh",
    "sigmoid",
    "softplus",
    "elu",
    "gelu",
    "silu",
    "clipped_relu",
    "linear",
];

/// One layer of a network, as a list of layers names it.
///
/// `leaky_relu` takes its slope in parentheses, which differs from program to program, `clipped_relu` its upper end, and `elu` may take
/// another alpha than 1. `conv1d` takes `stride` (1) and `padding` (`valid` or `same`), the rest being the shape of its weights; `max_pool1d` and `average_pool1d` take their
/// window and `stride` (the window); `flatten` takes its order, and `input` the number of pixels a spectrum.
///
/// ```
/// use fisherflow_network::{Activation, LayerSpec, Padding};
/// let layer: LayerSpec = "leaky_relu(0.3)".parse().unwrap();
/// assert_eq!(layer, LayerSpec::Activation(Activation::LeakyRelu { slope: 0.3 }));
/// assert_eq!(layer.to_string(), "leaky_relu(0.3)");
/// let layer: LayerSpec = "conv1d(padding=same)".parse().unwrap();
/// assert_eq!(layer, LayerSpec::Conv1d { stride: 1, padding: Padding::Same });
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LayerSpec {
    /// What a spectrum is: one channel of so many pixels. Only ever the first layer; needed where the layers fit several numbers.
    Input {
        /// Pixels a spectrum.
        pixels: usize,
    },
    /// Weights and biases.
    Dense,
    /// A convolution along the spectrum, weights `[out channels, channels, kernel]`.
    Conv1d {
        /// Positions from one window to the next.
        stride: usize,
        /// What lies beyond the ends.
        padding: Padding,
    },
    /// Pooling along the spectrum; what does not fill a window at the end is left out.
    Pool1d {
        /// What is made of a window.
        pooling: Pooling,
        /// Positions a window.
        window: usize,
        /// Positions from one window to the next.
        stride: usize,
    },
    /// Channels and positions as one row of numbers.
    Flatten(FlattenOrder),
    /// A nonlinearity.
    Activation(Activation),
}

impl LayerSpec {
    /// Whether the layer has weights, and so a name: `dense` and `conv1d`.
    #[must_use]
    pub fn has_weights(&self) -> bool {
        matches!(self, Self::Dense | Self::Conv1d { .. })
    }

    /// Whether a window of the layer goes along the spectrum: `conv1d` and pooling.
    pub(crate) fn has_window(&self) -> bool {
        matches!(self, Self::Conv1d { .. } | Self::Pool1d { .. })
    }
}

const PADDINGS: [(&str, Padding); 2] = [("valid", Padding::Valid), ("same", Padding::Same)];

const ORDERS: [(&str, FlattenOrder); 2] = [
    ("channels_first", FlattenOrder::ChannelsFirst),
    ("channels_last", FlattenOrder::ChannelsLast),
];

impl FromStr for LayerSpec {
    type Err = NetworkError;

    fn from_str(name: &str) -> Result<Self, NetworkError> {
        let (kind, mut arguments) = Arguments::split(name)?;
        let (spec, takes) = match kind {
            "input" => {
                let pixels = arguments.count(None)?;
                let pixels = pixels.ok_or_else(|| arguments.refused("say how many pixels, as in `input(7214)`"))?;
                (Self::Input { pixels }, "it takes the number of pixels alone")
            }
            "dense" => (Self::Dense, "its size is that of its weights; write `dense`"),
            "conv1d" => (
                Self::Conv1d {
                    stride: arguments.count(Some("stride"))?.unwrap_or(1),
                    padding: arguments.choice(Some("padding"), PADDINGS)?.unwrap_or_default(),
                },
                "it takes `stride` and `padding`, and its size is that of its weights; as in `conv1d(stride=2, padding=same)`",
            ),
            "max_pool1d" | "average_pool1d" => {
                let window = arguments.count(None)?;
                let window = window.ok_or_else(|| arguments.refused(format!("say its window, as in `{kind}(4)`")))?;
                let pool = Self::Pool1d {
                    pooling: if kind == "max_pool1d" {
                        Pooling::Max
                    } else {
                        Pooling::Average
                    },
                    window,
                    stride: arguments.count(Some("stride"))?.unwrap_or(window),
                };
                (
                    pool,
                    "it takes its window and `stride`, as in `max_pool1d(4, stride=2)`",
                )
            }
            "flatten" => {
                let order = arguments.choice(None, ORDERS)?;
                let order = order.ok_or_else(|| {
                    arguments
                        .refused("say its order: `flatten(channels_first)` as torch, `flatten(channels_last)` as Keras")
                })?;
                (Self::Flatten(order), "it takes its order alone")
            }
            _ => activation(name, kind, &mut arguments)?,
        };
        arguments.end(takes)?;
        Ok(spec)
    }
}

/// An activation, and what it takes.
fn activation(
    name: &str,
    kind: &str,
    arguments: &mut Arguments<'_>,
) -> Result<(LayerSpec, &'static str), NetworkError> {
    let activation = match kind {
        "relu" => Activation::Relu,
        "leaky_relu" => Activation::LeakyRelu {
            slope: arguments.number()?.ok_or_else(|| {
                arguments
                    .refused("say its slope: `leaky_relu(0.01)` as torch, `leaky_relu(0.3)` as Keras' layer (its activation of that name: 0.2)")
            })?,
        },
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "softplus" => Activation::Softplus,
        "elu" => Activation::Elu {
            alpha: arguments.number()?.unwrap_or(ELU_ALPHA),
        },
        "gelu" => Activation::Gelu,
        "silu" => Activation::Silu,
        "clipped_relu" => Activation::ClippedRelu {
            max: arguments
                .number()?
                .ok_or_else(|| arguments.refused("say its upper end: `clipped_relu(6)` is min(max(x, 0), 6)"))?,
        },
        "linear" => Activation::Linear,
        _ => {
            return Err(NetworkError::UnknownLayer {
                name: name.to_owned(),
                nearest: instead_of(kind),
            });
        }
    };
    let takes = match activation {
        Activation::ClippedRelu { max } if max <= 0.0 => {
            return Err(arguments.refused("its upper end must be above 0"));
        }
        Activation::LeakyRelu { .. } | Activation::Elu { .. } | Activation::ClippedRelu { .. } => {
            "it takes one number alone"
        }
        _ => "it takes no number",
    };
    Ok((LayerSpec::Activation(activation), takes))
}

/// What to write for a layer that is not known.
fn instead_of(kind: &str) -> String {
    let known = match kind.to_lowercase().replace(['_', '-'], "").as_str() {
        "dropout" | "alphadropout" | "gaussiannoise" | "gaussiandropout" | "spatialdropout1d" | "inputlayer" => {
            "leave it out: it does nothing in a trained network"
        }
        "batchnorm" | "batchnorm1d" | "batchnormalization" | "batchnormalisation" => {
            "fold it into the layer before: README.md, \"From Keras or torch\", says how"
        }
        "normalization" | "normalisation" => {
            "say it as input_mean and input_scale: README.md, \"From Keras or torch\", says how"
        }
        "swish" => "it is called `silu` here",
        "relu6" => "write `clipped_relu(6)`",
        // torch's layer: Keras' activation is written in small letters.
        _ if kind == "Linear" => "torch's layer is called `dense` here, and no activation `linear`",
        _ => return nearest_name(kind, NAMES),
    };
    known.to_owned()
}

impl FromStr for Activation {
    type Err = NetworkError;

    fn from_str(name: &str) -> Result<Self, NetworkError> {
        match name.parse()? {
            LayerSpec::Activation(activation) => Ok(activation),
            _ => Err(NetworkError::LayerNumber {
                name: name.to_owned(),
                reason: "an activation is wanted here".to_owned(),
            }),
        }
    }
}

impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Input { pixels } => write!(f, "input({pixels})"),
            Self::Dense => f.write_str("dense"),
            Self::Conv1d { stride, padding } => match (stride, padding) {
                (1, Padding::Valid) => f.write_str("conv1d"),
                (1, Padding::Same) => f.write_str("conv1d(padding=same)"),
                (stride, Padding::Valid) => write!(f, "conv1d(stride={stride})"),
                (stride, Padding::Same) => write!(f, "conv1d(stride={stride}, padding=same)"),
            },
            Self::Pool1d {
                pooling,
                window,
                stride,
            } => {
                f.write_str(match pooling {
                    Pooling::Max => "max_pool1d",
                    Pooling::Average => "average_pool1d",
                })?;
                if stride == window {
                    write!(f, "({window})")
                } else {
                    write!(f, "({window}, stride={stride})")
                }
            }
            Self::Flatten(FlattenOrder::ChannelsFirst) => f.write_str("flatten(channels_first)"),
            Self::Flatten(FlattenOrder::ChannelsLast) => f.write_str("flatten(channels_last)"),
            Self::Activation(activation) => activation.fmt(f),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Relu => f.write_str("relu"),
            Self::LeakyRelu { slope } => write!(f, "leaky_relu({slope})"),
            Self::Tanh => f.write_str("tanh"),
            Self::Sigmoid => f.write_str("sigmoid"),
            Self::Softplus => f.write_str("softplus"),
            Self::Elu { alpha } => write!(f, "elu({alpha})"),
            Self::Gelu => f.write_str("gelu"),
            Self::Silu => f.write_str("silu"),
            Self::ClippedRelu { max } => write!(f, "clipped_relu({max})"),
            Self::Linear => f.write_str("linear"),
        }
    }
}

/// `["dense", "relu", "dense"]`, for messages.
pub(crate) fn listed(specs: &[LayerSpec]) -> String {
    format!("{:?}", specs.iter().map(ToString::to_string).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_and_written() {
        for name in NAMES {
            let written = match name {
                "input" => "input(64)".to_owned(),
                "max_pool1d" | "average_pool1d" => format!("{name}(4)"),
                "flatten" => "flatten(channels_first)".to_owned(),
                "leaky_relu" | "clipped_relu" => format!("{name}(0.5)"),
                _ => name.to_owned(),
            };
            let spec: LayerSpec = written.parse().unwrap();
            assert!(spec.to_string().starts_with(name));
            assert_eq!(spec.to_string().parse::<LayerSpec>().unwrap(), spec);
        }
        let slope = "leaky_relu(0.1234567890123)".parse::<LayerSpec>().unwrap();
        assert_eq!(slope.to_string(), "leaky_relu(0.1234567890123)");
    }

    #[test]
    fn arguments_are_read_in_any_order() {
        for (name, written) in [
            ("conv1d( padding = same , stride=2 )", "conv1d(stride=2, padding=same)"),
            ("conv1d(padding=same)", "conv1d(padding=same)"),
            ("conv1d(stride=3)", "conv1d(stride=3)"),
            ("conv1d(padding=valid)", "conv1d"),
            ("max_pool1d(stride=2, 4)", "max_pool1d(4, stride=2)"),
            ("max_pool1d(4, stride=4)", "max_pool1d(4)"),
            ("average_pool1d(3)", "average_pool1d(3)"),
            ("flatten( channels_last )", "flatten(channels_last)"),
        ] {
            let spec: LayerSpec = name.parse().unwrap();
            assert_eq!(spec.to_string(), written);
            assert_eq!(written.parse::<LayerSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn a_wrong_name_gets_the_nearest() {
        for (name, nearest) in [
            ("Relu", "the nearest is `relu`"),
            ("Conv2d(8)", "the nearest is `conv1d`"),
            ("LeakyReLU(0.3)", "the nearest is `leaky_relu`"),
            ("Dropout(0.5)", "leave it out: it does nothing in a trained network"),
            (
                "batch_norm",
                "fold it into the layer before: README.md, \"From Keras or torch\", says how",
            ),
            ("swish", "it is called `silu` here"),
        ] {
            let said = name.parse::<LayerSpec>().unwrap_err().to_string();
            assert_eq!(said, format!("unknown layer `{name}`; {nearest}"));
        }
        let said = "softmax".parse::<LayerSpec>().unwrap_err().to_string();
        assert!(said.contains("; there are `input`, `dense`, "), "{said}");
    }

    #[test]
    fn a_wrong_number_is_named() {
        for name in [
            "relu(1)",
            "dense(5)",
            "elu(x)",
            "elu(nan)",
            "clipped_relu(0)",
            "elu(1",
            "elu(1, 2)",
            "elu()",
            "input",
            "input(0)",
            "conv1d(8)",
            "conv1d(stride=0)",
            "conv1d(dilation=2)",
            "conv1d(padding=3)",
            "max_pool1d",
            "max_pool1d(1.5)",
            "max_pool1d(4, padding=same)",
            "flatten(channels_second)",
            "leaky_relu",
            "clipped_relu",
        ] {
            let said = name.parse::<LayerSpec>().unwrap_err();
            assert!(matches!(said, NetworkError::LayerNumber { .. }), "{name}: {said}");
            assert!(said.to_string().contains(name), "{said}");
        }
        let said = "flatten".parse::<LayerSpec>().unwrap_err().to_string();
        assert_eq!(
            said,
            "layer `flatten`: say its order: `flatten(channels_first)` as torch, `flatten(channels_last)` as Keras"
        );
        let said = "leaky_relu".parse::<LayerSpec>().unwrap_err().to_string();
        assert!(
            said.starts_with(
                "layer `leaky_relu`: say its slope: `leaky_relu(0.01)` as torch, `leaky_relu(0.3)` as Keras' layer"
            ),
            "{said}"
        );
        let said = "conv1d(padding=3)".parse::<LayerSpec>().unwrap_err().to_string();
        assert_eq!(said, "layer `conv1d(padding=3)`: `3` is neither `valid` nor `same`");
    }
}
