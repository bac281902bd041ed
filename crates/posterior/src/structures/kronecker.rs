//! A Kronecker-factored block: `P = (U (x) V) diag(lambda_ij + delta) (U (x) V)^T` in the eigenbases of its factors (exact damping).
//!
//! With the eigenvectors V of `S_A` and U of `S_G`, and the eigenvalues `lambda_ij` of [`Eigenbasis`],
//!
//! ```text
//! P^-1 = (U (x) V) diag(1 / (lambda_ij + delta)) (U (x) V)^T
//! a~ = V^T [a; 1],   g~_k = U^T g_k,   h_i = sum_j a~_j^2 / (lambda_ij + delta)
//! (J P^-1 J^T)_kl = sum_i g~_ki g~_li h_i
//! ```
//!
//! so `J_theta` is never formed: two rotations and one more product a batch, in the captures' type; the last sum is f64. The third product has few
//! columns where `lambda` is the factors' product (stieltjes.rs), and the larger rotation may be made in shorter numbers (input_side.rs). (George et al.
//! 2018, arXiv:1806.03884, for the eigenbasis; Martens and Grosse 2015 for the factors.) The eigenproblems are f64.
//!
//! What f32 makes of `h_i` needs no check: no term is negative, so none cancels whatever the eigenvalues, and its relative error is at most that of
//! some 290 roundings for 7,214 columns (a chain of 256, one for each chain, and three of a term), 2e-5.
//!
//! Memory: the eigenvectors once in f64; the first batch of f32 captures adds copies of them, packed for products, and either type
//! `1 / (lambda + delta)`.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use faer::MatRef;
use fisherflow_curvature::{BlockPlan, Matrix};
use fisherflow_kernels::{Packed, Products};
use fisherflow_network::scratch::{Number, Scratch};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::certificate::kronecker_probes;
use crate::labels::predictive::WeightsPart;
use crate::labels::weighted_gram::weighted_gram_elsewhere;
use crate::product::{Right, as_f32, product, product_of_gradients, rows};
use crate::structures::block_info::Certificate;
use crate::structures::captures::{Sides, Wanted, with_values};
use crate::structures::contraction::{contract, contract_read_off, covariance};
use crate::structures::eigenbasis::{Eigenbasis, check_seen};
use crate::structures::elements::{check_vector, check_weights, in_eigenbases};
use crate::structures::input_side::{InputSide, Rotation, Vectors, Weights};
use crate::structures::matrices::single_layer;
use crate::structures::stieltjes::{Points, Reading};
use crate::{BlockInfo, NamedMatrix, PosteriorError, Precision, Probe};

/// How many rows of squared eigenvectors the marginal variance holds at a time.
const MARGINAL_ROWS: usize = 256;

/// A block in the eigenbases of its factors, and its prior.
pub(crate) struct KroneckerPrecision {
    index: usize,
    shape: DenseShape,
    info: BlockInfo,
    eigenbasis: Eigenbasis,
    products: Products,
    in_f32: OnceLock<InF32>,
    /// For captures that are elsewhere.
    on_device: OnceLock<OnDevice>,
    /// `1 / (lambda + delta)`, `[columns, out]`, for f64 captures.
    inverse_f64: OnceLock<Vec<f64>>,
}

/// What f32 captures are multiplied by, packed for products.
struct InF32 {
    g_vectors: Packed<f32>,
    inputs: InputsInF32,
}

enum InputsInF32 {
    /// One position a spectrum; with the readings where the values at few points tell `h_i` of all directions of the gradients.
    One(InputSide, Option<Vec<Reading<f32>>>),
    /// Positions share the weights: V, and `1 / (lambda + delta)`, `[columns, out]`.
    Shared(Rotation, Vec<f32>),
}

