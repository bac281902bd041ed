//! Against a PyTorch reference in float64: predictive covariances and inverses of every structure on a small ReLU network.
//!
//! The reference may lie beside the repository, in `../shared/reference`; where it is absent the tests say that they were skipped (those of
//! `packages.rs` never are). It orders the weights of a layer W first, then b; ours are `[W | b]` row by row.

#[path = "../src/brute_force.rs"]
#[expect(dead_code, reason = "the unit tests use the rest")]
mod brute_force;
#[path = "../../../tests/references/read.rs"]
#[expect(dead_code, reason = "other tests read what is in the repository")]
mod references;
#[path = "support/two_passes.rs"]
mod two_passes;

use std::collections::BTreeMap;

use brute_force::{Mlp, kron, relative_error, with_prior};
use candle_core::{DType, Device, Tensor};
use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, CurvatureForm, LabelPrecision, Matrix, ReferenceSums, StructureKind,
};
use fisherflow_network::DenseShape;
use fisherflow_posterior::{BlockPosterior, exact_posterior, flux_covariance, invert};
use references::{beside_the_repository, npz::Array};

const K: usize = 3;
const WIDTHS: [usize; 4] = [12, 8, 5, K];

struct Reference {
    arrays: BTreeMap<String, Array>,
    mlp: Mlp,
    /// For our index of a weight, the reference's.
    order: Vec<usize>,
    n_spectra: u64,
    prior: f64,
}

impl Reference {
    fn load() -> Option<Self> {
        let arrays = beside_the_repository(&["tiny_mlp", "tiny_mlp_inverse"])?;
        let (mut shapes, mut weights, mut order) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        for (l, pair) in WIDTHS.windows(2).enumerate() {
            let (inputs, outputs) = (pair[0], pair[1]);
            let (w, b) = (&arrays[&format!("W_{l}")], &arrays[&format!("b_{l}")]);
            assert_eq!((&w.shape[..], &b.shape[..]), (&[outputs, inputs][..], &[outputs][..]));
            let mut joint = Vec::new();
            for o in 0..outputs {
                joint.extend_from_slice(&w.values[o * inputs..(o + 1) * inputs]);
                joint.push(b.values[o]);
                order.extend((0..inputs).map(|i| first + o * inputs + i));
                order.push(first + outputs * inputs + o);
            }
            first += outputs * (inputs + 1);
            weights.push(joint);
            shapes.push(DenseShape {
                name: format!("layers.{l}"),
                inputs,
                outputs,
                bias: true,
                shared: 1,
            });
        }
        let n_spectra = arrays["X"].shape[0] as u64;
        let prior = arrays["lam"].values[0];
        Some(Self {
            arrays,
            mlp: Mlp { shapes, weights },
            order,
            n_spectra,
            prior,
        })
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.arrays[name].values
    }

    /// The reference's GGN over the weights of some layers, in our order, times a label precision.
    fn ggn(&self, layers: &[usize], label_precision: f64) -> Matrix {
        let ends: Vec<usize> = self
            .mlp
            .shapes
            .iter()
            .scan(0, |end, s| {
                *end += s.n_weights();
                Some(*end)
            })
            .collect();
        let ours: Vec<usize> = layers
            .iter()
            .flat_map(|&l| ends[l] - self.mlp.shapes[l].n_weights()..ends[l])
            .collect();
        let (ggn, p) = (&self.arrays["ggn"], self.order.len());
        let values = ours
            .iter()
            .flat_map(|&i| ours.iter().map(move |&j| (i, j)))
            .map(|(i, j)| label_precision * ggn.values[self.order[i] * p + self.order[j]])
            .collect();
        Matrix {
            rows: ours.len(),
            cols: ours.len(),
            values,
        }
    }

    fn invert(&self, structure: StructureKind, layers: &[usize], form: CurvatureForm) -> BlockPosterior {
        let plan = BlockPlan {
            id: 0,
            structure,
            layers: layers.to_vec(),
            shapes: layers.iter().map(|&l| self.mlp.shapes[l].clone()).collect(),
            options: BlockOptions::default(),
        };
        let curvature = BlockCurvature {
            n_spectra: self.n_spectra,
            form,
        };
        invert(&plan, curvature, self.prior, 2).unwrap()
    }

    fn dense(&self, structure: StructureKind, layers: &[usize], label_precision: f64) -> BlockPosterior {
        let form = CurvatureForm::Dense(self.ggn(layers, label_precision));
        self.invert(structure, layers, form)
    }

