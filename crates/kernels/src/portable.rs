//! The register tile in plain Rust: what the other paths are compared with, and what any machine can run.

use crate::element::Element;
use crate::pack::pack_strip;
use crate::tile::{CHAIN, GROUP, JOB, Tile, add_squares, add_widened};
use crate::zeros::{Terms, skip};

const ROWS: usize = 4;
const COLS: usize = 8;

/// The portable tile.
pub(crate) fn tile<T: Element>() -> Tile<T> {
    Tile {
        rows: ROWS,
        cols: COLS,
        step: 1,
        half_slots: 2,
        whole: false,
        at_once: usize::MAX,
        job: JOB,
        group: GROUP,
        multiply: |_| (ROWS, multiply::<T>),
        add: add_widened::<T>,
        add_squares: add_squares::<T>,
        skip: skip!(skipping, T),
        pack_lhs: pack_strip::<T, ROWS>,
        pack_rhs: pack_strip::<T, COLS>,
    }
}

/// See [`crate::tile::TileFn`].
unsafe fn multiply<T: Element>(inner: usize, lhs: *const T, rhs: *const T, c: *mut T, stride: usize, mut add: bool) {
    // SAFETY: the caller's promise: the packed strips have this many values.
    let (lhs, rhs) = unsafe {
        (
            std::slice::from_raw_parts(lhs.cast::<[T; ROWS]>(), inner),
            std::slice::from_raw_parts(rhs.cast::<[T; COLS]>(), inner),
        )
    };
    for (lhs, rhs) in lhs.chunks(CHAIN).zip(rhs.chunks(CHAIN)) {
        let mut sums = [[T::ZERO; COLS]; ROWS];
        for (lhs, rhs) in lhs.iter().zip(rhs) {
            for (sums, x) in sums.iter_mut().zip(lhs) {
                for (sum, y) in sums.iter_mut().zip(rhs) {
                    *sum = x.fused_multiply_add(*y, *sum);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's promise: `c` has ROWS rows of COLS values, `stride` apart, that nobody else touches.
            let to = unsafe { &mut *c.add(row * stride).cast::<[T; COLS]>() };
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = if add { *to + *sum } else { *sum };
            }
        }
        add = true;
    }
}

/// See [`crate::zeros::SkipFn`].
unsafe fn skipping<T: Element, const ROWS: usize, const STRIPS: usize>(
    terms: Terms<'_, T>,
    rhs: *const T,
    strip: usize,
    c: *mut T,
    stride: usize,
    mut add: bool,
) {
    let (mut offsets, mut values) = (terms.offsets.iter(), terms.values.chunks_exact(ROWS));
    for &count in terms.counts {
        let mut sums = [[[T::ZERO; COLS]; STRIPS]; ROWS];
        for (offset, values) in offsets.by_ref().zip(values.by_ref()).take(count as usize) {
            for (sums, x) in sums.iter_mut().zip(values) {
                for (at, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's promise: each strip has a row of COLS values there.
                    let rhs = unsafe { &*rhs.add(at * strip + *offset as usize).cast::<[T; COLS]>() };
                    for (sum, y) in sums.iter_mut().zip(rhs) {
                        *sum = x.fused_multiply_add(*y, *sum);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (at, sum) in sums.as_flattened().iter().enumerate() {
                // SAFETY: the caller's promise: `c` has ROWS rows of STRIPS strips' values, `stride` apart, that nobody else touches.
                let to = unsafe { &mut *c.add(row * stride + at) };
                *to = if add { *to + *sum } else { *sum };
            }
        }
        add = true;
    }
}
