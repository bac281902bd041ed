//! Kronecker-factored curvature of one layer: `H ~ S_G (x) S_A / n` (Martens and Grosse 2015, arXiv:1503.05671), with all K outputs of
//! every spectrum instead of sampled ones.
//!
//! `S_A = sum_n [a; 1][a; 1]^T` and `S_G = sum_n sum_kl Lam_n,kl g_k g_l^T`, both about no reference. What is summed is about the references
//! `a0` and `gbar_k`, with `b = a - a0` and `d_k = g_k - gbar_k`:
//!
//! `S_A' = sum b b^T`, `s = sum b`, `S_G' = sum_n sum_kl Lam_n,kl d_k d_l^T`, `t_l = sum_n sum_k Lam_n,lk d_k`, `L = sum_n Lam_n`, `n = sum 1`.
//!
//! From these, exactly and in f64,
//!
//! `S_A = [S_A' + a0 s^T + s a0^T + n a0 a0^T, s + n a0; (s + n a0)^T, n]`,
//! `S_G = S_G' + sum_l (t_l gbar_l^T + gbar_l t_l^T) + sum_kl L_kl gbar_k gbar_l^T`.
//!
//! Without a bias `S_A` is without its last row and column. Where positions of a spectrum share the weights, a term of every sum is a position, or a spectrum (see [`WeightSharing`]). Where the bias is
//! split off, `S_A` is left without its last row and column but for their common element.
//!
//! The products of a batch are taken in the captures' type and added in f64, their diagonals are sums of squares in f64. `b` and the whitened
//! `d` are rounded to the captures' type first and every sum is of the rounded rows, so all of them describe one and the same Gram matrix.

use std::ops::Range;

use candle_core::{DType, Tensor};
use fisherflow_kernels::Products;
use fisherflow_network::LayerCapture;
use fisherflow_network::product::in_wide_registers;
use fisherflow_network::scratch::{Number, Scratch};

use crate::captured_rows::{only_layer, whitened_gradients, with_values};
use crate::packed::packed_len;
use crate::products::{add_gram, add_gram_elsewhere};
use crate::row_by_row::{Form, RowByRow, Symmetric};
use crate::structure::{CurvatureByRow, Structure, check_finite, check_sums};
use crate::weight_sharing::{mean_over_positions, sum_over_positions};
use crate::{
    BlockCurvature, BlockPlan, BlockSums, CurvatureError, CurvatureForm, LabelPrecision, References, WeightSharing,
};

/// The Kronecker-factored structure of one layer.
pub(crate) struct Kfac {
    plan: BlockPlan,
    n_labels: usize,
    products: Products,
    /// `a0 [in]`.
    input_mean: Vec<f64>,
    /// `gbar [K, out]`, of a term.
    gradient_mean: Vec<f64>,
}

/// The sums of a layer, cut out of their one vector.
#[derive(Clone, Copy)]
struct Parts<S> {
    /// `S_A'`, packed lower, `[in, in]`.
    input_moment: S,
    /// `s [in]`.
    input_sum: S,
    /// `S_G'`, packed lower, `[out, out]`.
    gradient_moment: S,
    /// `t [K, out]`.
    gradient_sum: S,
    /// `L [K, K]`.
    precision_sum: S,
    /// `n [1]`.
    n_terms: S,
}

impl Kfac {
    pub(crate) fn new(
        plan: &BlockPlan,
        references: &References,
        n_labels: usize,
        products: Products,
    ) -> Result<Self, CurvatureError> {
        let shape = &plan.shapes[0];
        let (input_mean, gradient_mean) = references.of_layer(plan.layers[0], shape, n_labels)?;
        // References are means over positions, as is the input of a term; its gradient may be their sum.
        let summed = if is_reduced(plan) { shape.shared as f64 } else { 1.0 };
        Ok(Self {
            plan: plan.clone(),
            n_labels,
            products,
            input_mean: input_mean.to_vec(),
            gradient_mean: gradient_mean.iter().map(|g| summed * g).collect(),
        })
    }

