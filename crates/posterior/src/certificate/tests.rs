//! Certificates against brute force: dense inverses by elimination, planted damage of a known size, operators of a known spectrum.

use candle_core::DType;
use fisherflow_curvature::{BlockPlan, LabelPrecision, Matrix, References, StructureKind, WeightJacobian};

use super::{
    Certificate, CurvatureShare, NewtonStep, Probe, ProbeSums, SigmaRatio, Subset, curvature_share, newton_step,
};
use crate::brute_force::{Mlp, gram, inverse, kron, predictive, with_prior};
use crate::eigen::decompose;
use crate::structures::cases::{K, case, draw, plan};
use crate::structures::eigenbasis::Eigenbasis;
use crate::structures::kronecker::KroneckerPrecision;
use crate::{Factor, PosteriorError, Precision, invert};

const WIDTHS: [usize; 4] = [6, 7, 5, K];

struct Nets {
    pixels: usize,
    mlp: Mlp,
    x: Vec<f64>,
    stars: Vec<f64>,
    plans: Vec<BlockPlan>,
    precision: LabelPrecision,
}

impl Nets {
    fn new(n: usize, structures: [StructureKind; 3]) -> Self {
        Self::of_pixels(WIDTHS[0], n, structures)
    }

    fn of_pixels(pixels: usize, n: usize, structures: [StructureKind; 3]) -> Self {
        let mlp = Mlp::random(&[pixels, WIDTHS[1], WIDTHS[2], K], 41);
        let plans = structures.iter().enumerate().map(|(l, &s)| BlockPlan {
            id: l,
            ..plan(&mlp, s, &[l])
        });
        Self {
            pixels,
            plans: plans.collect(),
            x: draw(pixels * n, 42),
            stars: draw(pixels * 12, 43),
            precision: LabelPrecision::constant(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], n).unwrap(),
            mlp,
        }
    }

    fn compare(&self, deltas: &[f64], compare: &[StructureKind]) -> Result<super::Comparison, PosteriorError> {
        let training = self.mlp.captures(&self.x, DType::F64);
        let stars = self.mlp.captures(&self.stars, DType::F64);
        let mut references = References::zero(&self.mlp.shapes, K);
        references.input_mean[0] = draw(self.pixels, 44);
        Subset {
            shapes: &self.mlp.shapes,
            plans: &self.plans,
            prior_precisions: deltas,
            training: (&training, &self.precision),
            summed: (&training, &self.precision),
            references: &references,
            stars: &stars,
            threads: 2,
        }
        .compare(None, compare)
    }

    /// Effective parameters and the stars' covariances of `H + D`, D the prior precision of each weight's layer.
    fn dense(&self, layers: &[usize], h: &[f64], deltas: &[f64]) -> (f64, Vec<f64>) {
        let priors: Vec<f64> = layers
            .iter()
            .flat_map(|&l| vec![deltas[l]; self.mlp.shapes[l].n_weights()])
            .collect();
        let p = priors.len();
        let mut sum = h.to_vec();
        priors
            .iter()
            .enumerate()
            .for_each(|(i, delta)| sum[i * (p + 1)] += delta);
        let inverse = inverse(&sum).0;
        let gamma = priors
            .iter()
            .enumerate()
            .map(|(i, delta)| 1.0 - delta * inverse[i * (p + 1)])
            .sum();
        (gamma, predictive(&self.mlp.jacobian(&self.stars, layers), &inverse, K))
    }

    fn hessian(&self, layers: &[usize]) -> Vec<f64> {
        gram(&self.mlp.jacobian(&self.x, layers))
    }

    fn factors(&self, layer: usize, split_bias: bool) -> (Vec<f64>, Vec<f64>) {
        let (mut a, g) = self.mlp.factors(&self.x, layer);
        if split_bias {
            split(&mut a, self.mlp.shapes[layer].columns());
        }
        (a, g)
    }

    fn kfac(&self, layer: usize, split_bias: bool, deltas: &[f64]) -> (f64, Vec<f64>) {
        let (shape, n) = (&self.mlp.shapes[layer], (self.x.len() / self.pixels) as f64);
        let (a, g) = self.factors(layer, split_bias);
        self.dense(&[layer], &kron(&g, shape.outputs, &a, shape.inputs + 1, n), deltas)
    }

    /// The exact block's diagonal in the eigenbases of its factors.
    fn ekfac(&self, layer: usize, split_bias: bool, deltas: &[f64]) -> (f64, Vec<f64>) {
        let shape = &self.mlp.shapes[layer];
        let (inputs, outputs) = (shape.inputs + 1, shape.outputs);
        let (a, g) = self.factors(layer, split_bias);
        let square = |side, values| Matrix {
            rows: side,
            cols: side,
            values,
        };
        let vectors = |matrix, factor| decompose(matrix, "test", factor, 1).unwrap().vectors;
        let (v, u) = (
            vectors(square(inputs, a), Factor::KronA),
            vectors(square(outputs, g), Factor::KronG),
        );
        let (q, h, p) = (
            kron(&u, outputs, &v, inputs, 1.0),
            self.hessian(&[layer]),
            inputs * outputs,
        );
        let mut corrected = vec![0.0; p * p];
        for e in 0..p {
            let lambda: f64 = (0..p * p).map(|at| q[at / p * p + e] * h[at] * q[at % p * p + e]).sum();
            for (at, to) in corrected.iter_mut().enumerate() {
                *to += lambda * q[at / p * p + e] * q[at % p * p + e];
            }
        }
        self.dense(&[layer], &corrected, deltas)
    }
}

