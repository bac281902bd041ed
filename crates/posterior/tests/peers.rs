//! A block in each peer's convention against what the peer itself returned, and scipy's against differences of the objective.
//!
//! Where a peer's single factors are arbitrary (laplace-torch's depend on its backend), products of factors are compared.

#[path = "../src/brute_force.rs"]
#[expect(dead_code, reason = "the unit tests use the rest")]
mod brute_force;
#[path = "../../../tests/references/read.rs"]
#[expect(dead_code, reason = "other tests read networks")]
mod references;
#[path = "support/two_passes.rs"]
mod two_passes;

use brute_force::{Mlp, Numbers, gram, inverse, kron, relative_error};
use candle_core::{DType, Device, Tensor};
use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, CurvatureForm, LabelPrecision, Matrix, References, StructureKind,
};
use fisherflow_network::{DenseShape, LayerCapture};
use fisherflow_posterior::{Convention, NamedTensor, Peer, PosteriorError, Reduction, invert};
use references::{Arrays, npz::Array, of_cases};

const TOLERANCE: f64 = 1e-9;
const K: usize = 3;
const ALL: [usize; 3] = [0, 1, 2];

struct Case {
    arrays: Arrays,
    mlp: Mlp,
    /// Number of spectra.
    n: usize,
}

impl Case {
    fn load() -> Self {
        let mut arrays = of_cases("peers", &["mlp"]);
        let (mut shapes, mut weights) = (Vec::new(), Vec::new());
        // In torch's order, all of W before b, the places of our weights.
        let (mut places, mut first) = (Vec::new(), 0);
        for l in ALL {
            let (w, b) = (&arrays[&format!("W_{l}")], &arrays[&format!("b_{l}")]);
            let (outputs, inputs) = (w.shape[0], w.shape[1]);
            let columns = inputs + 1;
            places.extend((0..outputs * inputs).map(|at| first + at / inputs * columns + at % inputs));
            places.extend((0..outputs).map(|o| first + o * columns + inputs));
            first += outputs * columns;
            let rows = w.values.chunks_exact(inputs).zip(&b.values);
            weights.push(rows.flat_map(|(row, b)| [row, &[*b]].concat()).collect());
            shapes.push(DenseShape {
                name: format!("layers.{l}"),
                inputs,
                outputs,
                bias: true,
                shared: 1,
            });
        }
        let mlp = Mlp { shapes, weights };
        let h = gram(&mlp.jacobian(&arrays["X"].values, &ALL));
        let p = places.len();
        let ggn = Array {
            shape: vec![p, p],
            values: (0..p * p).map(|at| h[places[at / p] * p + places[at % p]]).collect(),
        };
        arrays.insert("ggn".to_owned(), ggn);
        Self {
            n: arrays["X"].shape[0],
            arrays,
            mlp,
        }
    }

    fn of(&self, name: &str) -> &[f64] {
        &self.arrays[name].values
    }

    fn plan(&self, structure: StructureKind, layers: &[usize]) -> BlockPlan {
        BlockPlan {
            id: 0,
            structure,
            layers: layers.to_vec(),
            shapes: layers.iter().map(|&l| self.mlp.shapes[l].clone()).collect(),
            options: BlockOptions::default(),
        }
    }

    /// The library's own sums over the captures of all spectra, one seed a label.
    fn sums(&self, plan: &BlockPlan, captures: &[LayerCapture], n_labels: usize) -> BlockCurvature {
        let references = References::zero(&self.mlp.shapes, n_labels);
        let identity: Vec<f64> = (0..n_labels * n_labels)
            .map(|at| if at % (n_labels + 1) == 0 { 1.0 } else { 0.0 })
            .collect();
        let precision = LabelPrecision::constant(&identity, self.n).unwrap();
        two_passes::curvature(plan, &references, captures, &precision)
    }

    fn exported(&self, peer: Peer, reduction: Reduction, structure: StructureKind, layers: &[usize]) -> Tensors {
        let plan = self.plan(structure, layers);
        let captures = self.mlp.captures(self.of("X"), DType::F64);
        let curvature = self.sums(&plan, &captures, K);
        let convention = Convention::new(peer, reduction, self.n as u64, K).unwrap();
        Tensors(convention.curvature(&plan, &curvature).unwrap())
    }

    fn check(&self, name: &str, found: &[f64]) {
        let error = relative_error(found, self.of(name));
        assert!(error < TOLERANCE, "{name}: {error:e}");
    }
}

struct Tensors(Vec<NamedTensor>);

