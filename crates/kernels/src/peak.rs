//! What a machine can do at best: the yardstick of a roofline.

use std::hint::black_box;
use std::time::Instant;

use crate::element::Element;
use crate::path::Path;
use crate::threads::run_numbered;

/// Inner size of a tile whose operands stay in the first cache level.
const INNER: usize = 256;
const TIMES: usize = 4000;

/// Floating-point operations a second of the register tile alone, on operands in the first cache level, on every thread at once.
#[must_use]
pub fn peak<T: Element>(threads: usize) -> f64 {
    let tile = T::tile(Path::best());
    let start = Instant::now();
    run_numbered(threads, threads, |_| {
        let (lhs, rhs) = (vec![T::one_impl(); tile.rows * INNER], vec![T::one_impl(); tile.cols * INNER]);
        let mut out = vec![T::ZERO; tile.rows * tile.cols];
        for _ in 0..TIMES {
            // SAFETY: the strips and the output have the tile's size, and the best path is there.
            unsafe { (tile.multiply)(INNER, lhs.as_ptr(), rhs.as_ptr(), out.as_mut_ptr(), tile.cols, false) };
            black_box(&mut out);
        }
    });
    let operations = 2 * threads * TIMES * INNER * tile.rows * tile.cols;
    operations as f64 / start.elapsed().as_secs_f64()
}
