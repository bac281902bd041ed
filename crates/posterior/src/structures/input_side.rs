//! What a Kronecker block needs of a star's inputs: `sum_j a~_j^2 w_jx`, `a~ = V^T [a; 1]`, of f32 captures.
//!
//! The product with V is most of what a prediction costs. On a path of shorter numbers it is made of `a` less its part along the leading columns of V,
//! whose coordinates are taken in f32: the large numbers are gone, and what rounding does is in proportion to the small ones that are left. (In the
//! basis of spectra the first column is their mean, some 5,000 times the rest.) What rounding may do to each star's sums is computed (errors.rs), and a
//! star beyond 1e-3 is rotated once more, in f32, and named: no star's bits depend on those that are beside it.

mod errors;

use std::sync::OnceLock;

use faer::{MatMut, MatRef};
use fisherflow_kernels::{Packed, Path, Products, Start, multiply, multiply_in_units};
use fisherflow_network::scratch::Scratch;

use crate::product::{Right, as_f32, rows};
use errors::{Errors, Terms};

/// Columns of V whose coordinates are taken in f32.
const LEADING: usize = 16;

/// Columns of V from which on shorter numbers pay: some 130 products in f32 with each star's inputs come with them.
const FEWEST: usize = 512;

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
    leading: Leading,
    errors: Errors,
    /// For stars that need it.
    exact: OnceLock<Exact>,
}

/// The leading columns of V, in f32.
struct Leading {
    numbers: Vec<usize>,
    /// `[all rows, columns]`.
    vectors: Vec<f32>,
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
        let rotation = if Path::EXACT.contains(&path) || vectors.columns < FEWEST {
            Rotation::Exact(Exact::new(vectors, threads))
        } else {
            Rotation::Short(Box::new(Short::new(vectors, sizes, weights, products)))
        };
        Self {
            rotation,
            weights: packed(weights.values, weights.values.len() / vectors.columns.max(1), threads),
            threads,
        }
    }

    /// `sum_j a~_j^2 w_jx`, `[batch, width]`, of a, `[batch, inputs]`, and the stars that were rotated once more, in order. `vectors` are those that
    /// this was made of.
    pub(crate) fn weighted_squares(&self, a: &[f32], batch: usize, vectors: Vectors<'_>) -> (Scratch<f32>, Vec<usize>) {
        let short = match &self.rotation {
            Rotation::Exact(exact) => {
                let sums = self.weighted(&mut exact.product(a, batch, self.threads), batch);
                return (sums, Vec::new());
            }
            Rotation::Short(short) => short,
        };
        let (mut rotated, stars) = short.product(a, batch, vectors, self.threads);
        let mut sums = self.weighted(&mut rotated, batch);
        let again = short.errors.beyond_allowed(&stars, &rotated, &sums, self.threads);
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

impl Leading {
    fn new(vectors: Vectors<'_>, sizes: &[f64]) -> Self {
        let mut numbers: Vec<usize> = (0..vectors.columns).collect();
        numbers.sort_by(|&a, &b| sizes[b].total_cmp(&sizes[a]));
        numbers.truncate(LEADING);
        let of_row = |row: &[f64]| numbers.iter().map(|&j| row[j] as f32).collect::<Vec<_>>();
        let vectors = vectors.values.chunks_exact(vectors.columns).flat_map(of_row).collect();
        Self { numbers, vectors }
    }

    fn matrix(&self) -> MatRef<'_, f32> {
        let n = self.numbers.len();
        rows(&self.vectors, self.vectors.len() / n, n)
    }
}

impl Short {
    fn new(vectors: Vectors<'_>, sizes: &[f64], weights: Weights<'_>, products: Products) -> Self {
        let leading = Leading::new(vectors, sizes);
        let packed_vectors = packed(&as_f32(vectors.values), vectors.columns, products);
        Self {
            path: products.path,
            errors: Errors::new(
                vectors,
                packed_vectors.units(),
                (sizes, &leading.numbers),
                weights,
                products.threads,
            ),
            vectors: packed_vectors,
            leading,
            exact: OnceLock::new(),
        }
    }

    /// `a~`, `[batch, columns]`, and what its errors are computed from.
    fn product(&self, a: &[f32], batch: usize, vectors: Vectors<'_>, threads: usize) -> (Scratch<f32>, Vec<Terms>) {
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
        let units = multiply_in_units(to, Start::Zero, rows(&left, batch, columns), &self.vectors, threads);
        let stars = self.errors.of_stars(&left, &rotated, (units, self.path), threads);
        for (row, coordinates) in rotated.chunks_exact_mut(columns).zip(coordinates.chunks_exact(n)) {
            for (&j, x) in self.leading.numbers.iter().zip(coordinates) {
                row[j] = -x;
            }
        }
        (rotated, stars)
    }
}

fn packed(values: &[f32], cols: usize, products: impl Into<Products>) -> Packed<f32> {
    Packed::new(rows(values, values.len() / cols.max(1), cols), products)
}

#[cfg(test)]
mod tests;
