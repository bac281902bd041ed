//! A small dense network in plain f64 loops: forward, one backward pass an output, weight Jacobians, and sums over spectra without any
//! structure.

use candle_core::{DType, Device, Tensor};
use fisherflow_curvature::{BlockCurvature, BlockSums, CurvatureForm, Matrix};
use fisherflow_curvature::{BlockOptions, BlockPlan, LabelPrecision, References, StructureKind, structure_of};
use fisherflow_network::{DenseShape, LayerCapture};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// What stands between two dense layers.
#[derive(Clone, Copy, PartialEq)]
pub enum Between {
    Relu,
    Nothing,
}

/// One dense layer, `[W | b]`: `[out, in + 1]`, bias last, row-major.
pub struct Dense {
    pub inputs: usize,
    pub outputs: usize,
    pub weights: Vec<f64>,
}

/// A dense network without normalisation.
pub struct Mlp {
    pub layers: Vec<Dense>,
    pub between: Between,
}

/// One spectrum's pass: each layer's input, and `d f_k / d (pre-activation)` of each output as `[layer][k][out]`.
pub struct Pass {
    pub inputs: Vec<Vec<f64>>,
    pub output: Vec<f64>,
    pub gradients: Vec<Vec<Vec<f64>>>,
}

pub fn normal(rng: &mut ChaCha8Rng, len: usize) -> Vec<f64> {
    (0..len).map(|_| rng.sample(StandardNormal)).collect()
}

/// `n` standard normal spectra of `pixels` pixels.
pub fn spectra(n: usize, pixels: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| normal(&mut rng, pixels)).collect()
}

/// Positive definite `[k, k]` label covariances, none of them diagonal or equal.
pub fn label_covariances(n: usize, k: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all = Vec::new();
    for _ in 0..n {
        let root = normal(&mut rng, k * k);
        for i in 0..k {
            for j in 0..k {
                let product: f64 = (0..k).map(|l| root[i * k + l] * root[j * k + l]).sum();
                all.push(product + if i == j { 0.3 } else { 0.0 });
            }
        }
    }
    all
}

impl Mlp {
    pub fn random(widths: &[usize], between: Between, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let layers = widths
            .windows(2)
            .map(|w| {
                let scale = (2.0 / w[0] as f64).sqrt();
                let weights = normal(&mut rng, w[1] * (w[0] + 1))
                    .into_iter()
                    .map(|x| x * scale)
                    .collect();
                Dense {
                    inputs: w[0],
                    outputs: w[1],
                    weights,
                }
            })
            .collect();
        Self { layers, between }
    }

    pub fn n_labels(&self) -> usize {
        self.layers[self.layers.len() - 1].outputs
    }

    pub fn shapes(&self) -> Vec<DenseShape> {
        let name = |l: usize| format!("layers.{}", 2 * l);
        self.layers
            .iter()
            .enumerate()
            .map(|(l, d)| DenseShape {
                name: name(l),
                inputs: d.inputs,
                outputs: d.outputs,
                bias: true,
                shared: 1,
            })
            .collect()
    }

    pub fn pass(&self, x: &[f64]) -> Pass {
        let mut inputs = vec![x.to_vec()];
        let mut pre_activations: Vec<Vec<f64>> = Vec::new();
        for (l, layer) in self.layers.iter().enumerate() {
            let a = &inputs[l];
            let z: Vec<f64> = layer
                .weights
                .chunks(layer.inputs + 1)
                .map(|row| row[..layer.inputs].iter().zip(a).map(|(w, a)| w * a).sum::<f64>() + row[layer.inputs])
                .collect();
            if l + 1 < self.layers.len() {
                inputs.push(
                    z.iter()
                        .map(|&z| if self.between == Between::Relu { z.max(0.0) } else { z })
                        .collect(),
                );
            }
            pre_activations.push(z);
        }
        let k = self.n_labels();
        let last = self.layers.len() - 1;
        let mut gradients = vec![Vec::new(); self.layers.len()];
        for label in 0..k {
            let mut g: Vec<f64> = (0..k).map(|i| if i == label { 1.0 } else { 0.0 }).collect();
            for l in (0..=last).rev() {
                gradients[l].push(g.clone());
                if l > 0 {
                    let layer = &self.layers[l];
                    g = (0..layer.inputs)
                        .map(|i| {
                            let alive = self.between == Between::Nothing || pre_activations[l - 1][i] > 0.0;
                            let back: f64 = (0..layer.outputs)
                                .map(|o| layer.weights[o * (layer.inputs + 1) + i] * g[o])
                                .sum();
                            if alive { back } else { 0.0 }
                        })
                        .collect();
                }
            }
        }
        Pass {
            inputs,
            output: pre_activations[last].clone(),
            gradients,
        }
    }

