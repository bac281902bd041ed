//! What every structure's posterior must satisfy, against dense inverses by elimination.

use candle_core::{DType, Device, Tensor};
use fisherflow_curvature::{BlockCurvature, BlockPlan, CurvatureForm, StructureKind};
use fisherflow_kernels::{Path, Products};
use fisherflow_network::LayerCapture;

use crate::brute_force::{Mlp, inverse, kron, predictive, relative_error, with_prior};
use crate::structures::cases::{K, PRIOR, case, cases, draw, low_rank, matrix, plan, small};
use crate::{
    Factor, PosteriorError, Precision, bases_from_matrices, bases_matrices, invert, kronecker_bases,
    precision_from_matrices,
};

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn predictive_covariance_is_j_m_jt() {
    let (mlp, _) = small();
    let x = draw(6 * 9, 5);
    for case in cases() {
        let (m, _) = inverse(&with_prior(case.h.clone(), PRIOR));
        let expected = predictive(&mlp.jacobian(&x, &case.plan.layers), &m, K);
        let posterior = invert(&case.plan, case.curvature, PRIOR, 1).unwrap();
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            let found = posterior.covariance_of(&mlp.captures(&x, dtype)).unwrap();
            let error = relative_error(&found, &expected);
            assert!(error < tolerance, "{:?} {dtype:?}: {error:e}", case.plan);
            for star in found.chunks_exact(K * K) {
                for i in 0..K {
                    for j in 0..K {
                        assert_eq!(star[i * K + j], star[j * K + i]);
                    }
                }
            }
        }
    }
}

#[test]
fn determinant_effective_parameters_and_condition_are_the_dense_ones() {
    for case in cases() {
        let p = case.plan.n_weights();
        let precision = with_prior(case.h.clone(), PRIOR);
        let (m, log_det) = inverse(&precision);
        let effective: f64 = case.h.iter().zip(&m).map(|(h, m)| h * m).sum();
        let posterior = invert(&case.plan, case.curvature, PRIOR, 1).unwrap();
        let info = posterior.info();
        assert_eq!(info.n_weights, p as u64);
        let error = (info.log_det - log_det).abs();
        assert!(error < 1e-11 * p as f64, "{info:?} {log_det}");
        assert!((info.effective_parameters - effective).abs() < 1e-11 * p as f64);
        match (info.smallest_eigenvalue, info.largest_eigenvalue) {
            (Some(smallest), Some(largest)) => {
                assert!(smallest >= PRIOR && largest >= smallest);
                assert!((info.condition * smallest / largest - 1.0).abs() < 1e-14);
                // The largest eigenvalue by powers of the matrix.
                let mut v = vec![1.0; p];
                let mut size = 0.0;
                for _ in 0..3000 {
                    let w: Vec<f64> = precision
                        .chunks_exact(p)
                        .map(|r| r.iter().zip(&v).map(|(a, b)| a * b).sum())
                        .collect();
                    size = w.iter().map(|w| w * w).sum::<f64>().sqrt();
                    v = w.iter().map(|w| w / size).collect();
                }
                assert!((size / largest - 1.0).abs() < 1e-6);
            }
            _ => assert!(info.condition >= 1.0),
        }
        assert_eq!(info.jitter, 0.0);
    }
}

#[test]
fn solve_undoes_the_precision_and_variances_are_its_diagonal() {
    for case in cases() {
        let p = case.plan.n_weights();
        let precision = with_prior(case.h.clone(), PRIOR);
        let (m, _) = inverse(&precision);
        let posterior = invert(&case.plan, case.curvature, PRIOR, 1).unwrap();
        let v = draw(p, 9);
        let x = posterior.solve(&v).unwrap();
        let back: Vec<f64> = precision
            .chunks_exact(p)
            .map(|row| row.iter().zip(&x).map(|(a, b)| a * b).sum())
            .collect();
        assert!(relative_error(&back, &v) < 1e-11);
        let quadratic = posterior.quadratic(&v).unwrap();
        let expected: f64 = v.iter().zip(&x).map(|(v, x)| v * x).sum();
        assert!((quadratic / expected - 1.0).abs() < 1e-11, "{quadratic:e} {expected:e}");

        let variances = posterior.marginal_variance().unwrap();
        assert_eq!(variances.len(), case.plan.shapes.len());
        for (variance, shape) in variances.iter().zip(&case.plan.shapes) {
            assert_eq!((variance.rows, variance.cols), (shape.outputs, shape.columns()));
        }
        let found: Vec<f64> = variances.into_iter().flat_map(|m| m.values).collect();
        let expected: Vec<f64> = (0..p).map(|i| m[i * p + i]).collect();
        assert!(relative_error(&found, &expected) < 1e-12);
        assert!(posterior.solve(&v[1..]).is_err() && posterior.quadratic(&v[1..]).is_err());
    }
}

