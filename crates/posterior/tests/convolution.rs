//! A convolutional network from its file to its posterior, against reference arrays of the same network computed elsewhere in float64: outputs,
//! blocks of the GGN, factors, corrected eigenvalues and predictive covariances; the dual form against the dense one.
//!
//! The larger reference may lie beside the repository, in `../shared/reference`; where it is absent its test says that it was skipped.

#[path = "../src/brute_force.rs"]
#[expect(dead_code, reason = "the unit tests use the rest")]
mod brute_force;
#[path = "../../../tests/references/read.rs"]
mod references;
#[path = "support/two_passes.rs"]
mod two_passes;

use brute_force::relative_error;
use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, CurvatureForm, LabelPrecision, Matrix, ReferenceSums, References,
    StructureKind, WeightSharing,
};
use fisherflow_network::{InputJacobian, LayerCapture, Network, Precision};
use fisherflow_posterior::{BlockPosterior, exact_posterior, invert, precision_from_matrices};
use references::{Arrays, beside_the_repository, network, npz, of_cases};

const K: usize = 3;
const UNIT: [f64; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];

/// The reference network, read from a file of its own, and its training spectra.
struct Net {
    arrays: Arrays,
    network: Network,
    captures: Vec<LayerCapture>,
    references: References,
    precision: LabelPrecision,
}

impl Net {
    /// With its outputs, blocks and errors.
    fn with_reference(precision: Precision) -> Option<Self> {
        let layers = [
            "input(64)",
            "conv1d",
            "relu",
            "conv1d",
            "relu",
            "max_pool1d(4)",
            "flatten(channels_first)",
            "dense",
            "relu",
            "dense",
        ];
        let arrays = beside_the_repository(&["tiny_conv_valid"])?;
        Some(Self::new(network(&arrays, &layers, "", precision), arrays))
    }

    /// Two convolutions and a dense layer; `bias`: whether they have any.
    fn small(bias: bool) -> Self {
        let layers = [
            "input(10)",
            "conv1d(stride=2)",
            "tanh",
            "conv1d",
            "tanh",
            "flatten(channels_first)",
            "dense",
        ];
        let arrays = of_cases("posteriors", &["convolution"]);
        let without = if bias { "" } else { "b_" };
        Self::new(network(&arrays, &layers, without, Precision::F64), arrays)
    }

