//! The dual form against the dense one of the same block: random networks, a label covariance for each star, many prior precisions.

use std::sync::Arc;

use candle_core::DType;
use fisherflow_curvature::{
    BlockCurvature, BlockPlan, LabelPrecision, Matrix, References, StructureKind, WeightJacobian, structure_of,
};

use super::{
    DualFacts, DualLayout, DualPrecision, DualSource, WholeGram, dual_marginal_variance, dual_prior_scan,
    exact_posterior, gram_tile,
};
use crate::brute_force::{Mlp, relative_error};
use crate::structures::cases::{K, draw, plan};
use crate::{PosteriorError, PosteriorPart, Precision, Spectrum, evidence, factor, invert, precision_from_matrices};

/// A network, its training spectra and a label precision for each of them.
struct Training {
    mlp: Mlp,
    x: Vec<f64>,
    precision: LabelPrecision,
}

impl Training {
    fn new(widths: &[usize], n: usize, seed: u64) -> Self {
        // Every second network has a layer without bias.
        let mut mlp = Mlp::random(widths, seed);
        if seed.is_multiple_of(2) {
            mlp = mlp.without_bias(0);
        }
        let own: Vec<f64> = (0..n as u64).flat_map(|star| covariance(seed + 7 * star)).collect();
        let noise = [0.3, 0.05, 0.0, 0.05, 0.2, -0.02, 0.0, -0.02, 0.4];
        Self {
            x: draw(widths[0] * n, seed + 1),
            precision: LabelPrecision::per_spectrum(&noise, Some(&own), n).unwrap(),
            mlp,
        }
    }

    fn plan(&self, structure: StructureKind, layers: &[usize]) -> BlockPlan {
        plan(&self.mlp, structure, layers)
    }

    fn curvature(&self, plan: &BlockPlan) -> BlockCurvature {
        let structure = structure_of(plan, &References::zero(&self.mlp.shapes, K), K, 1).unwrap();
        let mut sums = structure.empty().unwrap();
        let captures = self.mlp.captures(&self.x, DType::F64);
        structure.accumulate(&captures, &self.precision, &mut sums).unwrap();
        structure.curvature(&sums).unwrap()
    }

    fn dual(&self, layers: &[usize], delta: f64, threads: usize) -> Result<Box<dyn Precision>, PosteriorError> {
        let captures = self.mlp.captures(&self.x, DType::F64);
        let plan = self.plan(StructureKind::Dual, layers);
        exact_posterior(&plan, &captures, &self.precision, delta, threads)
    }

    /// The eigenvalues of the Hessian, by the Gram matrix.
    fn spectrum(&self, layers: &[usize]) -> Spectrum {
        let rows = self.rows(layers);
        let layout = DualLayout {
            plan: self.plan(StructureKind::Dual, layers),
            n_labels: K,
            chunks: vec![rows.n_spectra()],
        };
        let mut whole = WholeGram::new(&layout);
        whole.put(0, 0, &gram_tile(&rows, &rows, 1).values);
        whole.spectrum(1).unwrap()
    }

    fn rows(&self, layers: &[usize]) -> WeightJacobian {
        let captures = self.mlp.captures(&self.x, DType::F64);
        WeightJacobian::new(&self.plan(StructureKind::Dual, layers), &captures, &self.precision).unwrap()
    }
}