    /// The weight Jacobian `[K][weights]`, layer after layer, each `[W | b]` row-major.
    pub fn jacobian(&self, x: &[f64]) -> Vec<Vec<f64>> {
        let pass = self.pass(x);
        (0..self.n_labels())
            .map(|k| {
                let mut row = Vec::new();
                for (l, a) in pass.inputs.iter().enumerate() {
                    for g in &pass.gradients[l][k] {
                        row.extend(a.iter().map(|a| g * a));
                        row.push(*g);
                    }
                }
                row
            })
            .collect()
    }

    /// `sum_n J^T Lam_n J` over all weights.
    pub fn ggn(&self, spectra: &[Vec<f64>], precision: &LabelPrecision) -> Matrix {
        let p = self.layers.iter().map(|l| l.weights.len()).sum();
        let k = self.n_labels();
        let mut h = vec![0.0; p * p];
        for (x, lam) in spectra.iter().zip(precision.lam.chunks(k * k)) {
            let jacobian = self.jacobian(x);
            for (at, lam) in lam.iter().enumerate() {
                let (left, right) = (&jacobian[at / k], &jacobian[at % k]);
                for i in 0..p {
                    for j in 0..p {
                        h[i * p + j] += lam * left[i] * right[j];
                    }
                }
            }
        }
        Matrix {
            rows: p,
            cols: p,
            values: h,
        }
    }

    /// `S_A` and `S_G` of a layer.
    pub fn kronecker_factors(
        &self,
        layer: usize,
        spectra: &[Vec<f64>],
        precision: &LabelPrecision,
    ) -> (Matrix, Matrix) {
        let (side, outputs, k) = (
            self.layers[layer].inputs + 1,
            self.layers[layer].outputs,
            self.n_labels(),
        );
        let (mut a, mut g) = (vec![0.0; side * side], vec![0.0; outputs * outputs]);
        for (x, lam) in spectra.iter().zip(precision.lam.chunks(k * k)) {
            let pass = self.pass(x);
            let mut input = pass.inputs[layer].clone();
            input.push(1.0);
            (0..side * side).for_each(|at| a[at] += input[at / side] * input[at % side]);
            for (pair, lam) in lam.iter().enumerate() {
                let (left, right) = (&pass.gradients[layer][pair / k], &pass.gradients[layer][pair % k]);
                (0..outputs * outputs).for_each(|at| g[at] += lam * left[at / outputs] * right[at % outputs]);
            }
        }
        (
            Matrix {
                rows: side,
                cols: side,
                values: a,
            },
            Matrix {
                rows: outputs,
                cols: outputs,
                values: g,
            },
        )
    }

    /// The captures of a batch, in f32 or f64.
    pub fn captures(&self, spectra: &[Vec<f64>], dtype: DType) -> Vec<LayerCapture> {
        let passes: Vec<Pass> = spectra.iter().map(|x| self.pass(x)).collect();
        let (n, k) = (spectra.len(), self.n_labels());
        self.layers
            .iter()
            .enumerate()
            .map(|(l, layer)| {
                let input = passes.iter().flat_map(|p| p.inputs[l].clone()).collect();
                let grad = (0..k)
                    .flat_map(|k| passes.iter().flat_map(move |p| p.gradients[l][k].clone()))
                    .collect();
                capture(l, input, grad, (k, n, layer.inputs, layer.outputs), dtype)
            })
            .collect()
    }
}

