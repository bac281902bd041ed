//! What rounding to shorter numbers does to a star's weighted sums.
//!
//! With a' what is left of a star's inputs, the errors of the `a~_j` are independent where rounding has no pattern, with variances of at most
//!
//! ```text
//! sigma_j^2 = u^2 sum_i a'_i^2 V_ij^2 <= u^2 (sum_i a'_i^4)^1/2 (sum_i V_ij^4)^1/2       bf16: u the error of a product's factors
//! sigma_j^2 = (u^2 + |a'|^2 u_j^2) / 12                                                i16: u the unit of a', u_j of column j of V
//! ```
//!
//! The relative error of a weighted sum, its bias and three standard deviations, is then
//!
//! ```text
//! (sum_j sigma_j^2 w_jx + 6 (sum_j a~_j^2 w_jx^2 sigma_j^2)^1/2) / sum_j a~_j^2 w_jx
//! ```
//!
//! Where the columns of w are in order it is smooth between them, and computed for every star at some of them; else at every one, with
//! `max_j (w_jx sigma_j^2) sum_j a~_j^2 w_jx` in place of the second sum, which is never less.
//!
//! Whether rounding has a pattern is seen. Sums over all columns with random signs, `y = sum_j +-w_jx^1/2 a~_j`, are also made in f32, from `V^T` times
//! signs and weights: `E (y - y')^2 = sum_j w_jx e_j^2` whatever the errors `e_j` have in common. Where that is more than the `sigma_j` say, all errors of
//! the star are taken to be so much larger; where it is more than [`PATTERN`] times, nothing is known of them.

use fisherflow_kernels::{Packed, Path};

use super::{Vectors, Weights, packed};
use crate::product::{Right, as_f32, product, rows};

/// What a star's sums may be off by, relatively.
pub(crate) const ALLOWED: f64 = 1e-3;

/// Sums with random signs by which errors are seen.
const SUMS: usize = 32;

/// Columns of w that these are weighed by, where they are in order.
const SEEN: usize = 4;

/// Columns of w at which a star's error is computed, where they are in order.
const WITNESSES: usize = 16;

/// Times their variance that squares of errors are beyond where rounding has a pattern: were all in one column, three standard deviations.
const PATTERN: f64 = 9.0;

/// Terms of the variance `sigma_j^2`, each a star's factor times a column's.
const TERMS: usize = 2;
pub(super) type Terms = [f64; TERMS];

/// What the errors of a star's sums are computed from.
pub(super) struct Errors {
    /// Signs times weights, `[columns of V, SUMS]`.
    signed: Packed<f32>,
    /// V times these, `[rows of V, SUMS]`.
    exact: Packed<f32>,
    /// `sum_j w_jx` times each term's factor, of each x that some of the sums are weighed by.
    expected: Vec<Terms>,
    bounds: Bounds,
}

enum Bounds {
    Witnesses(Witnesses),
    /// Of every column of w.
    All(Vec<OfColumn>),
}

/// Columns of w.
struct Witnesses {
    numbers: Vec<usize>,
    /// The largest weight of each.
    largest: Vec<f64>,
    /// `(w / largest)^2` times each term's factor of the column of V: `[columns of V, witnesses x terms]`.
    squares: Packed<f32>,
    /// `sum_j w_j` times each term's factor.
    sums: Vec<Terms>,
}

/// What bounds a sum's error at a column of w.
#[derive(Clone, Copy, Default)]
struct OfColumn {
    /// `sum_j w_j` times each term's factor.
    sum: Terms,
    /// `max_j w_j` times each term's factor.
    largest: Terms,
}

impl Errors {
    /// Of V, the units of its columns on a path of whole numbers, the size of the curvature along each of them, those of them that are exact, and w.
    pub(super) fn new(
        vectors: Vectors<'_>,
        units: Option<&[f32]>,
        (sizes, exact): (&[f64], &[usize]),
        weights: Weights<'_>,
        threads: usize,
    ) -> Self {
        let columns = vectors.columns;
        let mut factors = factors_of_columns(vectors, units);
        exact.iter().for_each(|&j| factors[j] = [0.0; TERMS]);
        let mut seen: Vec<Vec<f64>> = if weights.in_order {
            let numbers = spread(SEEN, weights.values.len() / columns);
            numbers.map(|x| weights.column(columns, x)).collect()
        } else {
            vec![envelope(sizes, weights)]
        };
        for column in &mut seen {
            exact.iter().for_each(|&j| column[j] = 0.0);
            let largest = column.iter().fold(0.0, |largest: f64, &w| largest.max(w));
            column.iter_mut().for_each(|w| *w /= largest);
        }
        let expected = seen.iter().map(|w| sum_of(w.iter().copied().zip(&factors))).collect();
        let each = SUMS / seen.len();
        let signed: Vec<f64> = (0..columns * SUMS)
            .map(|at| sign(at as u64) * seen[(at % SUMS / each).min(seen.len() - 1)][at / SUMS].sqrt())
            .collect();
        let in_v = product(
            rows(vectors.values, columns, columns),
            rows(&signed, columns, SUMS),
            threads,
        );
        Self {
            signed: packed(&as_f32(&signed), SUMS, threads),
            exact: packed(&as_f32(&in_v), SUMS, threads),
            expected,
            bounds: match weights.in_order {
                true => Bounds::Witnesses(Witnesses::new(&factors, weights, threads)),
                false => Bounds::All(OfColumn::all(&factors, weights)),
            },
        }
    }

