use super::*;
use crate::Factor;
use crate::brute_force::Numbers;
use crate::eigen::decompose;
use crate::structures::cases::matrix;

const INPUTS: usize = 400;
const NOISE: f64 = 0.017;

/// Spectra near 1 with more lines of random depths than there are leading columns, and noise in each pixel; `deeper`: how many times as far as usual
/// the lines are off their mean.
fn spectra(n: usize, seed: u64, deeper: f64, noise: f64) -> Vec<f64> {
    let mut numbers = Numbers::new(seed);
    let mut values = Vec::with_capacity(n * INPUTS);
    for _ in 0..n {
        let depths: Vec<f64> = (0..30).map(|_| 0.3 + 0.2 * deeper * numbers.next()).collect();
        for i in 0..INPUTS {
            let shape = |at: usize| (-((i as f64 - 6.0 - 13.0 * at as f64) / 4.0).powi(2)).exp();
            let lines: f64 = depths.iter().enumerate().map(|(at, depth)| depth * shape(at)).sum();
            values.push(1.0 - lines + noise * numbers.next());
        }
    }
    values
}

/// The eigenvectors of what `n` spectra, with a 1 behind each, sum to, and the eigenvalues over n.
fn basis(n: usize, noise: f64) -> (Vec<f64>, Vec<f64>) {
    let x = spectra(n, 1, 1.0, noise);
    let columns = INPUTS + 1;
    let mut sum = vec![0.0; columns * columns];
    for star in x.chunks_exact(INPUTS) {
        let star: Vec<f64> = star.iter().copied().chain([1.0]).collect();
        for (row, a) in sum.chunks_exact_mut(columns).zip(&star) {
            row.iter_mut().zip(&star).for_each(|(sum, b)| *sum += a * b / n as f64);
        }
    }
    let pairs = decompose(matrix(columns, sum), "test", Factor::KronA, 1).unwrap();
    (pairs.vectors, pairs.values)
}

/// `sum_j a~_j^2 w_jx` in f64.
fn in_f64(x: &[f64], vectors: &[f64], weights: &[f64], width: usize) -> Vec<f64> {
    let columns = INPUTS + 1;
    let mut sums = Vec::new();
    for star in x.chunks_exact(INPUTS) {
        let star: Vec<f64> = star.iter().copied().chain([1.0]).collect();
        let of = |j: usize| -> f64 {
            (0..columns)
                .map(|i| star[i] * vectors[i * columns + j])
                .sum::<f64>()
                .powi(2)
        };
        let squares: Vec<f64> = (0..columns).map(of).collect();
        sums.extend((0..width).map(|x| (0..columns).map(|j| squares[j] * weights[j * width + x]).sum::<f64>()));
    }
    sums
}

struct Case {
    side: InputSide,
    vectors: Vec<f64>,
    weights: Vec<f64>,
    width: usize,
}

impl Case {
    /// With weights `1 / (1 + x s)` for powers of ten.
    fn new(path: Path, powers: std::ops::Range<i32>, noise: f64) -> Self {
        let (vectors, sizes) = basis(2000, noise);
        let xs: Vec<f64> = powers.map(|power| 10f64.powi(power)).collect();
        let weights: Vec<f64> = sizes
            .iter()
            .flat_map(|s| xs.iter().map(move |x| 1.0 / (1.0 + x * s)))
            .collect();
        let of = Vectors {
            values: &vectors,
            columns: INPUTS + 1,
            bias: true,
        };
        let products = Products { path, threads: 1 };
        Self {
            side: InputSide::new(of, &sizes, &as_f32(&weights), products),
            weights,
            width: xs.len(),
            vectors,
        }
    }

    fn vectors(&self) -> Vectors<'_> {
        Vectors {
            values: &self.vectors,
            columns: INPUTS + 1,
            bias: true,
        }
    }

    fn sums(&self, x: &[f64]) -> Vec<f32> {
        let a = as_f32(x);
        self.side
            .weighted_squares(&a, a.len() / INPUTS, self.vectors())
            .to_vec()
    }

    fn error(&self, x: &[f64]) -> f64 {
        let exact = in_f64(x, &self.vectors, &self.weights, self.width);
        let off = |(found, exact): (f32, f64)| (f64::from(found) / exact - 1.0).abs();
        self.sums(x).into_iter().zip(exact).map(off).fold(0.0, f64::max)
    }

    /// Whether some star was rotated in f32.
    fn took_f32(&self) -> bool {
        match &self.side.rotation {
            Rotation::Short(short) => short.exact.get().is_some(),
            Rotation::Exact(_) => true,
        }
    }
}