    /// Lengths of the parts, in the order in which they are stored.
    fn lengths(&self) -> [usize; 6] {
        let (inputs, outputs) = (self.plan.shapes[0].inputs, self.plan.shapes[0].outputs);
        [
            packed_len(inputs),
            inputs,
            packed_len(outputs),
            self.n_labels * outputs,
            self.n_labels * self.n_labels,
            1,
        ]
    }

    fn parts<'a>(&self, sums: &'a [f64]) -> Parts<&'a [f64]> {
        let [a, s, g, t, l, _] = self.lengths();
        let (input_moment, rest) = sums.split_at(a);
        let (input_sum, rest) = rest.split_at(s);
        let (gradient_moment, rest) = rest.split_at(g);
        let (gradient_sum, rest) = rest.split_at(t);
        let (precision_sum, n_terms) = rest.split_at(l);
        Parts {
            input_moment,
            input_sum,
            gradient_moment,
            gradient_sum,
            precision_sum,
            n_terms,
        }
    }

    fn parts_mut<'a>(&self, sums: &'a mut [f64]) -> Parts<&'a mut [f64]> {
        let [a, s, g, t, l, _] = self.lengths();
        let (input_moment, rest) = sums.split_at_mut(a);
        let (input_sum, rest) = rest.split_at_mut(s);
        let (gradient_moment, rest) = rest.split_at_mut(g);
        let (gradient_sum, rest) = rest.split_at_mut(t);
        let (precision_sum, n_terms) = rest.split_at_mut(l);
        Parts {
            input_moment,
            input_sum,
            gradient_moment,
            gradient_sum,
            precision_sum,
            n_terms,
        }
    }

    /// Adds a batch whose captures are of type `T`.
    fn add<T: Number>(
        &self,
        capture: &LayerCapture,
        precision: &LabelPrecision,
        parts: Parts<&mut [f64]>,
    ) -> Result<(), CurvatureError> {
        let shape = &self.plan.shapes[0];
        let (k, outputs) = (self.n_labels, shape.outputs);
        let reduced = is_reduced(&self.plan);
        let positions = if reduced { 1 } else { shape.shared };
        with_values(&capture.input, shape, |input: &[T]| {
            let mean = reduced.then(|| mean_over_positions(input, shape.shared, shape.inputs));
            let input = mean.as_deref().unwrap_or(input);
            let mut centred = Scratch::new(input.len());
            add_centred(input, &self.input_mean, &mut centred, parts.input_sum);
            add_gram(&centred, shape.inputs, parts.input_moment, self.products);
        })?;
        let whitened = with_values(&capture.output_grad, shape, |gradients: &[T]| {
            let sum = reduced.then(|| sum_over_positions(gradients, shape.shared, outputs));
            let gradients = sum.as_deref().unwrap_or(gradients);
            whitened_gradients(gradients, outputs, precision, Some(&self.gradient_mean))
        })?;
        // Lam d = F (F^T d): the rows are already whitened once.
        in_wide_registers(|| {
            for (term, rows) in whitened.chunks_exact(k * outputs).enumerate() {
                let factor = &precision.factor[term / positions * k * k..][..k * k];
                for (l, sum) in parts.gradient_sum.chunks_exact_mut(outputs).enumerate() {
                    for (j, row) in rows.chunks_exact(outputs).enumerate().take(l + 1) {
                        let weight = factor[l * k + j];
                        if weight == 0.0 {
                            continue;
                        }
                        for (sum, value) in sum.iter_mut().zip(row) {
                            *sum += weight * value.to_f64();
                        }
                    }
                }
            }
        });
        add_precisions(precision, positions, parts.precision_sum, parts.n_terms);
        add_gram(&whitened, outputs, parts.gradient_moment, self.products);
        Ok(())
    }

    /// The same of captures on whatever device, whose weights no positions share, by candle's own operations.
    fn add_elsewhere(
        &self,
        capture: &LayerCapture,
        precision: &LabelPrecision,
        parts: Parts<&mut [f64]>,
    ) -> candle_core::Result<()> {
        let (k, batch) = (self.n_labels, precision.batch());
        let (device, dtype) = (capture.input.device(), capture.input.dtype());
        let of = |values: &[f64], shape: &[usize]| Tensor::from_slice(values, shape, device);
        let rounded = |x: Tensor| x.to_dtype(dtype)?.to_dtype(DType::F64);
        let add_to = |sums: &mut [f64], sum: Tensor| -> candle_core::Result<()> {
            let sum = sum.flatten_all()?.to_vec1::<f64>()?;
            sums.iter_mut().zip(sum).for_each(|(to, value)| *to += value);
            Ok(())
        };

        let input = capture.input.flatten_to(1)?.to_dtype(DType::F64)?;
        let centred = rounded(input.broadcast_sub(&of(&self.input_mean, &[1, self.input_mean.len()])?)?)?;
        add_to(parts.input_sum, centred.sum(0)?)?;
        add_gram_elsewhere(&centred.to_dtype(dtype)?, parts.input_moment)?;

        // [batch, K, out]: F^T d, and of that F (F^T d) = Lam d.
        let outputs = self.gradient_mean.len() / k.max(1);
        let gradients = capture.output_grad.flatten(1, 2)?.to_dtype(DType::F64)?;
        let centred = gradients.broadcast_sub(&of(&self.gradient_mean, &[k, 1, outputs])?)?;
        let factor = of(&precision.factor, &[batch, k, k])?;
        let whitened = factor.transpose(1, 2)?.contiguous()?;
        let whitened = rounded(whitened.matmul(&centred.transpose(0, 1)?.contiguous()?)?)?;
        add_to(parts.gradient_sum, factor.matmul(&whitened)?.sum(0)?)?;
        let rows = whitened.reshape((batch * k, outputs))?;
        add_gram_elsewhere(&rows.to_dtype(dtype)?, parts.gradient_moment)?;
        add_precisions(precision, 1, parts.precision_sum, parts.n_terms);
        Ok(())
    }

    /// `S_G [out, out]` about 0.
    fn gradient_factor<'a>(&'a self, parts: Parts<&'a [f64]>) -> Symmetric<'a, impl Form> {
        let (k, outputs) = (self.n_labels, self.plan.shapes[0].outputs);
        let (mean, sum) = (&self.gradient_mean, parts.gradient_sum);
        // u_l = t_l + sum_k L_kl gbar_k, so that S_G = S_G' + sum_l (u_l gbar_l^T + gbar_l t_l^T).
        let mut total = sum.to_vec();
        for (l, total) in total.chunks_exact_mut(outputs).enumerate() {
            for (other, mean) in mean.chunks_exact(outputs).enumerate() {
                let weight = parts.precision_sum[other * k + l];
                for (to, m) in total.iter_mut().zip(mean) {
                    *to += weight * m;
                }
            }
        }
        Symmetric::new(
            parts.gradient_moment,
            outputs,
            move |i, columns: Range<usize>, moments: &[f64], to: &mut [f64]| {
                for ((j, moment), to) in columns.zip(moments).zip(to) {
                    let shift: f64 = (0..k)
                        .map(|l| l * outputs)
                        .map(|l| total[l + i] * mean[l + j] + mean[l + i] * sum[l + j])
                        .sum();
                    *to = moment + shift;
                }
            },
        )
    }
}