/// Takes the terms between weights and biases from a symmetric matrix over weights `[out, columns]`, or over the columns alone.
fn split(values: &mut [f64], columns: usize) {
    let side = values.len().isqrt();
    let is_bias = |at: usize| at % columns == columns - 1;
    for (at, value) in values.iter_mut().enumerate() {
        if is_bias(at / side) != is_bias(at % side) {
            *value = 0.0;
        }
    }
}

fn sum(parts: [(f64, Vec<f64>); 3]) -> (f64, Vec<f64>) {
    let gamma = parts.iter().map(|part| part.0).sum();
    let covariance = (0..parts[0].1.len())
        .map(|at| parts.iter().map(|part| part.1[at]).sum())
        .collect();
    (gamma, covariance)
}

fn close(found: Option<SigmaRatio>, expected: Option<SigmaRatio>) {
    let numbers = |r: SigmaRatio| [r.median, r.p05, r.p95, r.spearman.unwrap()];
    for (found, expected) in numbers(found.unwrap()).into_iter().zip(numbers(expected.unwrap())) {
        assert!((found - expected).abs() < 1e-8, "{found} {expected}");
    }
}

impl Nets {
    /// A layer alone, held so.
    fn layer(&self, structure: StructureKind, layer: usize, split_bias: bool, deltas: &[f64]) -> (f64, Vec<f64>) {
        match structure {
            StructureKind::Kfac => self.kfac(layer, split_bias, deltas),
            StructureKind::Ekfac => self.ekfac(layer, split_bias, deltas),
            StructureKind::Block => {
                let mut h = self.hessian(&[layer]);
                if split_bias {
                    split(&mut h, self.mlp.shapes[layer].columns());
                }
                self.dense(&[layer], &h, deltas)
            }
            StructureKind::Diagonal => {
                let mut h = self.hessian(&[layer]);
                let p = h.len().isqrt();
                for (at, value) in h.iter_mut().enumerate() {
                    *value *= f64::from(u8::from(at % (p + 1) == 0));
                }
                self.dense(&[layer], &h, deltas)
            }
            _ => panic!("{structure} is no structure of a layer alone"),
        }
    }