impl Tensors {
    fn of(&self, name: &str) -> &NamedTensor {
        let found = self.0.iter().find(|tensor| tensor.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {:?}", self.0.iter().map(|t| &t.name).collect::<Vec<_>>()))
    }

    fn values(&self, name: &str) -> &[f64] {
        let tensor = self.of(name);
        assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>(), "{name}");
        &tensor.values
    }

    /// `kron_g (x) kron_a`.
    fn product(&self, of: &str) -> Vec<f64> {
        let (g, a) = (self.of(&format!("{of}.kron_g")), self.of(&format!("{of}.kron_a")));
        kron(&g.values, g.shape[0], &a.values, a.shape[0], 1.0)
    }
}

#[test]
fn laplace_torch() {
    let case = Case::load();
    let of = |structure, layers: &[usize]| case.exported(Peer::LaplaceTorch, Reduction::Sum, structure, layers);
    for backend in ["backpack", "curvlinops", "asdl"] {
        let name = |what: &str| format!("laplace_{backend}_{what}");
        let mut flat = Vec::new();
        for l in ALL {
            let kron_of_peer = {
                let g = &case.arrays[&name(&format!("all_kron_G_{l}"))];
                let a = &case.arrays[&name(&format!("all_kron_A_{l}"))];
                kron(&g.values, g.shape[0], &a.values, a.shape[0], 1.0)
            };
            let ours = of(StructureKind::Kfac, &[l]);
            let error = relative_error(&ours.product(&format!("layers.{l}.weight")), &kron_of_peer);
            assert!(error < TOLERANCE, "{backend} layer {l}: {error:e}");
            case.check(
                &name(&format!("all_kron_bias_{l}")),
                ours.values(&format!("layers.{l}.bias.kron_g")),
            );
            let diagonal = of(StructureKind::Diagonal, &[l]);
            flat.extend_from_slice(diagonal.values(&format!("layers.{l}.weight.diagonal")));
            flat.extend_from_slice(diagonal.values(&format!("layers.{l}.bias.diagonal")));
        }
        case.check(&name("all_diag_H"), &flat);
        case.check(
            &name("last_layer_full_H"),
            of(StructureKind::Full, &[2]).values("layers.2.ggn"),
        );
    }
    // Its own factors too, of the backends that split the 1/2 of the loss.
    let ours = of(StructureKind::Kfac, &[0]);
    case.check("laplace_backpack_all_kron_A_0", ours.values("layers.0.weight.kron_a"));
    case.check("laplace_backpack_all_kron_G_0", ours.values("layers.0.weight.kron_g"));
    // All weights, in torch's order: the GGN itself, of which the peer's is 1 times.
    case.check(
        "ggn",
        of(StructureKind::Full, &ALL).values("layers.0+layers.1+layers.2.ggn"),
    );
}

#[test]
fn backpack() {
    let case = Case::load();
    let of = |structure, l| case.exported(Peer::Backpack, Reduction::Sum, structure, &[l]);
    let mut flat = Vec::new();
    for l in ALL {
        let kfac = of(StructureKind::Kfac, l);
        case.check(
            &format!("backpack_kflr_G_{l}"),
            kfac.values(&format!("layers.{l}.weight.kron_g")),
        );
        case.check(
            &format!("backpack_kflr_A_{l}"),
            kfac.values(&format!("layers.{l}.weight.kron_a")),
        );
        case.check(
            &format!("backpack_kflr_bias_{l}"),
            kfac.values(&format!("layers.{l}.bias.kron_g")),
        );
        let diagonal = of(StructureKind::Diagonal, l);
        flat.extend_from_slice(diagonal.values(&format!("layers.{l}.weight.diagonal")));
        flat.extend_from_slice(diagonal.values(&format!("layers.{l}.bias.diagonal")));
    }
    case.check("backpack_diag_ggn_exact", &flat);
}