    fn new(network: Network, arrays: Arrays) -> Self {
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

    fn plan(&self, structure: StructureKind, layers: &[usize], weight_sharing: WeightSharing) -> BlockPlan {
        BlockPlan {
            id: 0,
            structure,
            layers: layers.to_vec(),
            shapes: layers.iter().map(|&l| self.network.dense_layers()[l].clone()).collect(),
            options: BlockOptions {
                weight_sharing,
                ..BlockOptions::default()
            },
        }
    }

    fn curvature(&self, plan: &BlockPlan) -> BlockCurvature {
        two_passes::curvature(plan, &self.references, &self.captures, &self.precision, 1)
    }

    fn dual(&self, layers: &[usize], prior: f64, threads: usize) -> BlockPosterior {
        let plan = self.plan(StructureKind::Dual, layers, WeightSharing::Expand);
        exact_posterior(&plan, &self.captures, &self.precision, prior, threads).unwrap()
    }

    fn probe(&self) -> Vec<LayerCapture> {
        captures(&self.network, &self.arrays["X_test"])
    }

    fn is(&self, what: &str, found: &[f64], tolerance: f64) {
        let error = relative_error(found, &self.arrays[what].values);
        assert!(error < tolerance, "{what}: {error:e}");
    }

    /// Star by star.
    fn predicts(&self, what: &str, found: &[f64], tolerance: f64) {
        let expected = &self.arrays[what].values;
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.chunks_exact(K * K).zip(expected.chunks_exact(K * K)) {
            let error = relative_error(found, expected);
            assert!(error < tolerance, "{what}: {error:e}");
        }
    }
}

fn captures(network: &Network, spectra: &npz::Array) -> Vec<LayerCapture> {
    let forward = network.forward(&network.flux_tensor(&spectra.values).unwrap()).unwrap();
    network.backward(&forward, InputJacobian::NotWanted).unwrap().captures
}

/// For each weight of a layer in `[W | b]` order, its place where all of W stands before b.
fn places(inputs: usize, outputs: usize) -> Vec<usize> {
    (0..outputs)
        .flat_map(|o| (o * inputs..(o + 1) * inputs).chain([outputs * inputs + o]))
        .collect()
}

#[test]
fn a_network_file_has_its_reference_curvature_and_errors() {
    for (precision, tolerance) in [(Precision::F64, 1e-9), (Precision::F32, 1e-4)] {
        let Some(net) = Net::with_reference(precision) else {
            return;
        };
        let forward = net
            .network
            .forward(&net.network.flux_tensor(&net.arrays["X"].values).unwrap())
            .unwrap();
        net.is("f", &forward.labels(&net.network).unwrap(), tolerance);

        let (lam, probe) = (net.arrays["lam"].values[0], net.probe());
        let mut first = 0;
        let mut of_diagonals = vec![0.0; probe[0].input.dims()[0] * K * K];
        for (layer, shape) in net.network.dense_layers().iter().enumerate() {
            for (sharing, prefix) in [(WeightSharing::Expand, ""), (WeightSharing::Reduce, "reduce_")] {
                if shape.shared == 1 && sharing == WeightSharing::Reduce {
                    continue;
                }
                let plan = net.plan(StructureKind::Kfac, &[layer], sharing);
                let curvature = net.curvature(&plan);
                let CurvatureForm::Kronecker { a, g } = &curvature.form else {
                    panic!("no factors");
                };
                net.is(&format!("A_{prefix}{layer}"), &a.values, tolerance);
                net.is(&format!("G_{prefix}{layer}"), &g.values, tolerance);
                let terms = if sharing == WeightSharing::Expand {
                    shape.shared as u64
                } else {
                    1
                };
                let info = invert(&plan, curvature, lam, 1).unwrap().info;
                assert_eq!(info.n_terms, 20 * terms);
            }
            if shape.shared > 1 {
                let ekfac = net.curvature(&net.plan(StructureKind::Ekfac, &[layer], WeightSharing::Expand));
                let CurvatureForm::Eigenbasis { eigenvalues, .. } = ekfac.form else {
                    panic!("no eigenbasis");
                };
                net.is(&format!("ekfac_E_{layer}"), &eigenvalues.values, tolerance);
            }
            let places = places(shape.inputs, shape.outputs);
            let plan = net.plan(StructureKind::Diagonal, &[layer], WeightSharing::Expand);
            let diagonal = net.curvature(&plan);
            let CurvatureForm::Diagonal(Matrix { values, .. }) = &diagonal.form else {
                panic!("no diagonal");
            };
            let all = &net.arrays["ggn_diag"].values;
            let expected: Vec<f64> = places.iter().map(|at| all[first + at]).collect();
            assert!(relative_error(values, &expected) < tolerance, "ggn_diag {layer}");
            let part = invert(&plan, diagonal, lam, 1).unwrap();
            let part = part.precision.covariance_of(&probe).unwrap();
            of_diagonals.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            first += shape.n_weights();

            let Some(name) = [Some("ggn_conv1"), None, None, Some("ggn_last")][layer] else {
                continue;
            };
            let block = net.curvature(&net.plan(StructureKind::Block, &[layer], WeightSharing::Expand));
            let CurvatureForm::Dense(Matrix { values, .. }) = block.form else {
                panic!("no matrix");
            };
            let (ggn, p) = (&net.arrays[name].values, places.len());
            let expected: Vec<f64> = (0..p * p).map(|at| ggn[places[at / p] * p + places[at % p]]).collect();
            assert!(relative_error(&values, &expected) < tolerance, "{name}");
        }
        assert_eq!(first, 6839);
        net.predicts("V_diag", &of_diagonals, tolerance);
        let last = net.dual(&[3], lam, 1);
        net.predicts("V_last1", &last.precision.covariance_of(&probe).unwrap(), tolerance);
        // The joint posterior of all weights through 60 rows.
        let all = net.dual(&[0, 1, 2, 3], lam, 1);
        net.predicts("V_full", &all.precision.covariance_of(&probe).unwrap(), tolerance);
    }
}

/// Every number of the dual form of both convolutions and the last layer, with biases and without, is that of the dense one.
#[test]
fn the_dual_form_of_shared_weights_is_the_dense_one() {
    for bias in [true, false] {
        let net = Net::small(bias);
        let layers = [0, 1, 2];
        let full = net.plan(StructureKind::Full, &layers, WeightSharing::Expand);
        for prior in [0.01, 1.0, 300.0] {
            let dense = invert(&full, net.curvature(&full), prior, 1).unwrap();
            let dual = net.dual(&layers, prior, 2);
            assert!((dual.info.log_det / dense.info.log_det - 1.0).abs() < 1e-9);
            assert!((dual.info.effective_parameters / dense.info.effective_parameters - 1.0).abs() < 1e-8);
            let probe = net.probe();
            let covariance = |posterior: &BlockPosterior| posterior.precision.covariance_of(&probe).unwrap();
            assert!(relative_error(&covariance(&dual), &covariance(&dense)) < 1e-8);
            let v: Vec<f64> = (0..full.n_weights()).map(|i| (0.7 * i as f64).sin()).collect();
            let solved = |posterior: &BlockPosterior| posterior.precision.solve(&v).unwrap();
            assert!(relative_error(&solved(&dual), &solved(&dense)) < 1e-8);
            for (found, expected) in dual
                .precision
                .marginal_variance()
                .unwrap()
                .iter()
                .zip(dense.precision.marginal_variance().unwrap())
            {
                assert_eq!((found.rows, found.cols), (expected.rows, expected.cols));
                assert!(relative_error(&found.values, &expected.values) < 1e-8);
            }
            // Written and read back: the same bits.
            let written = dual.precision.inverse_matrices().unwrap();
            // Gradients of three layers, inputs of the one whose weights nothing shares, and the factor.
            assert_eq!(written.len(), 5);
            let plan = net.plan(StructureKind::Dual, &layers, WeightSharing::Expand);
            let read = precision_from_matrices(&plan, written, dual.info.clone(), 1).unwrap();
            assert_eq!(read.covariance_of(&probe).unwrap(), covariance(&dual));
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
        let plan = net.plan(structure, &[1], WeightSharing::Expand);
        let posterior = invert(&plan, net.curvature(&plan), 0.5, 1).unwrap();
        let variances = posterior.precision.marginal_variance().unwrap();
        assert_eq!((variances[0].rows, variances[0].cols), (3, 4), "{structure}");
        let p = posterior.info.n_weights as usize;
        let mut unit = vec![0.0; p];
        for weight in [0, 3, 4, p - 1] {
            unit[weight] = 1.0;
            let solved = posterior.precision.solve(&unit).unwrap()[weight];
            unit[weight] = 0.0;
            assert!(
                (variances[0].values[weight] / solved - 1.0).abs() < 1e-10,
                "{structure}"
            );
        }
        let written = posterior.precision.inverse_matrices().unwrap();
        let read = precision_from_matrices(&plan, written, posterior.info.clone(), 2).unwrap();
        assert_eq!(
            read.covariance_of(&probe).unwrap(),
            posterior.precision.covariance_of(&probe).unwrap()
        );
    }
}
