//! Corrected eigenvalues (ekfac), and layers that share their weights, from captures to predictive covariances: against reference outputs of
//! small networks in float64, and against dense inverses.
//!
//! The reference may lie beside the repository, in `../shared/reference`; where it is absent the tests that need it say that they were skipped.

#[path = "../src/brute_force.rs"]
#[expect(dead_code, reason = "the unit tests use the rest")]
mod brute_force;
#[path = "../../curvature/tests/curvature/conv_net.rs"]
#[expect(dead_code, reason = "the tests of the sums use the rest")]
mod conv_net;
#[path = "../../../tests/references/read.rs"]
mod references;
#[path = "support/two_passes.rs"]
mod two_passes;

use brute_force::{gram, inverse, kron, predictive, relative_error, with_prior};
use candle_core::DType;
use conv_net::{ConvNet, jacobian};
use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, CurvatureForm, LabelPrecision, ReferenceSums, References, StructureKind,
    WeightSharing,
};
use fisherflow_network::{DenseShape, InputJacobian, LayerCapture, Precision};
use fisherflow_posterior::invert;
use references::{Arrays, beside_the_repository, network, npz, of_cases};

const K: usize = 3;
const UNIT: [f64; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];

/// Of one network.
fn arrays(name: &str) -> Option<Arrays> {
    match name {
        "tiny_mlp" => beside_the_repository(&["tiny_mlp", "tiny_mlp_inverse"]),
        _ => beside_the_repository(&[name]),
    }
}

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

    fn curvature(&self, structure: StructureKind, layer: usize, threads: usize) -> BlockCurvature {
        let plan = self.plan(structure, layer);
        let precision = LabelPrecision::constant(&UNIT, self.n_spectra).unwrap();
        two_passes::curvature(&plan, &self.references, &self.captures, &precision, threads)
    }

    /// The largest element of `sum over blocks of their parts - expected`, relative to the largest of a star.
    fn predicts(&self, structure: StructureKind, prior: f64, probe: &[LayerCapture], expected: &[f64]) -> f64 {
        let mut sum = vec![0.0; expected.len()];
        for layer in 0..self.shapes.len() {
            let curvature = self.curvature(structure, layer, 1);
            let posterior = invert(&self.plan(structure, layer), curvature, prior, 1).unwrap();
            let part = posterior.precision.covariance_of(probe).unwrap();
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        sum.chunks_exact(K * K)
            .zip(expected.chunks_exact(K * K))
            .map(|(found, expected)| relative_error(found, expected))
            .fold(0.0, f64::max)
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

/// The network of a case with `between` its layers, and its captures of some spectra.
fn captures(
    arrays: &Arrays,
    between: &str,
    spectra: &str,
    precision: Precision,
) -> (Vec<DenseShape>, Vec<LayerCapture>) {
    let layers = ["dense", between, "dense", between, "dense"];
    let layers: Vec<&str> = layers.into_iter().filter(|name| !name.is_empty()).collect();
    let network = network(arrays, &layers, "", precision);
    let flux = network.flux_tensor(&arrays[spectra].values).unwrap();
    let forward = network.forward(&flux).unwrap();
    let backward = network.backward(&forward, InputJacobian::NotWanted).unwrap();
    (network.dense_layers().to_vec(), backward.captures)
}

/// 1e-9, or what rounding makes of the eigenvectors of A where that is more: `eps |A|` over the smallest gap (Davis and Kahan 1970). In clip,
/// whose inputs span five decades, that is 1.3e-5.
fn tolerance(arrays: &Arrays, layer: usize) -> f64 {
    let eigenvalues = &arrays[&format!("eigA_{layer}")].values;
    let gaps = eigenvalues.windows(2).map(|pair| pair[1] - pair[0]);
    let gap = gaps.fold(f64::INFINITY, f64::min);
    (f64::EPSILON * eigenvalues.last().unwrap() / gap).max(1e-9)
}

/// Eigenvalues in ascending order of those of the factors, the matrix, and the predictive covariance.
#[test]
fn small_networks_have_their_reference_eigenvalues_and_errors() {
    for (case, activation) in [
        ("tiny_mlp", "relu"),
        ("tiny_act_tanh", "tanh"),
        ("tiny_act_gelu", "gelu"),
        ("tiny_act_clip", "clipped_relu(9999)"),
    ] {
        let Some(arrays) = arrays(case) else { return };
        let lam = arrays["lam"].values[0];
        let (shapes, seen) = captures(&arrays, activation, "X", Precision::F64);
        let net = Layers::new(shapes, seen);
        for layer in 0..3 {
            let found = net.curvature(StructureKind::Ekfac, layer, 1);
            let CurvatureForm::Eigenbasis { eigenvalues, .. } = &found.form else {
                panic!("{found:?}");
            };
            // In the last layer the eigenvalues of G repeat, and E does not depend on the basis.
            let error = relative_error(&eigenvalues.values, &arrays[&format!("ekfac_E_{layer}")].values);
            let tolerance = tolerance(&arrays, layer);
            assert!(error < tolerance, "{case} {layer}: {error:e} {tolerance:e}");
            if let Some(expected) = arrays.get(&format!("ekfac_dense_{layer}")) {
                assert!(relative_error(&dense(&found), &expected.values) < 1e-9);
            }
        }
        let (_, probe) = captures(&arrays, activation, "X_test", Precision::F64);
        let error = net.predicts(StructureKind::Ekfac, lam, &probe, &arrays["V_ekfac"].values);
        let tolerance = (0..3).map(|layer| tolerance(&arrays, layer)).fold(0.0, f64::max);
        assert!(error < tolerance, "{case}: {error:e} {tolerance:e}");

        // Sums, products and prediction of a run in f32. Inputs of clip reach 1e5 times those of the others.
        if case != "tiny_act_clip" {
            let (shapes, seen) = captures(&arrays, activation, "X", Precision::F32);
            let (_, probe) = captures(&arrays, activation, "X_test", Precision::F32);
            let error =
                Layers::new(shapes, seen).predicts(StructureKind::Ekfac, lam, &probe, &arrays["V_ekfac"].values);
            assert!(error < 1e-4, "{case} in f32: {error:e}");
        }
    }
}

/// Distances in the Frobenius norm of kfac and ekfac from the exact block, relative to the block's norm.
fn distances(net: &Layers, layer: usize) -> (f64, f64) {
    let exact = gram(&jacobian(&net.captures[layer]));
    let norm = distance(&exact, &vec![0.0; exact.len()]);
    let away = |structure| distance(&dense(&net.curvature(structure, layer, 1)), &exact) / norm;
    (away(StructureKind::Kfac), away(StructureKind::Ekfac))
}

#[test]
fn ekfac_is_closer_to_the_exact_block_than_kfac() {
    for (case, activation) in [
        ("tiny_mlp", "relu"),
        ("tiny_act_tanh", "tanh"),
        ("tiny_act_gelu", "gelu"),
        ("tiny_act_clip", "clipped_relu(9999)"),
    ] {
        let Some(arrays) = arrays(case) else { return };
        let (shapes, seen) = captures(&arrays, activation, "X", Precision::F64);
        let net = Layers::new(shapes, seen);
        for layer in 0..2 {
            let (kfac, ekfac) = distances(&net, layer);
            println!("{case} layer {layer}: kfac {kfac:.4} ekfac {ekfac:.4}");
            assert!(ekfac < 0.99 * kfac, "{case} {layer}: {ekfac} {kfac}");
        }
        // The gradients of the last layer are constants: both are exact.
        let (kfac, ekfac) = distances(&net, 2);
        assert!(kfac < 1e-13 && ekfac < 1e-13, "{case}: {ekfac} {kfac}");
    }
    let Some(arrays) = arrays("tiny_conv_valid") else {
        return;
    };
    let conv = ConvNet::new(&arrays);
    for weight_sharing in [WeightSharing::Expand, WeightSharing::Reduce] {
        let mut net = Layers::new(conv.shapes(), conv.captures(&arrays["X"], DType::F64));
        net.options.weight_sharing = weight_sharing;
        for layer in 0..2 {
            let (kfac, ekfac) = distances(&net, layer);
            println!("tiny_conv_valid layer {layer} {weight_sharing:?}: kfac {kfac:.4} ekfac {ekfac:.4}");
            assert!(ekfac < 0.99 * kfac, "{layer} {weight_sharing:?}: {ekfac} {kfac}");
        }
    }
}

#[test]
fn kfac_and_ekfac_of_a_deep_linear_network_are_its_exact_blocks() {
    let arrays = of_cases("posteriors", &["dense"]);
    let (shapes, seen) = captures(&arrays, "", "X", Precision::F64);
    let net = Layers::new(shapes, seen);
    for layer in 0..3 {
        let (kfac, ekfac) = distances(&net, layer);
        assert!(kfac < 1e-13 && ekfac < 1e-13, "{layer}: {kfac:e} {ekfac:e}");
    }
}

#[test]
fn a_convolutional_network_has_its_reference_eigenvalues_and_errors() {
    let Some(arrays) = arrays("tiny_conv_valid") else {
        return;
    };
    let conv = ConvNet::new(&arrays);
    for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-4)] {
        let net = Layers::new(conv.shapes(), conv.captures(&arrays["X"], dtype));
        for layer in 0..2 {
            let found = net.curvature(StructureKind::Ekfac, layer, 1);
            assert_eq!(
                found,
                net.curvature(StructureKind::Ekfac, layer, 3),
                "bits do not depend on threads"
            );
            if dtype == DType::F64 {
                let CurvatureForm::Eigenbasis { eigenvalues, .. } = &found.form else {
                    panic!("{found:?}");
                };
                let expected = &arrays[&format!("ekfac_E_{layer}")].values;
                assert!(relative_error(&eigenvalues.values, expected) < tolerance);
            }
        }
        let found = dense(&net.curvature(StructureKind::Ekfac, 0, 1));
        assert!(relative_error(&found, &arrays["ekfac_dense_0"].values) < tolerance);

        let probe = conv.captures(&arrays["X_test"], dtype);
        let (lam, expected) = (arrays["lam"].values[0], &arrays["V_diag"].values);
        let error = net.predicts(StructureKind::Diagonal, lam, &probe, expected);
        assert!(error < tolerance, "V_diag {dtype:?}: {error:e}");
        let last = net.curvature(StructureKind::Block, 3, 1);
        let last = invert(&net.plan(StructureKind::Block, 3), last, lam, 1).unwrap();
        let found = last.precision.covariance_of(&probe).unwrap();
        assert!(relative_error(&found, &arrays["V_last1"].values) < tolerance);
    }
}

