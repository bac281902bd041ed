//! What the sums of a layer are taken about: its mean input, and the mean gradient of each output, over spectra and over the positions of a
//! spectrum that share the layer's weights.
//!
//! Spectra are nearly the same continuum: the largest eigenvalue of `sum a a^T` is 10^12 times the smallest, and the small ones matter. About a
//! fixed reference `a0`, `[a; 1] = T [a - a0; 1]` with T unit triangular, so the sum about no reference is re-formed exactly, in f64, from
//! sums that single precision can carry. Any reference is exact; one near the mean is accurate.

use fisherflow_network::{DenseShape, LayerCapture};
use serde::{Deserialize, Serialize};

use crate::CurvatureError;
use crate::captured_rows::{capture_of, values_f64};

/// The reference of every dense layer, in the network's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct References {
    /// `a0`, the mean input of each layer: `[in]`.
    pub input_mean: Vec<Vec<f64>>,
    /// `gbar_k`, the mean gradient of each output at the layer's pre-activation: `[K, out]`, normalised label units.
    pub gradient_mean: Vec<Vec<f64>>,
}

impl References {
    /// The references of a network nothing is known about: 0, which is exact in f64 and poor in f32.
    #[must_use]
    pub fn zero(shapes: &[DenseShape], n_labels: usize) -> Self {
        Self {
            input_mean: shapes.iter().map(|s| vec![0.0; s.inputs]).collect(),
            gradient_mean: shapes.iter().map(|s| vec![0.0; n_labels * s.outputs]).collect(),
        }
    }

    /// The references of [`gradient_captures`](crate::gradient_captures): the same inputs, and 0 for the loss's one gradient, whose mean is
    /// near 0 where the network is trained.
    #[must_use]
    pub fn of_gradients(&self, shapes: &[DenseShape]) -> Self {
        Self {
            input_mean: self.input_mean.clone(),
            ..Self::zero(shapes, 1)
        }
    }

    /// The references of one layer, their sizes checked: `a0 [in]` and `gbar [K, out]`.
    pub(crate) fn of_layer(
        &self,
        layer: usize,
        shape: &DenseShape,
        n_labels: usize,
    ) -> Result<(&[f64], &[f64]), CurvatureError> {
        let part = |what: &'static str, means: &[Vec<f64>], expected: usize| {
            let found = means.get(layer).map_or(0, Vec::len);
            if found == expected {
                Ok(())
            } else {
                Err(CurvatureError::ReferenceShape {
                    layer: shape.name.clone(),
                    what,
                    found,
                    expected,
                })
            }
        };
        part("input mean", &self.input_mean, shape.inputs)?;
        part("gradient mean", &self.gradient_mean, n_labels * shape.outputs)?;
        Ok((&self.input_mean[layer], &self.gradient_mean[layer]))
    }
}

/// Sums over spectra that [`References`] are the means of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceSums {
    /// Number of spectra summed over.
    pub n: u64,
    /// Number of outputs K of the network.
    pub n_labels: usize,
    /// The network's dense layers.
    pub shapes: Vec<DenseShape>,
    /// Layer after layer: `sum a [in]`, then `sum g_k [K, out]`, of each spectrum's means over positions.
    pub sums: Vec<f64>,
}

impl ReferenceSums {
    /// Sums over no spectra of a network with these dense layers and `n_labels` outputs.
    #[must_use]
    pub fn empty(shapes: &[DenseShape], n_labels: usize) -> Self {
        let len = shapes.iter().map(|s| s.inputs + n_labels * s.outputs).sum();
        Self {
            n: 0,
            n_labels,
            shapes: shapes.to_vec(),
            sums: vec![0.0; len],
        }
    }

    /// Adds a batch: one capture a layer.
    ///
    /// # Errors
    /// A missing layer, or captures of other shapes or types; nothing is added then.
    pub fn accumulate(&mut self, captures: &[LayerCapture]) -> Result<(), CurvatureError> {
        let batch = captures
            .first()
            .map_or(0, |c| c.input.dims().first().copied().unwrap_or(0));
        let mut read = Vec::with_capacity(self.shapes.len());
        for (layer, shape) in self.shapes.iter().enumerate() {
            let capture = capture_of(captures, layer, shape, self.n_labels, batch)?;
            read.push((
                values_f64(&capture.input, shape)?,
                values_f64(&capture.output_grad, shape)?,
                shape.shared,
            ));
        }
        let mut sums = self.sums.as_mut_slice();
        for (shape, (input, grad, shared)) in self.shapes.iter().zip(read) {
            let (of_input, rest) = sums.split_at_mut(shape.inputs);
            let (of_grad, rest) = rest.split_at_mut(self.n_labels * shape.outputs);
            sums = rest;
            let share = 1.0 / shared as f64;
            add_rows(of_input, &input, share);
            for (sum, rows) in of_grad
                .chunks_exact_mut(shape.outputs)
                .zip(grad.chunks_exact((batch * shared * shape.outputs).max(1)))
            {
                add_rows(sum, rows, share);
            }
        }
        self.n += batch as u64;
        Ok(())
    }

