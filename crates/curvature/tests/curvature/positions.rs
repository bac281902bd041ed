//! Layers that use their weights at several positions of a spectrum, of drawn inputs and gradients, against plain sums over positions and over
//! rows of the weight Jacobian: whatever the bias, the references, the label precisions and the options.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use fisherflow_curvature::{
    BlockOptions, BlockPlan, CurvatureForm, KroneckerBases, LabelPrecision, Matrix, ProductSums, References,
    StructureKind, WeightJacobian, WeightSharing, add_ggn_products, add_gradient, correction_flops, correction_of,
    plan_blocks, structure_of,
};
use fisherflow_network::{Arithmetic, DenseShape, LayerCapture, Precision, WeightDirections};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::brute_force::{block, dense, diagonal, kronecker, label_covariances, normal, relative_error, sums};

const N: usize = 7;
const K: usize = 3;
const POSITIONS: usize = 5;
const NOISE: [f64; 9] = [0.5, 0.1, 0.0, 0.1, 0.4, -0.1, 0.0, -0.1, 0.6];

/// A layer, and what was drawn for it.
struct Case {
    shape: DenseShape,
    /// `a [n, positions, in]`.
    input: Vec<f64>,
    /// `g [K, n, positions, out]`.
    gradients: Vec<f64>,
    precision: LabelPrecision,
    references: References,
}

impl Case {
    fn new(shared: usize, bias: bool) -> Self {
        Self::of(3, 4, shared, bias)
    }

