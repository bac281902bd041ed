//! Exact dense curvature, `H = sum_n J_n^T Lam_n J_n`: of one layer (`block`) or of several with their cross terms (`full`).
//!
//! J is the weight Jacobian, whose row k is the layers' `sum_t g_kt (x) [a_t; 1]` one after another, t over the positions that share the
//! weights; cross terms with a bias that is split off are dropped at the end. It is whitened by the factor of `Lam_n`, and what is added to the
//! packed lower triangle of H is in f64 whatever the captures' type: then no reference is needed. Either the Gram matrix of J's rows, which are formed
//! some spectra at a time, or, where that takes fewer operations and each layer's weights are at one position, products of [`pairs`].

use std::ops::Range;

use fisherflow_kernels::Products;
use fisherflow_network::{DenseShape, LayerCapture};

use crate::captured_rows::{capture_of, values_f64, whitened_gradients};
use crate::packed::{packed_len, row_of};
use crate::pairs::{self, add_pairs};
use crate::products::add_gram;
use crate::row_by_row::Symmetric;
use crate::squared_gradients::shared_rows_flops;
use crate::structure::{CurvatureByRow, Structure, check_finite, check_sums};
use crate::{BlockCurvature, BlockPlan, BlockSums, CurvatureError, CurvatureForm, LabelPrecision};

/// Number of values of Jacobian rows formed at once (32 MiB): more spectra at once for a small block, one for a very large one.
const ROWS_AT_ONCE: usize = 1 << 22;

/// The exact dense structure of one or several layers.
pub(crate) struct Dense {
    plan: BlockPlan,
    n_labels: usize,
    products: Products,
}

/// A layer over a batch, in f64.
pub(crate) struct LayerBatch {
    pub inputs: usize,
    pub outputs: usize,
    pub bias: bool,
    pub shared: usize,
    /// `a [batch, shared, in]`.
    pub input: Vec<f64>,
    /// Whitened g, `[batch, shared, K, out]`.
    pub gradients: Vec<f64>,
}

impl Dense {
    pub(crate) fn new(plan: &BlockPlan, n_labels: usize, products: Products) -> Self {
        Self {
            plan: plan.clone(),
            n_labels,
            products,
        }
    }

    /// Operations of one spectrum by the rows of J, those that form them included where positions share weights.
    fn flops_of_rows(&self) -> f64 {
        let formed = self
            .plan
            .shapes
            .iter()
            .map(|shape| shared_rows_flops(shape, self.n_labels));
        2.0 * self.n_labels as f64 * self.sums_len() as f64 + formed.sum::<f64>()
    }

    /// Operations of one spectrum by pairs; `None` where rows are taken.
    fn flops_of_pairs(&self) -> Option<f64> {
        let shapes = self.plan.shapes.iter();
        let one_position = shapes.clone().all(|shape| shape.shared == 1);
        let (products, with_pairs) = pairs::flops(shapes.map(|shape| (shape.outputs, shape.columns())));
        (one_position && with_pairs < self.flops_of_rows()).then_some(products)
    }
}

impl Structure for Dense {
    fn plan(&self) -> &BlockPlan {
        &self.plan
    }

    fn sums_len(&self) -> usize {
        packed_len(self.plan.n_weights())
    }

    fn add_batch(
        &self,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
        sums: &mut [f64],
    ) -> Result<(), CurvatureError> {
        let batch = precision.batch();
        precision.check(self.n_labels, batch)?;
        let shapes = self.plan.layers.iter().zip(&self.plan.shapes);
        let layers = shapes
            .map(|(&layer, shape)| LayerBatch::new(layer, shape, captures, precision))
            .collect::<Result<Vec<_>, _>>()?;
        if self.flops_of_pairs().is_some() {
            add_pairs(&layers, self.n_labels, sums, self.products);
            return Ok(());
        }
        let width = self.plan.n_weights();
        let at_once = (ROWS_AT_ONCE / (self.n_labels * width).max(1)).clamp(1, batch.max(1));
        let mut rows = Vec::with_capacity(at_once * self.n_labels * width);
        for first in (0..batch).step_by(at_once) {
            rows.clear();
            for row in first * self.n_labels..batch.min(first + at_once) * self.n_labels {
                for layer in &layers {
                    layer.push_row(row, self.n_labels, &mut rows);
                }
            }
            add_gram(&rows, width, sums, self.products);
        }
        Ok(())
    }

    fn curvature_by_row<'a>(&'a self, sums: &'a BlockSums) -> Result<CurvatureByRow<'a>, CurvatureError> {
        check_sums(self, sums)?;
        check_finite(&self.plan, "matrix", &sums.sums, row_of, sums.n_spectra)?;
        let (stride, splits) = (self.plan.shapes[0].columns(), self.plan.options.split_bias);
        let has_bias = self.plan.shapes[0].bias;
        let is_bias = move |weight: usize| has_bias && weight % stride == stride - 1;
        let hessian = Symmetric::new(
            &sums.sums,
            self.plan.n_weights(),
            move |row, columns: Range<usize>, packed: &[f64], to: &mut [f64]| {
                to.copy_from_slice(packed);
                if splits {
                    let apart = columns.zip(to).filter(|(column, _)| is_bias(row) != is_bias(*column));
                    apart.for_each(|(_, value)| *value = 0.0);
                }
            },
        );
        Ok(BlockCurvature {
            n_spectra: sums.n_spectra,
            form: CurvatureForm::Dense(Box::new(hessian)),
        })
    }

    fn flops(&self, n_spectra: u64) -> f64 {
        n_spectra as f64 * self.flops_of_pairs().unwrap_or_else(|| self.flops_of_rows())
    }
}

impl LayerBatch {
    /// Of one of the layers that `captures` are of.
    pub(crate) fn new(
        layer: usize,
        shape: &DenseShape,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
    ) -> Result<Self, CurvatureError> {
        let capture = capture_of(captures, layer, shape, precision.n_labels, precision.batch())?;
        let gradients = values_f64(&capture.output_grad, shape)?;
        Ok(Self {
            inputs: shape.inputs,
            outputs: shape.outputs,
            bias: shape.bias,
            shared: shape.shared,
            input: values_f64(&capture.input, shape)?,
            gradients: whitened_gradients(&gradients, shape.outputs, precision, None).into_vec(),
        })
    }

    pub(crate) fn columns(&self) -> usize {
        self.inputs + usize::from(self.bias)
    }

    /// Appends `sum_t g_t (x) [a_t; 1]` (without a bias, `sum_t g_t (x) a_t`), with the whitened gradients of `row` = spectrum * K + j.
    pub(crate) fn push_row(&self, row: usize, n_labels: usize, rows: &mut Vec<f64>) {
        let (spectrum, label) = (row / n_labels, row % n_labels);
        let first = rows.len();
        for position in spectrum * self.shared..(spectrum + 1) * self.shared {
            let input = &self.input[position * self.inputs..][..self.inputs];
            let gradient = &self.gradients[(position * n_labels + label) * self.outputs..][..self.outputs];
            if rows.len() == first {
                for g in gradient {
                    rows.extend(input.iter().map(|a| g * a));
                    rows.extend(self.bias.then_some(*g));
                }
            } else {
                for (row, g) in rows[first..].chunks_exact_mut(self.columns()).zip(gradient) {
                    for (to, a) in row.iter_mut().zip(input) {
                        *to += g * a;
                    }
                    if self.bias {
                        row[self.inputs] += g;
                    }
                }
            }
        }
    }
}
