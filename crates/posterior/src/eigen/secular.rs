//! Roots of the secular equation `1 / rho + sum_i z_i^2 / (d_i - x) = 0`, and the vectors that belong to them.
//!
//! Each root is found as a distance `offset` from the pole nearest to it, so that its distances from all poles keep their digits; poles are
//! ascending and apart, one root lies right of each. Steps solve the equation of two poles that has the value and the slopes of the sums on
//! either side (Li 1993, LAPACK Working Note 89), inside a bracket. The z of which the found roots are exact, which makes the vectors
//! orthogonal, is that of Gu and Eisenstat 1994, SIAM J. Matrix Anal. Appl. 15, 1266.

use pulp::{Simd, WithSimd};

use super::householder::total;

/// Steps after which only halves are taken.
const STEPS: usize = 40;

/// Lanes of a sum.
const LANES: usize = 16;

/// The rank-one change `diag(d) + rho z z^T`.
#[derive(Clone, Copy)]
pub(super) struct Secular<'a> {
    /// Poles, ascending.
    pub d: &'a [f64],
    /// None zero.
    pub z: &'a [f64],
    /// Positive.
    pub rho: f64,
}

/// A root: `d[pole] + offset`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Root {
    pub pole: usize,
    pub offset: f64,
}

/// `sum z_i^2 / (d_i - x)`, its derivative, of some poles.
#[derive(Clone, Copy)]
struct Sum {
    value: f64,
    slope: f64,
}

/// Finds the roots right of poles `first ..`, into `roots`.
pub(super) struct FindRoots<'a, 'b> {
    pub equation: Secular<'a>,
    pub first: usize,
    pub roots: &'b mut [Root],
}

impl WithSimd for FindRoots<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (i, root) in self.roots.iter_mut().enumerate() {
            *root = find(&self.equation, self.first + i);
        }
    }
}

/// The sum over poles from `from` to before `to` at `d[pole] + offset`.
#[inline(always)]
fn sum(e: &Secular<'_>, from: usize, to: usize, pole: f64, offset: f64) -> Sum {
    let (d, z) = (e.d[from..to].chunks_exact(LANES), e.z[from..to].chunks_exact(LANES));
    let (mut value, mut slope) = (0.0, 0.0);
    for (d, z) in d.remainder().iter().zip(z.remainder()) {
        let share = z / ((d - pole) - offset);
        value = share.mul_add(*z, value);
        slope = share.mul_add(share, slope);
    }
    let (mut values, mut slopes) = ([0.0; LANES], [0.0; LANES]);
    for (d, z) in d.zip(z) {
        for i in 0..LANES {
            let share = z[i] / ((d[i] - pole) - offset);
            values[i] = share.mul_add(z[i], values[i]);
            slopes[i] = share.mul_add(share, slopes[i]);
        }
    }
    Sum {
        value: value + total(values),
        slope: slope + total(slopes),
    }
}

/// The root right of pole `j`.
#[inline(always)]
fn find(e: &Secular<'_>, j: usize) -> Root {
    let k = e.d.len();
    let constant = 1.0 / e.rho;
    let last = j + 1 == k;
    let gap = if last {
        // a little more than the root can be, which is inside then
        1.001 * e.rho * e.z.iter().map(|z| z * z).sum::<f64>()
    } else {
        e.d[j + 1] - e.d[j]
    };
    // Which half the root lies in, and where with all other poles' sum held as it is in the middle.
    let middle = 0.5 * gap;
    let (near, others) = if last {
        (j, sum(e, 0, j, e.d[j], middle).value)
    } else {
        let left = sum(e, 0, j, e.d[j], middle).value;
        (j, left + sum(e, j + 2, k, e.d[j], middle).value)
    };
    let c = constant + others;
    let (z1, z2) = (e.z[near] * e.z[near], if last { 0.0 } else { e.z[j + 1] * e.z[j + 1] });
    let at_middle = c - z1 / middle + z2 / middle;
    let (pole, mut low, mut high, mut x);
    if last {
        (pole, low, high) = (j, 0.0, gap);
        if at_middle >= 0.0 {
            high = middle;
        } else {
            low = middle;
        }
        x = if c > 0.0 { z1 / c } else { high };
    } else if at_middle >= 0.0 {
        (pole, low, high) = (j, 0.0, middle);
        let (a, b) = (c * gap + z1 + z2, z1 * gap);
        x = smaller_root(a, b, c);
    } else {
        (pole, low, high) = (j + 1, -middle, 0.0);
        let (a, b) = (-c * gap + z1 + z2, -z2 * gap);
        x = smaller_root(a, b, c);
    }
    if !(x > low && x < high) {
        x = 0.5 * (low + high);
    }
    let shift = e.d[pole];
    let (delta1, delta2) = (e.d[j] - shift, if last { f64::INFINITY } else { e.d[j + 1] - shift });
    for step in 0.. {
        let left = sum(e, 0, j + 1, shift, x);
        let right = sum(e, j + 1, k, shift, x);
        let f = constant + left.value + right.value;
        let slope = left.slope + right.slope;
        // What rounding may make of f.
        let noise = f64::EPSILON * (8.0 * (right.value - left.value) + 2.0 * constant + x.abs() * slope);
        if f.abs() <= noise {
            break;
        }
        if f < 0.0 {
            low = low.max(x);
        } else {
            high = high.min(x);
        }
        if high - low <= 2.0 * f64::EPSILON * low.abs().max(high.abs()) {
            break;
        }
        let (to1, to2) = (delta1 - x, delta2 - x);
        let change = if last {
            to1 + to1 * to1 * slope / (f - to1 * slope)
        } else {
            let a = (to1 + to2) * f - to1 * to2 * slope;
            let b = to1 * to2 * f;
            smaller_root(a, b, f - to1 * left.slope - to2 * right.slope)
        };
        let next = x + change;
        let inside = next > low && next < high;
        x = if inside && step < STEPS {
            next
        } else if step < STEPS || low == 0.0 || high == 0.0 || low.signum() != high.signum() {
            0.5 * (low + high)
        } else {
            (low * high).sqrt().copysign(low)
        };
        if step > 4 * STEPS || x <= low || x >= high {
            break;
        }
    }
    Root { pole, offset: x }
}