/// A prior far above the noise: shorter numbers do, and the error that is let through is theirs, not of something else.
#[test]
fn a_short_rotation_is_off_by_less_than_is_allowed() {
    let x = spectra(40, 2, 1.0, NOISE);
    assert!(Case::new(Path::best(), -3..1, NOISE).error(&x) < 1e-5);
    for (path, least, most) in [
        (Path::bf16x3(), 0.0, 1e-5),
        (Path::bf16(), 2e-5, ALLOWED),
        (Ok(Path::I16), 1e-6, ALLOWED / 5.0),
    ] {
        let Ok(path) = path else { continue };
        let case = Case::new(path, -3..1, NOISE);
        let error = case.error(&x);
        assert!(error > least && error < most && !case.took_f32(), "{path}: {error:e}");
    }
}

/// Under a prior that is small beside some lines and not beside the noise, shorter numbers do for some stars and would be off by more for others.
#[test]
fn stars_beyond_it_are_rotated_in_f32_whoever_is_beside_them() {
    for (path, powers, noise) in [(Path::bf16(), -3..3, NOISE), (Ok(Path::I16), -3..9, NOISE / 5.0)] {
        let Ok(path) = path else { continue };
        let (case, exact) = (
            Case::new(path, powers.clone(), noise),
            Case::new(Path::best(), powers, noise),
        );
        let x: Vec<f64> = [0.1, 0.3, 1.0, 3.0, 10.0, 100.0]
            .into_iter()
            .flat_map(|deeper| spectra(4, 3, deeper, noise))
            .collect();
        let (together, in_f32) = (case.sums(&x), exact.sums(&x));
        let mut again = 0;
        for (star, (found, in_f32)) in x
            .chunks_exact(INPUTS)
            .zip(together.chunks(case.width).zip(in_f32.chunks(case.width)))
        {
            assert_eq!(case.sums(star), found);
            again += usize::from(found == in_f32);
        }
        assert!(again > 0 && again < 24, "{path}: {again} of 24");
        assert!(case.error(&x) < ALLOWED);
    }
}

/// `I - 2 v v^T`, whose columns are 1 at one place and -1.2e-5 at all others, which rounds to 0 beside it: together they are 5e-3 of an even star.
#[test]
fn rounding_with_a_pattern_is_seen() {
    let columns = INPUTS + 1;
    let mut v = vec![6e-6_f64.sqrt(); columns];
    v[0] = (1.0 - 6e-6 * INPUTS as f64).sqrt();
    let vectors: Vec<f64> = (0..columns * columns)
        .map(|at| f64::from(u8::from(at / columns == at % columns)) - 2.0 * v[at / columns] * v[at % columns])
        .collect();
    let of = Vectors {
        values: &vectors,
        columns,
        bias: true,
    };
    let weights = vec![1.0; columns];
    let side = |path| {
        InputSide::new(
            of,
            &weights.iter().map(|&w| f64::from(w)).collect::<Vec<_>>(),
            &weights,
            Products { path, threads: 1 },
        )
    };
    let (short, exact) = (side(Path::I16), side(Path::best()));
    let uneven = (0..INPUTS).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 });
    for (a, is_taken) in [(vec![1.0; INPUTS], true), (uneven.collect(), false)] {
        let found = short.weighted_squares(&a, 1, of).to_vec();
        assert_eq!(found == exact.weighted_squares(&a, 1, of).to_vec(), is_taken);
    }
}

#[test]
fn a_star_that_is_no_number_stays_none() {
    for path in [Path::bf16(), Ok(Path::I16)] {
        let Ok(path) = path else { continue };
        let mut x = spectra(2, 5, 1.0, NOISE);
        x[3] = f64::NAN;
        let case = Case::new(path, 0..2, NOISE);
        let sums = case.sums(&x);
        assert!(sums[..2].iter().all(|sum| sum.is_nan()) && sums[2..].iter().all(|sum| sum.is_finite()));
    }
}
