//! The register tile: the smallest piece of a product.

use faer::MatRef;

use crate::element::Element;
use crate::pack::Map;
use crate::zeros::Skip;

/// Fused multiply-adds in one chain: the inner indices after which a partial sum is added to its element. Shorter chains round less.
pub const CHAIN: usize = 256;

/// `c[i][j] (+)= sum_k lhs[k][i] rhs[k][j]` of packed strips: `(inner, lhs, rhs, c, row stride of c, add)`.
///
/// # Safety
/// `lhs` and `rhs` are strips of so many inner indices, a multiple of its step, and `c` as many rows as the function makes, of `cols` values
/// that nobody else touches, of the [`Tile`] that the function belongs to; `inner > 0`; the instructions of its path are there.
pub(crate) type TileFn<T> = unsafe fn(usize, *const T, *const T, *mut T, usize, bool);

/// A function that packs one strip: `(matrix, first row, first column, map, out)`.
pub(crate) type PackFn<T> = fn(MatRef<'_, T>, usize, usize, Map, &mut [T]);

/// `sums += values`, or their squares, in f64.
///
/// # Safety
/// The instructions of its path are there.
pub(crate) type AddFn<T> = unsafe fn(&mut [f64], &[T]);

/// The same of the values' squares.
#[inline(always)]
pub(crate) fn add_squares<T: Element>(sums: &mut [f64], values: &[T]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        let value = value.widen();
        *sum += value * value;
    }
}

/// f64 of the widest register.
const LANES: usize = 8;

/// The body of every [`AddFn`], compiled for its path.
#[inline(always)]
pub(crate) fn add_widened<T: Element>(sums: &mut [f64], values: &[T]) {
    let (sums, rest) = sums.as_chunks_mut::<LANES>();
    let (values, last) = values.split_at(sums.len() * LANES);
    for (sums, values) in sums.iter_mut().zip(values.as_chunks::<LANES>().0) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value.widen();
        }
    }
    for (sum, value) in rest.iter_mut().zip(last) {
        *sum += value.widen();
    }
}

/// Asks for the cache line at an address that will be written to; any address will do, nothing is read.
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A path's register tile.
#[derive(Clone, Copy)]
pub(crate) struct Tile<T> {
    pub rows: usize,
    pub cols: usize,
    /// Inner indices are packed in multiples of this, zeros at the end.
    pub step: usize,
    /// Room of a packed element, in halves of the element's own.
    pub half_slots: usize,
    /// Whether operands are whole numbers: they are scaled to be before they are packed.
    pub whole: bool,
    /// The most inner indices that one call is best given.
    pub at_once: usize,
    /// Rows and columns of a job, in tiles.
    pub job: [usize; 2],
    /// Tiles side by side that are made of one left strip, one after another.
    pub group: usize,
    /// The function for so many rows of the tile, and how many it makes: no fewer.
    pub multiply: fn(usize) -> (usize, TileFn<T>),
    pub add: AddFn<T>,
    pub add_squares: AddFn<T>,
    /// What leaves out zeros, in strips of single numbers.
    pub skip: Skip<T>,
    pub pack_lhs: PackFn<T>,
    pub pack_rhs: PackFn<T>,
}

/// Rows and columns of a job in tiles of vector registers.
pub(crate) const JOB: [usize; 2] = [40, 64];
pub(crate) const GROUP: usize = 8;

/// The most elements of any tile.
pub(crate) const LARGEST: usize = 32 * 32;

impl<T> Tile<T> {
    /// Packed values of a strip of `width` over `inner` indices.
    pub fn strip(&self, width: usize, inner: usize) -> usize {
        width * inner.next_multiple_of(self.step) * self.half_slots / 2
    }
}