#[test]
fn written_matrices_multiply_to_the_inverse() {
    for case in cases() {
        let p = case.plan.n_weights();
        let n = case.curvature.n_spectra as f64;
        let (m, _) = inverse(&with_prior(case.h.clone(), PRIOR));
        let posterior = invert(&case.plan, case.curvature, PRIOR, 1).unwrap();
        let written = posterior.inverse_matrices().unwrap();
        let of = |factor: Factor| {
            let found = written.iter().find(|m| m.factor == factor).unwrap();
            assert_eq!(found.layer, case.plan.name());
            &found.matrix.values
        };
        let found = match case.plan.structure {
            StructureKind::Full | StructureKind::Block => of(Factor::Dense).clone(),
            StructureKind::Dual => unreachable!("no case is dual"),
            StructureKind::Diagonal => {
                let variance = of(Factor::Diagonal);
                let mut dense = vec![0.0; p * p];
                for i in 0..p {
                    dense[i * p + i] = variance[i];
                }
                dense
            }
            StructureKind::Ekfac => {
                let (v, u) = (of(Factor::AEigenvectors), of(Factor::GEigenvectors));
                let (inputs, outputs) = (v.len().isqrt(), u.len().isqrt());
                let (q, lambda) = (kron(u, outputs, v, inputs, 1.0), of(Factor::Eigenvalues));
                let value = |at: usize| {
                    (0..p)
                        .map(|e| q[at / p * p + e] * q[at % p * p + e] / (lambda[e] + PRIOR))
                        .sum()
                };
                (0..p * p).map(value).collect()
            }
            StructureKind::LowRank => {
                let (inverse, z) = (of(Factor::Diagonal), of(Factor::LowRank));
                let rank = z.len() / p;
                let mut dense = vec![0.0; p * p];
                for i in 0..p {
                    dense[i * p + i] = inverse[i];
                    for j in 0..p {
                        dense[i * p + j] -= (0..rank).map(|r| z[i * rank + r] * z[j * rank + r]).sum::<f64>();
                    }
                }
                dense
            }
            StructureKind::Kfac => {
                let (s, t) = (of(Factor::AEigenvalues), of(Factor::GEigenvalues));
                let q = kron(
                    of(Factor::GEigenvectors),
                    t.len(),
                    of(Factor::AEigenvectors),
                    s.len(),
                    1.0,
                );
                let mut dense = vec![0.0; p * p];
                for i in 0..p {
                    for j in 0..p {
                        dense[i * p + j] = (0..p)
                            .map(|e| {
                                let lambda = t[e / s.len()] * s[e % s.len()] / n;
                                q[i * p + e] * q[j * p + e] / (lambda + PRIOR)
                            })
                            .sum();
                    }
                }
                dense
            }
        };
        assert!(relative_error(&found, &m) < 1e-12);
    }
}