#[test]
fn curvlinops() {
    let case = Case::load();
    for (reduction, name) in [(Reduction::Sum, "sum"), (Reduction::Mean, "mean")] {
        for l in ALL {
            let kfac = case.exported(Peer::Curvlinops, reduction, StructureKind::Kfac, &[l]);
            case.check(
                &format!("curvlinops_{name}_A_{l}"),
                kfac.values(&format!("layers.{l}.kron_a")),
            );
            case.check(
                &format!("curvlinops_{name}_G_{l}"),
                kfac.values(&format!("layers.{l}.kron_g")),
            );
        }
    }
    // With the damping that its exact inverse takes, its inverse times its factor on H is the one for the prior itself.
    let kfac = case.exported(Peer::Curvlinops, Reduction::Sum, StructureKind::Kfac, &[1]);
    let convention = Convention::new(Peer::Curvlinops, Reduction::Sum, case.n as u64, K).unwrap();
    let mut damped = kfac.product("layers.1");
    let p = damped.len().isqrt();
    for i in 0..p {
        damped[i * (p + 1)] += convention.damping(case.of("lam")[0]);
    }
    let (found, _) = inverse(&damped);
    let found: Vec<f64> = found.iter().map(|v| v * convention.of_hessian()).collect();
    case.check("curvlinops_kfac_inv_exact_1", &found);
    for l in ALL {
        let ekfac = case.exported(Peer::Curvlinops, Reduction::Sum, StructureKind::Ekfac, &[l]);
        let [a, g, eigenvalues] =
            ["a_eigenvectors", "g_eigenvectors", "eigenvalues"].map(|of| ekfac.of(&format!("layers.{l}.{of}")));
        let damping = convention.damping(case.of("lam")[0]);
        let inverse: Vec<f64> = eigenvalues
            .values
            .iter()
            .map(|v| convention.of_hessian() / (v + damping))
            .collect();
        case.check(
            &format!("curvlinops_ekfac_inv_{l}"),
            &in_bases([a, g].map(|of| (of.values.as_slice(), of.shape[0])), &inverse),
        );
        for (reduction, name) in [(Reduction::Sum, "sum"), (Reduction::Mean, "mean")] {
            let ekfac = case.exported(Peer::Curvlinops, reduction, StructureKind::Ekfac, &[l]);
            case.check(
                &format!("curvlinops_{name}_ekfac_{l}"),
                ekfac.values(&format!("layers.{l}.eigenvalues")),
            );
        }
    }
}

/// `Q diag(d) Q^T` with `Q = kron(g, a)`, `d` `[out, in + 1]`: the same whichever signs the eigenvectors have.
fn in_bases([(a, inputs), (g, outputs)]: [(&[f64], usize); 2], d: &[f64]) -> Vec<f64> {
    let p = inputs * outputs;
    let q = kron(g, outputs, a, inputs, 1.0);
    let mut product = vec![0.0; p * p];
    for (row, out) in product.chunks_exact_mut(p).enumerate() {
        for (col, out) in out.iter_mut().enumerate() {
            *out = (0..p).map(|i| q[row * p + i] * d[i] * q[col * p + i]).sum();
        }
    }
    product
}

#[test]
fn kronfluence() {
    let case = Case::load();
    assert_eq!(case.of("kronfluence_num_covariance_processed")[0], case.n as f64);
    // It was run on the empirical Fisher: one gradient a spectrum, that of the loss.
    let residual: Vec<f64> = case.of("f").iter().zip(case.of("Y")).map(|(f, y)| f - y).collect();
    let captures = case.mlp.captures(case.of("X"), DType::F64);
    let of_loss: Vec<LayerCapture> = captures
        .iter()
        .map(|capture| {
            let outputs = case.mlp.shapes[capture.layer].outputs;
            let by_label: Vec<f64> = capture.output_grad.flatten_all().unwrap().to_vec1().unwrap();
            let grad: Vec<f64> = (0..case.n * outputs)
                .map(|at| {
                    let label = |k: usize| residual[at / outputs * K + k] * by_label[k * case.n * outputs + at];
                    (0..K).map(label).sum()
                })
                .collect();
            LayerCapture {
                output_grad: Tensor::from_vec(grad, (1, case.n, 1, outputs), &Device::Cpu).unwrap(),
                ..capture.clone()
            }
        })
        .collect();
    let convention = Convention::new(Peer::Kronfluence, Reduction::Sum, case.n as u64, K).unwrap();
    for l in ALL {
        let plan = case.plan(StructureKind::Kfac, &[l]);
        let ours = Tensors(convention.curvature(&plan, &case.sums(&plan, &of_loss, 1)).unwrap());
        case.check(
            &format!("kronfluence_ef_A_{l}"),
            ours.values(&format!("layers.{l}.activation_covariance")),
        );
        case.check(
            &format!("kronfluence_ef_G_{l}"),
            ours.values(&format!("layers.{l}.gradient_covariance")),
        );
        let plan = case.plan(StructureKind::Ekfac, &[l]);
        let ours = Tensors(convention.curvature(&plan, &case.sums(&plan, &of_loss, 1)).unwrap());
        case.check(
            &format!("kronfluence_ef_lambda_{l}"),
            ours.values(&format!("layers.{l}.lambda_matrix")),
        );
        let dense = case.plan(StructureKind::Block, &[l]);
        let refused = convention.curvature(&dense, &case.sums(&dense, &captures, K));
        assert!(matches!(refused, Err(PosteriorError::NoPeerForm { .. })));
    }
}