    fn of(inputs: usize, outputs: usize, shared: usize, bias: bool) -> Self {
        let shape = DenseShape {
            name: "layers.0".to_owned(),
            inputs,
            outputs,
            bias,
            shared,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(71);
        let mut references = References::zero(std::slice::from_ref(&shape), K);
        references.input_mean[0] = normal(&mut rng, shape.inputs);
        references.gradient_mean[0] = normal(&mut rng, K * shape.outputs);
        Self {
            input: normal(&mut rng, N * shared * shape.inputs),
            gradients: normal(&mut rng, K * N * shared * shape.outputs),
            precision: LabelPrecision::per_spectrum(&NOISE, Some(&label_covariances(N, K, 72)), N).unwrap(),
            shape,
            references,
        }
    }

    fn captures(&self) -> Vec<LayerCapture> {
        vec![self.capture(0, DType::F64)]
    }

    /// As of the layer counted `layer`.
    fn capture(&self, layer: usize, dtype: DType) -> LayerCapture {
        let DenseShape {
            inputs,
            outputs,
            shared,
            ..
        } = self.shape;
        let tensor = |values: &[f64], dims: Vec<usize>| {
            let tensor = Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
            tensor.to_dtype(dtype).unwrap()
        };
        LayerCapture {
            layer,
            input: tensor(&self.input, vec![N, shared, inputs]),
            output_grad: tensor(&self.gradients, vec![K, N, shared, outputs]),
        }
    }

    /// `[a; 1]` of a position, or `a` where there is no bias.
    fn input(&self, star: usize, position: usize) -> Vec<f64> {
        let at = star * self.shape.shared + position;
        let mut input = self.input[at * self.shape.inputs..][..self.shape.inputs].to_vec();
        input.extend(self.shape.bias.then_some(1.0));
        input
    }

    fn gradient(&self, label: usize, star: usize, position: usize) -> &[f64] {
        let at = (label * N + star) * self.shape.shared + position;
        &self.gradients[at * self.shape.outputs..][..self.shape.outputs]
    }

    /// The row of the weight Jacobian: a sum over positions.
    fn row(&self, star: usize, label: usize) -> Vec<f64> {
        let mut row = vec![0.0; self.shape.n_weights()];
        for position in 0..self.shape.shared {
            let input = self.input(star, position);
            for (o, g) in self.gradient(label, star, position).iter().enumerate() {
                for (i, a) in input.iter().enumerate() {
                    row[o * input.len() + i] += g * a;
                }
            }
        }
        row
    }

    fn ggn(&self) -> Matrix {
        ggn(&rows(std::slice::from_ref(self)), &self.precision)
    }

    /// Where each weight is a bias.
    fn biases(&self) -> Vec<bool> {
        let columns = self.shape.columns();
        let is_bias = |weight: usize| self.shape.bias && weight % columns == columns - 1;
        (0..self.shape.n_weights()).map(is_bias).collect()
    }

    /// `S_A`, `S_G` and the number of their terms.
    fn factors(&self, sharing: WeightSharing) -> (Matrix, Matrix, usize) {
        let (columns, outputs, shared) = (self.shape.columns(), self.shape.outputs, self.shape.shared);
        let (mut a, mut g) = (
            square(columns, vec![0.0; columns * columns]),
            square(outputs, vec![0.0; outputs * outputs]),
        );
        let mut terms = 0;
        let all: Vec<usize> = (0..shared).collect();
        for star in 0..N {
            // What is averaged, and summed, together.
            let together: Vec<&[usize]> = match sharing {
                WeightSharing::Expand => all.chunks(1).collect(),
                WeightSharing::Reduce => vec![&all],
            };
            for positions in together {
                let mut input = vec![0.0; columns];
                let mut gradients = vec![vec![0.0; outputs]; K];
                for &position in positions {
                    for (sum, a) in input.iter_mut().zip(self.input(star, position)) {
                        *sum += a / positions.len() as f64;
                    }
                    for (label, sum) in gradients.iter_mut().enumerate() {
                        let gradient = self.gradient(label, star, position);
                        sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                    }
                }
                add_outer(&mut a, 1.0, &input, &input);
                for (at, lam) in self.precision.lam[star * K * K..][..K * K].iter().enumerate() {
                    add_outer(&mut g, *lam, &gradients[at / K], &gradients[at % K]);
                }
                terms += 1;
            }
        }
        (a, g, terms)
    }

    fn plan(&self, structure: StructureKind) -> BlockPlan {
        block(std::slice::from_ref(&self.shape), structure, &[0])
    }

    fn batches(&self) -> Vec<(Vec<LayerCapture>, LabelPrecision)> {
        vec![(self.captures(), self.precision.clone())]
    }
}

/// Rows of the weight Jacobian of layers side by side, `[N * K]`.
fn rows(layers: &[Case]) -> Vec<Vec<f64>> {
    (0..N * K)
        .map(|at| layers.iter().flat_map(|layer| layer.row(at / K, at % K)).collect())
        .collect()
}

/// `sum_n J_n^T Lam_n J_n`.
fn ggn(rows: &[Vec<f64>], precision: &LabelPrecision) -> Matrix {
    let p = rows[0].len();
    let mut h = square(p, vec![0.0; p * p]);
    for (of_star, lam) in rows.chunks_exact(K).zip(precision.lam.chunks_exact(K * K)) {
        for (at, lam) in lam.iter().enumerate() {
            add_outer(&mut h, *lam, &of_star[at / K], &of_star[at % K]);
        }
    }
    h
}

fn square(n: usize, values: Vec<f64>) -> Matrix {
    Matrix {
        rows: n,
        cols: n,
        values,
    }
}

fn add_outer(to: &mut Matrix, weight: f64, x: &[f64], y: &[f64]) {
    for (row, x) in to.values.chunks_exact_mut(to.cols).zip(x) {
        row.iter_mut().zip(y).for_each(|(to, y)| *to += weight * x * y);
    }
}

/// An orthogonal matrix: drawn columns, each less what lies along those before it.
fn orthogonal(n: usize, seed: u64) -> Matrix {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut columns: Vec<Vec<f64>> = Vec::new();
    for _ in 0..n {
        let mut column = normal(&mut rng, n);
        for _ in 0..2 {
            for other in &columns {
                let along: f64 = column.iter().zip(other).map(|(x, y)| x * y).sum();
                column.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
        }
        let norm = column.iter().map(|x| x * x).sum::<f64>().sqrt();
        columns.push(column.iter().map(|x| x / norm).collect());
    }
    square(n, (0..n * n).map(|at| columns[at % n][at / n]).collect())
}

fn cases() -> impl Iterator<Item = Case> {
    [(1, true), (1, false), (POSITIONS, true), (POSITIONS, false)]
        .into_iter()
        .map(|(shared, bias)| Case::new(shared, bias))
}

#[test]
fn kronecker_factors_are_sums_of_their_terms_about_any_reference() {
    for case in cases() {
        for sharing in [WeightSharing::Expand, WeightSharing::Reduce] {
            let (expected_a, expected_g, terms) = case.factors(sharing);
            for split_bias in [false, true] {
                let mut plan = case.plan(StructureKind::Kfac);
                plan.options.weight_sharing = sharing;
                plan.options.split_bias = split_bias;
                assert_eq!(plan.terms_a_spectrum() as usize * N, terms);
                let mut expected = expected_a.clone();
                let last = case.shape.inputs;
                if split_bias && case.shape.bias {
                    for i in 0..last {
                        expected.values[i * (last + 1) + last] = 0.0;
                        expected.values[last * (last + 1) + i] = 0.0;
                    }
                }
                let zero = References::zero(&plan.shapes, K);
                for references in [&zero, &case.references] {
                    let (summed, structure) = sums(&plan, &case.batches(), references, 1);
                    let found = structure.curvature(&summed).unwrap();
                    let (a, g) = kronecker(&found);
                    let about = format!("{:?} {sharing:?} {split_bias}", case.shape);
                    assert!(relative_error(a, &expected) < 1e-13, "S_A: {about}");
                    assert!(relative_error(g, &expected_g) < 1e-13, "S_G: {about}");
                    assert_eq!(found.n_spectra, N as u64);
                    if case.shape.bias {
                        assert_eq!(*a.values.last().unwrap(), terms as f64);
                    }
                }
            }
        }
    }
}

#[test]
fn exact_structures_are_of_the_rows_of_the_jacobian() {
    for case in cases() {
        let (expected, p) = (case.ggn(), case.shape.n_weights());
        let of = |plan: &BlockPlan| {
            let (summed, structure) = sums(plan, &case.batches(), &case.references, 1);
            structure.curvature(&summed).unwrap()
        };
        let whole = of(&case.plan(StructureKind::Block));
        assert!(relative_error(dense(&whole), &expected) < 1e-13, "{:?}", case.shape);

        let mut plan = case.plan(StructureKind::Block);
        plan.options.split_bias = true;
        let biases = case.biases();
        let apart = (0..p * p).map(|at| match biases[at / p] == biases[at % p] {
            true => expected.values[at],
            false => 0.0,
        });
        let found = of(&plan);
        assert!(relative_error(dense(&found), &square(p, apart.collect())) < 1e-13);

        let found = of(&case.plan(StructureKind::Diagonal));
        let of_diagonal = Matrix {
            values: (0..p).map(|i| expected.values[i * (p + 1)]).collect(),
            ..diagonal(&found).clone()
        };
        assert!(relative_error(diagonal(&found), &of_diagonal) < 1e-13);

        // Products with all unit vectors.
        let units: Vec<f64> = (0..p * p).map(|at| f64::from(u8::from(at % (p + 1) == 0))).collect();
        let shapes = std::slice::from_ref(&case.shape);
        let arithmetic = Arithmetic {
            precision: Precision::F64,
            threads: 1,
        };
        let directions = WeightDirections::new(&[0], shapes, &units, &arithmetic).unwrap();
        let mut products = ProductSums::empty(&[0], shapes, p);
        add_ggn_products(&case.captures(), &case.precision, &directions, &mut products, 1).unwrap();
        assert_eq!(products.n_spectra, N as u64);
        let mut twice = products.clone();
        twice.merge(&products).unwrap();
        assert_eq!(twice.n_spectra, 2 * N as u64);
        assert!(relative_error(&square(p, products.products().unwrap()), &expected) < 1e-13);
    }
}

/// Large enough for products to be shared among threads.
#[test]
fn sums_do_not_depend_on_threads_or_the_cut_into_batches() {
    let case = Case::of(40, 24, 100, true);
    let precision = |stars: Range<usize>| {
        let own = label_covariances(N, K, 72);
        let own = &own[stars.start * K * K..stars.end * K * K];
        LabelPrecision::per_spectrum(&NOISE, Some(own), stars.len()).unwrap()
    };
    let batch = |stars: Range<usize>| {
        let at: Vec<u32> = stars.clone().map(|star| star as u32).collect();
        let at = Tensor::new(at.as_slice(), &Device::Cpu).unwrap();
        (vec![case.captures()[0].select(&at).unwrap()], precision(stars))
    };
    for sharing in [WeightSharing::Expand, WeightSharing::Reduce] {
        let mut plan = case.plan(StructureKind::Kfac);
        plan.options.weight_sharing = sharing;
        let (one, structure) = sums(&plan, &case.batches(), &case.references, 1);
        assert_eq!(one, sums(&plan, &case.batches(), &case.references, 3).0);
        let cut = sums(&plan, &[batch(0..3), batch(3..N)], &case.references, 1).0;
        let [expected, found] = [&one, &cut].map(|sums| structure.curvature(sums).unwrap());
        assert!(relative_error(kronecker(&found).0, kronecker(&expected).0) < 1e-13);
        assert!(relative_error(kronecker(&found).1, kronecker(&expected).1) < 1e-13);
    }
    let corrected = |threads: usize| {
        let bases = KroneckerBases::new(orthogonal(case.shape.columns(), 73), orthogonal(case.shape.outputs, 74));
        let plan = case.plan(StructureKind::Ekfac);
        let correction = correction_of(&plan, &case.references, Arc::new(bases), K, threads).unwrap();
        let mut summed = correction.empty().unwrap();
        for dtype in [DType::F64, DType::F32] {
            let captures = [case.capture(0, dtype)];
            correction.accumulate(&captures, &case.precision, &mut summed).unwrap();
        }
        summed
    };
    assert_eq!(corrected(1), corrected(3));
}

/// Cross terms of a layer whose weights 100 positions share with one that has but one; products with so many directions that they are taken a few
/// spectra at a time.
#[test]
fn layers_side_by_side_have_cross_terms_products_and_a_gradient() {
    const TIMES: usize = 100;
    for bias in [true, false] {
        let layers = [Case::new(100, bias), Case::new(1, bias)];
        let shapes: Vec<DenseShape> = layers.iter().map(|layer| layer.shape.clone()).collect();
        let captures = |dtype| -> Vec<LayerCapture> {
            let captures = layers.iter().enumerate();
            captures.map(|(layer, case)| case.capture(layer, dtype)).collect()
        };
        let (rows, precision) = (rows(&layers), &layers[0].precision);
        let (expected, p) = (ggn(&rows, precision), rows[0].len());
        let batches = [(captures(DType::F64), precision.clone())];
        let full = block(&shapes, StructureKind::Full, &[0, 1]);
        let (summed, structure) = sums(&full, &batches, &References::zero(&shapes, K), 2);
        assert!(relative_error(dense(&structure.curvature(&summed).unwrap()), &expected) < 1e-13);

        let units: Vec<f64> = (0..TIMES * p * p)
            .map(|at| f64::from(u8::from(at % (p * p) % (p + 1) == 0)))
            .collect();
        let residuals = normal(&mut ChaCha8Rng::seed_from_u64(75), N * K);
        let mut gradient = Matrix {
            rows: 1,
            cols: p,
            values: vec![0.0; p],
        };
        for (row, weight) in rows.iter().zip(precision.times(&residuals).unwrap()) {
            add_outer(&mut gradient, weight, &[1.0], row);
        }
        for (dtype, of_network, tolerance) in [(DType::F64, Precision::F64, 1e-12), (DType::F32, Precision::F32, 1e-5)]
        {
            let captures = captures(dtype);
            let arithmetic = Arithmetic {
                precision: of_network,
                threads: 1,
            };
            let directions = WeightDirections::new(&[0, 1], &shapes, &units, &arithmetic).unwrap();
            let [found, again] = [1, 3].map(|threads| {
                let mut products = ProductSums::empty(&[0, 1], &shapes, TIMES * p);
                add_ggn_products(&captures, precision, &directions, &mut products, threads).unwrap();
                products.products().unwrap()
            });
            assert!(found == again, "bits do not depend on threads");
            for found in found.chunks_exact(p * p) {
                let error = relative_error(&square(p, found.to_vec()), &expected);
                assert!(error < tolerance, "{dtype:?} {bias}: {error:e}");
            }
            let mut sums = ProductSums::empty(&[0, 1], &shapes, 1);
            add_gradient(&captures, precision, &residuals, &mut sums, 2).unwrap();
            let found = Matrix {
                values: sums.products().unwrap(),
                ..gradient.clone()
            };
            let error = relative_error(&found, &gradient);
            assert!(error < tolerance, "{dtype:?} {bias}: {error:e}");
        }
    }
}

/// `Lambda_ij = sum_n sum_kl Lam_n,kl (u_i . J_nk v_j) (u_i . J_nl v_j)`, the rows of the Jacobian as matrices `[out, columns]`.
#[test]
fn corrected_eigenvalues_are_those_of_the_rows_in_any_bases() {
    let mut unscaled = Case::new(POSITIONS, true);
    for input in unscaled.input.chunks_exact_mut(unscaled.shape.inputs) {
        input[0] *= 1e5;
    }
    for case in cases().chain([unscaled]) {
        let (columns, outputs) = (case.shape.columns(), case.shape.outputs);
        let (v, u) = (orthogonal(columns, 73), orthogonal(outputs, 74));
        let h = case.ggn();
        let turned = |i: usize, j: usize| -> Vec<f64> {
            let element = |at: usize| u.values[at / columns * outputs + i] * v.values[at % columns * columns + j];
            (0..h.rows).map(element).collect()
        };
        let mut values = Vec::new();
        for i in 0..outputs {
            for j in 0..columns {
                let direction = turned(i, j);
                let row = |row: &[f64]| -> f64 { row.iter().zip(&direction).map(|(h, x)| h * x).sum() };
                let image = h.values.chunks_exact(h.cols).map(row);
                values.push(image.zip(&direction).map(|(y, x)| x * y).sum());
            }
        }
        let expected = Matrix {
            rows: outputs,
            cols: columns,
            values,
        };
        let bases = Arc::new(KroneckerBases::new(v, u));
        let plan = case.plan(StructureKind::Ekfac);
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-5)] {
            let captures = [case.capture(0, dtype)];
            let correction = correction_of(&plan, &case.references, Arc::clone(&bases), K, 1).unwrap();
            let mut summed = correction.empty().unwrap();
            correction.accumulate(&captures, &case.precision, &mut summed).unwrap();
            let found = correction.curvature(&summed).unwrap();
            assert_eq!(found.n_spectra, N as u64);
            let CurvatureForm::Eigenbasis { eigenvalues, .. } = found.form else {
                panic!("not in an eigenbasis");
            };
            let error = relative_error(&eigenvalues, &expected);
            assert!(error < tolerance, "{:?} {dtype:?}: {error:e}", case.shape);
        }
    }
}