#[test]
fn a_star_s_error_is_that_of_its_summed_gradient() {
    let Some(arrays) = arrays("tiny_conv_valid") else {
        return;
    };
    let conv = ConvNet::new(&arrays);
    let lam = arrays["lam"].values[0];
    let probe = conv.captures(&arrays["X_test"], DType::F64);
    let in_f32 = conv.captures(&arrays["X_test"], DType::F32);
    for weight_sharing in [WeightSharing::Expand, WeightSharing::Reduce] {
        let mut net = Layers::new(conv.shapes(), conv.captures(&arrays["X"], DType::F64));
        net.options.weight_sharing = weight_sharing;
        for structure in [StructureKind::Block, StructureKind::Kfac, StructureKind::Ekfac] {
            for layer in 0..2 {
                let curvature = net.curvature(structure, layer, 1);
                let (m, log_det) = inverse(&with_prior(dense(&curvature), lam));
                let expected = predictive(&jacobian(&probe[layer]), &m, K);
                let posterior = invert(&net.plan(structure, layer), curvature, lam, 1).unwrap();
                let found = posterior.precision.covariance_of(&probe).unwrap();
                let error = relative_error(&found, &expected);
                assert!(error < 1e-10, "{structure} {layer} {weight_sharing:?}: {error:e}");
                let found = posterior.precision.covariance_of(&in_f32).unwrap();
                assert!(relative_error(&found, &expected) < 1e-5);
                let p = posterior.info.n_weights as f64;
                assert!((posterior.info.log_det - log_det).abs() < 1e-10 * p);
                let terms = match (structure, weight_sharing) {
                    (StructureKind::Kfac, WeightSharing::Expand) => arrays[&format!("T_{layer}")].values[0] as u64,
                    _ => 1,
                };
                assert_eq!(posterior.info.n_terms, posterior.info.n_spectra * terms);
            }
        }
    }
}
