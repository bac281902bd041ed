//! Corrected eigenvalues (ekfac), and layers that share their weights, from captures to predictive covariances: against exact blocks and dense
//! inverses, of small networks whose weights and spectra are in `tests/references`.

#[path = "../src/brute_force.rs"]
#[expect(dead_code, reason = "the unit tests use the rest")]
mod brute_force;
#[path = "../../../tests/references/read.rs"]
mod references;
#[path = "support/small_convolution.rs"]
mod small_convolution;
#[path = "support/two_passes.rs"]
mod two_passes;

use brute_force::{gram, inverse, kron, predictive, relative_error, with_prior};
use candle_core::{DType, Tensor};
use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, CurvatureForm, LabelPrecision, ReferenceSums, References, StructureKind,
    WeightSharing,
};
use fisherflow_network::{DenseShape, InputJacobian, LayerCapture, Precision};
use fisherflow_posterior::invert;
use references::{Arrays, network, of_cases};

const K: usize = 3;
const UNIT: [f64; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];

/// What one layer's captures of the training spectra add up to.
struct Layers {
    shapes: Vec<DenseShape>,
    captures: Vec<LayerCapture>,
    references: References,
    n_spectra: usize,
    options: BlockOptions,
}

impl Layers {
    fn new(shapes: Vec<DenseShape>, captures: Vec<LayerCapture>) -> Self {
        let mut means = ReferenceSums::empty(&shapes, K);
        means.accumulate(&captures).unwrap();
        Self {
            n_spectra: captures[0].input.dims()[0],
            references: means.finish().unwrap(),
            shapes,
            captures,
            options: BlockOptions::default(),
        }
    }

    fn plan(&self, structure: StructureKind, layer: usize) -> BlockPlan {
        BlockPlan {
            id: 0,
            structure,
            layers: vec![layer],
            shapes: vec![self.shapes[layer].clone()],
            options: self.options,
        }
    }

    fn curvature(&self, structure: StructureKind, layer: usize) -> BlockCurvature {
        let plan = self.plan(structure, layer);
        let precision = LabelPrecision::constant(&UNIT, self.n_spectra).unwrap();
        two_passes::curvature(&plan, &self.references, &self.captures, &precision)
    }
}

