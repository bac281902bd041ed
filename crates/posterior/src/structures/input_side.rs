//! What a Kronecker block needs of a star's inputs: `sum_j a~_j^2 w_jx`, `a~ = V^T [a; 1]`, of f32 captures.
//!
//! The product with V is most of what a prediction costs. On a path of shorter numbers it is made of `a` less its part along the leading columns of V,
//! whose coordinates are taken in f32: the large numbers are gone, and what rounding does is in proportion to the small ones that are left. (In the
//! basis of spectra the first column is their mean, some 5,000 times the rest.) With a' what is left of a star's inputs, the errors of the `a~_j` are
//! independent where rounding has no pattern, with variances of at most
//!
//! ```text
//! sigma_j^2 = u^2 sum_i a'_i^2 V_ij^2 <= u^2 (sum_i a'_i^4)^1/2 (sum_i V_ij^4)^1/2       bf16: u the error of a product's factors
//! sigma_j^2 = (u^2 + |a'|^2 u_j^2) / 12                                                i16: u the unit of a', u_j of column j of V
//! ```
//!
//! Whether it has none is seen, too: some columns are made in f32 beside, and where a star's errors there are larger than these, so they are taken to
//! be everywhere. The relative error of a weighted sum, its bias and three standard deviations, is then
//!
//! ```text
//! (sum_j sigma_j^2 w_j + 6 (sum_j a~_j^2 w_j^2 sigma_j^2)^1/2) / sum_j a~_j^2 w_j
//! ```
//!
//! which is computed for every star at some of the x, between which it is smooth. A star beyond [`ALLOWED`] is rotated once more, in f32: no star's
//! bits depend on those that are beside it.

use std::sync::OnceLock;

use faer::{MatMut, MatRef};
use fisherflow_kernels::{Packed, Path, Products, Start, multiply, multiply_packed, units_of_rows};
use fisherflow_network::scratch::Scratch;

use crate::product::{Right, as_f32, rows};

/// Columns of V whose coordinates are taken in f32.
const LEADING: usize = 16;

/// Other columns of V that are made in f32 too, to see what is off.
const COMPARED: usize = 64;

/// Columns of w at which a star's error is computed.
const WITNESSES: usize = 16;

/// What a star's sums may be off by, relatively.
pub(crate) const ALLOWED: f64 = 1e-3;

/// The inputs' side of a block: V and w, packed for products.
pub(crate) struct InputSide {
    rotation: Rotation,
    /// w, `[columns, width]`.
    weights: Packed<f32>,
    threads: usize,
}

enum Rotation {
    Exact(Exact),
    Short(Box<Short>),
}

/// V in f32.
pub(crate) struct Exact {
    /// Without the row of the bias.
    vectors: Packed<f32>,
    bias_row: Option<Vec<f32>>,
}

/// V in shorter numbers.
struct Short {
    path: Path,
    /// With the row of the bias.
    vectors: Packed<f32>,
    leading: Columns,
    compared: Columns,
    /// The terms' factors of the columns compared.
    compared_factors: Vec<[f64; TERMS]>,
    witnesses: Witnesses,
    /// For stars that need it.
    exact: OnceLock<Exact>,
}

/// Some columns of V in f32.
struct Columns {
    numbers: Vec<usize>,
    /// `[all rows, columns]`.
    vectors: Vec<f32>,
}

/// Terms of the variance `sigma_j^2`, each a star's factor times a column's.
const TERMS: usize = 2;

/// What a star's error is computed from.
struct Witnesses {
    /// Their columns of w.
    columns: Vec<usize>,
    /// `w^2` there times each term's factor of the column of V: `[columns of V, terms x witnesses]`.
    squares: Packed<f32>,
    /// `sum_j w_j` there times each term's factor: `[terms x witnesses]`.
    sums: Vec<f64>,
}

/// A layer's V, `[rows, columns]` of equal number, its last row the bias's where there is one.
#[derive(Clone, Copy)]
pub(crate) struct Vectors<'a> {
    pub values: &'a [f64],
    pub columns: usize,
    pub bias: bool,
}

impl Vectors<'_> {
    fn inputs(&self) -> usize {
        self.columns - usize::from(self.bias)
    }
}

