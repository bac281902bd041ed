use super::errors::ALLOWED;
use super::*;
use crate::Factor;
use crate::brute_force::Numbers;
use crate::eigen::decompose;
use crate::structures::cases::matrix;

const INPUTS: usize = 600;
const NOISE: f64 = 0.017;

/// Spectra near 1 with more lines of random depths than there are leading columns, and noise in each pixel; `deeper`: how many times as far as usual
/// the lines are off their mean.
fn spectra(n: usize, seed: u64, deeper: f64, noise: f64) -> Vec<f64> {
    let mut numbers = Numbers::new(seed);
    let mut values = Vec::with_capacity(n * INPUTS);
    for _ in 0..n {
        let depths: Vec<f64> = (0..30).map(|_| 0.3 + 0.2 * deeper * numbers.next()).collect();
        for i in 0..INPUTS {
            let shape = |at: usize| (-((i as f64 - 6.0 - 20.0 * at as f64) / 5.0).powi(2)).exp();
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

fn in_order(values: &[f32]) -> Weights<'_> {
    Weights { values, in_order: true }
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
        };
        let products = Products { path, threads: 1 };
        Self {
            side: InputSide::new(of, &sizes, in_order(&as_f32(&weights)), products),
            weights,
            width: xs.len(),
            vectors,
        }
    }

    fn vectors(&self) -> Vectors<'_> {
        Vectors {
            values: &self.vectors,
            columns: INPUTS + 1,
        }
    }

    fn sums(&self, x: &[f64]) -> Vec<f32> {
        self.sums_and_again(x).0
    }

    fn sums_and_again(&self, x: &[f64]) -> (Vec<f32>, Vec<usize>) {
        let a = as_f32(x);
        let (sums, again) = self.side.weighted_squares(&a, a.len() / INPUTS, self.vectors());
        (sums.to_vec(), again)
    }

    fn error(&self, x: &[f64]) -> f64 {
        let exact = in_f64(x, &self.vectors, &self.weights, self.width);
        let off = |(found, exact): (f32, f64)| (f64::from(found) / exact - 1.0).abs();
        self.sums(x).into_iter().zip(exact).map(off).fold(0.0, f64::max)
    }

    /// Whether some star was rotated in f32.
    fn took_f32(&self) -> bool {
        self.side.exact.get().is_some()
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

/// Spectra next to no noise, under next to no prior: the smallest of their coordinates are 1e-6 of the largest, and decide.
#[test]
fn f32_does_for_spectra_next_to_no_noise() {
    for noise in [1e-3, 1e-4, 1e-5] {
        let x: Vec<f64> = as_f32(&spectra(40, 2, 1.0, noise)).into_iter().map(f64::from).collect();
        let error = Case::new(Path::best(), -3..14, noise).error(&x);
        assert!(error < 2e-4, "{noise}: {error:e}");
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
        let ((together, again), in_f32) = (case.sums_and_again(&x), exact.sums(&x));
        let mut same = Vec::new();
        for (n, (found, in_f32)) in together.chunks(case.width).zip(in_f32.chunks(case.width)).enumerate() {
            assert_eq!(case.sums(&x[n * INPUTS..][..INPUTS]), found);
            same.extend((found == in_f32).then_some(n));
        }
        assert_eq!(again, same);
        assert!(!again.is_empty() && again.len() < 24, "{path}: {again:?} of 24");
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
    };
    let weights = vec![1.0; columns];
    let side = |path| {
        InputSide::new(
            of,
            &weights.iter().map(|&w| f64::from(w)).collect::<Vec<_>>(),
            in_order(&weights),
            Products { path, threads: 1 },
        )
    };
    let (short, exact) = (side(Path::I16), side(Path::best()));
    let uneven = (0..INPUTS).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 });
    for (a, is_taken) in [(vec![1.0; INPUTS], true), (uneven.collect(), false)] {
        let (found, again) = short.weighted_squares(&a, 1, of);
        let (in_f32, _) = exact.weighted_squares(&a, 1, of);
        assert_eq!((*found == *in_f32, again == [0]), (is_taken, is_taken));
    }
}

