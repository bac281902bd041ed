//! How a product is cut: outer columns, inner indices, and jobs of register tiles. None of it shows in a bit.

use std::mem::MaybeUninit;

use crate::element::Element;
use crate::lent::{Borrowed, borrow};
use crate::packed::Packed;
use crate::strips::{Operand, pack_lhs, pack_rhs};
use crate::threads::run_numbered;
use crate::tile::{CHAIN, LARGEST, Tile};
use crate::workspace::with_workspace;

/// Bytes of one row of a packed left operand's block, and of a right operand's: what the second cache level and the third hold.
const INNER_BYTES: usize = 4096;
const OUTER_BYTES: usize = 16 << 10;

/// Bytes of a row of a right operand's block, where it passes few rows and is best used as soon as it is packed.
const THIN_BYTES: usize = 512;

/// Multiplications below which more threads cost more than they give.
const WORTH_SHARING: usize = 1 << 18;

/// Inner indices that are packed at a time: whole chains.
pub(crate) const fn inner_block<T>() -> usize {
    INNER_BYTES / size_of::<T>() / CHAIN * CHAIN
}

/// Bytes that a thread holds for the packed operands of a product whose left side has `rows` rows.
#[must_use]
pub const fn workspace_bytes(rows: u64) -> u64 {
    let right = (OUTER_BYTES / size_of::<f32>() * INNER_BYTES) as u64;
    rows.saturating_mul(INNER_BYTES as u64).saturating_add(right)
}