/// Kept as two sides or summed, the rows are `F_n^T J_n`, and their sides say how many weights there are.
#[test]
fn kept_rows_have_the_ggn_for_their_gram_matrix() {
    for case in cases() {
        let (p, plan) = (case.shape.n_weights(), case.plan(StructureKind::Dual));
        let kept = WeightJacobian::new(&plan, &case.captures(), &case.precision).unwrap();
        let sides = &kept.layers()[0];
        assert_eq!(sides.gradients.cols * sides.columns(), p, "{:?}", case.shape);
        let mut found = square(p, vec![0.0; p * p]);
        for (row, gradient) in sides.gradients.values.chunks_exact(sides.gradients.cols).enumerate() {
            let mut input = sides.inputs.values[row / K * sides.inputs.cols..][..sides.inputs.cols].to_vec();
            if sides.one() == 1.0 {
                input.push(1.0);
            }
            let whole: Vec<f64> = gradient.iter().flat_map(|g| input.iter().map(move |a| g * a)).collect();
            add_outer(&mut found, 1.0, &whole, &whole);
        }
        assert!(relative_error(&found, &case.ggn()) < 1e-13, "{:?}", case.shape);
    }
}

#[test]
fn rows_of_a_large_shared_layer_are_refused() {
    let shape = |inputs, shared| DenseShape {
        name: "layers.0".to_owned(),
        inputs,
        outputs: 256,
        bias: true,
        shared,
    };
    let dual = |shape| plan_blocks(&[shape], StructureKind::Dual, &BTreeMap::new(), BlockOptions::default());
    assert!(dual(shape(255, 9)).is_ok() && dual(shape(4000, 1)).is_ok());
    let error = dual(shape(256, 9)).unwrap_err().to_string();
    assert!(
        error.contains("`layers.0` shares 65792 weights") && error.contains("hold it as kfac"),
        "{error}"
    );
}

