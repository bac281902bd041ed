//! Why sums are taken about references: on spectra that are nearly one continuum, f32 products about 0 lose the small eigenvalues, and about
//! the mean they keep them.

use candle_core::DType;
use faer::{Mat, Side};
use fisherflow_curvature::{LabelPrecision, Matrix, ReferenceSums, References, StructureKind, WeightSharing};
use fisherflow_network::{DenseShape, LayerCapture};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::brute_force::{block, capture, kronecker, label_covariances, normal, sums};

const N: usize = 2048;
const BATCH: usize = 512;
const PIXELS: usize = 200;
const UNITS: usize = 60;
const K: usize = 3;

type Batches = Vec<(Vec<LayerCapture>, LabelPrecision)>;

/// Spectra, or `shared` positions of each: a continuum near 1, lines of depth 1e-3 that follow three labels, noise of 1e-2. Gradients: nearly the
/// same for every spectrum and position.
fn batches(shared: usize) -> (Vec<DenseShape>, Batches) {
    let rows = BATCH * shared;
    let mut rng = ChaCha8Rng::seed_from_u64(41);
    let continuum: Vec<f64> = (0..PIXELS).map(|i| 1.0 + 0.05 * (i as f64 / 30.0).sin()).collect();
    let lines = normal(&mut rng, K * PIXELS);
    let mean_gradient = normal(&mut rng, K * UNITS);
    let covariances = label_covariances(N, K, 42);
    let batches = (0..N / BATCH)
        .map(|batch| {
            let mut input = Vec::with_capacity(rows * PIXELS);
            for _ in 0..rows {
                let labels = normal(&mut rng, K);
                let noise = normal(&mut rng, PIXELS);
                for (i, noise) in noise.iter().enumerate() {
                    let depth: f64 = labels
                        .iter()
                        .enumerate()
                        .map(|(k, label)| label * lines[k * PIXELS + i])
                        .sum();
                    input.push(continuum[i] + 1e-3 * depth + 1e-2 * noise);
                }
            }
            let scatter = normal(&mut rng, K * rows * UNITS);
            let gradient = |(at, s): (usize, &f64)| mean_gradient[at / (rows * UNITS) * UNITS + at % UNITS] + 1e-2 * s;
            let grad = scatter.iter().enumerate().map(gradient).collect();
            let own = &covariances[batch * BATCH * K * K..][..BATCH * K * K];
            let precision =
                LabelPrecision::per_spectrum(&[0.1, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.1], Some(own), BATCH).unwrap();
            let LayerCapture {
                layer,
                input,
                output_grad,
            } = capture(0, input, grad, (K, rows, PIXELS, UNITS), DType::F32);
            let capture = LayerCapture {
                layer,
                input: input.reshape((BATCH, shared, PIXELS)).unwrap(),
                output_grad: output_grad.reshape((K, BATCH, shared, UNITS)).unwrap(),
            };
            (vec![capture], precision)
        })
        .collect();
    (
        vec![DenseShape {
            name: "layers.0".to_owned(),
            inputs: PIXELS,
            outputs: UNITS,
            bias: true,
            shared,
        }],
        batches,
    )
}

/// The same numbers in f64.
fn widened(batches: &Batches) -> Batches {
    let wide = |c: &LayerCapture| LayerCapture {
        layer: c.layer,
        input: c.input.to_dtype(DType::F64).unwrap(),
        output_grad: c.output_grad.to_dtype(DType::F64).unwrap(),
    };
    batches
        .iter()
        .map(|(captures, precision)| (captures.iter().map(wide).collect(), precision.clone()))
        .collect()
}

fn factors(
    shapes: &[DenseShape],
    batches: &Batches,
    references: &References,
    weight_sharing: WeightSharing,
) -> (Matrix, Matrix) {
    let mut plan = block(shapes, StructureKind::Kfac, &[0]);
    plan.options.weight_sharing = weight_sharing;
    let (sums, structure) = sums(&plan, batches, references, 2);
    let found = structure.curvature(&sums).unwrap();
    let (a, g) = kronecker(&found);
    (a.clone(), g.clone())
}

/// Largest `|eigenvalue|` of `E^-1/2 (M - E) E^-1/2`: the largest relative error of any `v^T M v`.
fn whitened_error(matrix: &Matrix, exact: &Matrix) -> f64 {
    let n = exact.rows;
    let exact = Mat::from_fn(n, n, |i, j| exact.values[i * n + j]);
    let difference = Mat::from_fn(n, n, |i, j| matrix.values[i * n + j] - exact[(i, j)]);
    let lower = exact.llt(Side::Lower).unwrap().L().to_owned();
    let solve = |right: Mat<f64>| {
        let mut x = right;
        faer::linalg::triangular_solve::solve_lower_triangular_in_place(lower.as_ref(), x.as_mut(), faer::Par::Seq);
        x
    };
    let half = solve(difference);
    let whitened = solve(half.transpose().to_owned());
    whitened
        .self_adjoint_eigenvalues(Side::Lower)
        .unwrap()
        .iter()
        .fold(0.0, |m: f64, x| m.max(x.abs()))
}

#[test]
fn about_the_mean_single_precision_keeps_the_small_eigenvalues() {
    check(1, WeightSharing::Expand, 1e-5);
}

/// A term is a spectrum: the mean of its inputs, and the sum of its gradients, which is four times as far from 0 as the gradients' mean.
#[test]
fn so_it_does_where_a_term_is_the_sum_over_positions() {
    check(4, WeightSharing::Reduce, 5e-5);
}

fn check(shared: usize, weight_sharing: WeightSharing, tolerance: f64) {
    let (shapes, single) = batches(shared);
    let double = widened(&single);
    let factors = |batches: &Batches, references: &References| factors(&shapes, batches, references, weight_sharing);
    let zero = References::zero(&shapes, K);
    // The references come from other spectra than the sums: here, of the first batch only.
    let mut means = ReferenceSums::empty(&shapes, K);
    means.accumulate(&single[0].0).unwrap();
    let means = means.finish().unwrap();

    let (exact_a, exact_g) = factors(&double, &zero);
    let (centred_a, centred_g) = factors(&single, &means);
    let (about_zero_a, about_zero_g) = factors(&single, &zero);
    for (centred, about_zero, exact, factor) in [
        (centred_a, about_zero_a, exact_a, "a"),
        (centred_g, about_zero_g, exact_g, "g"),
    ] {
        let centred = whitened_error(&centred, &exact);
        let about_zero = whitened_error(&about_zero, &exact);
        println!("factor {factor}: whitened error {centred:.1e} about the mean, {about_zero:.1e} about 0");
        assert!(centred < tolerance, "factor {factor}: {centred}");
        assert!(
            about_zero > 20.0 * centred,
            "factor {factor}: {about_zero} about 0, {centred} about the mean"
        );
    }
    // In f64 the reference changes nothing but rounding.
    let (a, g) = factors(&double, &means);
    let (exact_a, exact_g) = factors(&double, &zero);
    assert!(whitened_error(&a, &exact_a) < 1e-8);
    assert!(whitened_error(&g, &exact_g) < 1e-8);
}
