//! The diagonal of the curvature of one layer: `diag(H)[o, i] = sum_n (sum_kl Lam_n,kl g_k,o g_l,o) [a; 1]_i^2`.
//!
//! With whitened gradients the inner sum is a sum of K squares, so the whole is a product of squares: all terms are positive, no reference is
//! needed, and the product may be taken in the captures' type. Batches are added in f64; the bias column is summed in f64 alone. Where positions
//! of a spectrum share the weights, its gradient is formed and squared weight by weight.

use candle_core::DType;
use fisherflow_kernels::Products;
use fisherflow_network::LayerCapture;
use fisherflow_network::scratch::Number;

use crate::captured_rows::{only_layer, values, whitened_gradients};
use crate::products::add_cross_with_squares;
use crate::row_by_row::Borrowed;
use crate::squared_gradients::{Sizes, add_squared_gradients, shared_rows_flops, sums_of_squares};
use crate::structure::{CurvatureByRow, Structure, check_finite, check_sums};
use crate::{BlockCurvature, BlockPlan, BlockSums, CurvatureError, CurvatureForm, LabelPrecision};

/// The diagonal structure of one layer. Its sums are `[out, columns]`, the bias last where there is one.
pub(crate) struct Diagonal {
    plan: BlockPlan,
    n_labels: usize,
    products: Products,
}

impl Diagonal {
    pub(crate) fn new(plan: &BlockPlan, n_labels: usize, products: Products) -> Self {
        Self {
            plan: plan.clone(),
            n_labels,
            products,
        }
    }

    /// The layer's capture, checked together with the precision.
    pub(crate) fn check<'c>(
        &self,
        captures: &'c [LayerCapture],
        precision: &LabelPrecision,
    ) -> Result<&'c LayerCapture, CurvatureError> {
        only_layer(&self.plan, captures, precision, self.n_labels)
    }

    /// Adds a batch whose captures are of type `T`.
    fn add<T: Number>(
        &self,
        capture: &LayerCapture,
        precision: &LabelPrecision,
        sums: &mut [f64],
    ) -> Result<(), CurvatureError> {
        let shape = &self.plan.shapes[0];
        let (outputs, stride) = (shape.outputs, shape.columns());
        let input: Vec<T> = values(&capture.input, shape)?;
        let gradients: Vec<T> = values(&capture.output_grad, shape)?;
        let whitened = whitened_gradients(&gradients, outputs, precision, None);
        drop(gradients);
        if shape.shared > 1 {
            let mut with_one = Vec::with_capacity(input.len() / shape.inputs * stride);
            for row in input.chunks_exact(shape.inputs) {
                with_one.extend_from_slice(row);
                with_one.extend(shape.bias.then(T::one_impl));
            }
            let sizes = Sizes {
                shared: shape.shared,
                n_labels: self.n_labels,
                inputs: stride,
                outputs,
            };
            add_squared_gradients(&with_one, &whitened, sizes, sums, self.products);
            return Ok(());
        }
        let squares = sums_of_squares(&whitened, self.n_labels, outputs);
        for square in squares.chunks_exact(outputs).filter(|_| shape.bias) {
            for (row, square) in sums.chunks_exact_mut(stride).zip(square) {
                row[shape.inputs] += square;
            }
        }
        let squares: Vec<T> = squares.into_iter().map(T::from_f64).collect();
        add_cross_with_squares(&squares, outputs, &input, shape.inputs, sums, stride, self.products);
        Ok(())
    }
}

impl Structure for Diagonal {
    fn plan(&self) -> &BlockPlan {
        &self.plan
    }

    fn sums_len(&self) -> usize {
        self.plan.n_weights()
    }

    fn add_batch(
        &self,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
        sums: &mut [f64],
    ) -> Result<(), CurvatureError> {
        let capture = self.check(captures, precision)?;
        match capture.input.dtype() {
            DType::F32 => self.add::<f32>(capture, precision, sums),
            _ => self.add::<f64>(capture, precision, sums),
        }
    }

    fn curvature_by_row<'a>(&'a self, sums: &'a BlockSums) -> Result<CurvatureByRow<'a>, CurvatureError> {
        check_sums(self, sums)?;
        check_finite(&self.plan, "diagonal", &sums.sums, |weight| weight, sums.n_spectra)?;
        let diagonal = Borrowed {
            cols: self.plan.shapes[0].columns(),
            values: &sums.sums,
        };
        Ok(BlockCurvature {
            n_spectra: sums.n_spectra,
            form: CurvatureForm::Diagonal(Box::new(diagonal)),
        })
    }

    fn flops(&self, n_spectra: u64) -> f64 {
        let shape = &self.plan.shapes[0];
        n_spectra as f64
            * if shape.shared > 1 {
                shared_rows_flops(shape, self.n_labels)
            } else {
                2.0 * shape.outputs as f64 * shape.inputs as f64
            }
    }
}