impl InputSide {
    /// Of V, the size of the curvature along each of its columns, and w, `[columns, width]`. The rotation is made by `products`, in f32 where
    /// there are too few columns for anything else to pay.
    pub(crate) fn new(vectors: Vectors<'_>, sizes: &[f64], weights: &[f32], products: Products) -> Self {
        let Products { path, threads } = products;
        let width = weights.len() / vectors.columns.max(1);
        let rotation = if Path::EXACT.contains(&path) || vectors.columns < 8 * LEADING {
            Rotation::Exact(Exact::new(vectors, threads))
        } else {
            let mut by_size: Vec<usize> = (0..vectors.columns).collect();
            by_size.sort_by(|&a, &b| sizes[b].total_cmp(&sizes[a]));
            let (leading, others) = by_size.split_at(LEADING);
            let compared: Vec<usize> = (0..COMPARED)
                .map(|at| others[at * (others.len() - 1) / (COMPARED - 1)])
                .collect();
            let packed_vectors = packed(&as_f32(vectors.values), vectors.columns, products);
            let mut factors = factors_of_columns(vectors, packed_vectors.units());
            leading.iter().for_each(|&j| factors[j] = [0.0; TERMS]);
            Rotation::Short(Box::new(Short {
                path,
                witnesses: Witnesses::new(&factors, weights, threads),
                vectors: packed_vectors,
                leading: Columns::new(vectors, leading.to_vec()),
                compared_factors: compared.iter().map(|&j| factors[j]).collect(),
                compared: Columns::new(vectors, compared),
                exact: OnceLock::new(),
            }))
        };
        Self {
            rotation,
            weights: packed(weights, width, threads),
            threads,
        }
    }

    /// `sum_j a~_j^2 w_jx`, `[batch, width]`, of a, `[batch, inputs]`. `vectors` are those that this was made of.
    pub(crate) fn weighted_squares(&self, a: &[f32], batch: usize, vectors: Vectors<'_>) -> Scratch<f32> {
        let short = match &self.rotation {
            Rotation::Exact(exact) => return self.weighted(&mut exact.product(a, batch, self.threads), batch),
            Rotation::Short(short) => short,
        };
        let Residuals { mut rotated, factors } = short.product(a, batch, vectors, self.threads);
        let mut sums = self.weighted(&mut rotated, batch);
        let again = short.witnesses.beyond_allowed(&rotated, &sums, &factors, self.threads);
        if !again.is_empty() {
            let inputs = vectors.inputs();
            let a: Vec<f32> = again
                .iter()
                .flat_map(|&n| &a[n * inputs..][..inputs])
                .copied()
                .collect();
            let exact = short.exact.get_or_init(|| Exact::new(vectors, self.threads));
            let exact = self.weighted(&mut exact.product(&a, again.len(), self.threads), again.len());
            let width = self.weights.cols();
            for (n, row) in again.into_iter().zip(exact.chunks_exact(width)) {
                sums[n * width..][..width].copy_from_slice(row);
            }
        }
        sums
    }

    /// The weighted sums of `rotated`, which is squared in place.
    fn weighted(&self, rotated: &mut [f32], batch: usize) -> Scratch<f32> {
        rotated.iter_mut().for_each(|a| *a *= *a);
        Right::Packed(&self.weights).product(rows(rotated, batch, self.weights.rows()), None, self.threads)
    }
}

impl Exact {
    pub(crate) fn new(vectors: Vectors<'_>, threads: usize) -> Self {
        let (rows, bias) = vectors.values.split_at(vectors.inputs() * vectors.columns);
        Self {
            vectors: packed(&as_f32(rows), vectors.columns, threads),
            bias_row: vectors.bias.then(|| as_f32(bias)),
        }
    }

    /// `V^T [a; 1]` of `n` rows a.
    pub(crate) fn product(&self, a: &[f32], n: usize, threads: usize) -> Scratch<f32> {
        let a = rows(a, n, self.vectors.rows());
        Right::Packed(&self.vectors).product(a, self.bias_row.as_deref(), threads)
    }
}

impl Columns {
    fn new(vectors: Vectors<'_>, numbers: Vec<usize>) -> Self {
        let of_row = |row: &[f64]| numbers.iter().map(|&j| row[j] as f32).collect::<Vec<_>>();
        let vectors = vectors.values.chunks_exact(vectors.columns).flat_map(of_row).collect();
        Self { numbers, vectors }
    }

    fn matrix(&self) -> MatRef<'_, f32> {
        let n = self.numbers.len();
        rows(&self.vectors, self.vectors.len() / n, n)
    }
}

/// What V in shorter numbers makes of some stars.
struct Residuals {
    /// `a~`, `[batch, columns]`.
    rotated: Scratch<f32>,
    /// The factors of each star.
    factors: Vec<[f64; TERMS]>,
}