/// The matrix that a curvature of any form stands for.
fn dense(curvature: &BlockCurvature) -> Vec<f64> {
    match &curvature.form {
        CurvatureForm::Dense(h) => h.values.clone(),
        CurvatureForm::Kronecker { a, g } => kron(&g.values, g.rows, &a.values, a.rows, *a.values.last().unwrap()),
        CurvatureForm::Eigenbasis {
            a_vectors,
            g_vectors,
            eigenvalues,
        } => {
            let q = kron(
                &g_vectors.values,
                g_vectors.rows,
                &a_vectors.values,
                a_vectors.rows,
                1.0,
            );
            let p = q.len().isqrt();
            let scaled: Vec<f64> = (0..p * p).map(|at| q[at] * eigenvalues.values[at % p]).collect();
            let mut h = vec![0.0; p * p];
            for (row, left) in h.chunks_exact_mut(p).zip(scaled.chunks_exact(p)) {
                for (to, right) in row.iter_mut().zip(q.chunks_exact(p)) {
                    *to = left.iter().zip(right).map(|(x, y)| x * y).sum();
                }
            }
            h
        }
        CurvatureForm::LowRank { .. } => panic!("no block here is of low rank"),
        CurvatureForm::Diagonal(_) => panic!("a diagonal"),
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// The network of a case's weights with these layers, and its captures of some of the case's spectra.
fn captures(arrays: &Arrays, layers: &[&str], spectra: &str) -> (Vec<DenseShape>, Vec<LayerCapture>) {
    let network = network(arrays, layers, "", Precision::F64);
    let forward = network.forward(&arrays[spectra].values).unwrap();
    let backward = network.backward(&forward, InputJacobian::NotWanted).unwrap();
    (network.dense_layers().to_vec(), backward.captures)
}

/// Rows of the weight Jacobian, `[n * K]` of `[out, in + 1]`: `sum_t g_t (x) [a_t; 1]`.
fn jacobian(capture: &LayerCapture) -> Vec<Vec<f64>> {
    let values = |tensor: &Tensor| -> Vec<f64> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
    let (n, positions, inputs) = capture.input.dims3().unwrap();
    let (k, outputs) = (capture.output_grad.dims()[0], capture.output_grad.dims()[3]);
    let (input, grad) = (values(&capture.input), values(&capture.output_grad));
    let mut rows = Vec::new();
    for star in 0..n {
        for label in 0..k {
            let mut row = vec![0.0; outputs * (inputs + 1)];
            for t in 0..positions {
                let a = &input[(star * positions + t) * inputs..][..inputs];
                let g = &grad[((label * n + star) * positions + t) * outputs..][..outputs];
                for (row, g) in row.chunks_exact_mut(inputs + 1).zip(g) {
                    row.iter_mut().zip(a).for_each(|(to, a)| *to += g * a);
                    row[inputs] += g;
                }
            }
            rows.push(row);
        }
    }
    rows
}

/// Distances in the Frobenius norm of kfac and ekfac from the exact block, relative to the block's norm.
fn distances(net: &Layers, layer: usize) -> (f64, f64) {
    let exact = gram(&jacobian(&net.captures[layer]));
    let norm = distance(&exact, &vec![0.0; exact.len()]);
    let away = |structure| distance(&dense(&net.curvature(structure, layer)), &exact) / norm;
    (away(StructureKind::Kfac), away(StructureKind::Ekfac))
}

#[test]
fn ekfac_is_closer_to_the_exact_block_than_kfac() {
    let arrays = of_cases("posteriors", &["dense"]);
    for activation in ["relu", "tanh", "gelu", "clipped_relu(1.5)"] {
        let layers = ["dense", activation, "dense", activation, "dense"];
        let (shapes, seen) = captures(&arrays, &layers, "X");
        let net = Layers::new(shapes, seen);
        for layer in 0..2 {
            let (kfac, ekfac) = distances(&net, layer);
            println!("{activation} layer {layer}: kfac {kfac:.4} ekfac {ekfac:.4}");
            assert!(ekfac < 0.99 * kfac, "{activation} {layer}: {ekfac} {kfac}");
        }
        // The gradients of the last layer are constants: both are exact.
        let (kfac, ekfac) = distances(&net, 2);
        assert!(kfac < 1e-13 && ekfac < 1e-13, "{activation}: {ekfac} {kfac}");
    }
    let arrays = of_cases("posteriors", &["convolution"]);
    for weight_sharing in [WeightSharing::Expand, WeightSharing::Reduce] {
        let (shapes, seen) = captures(&arrays, &small_convolution::LAYERS, "X");
        let mut net = Layers::new(shapes, seen);
        net.options.weight_sharing = weight_sharing;
        for layer in 0..2 {
            let (kfac, ekfac) = distances(&net, layer);
            println!("convolution {layer} {weight_sharing:?}: kfac {kfac:.4} ekfac {ekfac:.4}");
            assert!(ekfac < 0.99 * kfac, "{layer} {weight_sharing:?}: {ekfac} {kfac}");
        }
    }
}

#[test]
fn kfac_and_ekfac_of_a_deep_linear_network_are_its_exact_blocks() {
    let arrays = of_cases("posteriors", &["dense"]);
    let (shapes, seen) = captures(&arrays, &["dense", "dense", "dense"], "X");
    let net = Layers::new(shapes, seen);
    for layer in 0..3 {
        let (kfac, ekfac) = distances(&net, layer);
        assert!(kfac < 1e-13 && ekfac < 1e-13, "{layer}: {kfac:e} {ekfac:e}");
    }
}

#[test]
fn a_star_s_error_is_that_of_its_summed_gradient() {
    let arrays = of_cases("posteriors", &["convolution"]);
    let prior = arrays["prior"].values[0];
    let (_, probe) = captures(&arrays, &small_convolution::LAYERS, "X_test");
    let rounded = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap();
    let in_f32: Vec<LayerCapture> = probe
        .iter()
        .map(|capture| LayerCapture {
            layer: capture.layer,
            input: rounded(&capture.input),
            output_grad: rounded(&capture.output_grad),
        })
        .collect();
    for weight_sharing in [WeightSharing::Expand, WeightSharing::Reduce] {
        let (shapes, seen) = captures(&arrays, &small_convolution::LAYERS, "X");
        let mut net = Layers::new(shapes, seen);
        net.options.weight_sharing = weight_sharing;
        for structure in [StructureKind::Block, StructureKind::Kfac, StructureKind::Ekfac] {
            for layer in 0..2 {
                let curvature = net.curvature(structure, layer);
                let (m, log_det) = inverse(&with_prior(dense(&curvature), prior));
                let expected = predictive(&jacobian(&probe[layer]), &m, K);
                let posterior = invert(&net.plan(structure, layer), curvature, prior, 1).unwrap();
                let found = posterior.covariance_of(&probe).unwrap();
                let error = relative_error(&found, &expected);
                assert!(error < 1e-10, "{structure} {layer} {weight_sharing:?}: {error:e}");
                let found = posterior.covariance_of(&in_f32).unwrap();
                assert!(relative_error(&found, &expected) < 1e-5);
                let p = posterior.info().n_weights as f64;
                assert!((posterior.info().log_det - log_det).abs() < 1e-10 * p);
                let terms = match (structure, weight_sharing) {
                    (StructureKind::Kfac, WeightSharing::Expand) => net.shapes[layer].shared as u64,
                    _ => 1,
                };
                assert_eq!(posterior.info().n_terms, posterior.info().n_spectra * terms);
            }
        }
    }
}
