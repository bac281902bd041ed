//! The edges of an inversion: no spectra, no prior, a prior or a capture that is none; every structure must answer them alike.

use candle_core::{DType, Device, Tensor};
use fisherflow_curvature::{BlockCurvature, CurvatureForm, Matrix, StructureKind};
use fisherflow_network::LayerCapture;

use crate::brute_force::{Mlp, inverse, relative_error};
use crate::structures::cases::{K, PRIOR, case, cases, draw, matrix, plan, small};
use crate::{PosteriorError, factor, invert};

#[test]
fn without_spectra_the_posterior_is_the_prior() {
    for case in cases() {
        let zero = |m: &Matrix| matrix(m.rows, vec![0.0; m.values.len()]);
        let form = match &case.curvature.form {
            CurvatureForm::Dense(h) => CurvatureForm::Dense(zero(h)),
            CurvatureForm::Kronecker { a, g } => CurvatureForm::Kronecker { a: zero(a), g: zero(g) },
            CurvatureForm::Eigenbasis {
                a_vectors,
                g_vectors,
                eigenvalues,
            } => CurvatureForm::Eigenbasis {
                a_vectors: a_vectors.clone(),
                g_vectors: g_vectors.clone(),
                eigenvalues: zero(eigenvalues),
            },
            CurvatureForm::Diagonal(d) => CurvatureForm::Diagonal(zero(d)),
            CurvatureForm::LowRank {
                eigenvectors,
                eigenvalues,
                residuals,
                diagonal,
            } => CurvatureForm::LowRank {
                eigenvectors: eigenvectors.clone(),
                eigenvalues: vec![0.0; eigenvalues.len()],
                residuals: residuals.clone(),
                diagonal: vec![0.0; diagonal.len()],
            },
        };
        let empty = BlockCurvature { n_spectra: 0, form };
        let p = case.plan.n_weights() as f64;
        let posterior = invert(&case.plan, empty.clone(), 4.0, 1).unwrap();
        assert_eq!(posterior.info().effective_parameters, 0.0);
        assert!((posterior.info().log_det - p * 4.0_f64.ln()).abs() < 1e-12 * p);
        for variance in posterior.marginal_variance().unwrap() {
            assert!(variance.values.iter().all(|v| (v - 0.25).abs() < 1e-14));
        }
        let error = invert(&case.plan, empty, 0.0, 1).err().unwrap().to_string();
        assert!(error.contains(&case.plan.name()), "{error}");
        assert!(error.contains("singular"), "{error}");
    }
}

/// A symmetric matrix with eigenvalues of both signs: a true Hessian.
#[test]
fn an_indefinite_block_is_refused_until_the_prior_makes_it_positive() {
    let case = case(&Mlp::random(&[3, 2], 41), &draw(3 * 20, 42), StructureKind::Block, &[0]);
    let p = case.plan.n_weights();
    let mut h = case.h.clone();
    for i in 0..p {
        h[i * p + i] -= 50.0;
    }
    let invert_at = |delta: f64| {
        let curvature = BlockCurvature {
            n_spectra: 20,
            form: CurvatureForm::Dense(matrix(p, h.clone())),
        };
        invert(&case.plan, curvature, delta, 1)
    };
    let error = invert_at(0.5).err().unwrap();
    let PosteriorError::NegativeCurvature { smallest, needed, .. } = &error else {
        panic!("{error}")
    };
    assert!((needed - (0.5 - smallest)).abs() < 1e-12);
    let said = error.to_string();
    assert!(
        said.contains(&case.plan.name()) && said.contains("curvature.kind = \"ggn\""),
        "{said}"
    );
    assert!(invert_at(needed * (1.0 - 1e-9)).is_err());
    let posterior = invert_at(needed * (1.0 + 1e-9)).ok().unwrap();
    let (expected, log_det) = inverse(&{
        let mut h = h.clone();
        (0..p).for_each(|i| h[i * p + i] += 60.0);
        h
    });
    assert!(posterior.info().condition > 1e8);
    let posterior = invert_at(60.0).ok().unwrap();
    assert!((posterior.info().log_det - log_det).abs() < 1e-10);
    let v = draw(p, 3);
    let solved = posterior.solve(&v).unwrap();
    let by_hand: Vec<f64> = expected
        .chunks(p)
        .map(|row| row.iter().zip(&v).map(|(a, b)| a * b).sum())
        .collect();
    assert!(relative_error(&solved, &by_hand) < 1e-9);
}

