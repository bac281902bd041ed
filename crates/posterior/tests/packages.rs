//! Predictive covariances from a network file on, in every structure, against torch's autograd and linear algebra and against laplace-torch and
//! curvlinops where these have the same definition: the arrays of `tests/references`, float64.

#[path = "../src/brute_force.rs"]
#[expect(dead_code, reason = "the unit tests use the rest")]
mod brute_force;
#[path = "../../../tests/references/read.rs"]
mod references;
#[path = "support/small_convolution.rs"]
mod small_convolution;
#[path = "support/two_passes.rs"]
mod two_passes;

use brute_force::{Mlp, gram, inverse, predictive, relative_error, with_prior};
use candle_core::DType;
use fisherflow_curvature::{
    BlockOptions, BlockPlan, LabelPrecision, ReferenceSums, References, StructureKind, WeightSharing,
};
use fisherflow_network::{InputJacobian, LayerCapture, Network, Precision};
use fisherflow_posterior::{exact_posterior, flux_covariance, invert};
use references::npz::Array;
use references::{Arrays, network, of_cases};

const K: usize = 3;
const UNIT: [f64; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
const DENSE: [&str; 5] = ["dense", "tanh", "dense", "relu", "dense"];

struct Case {
    arrays: Arrays,
    network: Network,
    captures: Vec<LayerCapture>,
    references: References,
    tolerance: f64,
}

impl Case {
    /// In double precision and in single.
    fn both(case: &str, layers: &[&str]) -> [Self; 2] {
        [(Precision::F64, 1e-9), (Precision::F32, 1e-4)].map(|(precision, tolerance)| {
            let arrays = of_cases("posteriors", &[case]);
            let network = network(&arrays, layers, "", precision);
            let captures = captures(&network, &arrays["X"].values);
            let mut means = ReferenceSums::empty(network.dense_layers(), K);
            means.accumulate(&captures).unwrap();
            Self {
                references: means.finish().unwrap(),
                captures,
                network,
                arrays,
                tolerance,
            }
        })
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.arrays[name].values
    }

    fn n_layers(&self) -> usize {
        self.network.dense_layers().len()
    }

    fn plan(&self, structure: StructureKind, layers: &[usize], options: BlockOptions) -> BlockPlan {
        BlockPlan {
            id: 0,
            structure,
            layers: layers.to_vec(),
            shapes: layers.iter().map(|&l| self.network.dense_layers()[l].clone()).collect(),
            options,
        }
    }

    /// The posterior of a block through its sums over the training spectra.
    fn posterior(&self, plan: &BlockPlan, label_precision: &[f64]) -> Box<dyn fisherflow_posterior::Precision> {
        let prior = self.values("prior")[0];
        let n_spectra = self.arrays["X"].shape[0];
        let precision = LabelPrecision::constant(label_precision, n_spectra).unwrap();
        if plan.structure == StructureKind::Dual {
            return exact_posterior(plan, &self.captures, &precision, prior, 1).unwrap();
        }
        let curvature = two_passes::curvature(plan, &self.references, &self.captures, &precision);
        invert(plan, curvature, prior, 1).unwrap()
    }

    /// The covariances of the spectra to predict, of blocks of layers, are that array.
    fn predicts(
        &self,
        name: &str,
        structure: StructureKind,
        blocks: &[Vec<usize>],
        options: BlockOptions,
        label_precision: &[f64],
    ) {
        let probe = captures(&self.network, self.values("X_test"));
        let mut sum = vec![0.0; self.arrays["X_test"].shape[0] * K * K];
        for layers in blocks {
            let posterior = self.posterior(&self.plan(structure, layers, options), label_precision);
            let part = posterior.covariance_of(&probe).unwrap();
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let expected = self.values(name);
        assert_eq!(expected.len(), sum.len(), "{name}");
        for (star, (found, expected)) in sum.chunks_exact(K * K).zip(expected.chunks_exact(K * K)).enumerate() {
            let error = relative_error(found, expected);
            assert!(
                error < self.tolerance,
                "{name} of {structure:?}, star {star}: {error:e}"
            );
        }
    }

    fn by_layer(&self) -> Vec<Vec<usize>> {
        (0..self.n_layers()).map(|layer| vec![layer]).collect()
    }

    /// Every structure, with unit precision of the labels and with one that couples them.
    fn every_structure_predicts(&self) {
        let precision = self.values("label_precision").to_vec();
        let (all, layers) = ([(0..self.n_layers()).collect()], self.by_layer());
        let reduce = BlockOptions {
            weight_sharing: WeightSharing::Reduce,
            ..BlockOptions::default()
        };
        for (suffix, precision) in [("", &UNIT[..]), ("_precision", &precision)] {
            for (name, structure, blocks, options) in [
                ("V_full", StructureKind::Full, &all[..], BlockOptions::default()),
                ("V_full", StructureKind::Dual, &all[..], BlockOptions::default()),
                ("V_block", StructureKind::Block, &layers[..], BlockOptions::default()),
                (
                    "V_diagonal",
                    StructureKind::Diagonal,
                    &layers[..],
                    BlockOptions::default(),
                ),
                (
                    "V_kfac_expand",
                    StructureKind::Kfac,
                    &layers[..],
                    BlockOptions::default(),
                ),
                ("V_kfac_reduce", StructureKind::Kfac, &layers[..], reduce),
                ("V_ekfac", StructureKind::Ekfac, &layers[..], BlockOptions::default()),
            ] {
                self.predicts(&format!("{name}{suffix}"), structure, blocks, options, precision);
            }
        }
        for (name, structure, options) in [
            ("curvlinops_kfac_expand", StructureKind::Kfac, BlockOptions::default()),
            ("curvlinops_kfac_reduce", StructureKind::Kfac, reduce),
            ("curvlinops_ekfac", StructureKind::Ekfac, BlockOptions::default()),
        ] {
            self.predicts(name, structure, &layers, options, &UNIT);
        }
        let last = [vec![self.n_layers() - 1]];
        self.predicts("V_last", StructureKind::Full, &last, BlockOptions::default(), &UNIT);
    }
}

fn captures(network: &Network, spectra: &[f64]) -> Vec<LayerCapture> {
    let forward = network.forward(spectra).unwrap();
    network.backward(&forward, InputJacobian::NotWanted).unwrap().captures
}

#[test]
fn dense_layers() {
    for case in Case::both("dense", &DENSE) {
        case.every_structure_predicts();
    }
}

#[test]
fn convolutions() {
    for case in Case::both("convolution", &small_convolution::LAYERS) {
        case.every_structure_predicts();
    }
}

#[test]
fn laplace_torch() {
    for case in Case::both("dense", &DENSE) {
        let (all, layers, last) = ([(0..3).collect()], case.by_layer(), [vec![2]]);
        let noise = UNIT.map(|v| v / case.values("noise")[0].powi(2));
        let split_bias = BlockOptions {
            split_bias: true,
            ..BlockOptions::default()
        };
        let plain = BlockOptions::default();
        case.predicts("laplace_full", StructureKind::Full, &all, plain, &UNIT);
        case.predicts("laplace_full_noise", StructureKind::Full, &all, plain, &noise);
        case.predicts("laplace_diagonal", StructureKind::Diagonal, &layers, plain, &UNIT);
        case.predicts(
            "laplace_kfac_split_bias",
            StructureKind::Kfac,
            &layers,
            split_bias,
            &UNIT,
        );
        case.predicts("laplace_last", StructureKind::Full, &last, plain, &UNIT);
    }
}

/// What there is no array of: layers as blocks with their biases apart. The two last, with a ReLU between them, are a network in plain f64.
#[test]
fn biases_apart_by_elimination() {
    for mut case in Case::both("dense", &DENSE) {
        let mlp = Mlp {
            shapes: case.network.dense_layers()[1..].to_vec(),
            weights: (1..3).map(|l| case.network.weights_and_biases(l).unwrap()).collect(),
        };
        let rows = |captures: &[LayerCapture], layer: usize| {
            let inputs = captures[1].input.to_dtype(DType::F64).unwrap();
            let inputs: Vec<f64> = inputs.flatten_all().unwrap().to_vec1().unwrap();
            mlp.jacobian(&inputs, &[layer])
        };
        let (prior, probe) = (case.values("prior")[0], captures(&case.network, case.values("X_test")));
        let mut apart = vec![0.0; case.arrays["X_test"].shape[0] * K * K];
        for (layer, shape) in mlp.shapes.iter().enumerate() {
            let mut h = gram(&rows(&case.captures, layer));
            let (p, is_bias) = (shape.n_weights(), |at: usize| at % shape.columns() == shape.inputs);
            for (at, value) in h.iter_mut().enumerate() {
                if is_bias(at / p) != is_bias(at % p) {
                    *value = 0.0;
                }
            }
            let part = predictive(&rows(&probe, layer), &inverse(&with_prior(h, prior)).0, K);
            apart.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let shape = vec![apart.len()];
        let values = apart;
        case.arrays
            .insert("block_split_bias".to_owned(), Array { shape, values });
        let split_bias = BlockOptions {
            split_bias: true,
            ..BlockOptions::default()
        };
        let blocks = [vec![1], vec![2]];
        case.predicts("block_split_bias", StructureKind::Block, &blocks, split_bias, &UNIT);
    }
}

/// Labels and fluxes in units of their own, from network file to the photons' part.
#[test]
fn photon_noise() {
    let layers = ["dense", "tanh", "dense", "tanh", "dense"];
    let arrays = of_cases("networks", &["normalised"]);
    let variance: Vec<f64> = arrays["S"].values.iter().map(|sigma| sigma * sigma).collect();
    for (precision, tolerance) in [(Precision::F64, 1e-12), (Precision::F32, 1e-5)] {
        let network = network(&arrays, &layers, "", precision);
        let forward = network.forward(&arrays["X"].values).unwrap();
        let backward = network.backward(&forward, InputJacobian::Wanted).unwrap();
        let found = flux_covariance(&backward.input_jacobian.unwrap(), &variance).unwrap();
        let error = relative_error(&found, &arrays["P"].values);
        assert!(error < tolerance, "{precision:?}: {error:e}");
    }
}