/// 2 labels, 3 inputs with a bias and 4 outputs, by hand: of five positions each is summed over, or rotated, and rows of 16 weights are formed.
#[test]
fn operations_are_those_of_all_positions() {
    let flops = |structure, shared, weight_sharing| {
        let shapes = [DenseShape {
            name: "layers.0".to_owned(),
            inputs: 3,
            outputs: 4,
            bias: true,
            shared,
        }];
        let mut plan = block(&shapes, structure, &[0]);
        plan.options.weight_sharing = weight_sharing;
        let structure = structure_of(&plan, &References::zero(&shapes, 2), 2, 1).unwrap();
        [structure.flops(10), correction_flops(&plan, 2, 10)]
    };
    let formed = 2.0 * 2.0 * 5.0 * 16.0;
    let factors = 2.0 * (6.0 + 2.0 * 10.0);
    let rotations = 2.0 * (3.0 * 4.0 + 2.0 * 16.0);
    for (structure, shared, weight_sharing, expected) in [
        (StructureKind::Kfac, 1, WeightSharing::Expand, factors),
        (StructureKind::Kfac, 5, WeightSharing::Expand, 5.0 * factors),
        (StructureKind::Kfac, 5, WeightSharing::Reduce, factors),
        (StructureKind::Diagonal, 1, WeightSharing::Expand, 24.0),
        (StructureKind::Diagonal, 5, WeightSharing::Expand, formed),
        (
            StructureKind::Block,
            5,
            WeightSharing::Expand,
            2.0 * 2.0 * 136.0 + formed,
        ),
    ] {
        let correction = match shared {
            1 => rotations + 2.0 * 16.0,
            _ => 5.0 * rotations + formed,
        };
        let found = flops(structure, shared, weight_sharing);
        assert_eq!(found, [10.0 * expected, 10.0 * correction], "{structure} {shared}");
    }
}