/// A positive definite `[K, K]` of its own.
fn covariance(seed: u64) -> Vec<f64> {
    let f = draw(K * K, seed);
    let value = |i: usize, j: usize| (0..K).map(|l| f[i * K + l] * f[j * K + l]).sum::<f64>() * 0.2;
    (0..K * K).map(|at| value(at / K, at % K)).collect()
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Everything that both forms say of a block.
fn compare(training: &Training, layers: &[usize], delta: f64) {
    let full = training.plan(StructureKind::Full, layers);
    let dense = invert(&full, training.curvature(&full), delta, 1).unwrap();
    let dual = training.dual(layers, delta, 2).unwrap();
    let what = format!(
        "p {} rows {} delta {delta:e}",
        full.n_weights(),
        training.precision.batch() * K
    );
    let close = |name: &str, found: f64, expected: f64| {
        let error = (found / expected - 1.0).abs();
        assert!(error < 1e-8, "{what}: {name} {found} {expected} {error:e}");
    };
    close("ln det P", dual.info().log_det, dense.info().log_det);
    close(
        "gamma",
        dual.info().effective_parameters,
        dense.info().effective_parameters,
    );
    let h = gram_tile(&training.rows(layers), &training.rows(layers), 1);
    let trace: f64 = (0..h.rows).map(|i| h.values[i * (h.cols + 1)]).sum();
    close("condition", dual.info().condition, (trace + delta) / delta);
    assert_eq!(dual.info().n_weights, dense.info().n_weights);
    assert_eq!(dual.info().n_spectra, dense.info().n_spectra);

    let d = training.mlp.shapes[0].inputs;
    let captures = training.mlp.captures(&draw(d * 9, 99), DType::F64);
    let (found, expected) = (
        dual.covariance_of(&captures).unwrap(),
        dense.covariance_of(&captures).unwrap(),
    );
    for (found, expected) in found.chunks_exact(K * K).zip(expected.chunks_exact(K * K)) {
        let error = relative_error(found, expected);
        assert!(error < 1e-8, "{what}: covariance {error:e}");
        assert!((0..K * K).all(|at| found[at] == found[at % K * K + at / K]));
    }
    let v = draw(full.n_weights(), 3);
    let error = relative_error(&dual.solve(&v).unwrap(), &dense.solve(&v).unwrap());
    assert!(error < 1e-8, "{what}: solve {error:e}");
    assert!(dual.solve(&v[1..]).is_err());
    for (found, expected) in dual
        .marginal_variance()
        .unwrap()
        .iter()
        .zip(dense.marginal_variance().unwrap())
    {
        assert_eq!((found.rows, found.cols), (expected.rows, expected.cols));
        for (found, expected) in found.values.iter().zip(expected.values) {
            assert!((found / expected - 1.0).abs() < 1e-8, "{what}: {found} {expected}");
        }
    }
}

#[test]
fn the_dual_form_is_the_dense_one_for_every_prior() {
    // Fewer rows than weights, more, and more than one chunk.
    for (widths, n) in [(&[9, 11, 7, K][..], 23), (&[3, 4, K][..], 40), (&[4, 3, K][..], 600)] {
        let training = Training::new(widths, n, 17);
        let layers: Vec<usize> = (0..widths.len() - 1).collect();
        let rows = training.rows(&layers);
        let gram = gram_tile(&rows, &rows, 1);
        let scale = (0..gram.rows).map(|i| gram.values[i * gram.rows + i]).sum::<f64>() / gram.rows as f64;
        for factor in [1e-3, 1e-1, 1.0, 30.0, 1e3] {
            compare(&training, &layers, factor * scale);
        }
    }
}

#[test]
fn one_star_one_layer_and_layers_apart() {
    compare(&Training::new(&[5, 6, 4, K], 1, 5), &[0, 1, 2], 0.7);
    let training = Training::new(&[5, 6, 4, K], 30, 6);
    for layers in [&[0][..], &[1], &[2], &[0, 2]] {
        compare(&training, layers, 0.7);
    }
}

#[test]
fn duplicated_stars_count_twice_and_break_nothing() {
    let mut training = Training::new(&[5, 6, K], 12, 8);
    let once = training.rows(&[0, 1]);
    training.x.extend_from_within(..);
    for values in [&mut training.precision.lam, &mut training.precision.factor] {
        values.extend_from_within(..);
    }
    compare(&training, &[0, 1], 0.5);
    // Two copies of every star are one with twice the weight: P = 2 H + delta = 2 (H + delta / 2).
    let twice = training.dual(&[0, 1], 0.5, 1).unwrap();
    let half = super::exact::dual_posterior(&training.plan(StructureKind::Dual, &[0, 1]), &once, 0.25, 1).unwrap();
    let captures = training.mlp.captures(&draw(5 * 4, 2), DType::F64);
    let doubled: Vec<f64> = half.covariance_of(&captures).unwrap().iter().map(|v| v / 2.0).collect();
    assert!(relative_error(&twice.covariance_of(&captures).unwrap(), &doubled) < 1e-10);
}

#[test]
fn the_evidence_of_the_gram_matrix_is_that_of_the_hessian() {
    for (widths, n) in [(&[9, 11, 7, K][..], 23), (&[3, 4, K][..], 40)] {
        let training = Training::new(widths, n, 23);
        let layers: Vec<usize> = (0..widths.len() - 1).collect();
        let full = training.plan(StructureKind::Full, &layers);
        let dense = factor(&full, training.curvature(&full), 1).unwrap().spectrum().unwrap();
        let dual = training.spectrum(&layers);
        assert_eq!(dual.n_weights(), dense.n_weights());
        let (found, expected) = (evidence(&[dual], 3.0).unwrap(), evidence(&[dense], 3.0).unwrap());
        for (found, expected) in [
            (found.prior_precision, expected.prior_precision),
            (found.log_evidence, expected.log_evidence),
            (found.effective_parameters, expected.effective_parameters),
        ] {
            assert!((found / expected - 1.0).abs() < 1e-8, "{found} {expected}");
        }
        // And the certificate of the factor at that prior says the same.
        let info = training.dual(&layers, found.prior_precision, 1).unwrap().info().clone();
        assert!((info.effective_parameters / found.effective_parameters - 1.0).abs() < 1e-8);
    }
}

#[test]
fn no_bit_depends_on_threads_or_on_being_written() {
    let training = Training::new(&[40, 30, K], 700, 31);
    let one = training.dual(&[0, 1], 2.0, 1).unwrap();
    let captures = training.mlp.captures(&draw(40 * 300, 4), DType::F32);
    let expected = bits(&one.covariance_of(&captures).unwrap());
    for threads in [2, 5] {
        let more = training.dual(&[0, 1], 2.0, threads).unwrap();
        assert_eq!(one.info(), more.info());
        assert_eq!(bits(&more.covariance_of(&captures).unwrap()), expected);
    }
    let plan = training.plan(StructureKind::Dual, &[0, 1]);
    let written = one.inverse_matrices().unwrap();
    assert_eq!(written.len(), 5);
    let read = precision_from_matrices(&plan, written.clone(), one.info().clone(), 1).unwrap();
    assert_eq!(bits(&read.covariance_of(&captures).unwrap()), expected);
    assert!(precision_from_matrices(&plan, written[1..].to_vec(), one.info().clone(), 1).is_err());
}

#[test]
fn a_prior_that_vanishes_in_rounding_is_refused() {
    let training = Training::new(&[5, 6, K], 12, 41);
    for (delta, said) in [
        (0.0, "above"),
        (1e-14, "Gram matrix reaches"),
        (-1.0, "0 or larger"),
        (f64::NAN, "finite"),
    ] {
        let error = training.dual(&[0, 1], delta, 1).err().unwrap().to_string();
        assert!(error.contains(said) && error.contains("layers.0+layers.2"), "{error}");
    }
}

/// One weight: `1 - sum x^2 / (sum x^2 + delta)` is what is left of each variance, by hand `x^2 / (sum x^2 + delta)` of a star and
/// `1 / (sum x^2 + delta)` of the weight. Where that is rounding it is refused, whatever its sign; what is given is right to a thousandth.
#[test]
fn no_variance_that_is_rounding_is_given() {
    let mlp = Mlp::random(&[1, 1], 5).without_bias(0);
    let plan = plan(&mlp, StructureKind::Dual, &[0]);
    for seed in 0..300 {
        let n = 2 + seed as usize % 5;
        let x = draw(n, seed);
        let captures = mlp.captures(&x, DType::F64);
        let precision = LabelPrecision::constant(&[1.0], n).unwrap();
        let sum = x.iter().map(|x| x * x).sum::<f64>();
        // The first is just above the rounding of the Gram matrix.
        for (share, is_given) in [
            (1.01 * n as f64 * f64::EPSILON, false),
            (1e-13, false),
            (1e-10, true),
            (1e-4, true),
        ] {
            let delta = share * sum;
            let check = |found: Result<f64, PosteriorError>, expected: f64| match found {
                Ok(found) => {
                    assert!(is_given, "{share:e}: {found:e} {expected:e}");
                    assert!(
                        (found / expected - 1.0).abs() < 1e-3,
                        "{share:e}: {found:e} {expected:e}"
                    );
                }
                Err(PosteriorError::Cancelled { .. }) => assert!(!is_given, "{share:e}"),
                // Rounding decides which of the Gram matrix and delta is the larger.
                Err(PosteriorError::DualPrior { .. }) => assert!(!is_given, "{share:e}"),
                Err(error) => panic!("{error}"),
            };
            let posterior = exact_posterior(&plan, &captures, &precision, delta, 1).unwrap();
            let layout = DualLayout::of(&plan, 1, n);
            let rows = WeightJacobian::new(&plan, &captures, &precision).unwrap();
            let scan = dual_prior_scan(&layout, vec![Arc::new(rows)], 1, 1).unwrap();
            for value in &x {
                let star = mlp.captures(&[*value], DType::F64);
                let expected = value * value / (sum + delta);
                check(posterior.covariance_of(&star).map(|v| v[0]), expected);
                check(scan.covariance_at(&star, &[delta]).map(|v| v[0]), expected);
            }
            let marginal = posterior.marginal_variance();
            check(marginal.map(|layers| layers[0].values[0]), 1.0 / (sum + delta));
        }
    }
}

/// A weight whose variance is lost ends no run: there is no table, and what can be had is.
#[test]
fn marginal_variances_that_rounding_swamps_are_none() {
    let mlp = Mlp::random(&[1, 1], 5).without_bias(0);
    let plan = plan(&mlp, StructureKind::Dual, &[0]);
    let precision = LabelPrecision::constant(&[1.0], 3).unwrap();
    let rows = WeightJacobian::new(&plan, &mlp.captures(&[1.0, -2.0, 0.5], DType::F64), &precision).unwrap();
    let layout = DualLayout::of(&plan, 1, 3);
    for (delta, is_given) in [(5.25e-13, false), (5.25e-4, true)] {
        let (_, memory, _) = super::exact::factored(&plan, &rows, delta, 1).unwrap();
        let found = dual_marginal_variance(&layout, &memory, delta, 1).unwrap();
        assert_eq!(found.is_some(), is_given, "{delta:e}");
    }
}

/// A source whose rows and tiles are gone.
struct Gone;

impl DualSource for Gone {
    fn rows(&self, chunk: usize) -> Result<Arc<WeightJacobian>, PosteriorError> {
        Err(PosteriorError::Source(format!("no chunk {chunk}").into()))
    }

    fn factor(&self, row: usize, column: usize) -> Result<Arc<Matrix>, PosteriorError> {
        Err(PosteriorError::Source(format!("no tile ({row}, {column})").into()))
    }
}

/// A diagonal that is too much work, or whose parts are gone, is an error that says so, never an empty answer.
#[test]
fn a_diagonal_that_cannot_be_had_says_why() {
    let plan = Training::new(&[5, 6, K], 0, 43).plan(StructureKind::Dual, &[0, 1]);
    let of = |n_spectra: usize| {
        let layout = DualLayout::of(&plan, K, n_spectra);
        let info = layout.info(1.0, &DualFacts::default());
        DualPrecision::new(layout, info, Arc::new(Gone), 1)
    };
    let error = of(1_000_000).marginal_variance().unwrap_err();
    assert!(
        matches!(error, PosteriorError::Unaffordable { operations, .. } if operations > 2e12),
        "{error}"
    );
    let said = error.to_string();
    assert!(said.contains("layers.0+layers.2") && said.contains("--rows"), "{said}");
    let part = PosteriorPart::new(Box::new(of(1_000_000)), 0, plan.shapes.clone()).unwrap();
    assert!(matches!(part.diagonal(), Err(PosteriorError::Unaffordable { .. })));

    let gone = of(4);
    assert!(matches!(gone.marginal_variance(), Err(PosteriorError::Source(_))));
    assert!(matches!(gone.inverse_matrices(), Err(PosteriorError::Source(_))));
}

#[test]
fn without_spectra_the_posterior_is_the_prior() {
    let training = Training::new(&[5, 6, K], 0, 43);
    let posterior = training.dual(&[0, 1], 4.0, 1).unwrap();
    assert_eq!(posterior.info().effective_parameters, 0.0);
    let p = posterior.info().n_weights as f64;
    assert!((posterior.info().log_det - p * 4.0_f64.ln()).abs() < 1e-12 * p);
    let variances = posterior.marginal_variance().unwrap();
    assert!(variances.iter().flat_map(|m| &m.values).all(|v| *v == 0.25));
}

#[test]
fn chunks_hold_at_most_so_many_rows() {
    let plan = Training::new(&[5, 6, K], 0, 43).plan(StructureKind::Dual, &[0, 1]);
    for (k, expected) in [(1, 512), (3, 256), (20, 38), (2000, 1)] {
        assert_eq!(DualLayout::spectra_a_chunk(k), expected);
    }
    let layout = DualLayout::of(&plan, 3, 600);
    assert_eq!(layout.chunks, [256, 256, 88]);
    assert_eq!(
        (layout.n_rows(), layout.first_row(2), layout.rows_of(2)),
        (1800, 1536, 264)
    );
}

/// The rows of a training set in chunks, ready for any prior precision.
fn scanned(training: &Training, layers: &[usize], each: usize, threads: usize) -> crate::PriorScan {
    let rows = training.rows(layers);
    let n = rows.n_spectra();
    let chunks: Vec<usize> = (0..n).step_by(each).map(|first| each.min(n - first)).collect();
    let layout = DualLayout {
        plan: training.plan(StructureKind::Dual, layers),
        n_labels: K,
        chunks: chunks.clone(),
    };
    let mut first = 0;
    let slices = chunks.iter().map(|&len| {
        first += len;
        Arc::new(rows.slice(first - len, len))
    });
    dual_prior_scan(&layout, slices.collect(), threads, threads).unwrap()
}

#[test]
fn every_prior_at_once_is_that_of_a_factor_of_its_own() {
    // Fewer rows than weights, and more; a batch of more spectra than are turned at once.
    for (widths, n, each) in [(&[9, 11, 7, K][..], 23, 10), (&[3, 4, K][..], 40, 17)] {
        let training = Training::new(widths, n, 29);
        let layers: Vec<usize> = (0..widths.len() - 1).collect();
        let captures = training.mlp.captures(&draw(widths[0] * 70, 5), DType::F64);
        let priors = [1e-3, 0.2, 5.0, 1e4];
        let scan = scanned(&training, &layers, each, 1);
        let found = scan.covariance_at(&captures, &priors).unwrap();
        assert_eq!(
            bits(&found),
            bits(
                &scanned(&training, &layers, each, 3)
                    .covariance_at(&captures, &priors)
                    .unwrap()
            )
        );
        for (&delta, found) in priors.iter().zip(found.chunks_exact(70 * K * K)) {
            let full = training.plan(StructureKind::Full, &layers);
            let dense = invert(&full, training.curvature(&full), delta, 1).unwrap();
            let dual = training.dual(&layers, delta, 1).unwrap();
            for expected in [dense, dual].map(|posterior| posterior.covariance_of(&captures).unwrap()) {
                let error = relative_error(found, &expected);
                assert!(error < 1e-8, "{n} spectra, delta {delta:e}: {error:e}");
            }
            let gamma = training.dual(&layers, delta, 1).unwrap().info().effective_parameters;
            assert!((scan.spectrum().effective_parameters(delta) / gamma - 1.0).abs() < 1e-8);
        }
        for bad in [0.0, -1.0, f64::NAN, 1e-18] {
            assert!(scan.covariance_at(&captures, &[1.0, bad]).is_err(), "{bad}");
        }
    }
}