/// Threads for a product `m x k x n`; `None` where one is best.
pub(crate) fn borrow_for([m, k, n]: [usize; 3], threads: usize) -> Option<Borrowed> {
    (m.saturating_mul(n).saturating_mul(k) >= WORTH_SHARING).then(|| borrow(threads))
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a, T> {
    /// Transposed: `[cols, inner]`.
    Plain(Operand<'a, T>),
    Packed(&'a Packed<T>),
}

/// A tile's place, and its part that lies in the product.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub row: usize,
    pub col: usize,
    pub rows: usize,
    pub cols: usize,
}

/// Where tiles of a product go.
pub(crate) trait Sink<T>: Sync {
    /// Whether a tile may come in several pieces of its inner indices, one to be added to the other.
    fn takes_pieces(&self) -> bool;

    /// Whether any element of the rectangle is wanted.
    fn wants(&self, place: Place) -> bool;

    /// The first row of which any element from column `left` on is wanted.
    fn first_row(&self, left: usize) -> usize;

    /// Takes one tile: `fill(to, row stride, add)` writes `made` rows of `tile`'s width or adds to them; `first` says that the inner indices
    /// begin here.
    ///
    /// # Safety
    /// `fill` is a register tile's; no two calls for one place may overlap in time.
    unsafe fn take(&self, place: Place, tile: &Tile<T>, made: usize, first: bool, fill: impl Fn(*mut T, usize, bool));
}

/// Multiplies `lhs [rows, inner]` by the right operand into the sink.
///
/// # Safety
/// The instructions of `tile` are there, and the sink has a place for every tile that it wants.
pub(crate) unsafe fn product<T: Element>(
    tile: &Tile<T>,
    lhs: Operand<'_, T>,
    rhs: Right<'_, T>,
    sink: &impl Sink<T>,
    threads: usize,
) {
    let (m, k) = lhs.matrix.shape();
    let n = match rhs {
        Right::Plain(operand) => operand.matrix.nrows(),
        Right::Packed(packed) => packed.cols(),
    };
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let borrowed = borrow_for([m, k, n], threads);
    let threads = borrowed.as_ref().map_or(1, |borrowed| borrowed.threads);
    let outer = match rhs {
        Right::Plain(_) => {
            let bytes = if m <= tile.rows { THIN_BYTES } else { OUTER_BYTES };
            (bytes / size_of::<T>()).next_multiple_of(tile.cols)
        }
        Right::Packed(_) => n.next_multiple_of(tile.cols),
    };
    T::workspace().with(|kept| {
        with_workspace(kept, |workspace| {
            for left in (0..n).step_by(outer) {
                let cols = outer.min(n - left);
                for from in (0..k).step_by(inner_block::<T>()) {
                    let inner = inner_block::<T>().min(k - from);
                    let skipped = sink.first_row(left) / tile.rows;
                    pack_lhs(tile, lhs, skipped, from, inner, &mut workspace.lhs, threads);
                    let rhs = match rhs {
                        Right::Packed(packed) => packed.block(from, inner),
                        Right::Plain(operand) => {
                            pack_rhs(tile, operand, left, cols, from, inner, &mut workspace.rhs, threads);
                            workspace.rhs.as_slice()
                        }
                    };
                    let block = Block {
                        tile,
                        lhs: workspace.lhs.as_slice(),
                        rhs,
                        rows: m,
                        left,
                        cols,
                        inner,
                        first: from == 0,
                    };
                    // SAFETY: the caller's promise.
                    unsafe { block.run(sink, threads) };
                }
            }
        });
    });
}

/// One block of inner indices, packed, and a range of columns.
struct Block<'a, T> {
    tile: &'a Tile<T>,
    lhs: &'a [T],
    rhs: &'a [T],
    rows: usize,
    left: usize,
    cols: usize,
    inner: usize,
    first: bool,
}

impl<T: Element> Block<'_, T> {
    /// # Safety
    /// See [`product`].
    unsafe fn run(&self, sink: &impl Sink<T>, threads: usize) {
        let (strips, across) = (self.rows.div_ceil(self.tile.rows), self.cols.div_ceil(self.tile.cols));
        let shared = |all: usize, most: usize| all.div_ceil(all.div_ceil(most));
        let mut height = shared(strips, self.tile.job[0]);
        let mut width = shared(across, self.tile.job[1]);
        while threads > 1 && strips.div_ceil(height) * across.div_ceil(width) < 4 * threads && height * width > 4 {
            if height >= width {
                height = height.div_ceil(2);
            } else {
                width = width.div_ceil(2);
            }
        }
        let (down, along) = (strips.div_ceil(height), across.div_ceil(width));
        run_numbered(down * along, threads, |job| {
            let (i, j) = (job / along * height, job % along * width);
            // SAFETY: the caller's promise; jobs are disjoint.
            unsafe { self.job(i..strips.min(i + height), j..across.min(j + width), sink) };
        });
    }

    /// # Safety
    /// See [`product`].
    unsafe fn job(&self, strips: std::ops::Range<usize>, across: std::ops::Range<usize>, sink: &impl Sink<T>) {
        let Tile { rows, cols, .. } = *self.tile;
        let whole = Place {
            row: strips.start * rows,
            col: self.left + across.start * cols,
            rows: (strips.len() * rows).min(self.rows - strips.start * rows),
            cols: (across.len() * cols).min(self.cols - across.start * cols),
        };
        if !sink.wants(whole) {
            return;
        }
        let padded = self.inner.next_multiple_of(self.tile.step);
        let at_once = if sink.takes_pieces() {
            self.tile.at_once
        } else {
            usize::MAX
        };
        for from in (0..padded).step_by(at_once) {
            let piece = at_once.min(padded - from);
            // Tiles side by side share their rows' pages and lines of memory.
            for group in across.clone().step_by(self.tile.group) {
                for i in strips.clone() {
                    let lhs = self.piece(self.lhs, i, rows, from, piece);
                    for j in group..across.end.min(group + self.tile.group) {
                        let place = Place {
                            row: i * rows,
                            col: self.left + j * cols,
                            rows: rows.min(self.rows - i * rows),
                            cols: cols.min(self.cols - j * cols),
                        };
                        if !sink.wants(place) {
                            continue;
                        }
                        let rhs = self.piece(self.rhs, j, cols, from, piece);
                        let (made, multiply) = (self.tile.multiply)(place.rows);
                        // SAFETY: both strips have `piece` packed indices; the sink hands out room for a whole tile; the instructions are there.
                        unsafe {
                            sink.take(place, self.tile, made, self.first && from == 0, |to, stride, add| {
                                multiply(piece, lhs, rhs, to, stride, add);
                            });
                        }
                    }
                }
            }
        }
    }

    /// `piece` indices from `from` on of a strip, of those `width` wide.
    fn piece(&self, packed: &[T], strip: usize, width: usize, from: usize, piece: usize) -> *const T {
        let at = strip * self.tile.strip(width, self.inner) + self.tile.strip(width, from);
        packed[at..][..self.tile.strip(width, piece)].as_ptr()
    }
}

/// A register tile in memory, for a sink that cannot let the kernel write in place.
#[repr(align(64))]
pub(crate) struct Room<T>(pub [MaybeUninit<T>; LARGEST]);

impl<T> Room<T> {
    /// Room that holds nothing yet.
    pub fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; LARGEST])
    }
}