impl Short {
    fn product(&self, a: &[f32], batch: usize, vectors: Vectors<'_>, threads: usize) -> Residuals {
        let (columns, inputs, n) = (vectors.columns, vectors.inputs(), LEADING);
        let mut left = Scratch::new(batch * columns);
        for (to, from) in left.chunks_exact_mut(columns).zip(a.chunks_exact(inputs)) {
            to[..inputs].copy_from_slice(from);
            to[inputs..].fill(1.0);
        }
        let leading = self.leading.matrix();
        let mut coordinates = Right::Plain(leading).product(rows(&left, batch, columns), None, threads);
        coordinates.iter_mut().for_each(|x| *x = -*x);
        let to = MatMut::from_row_major_slice_mut(&mut left, batch, columns);
        multiply(
            to,
            Start::Kept,
            rows(&coordinates, batch, n),
            leading.transpose(),
            threads,
        );
        let mut rotated = Scratch::new(batch * columns);
        let to = MatMut::from_row_major_slice_mut(&mut rotated, batch, columns);
        multiply_packed(to, Start::Zero, rows(&left, batch, columns), &self.vectors, threads);
        for (row, coordinates) in rotated.chunks_exact_mut(columns).zip(coordinates.chunks_exact(n)) {
            for (&j, x) in self.leading.numbers.iter().zip(coordinates) {
                row[j] = -x;
            }
        }
        let exact = Right::Plain(self.compared.matrix()).product(rows(&left, batch, columns), None, threads);
        let mut factors = factors_of_stars(&left, columns, self.path);
        for ((factors, rotated), exact) in (factors.iter_mut())
            .zip(rotated.chunks_exact(columns))
            .zip(exact.chunks_exact(COMPARED))
        {
            let (mut found, mut expected) = (0.0, 0.0);
            for ((&j, exact), of_column) in self.compared.numbers.iter().zip(exact).zip(&self.compared_factors) {
                found += f64::from(rotated[j] - exact).powi(2);
                expected += factors.iter().zip(of_column).map(|(x, y)| x * y).sum::<f64>();
            }
            let above = f64::max(found / expected, 1.0);
            factors.iter_mut().for_each(|factor| *factor *= above);
        }
        Residuals { rotated, factors }
    }
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
    f64::from(unit).powi(2) / 12.0
}

/// The terms' factors of each star, of what is left of its inputs.
fn factors_of_stars(left: &[f32], columns: usize, path: Path) -> Vec<[f64; TERMS]> {
    let sum_of = |row: &[f32], power: i32| row.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>();
    if path != Path::I16 {
        let error = error_of_bf16(path).powi(2);
        let of_row = |row| [error * sum_of(row, 4).sqrt(), 0.0];
        return left.chunks_exact(columns).map(of_row).collect();
    }
    let units = units_of_rows(rows(left, left.len() / columns, columns));
    let of_row = |(row, unit)| [rounding(unit), sum_of(row, 2)];
    left.chunks_exact(columns).zip(units).map(of_row).collect()
}

/// The terms' factors of each column of V, whose units these are where it has some.
fn factors_of_columns(vectors: Vectors<'_>, units: Option<&[f32]>) -> Vec<[f64; TERMS]> {
    if let Some(units) = units {
        return units.iter().map(|&unit| [1.0, rounding(unit)]).collect();
    }
    let mut sums = vec![0.0; vectors.columns];
    for row in vectors.values.chunks_exact(vectors.columns) {
        sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v.powi(4));
    }
    sums.into_iter().map(|sum| [sum.sqrt(), 0.0]).collect()
}

impl Witnesses {
    /// Of the terms' factors of each column of V, and w.
    fn new(factors: &[[f64; TERMS]], weights: &[f32], threads: usize) -> Self {
        let width = weights.len() / factors.len().max(1);
        let n = WITNESSES.min(width);
        let columns: Vec<usize> = (0..n).map(|at| at * (width - 1) / (n - 1).max(1)).collect();
        let (mut squares, mut sums) = (Vec::with_capacity(factors.len() * TERMS * n), vec![0.0; TERMS * n]);
        for (weights, factors) in weights.chunks_exact(width.max(1)).zip(factors) {
            for (factor, sums) in factors.iter().zip(sums.chunks_exact_mut(n.max(1))) {
                for (&x, sum) in columns.iter().zip(sums) {
                    let w = f64::from(weights[x]);
                    *sum += w * factor;
                    squares.push((w * w * factor) as f32);
                }
            }
        }
        Self {
            squares: packed(&squares, TERMS * n, threads),
            columns,
            sums,
        }
    }

    /// The stars whose sums may be off by more than is allowed. `squares`: `[batch, columns of V]`; `sums`: `[batch, columns of w]`.
    fn beyond_allowed(&self, squares: &[f32], sums: &[f32], factors: &[[f64; TERMS]], threads: usize) -> Vec<usize> {
        let (batch, n) = (factors.len(), self.columns.len());
        let spread = Right::Packed(&self.squares).product(rows(squares, batch, self.squares.rows()), None, threads);
        let width = sums.len() / batch.max(1);
        let is_beyond = |&star: &usize| {
            let over_terms = |of: &dyn Fn(usize) -> f64| -> f64 {
                factors[star]
                    .iter()
                    .enumerate()
                    .map(|(term, factor)| factor * of(term))
                    .sum()
            };
            self.columns.iter().enumerate().any(|(at, &x)| {
                let bias = over_terms(&|term| self.sums[term * n + at]);
                let spread = over_terms(&|term| f64::from(spread[(star * TERMS + term) * n + at]));
                let error = bias + 6.0 * spread.sqrt();
                // Not a number is not known.
                let known = error <= ALLOWED * f64::from(sums[star * width + x]);
                !known
            })
        };
        (0..batch).filter(is_beyond).collect()
    }
}

fn packed(values: &[f32], cols: usize, products: impl Into<Products>) -> Packed<f32> {
    Packed::new(rows(values, values.len() / cols.max(1), cols), products)
}

#[cfg(test)]
mod tests;
