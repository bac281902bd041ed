//! A layer's capture as row-major numbers of one type, checked against the layer's shape.

use candle_core::{DType, Storage, Tensor};
use fisherflow_network::scratch::{Number, Scratch};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::PosteriorError;

/// Both sides of a layer's weight Jacobian.
pub(crate) struct Sides<T: Number> {
    /// Number of spectra.
    pub batch: usize,
    /// Number of positions of a spectrum that share the weights.
    pub shared: usize,
    /// K, the number of outputs of the network.
    pub n_outputs: usize,
    /// `[a; 1]`, without a bias `a`: `[batch, shared, columns]`.
    pub input: Scratch<T>,
    /// `g`: `[K, batch, shared, out]`.
    pub grad: Scratch<T>,
}

/// A layer as a structure looks for it among the captures.
pub(crate) struct Wanted<'a> {
    /// Its position in the network.
    pub index: usize,
    /// Its name and size.
    pub shape: &'a DenseShape,
}

impl Wanted<'_> {
    /// The layer's capture, its shapes and types checked.
    pub(crate) fn find<'c>(&self, captures: &'c [LayerCapture]) -> Result<&'c LayerCapture, PosteriorError> {
        let capture =
            captures
                .iter()
                .find(|c| c.layer == self.index)
                .ok_or_else(|| PosteriorError::MissingCapture {
                    layer: self.shape.name.clone(),
                    index: self.index,
                    found: captures.len(),
                })?;
        let wrong = |what: &str, expected: Vec<usize>, tensor: &Tensor| PosteriorError::Shape {
            what: format!("the {what} of layer {}", self.shape.name),
            expected,
            found: tensor.dims().to_vec(),
        };
        let (batch, shared) = match capture.input.dims() {
            &[batch, shared, inputs] if (shared, inputs) == (self.shape.shared, self.shape.inputs) => (batch, shared),
            dims => {
                let batch = dims.first().copied().unwrap_or(0);
                let expected = vec![batch, self.shape.shared, self.shape.inputs];
                return Err(wrong("input", expected, &capture.input));
            }
        };
        match capture.output_grad.dims() {
            &[_, b, s, outputs] if (b, s, outputs) == (batch, shared, self.shape.outputs) => {}
            dims => {
                let k = dims.first().copied().unwrap_or(0);
                return Err(wrong(
                    "output gradient",
                    vec![k, batch, shared, self.shape.outputs],
                    &capture.output_grad,
                ));
            }
        }
        let (a, g) = (capture.input.dtype(), capture.output_grad.dtype());
        if a != g || !matches!(a, DType::F32 | DType::F64) {
            return Err(PosteriorError::Type {
                what: format!("the capture of layer {}", self.shape.name),
                found: if a == g {
                    a.as_str().to_owned()
                } else {
                    format!("{} and {}", a.as_str(), g.as_str())
                },
            });
        }
        Ok(capture)
    }

    /// Both sides of the capture in `T`; converted if it is of the other type.
    pub(crate) fn sides<T: Number>(&self, capture: &LayerCapture) -> Result<Sides<T>, PosteriorError> {
        let (batch, shared, inputs) = (capture.input.dims()[0], capture.input.dims()[1], self.shape.inputs);
        let input = with_values(&capture.input.to_dtype(T::DTYPE)?.contiguous()?, |a: &[T]| {
            let columns = self.shape.columns();
            let mut with_one = Scratch::new(batch * shared * columns);
            for (to, from) in with_one.chunks_exact_mut(columns).zip(a.chunks_exact(inputs)) {
                to[inputs..].fill(T::one());
                to[..inputs].copy_from_slice(from);
            }
            with_one
        })?;
        let grad = with_values(&capture.output_grad.to_dtype(T::DTYPE)?.contiguous()?, Scratch::copy_of)?;
        Ok(Sides {
            batch,
            shared,
            n_outputs: capture.output_grad.dims()[0],
            input,
            grad,
        })
    }
}

/// Hands a contiguous tensor's numbers to `read`, without a copy where they are in this machine's memory.
pub(crate) fn with_values<T: candle_core::WithDType, R>(
    tensor: &Tensor,
    read: impl FnOnce(&[T]) -> R,
) -> Result<R, PosteriorError> {
    {
        let (storage, layout) = tensor.storage_and_layout();
        if let (Storage::Cpu(cpu), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
            return Ok(read(&cpu.as_slice::<T>()?[start..end]));
        }
    }
    Ok(read(&tensor.flatten_all()?.to_vec1::<T>()?))
}
