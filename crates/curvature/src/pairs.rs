//! Dense curvature of dense layers as products of pairs: summed over labels before it is over spectra.
//!
//! A row of the whitened weight Jacobian is `g_k (x) a`, so that between weights `(o, i)` of a layer and `(p, j)` of the same or another one
//!
//! `H[(o, i), (p, j)] = sum_n G_n[o, p] A_n[i, j]`,  `G_n = sum_k g_k g'_k^T`,  `A_n = a a'^T`:
//!
//! a product over spectra of pairs of outputs with pairs of inputs. Rows of the Jacobian would be multiplied once for each label; and within a layer
//! both G and A are symmetric, so that half of the pairs of each are enough: a layer takes 1 / (2 K) of the operations of a symmetric product of rows.

use std::ops::Range;

use faer::{MatMut, MatRef};
use fisherflow_kernels::{Products, Start, multiply};
use fisherflow_network::product::in_wide_registers;

use crate::dense::LayerBatch;
use crate::packed::packed_len;

/// Pairs of outputs, and of inputs, that are multiplied at a time, about.
const AT_ONCE: (usize, usize) = (1024, 4096);
/// Operations that cost as much as making a pair of inputs.
const PAIR: f64 = 80.0;

/// Operations of one spectrum, of layers with so many outputs and columns: of the products, and with what the pairs cost.
pub(crate) fn flops(layers: impl Iterator<Item = (usize, usize)> + Clone) -> (f64, f64) {
    let (mut products, mut with_pairs) = (0.0, 0.0);
    for (at, (outputs, columns)) in layers.clone().enumerate() {
        for (before, (others, other_columns)) in layers.clone().take(at + 1).enumerate() {
            let (of_outputs, of_inputs) = if before == at {
                (packed_len(outputs), packed_len(columns))
            } else {
                (outputs * others, columns * other_columns)
            };
            let flops = 2.0 * of_outputs as f64 * of_inputs as f64;
            products += flops;
            with_pairs += flops + PAIR * of_inputs as f64;
        }
    }
    (products, with_pairs)
}

/// Adds a batch of layers, each at one position, whose weights follow one another in H, to the packed lower triangle of H.
pub(crate) fn add_pairs(layers: &[LayerBatch], n_labels: usize, packed: &mut [f64], products: Products) {
    add_some_at_once(layers, n_labels, packed, products, AT_ONCE);
}

fn add_some_at_once(
    layers: &[LayerBatch],
    n_labels: usize,
    packed: &mut [f64],
    products: Products,
    at_once: (usize, usize),
) {
    let mut first = 0;
    for (at, layer) in layers.iter().enumerate() {
        let mut first_of_other = 0;
        for (before, other) in layers[..=at].iter().enumerate() {
            let pair = LayerPair {
                layer,
                other,
                same: before == at,
                first,
                first_of_other,
            };
            pair.add(n_labels, packed, products, at_once);
            first_of_other += other.outputs * other.columns();
        }
        first += layer.outputs * layer.columns();
    }
}

/// A block of H: rows of one layer's weights, columns of those of another before it, or of its own.
struct LayerPair<'a> {
    layer: &'a LayerBatch,
    other: &'a LayerBatch,
    same: bool,
    /// Where the weights of each begin in H.
    first: usize,
    first_of_other: usize,
}

impl LayerPair<'_> {
    fn add(&self, n_labels: usize, packed: &mut [f64], products: Products, at_once: (usize, usize)) {
        let (mut outputs, mut inputs, mut product) = (Vec::new(), Vec::new(), Vec::new());
        let others = Partners::new(self.same, self.other.outputs);
        let columns = Partners::new(self.same, self.other.columns());
        for o in others.ranges(self.layer.outputs, at_once.0) {
            let n_outputs = others.pairs(&o);
            in_wide_registers(|| self.pairs_of_outputs(&o, others, n_labels, &mut outputs));
            for i in columns.ranges(self.layer.columns(), at_once.1) {
                let n_inputs = columns.pairs(&i);
                in_wide_registers(|| self.pairs_of_inputs(&i, columns, &mut inputs));
                product.resize(n_outputs * n_inputs, 0.0);
                multiply(
                    MatMut::from_row_major_slice_mut(&mut product, n_outputs, n_inputs),
                    Start::Zero,
                    MatRef::from_row_major_slice(&outputs, outputs.len() / n_outputs, n_outputs).transpose(),
                    MatRef::from_row_major_slice(&inputs, inputs.len() / n_inputs, n_inputs),
                    products,
                );
                let of_pairs = o.clone().flat_map(|o| others.of(o).map(move |p| (o, p)));
                in_wide_registers(|| {
                    for ((o, p), product) in of_pairs.zip(product.chunks_exact(n_inputs)) {
                        self.add_pair((o, p), &i, columns, product, packed);
                    }
                });
            }
        }
    }

    /// `sum_k g_k[o] g'_k[p]` of every spectrum, `[batch, pairs]`.
    fn pairs_of_outputs(&self, range: &Range<usize>, others: Partners, n_labels: usize, to: &mut Vec<f64>) {
        to.clear();
        let (outputs, of_other) = (self.layer.outputs, self.other.outputs);
        let spectra = self.layer.gradients.chunks_exact(n_labels * outputs);
        let of_other = self.other.gradients.chunks_exact(n_labels * of_other);
        for (gradients, of_other) in spectra.zip(of_other) {
            for o in range.clone() {
                let first = to.len();
                to.resize(first + others.of(o).len(), 0.0);
                let labels = gradients.chunks_exact(outputs);
                for (gradient, other) in labels.zip(of_other.chunks_exact(self.other.outputs)) {
                    let g = gradient[o];
                    for (to, other) in to[first..].iter_mut().zip(other) {
                        *to += g * other;
                    }
                }
            }
        }
    }

    /// `a_i a'_j` of every spectrum, `[batch, pairs]`; the input of a bias is 1.
    fn pairs_of_inputs(&self, range: &Range<usize>, columns: Partners, to: &mut Vec<f64>) {
        to.clear();
        let spectra = self.layer.input.chunks_exact(self.layer.inputs);
        for (input, other) in spectra.zip(self.other.input.chunks_exact(self.other.inputs)) {
            for i in range.clone() {
                let a = input.get(i).copied().unwrap_or(1.0);
                let partners = columns.of(i).len();
                to.extend(other.iter().take(partners).map(|other| a * other));
                if partners > other.len() {
                    to.push(a);
                }
            }
        }
    }

    /// Adds what the inputs of `range` give for the outputs `(o, p)`.
    fn add_pair(
        &self,
        (o, p): (usize, usize),
        range: &Range<usize>,
        columns: Partners,
        mut product: &[f64],
        packed: &mut [f64],
    ) {
        let first_row = self.first + o * self.layer.columns();
        let first_column = self.first_of_other + p * self.other.columns();
        let whole = product;
        for i in range.clone() {
            let (own, rest) = product.split_at(columns.of(i).len());
            let start = packed_len(first_row + i) + first_column;
            for (to, value) in packed[start..][..own.len()].iter_mut().zip(own) {
                *to += value;
            }
            product = rest;
        }
        if !self.same || o == p {
            return;
        }
        // The other half of the pairs of inputs: (o, j), (p, i) with j < i.
        for j in 0..range.end {
            let from = range.start.max(j + 1);
            let start = packed_len(first_row + j) + first_column;
            for (i, to) in (from..range.end).zip(&mut packed[start + from..start + range.end]) {
                *to += whole[packed_len(i) - packed_len(range.start) + j];
            }
        }
    }
}