    fn diagonal(&self, layer: usize) -> BlockPosterior {
        let (h, shape) = (self.ggn(&[layer], 1.0), &self.mlp.shapes[layer]);
        let form = CurvatureForm::Diagonal(Matrix {
            rows: shape.outputs,
            cols: shape.inputs + 1,
            values: (0..h.rows).map(|i| h.values[i * h.rows + i]).collect(),
        });
        self.invert(StructureKind::Diagonal, &[layer], form)
    }

    fn kfac(&self, layer: usize) -> BlockPosterior {
        let square = |name: &str| {
            let array = &self.arrays[&format!("{name}_{layer}")];
            Matrix {
                rows: array.shape[0],
                cols: array.shape[1],
                values: array.values.clone(),
            }
        };
        let form = CurvatureForm::Kronecker {
            a: square("A"),
            g: square("G"),
        };
        self.invert(StructureKind::Kfac, &[layer], form)
    }

    /// A block through both of its sums over the training spectra.
    fn summed(&self, structure: StructureKind, layer: usize, split_bias: bool) -> BlockPosterior {
        let plan = BlockPlan {
            id: 0,
            structure,
            layers: vec![layer],
            shapes: vec![self.mlp.shapes[layer].clone()],
            options: BlockOptions {
                split_bias,
                ..BlockOptions::default()
            },
        };
        let captures = self.mlp.captures(self.values("X"), DType::F64);
        let unit: Vec<f64> = (0..K * K).map(|at| if at / K == at % K { 1.0 } else { 0.0 }).collect();
        let precision = LabelPrecision::constant(&unit, self.n_spectra as usize).unwrap();
        let mut means = ReferenceSums::empty(&self.mlp.shapes, K);
        means.accumulate(&captures).unwrap();
        let means = means.finish().unwrap();
        let curvature = two_passes::curvature(&plan, &means, &captures, &precision, 1);
        invert(&plan, curvature, self.prior, 2).unwrap()
    }

    /// The predictive covariance of the blocks together is the reference's.
    fn check(&self, name: &str, blocks: &[BlockPosterior]) {
        for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-4)] {
            let captures = self.mlp.captures(self.values("X_test"), dtype);
            let expected = self.values(name);
            let mut sum = vec![0.0; expected.len()];
            for block in blocks {
                let part = block.precision.covariance_of(&captures).unwrap();
                sum.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
            }
            for (star, (found, expected)) in sum.chunks_exact(K * K).zip(expected.chunks_exact(K * K)).enumerate() {
                let error = relative_error(found, expected);
                assert!(error < tolerance, "{name} {dtype:?} star {star}: {error:e}");
            }
        }
    }
}

#[test]
fn full_posteriors() {
    let Some(reference) = Reference::load() else {
        return;
    };
    let full = |layers: &[usize], precision| [reference.dense(StructureKind::Full, layers, precision)];
    reference.check("V_full", &full(&[0, 1, 2], 1.0));
    // The second noise it was run with: a standard deviation, for all its name.
    let label_precision = reference.values("sigma_noise2")[0].powi(-2);
    reference.check("V_full_sn05", &full(&[0, 1, 2], label_precision));
    reference.check("V_last1", &full(&[2], 1.0));
    reference.check("V_last2", &full(&[1, 2], 1.0));
}

#[test]
fn the_dual_form_is_the_full_posterior() {
    let Some(reference) = Reference::load() else {
        return;
    };
    let training = reference.mlp.captures(reference.values("X"), DType::F64);
    let dual = |layers: &[usize], precision: f64| {
        let plan = BlockPlan {
            id: 0,
            structure: StructureKind::Dual,
            layers: layers.to_vec(),
            shapes: layers.iter().map(|&l| reference.mlp.shapes[l].clone()).collect(),
            options: BlockOptions::default(),
        };
        let lam: Vec<f64> = (0..K * K)
            .map(|at| if at % (K + 1) == 0 { precision } else { 0.0 })
            .collect();
        let lam = LabelPrecision::constant(&lam, reference.n_spectra as usize).unwrap();
        [exact_posterior(&plan, &training, &lam, reference.prior, 2).unwrap()]
    };
    let label_precision = reference.values("sigma_noise2")[0].powi(-2);
    reference.check("V_full", &dual(&[0, 1, 2], 1.0));
    reference.check("V_full_sn05", &dual(&[0, 1, 2], label_precision));
    reference.check("V_last2", &dual(&[1, 2], 1.0));
    let blocks = [0, 1, 2]
        .map(|l| dual(&[l], 1.0))
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    reference.check("V_blockdiag", &blocks);
}

#[test]
fn posteriors_by_layer() {
    let Some(reference) = Reference::load() else {
        return;
    };
    let blocks = [0, 1, 2].map(|l| reference.dense(StructureKind::Block, &[l], 1.0));
    reference.check("V_blockdiag", &blocks);
    reference.check("V_diag", &[0, 1, 2].map(|l| reference.diagonal(l)));
    reference.check("V_kfac_exact", &[0, 1, 2].map(|l| reference.kfac(l)));
}