/// What captures on another device are multiplied by, there and in their type.
struct OnDevice {
    /// V, without the row of the bias: `[in, columns]`.
    a_vectors: Tensor,
    /// V's row of the bias, `[1, columns]`; none: there is no bias.
    bias_row: Option<Tensor>,
    /// U, `[out, out]`.
    g_vectors: Tensor,
    /// `1 / (lambda + delta)`, `[columns, out]`.
    inverse: Tensor,
}

impl KroneckerPrecision {
    /// Adds the prior to the eigenvalues.
    pub(crate) fn with_prior(
        plan: &BlockPlan,
        n_spectra: u64,
        eigenbasis: Eigenbasis,
        prior_precision: f64,
        products: Products,
    ) -> Result<Self, PosteriorError> {
        let (smallest, largest) = eigenbasis.ends();
        check_seen(plan, (smallest, largest), prior_precision)?;
        let (mut log_det, mut effective_parameters) = (0.0, 0.0);
        for i in 0..eigenbasis.sides().1 {
            let (mut row_log_det, mut row_effective) = (0.0, 0.0);
            for lambda in eigenbasis.row(i) {
                row_log_det += (lambda + prior_precision).ln();
                row_effective += lambda / (lambda + prior_precision);
            }
            log_det += row_log_det;
            effective_parameters += row_effective;
        }
        let (smallest, largest) = (smallest + prior_precision, largest + prior_precision);
        let certificate = Certificate {
            log_det,
            effective_parameters,
            eigenvalues: Some((smallest, largest)),
            condition: largest / smallest,
            clipped_eigenvalues: eigenbasis.clipped,
            most_negative_eigenvalue: eigenbasis.most_negative,
        };
        let mut info = BlockInfo::new(plan, n_spectra, prior_precision, certificate);
        info.n_terms = eigenbasis.n_terms().unwrap_or(n_spectra);
        Self::new(plan, eigenbasis, info, products)
    }

    /// From an eigenbasis whose facts are known.
    pub(crate) fn new(
        plan: &BlockPlan,
        eigenbasis: Eigenbasis,
        info: BlockInfo,
        products: Products,
    ) -> Result<Self, PosteriorError> {
        Ok(Self {
            index: plan.layers.first().copied().unwrap_or_default(),
            shape: single_layer(plan)?.clone(),
            info,
            eigenbasis,
            products,
            in_f32: OnceLock::new(),
            on_device: OnceLock::new(),
            inverse_f64: OnceLock::new(),
        })
    }

    /// The points that tell `h_i` of all i, `s_j` and `t_i / n_terms`, where the eigenvalues are their products and the points are few.
    fn few_points(&self) -> Option<(Points, &[f64], Vec<f64>)> {
        let (s, t) = self.eigenbasis.product()?;
        Some((Points::few(s, &t, self.info.prior_precision)?, s, t))
    }

    fn in_f32(&self) -> InF32 {
        let (delta, threads) = (self.info.prior_precision, self.products.threads);
        let outputs = self.shape.outputs;
        let side = |values: &[f32], in_order| {
            let weights = Weights { values, in_order };
            InputSide::new(self.vectors(), &self.eigenbasis.sizes(), weights, self.products)
        };
        let inputs = if self.shape.shared > 1 {
            let rotation = Rotation::new(self.vectors(), &self.eigenbasis.sizes(), threads);
            InputsInF32::Shared(rotation, self.eigenbasis.inverse(delta))
        } else if let Some((points, s, t)) = self.few_points() {
            let readings = t.iter().map(|t| points.reading(t / delta, 1.0 / delta));
            InputsInF32::One(side(&points.inverse(s), true), Some(readings.collect()))
        } else {
            let in_order = self.eigenbasis.factors().is_some();
            InputsInF32::One(side(&self.eigenbasis.inverse(delta), in_order), None)
        };
        InF32 {
            g_vectors: Packed::new(rows(&as_f32(&self.eigenbasis.g_vectors), outputs, outputs), threads),
            inputs,
        }
    }

