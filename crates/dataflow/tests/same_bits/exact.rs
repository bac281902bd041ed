//! What a run writes is what dense matrices of the same sums say, and what an exact structure says another way.

use super::*;

#[test]
fn a_dual_block_of_all_layers_says_what_a_full_one_says() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let of = |structure: StructureKind, prior| {
        let mut job = job(folder.path(), &format!("{structure}-{prior:?}"), false);
        job.curvature.structure = structure.into();
        job.curvature.by_layer.clear();
        job.compute.arithmetic.precision = Precision::F64;
        job.prior = prior;
        done(job, Stage::Run, &alone(2))
    };
    for prior in [Prior::Fixed(0.3), Prior::Fixed(300.0), Prior::Evidence] {
        let (full, dual) = (of(StructureKind::Full, prior), of(StructureKind::Dual, prior));
        let close = |found: f64, expected: f64| {
            let error = (found / expected - 1.0).abs();
            assert!(error < 1e-8, "{prior:?}: {found} {expected} {error:e}");
        };
        let (expected, found) = (&full.blocks[0], &dual.blocks[0]);
        close(found.prior_precision, expected.prior_precision);
        close(found.log_det, expected.log_det);
        close(found.effective_parameters, expected.effective_parameters);
        for table in ["predictions", "posterior/marginal_variance"] {
            let column = if table == "predictions" {
                "cov_weights"
            } else {
                "std_error"
            };
            let values = |summary: &RunSummary| column_of(&format!("{}/{table}", summary.output), column);
            let (found, expected) = (values(&dual), values(&full));
            assert_eq!(found.len(), expected.len());
            assert!(!found.is_empty());
            let each = if table == "predictions" { 9 } else { 1 };
            for (found, expected) in found.chunks_exact(each).zip(expected.chunks_exact(each)) {
                let scale = expected.iter().fold(0.0_f64, |scale, v| scale.max(v.abs()));
                let worst = found
                    .iter()
                    .zip(expected)
                    .fold(0.0_f64, |worst, (f, e)| worst.max((f - e).abs()));
                assert!(worst <= 1e-8 * scale, "{prior:?} {table}: {worst:e} of {scale:e}");
            }
        }
    }
}

/// All values of a column of doubles, or of lists of them, over the files of a folder.
fn column_of(folder: &str, column: &str) -> Vec<f64> {
    use arrow_array::cast::AsArray;
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let table = fisherflow_store::Table::open(&stores, folder).unwrap();
    let mut values = Vec::new();
    for batch in table.batches(Some(&[column]), 4096).unwrap() {
        let batch = batch.unwrap();
        let found = batch.column(0);
        let doubles = match found.as_list_opt::<i32>() {
            Some(lists) => lists.values(),
            None => found,
        };
        values.extend_from_slice(doubles.as_primitive::<arrow_array::types::Float64Type>().values());
    }
    values
}

#[test]
fn the_evidence_is_that_of_the_written_hessian() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let mixed = job(folder.path(), "mixed", true);
    let mut exact = job(folder.path(), "exact", true);
    exact.curvature = Curvature {
        structure: StructureKind::Full.into(),
        by_layer: BTreeMap::new(),
        ..exact.curvature
    };
    for mut job in [mixed, exact] {
        job.prior = Prior::Evidence;
        let arithmetic = job.compute.arithmetic;
        let summary = done(job, Stage::Run, &alone(2));
        let delta = summary.prior.precision.as_ref().unwrap().one().unwrap();
        let bytes = std::fs::read(folder.path().join("network.safetensors")).unwrap();
        let network = Network::from_safetensors(&bytes, &Description::default(), arithmetic).unwrap();
        let weights: Vec<f64> = (0..3)
            .flat_map(|layer| network.weights_and_biases(layer).unwrap())
            .collect();
        let squared: f64 = weights.iter().map(|w| w * w).sum();
        let output = Output::open(&stores, &summary.output).unwrap();
        let hessians: Vec<Vec<f64>> = (0..summary.blocks.len())
            .map(|block| dense_hessian(&output, block, summary.fit.in_sums as f64))
            .collect();
        assert_eq!(
            hessians.iter().map(|h| h.len().isqrt()).sum::<usize>(),
            weights.len(),
            "every weight, the biases too"
        );
        let log_evidence = |log_delta: f64| {
            let delta = log_delta.exp();
            let blocks = hessians.iter().map(|h| {
                let p = h.len().isqrt();
                0.5 * (p as f64 * log_delta - log_det_with(h.clone(), p, delta))
            });
            blocks.sum::<f64>() - 0.5 * delta * squared
        };
        let best = log_evidence(delta.ln());
        assert!((best / summary.prior.evidence.unwrap().log_evidence - 1.0).abs() < 1e-9);
        for away in [-8.0, -2.0, -0.5, 0.5, 2.0, 8.0] {
            assert!(log_evidence(delta.ln() + away) < best);
        }
        // The vertex of a parabola through three points.
        let h = 1e-3;
        let (left, right) = (log_evidence(delta.ln() - h), log_evidence(delta.ln() + h));
        let vertex = 0.5 * h * (left - right) / (left - 2.0 * best + right);
        assert!(vertex.abs() < 1e-6, "off by {vertex:e}");
    }
}

