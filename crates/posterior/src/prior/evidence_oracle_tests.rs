//! The evidence of every structure, and of mixtures, against dense log determinants by elimination.

use fisherflow_curvature::StructureKind;

use crate::brute_force::{inverse, with_prior};
use crate::structures::cases::{Case, PRIOR, case, cases, small};
use crate::{Evidence, PosteriorError, Spectrum, evidence, factor, invert};

/// `-1/2 delta |theta|^2 + 1/2 p ln delta - 1/2 ln det(H + delta I)` over blocks.
fn log_evidence(hessians: &[Vec<f64>], weights_squared: f64, delta: f64) -> f64 {
    let mut sum = -0.5 * delta * weights_squared;
    for h in hessians {
        let p = (h.len() as f64).sqrt();
        let (_, log_det) = inverse(&with_prior(h.clone(), delta));
        sum += 0.5 * (p * delta.ln() - log_det);
    }
    sum
}

/// The best of ever finer grids in `ln delta`.
fn best(hessians: &[Vec<f64>], weights_squared: f64) -> f64 {
    let (mut centre, mut half) = (0.0_f64, 24.0);
    while half > 1e-7 {
        let at = |i: i32| centre + half * f64::from(i) / 8.0;
        let value = |i: i32| log_evidence(hessians, weights_squared, at(i).exp());
        let best = (-8..=8)
            .map(|i| (value(i), i))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap()
            .1;
        centre = at(best);
        half /= 4.0;
    }
    centre.exp()
}

fn of(cases: Vec<Case>, weights_squared: f64) -> (Evidence, Vec<Vec<f64>>) {
    let hessians = cases.iter().map(|case| case.h.clone()).collect();
    let spectra: Vec<Spectrum> = cases
        .into_iter()
        .map(|case| factor(&case.plan, case.curvature, 1).unwrap().spectrum().unwrap())
        .collect();
    (evidence(&spectra, weights_squared).unwrap(), hessians)
}

fn squared(layers: &[usize]) -> f64 {
    let (mlp, _) = small();
    layers.iter().flat_map(|&l| &mlp.weights[l]).map(|w| w * w).sum()
}

fn agrees(found: &Evidence, hessians: &[Vec<f64>], weights_squared: f64) {
    assert!(!found.at_edge);
    let expected = best(hessians, weights_squared);
    let error = (found.prior_precision / expected - 1.0).abs();
    assert!(error < 1e-6, "{} is not {expected}", found.prior_precision);
    let implied = found.effective_parameters / weights_squared;
    assert!((found.prior_precision / implied - 1.0).abs() < 1e-10);
    let largest = hessians.iter().flatten().fold(0.0_f64, |m, v| m.max(v.abs()));
    for point in &found.curve {
        // Below that an elimination in f64 has no more to say of singular directions.
        if point.prior_precision > 1e-6 * largest {
            let expected = log_evidence(hessians, weights_squared, point.prior_precision);
            let error = (point.log_evidence - expected).abs();
            assert!(error < 1e-7 * (1.0 + expected.abs()), "{point:?} {expected}");
        }
    }
}

/// All but the low-rank blocks, which say that they have none.
fn with_eigenvalues() -> Vec<Case> {
    let (low_rank, others): (Vec<Case>, Vec<Case>) = cases()
        .into_iter()
        .partition(|case| case.plan.structure == StructureKind::LowRank);
    assert!(!low_rank.is_empty());
    for case in low_rank {
        let refused = factor(&case.plan, case.curvature, 1).unwrap().spectrum();
        assert!(matches!(refused, Err(PosteriorError::NoSpectrum { .. })));
    }
    others
}

#[test]
fn every_structure_has_the_evidence_of_its_dense_hessian() {
    for case in with_eigenvalues() {
        let weights_squared = squared(&case.plan.layers);
        let (found, hessians) = of(vec![case], weights_squared);
        agrees(&found, &hessians, weights_squared);
    }
}

#[test]
fn a_mixture_of_structures_has_one_prior() {
    let (mlp, x) = small();
    let mixed = vec![
        case(&mlp, &x, StructureKind::Kfac, &[0]),
        case(&mlp, &x, StructureKind::Diagonal, &[1]),
        case(&mlp, &x, StructureKind::Block, &[2]),
    ];
    let weights_squared = squared(&[0, 1, 2]);
    let (found, hessians) = of(mixed, weights_squared);
    agrees(&found, &hessians, weights_squared);
}

#[test]
fn a_spectrum_has_the_determinant_and_effective_parameters_of_the_inverse() {
    for case in with_eigenvalues() {
        let spectrum = factor(&case.plan, case.curvature.clone(), 1)
            .unwrap()
            .spectrum()
            .unwrap();
        let info = invert(&case.plan, case.curvature, PRIOR, 1).unwrap().info().clone();
        assert_eq!(spectrum.n_weights(), info.n_weights);
        assert!((spectrum.log_det(PRIOR) - info.log_det).abs() < 1e-10 * info.n_weights as f64);
        let gamma = spectrum.effective_parameters(PRIOR);
        assert!((gamma - info.effective_parameters).abs() < 1e-10 * info.n_weights as f64);
    }
}