    fn covariance_in_f32(&self, capture: &LayerCapture) -> Result<WeightsPart, PosteriorError> {
        let (own, threads) = (self.in_f32.get_or_init(|| self.in_f32()), self.products.threads);
        let grad = self.rotated_gradients(capture, Right::Packed(&own.g_vectors))?;
        let size @ (batch, _) = (capture.input.dims()[0], capture.output_grad.dims()[0]);
        with_values(&capture.input.contiguous()?, |a: &[f32]| match &own.inputs {
            InputsInF32::Shared(rotation, inverse) => {
                let input = rotation.rotated(a, batch * self.shape.shared);
                covariance(&self.sides(size, input, grad), inverse, threads).into()
            }
            InputsInF32::One(side, readings) => {
                let (sums, in_f32) = side.weighted_squares(a, batch, self.vectors());
                let covariance = match readings {
                    Some(readings) => contract_read_off(&sums, size, &grad, readings),
                    None => contract(&sums, size, &grad),
                };
                WeightsPart { covariance, in_f32 }
            }
        })
    }

    fn covariance_in_f64(&self, capture: &LayerCapture) -> Result<Vec<f64>, PosteriorError> {
        let ((columns, outputs), threads) = (self.eigenbasis.sides(), self.products.threads);
        let inverse = self
            .inverse_f64
            .get_or_init(|| self.eigenbasis.inverse(self.info.prior_precision));
        let (inputs, size) = (
            self.shape.inputs,
            (capture.input.dims()[0], capture.output_grad.dims()[0]),
        );
        let (vectors, bias_row) = self.eigenbasis.a_vectors.split_at(inputs * columns);
        let bias_row = self.shape.bias.then_some(bias_row);
        let grad = self.rotated_gradients(
            capture,
            Right::Plain(rows(&self.eigenbasis.g_vectors, outputs, outputs)),
        )?;
        let input = with_values(&capture.input.contiguous()?, |a: &[f64]| {
            let a = rows(a, size.0 * self.shape.shared, inputs);
            Right::Plain(rows(vectors, inputs, columns)).product(a, bias_row, threads)
        })?;
        Ok(covariance(&self.sides(size, input, grad), inverse, threads))
    }

    /// `U^T g`, `[K, batch, shared, out]`.
    fn rotated_gradients<T: Number>(
        &self,
        capture: &LayerCapture,
        vectors: Right<'_, T>,
    ) -> Result<Scratch<T>, PosteriorError> {
        let outputs = self.shape.outputs;
        with_values(&capture.output_grad.contiguous()?, |g: &[T]| {
            let (g, threads) = (rows(g, g.len() / outputs, outputs), self.products.threads);
            match vectors {
                Right::Packed(vectors) => {
                    let spectra_and_positions = g.nrows() / capture.output_grad.dims()[0].max(1);
                    product_of_gradients(g, spectra_and_positions, vectors, threads)
                }
                Right::Plain(_) => vectors.product(g, None, threads),
            }
        })
    }

    fn sides<T: Number>(&self, (batch, n_outputs): (usize, usize), input: Scratch<T>, grad: Scratch<T>) -> Sides<T> {
        Sides {
            batch,
            shared: self.shape.shared,
            n_outputs,
            input,
            grad,
        }
    }

    /// U and V, f64.
    fn bases(&self) -> (MatRef<'_, f64>, MatRef<'_, f64>) {
        let (inputs, outputs) = self.eigenbasis.sides();
        (
            rows(&self.eigenbasis.g_vectors, outputs, outputs),
            rows(&self.eigenbasis.a_vectors, inputs, inputs),
        )
    }

    /// `U^T v V` of a vector over the weights, as a matrix `[out, columns]`.
    fn turned(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError> {
        let (inputs, outputs) = self.eigenbasis.sides();
        check_vector(&self.info, v)?;
        let (u, vectors) = self.bases();
        let turned = product(u.transpose(), rows(v, outputs, inputs), self.products.threads);
        Ok(product(rows(&turned, outputs, inputs), vectors, self.products.threads))
    }

    fn vectors(&self) -> Vectors<'_> {
        Vectors {
            values: &self.eigenbasis.a_vectors,
            columns: self.eigenbasis.sides().0,
        }
    }
}