    fn check_ratios(&self, deltas: &[f64], compare: &[StructureKind]) {
        let n = self.x.len() / self.pixels;
        let found = self.compare(deltas, compare).unwrap();
        let exact = self.dense(&[0, 1, 2], &self.hessian(&[0, 1, 2]), deltas);
        assert_eq!(
            (found.n_spectra, found.n_stars, found.effective_limit),
            (n as u64, 12, (n * K) as f64)
        );
        assert!((found.effective_parameters / exact.0 - 1.0).abs() < 1e-8);

        let split_bias = self.plans[0].options.split_bias;
        let own = |layer: usize| self.layer(self.plans[layer].structure, layer, split_bias, deltas);
        let mut expected = vec![("run".to_owned(), sum([0, 1, 2].map(own)))];
        for &structure in compare {
            // `block` beside other structures keeps its cross terms.
            let splits = split_bias
                && (structure != StructureKind::Block || self.plans.iter().all(|p| p.structure == structure));
            let layers = [0, 1, 2].map(|layer| self.layer(structure, layer, splits, deltas));
            expected.push((structure.to_string(), sum(layers)));
        }
        assert_eq!(found.structures.len(), expected.len());
        for (found, (name, (gamma, covariance))) in found.structures.iter().zip(&expected) {
            assert_eq!(found.structure, *name);
            close(found.ratio, SigmaRatio::of(covariance, &exact.1, K));
            assert!(
                (found.effective_parameters / gamma - 1.0).abs() < 1e-8,
                "{name} {gamma}"
            );
        }
        for layer in 0..3 {
            let alone = self.layer(StructureKind::Block, layer, false, deltas);
            close(found.blocks[layer], SigmaRatio::of(&own(layer).1, &alone.1, K));
        }
    }
}

#[test]
fn ratios_are_those_of_dense_posteriors() {
    use StructureKind::{Block, Diagonal, Ekfac, Kfac};
    // 107 weights: below and above the rows of 12 and 60 spectra, so both exact forms are taken; one prior precision, and three.
    for (n, deltas) in [
        (12, [0.4; 3]),
        (12, [0.1, 0.7, 3.0]),
        (60, [2.0; 3]),
        (60, [0.1, 0.7, 3.0]),
    ] {
        let nets = Nets::new(n, [Kfac, Diagonal, Block]);
        nets.check_ratios(&deltas, &[Kfac, Ekfac, Diagonal, Block]);
    }
    // More pixels than training spectra, stars and the reference together: the first layer is taken in the span of its inputs, unless something
    // that depends on the basis is compared.
    for first in [Kfac, Ekfac, Block] {
        let nets = Nets::of_pixels(26, 12, [first, Diagonal, Block]);
        nets.check_ratios(&[0.1, 0.7, 3.0], &[Kfac, Ekfac, Block]);
        nets.check_ratios(&[0.1, 0.7, 3.0], &[Diagonal]);
    }
    Nets::of_pixels(26, 12, [Diagonal, Kfac, Kfac]).check_ratios(&[0.4; 3], &[Kfac]);
}

#[test]
fn what_is_compared_has_its_biases_split_off_as_the_run_has() {
    use StructureKind::{Block, Diagonal, Ekfac, Kfac};
    for pixels in [WIDTHS[0], 26] {
        for own in [Kfac, Ekfac, Block, Diagonal] {
            let mut nets = Nets::of_pixels(pixels, 12, [own; 3]);
            for plan in &mut nets.plans {
                plan.options.split_bias = true;
            }
            nets.check_ratios(&[0.1, 0.7, 3.0], &[Kfac, Ekfac, Block]);
        }
    }
}

#[test]
fn an_exact_structure_has_ratio_one() {
    for (n, structure) in [
        (12, StructureKind::Dual),
        (12, StructureKind::Full),
        (60, StructureKind::Full),
    ] {
        let mut nets = Nets::new(n, [structure; 3]);
        nets.plans = vec![plan(&nets.mlp, structure, &[0, 1, 2])];
        let found = nets.compare(&[0.6], &[]).unwrap();
        for ratio in [found.structures[0].ratio, found.blocks[0]] {
            let ratio = ratio.unwrap();
            for value in [ratio.median, ratio.p05, ratio.p95, ratio.spearman.unwrap()] {
                assert!((value - 1.0).abs() < 1e-12, "{structure}: {value}");
            }
        }
    }
}

#[test]
fn no_prior_is_no_comparison() {
    let nets = Nets::new(12, [StructureKind::Kfac; 3]);
    assert!(matches!(
        nets.compare(&[0.0; 3], &[]),
        Err(PosteriorError::DualPrior { .. })
    ));
    assert!(matches!(
        nets.compare(&[0.0, 1.0, 1.0], &[]),
        Err(PosteriorError::Prior { .. })
    ));
}