/// `S_A [columns, columns]` about 0.
struct InputFactor<'a> {
    kfac: &'a Kfac,
    parts: Parts<&'a [f64]>,
}

impl RowByRow for InputFactor<'_> {
    fn shape(&self) -> (usize, usize) {
        let side = self.kfac.plan.shapes[0].columns();
        (side, side)
    }

    fn rows_from(&self, first: usize, to: &mut [f64]) {
        let (mean, sum, n) = (&self.kfac.input_mean, self.parts.input_sum, self.parts.n_terms[0]);
        let (inputs, side) = (mean.len(), self.shape().1);
        // The bias's row, and with it its column.
        let is_apart = self.kfac.plan.options.split_bias;
        let of_bias = |j: usize| if is_apart { 0.0 } else { sum[j] + n * mean[j] };
        let (rows, last) = to.split_at_mut((inputs.saturating_sub(first) * side).min(to.len()));
        let moments = Symmetric::new(
            self.parts.input_moment,
            inputs,
            |i, columns: Range<usize>, moments: &[f64], to: &mut [f64]| {
                // S'_ij + a0_i s_j + (s_i + n a0_i) a0_j
                let (mean_i, total_i) = (mean[i], sum[i] + n * mean[i]);
                let of_columns = sum[columns.clone()].iter().zip(&mean[columns]);
                for ((to, moment), (s, m)) in to.iter_mut().zip(moments).zip(of_columns) {
                    *to = moment + (mean_i * s + total_i * m);
                }
            },
        );
        moments.rows_from(first, rows, side);
        if side > inputs {
            for (i, row) in (first..).zip(rows.chunks_exact_mut(side)) {
                row[inputs] = of_bias(i);
            }
        }
        if let Some((of_itself, row)) = last.split_last_mut() {
            row.iter_mut().enumerate().for_each(|(j, to)| *to = of_bias(j));
            *of_itself = n;
        }
    }
}