impl KroneckerPrecision {
    /// `V: [batch, K, K]` of a capture on whatever device, whose weights no positions share, by candle's own products.
    fn covariance_elsewhere(&self, capture: &LayerCapture) -> candle_core::Result<Vec<f64>> {
        let by = match self.on_device.get() {
            Some(known) => known,
            None => {
                let new = self.on(capture.input.device(), capture.input.dtype())?;
                self.on_device.get_or_init(|| new)
            }
        };
        let mut input = capture.input.squeeze(1)?.matmul(&by.a_vectors)?;
        if let Some(row) = &by.bias_row {
            input = input.broadcast_add(row)?;
        }
        let weights = input.sqr()?.matmul(&by.inverse)?;
        let (k, batch, _, outputs) = capture.output_grad.dims4()?;
        let grad = capture
            .output_grad
            .reshape((k * batch, outputs))?
            .matmul(&by.g_vectors)?;
        weighted_gram_elsewhere(&grad.reshape((k, batch, outputs))?, &weights)
    }

    fn on(&self, device: &Device, dtype: DType) -> candle_core::Result<OnDevice> {
        let (columns, outputs) = self.eigenbasis.sides();
        let of = |values: &[f64], shape: (usize, usize)| match dtype {
            DType::F32 => Tensor::from_vec(as_f32(values), shape, device),
            _ => Tensor::from_slice(values, shape, device)?.to_dtype(dtype),
        };
        let inputs = self.shape.inputs;
        let (a_vectors, bias_row) = self.eigenbasis.a_vectors.split_at(inputs * columns);
        let inverse: Vec<f64> = self.eigenbasis.inverse(self.info.prior_precision);
        Ok(OnDevice {
            a_vectors: of(a_vectors, (inputs, columns))?,
            bias_row: self.shape.bias.then(|| of(bias_row, (1, columns))).transpose()?,
            g_vectors: of(&self.eigenbasis.g_vectors, (outputs, outputs))?,
            inverse: of(&inverse, (columns, outputs))?,
        })
    }
}

