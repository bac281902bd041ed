//! What any layer hands to any curvature structure: its input, and the gradient of every network output at its pre-activation.

use candle_core::{Result, Tensor};

/// The two sides of a layer's weight Jacobian for a batch of spectra.
///
/// With the layer's weights as `[W | b]`, shape `[out, in + 1]`, bias last, the weight Jacobian of output k for spectrum n is the sum
/// over shared positions s of `output_grad[k, n, s] (x) [input[n, s]; 1]`; without a bias, of `output_grad[k, n, s] (x) input[n, s]`.
/// Gradients are of the network's outputs in normalised units (before the label scale).
#[derive(Clone, Debug)]
pub struct LayerCapture {
    /// The layer, counted from the input in `Network::dense_layers`.
    pub layer: usize,
    /// The layer's input `a`: `[batch, shared, in]`. `shared` is 1 for a dense layer; a convolution shares its weights between positions,
    /// and its input is the patch `[channels, kernel]` at each.
    pub input: Tensor,
    /// `d f_k / d (pre-activation)` of each output k: `[K, batch, shared, out]`.
    pub output_grad: Tensor,
}

impl LayerCapture {
    /// The same capture for some of the spectra, in the order of `rows` (`u32` positions in the batch).
    ///
    /// # Errors
    /// Only where the device refuses the copy.
    pub fn select(&self, rows: &Tensor) -> Result<Self> {
        Ok(Self {
            layer: self.layer,
            input: self.input.index_select(rows, 0)?,
            output_grad: self.output_grad.index_select(rows, 1)?,
        })
    }
}
