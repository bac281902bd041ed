//! `F(x) = sum_j a_j^2 / (1 + x s_j)` for many x, from its values at a few.
//!
//! Where `lambda_ij = t_i s_j`, what a direction i of the gradients needs of a star, `h_i = sum_j a~_j^2 / (lambda_ij + delta)`, is
//! `F(t_i / delta) / delta`. As a function of `u = log x`, F is smooth whatever the `s_j >= 0`: its poles lie at `u = -log s_j +- i pi`. So its
//! values at points [`STEP`] apart in u give it everywhere between, by Lagrange's polynomial through the nearest [`ORDER`]: each term
//! `1 / (1 + x s_j)`, and so F, to a relative 3e-9. A layer of 2,048 outputs needs some 150 points, whatever number of prior precisions.
//!
//! The points are multiples of `STEP`: what is read off at an x does not depend, by a bit, on which other x are asked for.

use candle_core::WithDType;

/// Distance of neighbouring points in `log x`.
const STEP: f64 = 0.25;

/// Points that one value is read off.
const ORDER: usize = 12;

/// Below `x s = NEGLIGIBLE` for the largest s, F is `F(0)` to that.
const NEGLIGIBLE: f64 = 1e-9;

/// No x or eigenvalue is as large: what is beyond has no place among numbers of f64.
const FARTHEST: f64 = 1e200;

/// The x at which F is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points {
    /// Position of the first: its log over `STEP`.
    first: i64,
    n: usize,
    lowest: f64,
}

/// How the value at one x is read off: from `ORDER` points.
#[derive(Clone, Debug)]
pub(crate) struct Reading<T> {
    first: usize,
    weights: [T; ORDER],
}

impl Points {
    /// Those that all of `xs`, at least 0, are read off, for eigenvalues up to `largest`.
    pub(crate) fn covering(xs: impl IntoIterator<Item = f64>, largest: f64) -> Self {
        let lowest = if largest > 0.0 { NEGLIGIBLE / largest } else { 1.0 };
        let (first, last) = xs.into_iter().fold((i64::MAX, i64::MIN), |(first, last), x| {
            let start = start_of(x.max(lowest)).0;
            (first.min(start), last.max(start + ORDER as i64 - 1))
        });
        Self {
            first,
            n: (last.saturating_sub(first) + 1).max(0) as usize,
            lowest,
        }
    }

    /// Those for the eigenvalues `s_j t_i` and a prior precision; `None` where they are not few beside the `t_i`.
    pub(crate) fn few(s: &[f64], t: &[f64], prior_precision: f64) -> Option<Self> {
        let [largest, steepest] = [s, t].map(|values| values.iter().copied().fold(0.0, f64::max));
        let is_known = prior_precision > 0.0 && steepest / prior_precision < FARTHEST && largest < FARTHEST;
        if !is_known {
            return None;
        }
        let points = Self::covering(t.iter().map(|t| t / prior_precision), largest);
        (2 * points.n <= t.len()).then_some(points)
    }

    /// How many.
    pub(crate) fn len(self) -> usize {
        self.n
    }

    /// `1 / (1 + x s_j)`, `[eigenvalues, points]`.
    pub(crate) fn inverse<T: WithDType>(self, eigenvalues: &[f64]) -> Vec<T> {
        let xs: Vec<f64> = (0..self.n)
            .map(|at| (STEP * (self.first + at as i64) as f64).exp())
            .collect();
        let of = |s: &f64| {
            let s = *s;
            xs.iter()
                .map(move |x| T::from_f64(1.0 / (1.0 + x * s)))
                .collect::<Vec<T>>()
        };
        eigenvalues.iter().flat_map(of).collect()
    }

    /// How `factor F(x)` is read off; `x` is one that these points cover.
    pub(crate) fn reading<T: WithDType>(self, x: f64, factor: f64) -> Reading<T> {
        let (start, at) = start_of(x.max(self.lowest));
        let weight = |k: usize| {
            let others = (0..ORDER).filter(|&other| other != k);
            others.fold(factor, |weight, other| {
                weight * (at - other as f64) / (k as f64 - other as f64)
            })
        };
        Reading {
            first: (start - self.first) as usize,
            weights: std::array::from_fn(|k| T::from_f64(weight(k))),
        }
    }
}

