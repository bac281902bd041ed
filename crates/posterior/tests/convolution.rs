//! A convolutional network from its file to its posterior: the dual form against the dense one, and inverses of layers without bias, written and read
//! back. That its covariances are right is what `packages.rs` says.

#[path = "../src/brute_force.rs"]
#[expect(dead_code, reason = "the unit tests use the rest")]
mod brute_force;
#[path = "../../../tests/references/read.rs"]
mod references;
#[path = "support/small_convolution.rs"]
mod small_convolution;
#[path = "support/two_passes.rs"]
mod two_passes;

use brute_force::relative_error;
use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, LabelPrecision, ReferenceSums, References, StructureKind,
};
use fisherflow_network::{InputJacobian, LayerCapture, Network, Precision as Products};
use fisherflow_posterior::{Precision, exact_posterior, invert, precision_from_matrices};
use references::{Arrays, network, npz, of_cases};

const K: usize = 3;
const UNIT: [f64; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];

/// A network, read from a file of its own, and its training spectra.
struct Net {
    arrays: Arrays,
    network: Network,
    captures: Vec<LayerCapture>,
    references: References,
    precision: LabelPrecision,
}

impl Net {
    /// Two convolutions and a dense layer; `bias`: whether they have any.
    fn small(bias: bool) -> Self {
        let arrays = of_cases("posteriors", &["convolution"]);
        let without = if bias { "" } else { "b_" };
        let network = network(&arrays, &small_convolution::LAYERS, without, Products::F64);
        let captures = captures(&network, &arrays["X"]);
        let mut means = ReferenceSums::empty(network.dense_layers(), K);
        means.accumulate(&captures).unwrap();
        Self {
            references: means.finish().unwrap(),
            precision: LabelPrecision::constant(&UNIT, arrays["X"].shape[0]).unwrap(),
            captures,
            network,
            arrays,
        }
    }

    fn plan(&self, structure: StructureKind, layers: &[usize]) -> BlockPlan {
        BlockPlan {
            id: 0,
            structure,
            layers: layers.to_vec(),
            shapes: layers.iter().map(|&l| self.network.dense_layers()[l].clone()).collect(),
            options: BlockOptions::default(),
        }
    }

    fn curvature(&self, plan: &BlockPlan) -> BlockCurvature {
        two_passes::curvature(plan, &self.references, &self.captures, &self.precision)
    }

    fn dual(&self, layers: &[usize], prior: f64, threads: usize) -> Box<dyn Precision> {
        let plan = self.plan(StructureKind::Dual, layers);
        exact_posterior(&plan, &self.captures, &self.precision, prior, threads).unwrap()
    }

    fn probe(&self) -> Vec<LayerCapture> {
        captures(&self.network, &self.arrays["X_test"])
    }
}

fn captures(network: &Network, spectra: &npz::Array) -> Vec<LayerCapture> {
    let forward = network.forward(&spectra.values).unwrap();
    network.backward(&forward, InputJacobian::NotWanted).unwrap().captures
}

/// Every number of the dual form of both convolutions and the last layer, with biases and without, is that of the dense one.
#[test]
fn the_dual_form_of_shared_weights_is_the_dense_one() {
    for bias in [true, false] {
        let net = Net::small(bias);
        let layers = [0, 1, 2];
        let full = net.plan(StructureKind::Full, &layers);
        for prior in [0.01, 1.0, 300.0] {
            let dense = invert(&full, net.curvature(&full), prior, 1).unwrap();
            let dual = net.dual(&layers, prior, 2);
            assert!((dual.info().log_det / dense.info().log_det - 1.0).abs() < 1e-9);
            assert!((dual.info().effective_parameters / dense.info().effective_parameters - 1.0).abs() < 1e-8);
            let probe = net.probe();
            let covariance = |posterior: &dyn Precision| posterior.covariance_of(&probe).unwrap();
            assert!(relative_error(&covariance(dual.as_ref()), &covariance(dense.as_ref())) < 1e-8);
            let v: Vec<f64> = (0..full.n_weights()).map(|i| (0.7 * i as f64).sin()).collect();
            let solved = |posterior: &dyn Precision| posterior.solve(&v).unwrap();
            assert!(relative_error(&solved(dual.as_ref()), &solved(dense.as_ref())) < 1e-8);
            for (found, expected) in dual
                .marginal_variance()
                .unwrap()
                .iter()
                .zip(dense.marginal_variance().unwrap())
            {
                assert_eq!((found.rows, found.cols), (expected.rows, expected.cols));
                assert!(relative_error(&found.values, &expected.values) < 1e-8);
            }
            // Written and read back: the same bits.
            let written = dual.inverse_matrices().unwrap();
            // Gradients of three layers, inputs of the one whose weights nothing shares, and the factor.
            assert_eq!(written.len(), 5);
            let plan = net.plan(StructureKind::Dual, &layers);
            let read = precision_from_matrices(&plan, written, dual.info().clone(), 1).unwrap();
            assert_eq!(read.covariance_of(&probe).unwrap(), covariance(dual.as_ref()));
        }
    }
}

/// An inverse of every structure of a convolution without bias, read back from its matrices, answers as before, and its variances are those
/// of its weights alone.
#[test]
fn convolutions_without_bias_are_written_and_read_back() {
    let net = Net::small(false);
    let probe = net.probe();
    for structure in [
        StructureKind::Block,
        StructureKind::Kfac,
        StructureKind::Ekfac,
        StructureKind::Diagonal,
    ] {
        let plan = net.plan(structure, &[1]);
        let posterior = invert(&plan, net.curvature(&plan), 0.5, 1).unwrap();
        let variances = posterior.marginal_variance().unwrap();
        assert_eq!((variances[0].rows, variances[0].cols), (3, 4), "{structure}");
        let p = posterior.info().n_weights as usize;
        let mut unit = vec![0.0; p];
        for weight in [0, 3, 4, p - 1] {
            unit[weight] = 1.0;
            let solved = posterior.solve(&unit).unwrap()[weight];
            unit[weight] = 0.0;
            assert!(
                (variances[0].values[weight] / solved - 1.0).abs() < 1e-10,
                "{structure}"
            );
        }
        let written = posterior.inverse_matrices().unwrap();
        let read = precision_from_matrices(&plan, written, posterior.info().clone(), 2).unwrap();
        assert_eq!(
            read.covariance_of(&probe).unwrap(),
            posterior.covariance_of(&probe).unwrap()
        );
    }
}
