//! A dense inverse before pairs of a star's inputs: the mirror of how its curvature is summed (`fisherflow_curvature`'s `pairs`).
//!
//! At one position a row of a star's weight Jacobian is the layers' `g_k (x) a` one after another, with the same inputs in all K rows. So
//!
//! ```text
//! (J P^-1 J^T)_kl = sum_op g_ko g'_lp M_op,     M_op = sum_ij a_i a'_j P^-1[(o, i), (p, j)]
//! ```
//!
//! over all pairs of layers, and M is the star's pairs of inputs times the inverse. Within a layer half of the pairs of inputs, and of outputs, are
//! enough: `p^2 / 2` operations a star whatever K, where its rows take `2 K p^2`.

use std::ops::Range;

use faer::MatMut;
use fisherflow_curvature::{BlockPlan, Matrix};
use fisherflow_kernels::{Start, multiply};
use fisherflow_network::scratch::Scratch;

use crate::product::{dot, rows};
use crate::structures::captures::Sides;

/// Pairs of inputs, and of outputs, that are multiplied at a time, about.
const AT_ONCE: usize = 4096;
/// Numbers of some stars that are in memory at a time, 64 MiB: pairs of both, and their gradients' products.
const NUMBERS: usize = 8 << 20;

/// Whether no position shares the weights of a block's layers with another.
pub(crate) fn at_one_position(plan: &BlockPlan) -> bool {
    plan.shapes.iter().all(|shape| shape.shared == 1)
}

/// A block's inverse by pairs.
pub(crate) struct InverseByPairs {
    parts: Vec<LayerPair>,
}

/// Of the weights of one layer with those of another before it, or of its own.
struct LayerPair {
    layer: usize,
    other: usize,
    /// `[pairs of outputs, pairs of inputs]`.
    inverse: Vec<f64>,
    outputs: Partners,
    inputs: Partners,
}

/// One side of a pair: its place among the layers, its first weight, outputs and columns.
#[derive(Clone, Copy)]
struct Side {
    layer: usize,
    first: usize,
    outputs: usize,
    columns: usize,
}

impl InverseByPairs {
    /// Of an inverse `[p, p]`, exactly symmetric.
    pub(crate) fn of(plan: &BlockPlan, inverse: &Matrix) -> Self {
        let mut first = 0;
        let mut sides: Vec<Side> = Vec::with_capacity(plan.shapes.len());
        for (layer, shape) in plan.shapes.iter().enumerate() {
            sides.push(Side {
                layer,
                first,
                outputs: shape.outputs,
                columns: shape.columns(),
            });
            first += shape.n_weights();
        }
        let pairs = sides.iter().enumerate();
        let pairs = pairs.flat_map(|(at, &side)| sides[..=at].iter().map(move |&other| (side, other)));
        Self {
            parts: pairs.map(|(side, other)| LayerPair::of(side, other, inverse)).collect(),
        }
    }

    /// `J P^-1 J^T` of every star of a batch: `[batch, K, K]`, exactly symmetric.
    pub(crate) fn covariance(&self, layers: &[Sides<f64>], threads: usize) -> Vec<f64> {
        self.some_at_once(layers, AT_ONCE, threads)
    }

    fn some_at_once(&self, layers: &[Sides<f64>], at_once: usize, threads: usize) -> Vec<f64> {
        let Some(&Sides {
            batch, n_outputs: k, ..
        }) = layers.first()
        else {
            return Vec::new();
        };
        let mut covariance = vec![0.0; batch * k * k];
        for part in &self.parts {
            part.add(
                &layers[part.layer],
                &layers[part.other],
                &mut covariance,
                at_once,
                threads,
            );
        }
        for star in covariance.chunks_exact_mut((k * k).max(1)) {
            for i in 0..k {
                for j in 0..i {
                    star[j * k + i] = star[i * k + j];
                }
            }
        }
        covariance
    }
}

impl LayerPair {
    fn of(side: Side, other: Side, inverse: &Matrix) -> Self {
        let (p, same) = (inverse.cols, side.layer == other.layer);
        let outputs = Partners::new(same, side.outputs, other.outputs);
        let inputs = Partners::new(same, side.columns, other.columns);
        let row = |weight: usize, first: usize| &inverse.values[weight * p + first..][..other.columns];
        let mut values = Vec::with_capacity(outputs.all() * inputs.all());
        for (o, q) in (0..side.outputs).flat_map(|o| (0..outputs.of(o)).map(move |q| (o, q))) {
            let first = other.first + q * other.columns;
            for i in 0..side.columns {
                let own = row(side.first + o * side.columns + i, first);
                if !same {
                    values.extend_from_slice(own);
                    continue;
                }
                // With (o, j), (q, i): the transpose of (q, i), (o, j), and that is in row (q, i).
                let mirrored = row(side.first + q * side.columns + i, side.first + o * side.columns);
                values.extend(own[..i].iter().zip(mirrored).map(|(a, b)| a + b));
                values.push(own[i]);
            }
        }
        Self {
            layer: side.layer,
            other: other.layer,
            inverse: values,
            outputs,
            inputs,
        }
    }

