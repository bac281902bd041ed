//! Identities the curvature must keep: where Kronecker factors are exact, where the GGN is the Hessian, and what batches, merges and threads
//! must not change.

use candle_core::DType;
use fisherflow_curvature::{BlockSums, LabelPrecision, Matrix, ReferenceSums, References, StructureKind};

use crate::brute_force::{
    Between, Mlp, block, curvature, dense, diagonal, kronecker, label_covariances, layers_of, relative_error, spectra,
    sums,
};

const LAM: [f64; 9] = [2.0, 0.3, -0.1, 0.3, 1.0, 0.2, -0.1, 0.2, 0.7];

/// `G (x) A / n`, the weights `[out, in + 1]` row-major.
fn kronecker_product(a: &Matrix, g: &Matrix, n: f64) -> Matrix {
    let side = a.rows * g.rows;
    let value = |i: usize, j: usize| {
        g.values[i / a.rows * g.cols + j / a.cols] * a.values[i % a.rows * a.cols + j % a.cols] / n
    };
    Matrix {
        rows: side,
        cols: side,
        values: (0..side * side).map(|at| value(at / side, at % side)).collect(),
    }
}

#[test]
fn kfac_is_the_exact_block_of_a_deep_linear_net() {
    let net = Mlp::random(&[7, 5, 4, 3], Between::Nothing, 1);
    let shapes = net.shapes();
    let batches = [(
        net.captures(&spectra(23, 7, 2), DType::F64),
        LabelPrecision::constant(&LAM, 23).unwrap(),
    )];
    for layer in 0..3 {
        let factors = curvature(&block(&shapes, StructureKind::Kfac, &[layer]), &batches, &shapes);
        let exact = curvature(&block(&shapes, StructureKind::Block, &[layer]), &batches, &shapes);
        let (a, g) = kronecker(&factors);
        assert!(relative_error(&kronecker_product(a, g, factors.n_spectra as f64), dense(&exact)) < 1e-13);
    }
}

/// `d2 E / d theta2` with `E = sum_n 1/2 r_n^T Lam r_n`, by central differences of the gradient `- sum_n J_n^T Lam r_n`.
fn true_hessian(net: &mut Mlp, spectra: &[Vec<f64>], labels: &[Vec<f64>], lam: &[f64]) -> Matrix {
    const STEP: f64 = 1e-6;
    let sizes: Vec<usize> = net.layers.iter().map(|l| l.weights.len()).collect();
    let p = sizes.iter().sum();
    let gradient = |net: &Mlp| {
        let mut gradient = vec![0.0; p];
        for (x, label) in spectra.iter().zip(labels) {
            let output = net.pass(x).output;
            let k = output.len();
            for (at, row) in net.jacobian(x).iter().enumerate() {
                let weighted: f64 = (0..k).map(|l| lam[at * k + l] * (label[l] - output[l])).sum();
                gradient.iter_mut().zip(row).for_each(|(to, j)| *to -= weighted * j);
            }
        }
        gradient
    };
    let mut values = Vec::with_capacity(p * p);
    for (layer, size) in sizes.iter().enumerate() {
        for weight in 0..*size {
            let here = net.layers[layer].weights[weight];
            net.layers[layer].weights[weight] = here + STEP;
            let above = gradient(net);
            net.layers[layer].weights[weight] = here - STEP;
            let below = gradient(net);
            net.layers[layer].weights[weight] = here;
            values.extend(above.iter().zip(below).map(|(a, b)| (a - b) / (2.0 * STEP)));
        }
    }
    Matrix {
        rows: p,
        cols: p,
        values,
    }
}

#[test]
fn blocks_of_a_relu_net_are_blocks_of_the_true_hessian() {
    let mut net = Mlp::random(&[5, 6, 4, 3], Between::Relu, 3);
    let shapes = net.shapes();
    let spectra_in = spectra(20, 5, 4);
    let labels = spectra(20, 3, 5);
    let batches = [(
        net.captures(&spectra_in, DType::F64),
        LabelPrecision::constant(&LAM, 20).unwrap(),
    )];
    let hessian = true_hessian(&mut net, &spectra_in, &labels, &LAM);
    for layer in 0..3 {
        let found = curvature(&block(&shapes, StructureKind::Block, &[layer]), &batches, &shapes);
        assert!(relative_error(dense(&found), &layers_of(&hessian, &shapes, &[layer])) < 1e-7);
    }
    // Between layers the Hessian has residual terms that the GGN has not: the labels do enter this test.
    let full = curvature(&block(&shapes, StructureKind::Full, &[0, 1, 2]), &batches, &shapes);
    assert!(relative_error(dense(&full), &hessian) > 1e-3);
}

/// A case wide enough for several panels, its batches, and references near the means.
fn wide(
    dtype: DType,
) -> (
    Mlp,
    Vec<(Vec<fisherflow_network::LayerCapture>, LabelPrecision)>,
    References,
) {
    let net = Mlp::random(&[1100, 40, 3], Between::Relu, 6);
    let covariances = label_covariances(40, 3, 7);
    let spectra = spectra(40, 1100, 8);
    let mut batches = Vec::new();
    for rows in [0..13, 13..14, 14..14, 14..40] {
        let own = &covariances[rows.start * 9..rows.end * 9];
        let precision = LabelPrecision::per_spectrum(&LAM, Some(own), rows.len()).unwrap();
        batches.push((net.captures(&spectra[rows], dtype), precision));
    }
    let mut means = ReferenceSums::empty(&net.shapes(), 3);
    for (captures, _) in &batches {
        means.accumulate(captures).unwrap();
    }
    let references = means.finish().unwrap();
    (net, batches, references)
}

