//! Every structure against brute force over the weight Jacobian, with a different, full `Lam_n` for every spectrum and K = 3.

use candle_core::DType;
use fisherflow_curvature::{LabelPrecision, ReferenceSums, References, StructureKind};

use crate::brute_force::{
    Between, Mlp, block, curvature, dense, diagonal, kronecker, label_covariances, layers_of, relative_error, spectra,
    sums,
};

const N: usize = 17;
const NOISE: [f64; 9] = [0.5, 0.1, 0.0, 0.1, 0.4, -0.1, 0.0, -0.1, 0.6];

struct Case {
    net: Mlp,
    spectra: Vec<Vec<f64>>,
    precision: LabelPrecision,
}

fn case() -> Case {
    Case {
        net: Mlp::random(&[6, 5, 4, 3], Between::Relu, 11),
        spectra: spectra(N, 6, 12),
        precision: LabelPrecision::per_spectrum(&NOISE, Some(&label_covariances(N, 3, 13)), N).unwrap(),
    }
}

#[test]
fn full_and_block_equal_the_ggn_and_each_other() {
    let Case {
        net,
        spectra,
        precision,
    } = case();
    let shapes = net.shapes();
    let expected = net.ggn(&spectra, &precision);
    let batches = [(net.captures(&spectra, DType::F64), precision)];
    let full = curvature(&block(&shapes, StructureKind::Full, &[0, 1, 2]), &batches, &shapes);
    assert_eq!(full.n_spectra, N as u64);
    assert!(relative_error(dense(&full), &expected) < 1e-13);
    let apart = curvature(&block(&shapes, StructureKind::Full, &[0, 2]), &batches, &shapes);
    assert!(relative_error(dense(&apart), &layers_of(&expected, &shapes, &[0, 2])) < 1e-13);
    for layer in 0..3 {
        let one = curvature(&block(&shapes, StructureKind::Block, &[layer]), &batches, &shapes);
        assert!(relative_error(dense(&one), &layers_of(dense(&full), &shapes, &[layer])) < 1e-13);
    }
}

#[test]
fn diagonal_equals_the_diagonal_of_full() {
    let Case {
        net,
        spectra,
        precision,
    } = case();
    let shapes = net.shapes();
    let batches = [(net.captures(&spectra, DType::F64), precision)];
    for layer in 0..3 {
        let exact = curvature(&block(&shapes, StructureKind::Block, &[layer]), &batches, &shapes);
        let found = curvature(&block(&shapes, StructureKind::Diagonal, &[layer]), &batches, &shapes);
        let (exact, found) = (dense(&exact), diagonal(&found));
        assert_eq!(
            (found.rows, found.cols),
            (shapes[layer].outputs, shapes[layer].inputs + 1)
        );
        let largest = exact.values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (i, value) in found.values.iter().enumerate() {
            assert!((value - exact.values[i * exact.cols + i]).abs() < 1e-13 * largest);
        }
    }
}

#[test]
fn kronecker_factors_are_about_zero_whatever_the_references() {
    let Case {
        net,
        spectra,
        precision,
    } = case();
    let shapes = net.shapes();
    let batches = [(net.captures(&spectra, DType::F64), precision.clone())];
    let mut means = ReferenceSums::empty(&shapes, 3);
    means.accumulate(&batches[0].0).unwrap();
    let means = means.finish().unwrap();
    let mut off = means.clone();
    off.input_mean
        .iter_mut()
        .chain(&mut off.gradient_mean)
        .flatten()
        .enumerate()
        .for_each(|(i, x)| *x += (i as f64).sin());
    for references in [References::zero(&shapes, 3), means, off] {
        for layer in 0..3 {
            let (sums, structure) = sums(&block(&shapes, StructureKind::Kfac, &[layer]), &batches, &references, 1);
            let found = structure.curvature(&sums).unwrap();
            let (a, g) = kronecker(&found);
            let (expected_a, expected_g) = net.kronecker_factors(layer, &spectra, &precision);
            assert!(relative_error(a, &expected_a) < 1e-13);
            assert!(relative_error(g, &expected_g) < 1e-13);
            assert_eq!(a.values[a.values.len() - 1], N as f64);
            for matrix in [a, g] {
                let n = matrix.rows;
                assert!((0..n * n).all(|at| matrix.values[at] == matrix.values[at % n * n + at / n]));
            }
        }
    }
}

#[test]
fn single_precision_captures_agree_to_their_rounding() {
    let Case {
        net,
        spectra,
        precision,
    } = case();
    let shapes = net.shapes();
    let [single, double] = [DType::F32, DType::F64].map(|dtype| [(net.captures(&spectra, dtype), precision.clone())]);
    for layer in 0..3 {
        let plan = |kind| block(&shapes, kind, &[layer]);
        let both = |kind| {
            (
                curvature(&plan(kind), &single, &shapes),
                curvature(&plan(kind), &double, &shapes),
            )
        };
        let (found, expected) = both(StructureKind::Kfac);
        assert!(relative_error(kronecker(&found).0, kronecker(&expected).0) < 1e-6);
        assert!(relative_error(kronecker(&found).1, kronecker(&expected).1) < 1e-6);
        let (found, expected) = both(StructureKind::Block);
        assert!(relative_error(dense(&found), dense(&expected)) < 1e-6);
        let (found, expected) = both(StructureKind::Diagonal);
        assert!(relative_error(diagonal(&found), diagonal(&expected)) < 1e-6);
    }
}

#[test]
fn many_spectra_go_through_the_dense_block_in_several_turns() {
    // 2,704 weights and 3 labels: 517 spectra are more than are formed at once.
    let net = Mlp::random(&[51, 52, 3], Between::Relu, 21);
    let shapes = net.shapes();
    let spectra = spectra(530, 51, 22);
    let precision = LabelPrecision::constant(&[1.0, 0.2, 0.0, 0.2, 2.0, 0.0, 0.0, 0.0, 0.5], 530).unwrap();
    let captures = net.captures(&spectra, DType::F64);
    let found = curvature(
        &block(&shapes, StructureKind::Block, &[0]),
        &[(captures.clone(), precision.clone())],
        &shapes,
    );
    let found = dense(&found);
    let diagonal_found = curvature(
        &block(&shapes, StructureKind::Diagonal, &[0]),
        &[(captures, precision.clone())],
        &shapes,
    );
    let trace: f64 = (0..found.rows).map(|i| found.values[i * found.cols + i]).sum();
    let expected: f64 = diagonal(&diagonal_found).values.iter().sum();
    assert!((trace / expected - 1.0).abs() < 1e-12);
    // One row of H: H e_w = sum_n J^T Lam J e_w.
    let weight = 777;
    let mut row = vec![0.0; found.cols];
    for x in &spectra {
        let jacobian = net.jacobian(x);
        for (at, lam) in precision.lam[..9].iter().enumerate() {
            let seen = lam * jacobian[at % 3][weight];
            row.iter_mut()
                .zip(&jacobian[at / 3])
                .for_each(|(to, j)| *to += seen * j);
        }
    }
    let largest = found.values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(
        row.iter()
            .zip(&found.values[weight * found.cols..])
            .all(|(e, f)| (e - f).abs() < 1e-12 * largest)
    );
}
