//! Networks over candle tensors: forward, K backward passes at once, layer capture, and the Jacobian of labels by flux.

mod capture;

pub use capture::LayerCapture;

/// A dense layer's name and size, as `Network::dense_layers` lists them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
