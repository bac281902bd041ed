//! What a machine can do at best: the yardstick of a roofline.

use std::hint::black_box;

use crate::element::Element;
use crate::path::Path;

/// Inner size of a tile whose operands stay in the first cache level.
const INNER: usize = 256;

/// Makes the register tile of the best path `times` times from operands in the first cache level, on this thread; gives the number of
/// multiplications, each fused with an addition.
pub fn tile_products<T: Element>(times: usize) -> usize {
    let tile = T::tile(Path::best());
    let (lhs, rhs) = (
        vec![T::one_impl(); tile.rows * INNER],
        vec![T::one_impl(); tile.cols * INNER],
    );
    let mut out = vec![T::ZERO; tile.rows * tile.cols];
    let (_, multiply) = (tile.multiply)(tile.rows);
    for _ in 0..times {
        // SAFETY: the strips and the output have the tile's size, and the best path is there.
        unsafe { multiply(INNER, lhs.as_ptr(), rhs.as_ptr(), out.as_mut_ptr(), tile.cols, false) };
        black_box(&mut out);
    }
    times * INNER * tile.rows * tile.cols
}

/// Fused multiply-adds of the best path on registers alone, `times` rounds of them, on this thread; gives their number. Nothing is faster.
pub fn register_products<T: Element>(times: usize) -> usize {
    let tile = T::tile(Path::best());
    // SAFETY: the best path is there.
    unsafe { (tile.spin)(times) }
}