#[test]
fn a_posterior_read_back_answers_bit_for_bit_the_same() {
    let (mlp, _) = small();
    let x = draw(6 * 9, 6);
    for case in cases() {
        let posterior = invert(&case.plan, case.curvature, PRIOR, 1).unwrap();
        let written = posterior.inverse_matrices().unwrap();
        let read = precision_from_matrices(&case.plan, written.clone(), posterior.info().clone(), 2).unwrap();
        for dtype in [DType::F64, DType::F32] {
            let captures = mlp.captures(&x, dtype);
            let (a, b) = (
                posterior.covariance_of(&captures).unwrap(),
                read.covariance_of(&captures).unwrap(),
            );
            assert_eq!(bits(&a), bits(&b));
        }
        assert_eq!(read.inverse_matrices().unwrap(), written);
        assert_eq!(read.info(), posterior.info());
        assert_eq!(
            read.marginal_variance().unwrap(),
            posterior.marginal_variance().unwrap()
        );

        assert!(matches!(
            precision_from_matrices(&case.plan, written[1..].to_vec(), posterior.info().clone(), 1),
            Err(PosteriorError::MissingMatrix { .. })
        ));
        let mut other = posterior.info().clone();
        other.layers = vec!["dense".to_owned()];
        assert!(matches!(
            precision_from_matrices(&case.plan, written, other, 1),
            Err(PosteriorError::Info { what: "layers", .. })
        ));
    }
}

#[test]
fn threads_change_no_bit() {
    let mlp = Mlp::random(&[150, 24, 25, K], 21);
    let x = draw(150 * 60, 22);
    let probe = draw(150 * 40, 23);
    for (structure, layers) in [
        (StructureKind::Full, &[1, 2][..]),
        (StructureKind::Block, &[1][..]),
        (StructureKind::Kfac, &[0][..]),
        (StructureKind::Ekfac, &[0][..]),
        (StructureKind::Diagonal, &[0][..]),
        (StructureKind::LowRank, &[1, 2][..]),
    ] {
        // The dense Hessian of the first layer is not needed, and is large.
        let (curvature, plan) = if structure == StructureKind::Kfac {
            let (a, g) = mlp.factors(&x, 0);
            let form = CurvatureForm::Kronecker {
                a: matrix(151, a),
                g: matrix(24, g),
            };
            (form, plan(&mlp, structure, layers))
        } else if structure == StructureKind::Ekfac {
            let (a, g) = mlp.factors(&x, 0);
            let plan = plan(&mlp, structure, layers);
            let factors = BlockCurvature {
                n_spectra: 60,
                form: CurvatureForm::Kronecker {
                    a: matrix(151, a),
                    g: matrix(24, g),
                },
            };
            let bases = kronecker_bases(&plan, factors.clone(), 1).unwrap();
            let more = kronecker_bases(&plan, factors, 3).unwrap();
            assert_eq!(bits(&bases.a_vectors().values), bits(&more.a_vectors().values));
            let form = CurvatureForm::Eigenbasis {
                a_vectors: bases.a_vectors().clone(),
                g_vectors: bases.g_vectors().clone(),
                eigenvalues: matrix(24, draw(151 * 24, 3).iter().map(|v| v.abs()).collect()),
            };
            (form, plan)
        } else if structure == StructureKind::Diagonal {
            let values = draw(151 * 24, 3).iter().map(|v| v.abs()).collect();
            let form = CurvatureForm::Diagonal(matrix(24, values));
            (form, plan(&mlp, structure, layers))
        } else {
            let case = case(&mlp, &x, structure, layers);
            (case.curvature.form, case.plan)
        };
        let curvature = BlockCurvature {
            n_spectra: 60,
            form: curvature,
        };
        let one = invert(&plan, curvature.clone(), PRIOR, 1).unwrap();
        for threads in [2, 5] {
            let more = invert(&plan, curvature.clone(), PRIOR, threads).unwrap();
            assert_eq!(one.info(), more.info());
            assert!(one.inverse_matrices().unwrap() == more.inverse_matrices().unwrap());
            assert!(one.marginal_variance().unwrap() == more.marginal_variance().unwrap());
            for dtype in [DType::F32, DType::F64] {
                let captures = mlp.captures(&probe, dtype);
                let (a, b) = (
                    one.covariance_of(&captures).unwrap(),
                    more.covariance_of(&captures).unwrap(),
                );
                assert_eq!(bits(&a), bits(&b), "{structure:?} {threads} {dtype:?}");
            }
            let v = draw(plan.n_weights(), 4);
            assert_eq!(bits(&one.solve(&v).unwrap()), bits(&more.solve(&v).unwrap()));
        }
    }
}