impl Precision for KroneckerPrecision {
    fn solve(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError> {
        let (inputs, outputs) = self.eigenbasis.sides();
        // With v as a matrix [out, columns]: U ((U^T v V) / (lambda + delta)) V^T.
        let mut turned = self.turned(v)?;
        for (i, row) in turned.chunks_exact_mut(inputs).enumerate() {
            for (x, lambda) in row.iter_mut().zip(self.eigenbasis.row(i)) {
                *x /= lambda + self.info.prior_precision;
            }
        }
        let (u, vectors) = self.bases();
        let back = product(
            rows(&turned, outputs, inputs),
            vectors.transpose(),
            self.products.threads,
        );
        Ok(product(u, rows(&back, outputs, inputs), self.products.threads))
    }

    /// In the eigenbases alone: half the products of [`solve`](Self::solve), and no term is negative.
    fn quadratic(&self, v: &[f64]) -> Result<f64, PosteriorError> {
        let turned = self.turned(v)?;
        let of_row = |(i, row): (usize, &[f64])| -> f64 {
            let terms = row.iter().zip(self.eigenbasis.row(i));
            terms
                .map(|(x, lambda)| x * x / (lambda + self.info.prior_precision))
                .sum()
        };
        Ok(turned
            .chunks_exact(self.eigenbasis.sides().0)
            .enumerate()
            .map(of_row)
            .sum())
    }

    fn elements(&self, rows: &[usize], cols: &[usize]) -> Result<Matrix, PosteriorError> {
        check_weights(&self.info, rows.iter().chain(cols))?;
        let basis = &self.eigenbasis;
        let (outputs, inverse) = (basis.sides().1, basis.inverse::<f64>(self.info.prior_precision));
        let inverse = |i: usize, j: usize| inverse[j * outputs + i];
        Ok(in_eigenbases(&basis.g_vectors, &basis.a_vectors, inverse, rows, cols))
    }

    fn covariance_of(&self, captures: &[LayerCapture]) -> Result<Vec<f64>, PosteriorError> {
        Ok(self.weights_part(captures)?.covariance)
    }

    fn weights_part(&self, captures: &[LayerCapture]) -> Result<WeightsPart, PosteriorError> {
        let wanted = Wanted {
            index: self.index,
            shape: &self.shape,
        };
        let capture = wanted.find(captures)?;
        if !capture.input.device().is_cpu() && self.shape.shared == 1 {
            return Ok(self.covariance_elsewhere(capture)?.into());
        }
        match capture.input.dtype() {
            DType::F32 => self.covariance_in_f32(capture),
            _ => Ok(self.covariance_in_f64(capture)?.into()),
        }
    }

    fn marginal_variance(&self) -> Result<Vec<Matrix>, PosteriorError> {
        // var_oj = sum_i U_oi^2 (sum_m V_jm^2 / (lambda_im + delta)), a tile of j at a time.
        let (inputs, outputs) = self.eigenbasis.sides();
        let squares = |values: &[f64]| values.iter().map(|v| v * v).collect::<Vec<_>>();
        let u2 = squares(&self.eigenbasis.g_vectors);
        let prior_precision = self.info.prior_precision;
        let (u2, inverse, width) = match self.few_points() {
            // The inner sum at points alone, and what is read off them summed over i first.
            Some((points, s, t)) => {
                let mut weights = vec![0.0; outputs * points.len()];
                for (t, row) in t.iter().zip(weights.chunks_exact_mut(points.len())) {
                    let reading = points.reading(t / prior_precision, 1.0 / prior_precision);
                    reading.write(row);
                }
                let weights = rows(&weights, outputs, points.len());
                let u2 = product(rows(&u2, outputs, outputs), weights, self.products.threads);
                (u2, points.inverse(s), points.len())
            }
            None => (u2, self.eigenbasis.inverse(prior_precision), outputs),
        };
        let mut values = vec![0.0; outputs * inputs];
        for start in (0..inputs).step_by(MARGINAL_ROWS) {
            let len = MARGINAL_ROWS.min(inputs - start);
            let v2 = squares(&self.eigenbasis.a_vectors[start * inputs..(start + len) * inputs]);
            let inner = product(
                rows(&v2, len, inputs),
                rows(&inverse, inputs, width),
                self.products.threads,
            );
            let tile = product(
                rows(&u2, outputs, width),
                rows(&inner, len, width).transpose(),
                self.products.threads,
            );
            for (row, from) in values.chunks_exact_mut(inputs).zip(tile.chunks_exact(len)) {
                row[start..start + len].copy_from_slice(from);
            }
        }
        Ok(vec![Matrix {
            rows: outputs,
            cols: inputs,
            values,
        }])
    }

    fn inverse_matrices(&self) -> Result<Vec<NamedMatrix>, PosteriorError> {
        Ok(self.eigenbasis.matrices(&self.shape.name))
    }

    fn probes(&self, plan: &BlockPlan, stars: &[LayerCapture]) -> Result<Vec<Probe>, PosteriorError> {
        if plan.options.split_bias {
            return Ok(Vec::new());
        }
        let wanted = Wanted {
            index: self.index,
            shape: &self.shape,
        };
        kronecker_probes(
            &wanted,
            &self.eigenbasis,
            self.info.prior_precision,
            stars,
            self.products.threads,
        )
    }

    fn info(&self) -> &BlockInfo {
        &self.info
    }
}

#[cfg(test)]
mod tests {
    use fisherflow_curvature::{CurvatureForm, StructureKind};

