//! Many columns that are multiplied by thin matrices from the left, in place, as eigenvectors are by reflections.
//!
//! They lie in strips: as many columns side by side as a register tile has, row after row. So a tile reads and writes them as they lie in
//! memory, and only the thin matrices are packed, once for all columns.

use std::ops::Range;

use faer::MatRef;

use crate::element::sealed::Sealed;
use crate::pack::Map;
use crate::path::Path;
use crate::strips::{Operand, pack_lhs};
use crate::threads::run_all;
use crate::tile::{LARGEST, Tile};
use crate::workspace::Buffer;

/// Rows of an update whose part of a strip stays in the first cache level while all of the update's columns read it: a multiple of every tile's, so
/// that sums are cut alike on all paths.
const ROWS: usize = 168;

/// Columns that a thread works on at a time: their rows stay in the second cache level from one update to the next.
const COLUMNS: usize = 96;

/// The columns of a matrix, in strips.
#[derive(Clone, Debug)]
pub struct ColumnStrips {
    path: Path,
    rows: usize,
    values: Vec<f64>,
}

impl ColumnStrips {
    /// Numbers that so many columns of `rows` rows take, the last strip filled up.
    #[must_use]
    pub fn room(path: Path, rows: usize, columns: usize) -> usize {
        rows * columns.next_multiple_of(f64::tile(path).cols)
    }

    /// Of columns one after the other, followed by what fills the last strip ([`Self::room`]): in place.
    ///
    /// # Panics
    /// If `values` are not whole strips, or the path is not there.
    #[must_use]
    pub fn from_columns(path: Path, rows: usize, mut values: Vec<f64>, threads: usize) -> Self {
        assert!(path.is_available(), "this machine has no {path} instructions");
        let width = f64::tile(path).cols;
        let strip = (rows * width).max(1);
        assert_eq!(values.len() % strip, 0, "columns fill whole strips");
        let turn = |strip: &mut [f64]| {
            let columns = strip.to_vec();
            for (i, row) in strip.chunks_exact_mut(width).enumerate() {
                for (value, column) in row.iter_mut().zip(columns.chunks_exact(rows)) {
                    *value = column[i];
                }
            }
        };
        run_all(
            values
                .chunks_exact_mut(strip)
                .map(|strip| move || turn(strip))
                .collect(),
            threads,
        );
        Self { path, rows, values }
    }

    /// Writes the matrix row after row: as many of its columns as `matrix` has.
    ///
    /// # Panics
    /// If `matrix` has other rows or more columns.
    pub fn to_rows(&self, matrix: &mut [f64], threads: usize) {
        let (width, columns) = (f64::tile(self.path).cols, matrix.len() / self.rows.max(1));
        assert_eq!(columns * self.rows, matrix.len(), "rows of a matrix");
        assert!(
            Self::room(self.path, self.rows, columns) <= self.values.len(),
            "columns of a matrix"
        );
        let turn = |first: usize, matrix: &mut [f64]| {
            for (i, row) in matrix.chunks_exact_mut(columns).enumerate() {
                for (to, strip) in row.chunks_mut(width).zip(self.values.chunks_exact(self.rows * width)) {
                    to.copy_from_slice(&strip[(first + i) * width..][..to.len()]);
                }
            }
        };
        let jobs = matrix
            .chunks_mut((ROWS * columns).max(1))
            .enumerate()
            .map(|(i, matrix)| move || turn(i * ROWS, matrix))
            .collect();
        run_all(jobs, threads);
    }

    /// `Z := Z + W V^T Z` of each update, from the first to the last. The same bits for any number of threads.
    ///
    /// # Panics
    /// If an update is of other rows, or was packed for another path.
    pub fn update(&mut self, updates: &[StripUpdate], threads: usize) {
        let tile = f64::tile(self.path);
        for update in updates {
            assert_eq!(update.path, self.path, "path of an update");
            assert!(update.row + update.rows <= self.rows, "rows of an update");
        }
        let strip = (self.rows * tile.cols).max(1);
        let together = strip * (COLUMNS / tile.cols).max(1);
        let jobs = self
            .values
            .chunks_mut(together)
            .map(|strips| {
                move || {
                    let widest = updates.iter().map(|update| update.r).max().unwrap_or_default();
                    let mut inner = Buffer::default();
                    inner.resize(
                        strips.len() / strip * widest.next_multiple_of(tile.rows) * tile.cols,
                        0.0,
                    );
                    for update in updates {
                        update.apply(&tile, strips, strip, inner.as_mut_slice());
                    }
                }
            })
            .collect();
        run_all(jobs, threads);
    }
}