const KINDS: [(StructureKind, &[usize]); 5] = [
    (StructureKind::Kfac, &[0]),
    (StructureKind::Kfac, &[1]),
    (StructureKind::Diagonal, &[0]),
    (StructureKind::Block, &[1]),
    (StructureKind::Full, &[1]),
];

#[test]
fn threads_do_not_change_a_bit() {
    for dtype in [DType::F32, DType::F64] {
        let (net, batches, references) = wide(dtype);
        for (kind, layers) in KINDS {
            let plan = block(&net.shapes(), kind, layers);
            let (one, _) = sums(&plan, &batches, &references, 1);
            for threads in [0, 2, 5] {
                assert_eq!(
                    one,
                    sums(&plan, &batches, &references, threads).0,
                    "{kind} of {layers:?} with {threads} threads"
                );
            }
        }
    }
}

#[test]
fn batches_merge_to_the_whole() {
    let (net, batches, references) = wide(DType::F64);
    let spectra = spectra(40, 1100, 8);
    let precision = LabelPrecision::per_spectrum(&LAM, Some(&label_covariances(40, 3, 7)), 40).unwrap();
    let whole = [(net.captures(&spectra, DType::F64), precision)];
    for (kind, layers) in KINDS {
        let plan = block(&net.shapes(), kind, layers);
        let (expected, structure) = sums(&plan, &whole, &references, 1);
        let merged = || -> BlockSums {
            let mut merged = structure.empty().unwrap();
            for batch in &batches {
                let (of_batch, _) = sums(&plan, std::slice::from_ref(batch), &references, 1);
                merged.n_spectra += of_batch.n_spectra;
                merged
                    .sums
                    .iter_mut()
                    .zip(of_batch.sums)
                    .for_each(|(sum, value)| *sum += value);
            }
            merged
        };
        let found = merged();
        assert_eq!(found, merged(), "{kind}: the same order gives the same bits");
        assert_eq!(found.n_spectra, 40);
        let [found, expected] = [&found, &expected].map(|sums| structure.curvature(sums).unwrap());
        let error = match kind {
            StructureKind::Kfac | StructureKind::Ekfac => {
                let ((a, g), (expected_a, expected_g)) = (kronecker(&found), kronecker(&expected));
                relative_error(a, expected_a).max(relative_error(g, expected_g))
            }
            StructureKind::Diagonal => relative_error(diagonal(&found), diagonal(&expected)),
            StructureKind::Block | StructureKind::Full => relative_error(dense(&found), dense(&expected)),
            StructureKind::LowRank | StructureKind::Dual => panic!("{kind} is not among these"),
        };
        assert!(error < 1e-13, "{kind}: {error}");
    }
}

#[test]
fn no_spectra_are_zeros() {
    let (net, batches, references) = wide(DType::F32);
    for (kind, layers) in KINDS {
        let plan = block(&net.shapes(), kind, layers);
        let (sums, structure) = sums(&plan, &batches[2..3], &references, 2);
        assert_eq!(sums, structure.empty().unwrap());
        let found = structure.curvature(&sums).unwrap();
        let zero = |m: &Matrix| m.values.iter().all(|x| *x == 0.0);
        assert!(match kind {
            StructureKind::Kfac | StructureKind::Ekfac => zero(kronecker(&found).0) && zero(kronecker(&found).1),
            StructureKind::Diagonal => zero(diagonal(&found)),
            StructureKind::Block | StructureKind::Full => zero(dense(&found)),
            StructureKind::LowRank | StructureKind::Dual => panic!("{kind} is not among these"),
        });
    }
}

#[test]
fn cost_is_what_the_products_take() {
    let net = Mlp::random(&[10, 4, 3], Between::Relu, 9);
    let shapes = net.shapes();
    let cost = |kind, layers: &[usize]| {
        let structure =
            fisherflow_curvature::structure_of(&block(&shapes, kind, layers), &References::zero(&shapes, 3), 3, 1)
                .unwrap();
        (structure.flops(2), structure.bytes())
    };
    // 55 + 3 * 10 products in the triangles of a and g; beside them 10 + 12 + 9 sums and the count of terms.
    assert_eq!(
        cost(StructureKind::Kfac, &[0]),
        (2.0 * 2.0 * 85.0, 8 * (55 + 10 + 10 + 12 + 9 + 1))
    );
    assert_eq!(cost(StructureKind::Block, &[1]), (2.0 * 2.0 * 3.0 * 120.0, 8 * 120));
    assert_eq!(cost(StructureKind::Full, &[0, 1]).1, 8 * 59 * 60 / 2);
    assert_eq!(cost(StructureKind::Diagonal, &[0]), (2.0 * 2.0 * 40.0, 8 * 44));
}
