//! Directions in the space of a network's weights, as the products over its layers take them.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::arithmetic::Arithmetic;
use crate::error::NetworkError;
use crate::layers::dense::{Dense, DenseShape};

/// Some directions in the space of the weights of some dense layers; 0 in all other layers.
#[derive(Clone, Debug)]
pub struct WeightDirections {
    n: usize,
    /// Layer to `[n * out, columns]` and whether the last column is the bias.
    layers: BTreeMap<usize, (Tensor, bool)>,
}

impl WeightDirections {
    /// From `values: [n, p]`, row-major: a direction after another, each layer after layer in the order of `layers`, each layer `[W | b]`
    /// row-major (index = out * columns + column, the bias last where there is one). `shapes` are those of `layers`.
    ///
    /// # Errors
    /// A number of values that is no whole number of directions.
    pub fn new(
        layers: &[usize],
        shapes: &[DenseShape],
        values: &[f64],
        arithmetic: &Arithmetic,
    ) -> Result<Self, NetworkError> {
        let p: usize = shapes.iter().map(DenseShape::n_weights).sum();
        if p == 0 || layers.len() != shapes.len() || !values.len().is_multiple_of(p) {
            return Err(NetworkError::DirectionLength {
                found: values.len(),
                n_weights: p,
            });
        }
        let n = values.len() / p;
        let mut start = 0;
        let mut tensors = BTreeMap::new();
        for (&layer, shape) in layers.iter().zip(shapes) {
            let end = start + shape.n_weights();
            let own: Vec<f64> = values
                .chunks_exact(p)
                .flat_map(|direction| &direction[start..end])
                .copied()
                .collect();
            let tensor = Tensor::from_vec(own, (n * shape.outputs, shape.columns()), &arithmetic.device())?;
            tensors.insert(layer, (tensor.to_dtype(arithmetic.precision.dtype())?, shape.bias));
            start = end;
        }
        Ok(Self { n, layers: tensors })
    }

    /// How many directions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.n
    }

    /// The dense layers in which they are not 0, ascending.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.layers.keys().copied()
    }

    /// All directions' weights of dense layer `layer`, `[n * out, columns]`, the bias last where there is one; `None` where they are 0.
    #[must_use]
    pub fn of_layer(&self, layer: usize) -> Option<&Tensor> {
        self.layers.get(&layer).map(|(all, _)| all)
    }

    /// Weights `[out, in]` and biases `[out]` of direction `direction` in dense layer `layer`; `None` where they are 0.
    pub(crate) fn dense(&self, direction: usize, layer: usize) -> candle_core::Result<Option<Dense>> {
        let Some((all, has_bias)) = self.layers.get(&layer) else {
            return Ok(None);
        };
        let (rows, width) = all.dims2()?;
        let outputs = rows / self.n.max(1);
        let own = all.narrow(0, direction * outputs, outputs)?;
        if !has_bias {
            return Ok(Some(Dense::new(own, None)));
        }
        let bias = own.narrow(1, width - 1, 1)?.flatten_all()?.contiguous()?;
        Ok(Some(Dense::new(own.narrow(1, 0, width - 1)?, Some(bias))))
    }
}