#[test]
fn without_a_prior_a_regular_block_is_inverted_and_a_singular_one_refused() {
    let linear = Mlp::random(&[5, K], 41);
    let x = draw(5 * 20, 42);
    for structure in [
        StructureKind::Block,
        StructureKind::Kfac,
        StructureKind::Ekfac,
        StructureKind::Diagonal,
    ] {
        let regular = case(&linear, &x, structure, &[0]);
        let (m, _) = inverse(&regular.h);
        let posterior = invert(&regular.plan, regular.curvature, 0.0, 1).unwrap();
        let found: Vec<f64> = posterior.marginal_variance().unwrap()[0].values.clone();
        let expected: Vec<f64> = (0..18).map(|i| m[i * 18 + i]).collect();
        assert!(relative_error(&found, &expected) < 1e-11);
        assert!((posterior.info().effective_parameters - 18.0).abs() < 1e-12);
    }
    // Two spectra do not determine the 6 weights that lead to an output.
    let few = case(&linear, &x[..10], StructureKind::Block, &[0]);
    let error = invert(&few.plan, few.curvature, 0.0, 1).err().unwrap();
    assert!(matches!(error, PosteriorError::Singular { .. }), "{error}");
    assert!(error.to_string().contains("layers.0, output 0, input 2"), "{error}");
    let few = case(&linear, &x[..10], StructureKind::Kfac, &[0]);
    let error = invert(&few.plan, few.curvature, 0.0, 1).err().unwrap();
    assert!(matches!(error, PosteriorError::SingularSpectrum { .. }));
}

/// An eigenvalue that is rounding beside the largest is none, whatever its sign: without a prior, or one that is rounding itself, the block is
/// singular, and below 0 it counts as 0.
#[test]
fn eigenvalues_of_rounding_are_none() {
    let mlp = Mlp::random(&[1, 2], 62);
    let of = |form, structure, delta| {
        let curvature = BlockCurvature { n_spectra: 1, form };
        invert(&plan(&mlp, structure, &[0]), curvature, delta, 1)
    };
    let factors = |small: f64| CurvatureForm::Kronecker {
        a: matrix(2, vec![3.0, 0.0, 0.0, 1.0]),
        g: matrix(2, vec![2.0, 0.0, 0.0, small]),
    };
    let error = of(factors(1e-15), StructureKind::Kfac, 0.0).err().unwrap();
    assert!(matches!(error, PosteriorError::SingularSpectrum { .. }), "{error}");
    assert!(of(factors(1e-12), StructureKind::Kfac, 0.0).is_ok());
    // The same of eigenvalues that are regular, and whose reciprocals are no numbers of f32.
    let tiny = CurvatureForm::Kronecker {
        a: matrix(2, vec![3.0, 0.0, 0.0, 1.0]),
        g: matrix(2, vec![2e-40, 0.0, 0.0, 1e-40]),
    };
    let error = of(tiny, StructureKind::Kfac, 0.0).err().unwrap();
    assert!(matches!(error, PosteriorError::SingularSpectrum { .. }), "{error}");
    // 6 is the largest eigenvalue. A prior precision whose reciprocal is no number of f32 is refused beside any.
    let star = mlp.captures(&[0.5], DType::F32);
    for (small, delta, is_seen) in [
        (1e-15, 1e-30, false),
        (1e-15, 1e-15, false),
        (1e-15, 2e-15, true),
        (1e-12, 1e-30, true),
        (1.0, 1e-39, false),
    ] {
        let found = of(factors(small), StructureKind::Kfac, delta);
        let curvature = BlockCurvature {
            n_spectra: 1,
            form: factors(small),
        };
        let scan = factor(&plan(&mlp, StructureKind::Kfac, &[0]), curvature, 1).unwrap();
        let scanned = scan.prior_scan(DType::F32, 1).unwrap().covariance_at(&star, &[delta]);
        assert_eq!(
            (found.is_ok(), scanned.is_ok()),
            (is_seen, is_seen),
            "{small:e} {delta:e}"
        );
        for error in [found.err(), scanned.err()].into_iter().flatten() {
            assert!(matches!(error, PosteriorError::SingularSpectrum { .. }), "{error}");
        }
    }

    // So is one beside a weight that nothing else determines.
    let curvature = BlockCurvature {
        n_spectra: 1,
        form: CurvatureForm::Diagonal(matrix(2, vec![4.0, 1.0, 0.0, 2.0])),
    };
    let scan = factor(&plan(&mlp, StructureKind::Diagonal, &[0]), curvature.clone(), 1).unwrap();
    let scanned = scan.prior_scan(DType::F32, 1).unwrap().covariance_at(&star, &[1e-39]);
    for error in [of(curvature.form, StructureKind::Diagonal, 1e-39).err(), scanned.err()] {
        assert!(matches!(error, Some(PosteriorError::SingularSpectrum { .. })));
    }

    let diagonal = CurvatureForm::Diagonal(matrix(2, vec![4.0, 1.0, -1e-16, 2.0]));
    let posterior = of(diagonal, StructureKind::Diagonal, 0.5).unwrap();
    let info = posterior.info();
    assert_eq!((info.clipped_eigenvalues, info.most_negative_eigenvalue), (1, -2.5e-17));
    let variances = &posterior.marginal_variance().unwrap()[0].values;
    assert_eq!(variances[..], [1.0 / 4.5, 1.0 / 1.5, 2.0, 1.0 / 2.5]);
    assert_eq!(
        (info.smallest_eigenvalue, info.largest_eigenvalue),
        (Some(0.5), Some(4.5))
    );
}