/// A block of `posterior/hessian/` as one matrix.
fn dense_hessian(output: &Output, block: usize, n_spectra: f64) -> Vec<f64> {
    let stored = output
        .read_matrices(MatrixSet::Hessian, &format!("block-{block:03}"))
        .unwrap();
    let find = |factor: &str| stored.matrices.iter().find(|matrix| matrix.factor == factor);
    if let Some(dense) = find("dense") {
        return dense.values.clone();
    }
    let (a, g) = (find("kron_a").unwrap(), find("kron_g").unwrap());
    let p = a.rows * g.rows;
    let value = |i: usize, j: usize| {
        g.values[(i / a.rows) * g.rows + j / a.rows] * a.values[(i % a.rows) * a.rows + j % a.rows] / n_spectra
    };
    (0..p * p).map(|at| value(at / p, at % p)).collect()
}

/// `ln det(H + delta I)` by elimination.
fn log_det_with(mut h: Vec<f64>, p: usize, delta: f64) -> f64 {
    let mut log_det = 0.0;
    for i in 0..p {
        h[i * p + i] += delta;
    }
    for i in 0..p {
        let (above, below) = h.split_at_mut((i + 1) * p);
        let pivot = &above[i * p + i..];
        log_det += pivot[0].ln();
        for row in below.chunks_exact_mut(p) {
            let factor = row[i] / pivot[0];
            for (x, y) in row[i..].iter_mut().zip(pivot) {
                *x -= factor * y;
            }
        }
    }
    log_det
}

#[test]
fn corrected_eigenvalues_are_the_diagonal_of_the_exact_block_in_their_bases() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let of = |output: &str, structure: StructureKind, split_bias, precision| {
        let mut job = corrected(folder.path(), output, true);
        job.curvature.structure = structure.into();
        job.curvature.options.split_bias = split_bias;
        job.compute.arithmetic.precision = precision;
        done(job, Stage::Fit, &alone(2));
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let output = Output::open(&stores, folder.path().join(output).to_str().unwrap()).unwrap();
        [0, 1].map(|block| {
            output
                .read_matrices(MatrixSet::Hessian, &format!("block-{block:03}"))
                .unwrap()
                .matrices
        })
    };
    for (split_bias, precision, tolerance) in [
        (false, Precision::F64, 1e-11),
        (true, Precision::F64, 1e-11),
        (false, Precision::F32, 1e-5),
    ] {
        let name = format!("{split_bias}-{precision:?}");
        let exact = of(&format!("block-{name}"), StructureKind::Block, split_bias, precision);
        let corrected = of(&format!("ekfac-{name}"), StructureKind::Ekfac, split_bias, precision);
        for (exact, corrected) in exact.iter().zip(&corrected) {
            let find = |factor: &str| corrected.iter().find(|matrix| matrix.factor == factor).unwrap();
            let (u, v) = (find("g_eigenvectors"), find("a_eigenvectors"));
            let (h, p) = (&exact[0].values, exact[0].rows);
            let largest = find("eigenvalues").values.iter().fold(0.0_f64, |m, x| m.max(*x));
            for (at, lambda) in find("eigenvalues").values.iter().enumerate() {
                let (i, j) = (at / v.cols, at % v.cols);
                let q: Vec<f64> = (0..p)
                    .map(|w| u.values[w / v.rows * u.cols + i] * v.values[w % v.rows * v.cols + j])
                    .collect();
                let expected: f64 = h
                    .chunks_exact(p)
                    .zip(&q)
                    .map(|(row, left)| left * row.iter().zip(&q).map(|(h, q)| h * q).sum::<f64>())
                    .sum();
                assert!(
                    (lambda - expected).abs() < tolerance * largest,
                    "{name}: {lambda} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_dual_block_finds_the_prior_of_held_out_spectra_that_the_full_one_finds() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let found = |output: &str, structure: StructureKind, workers| {
        let mut job = job(folder.path(), output, false);
        job.curvature.by_layer.clear();
        job.curvature.structure = structure.into();
        job.compute.arithmetic.precision = Precision::F64;
        job.prior = Prior::Holdout;
        done(job, Stage::Run, &alone(workers))
    };
    let (dual, again) = (
        found("dual", StructureKind::Dual, 1),
        found("again", StructureKind::Dual, 3),
    );
    assert_eq!(digests(&dual), digests(&again));
    let full = found("full", StructureKind::Full, 1);
    let precision = |summary: &RunSummary| summary.prior.precision.as_ref().unwrap().one().unwrap();
    let (found, expected) = (precision(&dual), precision(&full));
    assert!((found / expected - 1.0).abs() < 1e-6, "{found:e} {expected:e}");
    let gamma = |summary: &RunSummary| summary.effective_parameters.as_ref().unwrap().all;
    assert!((gamma(&dual) / gamma(&full) - 1.0).abs() < 1e-5);
}