    /// The terms' factors of each star: of `left`, what is left of its inputs, and `rotated`, what shorter numbers made of it on this path, with the
    /// units of `left` where it has some.
    pub(super) fn of_stars(
        &self,
        left: &[f32],
        rotated: &[f32],
        (units, path): (Vec<f32>, Path),
        threads: usize,
    ) -> Vec<Terms> {
        let columns = self.signed.rows();
        let batch = left.len() / columns;
        let made = Right::Packed(&self.signed).product(rows(rotated, batch, columns), None, threads);
        let exact = Right::Packed(&self.exact).product(rows(left, batch, columns), None, threads);
        let each = SUMS / self.expected.len();
        let mut stars = factors_of_stars(left, columns, &units, path);
        for (star, (made, exact)) in stars
            .iter_mut()
            .zip(made.chunks_exact(SUMS).zip(exact.chunks_exact(SUMS)))
        {
            let mut above = 1.0;
            for ((made, exact), expected) in made
                .chunks_exact(each)
                .zip(exact.chunks_exact(each))
                .zip(&self.expected)
            {
                let found: f64 = made.iter().zip(exact).map(|(x, y)| square(f64::from(x - y))).sum();
                above = f64::max(above, found / (each as f64 * dot(star, expected)));
            }
            let times = if above > PATTERN { f64::INFINITY } else { above };
            star.iter_mut().for_each(|factor| *factor *= times);
        }
        stars
    }

    /// The stars whose sums may be off by more than is allowed, in order. `squares`: `a~_j^2`, `[batch, columns of V]`; `sums`: `[batch, columns of w]`.
    pub(super) fn beyond_allowed(&self, stars: &[Terms], squares: &[f32], sums: &[f32], threads: usize) -> Vec<usize> {
        let width = sums.len() / stars.len().max(1);
        let mut beyond = vec![false; stars.len()];
        let sums = |star: usize, x: usize| f64::from(sums[star * width + x]);
        match &self.bounds {
            Bounds::Witnesses(witnesses) => {
                let spread = Right::Packed(&witnesses.squares);
                let columns = witnesses.squares.rows();
                let spread = spread.product(rows(squares, stars.len(), columns), None, threads);
                for (n, (star, beyond)) in stars.iter().zip(&mut beyond).enumerate() {
                    for (at, &x) in witnesses.numbers.iter().enumerate() {
                        let terms = &spread[(n * witnesses.numbers.len() + at) * TERMS..][..TERMS];
                        let spread = dot(star, &[terms[0], terms[1]].map(f64::from)) * square(witnesses.largest[at]);
                        *beyond |= !is_allowed(dot(star, &witnesses.sums[at]), spread, sums(n, x));
                    }
                }
            }
            Bounds::All(of_columns) => {
                for (n, (star, beyond)) in stars.iter().zip(&mut beyond).enumerate() {
                    for (x, column) in of_columns.iter().enumerate() {
                        let sum = sums(n, x);
                        *beyond |= !is_allowed(dot(star, &column.sum), dot(star, &column.largest) * sum, sum);
                    }
                }
            }
        }
        (0..stars.len()).filter(|&n| beyond[n]).collect()
    }
}

/// Whether a sum with such a bias and variance of its half is as exact as is asked; what is not a number is not known to be.
fn is_allowed(bias: f64, spread: f64, sum: f64) -> bool {
    bias + 6.0 * spread.sqrt() <= ALLOWED * sum
}

impl Witnesses {
    /// Of the terms' factors of each column of V, and w.
    fn new(factors: &[Terms], weights: Weights<'_>, threads: usize) -> Self {
        let numbers: Vec<usize> = spread(WITNESSES, weights.values.len() / factors.len()).collect();
        let columns: Vec<Vec<f64>> = numbers.iter().map(|&x| weights.column(factors.len(), x)).collect();
        let largest: Vec<f64> = columns
            .iter()
            .map(|w| w.iter().fold(0.0, |largest: f64, &w| largest.max(w)))
            .collect();
        let mut squares = Vec::with_capacity(factors.len() * numbers.len() * TERMS);
        for (j, factors) in factors.iter().enumerate() {
            for (w, largest) in columns.iter().zip(&largest) {
                squares.extend(factors.map(|factor| (square(w[j] / largest) * factor) as f32));
            }
        }
        Self {
            squares: packed(&squares, numbers.len() * TERMS, threads),
            sums: columns.iter().map(|w| sum_of(w.iter().copied().zip(factors))).collect(),
            numbers,
            largest,
        }
    }
}