#[test]
fn a_prior_that_is_no_precision_is_refused() {
    for case in cases() {
        for prior in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                invert(&case.plan, case.curvature.clone(), prior, 1).err(),
                Some(PosteriorError::Prior { .. })
            ));
        }
    }
}

#[test]
fn a_curvature_of_another_form_size_or_with_a_nan_is_refused() {
    let all = cases();
    for case in &all {
        let mut damaged = case.curvature.clone();
        match &mut damaged.form {
            CurvatureForm::Dense(m)
            | CurvatureForm::Kronecker { g: m, .. }
            | CurvatureForm::Eigenbasis { eigenvalues: m, .. }
            | CurvatureForm::Diagonal(m) => m.values[1] = f64::NAN,
            CurvatureForm::LowRank { diagonal, .. } => diagonal[1] = f64::NAN,
        }
        assert!(matches!(
            invert(&case.plan, damaged, PRIOR, 1).err(),
            Some(PosteriorError::NotFinite { row: 0, .. })
        ));
        let mut planned = case.plan.clone();
        planned.shapes[0].outputs += 1;
        assert!(matches!(
            invert(&planned, case.curvature.clone(), PRIOR, 1).err(),
            Some(PosteriorError::Shape { .. })
        ));
        let mut planned = case.plan.clone();
        planned.structure = match planned.structure {
            StructureKind::Kfac => StructureKind::Diagonal,
            _ => StructureKind::Kfac,
        };
        assert!(matches!(
            invert(&planned, case.curvature.clone(), PRIOR, 1).err(),
            Some(PosteriorError::Form { .. })
        ));
    }
}