/// Whether a term of the sums is a spectrum with several positions: the mean of their inputs, the sum of their gradients.
fn is_reduced(plan: &BlockPlan) -> bool {
    plan.options.weight_sharing == WeightSharing::Reduce && plan.shapes[0].shared > 1
}

/// Adds `Lam` and the number of terms of a batch.
fn add_precisions(precision: &LabelPrecision, positions: usize, sum: &mut [f64], n_terms: &mut [f64]) {
    for lam in precision.lam.chunks_exact(sum.len().max(1)) {
        for (sum, value) in sum.iter_mut().zip(lam) {
            *sum += positions as f64 * value;
        }
    }
    n_terms[0] += (positions * precision.batch()) as f64;
}

/// `b = a - a0`, rounded to `T`, and its sum over the rows of `input`, which is added to `sum`.
fn add_centred<T: Number>(input: &[T], mean: &[f64], centred: &mut [T], sum: &mut [f64]) {
    let width = mean.len().max(1);
    in_wide_registers(|| {
        for (to, from) in centred.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
            for (((to, from), mean), sum) in to.iter_mut().zip(from).zip(mean).zip(sum.iter_mut()) {
                *to = T::from_f64(from.to_f64() - mean);
                *sum += to.to_f64();
            }
        }
    });
}

impl Structure for Kfac {
    fn plan(&self) -> &BlockPlan {
        &self.plan
    }

    fn sums_len(&self) -> usize {
        self.lengths().iter().sum()
    }

    fn add_batch(
        &self,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
        sums: &mut [f64],
    ) -> Result<(), CurvatureError> {
        let capture = only_layer(&self.plan, captures, precision, self.n_labels)?;
        let parts = self.parts_mut(sums);
        match capture.input.dtype() {
            _ if !capture.input.device().is_cpu() && self.plan.shapes[0].shared == 1 && precision.batch() > 0 => self
                .add_elsewhere(capture, precision, parts)
                .map_err(|source| CurvatureError::CaptureValues {
                    layer: self.plan.shapes[0].name.clone(),
                    source,
                }),
            DType::F32 => self.add::<f32>(capture, precision, parts),
            _ => self.add::<f64>(capture, precision, parts),
        }
    }