/// The stars that are rotated in f32; every other is within what is allowed, at every column of w.
fn again_or_near(vectors: &[f64], sizes: &[f64], weights: &[f64], in_order: bool, x: &[f64]) -> Vec<usize> {
    let (columns, width) = (INPUTS + 1, weights.len() / (INPUTS + 1));
    let of = Vectors {
        values: vectors,
        columns,
    };
    let values = as_f32(weights);
    let products = Products {
        path: Path::I16,
        threads: 1,
    };
    let side = InputSide::new(
        of,
        sizes,
        Weights {
            values: &values,
            in_order,
        },
        products,
    );
    let (found, again) = side.weighted_squares(&as_f32(x), x.len() / INPUTS, of);
    let exact = in_f64(x, vectors, weights, width);
    for (star, (found, exact)) in found.chunks_exact(width).zip(exact.chunks_exact(width)).enumerate() {
        let off = found.iter().zip(exact).map(|(x, y)| (f64::from(*x) / y - 1.0).abs());
        let off = off.fold(0.0, f64::max);
        assert!(off < ALLOWED, "star {star}: {off:e}");
    }
    again
}

/// One column of one large number and of small ones that are all alike and round to 0: with what is large in a star, which is alike in all pixels, they
/// make an error in a column that counts.
#[test]
fn a_pattern_in_one_column_is_seen() {
    let (columns, even) = (INPUTS + 1, 1.0 / (INPUTS as f64 - 1.0).sqrt());
    // A reflection that turns the second pixel into the mean of all but the first, and leaves the bias.
    let mut u: Vec<f64> = (0..columns)
        .map(|i| if i == 0 || i == INPUTS { 0.0 } else { -even })
        .collect();
    u[1] += 1.0;
    let norm = u.iter().map(|x| x * x).sum::<f64>();
    let reflected = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * u[i] * u[j] / norm;
    let angle = 1.2e-5 / even;
    let mut vectors = Vec::new();
    for i in 0..columns {
        let (first, mean) = (f64::from(u8::from(i == 0)), reflected(i, 1));
        vectors.push(angle.cos() * first + angle.sin() * mean);
        vectors.push(angle.cos() * mean - angle.sin() * first);
        vectors.extend((2..columns).map(|j| reflected(i, j)));
    }
    let mut sizes: Vec<f64> = (0..columns)
        .map(|j| 10f64.powf(6.0 * (1.0 - j as f64 / columns as f64)))
        .collect();
    sizes.swap(1, 20);
    (sizes[0], sizes[INPUTS]) = (1e-6, 1e-7);
    let weights: Vec<f64> = sizes.iter().map(|size| 1.0 / (1e-3 + size)).collect();
    let mut numbers = Numbers::new(9);
    let mut stars = |first: f64| -> Vec<f64> {
        let pixel = |i| {
            if i % INPUTS == 0 {
                first
            } else {
                1.0 + 0.3 * numbers.next()
            }
        };
        (0..20 * INPUTS).map(pixel).collect()
    };
    for first in [1.0, 2.0, 5.0] {
        let again = again_or_near(&vectors, &sizes, &weights, true, &stars(first));
        assert_eq!(again.len(), 20, "{first}");
    }
}

/// Eigenvalues that are not in order, and of which those of one direction of the gradients alone leave little but the errors.
#[test]
fn every_direction_of_the_gradients_counts() {
    let (vectors, sizes) = basis(2000, NOISE);
    let outputs = 300;
    let mut weights = Vec::new();
    for s in &sizes {
        let t = |i: usize| 10f64.powf(-6.0 * ((i * 7) % outputs) as f64 / outputs as f64);
        weights.extend((0..outputs).map(|i| 1.0 / (2000.0 * s * t(i) + 1.0)));
    }
    let x = spectra(20, 2, 1.0, NOISE);
    assert!(again_or_near(&vectors, &sizes, &weights, false, &x).is_empty());
    for (j, weights) in weights.chunks_exact_mut(outputs).enumerate() {
        weights[290] = if j < 3 { 1.0 } else { 1e-9 };
    }
    assert_eq!(again_or_near(&vectors, &sizes, &weights, false, &x).len(), 20);
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