/// The estimates and the true relative errors of probed variances.
fn probed(mlp: &Mlp, plan: &BlockPlan, precision: &dyn Precision, x: &[f64], stars: &[f64]) -> (Vec<Probe>, ProbeSums) {
    let probes = precision.probes(plan, &mlp.captures(stars, DType::F64)).unwrap();
    let mut sums = ProbeSums::default();
    let half = x.len() / WIDTHS[0] / 2 * WIDTHS[0];
    for x in [&x[..half], &x[half..]] {
        let n = x.len() / WIDTHS[0];
        let one = LabelPrecision::constant(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], n).unwrap();
        let rows = WeightJacobian::new(plan, &mlp.captures(x, DType::F64), &one).unwrap();
        sums.accumulate(plan, &probes, &rows, 2).unwrap();
    }
    (probes, sums)
}

#[test]
fn an_answer_without_damage_has_no_error() {
    let mlp = Mlp::random(&WIDTHS, 51);
    let (x, stars) = (draw(WIDTHS[0] * 90, 52), draw(WIDTHS[0] * 16, 53));
    for structure in [StructureKind::Block, StructureKind::Kfac, StructureKind::Diagonal] {
        for layer in 0..3 {
            let case = case(&mlp, &x, structure, &[layer]);
            let posterior = invert(&case.plan, case.curvature, 0.3, 1).unwrap();
            let (probes, sums) = probed(&mlp, &case.plan, posterior.as_ref(), &x, &stars);
            assert_eq!(probes.len(), if structure == StructureKind::Kfac { 32 } else { 16 });
            for probe in &probes {
                assert_eq!(Probe::from_numbers(&probe.to_numbers()).as_ref(), Some(probe));
            }
            let error = sums.largest_error(&probes).unwrap();
            assert!(error < 1e-12, "{structure} {layer}: {error:e}");
        }
    }
    let dual = plan(&mlp, StructureKind::Dual, &[0, 1, 2]);
    let one = LabelPrecision::constant(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 90).unwrap();
    let posterior = crate::exact_posterior(&dual, &mlp.captures(&x, DType::F64), &one, 0.3, 1).unwrap();
    let (probes, sums) = probed(&mlp, &dual, posterior.as_ref(), &x, &stars);
    let error = sums.largest_error(&probes).unwrap();
    assert!(error < 1e-10, "dual: {error:e}");
    assert_eq!(ProbeSums::default().largest_error(&[]), None);
}

/// A block of weights and biases apart answers with less than the H that the spectra have, so that its probes would take what was left out for
/// damage: it has none.
#[test]
fn blocks_of_weights_and_biases_apart_are_not_probed() {
    let mlp = Mlp::random(&WIDTHS, 54);
    let (x, stars) = (draw(WIDTHS[0] * 90, 55), draw(WIDTHS[0] * 4, 56));
    for structure in [StructureKind::Block, StructureKind::Kfac] {
        let mut case = case(&mlp, &x, structure, &[1]);
        let columns = case.plan.shapes[0].columns();
        match &mut case.curvature.form {
            fisherflow_curvature::CurvatureForm::Dense(h) => split(&mut h.values, columns),
            fisherflow_curvature::CurvatureForm::Kronecker { a, .. } => split(&mut a.values, columns),
            other => panic!("{other:?}"),
        }
        let posterior = invert(&case.plan, case.curvature, 0.3, 1).unwrap();
        let (probes, sums) = probed(&mlp, &case.plan, posterior.as_ref(), &x, &stars);
        let taken_for_damage = sums.largest_error(&probes).unwrap();
        assert!(taken_for_damage > 1e-2, "{structure}: {taken_for_damage:e}");

        case.plan.options.split_bias = true;
        let (probes, sums) = probed(&mlp, &case.plan, posterior.as_ref(), &x, &stars);
        assert_eq!((probes.len(), sums.largest_error(&probes)), (0, None), "{structure}");
    }
}