impl<T: WithDType> Reading<T> {
    /// Its weight of each point; the others' stay as they are.
    pub(crate) fn write(&self, weights: &mut [T]) {
        weights[self.first..self.first + ORDER].copy_from_slice(&self.weights);
    }

    /// The value, of F at the points.
    #[inline(always)]
    pub(crate) fn of(&self, values: &[T]) -> T {
        const LANES: usize = 4;
        let values = &values[self.first..self.first + ORDER];
        let mut sums = [T::zero(); LANES];
        for (weights, values) in self
            .weights
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(values.as_chunks::<LANES>().0)
        {
            for (sum, (weight, value)) in sums.iter_mut().zip(weights.iter().zip(values)) {
                *sum += *weight * *value;
            }
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    }
}

/// The first of the points that F(x) is read off, half of them on each side, and how many steps behind it x lies.
fn start_of(x: f64) -> (i64, f64) {
    let steps = x.ln() / STEP;
    let start = steps.floor() as i64 - (ORDER as i64 / 2 - 1);
    (start, steps - start as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::as_f32;

    /// Each term by itself: what is true of every s is true of every sum of them.
    #[test]
    fn every_term_is_read_off() {
        let eigenvalues = [0.0, 1e-12, 3e-7, 0.02, 1.0, 55.0, 4e3];
        let xs: Vec<f64> = (0..4000).map(|i| (-36.0 + 0.0161 * f64::from(i)).exp()).collect();
        let points = Points::covering(xs.iter().copied().chain([0.0]), 4e3);
        let values = points.inverse::<f64>(&eigenvalues);
        for x in xs.into_iter().chain([0.0]) {
            for (s, values) in eigenvalues.iter().zip(values.chunks_exact(points.len())) {
                let read: f64 = points.reading(x, 1.0).of(values);
                let expected = 1.0 / (1.0 + x * s);
                assert!(
                    (read / expected - 1.0).abs() < 3e-9,
                    "x {x:e}, s {s:e}: {read:e}, {expected:e}"
                );
                // In f32, as it is used.
                let values = as_f32(values);
                let read = f64::from(points.reading::<f32>(x, 7.0).of(&values)) / 7.0;
                assert!((read / expected - 1.0).abs() < 4e-7, "f32, x {x:e}, s {s:e}: {read:e}");
            }
        }
    }

    #[test]
    fn what_is_read_off_does_not_depend_on_what_else_is() {
        let eigenvalues = [0.3, 2.0, 90.0];
        let value = |xs: &[f64], x: f64| {
            let points = Points::covering(xs.iter().copied(), 90.0);
            let values = points.inverse::<f32>(&eigenvalues);
            let row = |j: usize| points.reading(x, 1.0).of(&values[j * points.len()..][..points.len()]);
            [row(0), row(1), row(2)].map(f32::to_bits)
        };
        assert_eq!(value(&[0.7], 0.7), value(&[1e-5, 0.7, 300.0], 0.7));
        assert_eq!(Points::covering([0.7], 90.0).len(), ORDER);
    }

    #[test]
    fn a_prior_of_nothing_needs_no_few_points() {
        let t = vec![1e10; 4000];
        for (prior, few) in [(0.0, false), (1e-310, false), (1e-5, true), (1e30, true)] {
            let points = Points::few(&[1.0, 1e-9], &t, prior);
            assert_eq!(points.is_some(), few, "{prior:e}");
        }
        assert!(Points::few(&[1.0], &t[..20], 1.0).is_none());
    }

    #[test]
    fn without_eigenvalues_f_is_the_sum_of_squares() {
        let points = Points::covering([0.0, 0.5], 0.0);
        let values = points.inverse::<f32>(&[0.0]);
        assert!((points.reading::<f32>(0.5, 4.0).of(&values) - 4.0).abs() < 1e-6);
    }
}