    /// Adds what this pair of layers gives to the lower triangles of `[batch, K, K]`.
    fn add(&self, side: &Sides<f64>, other: &Sides<f64>, covariance: &mut [f64], at_once: usize, threads: usize) {
        let (batch, k, same) = (side.batch, side.n_outputs, self.outputs.same);
        let (outputs, others) = (self.outputs.own, self.outputs.others);
        let stars = (NUMBERS / (k * outputs + 2 * at_once)).clamp(1, batch.max(1));
        for first in (0..batch).step_by(stars) {
            let stars = first..batch.min(first + stars);
            // M g' of every star and label.
            let mut turned = vec![0.0; stars.len() * k * outputs];
            for range in self.outputs.ranges(at_once) {
                let between = self.between(side, other, (stars.clone(), range.clone()), at_once, threads);
                let n = self.outputs.pairs(&range);
                for (at, (star, turned)) in stars.clone().zip(turned.chunks_exact_mut(k * outputs)).enumerate() {
                    for (label, turned) in turned.chunks_exact_mut(outputs).enumerate() {
                        let g = &other.grad[(label * batch + star) * others..][..others];
                        add_product(&between[at * n..(at + 1) * n], self.outputs, range.clone(), g, turned);
                    }
                }
            }
            for (star, turned) in stars.clone().zip(turned.chunks_exact(k * outputs)) {
                let own = |label: usize| &side.grad[(label * batch + star) * outputs..][..outputs];
                let turned = |label: usize| &turned[label * outputs..][..outputs];
                for i in 0..k {
                    for j in 0..=i {
                        let mirrored = if same { 0.0 } else { dot(own(j), turned(i)) };
                        covariance[(star * k + i) * k + j] += dot(own(i), turned(j)) + mirrored;
                    }
                }
            }
        }
    }

    /// M of some stars, `[stars, pairs of outputs]`, of the pairs of a range of outputs.
    fn between(
        &self,
        side: &Sides<f64>,
        other: &Sides<f64>,
        (stars, outputs): (Range<usize>, Range<usize>),
        at_once: usize,
        threads: usize,
    ) -> Scratch<f64> {
        let (columns, others) = (self.inputs.own, self.inputs.others);
        let n_outputs = self.outputs.pairs(&outputs);
        let inverse = rows(&self.inverse, self.outputs.all(), self.inputs.all());
        let inverse = inverse.subrows(self.outputs.before(outputs.start), n_outputs);
        let mut between = Scratch::new(stars.len() * n_outputs);
        for range in self.inputs.ranges(at_once) {
            let n = self.inputs.pairs(&range);
            let mut pairs = Scratch::new(stars.len() * n);
            for (mut to, star) in pairs.chunks_exact_mut(n).zip(stars.clone()) {
                let a = &side.input[star * columns..][range.clone()];
                let b = &other.input[star * others..][..others];
                for (i, a) in range.clone().zip(a) {
                    let (own, rest) = to.split_at_mut(self.inputs.of(i));
                    own.iter_mut().zip(b).for_each(|(to, b)| *to = a * b);
                    to = rest;
                }
            }
            multiply(
                MatMut::from_row_major_slice_mut(&mut between, stars.len(), n_outputs),
                if range.start == 0 { Start::Zero } else { Start::Kept },
                rows(&pairs, stars.len(), n),
                inverse.subcols(self.inputs.before(range.start), n).transpose(),
                threads,
            );
        }
        between
    }
}

/// What each output or input of a layer is paired with: those up to itself, or all of another layer.
#[derive(Clone, Copy)]
struct Partners {
    same: bool,
    own: usize,
    others: usize,
}

impl Partners {
    fn new(same: bool, own: usize, others: usize) -> Self {
        Self { same, own, others }
    }

    /// How many one has.
    fn of(self, one: usize) -> usize {
        if self.same { one + 1 } else { self.others }
    }

    /// Pairs of those before one.
    fn before(self, one: usize) -> usize {
        if self.same {
            one * (one + 1) / 2
        } else {
            one * self.others
        }
    }