/// `hess_inv` is the inverse of the GGN that curvlinops returned for the mean, with the prior of that objective.
#[test]
fn scipy_inverts_the_hessian_of_the_mean() {
    let case = Case::load();
    let prior = case.of("lam")[0];
    let convention = Convention::new(Peer::Scipy, Reduction::Mean, case.n as u64, K).unwrap();
    let plan = case.plan(StructureKind::Full, &ALL);
    let curvature = case.sums(&plan, &case.mlp.captures(case.of("X"), DType::F64), K);
    let posterior = invert(&plan, curvature, prior, 1).unwrap();
    let found = Tensors(convention.inverse(&plan, &*posterior).unwrap());
    let p = plan.n_weights();
    // There is no such array but the peers' factor on the GGN: 2 / (N K), with the prior times the same.
    let factor = 2.0 / (case.n * K) as f64;
    let mut objective: Vec<f64> = case.of("ggn").iter().map(|v| factor * v).collect();
    for i in 0..p {
        objective[i * (p + 1)] += factor * prior;
    }
    let (expected, _) = inverse(&objective);
    let error = relative_error(found.values("layers.0+layers.1+layers.2.hess_inv"), &expected);
    assert!(error < TOLERANCE, "{error:e}");
}

/// The whole chain without any peer: the objective itself, differenced (it is quadratic, so that differences are exact), and inverted.
#[test]
fn scipy_inverts_the_hessian_of_its_objective() {
    const N: usize = 12;
    const D: usize = 4;
    const PRIOR: f64 = 0.7;
    let mlp = Mlp::random(&[D, K], 3);
    let mut numbers = Numbers::new(4);
    let x: Vec<f64> = (0..N * D).map(|_| numbers.next()).collect();
    let y: Vec<f64> = (0..N * K).map(|_| numbers.next()).collect();
    let p = K * (D + 1);
    // theta in torch's order: W, then b.
    let mean = |theta: &[f64]| {
        let mut sum = PRIOR * theta.iter().map(|v| v * v).sum::<f64>();
        for (x, y) in x.chunks_exact(D).zip(y.chunks_exact(K)) {
            for k in 0..K {
                let f: f64 = (0..D).map(|d| theta[k * D + d] * x[d]).sum::<f64>() + theta[K * D + k];
                sum += (f - y[k]).powi(2);
            }
        }
        sum / (N * K) as f64
    };
    let mut hessian = vec![0.0; p * p];
    for i in 0..p {
        for j in 0..p {
            let at = |si: f64, sj: f64| {
                let mut theta = vec![0.0; p];
                theta[i] += si;
                theta[j] += sj;
                mean(&theta)
            };
            hessian[i * p + j] = (at(1.0, 1.0) - at(1.0, -1.0) - at(-1.0, 1.0) + at(-1.0, -1.0)) / 4.0;
        }
    }
    let (expected, _) = inverse(&hessian);
    let plan = BlockPlan {
        id: 0,
        structure: StructureKind::Block,
        layers: vec![0],
        shapes: mlp.shapes.clone(),
        options: BlockOptions::default(),
    };
    let curvature = BlockCurvature {
        n_spectra: N as u64,
        form: CurvatureForm::Dense(Matrix {
            rows: p,
            cols: p,
            values: gram(&mlp.jacobian(&x, &[0])),
        }),
    };
    let posterior = invert(&plan, curvature, PRIOR, 1).unwrap();
    for (reduction, factor) in [(Reduction::Mean, 1.0), (Reduction::Sum, 1.0 / (N * K) as f64)] {
        let convention = Convention::new(Peer::Scipy, reduction, N as u64, K).unwrap();
        let found = Tensors(convention.inverse(&plan, &*posterior).unwrap());
        let expected: Vec<f64> = expected.iter().map(|v| factor * v).collect();
        assert!(relative_error(found.values("layers.0.hess_inv"), &expected) < 1e-10);
    }
}

#[test]
fn what_a_peer_does_not_do_is_said() {
    for (peer, reduction) in [
        (Peer::LaplaceTorch, Reduction::Mean),
        (Peer::Kronfluence, Reduction::Mean),
    ] {
        let error = Convention::new(peer, reduction, 10, K).unwrap_err();
        assert!(error.contains(peer.as_str()) && error.contains("mean"), "{error}");
    }
    for peer in Peer::ALL {
        assert_eq!(peer.as_str().parse::<Peer>(), Ok(peer));
        assert!(Convention::new(peer, peer.reductions()[0], 10, K).is_ok());
    }
    assert!("pytorch".parse::<Peer>().unwrap_err().contains("laplace-torch"));
}
