//! The names of layers in run files and file descriptions, and what they stand for.

use std::fmt;
use std::str::FromStr;

use crate::activation::Activation;
use crate::error::NetworkError;
use crate::nearest_name::nearest_name;

const LEAKY_RELU_SLOPE: f64 = 0.01;
const ELU_ALPHA: f64 = 1.0;
const CLIPPED_RELU_MAX: f64 = 9999.0;

const NAMES: [&str; 11] = [
    "dense",
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
/// `leaky_relu` (slope 0.01), `elu` (alpha 1) and `clipped_relu` (max 9999) take another number in parentheses.
///
/// ```
/// use fisherflow_network::{Activation, LayerSpec};
/// let layer: LayerSpec = "leaky_relu(0.3)".parse().unwrap();
/// assert_eq!(layer, LayerSpec::Activation(Activation::LeakyRelu { slope: 0.3 }));
/// assert_eq!(layer.to_string(), "leaky_relu(0.3)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LayerSpec {
    /// Weights and biases.
    Dense,
    /// A nonlinearity.
    Activation(Activation),
}

impl FromStr for LayerSpec {
    type Err = NetworkError;

    fn from_str(name: &str) -> Result<Self, NetworkError> {
        let trimmed = name.trim();
        let (kind, number) = match trimmed.split_once('(') {
            None => (trimmed, None),
            Some((kind, rest)) => {
                let digits = rest.strip_suffix(')').ok_or_else(|| NetworkError::LayerNumber {
                    name: name.to_owned(),
                    reason: "the parenthesis is not closed".to_owned(),
                })?;
                let number = digits.trim().parse::<f64>().ok().filter(|v| v.is_finite());
                let number = number.ok_or_else(|| NetworkError::LayerNumber {
                    name: name.to_owned(),
                    reason: format!("`{digits}` is not a finite number"),
                })?;
                (kind.trim_end(), Some(number))
            }
        };
        let activation = match kind {
            "relu" => Activation::Relu,
            "leaky_relu" => Activation::LeakyRelu {
                slope: number.unwrap_or(LEAKY_RELU_SLOPE),
            },
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "softplus" => Activation::Softplus,
            "elu" => Activation::Elu {
                alpha: number.unwrap_or(ELU_ALPHA),
            },
            "gelu" => Activation::Gelu,
            "silu" => Activation::Silu,
            "clipped_relu" => Activation::ClippedRelu {
                max: number.unwrap_or(CLIPPED_RELU_MAX),
            },
            "linear" => Activation::Linear,
            "dense" if number.is_none() => return Ok(Self::Dense),
            "dense" => {
                return Err(NetworkError::LayerNumber {
                    name: name.to_owned(),
                    reason: "its size is that of its weights; write `dense`".to_owned(),
                });
            }
            _ => {
                return Err(NetworkError::UnknownLayer {
                    name: name.to_owned(),
                    nearest: nearest_name(&kind.to_lowercase(), NAMES).to_owned(),
                });
            }
        };
        let refused = match activation {
            Activation::ClippedRelu { max } if max <= 0.0 => Some("its upper end must be above 0".to_owned()),
            Activation::LeakyRelu { .. } | Activation::Elu { .. } | Activation::ClippedRelu { .. } => None,
            _ => number.map(|_| format!("`{kind}` takes no number")),
        };
        match refused {
            Some(reason) => Err(NetworkError::LayerNumber {
                name: name.to_owned(),
                reason,
            }),
            None => Ok(Self::Activation(activation)),
        }
    }
}

impl FromStr for Activation {
    type Err = NetworkError;

    fn from_str(name: &str) -> Result<Self, NetworkError> {
        match name.parse()? {
            LayerSpec::Activation(activation) => Ok(activation),
            LayerSpec::Dense => Err(NetworkError::LayerNumber {
                name: name.to_owned(),
                reason: "an activation is wanted here".to_owned(),
            }),
        }
    }
}

impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => f.write_str("dense"),
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
            let spec: LayerSpec = name.parse().unwrap();
            assert!(spec.to_string().starts_with(name));
            assert_eq!(spec.to_string().parse::<LayerSpec>().unwrap(), spec);
        }
        let slope = "leaky_relu(0.1234567890123)".parse::<LayerSpec>().unwrap();
        assert_eq!(slope.to_string(), "leaky_relu(0.1234567890123)");
        let clipped = "clipped_relu".parse::<Activation>().unwrap();
        assert_eq!(clipped, Activation::ClippedRelu { max: 9999.0 });
    }

    #[test]
    fn a_wrong_name_gets_the_nearest() {
        let said = "Relu6".parse::<LayerSpec>().unwrap_err().to_string();
        assert_eq!(said, "unknown layer `Relu6`; the nearest known one is `relu`");
        let said = "softmax".parse::<LayerSpec>().unwrap_err().to_string();
        assert!(said.contains("`softplus`"), "{said}");
    }

    #[test]
    fn a_wrong_number_is_named() {
        for name in ["relu(1)", "dense(5)", "elu(x)", "elu(nan)", "clipped_relu(0)", "elu(1"] {
            let said = name.parse::<LayerSpec>().unwrap_err();
            assert!(matches!(said, NetworkError::LayerNumber { .. }), "{name}: {said}");
            assert!(said.to_string().contains(name), "{said}");
        }
    }
}