/// Inputs of a wide layer, rotated as whole numbers: near f64, or in f32 and named; the same bits on any number of threads. Under next to no prior those
/// beyond what is allowed are the spectra in the sums: of what decides elsewhere they have nothing but rounding.
#[test]
fn a_rotation_of_whole_numbers_is_near_that_of_f64() {
    const INPUTS: usize = 600;
    let (n, others) = (60, 20);
    for (outputs, structure) in [
        (24, StructureKind::Kfac),
        (300, StructureKind::Kfac),
        (24, StructureKind::Ekfac),
    ] {
        let mlp = Mlp::random(&[INPUTS, outputs, K], 61);
        let x = draw(INPUTS * n, 62);
        let plan = plan(&mlp, structure, &[0]);
        let (a, g) = mlp.factors(&x, 0);
        let factors = BlockCurvature {
            n_spectra: n as u64,
            form: CurvatureForm::Kronecker {
                a: matrix(INPUTS + 1, a),
                g: matrix(outputs, g),
            },
        };
        let curvature = if structure == StructureKind::Ekfac {
            let bases = kronecker_bases(&plan, factors, 1).unwrap();
            let values = draw(outputs * (INPUTS + 1), 63).iter().map(|v| v.abs()).collect();
            BlockCurvature {
                n_spectra: n as u64,
                form: CurvatureForm::Eigenbasis {
                    a_vectors: bases.a_vectors().clone(),
                    g_vectors: bases.g_vectors().clone(),
                    eigenvalues: matrix(outputs, values),
                },
            }
        } else {
            factors
        };
        let stars = [&x[..INPUTS * n], &draw(INPUTS * others, 64)].concat();
        for (prior, some) in [(PRIOR, false), (1e-7, true)] {
            let posterior = invert(&plan, curvature.clone(), prior, 1).unwrap();
            let on = |path, threads| {
                let matrices = posterior.inverse_matrices().unwrap();
                let products = Products { path, threads };
                let precision = precision_from_matrices(&plan, matrices, posterior.info().clone(), products).unwrap();
                precision.weights_part(&mlp.captures(&stars, DType::F32)).unwrap()
            };
            let (found, in_f32) = (on(Path::I16, 1), on(Path::best(), 1));
            let exact = posterior.covariance_of(&mlp.captures(&stars, DType::F64)).unwrap();
            assert_eq!(
                !found.in_f32.is_empty(),
                some,
                "{structure} {outputs} {prior}: {:?}",
                found.in_f32
            );
            let is_in_sums = |&star: &usize| star < n;
            assert!(structure == StructureKind::Ekfac || found.in_f32.iter().all(is_in_sums));
            assert!(in_f32.in_f32.is_empty());
            let all = found
                .covariance
                .chunks_exact(K * K)
                .zip(in_f32.covariance.chunks_exact(K * K));
            for (star, ((found_of, in_f32), exact)) in all.zip(exact.chunks_exact(K * K)).enumerate() {
                assert_eq!(bits(found_of) == bits(in_f32), found.in_f32.contains(&star), "{star}");
                let error = relative_error(found_of, exact);
                assert!(error < 1e-3, "{structure} {outputs} {prior}, star {star}: {error:e}");
            }
            for threads in [2, 5] {
                let more = on(Path::I16, threads);
                assert_eq!(bits(&more.covariance), bits(&found.covariance));
                assert_eq!(more.in_f32, found.in_f32);
            }
        }
    }
}