/// Relative errors `1 - z.M^-1.z / z.x` of the input side of a Kronecker block, by elimination, in the order of the probes.
fn true_errors(mlp: &Mlp, layer: usize, probes: &[Probe], x: &[f64], stars: &[f64], delta: f64) -> Vec<f64> {
    let (a, _) = mlp.factors(x, layer);
    let rows = mlp.shapes[layer].inputs + 1;
    let captures = mlp.captures(stars, DType::F64);
    let inputs: Vec<Vec<f64>> = captures[layer].input.squeeze(1).unwrap().to_vec2().unwrap();
    probes
        .iter()
        .step_by(2)
        .zip(inputs)
        .map(|(probe, mut z)| {
            z.push(1.0);
            let m = with_prior(a.iter().map(|value| value * probe.scale).collect(), delta);
            let solved = inverse(&m).0;
            let exact: f64 = (0..rows)
                .map(|i| z[i] * (0..rows).map(|j| solved[i * rows + j] * z[j]).sum::<f64>())
                .sum();
            1.0 - exact / probe.x_dot_z
        })
        .collect()
}

#[test]
fn planted_damage_is_seen_at_its_size() {
    let (mlp, layer, delta) = (Mlp::random(&WIDTHS, 61), 0, 1e-2);
    let (x, stars) = (draw(WIDTHS[0] * 200, 62), draw(WIDTHS[0] * 16, 63));
    let case = case(&mlp, &x, StructureKind::Kfac, &[layer]);
    let fisherflow_curvature::CurvatureForm::Kronecker { a, g } = case.curvature.form else {
        panic!("kfac is held as factors");
    };
    let pairs = |matrix, factor| decompose(matrix, "test", factor, 1).unwrap();
    let (a, g) = (pairs(a, Factor::KronA), pairs(g, Factor::KronG));
    let n = a.values.len();
    for size in [1e-5, 1e-3, 3e-2] {
        // Every eigenvalue wrong by this much; two neighbours mixed by an angle; eigenvectors of the wrong length.
        let mut values = a.clone();
        values.values.iter_mut().for_each(|value| *value *= 1.0 + size);
        let mut mixed = a.clone();
        for row in mixed.vectors.chunks_exact_mut(n) {
            let (u, v) = (row[0], row[n - 1]);
            let angle = size.sqrt();
            row[0] = angle.cos() * u - angle.sin() * v;
            row[n - 1] = angle.sin() * u + angle.cos() * v;
        }
        let mut longer = a.clone();
        longer.vectors.iter_mut().for_each(|value| *value *= 1.0 + size);
        for (what, damaged) in [("eigenvalues", values), ("angle", mixed), ("length", longer)] {
            let basis = Eigenbasis::of_factors(damaged, g.clone(), 200);
            let precision = KroneckerPrecision::with_prior(&case.plan, 200, basis, delta, 1.into()).unwrap();
            let (probes, sums) = probed(&mlp, &case.plan, &precision, &x, &stars);
            let errors = true_errors(&mlp, layer, &probes, &x, &stars, delta);
            let actual = errors.iter().fold(0.0_f64, |most, error| most.max(error.abs()));
            let estimate = sums.largest_error(&probes).unwrap();
            assert!(actual > 1e-7, "{what} {size:e} did no damage: {actual:e}");
            assert!(
                estimate < 3.0 * actual && estimate > actual / 3.0,
                "{what} {size:e}: estimate {estimate:e}, actual {actual:e}"
            );
        }
    }
}

#[test]
fn damage_on_the_gradients_side_and_in_dense_and_diagonal_blocks_is_seen() {
    let mlp = Mlp::random(&WIDTHS, 71);
    let (x, stars) = (draw(WIDTHS[0] * 80, 72), draw(WIDTHS[0] * 16, 73));
    for structure in [StructureKind::Block, StructureKind::Kfac, StructureKind::Diagonal] {
        let case = case(&mlp, &x, structure, &[1]);
        let posterior = invert(&case.plan, case.curvature, 1e-3, 1).unwrap();
        let mut matrices = posterior.inverse_matrices().unwrap();
        let damaged = match structure {
            StructureKind::Kfac => Factor::GEigenvalues,
            StructureKind::Diagonal => Factor::Diagonal,
            _ => Factor::Dense,
        };
        let matrix = matrices.iter_mut().find(|named| named.factor == damaged).unwrap();
        matrix.matrix.values.iter_mut().for_each(|value| *value *= 1.01);
        let mut info = posterior.info().clone();
        info.block = case.plan.id;
        let again = crate::precision_from_matrices(&case.plan, matrices, info, 1).unwrap();
        let (probes, sums) = probed(&mlp, &case.plan, again.as_ref(), &x, &stars);
        let error = sums.largest_error(&probes).unwrap();
        assert!(error > 1e-2 / 3.0 && error < 3e-2, "{structure}: {error:e}");
    }
}

