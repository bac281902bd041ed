//! Numbers as one or two bf16: `x ~ hi + lo`, each the nearest bf16 to what is left. Two hold 16 to 17 bits of an f32.
//!
//! A product of one such part each ("bf16") has a relative error near 2e-3; three products, `hi hi + hi lo + lo hi` ("bf16x3"), near 5e-6.
//! Sums are f32. Subnormal numbers and parts count as 0, as the instructions have it; numbers within 2^-9 of f32's largest round to infinity.
//!
//! Packed, a pair of inner indices is one 32-bit slot of an f32 buffer: index 2p in its lower half, 2p + 1 in its upper one.

use faer::MatRef;

use crate::pack::Map;

/// How many parts of a number are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    One,
    Two,
}

/// Bits of the bf16 nearest to `x`, ties to even.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) | 0x40;
    }
    (bits + 0x7fff + ((bits >> 16) & 1)) >> 16
}

/// `hi` and `lo`; what is not finite is `hi` alone.
#[inline(always)]
fn split(x: f32) -> (u32, u32) {
    let hi = round(x);
    let value = f32::from_bits(hi << 16);
    let lo = if value.is_finite() { round(x - value) } else { 0 };
    (hi, lo)
}

/// Packs a strip of `width` rows, `inner` columns from `from` on, of `matrix`; what lies beyond the matrix is 0. The slot of part `part` (0: hi,
/// 1: lo) of row w and pair p is `slot(p, part, w)`.
#[expect(clippy::too_many_arguments, reason = "a strip, and its layout")]
#[inline(always)]
pub(crate) fn pack(
    matrix: MatRef<'_, f32>,
    first: usize,
    from: usize,
    map: Map,
    parts: Parts,
    width: usize,
    out: &mut [f32],
    slot: impl Fn(usize, usize, usize) -> usize,
) {
    let inner = match parts {
        Parts::One => 2 * out.len() / width,
        Parts::Two => out.len() / width,
    };
    let (height, length) = (width.min(matrix.nrows() - first), inner.min(matrix.ncols() - from));
    debug_assert!(inner.is_multiple_of(2));
    let at = |w: usize, k: usize| -> f32 {
        if w >= height || k >= length {
            return 0.0;
        }
        let offset = (first + w) as isize * matrix.row_stride() + (from + k) as isize * matrix.col_stride();
        // SAFETY: row `first + w < nrows` and column `from + k < ncols` lie in the matrix, which is borrowed.
        let x = unsafe { *matrix.as_ptr().offset(offset) };
        match map {
            Map::Identity => x,
            Map::Square => x * x,
        }
    };
    let mut put = |p: usize, w: usize| {
        let (even, odd) = (split(at(w, 2 * p)), split(at(w, 2 * p + 1)));
        out[slot(p, 0, w)] = f32::from_bits(even.0 | odd.0 << 16);
        if parts == Parts::Two {
            out[slot(p, 1, w)] = f32::from_bits(even.1 | odd.1 << 16);
        }
    };
    if matrix.row_stride() == 1 {
        (0..inner / 2).for_each(|p| (0..width).for_each(|w| put(p, w)));
    } else {
        (0..width).for_each(|w| (0..inner / 2).for_each(|p| put(p, w)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_nearest() {
        let value = |bits: u32| f32::from_bits(bits << 16);
        for x in [
            0.0,
            1.0,
            -1.0,
            1.003_906_3,
            1.011_718_8,
            std::f32::consts::PI,
            -1e-20,
            3e38,
        ] {
            let (hi, lo) = split(x);
            let (hi, lo) = (value(hi), value(lo));
            assert!((x - hi).abs() <= x.abs() / 256.0, "{x} {hi}");
            assert!((x - hi - lo).abs() <= x.abs() / 65536.0, "{x} {hi} {lo}");
        }
        // Halfway between 1 and the next bf16, and between that and the one after: to even.
        assert_eq!(value(round(1.0 + 1.0 / 256.0)), 1.0);
        assert_eq!(value(round(1.0 + 3.0 / 256.0)), 1.0 + 4.0 / 256.0);
        for x in [f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!((value(split(x).0), split(x).1), (x, 0));
        }
        assert!(value(split(f32::NAN).0).is_nan());
        assert!(value(split(f32::MAX).0).is_infinite());
    }
}
