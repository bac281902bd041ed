//! Numbers as one or two bf16: `x ~ hi + lo`, each the nearest bf16 to what is left. Two hold 16 to 17 bits of an f32.
//!
//! A product of one such part each ("bf16") has a relative error near 2e-3; three products, `hi hi + hi lo + lo hi` ("bf16x3"), near 5e-6.
//! Sums are f32. Subnormal numbers and parts count as 0, as the instructions have it; numbers within 2^-9 of f32's largest round to infinity.

use faer::MatRef;

use crate::pack::Map;
use crate::pairs;

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
        (bits >> 16) | 0x40
    } else {
        bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
    }
}

/// `hi` and `lo`; what is not finite is `hi` alone.
#[inline(always)]
fn split(x: f32) -> (u32, u32) {
    let hi = round(x);
    let value = f32::from_bits(hi << 16);
    let lo = if value.is_finite() { round(x - value) } else { 0 };
    (hi, lo)
}

/// Packs a strip of `W` rows of `matrix` from row `first`, its columns from `from` on; what lies beyond the matrix is 0. The slot of part `part` (0:
/// hi, 1: lo) of row w and pair p is `slot(p, part, w)`.
#[inline(always)]
pub(crate) fn pack<const W: usize>(
    matrix: MatRef<'_, f32>,
    first: usize,
    from: usize,
    map: Map,
    parts: Parts,
    out: &mut [f32],
    slot: impl Fn(usize, usize, usize) -> usize,
) {
    let mapped = |x: f32| match map {
        Map::Identity => x,
        Map::Square => x * x,
    };
    match parts {
        Parts::One => pairs::pack::<W, 1>(matrix, first, from, out, slot, |x| [split(mapped(x)).0]),
        Parts::Two => pairs::pack::<W, 2>(matrix, first, from, out, slot, |x| split(mapped(x)).into()),
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