/// The root of `c x^2 - a x + b` that goes to `b / a` with c.
#[inline(always)]
fn smaller_root(a: f64, b: f64, c: f64) -> f64 {
    let root = (a * a - 4.0 * b * c).abs().sqrt();
    if a <= 0.0 {
        if c == 0.0 { b / a } else { (a - root) / (2.0 * c) }
    } else {
        2.0 * b / (a + root)
    }
}

/// The z of which the roots are exact, from pole `first` on, into `exact`; signs are those of z.
pub(super) struct ExactWeights<'a, 'b> {
    pub equation: Secular<'a>,
    /// Pole of each root, and offset.
    pub poles: &'a [f64],
    pub offsets: &'a [f64],
    pub first: usize,
    pub exact: &'b mut [f64],
}

impl WithSimd for ExactWeights<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self {
            equation: Secular { d, z, .. },
            poles,
            offsets,
            first,
            exact,
        } = self;
        for (i, to) in exact.iter_mut().enumerate() {
            let own = first + i;
            let below = product(d[own], &d[..own], &poles[..own], &offsets[..own]);
            let above = product(d[own], &d[own + 1..], &poles[own + 1..], &offsets[own + 1..]);
            let square = below * above * (offsets[own] + (poles[own] - d[own]));
            *to = square.abs().sqrt().copysign(z[own]);
        }
    }
}

/// The product of `(root_l - own) / (d_l - own)` over all l.
#[inline(always)]
fn product(own: f64, d: &[f64], poles: &[f64], offsets: &[f64]) -> f64 {
    let d = d.chunks_exact(LANES);
    let poles = poles.chunks_exact(LANES);
    let offsets = offsets.chunks_exact(LANES);
    let mut rest = 1.0;
    for ((d, pole), offset) in d.remainder().iter().zip(poles.remainder()).zip(offsets.remainder()) {
        rest *= (offset + (pole - own)) / (d - own);
    }
    let mut products = [1.0; LANES];
    for ((d, pole), offset) in d.zip(poles).zip(offsets) {
        for i in 0..LANES {
            products[i] *= (offset[i] + (pole[i] - own)) / (d[i] - own);
        }
    }
    products.iter().fold(rest, |product, p| product * p)
}

/// Eigenvectors of `diag(d) + rho z z^T` for the roots given, one after the other, rows in the order of `rows`.
pub(super) struct Vectors<'a, 'b> {
    /// d and z in the order of the rows.
    pub d: &'a [f64],
    pub exact: &'a [f64],
    pub poles: &'a [f64],
    pub offsets: &'a [f64],
    /// `[d.len(), poles.len()]`, column-major.
    pub vectors: &'b mut [f64],
}

impl WithSimd for Vectors<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let k = self.d.len();
        for ((column, pole), offset) in self.vectors.chunks_exact_mut(k).zip(self.poles).zip(self.offsets) {
            let mut norms = [0.0; LANES];
            let whole = k / LANES * LANES;
            for ((to, d), z) in column[..whole]
                .chunks_exact_mut(LANES)
                .zip(self.d.chunks_exact(LANES))
                .zip(self.exact.chunks_exact(LANES))
            {
                for i in 0..LANES {
                    to[i] = z[i] / ((d[i] - pole) - offset);
                    norms[i] = to[i].mul_add(to[i], norms[i]);
                }
            }
            let mut norm = 0.0;
            for ((to, d), z) in column[whole..]
                .iter_mut()
                .zip(&self.d[whole..])
                .zip(&self.exact[whole..])
            {
                *to = z / ((d - pole) - offset);
                norm = to.mul_add(*to, norm);
            }
            let scale = 1.0 / (norm + total(norms)).sqrt();
            column.iter_mut().for_each(|v| *v *= scale);
        }
    }
}