/// What each output or input of a layer is paired with: those up to itself, or all of another layer.
#[derive(Clone, Copy)]
struct Partners {
    same: bool,
    all: usize,
}

impl Partners {
    fn new(same: bool, all: usize) -> Self {
        Self { same, all }
    }

    fn of(self, one: usize) -> Range<usize> {
        0..if self.same { one + 1 } else { self.all }
    }

    /// Pairs of a range.
    fn pairs(self, range: &Range<usize>) -> usize {
        range.clone().map(|one| self.of(one).len()).sum()
    }

    /// `0..n` in ranges of about `at_once` pairs.
    fn ranges(self, n: usize, at_once: usize) -> impl Iterator<Item = Range<usize>> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = next;
            let mut pairs = 0;
            while next < n && (next == start || pairs + self.of(next).len() <= at_once) {
                pairs += self.of(next).len();
                next += 1;
            }
            (next > start).then_some(start..next)
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::products::add_gram;

    const K: usize = 3;

    /// By the rows of the Jacobian, one after another.
    fn by_rows(layers: &[LayerBatch], batch: usize, width: usize) -> Vec<f64> {
        let mut rows = Vec::new();
        for row in 0..batch * K {
            for layer in layers {
                let input = &layer.input[row / K * layer.inputs..][..layer.inputs];
                for g in &layer.gradients[row * layer.outputs..][..layer.outputs] {
                    rows.extend(input.iter().map(|a| g * a));
                    rows.extend(layer.bias.then_some(*g));
                }
            }
        }
        let mut packed = vec![0.0; packed_len(width)];
        add_gram(&rows, width, &mut packed, 1);
        packed
    }

    /// Whole numbers: every sum is exact, in any order. So are those that are there before.
    #[test]
    fn pairs_add_what_rows_of_the_jacobian_add() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut whole = |n: usize| -> Vec<f64> { (0..n).map(|_| f64::from(rng.random_range(-8i32..=8))).collect() };
        for (batch, sizes) in [
            (7, vec![(12, 9, true)]),
            (1, vec![(1, 1, true)]),
            (5, vec![(6, 4, false), (4, 10, true), (10, 3, true)]),
            (0, vec![(3, 2, true)]),
        ] {
            let values: Vec<_> = sizes
                .iter()
                .map(|(inputs, outputs, _)| (whole(batch * inputs), whole(batch * K * outputs)))
                .collect();
            let layers: Vec<_> = sizes
                .iter()
                .zip(values)
                .map(|(&(inputs, outputs, bias), (input, gradients))| LayerBatch {
                    inputs,
                    outputs,
                    bias,
                    shared: 1,
                    input,
                    gradients,
                })
                .collect();
            let width = layers.iter().map(|layer| layer.outputs * layer.columns()).sum();
            let mut expected = by_rows(&layers, batch, width);
            expected.iter_mut().for_each(|sum| *sum += 1.0);
            for at_once in [AT_ONCE, (1, 1), (5, 11), (40, 30)] {
                let mut packed = vec![1.0; packed_len(width)];
                add_some_at_once(&layers, K, &mut packed, 2.into(), at_once);
                assert!(packed == expected, "{batch} {sizes:?} {at_once:?}");
            }
        }
    }

    #[test]
    fn operations_by_hand() {
        let (products, with_pairs) = flops([(32, 129), (3, 33)].into_iter());
        let of_layers = 2.0 * (528.0 * 8385.0 + 6.0 * 561.0);
        let between = 2.0 * (32.0 * 3.0) * (129.0 * 33.0);
        assert_eq!(products, of_layers + between);
        assert_eq!(with_pairs, products + PAIR * (8385.0 + 561.0 + 129.0 * 33.0));
    }
}