/// What `W V^T` adds to some rows of columns, packed.
#[derive(Debug)]
pub struct StripUpdate {
    path: Path,
    row: usize,
    rows: usize,
    /// Columns of V and W.
    r: usize,
    /// Rows in which a column of V is not 0, from the one of its own number on.
    reach: usize,
    /// V: of each chunk of rows, of each tile's columns, the rows in which any of them is not 0.
    v: Vec<f64>,
    /// W: of each tile's rows, all columns.
    w: Buffer<f64>,
}

impl StripUpdate {
    /// Of the rows from `row` on; `v`, `w`: `[rows, r]`, where column j of `v` is 0 but in rows `j .. j + reach`.
    ///
    /// # Panics
    /// If shapes differ, there is no column, or the path is not there.
    #[must_use]
    pub fn new(path: Path, row: usize, v: MatRef<'_, f64>, w: MatRef<'_, f64>, reach: usize) -> Self {
        assert!(path.is_available(), "this machine has no {path} instructions");
        assert_eq!(v.shape(), w.shape(), "shapes of an update");
        let ((rows, r), tile) = (v.shape(), f64::tile(path));
        assert!(r > 0, "columns of an update");
        let mut update = Self {
            path,
            row,
            rows,
            r,
            reach,
            v: Vec::new(),
            w: Buffer::default(),
        };
        for chunk in chunks(rows) {
            for first in (0..r).step_by(tile.rows) {
                let span = update.span(&tile, first, &chunk);
                let packed = update.v.len();
                update.v.resize(packed + span.len() * tile.rows, 0.0);
                (tile.pack_lhs)(v.transpose(), first, span.start, Map::Identity, &mut update.v[packed..]);
            }
        }
        pack_lhs(&tile, Operand::new(w), 0, 0, r, &mut update.w, 1);
        update
    }

    /// Rows of a chunk in which any of a tile's columns of V from `first` on is not 0.
    fn span(&self, tile: &Tile<f64>, first: usize, chunk: &Range<usize>) -> Range<usize> {
        let end = (first + tile.rows - 1).saturating_add(self.reach).min(chunk.end);
        first.max(chunk.start).min(end)..end
    }

    /// `Z := Z + W V^T Z` of strips of so many numbers; `inner`: room for `r` rows of each, and those that fill the last tile.
    fn apply(&self, tile: &Tile<f64>, strips: &mut [f64], strip: usize, inner: &mut [f64]) {
        let (width, r) = (tile.cols, self.r);
        let each = r.next_multiple_of(tile.rows) * width;
        let inner = &mut inner[..strips.len() / strip * each];
        inner.fill(0.0);
        let mut v = self.v.as_slice();
        for chunk in chunks(self.rows) {
            let of_chunk = v;
            for (strip, inner) in strips.chunks_exact(strip).zip(inner.chunks_exact_mut(each)) {
                v = of_chunk;
                for (number, sums) in inner.chunks_exact_mut(tile.rows * width).enumerate() {
                    let first = number * tile.rows;
                    let span = self.span(tile, first, &chunk);
                    let (own, later) = v.split_at(span.len() * tile.rows);
                    v = later;
                    if !span.is_empty() {
                        let z = &strip[(self.row + span.start) * width..][..span.len() * width];
                        let (_, multiply) = (tile.multiply)(tile.rows.min(r - first));
                        // SAFETY: both are strips of so many indices, `sums` has room for a whole tile; the path was checked.
                        unsafe { multiply(span.len(), own.as_ptr(), z.as_ptr(), sums.as_mut_ptr(), width, true) };
                    }
                }
            }
        }
        let mut room = [0.0; LARGEST];
        for chunk in chunks(self.rows) {
            let w = &self.w.as_slice()[chunk.start * r..];
            for (strip, inner) in strips.chunks_exact_mut(strip).zip(inner.chunks_exact(each)) {
                let z = &mut strip[(self.row + chunk.start) * width..][..chunk.len() * width];
                for (z, w) in z.chunks_mut(tile.rows * width).zip(w.chunks_exact(tile.rows * r)) {
                    let rows = z.len() / width;
                    let (made, multiply) = (tile.multiply)(rows);
                    let add = |to: &mut [f64]| {
                        assert!(to.len() >= made * width);
                        // SAFETY: both are strips of so many indices, `to` has the rows that are made; the path was checked.
                        unsafe { multiply(r, w.as_ptr(), inner.as_ptr(), to.as_mut_ptr(), width, true) };
                    };
                    if made == rows {
                        add(z);
                    } else {
                        room[..z.len()].copy_from_slice(z);
                        add(&mut room);
                        z.copy_from_slice(&room[..z.len()]);
                    }
                }
            }
        }
    }
}

/// Rows, as many at a time as stay in the first cache level.
fn chunks(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(ROWS).map(move |from| from..rows.min(from + ROWS))
}

#[cfg(test)]
#[path = "column_strips_tests.rs"]
mod tests;
