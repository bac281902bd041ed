//! Rows of the weight Jacobian, each kept as the two sides of its outer products: `F_n^T J_n` of some spectra without ever forming J.
//!
//! Row j of spectrum n is, layer after layer, `g_nj (x) [a_n; 1]`, with the whitened gradient `g_nj = sum_k F_n,kj d f_k / d (pre-activation)`
//! and `Lam_n = F_n F_n^T` the spectrum's label precision. The GGN is their Gram matrix over weights, `H = J^T J`. All in f64, in normalised
//! label units.

use fisherflow_network::LayerCapture;

use crate::captured_rows::{capture_of, values_f64, whitened_gradients};
use crate::{BlockPlan, CurvatureError, LabelPrecision, Matrix};

/// The rows of the weight Jacobian of some spectra, K each, over the layers of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct JacobianRows {
    n_spectra: usize,
    n_labels: usize,
    layers: Vec<LayerRows>,
}

/// A layer's two sides.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRows {
    /// `a`: `[n, in]`; the bias's 1 is not stored.
    pub inputs: Matrix,
    /// `g`: `[n K, out]`, the K rows of a spectrum one after another.
    pub gradients: Matrix,
}

impl JacobianRows {
    /// The rows of a batch, whitened by the labels' precision. `captures` are those of all layers of the network.
    ///
    /// # Errors
    /// Captures or precisions that do not fit the block or the batch.
    pub fn new(
        plan: &BlockPlan,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
    ) -> Result<Self, CurvatureError> {
        let (n, k) = (precision.batch(), precision.n_labels);
        precision.check(k, n)?;
        let mut layers = Vec::with_capacity(plan.layers.len());
        for (&layer, shape) in plan.layers.iter().zip(&plan.shapes) {
            let capture = capture_of(captures, layer, shape, k, n)?;
            let gradients = values_f64(&capture.output_grad, shape)?;
            layers.push(LayerRows {
                inputs: matrix(n, shape.inputs, values_f64(&capture.input, shape)?),
                gradients: matrix(
                    n * k,
                    shape.outputs,
                    whitened_gradients(&gradients, shape.outputs, precision, None),
                ),
            });
        }
        Ok(Self {
            n_spectra: n,
            n_labels: k,
            layers,
        })
    }

    /// The rows again from their layers' sides, in the block's order.
    ///
    /// # Errors
    /// Sides that do not fit the block's layers or one another.
    pub fn from_layers(plan: &BlockPlan, n_labels: usize, layers: Vec<LayerRows>) -> Result<Self, CurvatureError> {
        let n = layers.first().map_or(0, |layer| layer.inputs.rows);
        let expected: Vec<_> = plan
            .shapes
            .iter()
            .map(|s| [n, s.inputs, n * n_labels, s.outputs])
            .collect();
        let found: Vec<_> = layers
            .iter()
            .map(
                |LayerRows {
                     inputs: a,
                     gradients: g,
                 }| [a.rows, a.cols, g.rows, g.cols],
            )
            .collect();
        if expected != found {
            return Err(CurvatureError::RowsDiffer {
                expected: format!("{expected:?}"),
                found: format!("{found:?}"),
            });
        }
        Ok(Self {
            n_spectra: n,
            n_labels,
            layers,
        })
    }

    /// No rows, of a block with `n_labels` labels.
    #[must_use]
    pub fn none(plan: &BlockPlan, n_labels: usize) -> Self {
        let layers = plan.shapes.iter().map(|shape| LayerRows {
            inputs: matrix(0, shape.inputs, Vec::new()),
            gradients: matrix(0, shape.outputs, Vec::new()),
        });
        Self {
            n_spectra: 0,
            n_labels,
            layers: layers.collect(),
        }
    }

    /// Number of spectra.
    #[must_use]
    pub fn n_spectra(&self) -> usize {
        self.n_spectra
    }

    /// K.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        self.n_labels
    }

    /// Number of rows: spectra times labels.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_spectra * self.n_labels
    }

    /// The layers' sides, in the block's order.
    #[must_use]
    pub fn layers(&self) -> &[LayerRows] {
        &self.layers
    }

    /// Appends the rows of further spectra.
    ///
    /// # Errors
    /// Rows of another block or number of labels; nothing is appended then.
    pub fn append(&mut self, other: &Self) -> Result<(), CurvatureError> {
        let sizes = |rows: &Self| {
            let widths: Vec<_> = rows.layers.iter().map(|l| (l.inputs.cols, l.gradients.cols)).collect();
            format!("{widths:?} x {}", rows.n_labels)
        };
        if sizes(self) != sizes(other) {
            return Err(CurvatureError::RowsDiffer {
                expected: sizes(self),
                found: sizes(other),
            });
        }
        self.n_spectra += other.n_spectra;
        for (own, other) in self.layers.iter_mut().zip(&other.layers) {
            for (own, other) in [(&mut own.inputs, &other.inputs), (&mut own.gradients, &other.gradients)] {
                own.rows += other.rows;
                own.values.extend_from_slice(&other.values);
            }
        }
        Ok(())
    }

    /// The rows of `len` spectra from `first` on; fewer where there are fewer.
    #[must_use]
    pub fn slice(&self, first: usize, len: usize) -> Self {
        let last = self.n_spectra.min(first.saturating_add(len));
        let first = first.min(last);
        let cut = |m: &Matrix, each: usize| {
            let (first, last) = (first * each, last * each);
            matrix(last - first, m.cols, m.values[first * m.cols..last * m.cols].to_vec())
        };
        let layers = self.layers.iter().map(|layer| LayerRows {
            inputs: cut(&layer.inputs, 1),
            gradients: cut(&layer.gradients, self.n_labels),
        });
        Self {
            n_spectra: last - first,
            n_labels: self.n_labels,
            layers: layers.collect(),
        }
    }

    /// Bytes of the rows of `n_spectra` spectra.
    #[must_use]
    pub fn bytes(plan: &BlockPlan, n_labels: usize, n_spectra: u64) -> u64 {
        let per_spectrum: usize = plan.shapes.iter().map(|s| s.inputs + n_labels * s.outputs).sum();
        8 * n_spectra * per_spectrum as u64
    }
}

fn matrix(rows: usize, cols: usize, values: Vec<f64>) -> Matrix {
    debug_assert_eq!(values.len(), rows * cols);
    Matrix { rows, cols, values }
}
