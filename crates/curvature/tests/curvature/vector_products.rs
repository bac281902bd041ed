//! Products with vectors, gradients, the empirical Fisher and the true Hessian: against differences, dense matrices and one another.

use std::collections::BTreeMap;

use fisherflow_curvature::{
    BlockOptions, BlockPower, BlockSums, CurvatureError, CurvatureForm, LabelPrecision, LowRank, Matrix, ProductSums,
    References, Structure, StructureKind, add_ggn_products, add_gradient, add_hessian_products, add_residual_curvature,
    gradient_captures, plan_blocks, structure_of,
};
use fisherflow_network::{
    Arithmetic, Description, Forward, InputJacobian, LayerCapture, Network, Precision, WeightDirections,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::brute_force::{Between, Mlp, block, dense, label_covariances, layers_of, normal, relative_error, spectra};

const IDENTITY: [f64; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];

/// A network, its batch differentiated, and label minus output.
struct Case {
    network: Network,
    forward: Forward,
    captures: Vec<LayerCapture>,
    precision: LabelPrecision,
    residuals: Vec<f64>,
}

/// The network of an [`Mlp`]'s weights.
fn network(mlp: &Mlp, activation: &str, precision: Precision, threads: usize) -> Network {
    let tensors: Vec<(String, Vec<u8>, Vec<usize>)> = mlp
        .layers
        .iter()
        .enumerate()
        .flat_map(|(l, layer)| {
            let bytes = |values: Vec<f64>| values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let rows = layer.weights.chunks_exact(layer.inputs + 1);
            let weight = rows.clone().flat_map(|row| &row[..layer.inputs]).copied().collect();
            let bias = rows.map(|row| row[layer.inputs]).collect();
            [
                (format!("{l}.weight"), bytes(weight), vec![layer.outputs, layer.inputs]),
                (format!("{l}.bias"), bytes(bias), vec![layer.outputs]),
            ]
        })
        .collect();
    let views = tensors.iter().map(|(name, data, shape)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F64, shape.clone(), data).unwrap();
        (name, view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    let layers = ["dense", activation].repeat(mlp.layers.len());
    let said = Description {
        layers: Some(layers[..layers.len() - 1].iter().map(|&l| l.to_owned()).collect()),
        ..Description::default()
    };
    Network::from_safetensors(&bytes, &said, Arithmetic { precision, threads }).unwrap()
}

/// A random network of three layers, 9 spectra whose labels' precisions all differ, and residuals that are not small.
fn random(activation: &str, precision: Precision, threads: usize) -> (Case, Mlp, Vec<Vec<f64>>) {
    let mlp = Mlp::random(&[7, 6, 5, 3], Between::Relu, 3);
    let case = Case::of(&mlp, activation, precision, threads);
    (case, mlp, spectra(9, 7, 4))
}

impl Case {
    /// With the weights of a network like that of [`random`].
    fn of(mlp: &Mlp, activation: &str, precision: Precision, threads: usize) -> Self {
        let network = network(mlp, activation, precision, threads);
        let forward = network.forward(&spectra(9, 7, 4).concat()).unwrap();
        let captures = network.backward(&forward, InputJacobian::NotWanted).unwrap().captures;
        let labels = normal(&mut ChaCha8Rng::seed_from_u64(5), 27);
        let outputs = forward.labels(&network).unwrap();
        let precision = LabelPrecision::per_spectrum(
            &[0.4, 0.1, 0.0, 0.1, 0.5, 0.0, 0.0, 0.0, 0.6],
            Some(&label_covariances(9, 3, 6)),
            9,
        );
        Self {
            network,
            forward,
            captures,
            precision: precision.unwrap(),
            residuals: labels.iter().zip(outputs).map(|(label, f)| label - f).collect(),
        }
    }

    fn directions(&self, layers: &[usize], values: &[f64]) -> (WeightDirections, ProductSums) {
        let shapes: Vec<_> = layers.iter().map(|&l| self.network.dense_layers()[l].clone()).collect();
        let directions = WeightDirections::new(layers, &shapes, values, &self.network.arithmetic()).unwrap();
        let sums = ProductSums::empty(layers, &shapes, directions.count());
        (directions, sums)
    }

    fn ggn_products(&self, layers: &[usize], values: &[f64]) -> Vec<f64> {
        let (directions, mut sums) = self.directions(layers, values);
        let threads = self.network.arithmetic().threads;
        add_ggn_products(&self.captures, &self.precision, &directions, &mut sums, threads).unwrap();
        assert_eq!(sums.n_spectra, self.precision.batch() as u64);
        sums.products().unwrap()
    }

    fn hessian_products(&self, layers: &[usize], values: &[f64]) -> Vec<f64> {
        let (directions, mut sums) = self.directions(layers, values);
        let passes = (&self.forward, self.captures.as_slice());
        add_hessian_products(
            &self.network,
            passes,
            &self.precision,
            &self.residuals,
            &directions,
            &mut sums,
        )
        .unwrap();
        sums.products().unwrap()
    }

    fn gradient(&self) -> Vec<f64> {
        let shapes = self.network.dense_layers();
        let layers: Vec<usize> = (0..shapes.len()).collect();
        let mut sums = ProductSums::empty(&layers, shapes, 1);
        add_gradient(&self.captures, &self.precision, &self.residuals, &mut sums, 1).unwrap();
        sums.products().unwrap()
    }

    fn ggn_sums(&self, structure: StructureKind, layers: &[usize]) -> BlockSums {
        let shapes = self.network.dense_layers();
        let structure = structure_of(&block(shapes, structure, layers), &References::zero(shapes, 3), 3, 1).unwrap();
        let mut sums = structure.empty().unwrap();
        structure
            .accumulate(&self.captures, &self.precision, &mut sums)
            .unwrap();
        sums
    }

    /// The dense GGN or true Hessian of some layers.
    fn matrix(&self, layers: &[usize], hessian: bool) -> Matrix {
        let shapes = self.network.dense_layers();
        let plan = block(shapes, StructureKind::Full, layers);
        let mut sums = self.ggn_sums(StructureKind::Full, layers);
        if hessian {
            add_residual_curvature(
                &plan,
                &self.network,
                &self.forward,
                &self.precision,
                &self.residuals,
                &mut sums,
            )
            .unwrap();
        }
        assert_eq!(sums.n_spectra, self.precision.batch() as u64);
        let structure = structure_of(&plan, &References::zero(shapes, 3), 3, 1).unwrap();
        dense(&structure.curvature(&sums).unwrap()).clone()
    }
}

/// `[n, p]` times a symmetric `[p, p]`.
fn times(vectors: &[f64], matrix: &Matrix) -> Vec<f64> {
    let p = matrix.rows;
    vectors
        .chunks_exact(p)
        .flat_map(|v| {
            matrix
                .values
                .chunks_exact(p)
                .map(move |row| row.iter().zip(v).map(|(h, v)| h * v).sum())
        })
        .collect()
}

fn error(found: &[f64], expected: &[f64]) -> f64 {
    let row = |values: &[f64]| Matrix {
        rows: 1,
        cols: values.len(),
        values: values.to_vec(),
    };
    relative_error(&row(found), &row(expected))
}

/// Central differences of the gradient `- sum_n J_n^T Lam_n r_n`, weight after weight.
#[test]
fn the_hessian_is_the_difference_of_the_gradient() {
    const STEP: f64 = 1e-6;
    for activation in ["tanh", "gelu", "relu"] {
        let (case, mut mlp, _) = random(activation, Precision::F64, 1);
        let mut values = Vec::new();
        for layer in 0..mlp.layers.len() {
            for weight in 0..mlp.layers[layer].weights.len() {
                let here = mlp.layers[layer].weights[weight];
                let [above, below] = [here + STEP, here - STEP].map(|moved| {
                    mlp.layers[layer].weights[weight] = moved;
                    Case::of(&mlp, activation, Precision::F64, 1).gradient()
                });
                mlp.layers[layer].weights[weight] = here;
                values.extend(
                    above
                        .iter()
                        .zip(below)
                        .map(|(above, below)| (below - above) / (2.0 * STEP)),
                );
            }
        }
        let hessian = case.matrix(&[0, 1, 2], true);
        let differences = Matrix {
            values,
            ..hessian.clone()
        };
        let error = relative_error(&hessian, &differences);
        assert!(error < 1e-7, "{activation}: {error:e}");
        assert!(relative_error(&case.matrix(&[0, 1, 2], false), &differences) > 1e-3);
    }
}

#[test]
fn ggn_products_are_those_of_the_dense_matrix() {
    for (precision, tolerance) in [(Precision::F64, 1e-12), (Precision::F32, 1e-5)] {
        let (case, mlp, x) = random("relu", precision, 1);
        let ggn = mlp.ggn(&x, &case.precision);
        for layers in [&[0, 1, 2][..], &[1], &[0, 2]] {
            let some = layers_of(&ggn, case.network.dense_layers(), layers);
            let v = normal(&mut ChaCha8Rng::seed_from_u64(9), 4 * some.rows);
            assert!(error(&case.ggn_products(layers, &v), &times(&v, &some)) < tolerance);
        }
    }
}

#[test]
fn hessian_products_are_those_of_the_dense_matrix() {
    for activation in ["tanh", "gelu", "relu"] {
        let (case, ..) = random(activation, Precision::F64, 1);
        for layers in [&[0, 1, 2][..], &[1], &[0, 2]] {
            let hessian = case.matrix(layers, true);
            let v = normal(&mut ChaCha8Rng::seed_from_u64(9), 4 * hessian.rows);
            assert!(
                error(&case.hessian_products(layers, &v), &times(&v, &hessian)) < 1e-12,
                "{activation}"
            );
        }
    }
}

/// Behind one layer a network of piecewise linear activations is linear in that layer's weights: its block has no residual part. Between
/// layers it has one.
#[test]
fn blocks_of_a_piecewise_linear_network_are_those_of_the_ggn() {
    for activation in ["relu", "leaky_relu(0.01)"] {
        let (case, ..) = random(activation, Precision::F64, 1);
        for layer in 0..3 {
            let (ggn, hessian) = (case.matrix(&[layer], false), case.matrix(&[layer], true));
            assert!(relative_error(&hessian, &ggn) < 1e-10);
        }
        let (ggn, hessian) = (case.matrix(&[0, 1, 2], false), case.matrix(&[0, 1, 2], true));
        assert!(relative_error(&hessian, &ggn) > 1e-3);
    }
    let (case, ..) = random("tanh", Precision::F64, 1);
    assert!(relative_error(&case.matrix(&[0], true), &case.matrix(&[0], false)) > 1e-3);
}

/// `sum_n (J^T Lam r)(J^T Lam r)^T` from the gradients of single spectra.
#[test]
fn the_empirical_fisher_is_the_gram_matrix_of_gradients() {
    let (case, mlp, x) = random("relu", Precision::F64, 1);
    let seeds = case.precision.times(&case.residuals).unwrap();
    let p: usize = mlp.layers.iter().map(|l| l.weights.len()).sum();
    let mut expected = vec![0.0; p * p];
    for (x, seeds) in x.iter().zip(seeds.chunks(3)) {
        let jacobian = mlp.jacobian(x);
        let g: Vec<f64> = (0..p)
            .map(|i| (0..3).map(|k| seeds[k] * jacobian[k][i]).sum())
            .collect();
        (0..p * p).for_each(|at| expected[at] += g[at / p] * g[at % p]);
    }
    let captures = gradient_captures(&case.captures, &case.precision, &case.residuals).unwrap();
    let one = LabelPrecision::constant(&[1.0], 9).unwrap();
    let (shapes, plan) = (mlp.shapes(), block(&mlp.shapes(), StructureKind::Full, &[0, 1, 2]));
    let structure = structure_of(&plan, &References::zero(&shapes, 1), 1, 1).unwrap();
    let mut sums = structure.empty().unwrap();
    structure.accumulate(&captures, &one, &mut sums).unwrap();
    let expected = Matrix {
        rows: p,
        cols: p,
        values: expected,
    };
    assert!(relative_error(dense(&structure.curvature(&sums).unwrap()), &expected) < 1e-12);
}

/// Eigenpairs by products, the diagonal by sums: both those of the dense matrix.
#[test]
fn a_low_rank_block_has_the_leading_eigenpairs_and_the_diagonal() {
    let (case, mlp, x) = random("relu", Precision::F64, 1);
    let shapes = case.network.dense_layers();
    let plan = &plan_blocks(
        shapes,
        StructureKind::LowRank,
        &BTreeMap::new(),
        BlockOptions::default(),
    )
    .unwrap()[0];
    assert_eq!(plan.layers, [0, 1, 2]);
    let ggn = mlp.ggn(&x, &case.precision);
    let p = ggn.rows;
    let mut power = BlockPower::new(p, 20, 4);
    while power.found().is_none() {
        power.step(&case.ggn_products(&[0, 1, 2], &power.directions())).unwrap();
    }
    let structure = LowRank::new(plan, power.found(), 3, 1);
    let mut sums = structure.empty().unwrap();
    structure
        .accumulate(&case.captures, &case.precision, &mut sums)
        .unwrap();
    let found = structure.curvature(&sums).unwrap();
    assert_eq!((found.n_spectra, x.len()), (9, 9));
    let CurvatureForm::LowRank {
        eigenvectors,
        eigenvalues,
        residuals,
        diagonal,
    } = &found.form
    else {
        panic!("{found:?}")
    };
    let on_diagonal: Vec<f64> = (0..p).map(|i| ggn.values[i * (p + 1)]).collect();
    assert!(error(diagonal, &on_diagonal) < 1e-12);
    for pair in 0..20 {
        let u: Vec<f64> = (0..p).map(|i| eigenvectors.values[i * 20 + pair]).collect();
        let length: f64 = u.iter().map(|u| u * u).sum();
        assert!((length - 1.0).abs() < 1e-12);
        let product = times(&u, &ggn);
        let off = product.iter().zip(&u).map(|(hu, u)| hu - eigenvalues[pair] * u);
        let residual = off.map(|x| x * x).sum::<f64>().sqrt();
        assert!((residual - residuals[pair]).abs() < 1e-11 * eigenvalues[0]);
    }
    // 9 spectra of 3 labels: 27 eigenvalues in all, and the first 20 hold nearly the whole trace.
    let (held, trace): (f64, f64) = (eigenvalues.iter().sum(), on_diagonal.iter().sum());
    assert!(held < trace && held > 0.9 * trace);

    let without = structure_of(plan, &References::zero(shapes, 3), 3, 1).unwrap();
    assert!(matches!(
        without.curvature(&sums),
        Err(CurvatureError::NoEigenpairs { .. })
    ));
}

#[test]
fn threads_change_no_bit_and_sums_merge() {
    let p = 48 + 35 + 18;
    let v = normal(&mut ChaCha8Rng::seed_from_u64(9), 3 * p);
    let (one, more) = (random("silu", Precision::F32, 1).0, random("silu", Precision::F32, 3).0);
    assert_eq!(one.ggn_products(&[0, 1, 2], &v), more.ggn_products(&[0, 1, 2], &v));
    assert_eq!(
        one.hessian_products(&[0, 1, 2], &v),
        more.hessian_products(&[0, 1, 2], &v)
    );
    let (directions, mut sums) = one.directions(&[0, 1, 2], &v);
    add_ggn_products(&one.captures, &one.precision, &directions, &mut sums, 1).unwrap();
    let single = sums.clone();
    sums.merge(&single).unwrap();
    assert_eq!(sums.n_spectra, 18);
    let twice: Vec<f64> = single.products().unwrap().iter().map(|x| 2.0 * x).collect();
    assert_eq!(sums.products().unwrap(), twice);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (case, ..) = random("tanh", Precision::F64, 1);
    let (directions, mut sums) = case.directions(&[1], &[1.0; 35]);
    let (_, mut other) = case.directions(&[0], &[1.0; 48]);
    assert!(matches!(
        sums.merge(&other),
        Err(CurvatureError::ProductSumsDiffer { .. })
    ));
    let refused = add_ggn_products(&case.captures, &case.precision, &directions, &mut other, 1);
    assert!(matches!(refused, Err(CurvatureError::ProductSumsDiffer { .. })));
    let refused = add_gradient(&case.captures, &case.precision, &case.residuals[1..], &mut sums, 1);
    assert!(matches!(refused, Err(CurvatureError::LabelShape { .. })));
    let refused = gradient_captures(
        &case.captures,
        &LabelPrecision::constant(&IDENTITY, 8).unwrap(),
        &[0.0; 24],
    );
    assert!(matches!(refused, Err(CurvatureError::CaptureShape { .. })));
    let plan = block(case.network.dense_layers(), StructureKind::Kfac, &[1]);
    let mut sums = case.ggn_sums(StructureKind::Kfac, &[1]);
    let refused = add_residual_curvature(
        &plan,
        &case.network,
        &case.forward,
        &case.precision,
        &case.residuals,
        &mut sums,
    );
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("`kfac`") && said.contains("`full` or `block`"), "{said}");
}