#[test]
fn captures_that_do_not_fit_are_refused() {
    let (mlp, _) = small();
    let x = draw(6 * 4, 8);
    let good = mlp.captures(&x, DType::F64);
    for case in cases() {
        let posterior = invert(&case.plan, case.curvature, PRIOR, 1).unwrap();
        let fails = |change: &dyn Fn(&LayerCapture) -> LayerCapture| {
            let changed: Vec<LayerCapture> = good.iter().map(change).collect();
            posterior.covariance_of(&changed).unwrap_err()
        };
        let error = posterior.covariance_of(&[]).unwrap_err();
        assert!(matches!(error, PosteriorError::MissingCapture { .. }));
        let error = fails(&|c| LayerCapture {
            layer: c.layer,
            input: Tensor::cat(&[&c.input, &c.input], 1).unwrap(),
            output_grad: c.output_grad.clone(),
        });
        assert!(matches!(error, PosteriorError::Shape { .. }));
        let error = fails(&|c| LayerCapture {
            input: c.input.narrow(2, 1, 1).unwrap(),
            ..c.clone()
        });
        assert!(matches!(error, PosteriorError::Shape { .. }));
        let error = fails(&|c| LayerCapture {
            output_grad: c.output_grad.narrow(1, 0, 2).unwrap(),
            ..c.clone()
        });
        assert!(matches!(error, PosteriorError::Shape { .. }));
        let error = fails(&|c| LayerCapture {
            input: c.input.to_dtype(DType::F32).unwrap(),
            ..c.clone()
        });
        assert!(matches!(error, PosteriorError::Type { .. }), "{error}");
        assert!(error.to_string().contains("f32 and f64"), "{error}");

        // A batch may be empty, and tensors may be views.
        let none: Vec<LayerCapture> = mlp.captures(&[], DType::F64);
        let none = posterior.covariance_of(&none).unwrap();
        assert!(none.is_empty());
        let views: Vec<LayerCapture> = good
            .iter()
            .map(|c| LayerCapture {
                output_grad: c
                    .output_grad
                    .transpose(0, 1)
                    .unwrap()
                    .contiguous()
                    .unwrap()
                    .transpose(0, 1)
                    .unwrap(),
                ..c.clone()
            })
            .collect();
        assert_eq!(
            posterior.covariance_of(&views).unwrap(),
            posterior.covariance_of(&good).unwrap()
        );
    }
}

#[test]
fn a_structure_of_one_layer_covers_no_two() {
    let (mlp, x) = small();
    for structure in [StructureKind::Kfac, StructureKind::Ekfac, StructureKind::Diagonal] {
        let mut one = case(&mlp, &x, structure, &[0]);
        one.plan.layers.push(1);
        one.plan.shapes.push(mlp.shapes[1].clone());
        let error = invert(&one.plan, one.curvature, PRIOR, 1).err().unwrap();
        assert!(matches!(error, PosteriorError::Layers { layers: 2, .. }));
        assert!(error.to_string().contains("layers.0+layers.2"), "{error}");
    }
}

/// `H = lambda u u^T` over a weight and a bias. Along u the variance is `|J|^2 / (lambda + delta)` by hand, and a difference of two numbers of
/// the size of `|J|^2 / delta`: where rounding is a thousandth of it, none is given.
#[test]
fn a_low_rank_block_refuses_what_is_lost_to_cancellation() {
    let mlp = Mlp::random(&[1, 1], 61);
    let plan = plan(&mlp, StructureKind::LowRank, &[0]);
    let delta = 0.5;
    let at = |lambda: f64, u: [f64; 2]| {
        let curvature = BlockCurvature {
            n_spectra: 1,
            form: CurvatureForm::LowRank {
                eigenvectors: matrix(2, u.to_vec()),
                eigenvalues: vec![lambda],
                residuals: vec![0.0],
                diagonal: u.map(|u| lambda * u * u).to_vec(),
            },
        };
        invert(&plan, curvature, delta, 1)
    };
    let star = |input: f64| {
        vec![LayerCapture {
            layer: 0,
            input: Tensor::from_vec(vec![input], (1, 1, 1), &Device::Cpu).unwrap(),
            output_grad: Tensor::from_vec(vec![1.0_f64], (1, 1, 1, 1), &Device::Cpu).unwrap(),
        }]
    };
    let along = [0.5_f64.sqrt(); 2];
    for lambda in [1.0, 1e4, 1e8] {
        let posterior = at(lambda, along).unwrap();
        let found = posterior.covariance_of(&star(1.0)).unwrap()[0];
        let tolerance = 1e-14 * (lambda + delta) / delta;
        assert!(
            (found * (lambda + delta) / 2.0 - 1.0).abs() < tolerance,
            "{lambda:e}: {found:e}"
        );
    }
    // Across u nothing cancels, whatever lambda; along it, nothing is left that is more than rounding.
    let posterior = at(1e13, along).unwrap();
    let across = posterior.covariance_of(&star(-1.0)).unwrap()[0];
    assert!((across * delta / 2.0 - 1.0).abs() < 1e-12, "{across:e}");
    let lost = posterior.covariance_of(&star(1.0)).unwrap_err();
    let PosteriorError::Cancelled { value, .. } = lost else {
        panic!("{lost}")
    };
    assert!(value < 1e-12 * 2.0 / delta, "{value:e}");
    // Of a weight itself: the block is refused.
    assert!(at(1e8, [1.0, 0.0]).is_ok());
    let lost = at(1e13, [1.0, 0.0]).err().unwrap();
    assert!(matches!(lost, PosteriorError::SingularSpectrum { .. }), "{lost}");
}

