//! What a Kronecker block needs of a star's inputs: `sum_j a~_j^2 w_jx`, `a~ = V^T [a; 1]`, of f32 captures.
//!
//! The product with V is most of what a prediction costs. It is made of `a` less its part along the leading columns of V, whose coordinates are taken
//! apart: the large numbers are gone, and what rounding does is in proportion to the small ones that are left. (In the basis of spectra the first column
//! is their mean, some 5,000 times the rest.) So f32 does for stars next to no noise under next to no prior, and shorter numbers for most. What these may
//! do to each star's sums is computed (errors.rs), and a star beyond 1e-3 is rotated once more, in f32, and named: no star's bits depend on those that
//! are beside it.

mod errors;

use std::sync::OnceLock;

use faer::MatMut;
use fisherflow_kernels::{Packed, Path, Products, Start, multiply, multiply_in_units};
use fisherflow_network::scratch::Scratch;

use crate::product::{Right, as_f32, rows};
use errors::{Errors, Terms};

/// Columns of V whose coordinates are taken apart, where it has so many.
const LEADING: usize = 16;

/// Stars whose leading coordinates are taken at a time.
const AT_ONCE: usize = 128;

/// Columns of V from which on shorter numbers pay: some 130 products in f32 with each star's inputs come with them.
const FEWEST: usize = 512;

/// The inputs' side of a block: V and w, packed for products.
pub(crate) struct InputSide {
    leading: Leading,
    /// V in f32, from its first use on.
    exact: OnceLock<Packed<f32>>,
    short: Option<Box<Short>>,
    /// w, `[columns, width]`.
    weights: Packed<f32>,
    threads: usize,
}

/// `V^T [a; 1]` in f32.
pub(crate) struct Rotation {
    leading: Leading,
    vectors: Packed<f32>,
    threads: usize,
}

/// V in shorter numbers.
struct Short {
    path: Path,
    /// With the row of the bias.
    vectors: Packed<f32>,
    errors: Errors,
}

/// The leading columns of V.
struct Leading {
    numbers: Vec<usize>,
    /// `[all rows, leading]`.
    vectors: Vec<f64>,
}

/// Inputs with a 1 behind them where there is a bias, in two parts.
struct Split {
    /// Along the leading columns of V: `[n, leading]`.
    coordinates: Scratch<f32>,
    /// What is left: `[n, rows of V]`.
    rest: Scratch<f32>,
}

/// A layer's V, `[rows, columns]` of equal number, its last row the bias's where there is one.
#[derive(Clone, Copy)]
pub(crate) struct Vectors<'a> {
    pub values: &'a [f64],
    pub columns: usize,
}

/// w, row after row.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    /// `[columns of V, width]`.
    pub values: &'a [f32],
    /// Whether every row falls, or every row rises, from the first column to the last.
    pub in_order: bool,
}

impl InputSide {
    /// Of V, the size of the curvature along each of its columns, and w. The rotation is made by `products`, in f32 where V has too few columns.
    pub(crate) fn new(vectors: Vectors<'_>, sizes: &[f64], weights: Weights<'_>, products: Products) -> Self {
        let Products { path, threads } = products;
        let leading = Leading::new(vectors, sizes);
        let is_short = !Path::EXACT.contains(&path) && vectors.columns >= FEWEST;
        Self {
            short: is_short.then(|| Box::new(Short::new(vectors, (sizes, &leading.numbers), weights, products))),
            leading,
            exact: OnceLock::new(),
            weights: packed(weights.values, weights.values.len() / vectors.columns.max(1), threads),
            threads,
        }
    }

    /// `sum_j a~_j^2 w_jx`, `[batch, width]`, of a, `[batch, inputs]`, and the stars that were rotated once more, in order. `vectors` are those that
    /// this was made of.
    pub(crate) fn weighted_squares(&self, a: &[f32], batch: usize, vectors: Vectors<'_>) -> (Scratch<f32>, Vec<usize>) {
        let exact = |split: &Split| {
            let packed = || packed(&as_f32(vectors.values), vectors.columns, self.threads);
            self.leading
                .rotated(split, self.exact.get_or_init(packed), self.threads)
        };
        let split = self.leading.split(a, batch, self.threads);
        let Some(short) = &self.short else {
            return (self.weighted(&mut exact(&split), batch), Vec::new());
        };
        let (mut rotated, stars) = short.product(&split.rest, self.threads);
        self.leading.put(&mut rotated, &split.coordinates);
        let mut sums = self.weighted(&mut rotated, batch);
        let again = short.errors.beyond_allowed(&stars, &rotated, &sums, self.threads);
        if !again.is_empty() {
            let exact = self.weighted(&mut exact(&split.of(&again, batch)), again.len());
            let width = self.weights.cols();
            for (n, row) in again.iter().zip(exact.chunks_exact(width)) {
                sums[n * width..][..width].copy_from_slice(row);
            }
        }
        (sums, again)
    }

    /// The weighted sums of `rotated`, which is squared in place.
    fn weighted(&self, rotated: &mut [f32], batch: usize) -> Scratch<f32> {
        rotated.iter_mut().for_each(|a| *a *= *a);
        Right::Packed(&self.weights).product(rows(rotated, batch, self.weights.rows()), None, self.threads)
    }
}

impl Rotation {
    /// Of V and the size of the curvature along each of its columns.
    pub(crate) fn new(vectors: Vectors<'_>, sizes: &[f64], threads: usize) -> Self {
        Self {
            leading: Leading::new(vectors, sizes),
            vectors: packed(&as_f32(vectors.values), vectors.columns, threads),
            threads,
        }
    }

