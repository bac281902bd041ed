//! Packing of numbers that take half a slot: a pair of inner indices is one 32-bit slot of an f32 buffer, index 2p in its lower half, 2p + 1 in its
//! upper one.

use faer::MatRef;

/// The slots of `N` pairs, of each part of their numbers.
#[inline(always)]
fn slots<const N: usize, const PARTS: usize>(
    pairs: [(f32, f32); N],
    encode: impl Fn(f32) -> [u32; PARTS],
) -> [[f32; N]; PARTS] {
    let mut slots = [[0.0; N]; PARTS];
    for (at, (even, odd)) in pairs.into_iter().enumerate() {
        let (even, odd) = (encode(even), encode(odd));
        for (slots, (even, odd)) in slots.iter_mut().zip(even.into_iter().zip(odd)) {
            slots[at] = f32::from_bits(even | odd << 16);
        }
    }
    slots
}

/// Pairs that are taken together: two cache lines of f32.
const PAIRS: usize = 16;

/// Packs a strip of `W` rows of `matrix` from row `first`, its columns from `from` on, each number as the 16-bit parts that `encode` makes of it;
/// what lies beyond the matrix is 0. The slot of part `part` of row w and pair p is `slot(p, part, w)`.
#[inline(always)]
pub(crate) fn pack<const W: usize, const PARTS: usize>(
    matrix: MatRef<'_, f32>,
    first: usize,
    from: usize,
    out: &mut [f32],
    slot: impl Fn(usize, usize, usize) -> usize,
    encode: impl Fn(f32) -> [u32; PARTS] + Copy,
) {
    let pairs = out.len() / (W * PARTS);
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
                let slots = slots::<PAIRS, PARTS>(std::array::from_fn(|p| (values[2 * p], values[2 * p + 1])), encode);
                for (part, slots) in slots.iter().enumerate() {
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
            let slots = slots::<W, PARTS>(std::array::from_fn(|w| (even[w], odd[w])), encode);
            for (part, slots) in slots.iter().enumerate() {
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
            let slots = slots::<1, PARTS>([(at(2 * p), at(2 * p + 1))], encode);
            for (part, [value]) in slots.into_iter().enumerate() {
                out[slot(p, part, w)] = value;
            }
        }
    }
}
