//! Packing of an operand's strips, some at a time.

use faer::MatRef;

use crate::element::Element;
use crate::pack::Map;
use crate::threads::run_on;
use crate::tile::{PackFn, Tile};
use crate::workspace::Buffer;

/// Elements that a thread packs at a time.
const PACKED_AT_ONCE: usize = 1 << 15;

/// Strips and inner indices that are packed together from an operand whose strips lie side by side in memory: their cache lines are shared.
const STRIPS_TOGETHER: usize = 16;
const INNER_TOGETHER: usize = 64;

/// An operand `[width, inner]`, and what becomes of its elements: the left one of a product, or the right one transposed.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a, T> {
    pub matrix: MatRef<'a, T>,
    pub map: Map,
}

impl<'a, T> Operand<'a, T> {
    pub fn new(matrix: MatRef<'a, T>) -> Self {
        Self {
            matrix,
            map: Map::Identity,
        }
    }
}

/// Packs the left strips from number `skipped` on.
pub(crate) fn pack_lhs<T: Element>(
    tile: &Tile<T>,
    lhs: Operand<'_, T>,
    skipped: usize,
    from: usize,
    inner: usize,
    out: &mut Buffer<T>,
    threads: usize,
) {
    let (strips, strip) = (lhs.matrix.nrows().div_ceil(tile.rows), tile.strip(tile.rows, inner));
    out.resize(strips * strip, T::ZERO);
    if let Some(out) = out.as_mut_slice().get_mut(skipped * strip..) {
        let rows = Strips {
            operand: lhs,
            first: skipped * tile.rows,
            width: tile.rows,
            from,
            inner,
        };
        rows.pack(tile, tile.pack_lhs, out, threads);
    }
}

#[expect(clippy::too_many_arguments, reason = "a rectangle of the operand has four sides")]
pub(crate) fn pack_rhs<T: Element>(
    tile: &Tile<T>,
    rhs: Operand<'_, T>,
    left: usize,
    cols: usize,
    from: usize,
    inner: usize,
    out: &mut Buffer<T>,
    threads: usize,
) {
    out.resize(cols.div_ceil(tile.cols) * tile.strip(tile.cols, inner), T::ZERO);
    let cols = Strips {
        operand: rhs,
        first: left,
        width: tile.cols,
        from,
        inner,
    };
    cols.pack(tile, tile.pack_rhs, out.as_mut_slice(), threads);
}

/// Strips of an operand from row `first` on, over inner indices from `from` on.
pub(crate) struct Strips<'a, T> {
    pub operand: Operand<'a, T>,
    pub first: usize,
    pub width: usize,
    pub from: usize,
    pub inner: usize,
}

impl<T: Element> Strips<'_, T> {
    /// Packs as many strips as `out` has room for, some a job.
    pub fn pack(&self, tile: &Tile<T>, pack: PackFn<T>, out: &mut [T], threads: usize) {
        let strip = tile.strip(self.width, self.inner);
        let (strips, inner) = if self.operand.matrix.row_stride() == 1 {
            (STRIPS_TOGETHER, INNER_TOGETHER)
        } else {
            ((PACKED_AT_ONCE / strip).max(1), self.inner)
        };
        let threads = if out.len() <= PACKED_AT_ONCE { 1 } else { threads };
        let jobs = out.chunks_mut(strips * strip).enumerate().map(|(job, out)| {
            move || {
                let first = self.first + job * strips * self.width;
                for from in (0..self.inner).step_by(inner) {
                    let part = tile.strip(self.width, from)..tile.strip(self.width, self.inner.min(from + inner));
                    for (number, out) in out.chunks_mut(strip).enumerate() {
                        let (row, out) = (first + number * self.width, &mut out[part.clone()]);
                        pack(self.operand.matrix, row, self.from + from, self.operand.map, out);
                    }
                }
            }
        });
        run_on(jobs.collect(), threads);
    }
}
