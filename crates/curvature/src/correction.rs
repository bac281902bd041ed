//! The corrected eigenvalues of a Kronecker-factored layer: the diagonal of its exact block in the eigenbases of its factors, from a second
//! pass over the spectra (EKFAC; George et al. 2018, arXiv:1806.03884).
//!
//! With U of `S_G` and V of `S_A`, `g~_k = U^T g_k` and `a~ = V^T [a; 1]`,
//!
//! `Lambda_ij = sum_n sum_kl Lam_n,kl (sum_t g~_kti a~_tj) (sum_t g~_lti a~_tj)`,
//!
//! a sum of squares of whitened gradients. `[out, columns]`; of all diagonal matrices it is the one that brings `(U (x) V) diag(Lambda) (U (x) V)^T`
//! closest to the block in the Frobenius norm. Inputs are rotated about their reference, `a~ = V^T [a - a0; 0] + V^T [a0; 1]`, the second part in
//! f64; the products are in the captures' type, and added in f64.

use std::sync::{Arc, OnceLock};

use candle_core::DType;
use faer::{MatMut, MatRef};
use fisherflow_kernels::{Packed, Products, RowGroups, Start, multiply, multiply_packed_in_groups};
use fisherflow_network::product::in_wide_registers;
use fisherflow_network::scratch::{Number, Scratch};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::captured_rows::{only_layer, whitened_gradients, with_values};
use crate::row_by_row::Borrowed;
use crate::squared_gradients::{Sizes, add_squared_gradients, shared_rows_flops};
use crate::structure::{CurvatureByRow, Structure, check_finite, check_sums};
use crate::{BlockCurvature, BlockPlan, BlockSums, CurvatureError, CurvatureForm, LabelPrecision, Matrix, References};

/// The eigenbases of a layer's Kronecker factors, in f64; one copy serves all workers of a process.
pub struct KroneckerBases {
    a_vectors: Matrix,
    g_vectors: Matrix,
    /// Both for f32 captures, V without the row of the bias.
    in_f32: OnceLock<[Packed<f32>; 2]>,
}

impl KroneckerBases {
    /// From V, the eigenvectors of `S_A` `[columns, columns]`, and U, those of `S_G` `[out, out]`, one a column.
    #[must_use]
    pub fn new(a_vectors: Matrix, g_vectors: Matrix) -> Self {
        Self {
            a_vectors,
            g_vectors,
            in_f32: OnceLock::new(),
        }
    }

    /// V, `[columns, columns]`.
    #[must_use]
    pub fn a_vectors(&self) -> &Matrix {
        &self.a_vectors
    }

    /// U, `[out, out]`.
    #[must_use]
    pub fn g_vectors(&self) -> &Matrix {
        &self.g_vectors
    }

    fn in_f32(&self, inputs: usize, products: Products) -> &[Packed<f32>; 2] {
        let rounded = |matrix: &Matrix, rows: usize| {
            let values: Vec<f32> = matrix.values[..rows * matrix.cols].iter().map(|&v| v as f32).collect();
            Packed::new(MatRef::from_row_major_slice(&values, rows, matrix.cols), products)
        };
        self.in_f32.get_or_init(|| {
            [
                rounded(&self.a_vectors, inputs),
                rounded(&self.g_vectors, self.g_vectors.rows),
            ]
        })
    }
}

/// The structure that sums the corrected eigenvalues of an `ekfac` block in the `bases` of its factors: the second of its two sums.
///
/// `references` are those of all layers of the network, `n_labels` is K, and `products` is how products are made: on how many threads, at least.
///
/// # Errors
/// References or bases of other sizes than the block's layer.
pub fn correction_of(
    plan: &BlockPlan,
    references: &References,
    bases: Arc<KroneckerBases>,
    n_labels: usize,
    products: impl Into<Products>,
) -> Result<Box<dyn Structure>, CurvatureError> {
    let shape = &plan.shapes[0];
    for (what, vectors, side) in [
        ("eigenvectors of S_A", &bases.a_vectors, shape.columns()),
        ("eigenvectors of S_G", &bases.g_vectors, shape.outputs),
    ] {
        if (vectors.rows, vectors.cols, vectors.values.len()) != (side, side, side * side) {
            return Err(CurvatureError::BasisShape {
                layer: shape.name.clone(),
                what,
                found: [vectors.rows, vectors.cols],
                expected: [side, side],
            });
        }
    }
    let (input_mean, _) = references.of_layer(plan.layers[0], shape, n_labels)?;
    let side = shape.columns();
    let mut rotated_mean = vec![0.0; side];
    for (row, &mean) in bases
        .a_vectors
        .values
        .chunks_exact(side)
        .zip(input_mean.iter().chain([&1.0]))
    {
        for (sum, v) in rotated_mean.iter_mut().zip(row) {
            *sum += mean * v;
        }
    }
    Ok(Box::new(Correction {
        plan: plan.clone(),
        n_labels,
        products: products.into(),
        input_mean: input_mean.to_vec(),
        rotated_mean,
        bases,
    }))
}