    fn all(self) -> usize {
        self.before(self.own)
    }

    fn pairs(self, range: &Range<usize>) -> usize {
        self.before(range.end) - self.before(range.start)
    }

    /// All, in ranges of about `at_once` pairs.
    fn ranges(self, at_once: usize) -> impl Iterator<Item = Range<usize>> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = next;
            while next < self.own && (next == start || self.before(next + 1) - self.before(start) <= at_once) {
                next += 1;
            }
            (next > start).then_some(start..next)
        })
    }
}

/// Adds the product of M with a vector: some of its rows, each a row of pairs; of a layer with itself half of M stands for all of it.
fn add_product(mut m: &[f64], pairs: Partners, range: Range<usize>, v: &[f64], to: &mut [f64]) {
    for o in range {
        let (row, rest) = m.split_at(pairs.of(o));
        to[o] += dot(row, &v[..row.len()]);
        if pairs.same {
            to[..o].iter_mut().zip(row).for_each(|(to, m)| *to += m * v[o]);
        }
        m = rest;
    }
}

/// Numbers of a block's inverse by pairs, each multiplied once a star.
pub(crate) fn numbers(plan: &BlockPlan) -> u64 {
    let sizes = plan
        .shapes
        .iter()
        .map(|shape| (shape.outputs as u64, shape.columns() as u64));
    let mut numbers = 0;
    for (at, (outputs, columns)) in sizes.clone().enumerate() {
        numbers += outputs * (outputs + 1) / 2 * (columns * (columns + 1) / 2);
        let before = sizes.clone().take(at);
        numbers += before
            .map(|(others, other)| outputs * others * columns * other)
            .sum::<u64>();
    }
    numbers
}

#[cfg(test)]
mod tests {
    use fisherflow_curvature::{BlockOptions, StructureKind};
    use fisherflow_network::DenseShape;

    use super::*;
    use crate::brute_force::Numbers;
    use crate::structures::dense::jacobian;

    const K: usize = 3;

    /// Whole numbers: every sum is exact, in any order.
    fn whole(n: usize, numbers: &mut Numbers) -> Vec<f64> {
        (0..n).map(|_| (6.0 * numbers.next()).round()).collect()
    }

    #[test]
    fn pairs_give_what_rows_of_the_jacobian_give() {
        let mut numbers = Numbers::new(17);
        for (batch, sizes) in [
            (7, vec![(12, 9, true)]),
            (1, vec![(1, 1, true)]),
            (5, vec![(6, 4, false), (4, 10, true), (10, 3, true)]),
            (0, vec![(3, 2, true)]),
        ] {
            let shape = |&(inputs, outputs, bias): &(usize, usize, bool)| DenseShape {
                name: "layers.0".to_owned(),
                inputs,
                outputs,
                bias,
                shared: 1,
            };
            let plan = BlockPlan {
                id: 0,
                structure: StructureKind::Full,
                layers: (0..sizes.len()).collect(),
                shapes: sizes.iter().map(shape).collect(),
                options: BlockOptions::default(),
            };
            let of_layer = |shape: &DenseShape| Sides {
                batch,
                shared: 1,
                n_outputs: K,
                input: whole(batch * shape.columns(), &mut numbers).into(),
                grad: whole(batch * K * shape.outputs, &mut numbers).into(),
            };
            let layers: Vec<Sides<f64>> = plan.shapes.iter().map(of_layer).collect();
            let p = plan.n_weights();
            let mut values = whole(p * p, &mut numbers);
            for row in 0..p {
                for column in 0..row {
                    values[column * p + row] = values[row * p + column];
                }
            }
            let rows = jacobian(&layers, &plan, 0, batch, p);
            let mut expected = Vec::new();
            for star in rows.chunks_exact(K * p) {
                for k in star.chunks_exact(p) {
                    let solved: Vec<f64> = values.chunks_exact(p).map(|row| dot(row, k)).collect();
                    expected.extend(star.chunks_exact(p).map(|l| dot(&solved, l)));
                }
            }
            let inverse = Matrix {
                rows: p,
                cols: p,
                values,
            };
            let by_pairs = InverseByPairs::of(&plan, &inverse);
            for at_once in [AT_ONCE, 1, 11] {
                assert_eq!(
                    by_pairs.some_at_once(&layers, at_once, 2),
                    expected,
                    "{batch} {sizes:?} {at_once}"
                );
            }
            let held = by_pairs.parts.iter().map(|part| part.inverse.len() as u64);
            assert_eq!(super::numbers(&plan), held.sum::<u64>());
        }
    }
}