impl OfColumn {
    fn all(factors: &[Terms], weights: Weights<'_>) -> Vec<Self> {
        let width = weights.values.len() / factors.len();
        let mut all = vec![Self::default(); width];
        for (weights, factors) in weights.values.chunks_exact(width).zip(factors) {
            for (w, of) in weights.iter().zip(&mut all) {
                for (term, factor) in factors.iter().enumerate() {
                    let of_term = f64::from(*w) * factor;
                    of.sum[term] += of_term;
                    of.largest[term] = of.largest[term].max(of_term);
                }
            }
        }
        all
    }
}

impl Weights<'_> {
    /// Column x, where V has so many columns.
    fn column(&self, columns: usize, x: usize) -> Vec<f64> {
        let width = self.values.len() / columns;
        self.values.chunks_exact(width).map(|row| f64::from(row[x])).collect()
    }
}

/// Up to n columns of `width`, the first and the last among them.
fn spread(n: usize, width: usize) -> impl Iterator<Item = usize> {
    let n = n.min(width);
    (0..n).map(move |at| at * (width - 1) / (n - 1).max(1))
}

/// For each column of V, the largest share that a size of 1 has in any of the sums of a star with these sizes.
fn envelope(sizes: &[f64], weights: Weights<'_>) -> Vec<f64> {
    let width = weights.values.len() / sizes.len();
    let mut sums = vec![0.0; width];
    for (weights, size) in weights.values.chunks_exact(width).zip(sizes) {
        sums.iter_mut()
            .zip(weights)
            .for_each(|(sum, w)| *sum += f64::from(*w) * size);
    }
    let share = |row: &[f32]| -> f64 {
        let shares = row.iter().zip(&sums).filter(|(_, sum)| **sum > 0.0);
        shares.fold(0.0, |largest, (w, sum)| largest.max(f64::from(*w) / sum))
    };
    weights.values.chunks_exact(width).map(share).collect()
}

/// One of two signs, as if by chance: the last bit of splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
fn sign(at: u64) -> f64 {
    let mut z = (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    if (z ^ (z >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
}

/// A product's error on a path of bf16, relative to the size of each term: half a unit in the last place of both factors, and of what they leave.
fn error_of_bf16(path: Path) -> f64 {
    match path {
        Path::Avx512Bf16 | Path::AmxBf16 => 2.4e-3,
        _ => 6e-6,
    }
}

/// The variance of what rounding to a unit takes.
fn rounding(unit: f32) -> f64 {
    square(f64::from(unit)) / 12.0
}

/// The terms' factors of each star, of what is left of its inputs, whose units these are where it has some.
fn factors_of_stars(left: &[f32], columns: usize, units: &[f32], path: Path) -> Vec<Terms> {
    let squares = |row: &[f32]| row.iter().map(|&x| square(f64::from(x))).sum::<f64>();
    let fourths = |row: &[f32]| row.iter().map(|&x| square(square(f64::from(x)))).sum::<f64>();
    let stars = left.chunks_exact(columns);
    match path {
        Path::I16 => stars
            .zip(units)
            .map(|(row, &unit)| [rounding(unit), squares(row)])
            .collect(),
        _ => {
            let error = square(error_of_bf16(path));
            stars.map(|row| [error * fourths(row).sqrt(), 0.0]).collect()
        }
    }
}

/// The terms' factors of each column of V, whose units these are where it has some.
fn factors_of_columns(vectors: Vectors<'_>, units: Option<&[f32]>) -> Vec<Terms> {
    if let Some(units) = units {
        return units.iter().map(|&unit| [1.0, rounding(unit)]).collect();
    }
    let mut sums = vec![0.0; vectors.columns];
    for row in vectors.values.chunks_exact(vectors.columns) {
        sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += square(square(*v)));
    }
    sums.into_iter().map(|sum: f64| [sum.sqrt(), 0.0]).collect()
}

/// `sum_j w_j` times each term's factor.
fn sum_of<'a>(terms: impl Iterator<Item = (f64, &'a Terms)>) -> Terms {
    terms.fold([0.0; TERMS], |sum, (w, factors)| {
        [sum[0] + w * factors[0], sum[1] + w * factors[1]]
    })
}

fn dot(x: &Terms, y: &Terms) -> f64 {
    x[0] * y[0] + x[1] * y[1]
}

fn square(x: f64) -> f64 {
    x * x
}