#[test]
fn kronecker_inverses() {
    let Some(reference) = Reference::load() else {
        return;
    };
    for layer in 0..3 {
        let posterior = reference.kfac(layer);
        let expected = &reference.arrays[&format!("kfac_inv_exact_{layer}")];
        let p = expected.shape[0];
        let mut found = Vec::new();
        for i in 0..p {
            let mut unit = vec![0.0; p];
            unit[i] = 1.0;
            found.extend(posterior.precision.solve(&unit).unwrap());
        }
        assert!(relative_error(&found, &expected.values) < 1e-9);
        let variance = &posterior.precision.marginal_variance().unwrap()[0].values;
        let diagonal: Vec<f64> = (0..p).map(|i| expected.values[i * p + i]).collect();
        assert!(relative_error(variance, &diagonal) < 1e-9);

        // And the reference's inverse times our damped Kronecker product is the identity.
        let shape = &reference.mlp.shapes[layer];
        let (a, g) = (format!("A_{layer}"), format!("G_{layer}"));
        let block = with_prior(
            kron(
                reference.values(&g),
                shape.outputs,
                reference.values(&a),
                shape.inputs + 1,
                reference.n_spectra as f64,
            ),
            reference.prior,
        );
        for (i, row) in block.chunks_exact(p).enumerate() {
            for j in 0..p {
                let product: f64 = (0..p).map(|k| row[k] * expected.values[k * p + j]).sum();
                let unit = if i == j { 1.0 } else { 0.0 };
                assert!((product - unit).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn corrected_eigenvalues() {
    let Some(reference) = Reference::load() else {
        return;
    };
    let blocks = [0, 1, 2].map(|l| reference.summed(StructureKind::Ekfac, l, false));
    reference.check("V_ekfac", &blocks);
    for (layer, posterior) in blocks.iter().enumerate() {
        let expected = &reference.arrays[&format!("ekfac_inv_{layer}")];
        let p = expected.shape[0];
        let mut found = Vec::new();
        for i in 0..p {
            let mut unit = vec![0.0; p];
            unit[i] = 1.0;
            found.extend(posterior.precision.solve(&unit).unwrap());
        }
        assert!(relative_error(&found, &expected.values) < 1e-9);
        let variance = &posterior.precision.marginal_variance().unwrap()[0].values;
        let diagonal: Vec<f64> = (0..p).map(|i| expected.values[i * p + i]).collect();
        assert!(relative_error(variance, &diagonal) < 1e-9);
    }
}

#[test]
fn biases_apart_from_weights() {
    let Some(reference) = Reference::load() else {
        return;
    };
    let split = [0, 1, 2].map(|l| reference.summed(StructureKind::Kfac, l, true));
    reference.check("V_kfac_sepbias", &split);

    // Of the exact block, the inverse without its cross terms with the bias.
    for layer in 0..3 {
        let posterior = reference.summed(StructureKind::Block, layer, true);
        let shape = &reference.mlp.shapes[layer];
        let (p, stride) = (shape.n_weights(), shape.inputs + 1);
        let is_bias = |weight: usize| weight % stride == shape.inputs;
        let mut block = reference.ggn(&[layer], 1.0).values;
        for (at, value) in block.iter_mut().enumerate() {
            if is_bias(at / p) != is_bias(at % p) {
                *value = 0.0;
            }
        }
        let block = with_prior(block, reference.prior);
        let probe: Vec<f64> = (0..p).map(|i| (i as f64).cos()).collect();
        let solved = posterior.precision.solve(&probe).unwrap();
        let back: Vec<f64> = block
            .chunks_exact(p)
            .map(|row| row.iter().zip(&solved).map(|(m, x)| m * x).sum())
            .collect();
        assert!(relative_error(&back, &probe) < 1e-9);
    }
}

#[test]
fn photon_noise() {
    let Some(reference) = Reference::load() else {
        return;
    };
    let j = &reference.arrays["J"];
    let variance: Vec<f64> = reference.values("S").iter().map(|s| s * s).collect();
    let jacobian = Tensor::from_slice(&j.values, j.shape.as_slice(), &Device::Cpu)
        .unwrap()
        .transpose(0, 1)
        .unwrap();
    let found = flux_covariance(&jacobian, &variance).unwrap();
    assert!(relative_error(&found, reference.values("P")) < 1e-12);
    let single = flux_covariance(&jacobian.to_dtype(DType::F32).unwrap(), &variance).unwrap();
    assert!(relative_error(&single, reference.values("P")) < 1e-5);
}
