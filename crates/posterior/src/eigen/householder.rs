//! Householder reflections `H = I - tau v v^T` with `v_0 = 1`, and products of them as `I - V T V^T`.
//!
//! The compact form and its triangular T: Schreiber and Van Loan 1989, SIAM J. Sci. Stat. Comput. 10, 53.

use faer::{Accum, MatMut, MatRef};
use pulp::{Simd, WithSimd};

use super::gemm;

/// The least sum of squares of which every digit is right, however many squares are too small for theirs: 1e-146 squared, against elements of order 1.
const SMALLEST: f64 = f64::MIN_POSITIVE / f64::EPSILON;

/// Turns `x` into v of the reflection that leaves only the first element of `x`; returns that element and tau.
///
/// Of a vector whose tail is zero, or so small that its square loses digits ([`SMALLEST`]), tau is 0 and v the first unit vector.
#[inline(always)]
pub(super) fn reflector(x: &mut [f64]) -> (f64, f64) {
    let Some((head, tail)) = x.split_first_mut() else {
        return (0.0, 0.0);
    };
    let alpha = std::mem::replace(head, 1.0);
    let below = dot(tail, tail);
    if below < SMALLEST {
        tail.fill(0.0);
        return (alpha, 0.0);
    }
    let beta = -(alpha * alpha + below).sqrt().copysign(alpha);
    let scale = 1.0 / (alpha - beta);
    tail.iter_mut().for_each(|v| *v *= scale);
    (beta, (beta - alpha) / beta)
}

/// `sum a b` in sixteen sums that are added in one fixed order; likewise.
#[inline(always)]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let mut rest = 0.0;
    for (x, y) in a.remainder().iter().zip(b.remainder()) {
        rest += x * y;
    }
    for (x, y) in a.zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum = x.mul_add(*y, *sum);
        }
    }
    rest + total(sums)
}

/// The sum of sixteen numbers, pairwise.
#[inline(always)]
pub(super) fn total(sums: [f64; 16]) -> f64 {
    let mut eight = [0.0; 8];
    for (i, sum) in eight.iter_mut().enumerate() {
        *sum = sums[i] + sums[i + 8];
    }
    ((eight[0] + eight[4]) + (eight[2] + eight[6])) + ((eight[1] + eight[5]) + (eight[3] + eight[7]))
}

/// `y += f x`; fused, so only for code that is compiled for wide registers.
#[inline(always)]
pub(super) fn axpy(y: &mut [f64], f: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = f.mul_add(*x, *y);
    }
}

/// T `[r, r]`, upper triangular, of `H_1 ... H_r = I - V T V^T`; `v`: `[m, r]` with its zeros and ones, `tau`: `[r]`.
pub(super) fn triangle(v: MatRef<'_, f64>, tau: &[f64], t: &mut [f64]) {
    let r = tau.len();
    let mut gram = vec![0.0; r * r];
    gemm(
        MatMut::from_column_major_slice_mut(&mut gram, r, r),
        Accum::Replace,
        v.transpose(),
        v,
        1.0,
    );
    pulp::Arch::new().dispatch(Columns { gram: &gram, tau, t });
}

/// The columns of T, one from those before it.
struct Columns<'a> {
    gram: &'a [f64],
    tau: &'a [f64],
    t: &'a mut [f64],
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { gram, tau, t } = self;
        let r = tau.len();
        t.fill(0.0);
        for j in 0..r {
            let (before, column) = t.split_at_mut(j * r);
            for l in 0..j {
                axpy(&mut column[..=l], -tau[j] * gram[j * r + l], &before[l * r..][..=l]);
            }
            column[j] = tau[j];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflections_of_the_smallest_vectors_are_orthogonal() {
        for exponent in (-330..10).step_by(2) {
            let start: Vec<f64> = (1..=70)
                .map(|i| f64::from(i % 7 - 3) * 10f64.powi(exponent / 2) * 10f64.powi(exponent - exponent / 2))
                .collect();
            let mut v = start.clone();
            let (beta, tau) = reflector(&mut v);
            let squares: f64 = v.iter().map(|v| v * v).sum();
            assert!(
                tau == 0.0 && squares == 1.0 || (tau * squares - 2.0).abs() < 1e-14,
                "1e{exponent}: {tau} {squares}"
            );
            let length = start.iter().fold(0.0f64, |length, x| length.hypot(*x));
            assert!(
                (beta.abs() - length).abs() <= 1e-14 * length || length < 1e-140,
                "1e{exponent}: {beta} {length}"
            );
        }
    }
}