    /// `V^T [a; 1]`, `[n, columns]`, of `n` rows a, where there is a bias with its 1 behind them or without.
    pub(crate) fn rotated(&self, a: &[f32], n: usize) -> Scratch<f32> {
        let split = self.leading.split(a, n, self.threads);
        self.leading.rotated(&split, &self.vectors, self.threads)
    }
}

impl Leading {
    fn new(vectors: Vectors<'_>, sizes: &[f64]) -> Self {
        let mut numbers: Vec<usize> = (0..vectors.columns).collect();
        numbers.sort_by(|&a, &b| sizes[b].total_cmp(&sizes[a]));
        numbers.truncate(LEADING);
        let of_row = |row: &[f64]| numbers.iter().map(|&j| row[j]).collect::<Vec<_>>();
        Self {
            vectors: vectors.values.chunks_exact(vectors.columns).flat_map(of_row).collect(),
            numbers,
        }
    }

    /// Of `n` rows a, where there is a bias with its 1 behind them or without. In f64: what f32 would round in the subtraction is as large as the rest
    /// of spectra next to no noise.
    fn split(&self, a: &[f32], n: usize, threads: usize) -> Split {
        let leading = self.numbers.len();
        let columns = self.vectors.len() / leading;
        let (vectors, width) = (
            rows(&self.vectors, columns, leading),
            a.len().checked_div(n).unwrap_or(columns),
        );
        let (mut coordinates, mut rest) = (Scratch::new(n * leading), Scratch::new(n * columns));
        let parts = coordinates
            .chunks_mut(AT_ONCE * leading)
            .zip(rest.chunks_mut(AT_ONCE * columns));
        for (a, (coordinates, rest)) in a.chunks(AT_ONCE * width).zip(parts) {
            let n = rest.len() / columns;
            let mut x = Scratch::<f64>::new(rest.len());
            for (to, from) in x.chunks_exact_mut(columns).zip(a.chunks_exact(width)) {
                let (inputs, bias) = to.split_at_mut(width);
                inputs
                    .iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to = f64::from(*from));
                bias.fill(1.0);
            }
            let mut along = Right::Plain(vectors).product(rows(&x, n, columns), None, threads);
            coordinates
                .iter_mut()
                .zip(along.iter())
                .for_each(|(to, x)| *to = *x as f32);
            along.iter_mut().for_each(|x| *x = -*x);
            let to = MatMut::from_row_major_slice_mut(&mut x, n, columns);
            multiply(to, Start::Kept, rows(&along, n, leading), vectors.transpose(), threads);
            rest.iter_mut().zip(x.iter()).for_each(|(to, x)| *to = *x as f32);
        }
        Split { coordinates, rest }
    }

    /// `V^T [a; 1]` of what was split, by V packed.
    fn rotated(&self, split: &Split, vectors: &Packed<f32>, threads: usize) -> Scratch<f32> {
        let rest = rows(&split.rest, split.rest.len() / vectors.rows(), vectors.rows());
        let mut rotated = Right::Packed(vectors).product(rest, None, threads);
        self.put(&mut rotated, &split.coordinates);
        rotated
    }

    /// The leading coordinates of each row to their places.
    fn put(&self, rotated: &mut [f32], coordinates: &[f32]) {
        let n = self.numbers.len();
        let columns = self.vectors.len() / n;
        for (row, coordinates) in rotated.chunks_exact_mut(columns).zip(coordinates.chunks_exact(n)) {
            for (&j, x) in self.numbers.iter().zip(coordinates) {
                row[j] = *x;
            }
        }
    }
}

impl Split {
    /// Some of the `n` rows.
    fn of(&self, some: &[usize], n: usize) -> Self {
        let rows = |all: &[f32]| {
            let width = all.len() / n;
            let mut rows = Scratch::new(some.len() * width);
            for (to, &at) in rows.chunks_exact_mut(width).zip(some) {
                to.copy_from_slice(&all[at * width..][..width]);
            }
            rows
        };
        Self {
            coordinates: rows(&self.coordinates),
            rest: rows(&self.rest),
        }
    }
}

impl Short {
    /// Of V, the size of the curvature along each of its columns with those that are taken apart, and w.
    fn new(vectors: Vectors<'_>, apart: (&[f64], &[usize]), weights: Weights<'_>, products: Products) -> Self {
        let packed_vectors = packed(&as_f32(vectors.values), vectors.columns, products);
        Self {
            path: products.path,
            errors: Errors::new(vectors, packed_vectors.units(), apart, weights, products.threads),
            vectors: packed_vectors,
        }
    }

    /// `V^T` times each row of `rest`, and what the errors of it are computed from.
    fn product(&self, rest: &[f32], threads: usize) -> (Scratch<f32>, Vec<Terms>) {
        let (inner, columns) = (self.vectors.rows(), self.vectors.cols());
        let n = rest.len() / inner;
        let mut rotated = Scratch::new(n * columns);
        let to = MatMut::from_row_major_slice_mut(&mut rotated, n, columns);
        let units = multiply_in_units(to, Start::Zero, rows(rest, n, inner), &self.vectors, threads);
        let stars = self.errors.of_stars(rest, &rotated, (units, self.path), threads);
        (rotated, stars)
    }
}

fn packed(values: &[f32], cols: usize, products: impl Into<Products>) -> Packed<f32> {
    Packed::new(rows(values, values.len() / cols.max(1), cols), products)
}

#[cfg(test)]
mod tests;
