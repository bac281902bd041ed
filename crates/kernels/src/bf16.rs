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

/// The slots of `N` pairs: their `hi`, and their `lo`.
#[inline(always)]
fn slots<const N: usize>(pairs: [(f32, f32); N], map: Map) -> [[f32; N]; 2] {
    let mut slots = [[0.0; N]; 2];
    for (at, (even, odd)) in pairs.into_iter().enumerate() {
        let (even, odd) = match map {
            Map::Identity => (even, odd),
            Map::Square => (even * even, odd * odd),
        };
        let (even, odd) = (split(even), split(odd));
        slots[0][at] = f32::from_bits(even.0 | odd.0 << 16);
        slots[1][at] = f32::from_bits(even.1 | odd.1 << 16);
    }
    slots
}

/// Pairs that are taken together: two cache lines of f32.
const PAIRS: usize = 16;

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
    let n_parts = match parts {
        Parts::One => 1,
        Parts::Two => 2,
    };
    let pairs = out.len() / (W * n_parts);
    let (height, length) = (W.min(matrix.nrows() - first), (2 * pairs).min(matrix.ncols() - from));
    let start = |w: usize, k: usize| {
        matrix
            .as_ptr()
            .wrapping_offset((first + w) as isize * matrix.row_stride() + (from + k) as isize * matrix.col_stride())
    };
    let mut done = 0;
    if height == W && matrix.col_stride() == 1 {
        done = length / (2 * PAIRS) * PAIRS;
        for w in 0..W {
            for first in (0..done).step_by(PAIRS) {
                // SAFETY: columns `from + 2 first ..`, 2 PAIRS of them, of row `first + w` lie in the matrix, which is borrowed, one after
                // another since the column stride is 1.
                let values = unsafe { &*start(w, 2 * first).cast::<[f32; 2 * PAIRS]>() };
                let slots = slots::<PAIRS>(std::array::from_fn(|p| (values[2 * p], values[2 * p + 1])), map);
                for (part, slots) in slots.iter().take(n_parts).enumerate() {
                    for (p, value) in slots.iter().enumerate() {
                        out[slot(first + p, part, w)] = *value;
                    }
                }
            }
        }
    } else if height == W && matrix.row_stride() == 1 {
        done = length / 2;
        for p in 0..done {
            // SAFETY: rows `first .. first + W` of columns `from + 2 p` and the next lie in the matrix, which is borrowed, one after another
            // since the row stride is 1.
            let (even, odd) = unsafe {
                (
                    &*start(0, 2 * p).cast::<[f32; W]>(),
                    &*start(0, 2 * p + 1).cast::<[f32; W]>(),
                )
            };
            let slots = slots::<W>(std::array::from_fn(|w| (even[w], odd[w])), map);
            for (part, slots) in slots.iter().take(n_parts).enumerate() {
                for (w, value) in slots.iter().enumerate() {
                    out[slot(p, part, w)] = *value;
                }
            }
        }
    }
    for p in done..pairs {
        for w in 0..W {
            let at = |k: usize| {
                if w < height && k < length {
                    // SAFETY: row `first + w < nrows` and column `from + k < ncols` lie in the matrix, which is borrowed.
                    unsafe { *start(w, k) }
                } else {
                    0.0
                }
            };
            for (part, [value]) in slots::<1>([(at(2 * p), at(2 * p + 1))], map)
                .into_iter()
                .take(n_parts)
                .enumerate()
            {
                out[slot(p, part, w)] = value;
            }
        }
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