/// Bytes of the sums that [`correction_of`] an `ekfac` block adds to.
#[must_use]
pub fn correction_bytes(plan: &BlockPlan) -> u64 {
    8 * plan.n_weights() as u64
}

/// Floating-point operations of the products of [`correction_of`] over `n_spectra` spectra: both rotations at every position, and the product of
/// squares, or the rows of the Jacobian where positions share the weights.
#[must_use]
pub fn correction_flops(plan: &BlockPlan, n_labels: usize, n_spectra: u64) -> f64 {
    let of_layer = |shape: &DenseShape| {
        let (inputs, outputs, columns) = (shape.inputs as f64, shape.outputs as f64, shape.columns() as f64);
        let rotations = 2.0 * shape.shared as f64 * (inputs * columns + n_labels as f64 * outputs * outputs);
        let squares = if shape.shared > 1 {
            shared_rows_flops(shape, n_labels)
        } else {
            2.0 * outputs * columns
        };
        rotations + squares
    };
    n_spectra as f64 * plan.shapes.iter().map(of_layer).sum::<f64>()
}

/// The corrected eigenvalues of one layer. Its sums are `Lambda`, `[out, columns]`.
struct Correction {
    plan: BlockPlan,
    n_labels: usize,
    products: Products,
    /// `a0 [in]`.
    input_mean: Vec<f64>,
    /// `V^T [a0; 1]`, `[columns]`.
    rotated_mean: Vec<f64>,
    bases: Arc<KroneckerBases>,
}