/// Three weights, `50 u u^T + v v^T` with u = (0.6, 0.8, 0) and v = (0.8, -0.6, 0), and a diagonal that is 3 above it, a thousandth below and 2 above:
/// what would be negative counts as 0, and that is said.
#[test]
fn what_a_low_rank_block_says_of_itself_by_hand() {
    let plan = plan(&Mlp::random(&[2, 1], 61), StructureKind::LowRank, &[0]);
    let (held, diagonal) = ([18.64, 23.52, 23.52, 32.36], [21.64, 32.359, 2.0]);
    let curvature = BlockCurvature {
        n_spectra: 9,
        form: CurvatureForm::LowRank {
            eigenvectors: matrix(3, vec![0.6, 0.8, 0.8, -0.6, 0.0, 0.0]),
            eigenvalues: vec![50.0, 1.0],
            residuals: vec![0.1, 0.7],
            diagonal: diagonal.to_vec(),
        },
    };
    let delta = 0.5;
    let posterior = invert(&plan, curvature, delta, 1).unwrap();
    let p = [held[0] + 3.0 + delta, held[1], held[2], held[3] + delta];
    let determinant: f64 = p[0] * p[3] - p[1] * p[2];
    let variances = [p[3] / determinant, p[0] / determinant, 1.0 / (2.0 + delta)];
    let found = &posterior.marginal_variance().unwrap()[0].values;
    assert!(relative_error(found, &variances) < 1e-12, "{found:?}");
    let info = posterior.info();
    let gamma = 3.0 - delta * variances.iter().sum::<f64>();
    let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
    close(info.log_det, (determinant * (2.0 + delta)).ln());
    close(info.effective_parameters, gamma);
    close(info.condition, (3.0 + delta + 50.0) / delta);
    assert_eq!((info.clipped_eigenvalues, info.n_spectra), (1, 9));
    close(info.most_negative_eigenvalue, -0.001 / 32.359);
    let facts = info.low_rank.unwrap();
    assert_eq!((facts.rank, facts.largest_residual), (2, 0.7));
    assert_eq!((facts.largest_eigenvalue, facts.smallest_eigenvalue), (50.0, 1.0));
    close(facts.trace_share, 51.0 / (21.64 + 32.359 + 2.0));
}

#[test]
fn a_curvature_that_is_no_sum_of_squares_is_refused() {
    let mlp = Mlp::random(&[3, 2], 51);
    for structure in [
        StructureKind::Full,
        StructureKind::Block,
        StructureKind::Kfac,
        StructureKind::Diagonal,
        StructureKind::LowRank,
    ] {
        let mut case = case(&mlp, &draw(3 * 10, 52), structure, &[0]);
        // One direction of large negative curvature, which no prior of this size makes up for.
        match &mut case.curvature.form {
            CurvatureForm::Dense(m) | CurvatureForm::Kronecker { a: m, .. } => m.values[0] = -50.0,
            CurvatureForm::Diagonal(m) | CurvatureForm::Eigenbasis { eigenvalues: m, .. } => m.values[0] = -50.0,
            CurvatureForm::LowRank { eigenvalues, .. } => eigenvalues[0] = -50.0,
        }
        let error = invert(&case.plan, case.curvature.clone(), PRIOR, 1).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("block layers.0"), "{text}");
        match structure {
            StructureKind::Full | StructureKind::Block => {
                assert!(
                    matches!(error, PosteriorError::NegativeCurvature { pivot: 0, .. }),
                    "{text}"
                );
                assert!(
                    text.contains("output 0, input 0") && text.contains("Raise the prior precision"),
                    "{text}"
                );
            }
            _ => {
                assert!(matches!(error, PosteriorError::Indefinite { .. }), "{text}");
                assert!(
                    text.contains("no sum of squares") && text.contains("compute them again"),
                    "{text}"
                );
            }
        }
        // The eigenvalues, from which the evidence would choose a prior, see it in every structure.
        let seen = factor(&case.plan, case.curvature, 1).and_then(|factored| factored.spectrum());
        assert!(matches!(seen, Err(PosteriorError::Indefinite { .. })));
    }
}