/// A capture from `input [n, in]` and `grad [K, n, out]`; `sizes` are K, n, in, out.
pub fn capture(
    layer: usize,
    input: Vec<f64>,
    grad: Vec<f64>,
    sizes: (usize, usize, usize, usize),
    dtype: DType,
) -> LayerCapture {
    let (k, n, inputs, outputs) = sizes;
    let tensor = |values: Vec<f64>, dims: Vec<usize>| {
        Tensor::from_vec(values, dims, &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap()
    };
    LayerCapture {
        layer,
        input: tensor(input, vec![n, 1, inputs]),
        output_grad: tensor(grad, vec![k, n, 1, outputs]),
    }
}

/// Sums batch after batch, on one thread, about references of 0, and re-forms.
pub fn curvature(
    plan: &BlockPlan,
    batches: &[(Vec<LayerCapture>, LabelPrecision)],
    shapes: &[DenseShape],
) -> BlockCurvature {
    let k = batches[0].1.n_labels;
    let (sums, structure) = sums(plan, batches, &References::zero(shapes, k), 1);
    structure.curvature(&sums).unwrap()
}

/// Sums batch after batch.
pub fn sums(
    plan: &BlockPlan,
    batches: &[(Vec<LayerCapture>, LabelPrecision)],
    references: &References,
    threads: usize,
) -> (BlockSums, Box<dyn fisherflow_curvature::Structure>) {
    let structure = structure_of(plan, references, batches[0].1.n_labels, threads).unwrap();
    let mut sums = structure.empty().unwrap();
    for (captures, precision) in batches {
        structure.accumulate(captures, precision, &mut sums).unwrap();
    }
    (sums, structure)
}

/// A block over some layers.
pub fn block(shapes: &[DenseShape], structure: StructureKind, layers: &[usize]) -> BlockPlan {
    BlockPlan {
        id: 0,
        structure,
        layers: layers.to_vec(),
        shapes: layers.iter().map(|&l| shapes[l].clone()).collect(),
        options: BlockOptions::default(),
    }
}

pub fn dense(curvature: &BlockCurvature) -> &Matrix {
    match &curvature.form {
        CurvatureForm::Dense(matrix) => matrix,
        other => panic!("not dense: {other:?}"),
    }
}

pub fn diagonal(curvature: &BlockCurvature) -> &Matrix {
    match &curvature.form {
        CurvatureForm::Diagonal(matrix) => matrix,
        other => panic!("not diagonal: {other:?}"),
    }
}

pub fn kronecker(curvature: &BlockCurvature) -> (&Matrix, &Matrix) {
    match &curvature.form {
        CurvatureForm::Kronecker { a, g } => (a, g),
        other => panic!("not Kronecker-factored: {other:?}"),
    }
}

/// The rows and columns of a matrix over all weights that belong to some layers.
pub fn layers_of(matrix: &Matrix, shapes: &[DenseShape], layers: &[usize]) -> Matrix {
    let mut rows = Vec::new();
    let mut start = 0;
    for (l, shape) in shapes.iter().enumerate() {
        if layers.contains(&l) {
            rows.extend(start..start + shape.n_weights());
        }
        start += shape.n_weights();
    }
    let values = rows
        .iter()
        .flat_map(|i| rows.iter().map(move |j| matrix.values[i * matrix.cols + j]))
        .collect();
    Matrix {
        rows: rows.len(),
        cols: rows.len(),
        values,
    }
}

/// Largest difference, relative to the largest value expected.
pub fn relative_error(found: &Matrix, expected: &Matrix) -> f64 {
    assert_eq!((found.rows, found.cols), (expected.rows, expected.cols));
    assert_eq!(found.values.len(), expected.values.len());
    let largest = expected.values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    found.values.iter().zip(&expected.values).fold(0.0f64, |m, (f, e)| {
        if (f - e).is_nan() {
            f64::NAN
        } else {
            m.max((f - e).abs())
        }
    }) / largest
}
