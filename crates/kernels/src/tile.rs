//! The register tile: the smallest piece of a product.

use faer::MatRef;

use crate::pack::Map;

/// Fused multiply-adds in one chain: the inner indices after which a partial sum is added to its element. Shorter chains round less.
pub const CHAIN: usize = 256;

/// `c[i][j] (+)= sum_k lhs[k][i] rhs[k][j]` of packed strips, in chains of [`CHAIN`]: `(inner, lhs, rhs, c, row stride of c, add)`.
///
/// # Safety
/// `lhs` has `inner * rows` values, `rhs` `inner * cols`, and `c` `rows` rows of `cols` values that nobody else touches, of the [`Tile`] that
/// the function belongs to; `inner > 0`; the instructions of its path are there.
pub(crate) type TileFn<T> = unsafe fn(usize, *const T, *const T, *mut T, usize, bool);

/// A function that packs one strip: `(matrix, first row, first column, map, out)`.
pub(crate) type PackFn<T> = fn(MatRef<'_, T>, usize, usize, Map, &mut [T]);

/// A path's register tile.
#[derive(Clone, Copy)]
pub(crate) struct Tile<T> {
    pub rows: usize,
    pub cols: usize,
    pub multiply: TileFn<T>,
    pub pack_lhs: PackFn<T>,
    pub pack_rhs: PackFn<T>,
}

/// The most elements of any tile.
pub(crate) const LARGEST: usize = 14 * 32;
