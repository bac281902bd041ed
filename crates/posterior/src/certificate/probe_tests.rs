//! What is probed: of a star one label, star after star the next; of a Kronecker block the directions that carry most of the star's variance. And
//! what a comparison counts.

use candle_core::DType;
use fisherflow_curvature::{CurvatureForm, LabelPrecision, References, StructureKind, gradient_captures};

use super::Subset;
use crate::brute_force::Mlp;
use crate::eigen::decompose;
use crate::structures::cases::{K, case, draw, plan};
use crate::{Factor, invert};

const WIDTHS: [usize; 4] = [6, 7, 5, K];
const STARS: usize = 8;

#[test]
fn star_after_star_the_next_label_is_probed() {
    let mlp = Mlp::random(&WIDTHS, 71);
    let stars = mlp.captures(&draw(WIDTHS[0] * STARS, 73), DType::F64);
    for structure in [StructureKind::Block, StructureKind::Diagonal] {
        let case = case(&mlp, &draw(WIDTHS[0] * 40, 72), structure, &[1]);
        let posterior = invert(&case.plan, case.curvature, 0.3, 1).unwrap();
        let probes = posterior.probes(&case.plan, &stars).unwrap();
        let covariance = posterior.covariance_of(&stars).unwrap();
        assert_eq!(probes.len(), STARS);
        for (star, (probe, own)) in probes.iter().zip(covariance.chunks_exact(K * K)).enumerate() {
            let expected = own[star % K * (K + 1)];
            assert!(
                (probe.x_dot_z / expected - 1.0).abs() < 1e-12,
                "{structure}: star {star}"
            );
        }
    }
}

#[test]
fn the_directions_that_carry_most_of_a_variance_are_probed() {
    let (mlp, layer, delta, n) = (Mlp::random(&WIDTHS, 74), 1, 0.05, 40);
    let case = case(&mlp, &draw(WIDTHS[0] * n, 75), StructureKind::Kfac, &[layer]);
    let captures = mlp.captures(&draw(WIDTHS[0] * STARS, 76), DType::F64);
    let posterior = invert(&case.plan, case.curvature.clone(), delta, 1).unwrap();
    let probes = posterior.probes(&case.plan, &captures).unwrap();
    let CurvatureForm::Kronecker { a, g } = case.curvature.form else {
        panic!("kfac is held as factors");
    };
    let pairs = |matrix, factor| decompose(matrix, "test", factor, 1).unwrap();
    let (a, g) = (pairs(a, Factor::KronA), pairs(g, Factor::KronG));
    let (columns, outputs) = (a.values.len(), g.values.len());
    let along = |x: &[f64], vectors: &[f64], i: usize| -> f64 {
        x.iter()
            .enumerate()
            .map(|(row, x)| x * vectors[row * x_side(vectors) + i])
            .sum()
    };
    let inputs: Vec<Vec<f64>> = captures[layer].input.squeeze(1).unwrap().to_vec2().unwrap();
    let gradients: Vec<Vec<Vec<f64>>> = captures[layer].output_grad.squeeze(2).unwrap().to_vec3().unwrap();
    let mut met = Vec::new();
    for (star, input) in inputs.iter().enumerate() {
        let with_one: Vec<f64> = input.iter().copied().chain([1.0]).collect();
        let share = |i: usize, j: usize| {
            let (of_input, of_gradient) = (
                along(&with_one, &a.vectors, j),
                along(&gradients[star % K][star], &g.vectors, i),
            );
            (of_input * of_gradient).powi(2) / (a.values[j] * g.values[i] / n as f64 + delta)
        };
        let most = |shares: Vec<f64>| {
            (0..shares.len())
                .max_by(|&a, &b| shares[a].total_cmp(&shares[b]))
                .unwrap()
        };
        let i = most((0..outputs).map(|i| (0..columns).map(|j| share(i, j)).sum()).collect());
        let j = most((0..columns).map(|j| (0..outputs).map(|i| share(i, j)).sum()).collect());
        for (probe, value) in probes[2 * star..].iter().zip([g.values[i], a.values[j]]) {
            assert!(
                (probe.scale * n as f64 / value - 1.0).abs() < 1e-12,
                "star {star}: {i}, {j}"
            );
        }
        met.push((i, j));
    }
    assert!(
        met.iter().any(|at| at.0 != met[0].0) && met.iter().any(|at| at.1 != met[0].1),
        "{met:?}"
    );
    assert!(
        met.iter().any(|at| at.0 > 0) && met.iter().any(|at| at.1 > 0),
        "{met:?}"
    );
}

fn x_side(square: &[f64]) -> usize {
    square.len().isqrt()
}

/// Rows that are gradients of the loss are one a spectrum: they determine no more weights than that.
#[test]
fn an_empirical_fisher_determines_one_number_a_spectrum() {
    let (mlp, n) = (Mlp::random(&WIDTHS, 77), 12);
    let training = mlp.captures(&draw(WIDTHS[0] * n, 78), DType::F64);
    let stars = mlp.captures(&draw(WIDTHS[0] * STARS, 79), DType::F64);
    let unit = LabelPrecision::constant(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], n).unwrap();
    let of_loss = gradient_captures(&training, &unit, &draw(n * K, 80)).unwrap();
    let one = LabelPrecision::constant(&[1.0], n).unwrap();
    let references = References::zero(&mlp.shapes, 1);
    let found = Subset {
        shapes: &mlp.shapes,
        plans: &[plan(&mlp, StructureKind::Full, &[0, 1, 2])],
        prior_precisions: &[1e-6],
        training: (&training, &unit),
        summed: (&of_loss, &one),
        references: &references,
        stars: &stars,
        threads: 1,
    }
    .compare(None, &[])
    .unwrap();
    assert_eq!((found.n_spectra, found.n_stars, found.effective_limit), (12, 8, 12.0));
    let own = found.structures[0].effective_parameters;
    assert!(own < 12.0 && own > 11.0, "{own}");
    assert!(found.effective_parameters > 12.0, "{}", found.effective_parameters);
}
