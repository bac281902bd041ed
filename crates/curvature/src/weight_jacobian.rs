//! Rows of the weight Jacobian, each kept as the two sides of its outer products: `F_n^T J_n` of some spectra without ever forming J.
//!
//! Row j of spectrum n is, layer after layer, `g_nj (x) [a_n; 1]`, with the whitened gradient `g_nj = sum_k F_n,kj d f_k / d (pre-activation)`
//! and `Lam_n = F_n F_n^T` the spectrum's label precision; without a bias, `g_nj (x) a_n`. Where T positions of a spectrum share the weights,
//! `sum_t g_njt (x) [a_nt; 1]` is no such product: the row itself is kept as the gradient, `g_nj (x) [1]`, in the order of the weights. The GGN
//! is their Gram matrix over weights, `H = J^T J`. All in f64, in normalised label units.

use fisherflow_network::{DenseShape, LayerCapture};

use crate::dense::LayerBatch;
use crate::{BlockPlan, CurvatureError, LabelPrecision, Matrix};

/// Weights of a layer that positions share, up to which its rows are kept: each spectrum has K rows of as many numbers.
const MOST_SHARED_WEIGHTS: usize = 1 << 16;

/// The rows of the weight Jacobian of some spectra, K each, over the layers of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightJacobian {
    n_spectra: usize,
    n_labels: usize,
    layers: Vec<LayerSides>,
}

/// A layer's two sides.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSides {
    /// `a`: `[n, in]`; the bias's 1 is not stored. `[n, 0]` where positions share the weights.
    pub inputs: Matrix,
    /// `g`: `[n K, out]`, the K rows of a spectrum one after another; `[n K, weights]` where positions share the weights.
    pub gradients: Matrix,
    /// 1 where a row is `g (x) [a; 1]`, 0 where it is `g (x) a`.
    one: usize,
}

impl LayerSides {
    /// From inputs `[n, in]` (none where positions share the weights) and gradients.
    #[must_use]
    pub fn new(shape: &DenseShape, inputs: Matrix, gradients: Matrix) -> Self {
        Self {
            inputs,
            gradients,
            one: usize::from(shape.shared > 1 || shape.bias),
        }
    }

    /// Widths of a layer's inputs and gradients.
    #[must_use]
    pub fn widths(shape: &DenseShape) -> [usize; 2] {
        match shape.shared {
            1 => [shape.inputs, shape.outputs],
            _ => [0, shape.n_weights()],
        }
    }

    /// Length of `[a; 1]`, or of `a`: the weights are `[out, columns]`.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.inputs.cols + self.one
    }

    /// What the 1 adds to an inner product of inputs: 1, or 0 where there is none.
    #[must_use]
    pub fn one(&self) -> f64 {
        self.one as f64
    }
}

impl WeightJacobian {
    /// The rows of a batch, whitened by the labels' precision. `captures` are those of all layers of the network.
    ///
    /// # Errors
    /// Captures or precisions that do not fit the block or the batch; a layer of too many shared weights.
    pub fn new(
        plan: &BlockPlan,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
    ) -> Result<Self, CurvatureError> {
        let (n, k) = (precision.batch(), precision.n_labels);
        precision.check(k, n)?;
        let mut layers = Vec::with_capacity(plan.layers.len());
        for (&layer, shape) in plan.layers.iter().zip(&plan.shapes) {
            Self::check_layer(shape)?;
            let batch = LayerBatch::new(layer, shape, captures, precision)?;
            let [in_width, out_width] = LayerSides::widths(shape);
            let (inputs, gradients) = match shape.shared {
                1 => (batch.input, batch.gradients),
                _ => {
                    let mut rows = Vec::with_capacity(n * k * out_width);
                    (0..n * k).for_each(|row| batch.push_row(row, k, &mut rows));
                    (Vec::new(), rows)
                }
            };
            let (inputs, gradients) = (matrix(n, in_width, inputs), matrix(n * k, out_width, gradients));
            layers.push(LayerSides::new(shape, inputs, gradients));
        }
        Ok(Self {
            n_spectra: n,
            n_labels: k,
            layers,
        })
    }

    /// Refuses a layer whose rows would be too long to be kept.
    ///
    /// # Errors
    /// Positions that share more than 65,536 weights.
    pub fn check_layer(shape: &DenseShape) -> Result<(), CurvatureError> {
        if shape.shared == 1 || shape.n_weights() <= MOST_SHARED_WEIGHTS {
            return Ok(());
        }
        Err(CurvatureError::SharedRows {
            layer: shape.name.clone(),
            n_weights: shape.n_weights(),
            most: MOST_SHARED_WEIGHTS,
        })
    }

    /// The rows again from their layers' sides, in the block's order.
    ///
    /// # Errors
    /// Sides that do not fit the block's layers or one another.
    pub fn from_layers(plan: &BlockPlan, n_labels: usize, layers: Vec<LayerSides>) -> Result<Self, CurvatureError> {
        let n = layers.first().map_or(0, |layer| layer.inputs.rows);
        let expected = plan.shapes.iter().map(LayerSides::widths);
        let expected: Vec<_> = expected.map(|[a, g]| [n, a, n * n_labels, g]).collect();
        let of = |LayerSides {
                      inputs: a,
                      gradients: g,
                      ..
                  }: &LayerSides| [a.rows, a.cols, g.rows, g.cols];
        let found: Vec<_> = layers.iter().map(of).collect();
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
        let layers = plan.shapes.iter().map(|shape| {
            let [inputs, gradients] = LayerSides::widths(shape).map(|width| matrix(0, width, Vec::new()));
            LayerSides::new(shape, inputs, gradients)
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
    pub fn layers(&self) -> &[LayerSides] {
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
        let layers = self.layers.iter().map(|layer| LayerSides {
            inputs: cut(&layer.inputs, 1),
            gradients: cut(&layer.gradients, self.n_labels),
            one: layer.one,
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
        let widths = plan.shapes.iter().map(LayerSides::widths);
        let per_spectrum: usize = widths.map(|[inputs, gradients]| inputs + n_labels * gradients).sum();
        n_spectra.saturating_mul(8 * per_spectrum as u64)
    }
}

fn matrix(rows: usize, cols: usize, values: Vec<f64>) -> Matrix {
    debug_assert_eq!(values.len(), rows * cols);
    Matrix { rows, cols, values }
}