/// Eigenvectors, one a column, as a product takes them.
#[derive(Clone, Copy)]
enum Vectors<'a, T> {
    Plain(&'a [T]),
    Packed(&'a Packed<T>),
}

impl Correction {
    /// Adds a batch whose captures are of type `T`, as are the bases.
    fn add<T: Number>(
        &self,
        capture: &LayerCapture,
        precision: &LabelPrecision,
        a_vectors: Vectors<'_, T>,
        g_vectors: Vectors<'_, T>,
        sums: &mut [f64],
    ) -> Result<(), CurvatureError> {
        let shape = &self.plan.shapes[0];
        let (inputs, outputs, side) = (shape.inputs, shape.outputs, shape.columns());
        let mut input = with_values(&capture.input, shape, |input: &[T]| {
            let mut centred = Scratch::new(input.len());
            in_wide_registers(|| {
                for (to, from) in centred.chunks_exact_mut(inputs).zip(input.chunks_exact(inputs)) {
                    for ((to, from), mean) in to.iter_mut().zip(from).zip(&self.input_mean) {
                        *to = T::from_f64(from.to_f64() - mean);
                    }
                }
            });
            self.rotated(&centred, inputs, a_vectors, 1)
        })?;
        in_wide_registers(|| {
            for row in input.chunks_exact_mut(side) {
                for (value, mean) in row.iter_mut().zip(&self.rotated_mean) {
                    *value = T::from_f64(value.to_f64() + mean);
                }
            }
        });
        let whitened = with_values(&capture.output_grad, shape, |gradients: &[T]| {
            whitened_gradients(gradients, outputs, precision, None)
        })?;
        let whitened = self.rotated(&whitened, outputs, g_vectors, self.n_labels);
        let sizes = Sizes {
            shared: shape.shared,
            n_labels: self.n_labels,
            inputs: side,
            outputs,
        };
        add_squared_gradients(&input, &whitened, sizes, sums, self.products);
        Ok(())
    }

    /// `rows vectors`: rows of `width` values times vectors `[width, columns]`, `of_each` rows of every position of every spectrum.
    fn rotated<T: Number>(&self, rows: &[T], width: usize, vectors: Vectors<'_, T>, of_each: usize) -> Scratch<T> {
        let (n, threads) = (rows.len() / width, self.products.threads);
        let side = match vectors {
            Vectors::Packed(vectors) => vectors.cols(),
            Vectors::Plain(vectors) => vectors.len() / width,
        };
        let mut rotated = Scratch::new(n * side);
        let to = MatMut::from_row_major_slice_mut(&mut rotated, n, side);
        let rows = MatRef::from_row_major_slice(rows, n, width);
        match vectors {
            Vectors::Packed(vectors) => {
                // Those of a position are 0 behind the same ReLUs, and follow one another.
                let groups = RowGroups::Together(of_each);
                multiply_packed_in_groups(to, Start::Zero, rows, groups, vectors, threads);
            }
            Vectors::Plain(vectors) => {
                let vectors = MatRef::from_row_major_slice(vectors, width, side);
                multiply(to, Start::Zero, rows, vectors, self.products);
            }
        }
        rotated
    }
}

impl Structure for Correction {
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
        let capture = only_layer(&self.plan, captures, precision, self.n_labels)?;
        match capture.input.dtype() {
            DType::F32 => {
                let [a_vectors, g_vectors] = self.bases.in_f32(self.plan.shapes[0].inputs, self.products);
                let (a_vectors, g_vectors) = (Vectors::Packed(a_vectors), Vectors::Packed(g_vectors));
                self.add(capture, precision, a_vectors, g_vectors, sums)
            }
            _ => {
                let inputs = self.plan.shapes[0].inputs * self.bases.a_vectors.cols;
                let a_vectors = Vectors::Plain(&self.bases.a_vectors.values[..inputs]);
                let g_vectors = Vectors::Plain(&self.bases.g_vectors.values);
                self.add(capture, precision, a_vectors, g_vectors, sums)
            }
        }
    }

    fn curvature_by_row<'a>(&'a self, sums: &'a BlockSums) -> Result<CurvatureByRow<'a>, CurvatureError> {
        check_sums(self, sums)?;
        let part = "corrected eigenvalues";
        check_finite(&self.plan, part, &sums.sums, |weight| weight, sums.n_spectra)?;
        let eigenvalues = Borrowed {
            cols: self.plan.shapes[0].columns(),
            values: &sums.sums,
        };
        Ok(BlockCurvature {
            n_spectra: sums.n_spectra,
            form: CurvatureForm::Eigenbasis {
                a_vectors: Box::new(Borrowed::of(&self.bases.a_vectors)),
                g_vectors: Box::new(Borrowed::of(&self.bases.g_vectors)),
                eigenvalues: Box::new(eigenvalues),
            },
        })
    }

    fn flops(&self, n_spectra: u64) -> f64 {
        correction_flops(&self.plan, self.n_labels, n_spectra)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{BlockOptions, StructureKind, plan_blocks};

    /// What is 0 in all gradients of a spectrum is left out of their rotation: seen by a number that is none beside a unit that is off for all spectra.
    #[test]
    fn gradients_of_a_spectrum_are_rotated_together() {
        let (k, batch, inputs, outputs, off) = (3, 32, 4, 64, 5);
        let shape = DenseShape {
            name: "layers.0".to_owned(),
            inputs,
            outputs,
            bias: true,
            shared: 1,
        };
        let shapes = std::slice::from_ref(&shape);
        let plans = plan_blocks(
            shapes,
            StructureKind::Ekfac,
            &Default::default(),
            BlockOptions::default(),
        )
        .unwrap();
        let identity = |side: usize| Matrix {
            rows: side,
            cols: side,
            values: (0..side * side)
                .map(|at| f64::from(u8::from(at / side == at % side)))
                .collect(),
        };
        let mut g_vectors = identity(outputs);
        g_vectors.values[off * outputs + 7] = f64::NAN;
        let bases = Arc::new(KroneckerBases::new(identity(inputs + 1), g_vectors));
        let correction = correction_of(&plans[0], &References::zero(shapes, k), bases, k, 1).unwrap();

        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let is_on: Vec<bool> = (0..batch * outputs)
            .map(|at| at % outputs != off && rng.random_bool(0.5))
            .collect();
        let gradients: Vec<f32> = (0..k * batch * outputs)
            .map(|at| {
                let x = rng.random_range(0.5..1.0);
                if is_on[at % (batch * outputs)] { x } else { 0.0 }
            })
            .collect();
        let capture = LayerCapture {
            layer: 0,
            input: Tensor::ones((batch, 1, inputs), DType::F32, &Device::Cpu).unwrap(),
            output_grad: Tensor::from_vec(gradients, (k, batch, 1, outputs), &Device::Cpu).unwrap(),
        };
        let precision = LabelPrecision::constant(&identity(k).values, batch).unwrap();
        let mut sums = correction.empty().unwrap();
        correction.accumulate(&[capture], &precision, &mut sums).unwrap();
        assert!(sums.sums.iter().all(|sum| sum.is_finite()));
    }
}
