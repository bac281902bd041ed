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

use fisherflow_curvature::{BlockPlan, Matrix};
use fisherflow_network::scratch::Scratch;

use crate::product::{dot, product, rows};
use crate::structures::captures::Sides;

/// What a batch's pairs of inputs, and what they are multiplied to, may take together, in bytes.
const PAIRS_BYTES: usize = 64 << 20;

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
    n_outputs: usize,
    n_inputs: usize,
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
        self.some_at_once(layers, PAIRS_BYTES, threads)
    }

    fn some_at_once(&self, layers: &[Sides<f64>], bytes: usize, threads: usize) -> Vec<f64> {
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
                bytes,
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
        let row = |weight: usize, first: usize| &inverse.values[weight * p + first..][..other.columns];
        let mut values = Vec::with_capacity(
            partners(side.outputs, other.outputs, same) * partners(side.columns, other.columns, same),
        );
        for o in 0..side.outputs {
            for q in 0..if same { o + 1 } else { other.outputs } {
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
        }
        Self {
            layer: side.layer,
            other: other.layer,
            inverse: values,
            n_outputs: partners(side.outputs, other.outputs, same),
            n_inputs: partners(side.columns, other.columns, same),
        }
    }

    /// Adds what this pair of layers gives to the lower triangles of `[batch, K, K]`.
    fn add(&self, side: &Sides<f64>, other: &Sides<f64>, covariance: &mut [f64], bytes: usize, threads: usize) {
        let (batch, k, same) = (side.batch, side.n_outputs, self.layer == self.other);
        if batch == 0 || k == 0 {
            return;
        }
        let columns = [side, other].map(|side| side.input.len() / batch);
        let outputs = [side, other].map(|side| side.grad.len() / (batch * k));
        let inverse = rows(&self.inverse, self.n_outputs, self.n_inputs).transpose();
        let at_once = (bytes / (8 * (self.n_inputs + self.n_outputs)).max(1)).clamp(1, batch);
        let mut turned = vec![0.0; k * outputs[0]];
        for first in (0..batch).step_by(at_once) {
            let len = at_once.min(batch - first);
            let mut pairs = Scratch::new(len * self.n_inputs);
            for (pairs, star) in pairs.chunks_exact_mut(self.n_inputs).zip(first..) {
                let [a, b] = [(side, columns[0]), (other, columns[1])].map(|(of, n)| &of.input[star * n..][..n]);
                let mut to = pairs;
                for (i, a) in a.iter().enumerate() {
                    let (own, rest) = to.split_at_mut(if same { i + 1 } else { b.len() });
                    own.iter_mut().zip(b).for_each(|(to, b)| *to = a * b);
                    to = rest;
                }
            }
            let between = product(rows(&pairs, len, self.n_inputs), inverse, threads);
            for (m, star) in between.chunks_exact(self.n_outputs).zip(first..) {
                let own = |label: usize| &side.grad[(label * batch + star) * outputs[0]..][..outputs[0]];
                for (label, turned) in turned.chunks_exact_mut(outputs[0]).enumerate() {
                    let g = &other.grad[(label * batch + star) * outputs[1]..][..outputs[1]];
                    if same {
                        times_symmetric(m, g, turned);
                    } else {
                        let products = m.chunks_exact(outputs[1]).map(|row| dot(row, g));
                        turned.iter_mut().zip(products).for_each(|(to, product)| *to = product);
                    }
                }
                let turned = |label: usize| &turned[label * outputs[0]..][..outputs[0]];
                for i in 0..k {
                    for j in 0..=i {
                        let mirrored = if same { 0.0 } else { dot(own(j), turned(i)) };
                        covariance[(star * k + i) * k + j] += dot(own(i), turned(j)) + mirrored;
                    }
                }
            }
        }
    }
}

/// Pairs of `own` with `others`, or with themselves.
fn partners(own: usize, others: usize, same: bool) -> usize {
    if same { own * (own + 1) / 2 } else { own * others }
}

/// A symmetric matrix, its lower triangle row by row, times a vector.
fn times_symmetric(mut lower: &[f64], v: &[f64], to: &mut [f64]) {
    for i in 0..v.len() {
        let (row, rest) = lower.split_at(i + 1);
        let (before, at) = to.split_at_mut(i);
        at[0] = dot(row, &v[..=i]);
        before.iter_mut().zip(row).for_each(|(to, m)| *to += m * v[i]);
        lower = rest;
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
            for at_once in [PAIRS_BYTES, 1, 4000] {
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