    /// Adds the sums over other spectra.
    ///
    /// # Errors
    /// Sums of another network.
    pub fn merge(&mut self, other: &Self) -> Result<(), CurvatureError> {
        if self.shapes != other.shapes || self.n_labels != other.n_labels || self.sums.len() != other.sums.len() {
            return Err(CurvatureError::ReferenceSumsDiffer {
                expected: self.sums.len(),
                found: other.sums.len(),
            });
        }
        add_rows(&mut self.sums, &other.sums, 1.0);
        self.n += other.n;
        Ok(())
    }

    /// The means; 0 over no spectra.
    ///
    /// # Errors
    /// A mean that is not finite.
    pub fn finish(&self) -> Result<References, CurvatureError> {
        let mut references = References::zero(&self.shapes, self.n_labels);
        if self.n == 0 {
            return Ok(references);
        }
        let n_spectra = self.n;
        let mut sums = self.sums.iter();
        for layer in 0..self.shapes.len() {
            for (what, means) in [
                ("input mean", &mut references.input_mean[layer]),
                ("gradient mean", &mut references.gradient_mean[layer]),
            ] {
                for (mean, sum) in means.iter_mut().zip(sums.by_ref()) {
                    *mean = sum / n_spectra as f64;
                }
                if means.iter().any(|m| !m.is_finite()) {
                    return Err(CurvatureError::ReferenceNotFinite {
                        layer: self.shapes[layer].name.clone(),
                        what,
                        n_spectra,
                    });
                }
            }
        }
        Ok(references)
    }
}

/// Adds every row of `rows`, each as long as `sums`, times `share`.
fn add_rows(sums: &mut [f64], rows: &[f64], share: f64) {
    for row in rows.chunks_exact(sums.len().max(1)) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += share * value;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn capture(
        layer: usize,
        input: Vec<f64>,
        grad: Vec<f64>,
        (k, n, i, o): (usize, usize, usize, usize),
    ) -> LayerCapture {
        LayerCapture {
            layer,
            input: Tensor::from_vec(input, (n, 1, i), &Device::Cpu).unwrap(),
            output_grad: Tensor::from_vec(grad, (k, n, 1, o), &Device::Cpu).unwrap(),
        }
    }

    fn shapes() -> Vec<DenseShape> {
        vec![
            DenseShape {
                name: "layers.0".to_owned(),
                inputs: 2,
                outputs: 1,
                bias: true,
                shared: 1,
            },
            DenseShape {
                name: "layers.2".to_owned(),
                inputs: 1,
                outputs: 2,
                bias: true,
                shared: 1,
            },
        ]
    }

    fn batch() -> Vec<LayerCapture> {
        vec![
            capture(0, vec![1.0, 2.0, 3.0, 4.0], vec![1.0, 3.0, 10.0, 30.0], (2, 2, 2, 1)),
            capture(
                1,
                vec![5.0, 7.0],
                vec![1.0, 0.0, 2.0, 0.0, 0.0, 4.0, 0.0, 8.0],
                (2, 2, 1, 2),
            ),
        ]
    }

    #[test]
    fn references_are_means_and_merge_by_addition() {
        let mut sums = ReferenceSums::empty(&shapes(), 2);
        assert_eq!(sums.finish().unwrap(), References::zero(&shapes(), 2));
        sums.accumulate(&batch()).unwrap();
        let mut twice = sums.clone();
        twice.merge(&sums).unwrap();
        let references = twice.finish().unwrap();
        assert_eq!(twice.n, 4);
        assert_eq!(references.input_mean, [vec![2.0, 3.0], vec![6.0]]);
        assert_eq!(references.gradient_mean, [vec![2.0, 20.0], vec![1.5, 0.0, 0.0, 6.0]]);
        assert!(twice.merge(&ReferenceSums::empty(&shapes()[..1], 2)).is_err());
    }

    #[test]
    fn captures_that_do_not_fit_are_refused_and_add_nothing() {
        let mut sums = ReferenceSums::empty(&shapes(), 2);
        let before = sums.clone();
        let error = sums.accumulate(&batch()[..1]).unwrap_err();
        assert!(matches!(error, CurvatureError::MissingCapture { layer } if layer == "layers.2"));
        let mut wrong = batch();
        wrong[1] = capture(1, vec![5.0], vec![1.0; 4], (2, 1, 1, 2));
        let error = sums.accumulate(&wrong).unwrap_err().to_string();
        assert_eq!(
            error,
            "layer layers.2: captured input has shape [1, 1, 1], expected [2, 1, 1]"
        );
        assert_eq!(sums, before);
    }

    #[test]
    fn a_mean_that_is_not_finite_is_an_error() {
        let mut sums = ReferenceSums::empty(&shapes(), 2);
        let mut captures = batch();
        captures[1] = capture(1, vec![f64::INFINITY, 7.0], vec![0.0; 8], (2, 2, 1, 2));
        sums.accumulate(&captures).unwrap();
        let error = sums.finish().unwrap_err().to_string();
        assert!(
            error.starts_with("reference input mean of layer layers.2 is not finite over 2 spectra"),
            "{error}"
        );
    }
}