    fn curvature_by_row<'a>(&'a self, sums: &'a BlockSums) -> Result<CurvatureByRow<'a>, CurvatureError> {
        check_sums(self, sums)?;
        let parts = self.parts(&sums.sums);
        for (part, values) in [
            ("input second moment", parts.input_moment),
            ("input sum", parts.input_sum),
            ("gradient second moment", parts.gradient_moment),
            ("gradient sum", parts.gradient_sum),
            ("sum of label precisions", parts.precision_sum),
            ("number of terms", parts.n_terms),
        ] {
            check_finite(&self.plan, part, values, |_| 0, sums.n_spectra)?;
        }
        Ok(BlockCurvature {
            n_spectra: sums.n_spectra,
            form: CurvatureForm::Kronecker {
                g: Box::new(self.gradient_factor(parts)),
                a: Box::new(InputFactor { kfac: self, parts }),
            },
        })
    }

    fn flops(&self, n_spectra: u64) -> f64 {
        let [a, _, g, ..] = self.lengths();
        let terms = n_spectra as f64 * self.plan.terms_a_spectrum() as f64;
        terms * 2.0 * (a as f64 + self.n_labels as f64 * g as f64)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use fisherflow_network::DenseShape;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{BlockOptions, StructureKind, plan_blocks};

    /// What a GPU is given says what the kernels say, here on the CPU too: exactly but for the order of f64 sums, and for what rounds to another f32.
    #[test]
    fn sums_by_candle_are_those_of_the_kernels() {
        let (k, batch, inputs, outputs) = (3, 700, 9, 5);
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let shape = DenseShape {
            name: "layers.0".to_owned(),
            inputs,
            outputs,
            bias: true,
            shared: 1,
        };
        let plans = plan_blocks(
            std::slice::from_ref(&shape),
            StructureKind::Kfac,
            &Default::default(),
            BlockOptions::default(),
        );
        let references = References {
            input_mean: vec![draw(inputs)],
            gradient_mean: vec![draw(k * outputs)],
        };
        let kfac = Kfac::new(&plans.unwrap()[0], &references, k, 1.into()).unwrap();
        let noise = [0.5, 0.1, 0.0, 0.1, 0.4, 0.05, 0.0, 0.05, 0.6];
        let own: Vec<f64> = draw(batch)
            .iter()
            .flat_map(|x| noise.map(|value| value * x.abs()))
            .collect();
        let precision = LabelPrecision::per_spectrum(&noise, Some(&own), batch).unwrap();
        let (a, g) = (draw(batch * inputs), draw(k * batch * outputs));
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-6)] {
            let tensor = |values: &[f64], shape: [usize; 4]| {
                let tensor = Tensor::from_slice(values, &shape, &Device::Cpu).unwrap();
                tensor.to_dtype(dtype).unwrap()
            };
            let capture = LayerCapture {
                layer: 0,
                input: tensor(&a, [1, batch, 1, inputs]).squeeze(0).unwrap(),
                output_grad: tensor(&g, [k, batch, 1, outputs]),
            };
            let (mut own, mut elsewhere) = (vec![1.0; kfac.sums_len()], vec![1.0; kfac.sums_len()]);
            match dtype {
                DType::F32 => kfac.add::<f32>(&capture, &precision, kfac.parts_mut(&mut own)),
                _ => kfac.add::<f64>(&capture, &precision, kfac.parts_mut(&mut own)),
            }
            .unwrap();
            kfac.add_elsewhere(&capture, &precision, kfac.parts_mut(&mut elsewhere))
                .unwrap();
            let largest = own.iter().fold(0.0, |largest: f64, sum| largest.max(sum.abs()));
            for (at, (own, elsewhere)) in own.iter().zip(&elsewhere).enumerate() {
                assert!(
                    (own - elsewhere).abs() < tolerance * largest,
                    "{dtype:?} {at}: {own} {elsewhere}"
                );
            }
        }
    }
}