#[test]
fn a_newton_step_is_that_of_the_dense_inverse() {
    let mlp = Mlp::random(&WIDTHS, 81);
    let x = draw(WIDTHS[0] * 40, 82);
    let case = case(&mlp, &x, StructureKind::Block, &[1]);
    let p = case.plan.n_weights();
    let (fit, theta) = (draw(p, 83), draw(p, 84));
    let posterior = invert(&case.plan, case.curvature, 0.7, 1).unwrap();
    let found = newton_step(posterior.as_ref(), &fit, &theta).unwrap();
    let g: Vec<f64> = fit.iter().zip(&theta).map(|(f, t)| 0.7 * t - f).collect();
    let inverse = inverse(&with_prior(case.h, 0.7)).0;
    let quadratic: f64 = (0..p)
        .map(|i| g[i] * (0..p).map(|j| inverse[i * p + j] * g[j]).sum::<f64>())
        .sum();
    assert!((found.decrement / quadratic.sqrt() - 1.0).abs() < 1e-10);
    assert!((found.gradient_norm / g.iter().map(|g| g * g).sum::<f64>().sqrt() - 1.0).abs() < 1e-14);
    assert!(newton_step(posterior.as_ref(), &fit, &theta[1..]).is_err());
    let overflown = newton_step(posterior.as_ref(), &vec![f64::NAN; p], &theta).unwrap();
    assert!(overflown.decrement.is_nan(), "what is not known is no minimum");

    let step = |gradient_norm, decrement| NewtonStep {
        gradient_norm,
        decrement,
    };
    assert_eq!(
        NewtonStep::total([Some(step(3.0, 5.0)), Some(step(4.0, 12.0))]),
        Some(step(5.0, 13.0))
    );
    assert_eq!(NewtonStep::total([Some(step(3.0, 5.0)), None]), None);
    assert_eq!(NewtonStep::total([]), None);
}

#[test]
fn the_share_of_negative_curvature_is_that_of_the_spectrum() {
    // 400 eigenvalues of which a quarter are negative; the random start gives each about the same weight.
    let p = 400;
    let eigenvalues: Vec<f64> = (0..p)
        .map(|i| {
            if i % 4 == 0 {
                -1.0 - i as f64 / 400.0
            } else {
                3.0 + i as f64
            }
        })
        .collect();
    let times = |v: &[f64]| -> Result<Vec<f64>, PosteriorError> {
        Ok(v.iter()
            .zip(&eigenvalues)
            .map(|(v, lambda)| v * (lambda - 0.5) / 2.0)
            .collect())
    };
    let (start, prior) = (super::curvature_share::start(p), vec![0.5; p]);
    let total: f64 = start.iter().map(|v| v * v).sum();
    let expected: f64 = start.iter().step_by(4).map(|v| v * v).sum::<f64>() / total;
    let found = curvature_share((2.0, &prior), 60, 0.0, times).unwrap();
    assert!(
        found.negative > expected - 1e-2 && found.negative < expected + 1e-9,
        "{found:?} {expected}"
    );
    assert!(found.lowest > -1.99 - 1e-9 && found.highest < 402.0 + 1e-9, "{found:?}");
    let whole = curvature_share((2.0, &prior), p, 0.0, times).unwrap();
    for (what, found, expected) in [
        ("share", whole.negative, expected),
        ("lowest", whole.lowest, -1.99),
        ("highest", whole.highest, 402.0),
    ] {
        assert!((found - expected).abs() < 1e-9, "{what}: {found} {expected}");
    }
    let same = |v: &[f64]| -> Result<Vec<f64>, PosteriorError> { Ok(v.iter().map(|v| 2.0 * v).collect()) };
    let one = curvature_share((1.0, &vec![0.0; p]), 5, 0.0, same).unwrap();
    assert_eq!(
        (one.steps, one.negative),
        (1, 0.0),
        "the Krylov space of the unit matrix has one dimension"
    );
    assert!((one.lowest - 2.0).abs() < 1e-14);
}