    use super::*;
    use crate::Factor;
    use crate::brute_force::{Mlp, inverse, predictive, relative_error, with_prior};
    use crate::eigen::decompose;
    use crate::structures::cases::{K, PRIOR, case, draw, matrix, plan, small};

    /// What a GPU is given, here on the CPU, against the dense inverse.
    #[test]
    fn covariance_by_candle_is_j_m_jt() {
        let (mlp, training) = small();
        let x = draw(6 * 9, 5);
        for layer in 0..3 {
            let case = case(&mlp, &training, StructureKind::Kfac, &[layer]);
            let (m, _) = inverse(&with_prior(case.h.clone(), PRIOR));
            let expected = predictive(&mlp.jacobian(&x, &[layer]), &m, K);
            let CurvatureForm::Kronecker { a, g } = case.curvature.form else {
                panic!("kfac is held as factors");
            };
            let pairs = |matrix, factor| decompose(matrix, "test", factor, 1).unwrap();
            let (a, g) = (pairs(a, Factor::KronA), pairs(g, Factor::KronG));
            for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
                let basis = Eigenbasis::of_factors(a.clone(), g.clone(), 20);
                let precision = KroneckerPrecision::with_prior(&case.plan, 20, basis, PRIOR, 1.into()).unwrap();
                let captures = mlp.captures(&x, dtype);
                let found = precision.covariance_elsewhere(&captures[layer]).unwrap();
                let error = relative_error(&found, &expected);
                assert!(error < tolerance, "layer {layer} {dtype:?}: {error:e}");
            }
        }
    }

    /// A wide layer, whose `h_i` are read off few points, against the sums over all eigenvalues in f64.
    #[test]
    fn few_points_tell_what_all_eigenvalues_do() {
        let (columns, outputs, n) = (13, 700, 40);
        let mlp = Mlp::random(&[columns - 1, outputs, K], 51);
        let plan = plan(&mlp, StructureKind::Kfac, &[0]);
        let (a, g) = mlp.factors(&draw((columns - 1) * n, 52), 0);
        let pairs = |values, size, factor| decompose(matrix(size, values), "test", factor, 1).unwrap();
        let basis = || {
            let (a, g) = (
                pairs(a.clone(), columns, Factor::KronA),
                pairs(g.clone(), outputs, Factor::KronG),
            );
            Eigenbasis::of_factors(a, g, n as u64)
        };
        let x = draw((columns - 1) * 9, 53);
        for prior in [1e-4, PRIOR, 50.0] {
            let precision = KroneckerPrecision::with_prior(&plan, n as u64, basis(), prior, 1.into()).unwrap();
            assert!(precision.few_points().is_some());
            let (exact, found) = (DType::F64, DType::F32);
            let [exact, found] = [exact, found].map(|dtype| precision.covariance_of(&mlp.captures(&x, dtype)).unwrap());
            for (exact, found) in exact.chunks_exact(K * K).zip(found.chunks_exact(K * K)) {
                let error = relative_error(found, exact);
                assert!(error < 2e-6, "prior {prior}: {error:e}");
            }
            let (u, v) = (&precision.eigenbasis.g_vectors, &precision.eigenbasis.a_vectors);
            let variance = precision.marginal_variance().unwrap().remove(0);
            for (o, j) in [(0, 0), (3, 7), (699, 12), (400, 5)] {
                let of = |i: usize| -> f64 {
                    let inner = precision.eigenbasis.row(i).enumerate();
                    let inner: f64 = inner
                        .map(|(m, lambda)| v[j * columns + m].powi(2) / (lambda + prior))
                        .sum();
                    u[o * outputs + i].powi(2) * inner
                };
                let expected: f64 = (0..outputs).map(of).sum();
                let found = variance.values[o * columns + j];
                assert!(
                    (found / expected - 1.0).abs() < 3e-9,
                    "prior {prior}: {found:e}, {expected:e}"
                );
            }
        }
    }
}