/// All eigenpairs: the dense posterior, also where eigenvalues are large beside the prior, whatever rounding in f32 makes of the diagonal.
#[test]
fn a_low_rank_block_of_full_rank_is_the_full_block() {
    let (mlp, x) = small();
    let probe = mlp.captures(&draw(6 * 9, 5), DType::F64);
    for prior in [PRIOR, 1e-4] {
        let full = case(&mlp, &x, StructureKind::Full, &[0, 1, 2]);
        let p = full.plan.n_weights();
        let plan = BlockPlan {
            structure: StructureKind::LowRank,
            ..full.plan.clone()
        };
        let mut curvature = BlockCurvature {
            n_spectra: full.curvature.n_spectra,
            form: low_rank(&full.h, p, p).0,
        };
        if let CurvatureForm::LowRank { diagonal, .. } = &mut curvature.form {
            diagonal
                .iter_mut()
                .zip(draw(p, 6))
                .for_each(|(d, x)| *d *= 1.0 + 1e-7 * x);
        }
        let low = invert(&plan, curvature, prior, 1).unwrap();
        let full = invert(&full.plan, full.curvature, prior, 1).unwrap();
        assert!((low.info().log_det - full.info().log_det).abs() < 1e-10 * full.info().log_det.abs());
        assert!((low.info().effective_parameters / full.info().effective_parameters - 1.0).abs() < 1e-9);
        let facts = low.info().low_rank.unwrap();
        assert_eq!(facts.rank, p as u64);
        assert!((facts.trace_share - 1.0).abs() < 1e-7);
        assert!(low.info().most_negative_eigenvalue.abs() < 1e-13);
        let v = draw(p, 3);
        let solved = |posterior: &dyn Precision| posterior.solve(&v).unwrap();
        assert!(relative_error(&solved(low.as_ref()), &solved(full.as_ref())) < 1e-9);
        let covariance = |posterior: &dyn Precision| posterior.covariance_of(&probe).unwrap();
        assert!(relative_error(&covariance(low.as_ref()), &covariance(full.as_ref())) < 1e-9);
    }
}

#[test]
fn a_batch_larger_than_the_jacobian_buffer_is_the_same_star_by_star() {
    let mlp = Mlp::random(&[20, 28, K], 31);
    let x = draw(20 * 30, 32);
    let case = case(&mlp, &x, StructureKind::Block, &[0]);
    let posterior = invert(&case.plan, case.curvature, PRIOR, 2).unwrap();
    let probe = draw(20 * 2600, 33);
    let captures = mlp.captures(&probe, DType::F32);
    let all = posterior.covariance_of(&captures).unwrap();
    let rows = Tensor::from_slice(&[5_u32, 2400, 2599], 3, &Device::Cpu).unwrap();
    let some: Vec<LayerCapture> = captures.iter().map(|c| c.select(&rows).unwrap()).collect();
    let some = posterior.covariance_of(&some).unwrap();
    for (at, star) in [5, 2400, 2599].into_iter().zip(some.chunks_exact(K * K)) {
        assert!(relative_error(star, &all[at * K * K..(at + 1) * K * K]) < 1e-12);
    }
}

#[test]
fn eigenbases_are_read_back_as_written_and_damaged_factors_refused() {
    let (mlp, x) = small();
    let factors = case(&mlp, &x, StructureKind::Kfac, &[0]).curvature;
    let plan = plan(&mlp, StructureKind::Ekfac, &[0]);
    let bases = kronecker_bases(&plan, factors.clone(), 1).unwrap();
    let written = bases_matrices(&plan, &bases);
    let read = bases_from_matrices(&plan, written.clone()).unwrap();
    assert_eq!(bits(&read.a_vectors().values), bits(&bases.a_vectors().values));
    assert_eq!(bits(&read.g_vectors().values), bits(&bases.g_vectors().values));
    assert!(matches!(
        bases_from_matrices(&plan, written[1..].to_vec()).err(),
        Some(PosteriorError::MissingMatrix { .. })
    ));
    let dense = case(&mlp, &x, StructureKind::Block, &[1]).curvature;
    assert!(matches!(
        kronecker_bases(&plan, dense, 1).err(),
        Some(PosteriorError::Form { .. })
    ));
    for count in [0.0, 10.0, 30.0] {
        let mut damaged = factors.clone();
        if let CurvatureForm::Kronecker { a, .. } = &mut damaged.form {
            *a.values.last_mut().unwrap() = count;
        }
        let error = kronecker_bases(&plan, damaged, 1).err().unwrap().to_string();
        assert!(error.contains("20 spectra have 20"), "{error}");
    }
}