/// A Gauss-Newton matrix of few spectra is never below zero; its products in f32 put the prior's eigenvalues there.
#[test]
fn what_rounding_turns_below_zero_is_not_counted() {
    let (n, p) = (40, 600);
    let rows: Vec<f32> = (0..n * p)
        .map(|at| 1.0 + 0.05 * ((at * 7919 % 1009) as f32 / 504.5 - 1.0))
        .collect();
    let times = |v: &[f64]| -> Result<Vec<f64>, PosteriorError> {
        let v: Vec<f32> = v.iter().map(|&v| v as f32).collect();
        let mut product = vec![0.0_f32; p];
        for row in rows.chunks_exact(p) {
            let along: f32 = row.iter().zip(&v).map(|(x, v)| x * v).sum();
            product.iter_mut().zip(row).for_each(|(sum, x)| *sum += along * x);
        }
        Ok(product.into_iter().map(f64::from).collect())
    };
    let prior = vec![1e-8; p];
    let share = |relative_rounding| {
        curvature_share((1e4, &prior), 20, relative_rounding, times)
            .unwrap()
            .negative
    };
    assert!(share(0.0) > super::verdict::NEGATIVE_SHARE, "{}", share(0.0));
    assert_eq!(share(1e-6), 0.0);
}

#[test]
fn what_follows_is_said() {
    let mlp = Mlp::random(&WIDTHS, 41);
    let case = case(&mlp, &draw(WIDTHS[0] * 20, 2), StructureKind::Kfac, &[0]);
    let info = invert(&case.plan, case.curvature, 1.0, 1).unwrap().info().clone();
    let gamma = info.effective_parameters;
    let comparison = |median: f64| super::Comparison {
        n_spectra: 2000,
        n_stars: 200,
        effective_limit: 60.0,
        effective_parameters: 20.0,
        structures: vec![super::ComparedStructure {
            structure: "run".into(),
            ratio: Some(SigmaRatio {
                median,
                p05: 0.42,
                p95: 0.72,
                spearman: Some(0.9),
            }),
            effective_parameters: 30.0,
        }],
        blocks: vec![Some(SigmaRatio {
            median,
            p05: 0.42,
            p95: 0.72,
            spearman: None,
        })],
    };
    let certificate = |median, limit, error, decrement| {
        let step = NewtonStep {
            gradient_norm: 1.0,
            decrement,
        };
        let checks = [(Some(error), Some(step))];
        Certificate::new(
            std::slice::from_ref(&info),
            limit,
            (Some(comparison(median)), None),
            &checks,
            None,
        )
    };
    let good = certificate(0.98, 60.0, 1e-6, 0.1);
    assert_eq!(good.verdict.len(), 1, "{:?}", good.verdict);
    assert!(
        good.verdict[0].contains("agree with exact within 5 % in the median, but not star by star"),
        "{:?}",
        good.verdict
    );
    let bad = certificate(0.57, gamma / 2.0, 3e-2, 2.0 * gamma.sqrt());
    let said = bad.verdict.join("\n");
    for part in [
        "errors of the weights' part are 0.57 of exact (5 to 95 %: 0.42 to 0.72): too small on 2000 training spectra; use structure = \"dual\" or \
         prior.precision = \"holdout\"",
        "the structure counts information that is not there",
        "arithmetic: relative error 3e-2 of a variance: use compute.precision = \"f64\"",
        "theta is no minimum: Newton decrement",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert_eq!(bad.blocks[0].verdict.len(), 3, "{:?}", bad.blocks[0]);
    let share = CurvatureShare {
        steps: 9,
        negative: 0.25,
        lowest: -3.0,
        highest: 8.0,
    };
    let bent = Certificate::new(&[], 1.0, (None, Some("prior precision 0".into())), &[], Some(share));
    assert!(
        bent.verdict[0].contains("prior precision 0") && bent.verdict[1].contains("25.0 %"),
        "{:?}",
        bent.verdict
    );
    assert_eq!(bent.newton, None);
    let hardly = CurvatureShare {
        negative: 0.01,
        ..share
    };
    let hardly = Certificate::new(&[], 1.0, (None, None), &[], Some(hardly));
    assert_eq!(hardly.verdict, Vec::<String>::new());
}
