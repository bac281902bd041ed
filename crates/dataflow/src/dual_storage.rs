//! Where a process keeps a dual block's rows and the tiles of its factor: in memory, or, where a budget is too small for that, as the
//! output's files and objects of a folder, with what was used last kept ready.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use fisherflow_curvature::{Matrix, WeightJacobian};
use fisherflow_posterior::{DualLayout, DualSource, PosteriorError};
use fisherflow_store::{Output, StoreError, TileFolder};

use crate::context::Context;
use crate::dual_files::{self, DualChunk};
use crate::error::RunError;
use crate::left_files::LeftFiles;

/// The rows of a dual block's training spectra.
pub(crate) struct DualRows {
    pub(crate) layout: DualLayout,
    chunks: Vec<DualChunk>,
    output: Output,
    left_files: Arc<LeftFiles>,
    known: Recent<usize, WeightJacobian>,
    /// Bytes that a process may take; none where everything is kept in memory.
    budget: Option<u64>,
}

/// With the factor for one prior precision.
pub(crate) struct DualStorage {
    pub(crate) rows: Arc<DualRows>,
    pub(crate) prior_precision: f64,
    known: Recent<(usize, usize), Matrix>,
    /// Where the tiles are that memory has no room for.
    folder: Option<TileFolder>,
}

impl DualRows {
    /// Those that the fit left.
    pub(crate) fn new(context: &Context, layout: DualLayout, chunks: &[DualChunk]) -> Self {
        let plan = &layout.plan;
        let in_memory = WeightJacobian::bytes(plan, layout.n_labels, layout.n_spectra() as u64) + tile_bytes(&layout);
        let budget = context.job.compute.memory.filter(|&memory| memory < in_memory);
        Self {
            known: Recent::new(budget.map(|bytes| bytes / 4)),
            layout,
            chunks: chunks.to_vec(),
            output: context.output.clone(),
            left_files: Arc::clone(&context.left_files),
            budget,
        }
    }

    /// Whether everything is kept in memory.
    pub(crate) fn in_memory(&self) -> bool {
        self.budget.is_none()
    }

    /// Block columns that are factored together: all of them in memory; else as many as leave room, in half of the budget, for the tiles of
    /// the rows of this process, `share` of all.
    pub(crate) fn columns_at_once(&self, share: f64) -> usize {
        let n = self.layout.n_chunks().max(1);
        let Some(budget) = self.budget else { return n };
        let widest = (0..self.layout.n_chunks())
            .map(|chunk| self.layout.rows_of(chunk))
            .max();
        let column = 8.0 * share * self.layout.n_rows() as f64 * widest.unwrap_or(1) as f64;
        ((budget as f64 / 2.0 / column) as usize).clamp(1, n)
    }

    /// Of every chunk.
    pub(crate) fn all(&self) -> Result<Vec<Arc<WeightJacobian>>, RunError> {
        (0..self.layout.n_chunks()).map(|chunk| self.rows(chunk)).collect()
    }

    pub(crate) fn rows(&self, chunk: usize) -> Result<Arc<WeightJacobian>, RunError> {
        self.known.get_or(chunk, || {
            let place = self
                .chunks
                .get(chunk)
                .ok_or_else(|| RunError::Internal(format!("there is no chunk {chunk} of rows")))?;
            self.left_files
                .check(&self.output, &dual_files::rows_path(&self.layout.plan, *place))?;
            let rows = dual_files::read_rows(&self.output, &self.layout.plan, self.layout.n_labels, *place)?;
            let bytes = WeightJacobian::bytes(&self.layout.plan, self.layout.n_labels, rows.n_spectra() as u64);
            Ok((rows, bytes))
        })
    }
}

impl DualStorage {
    /// A factor of which nothing is known in memory yet.
    pub(crate) fn new(context: &Context, rows: &Arc<DualRows>, prior_precision: f64) -> Self {
        let folder = rows.budget.map(|_| {
            let uri = format!("{}/prior-{:016x}", context.scratch(), prior_precision.to_bits());
            TileFolder::new(&context.stores, &uri)
        });
        Self {
            rows: Arc::clone(rows),
            prior_precision,
            known: Recent::new(rows.budget.map(|bytes| bytes / 4)),
            folder,
        }
    }

    /// Whether a tile is there already, from a run that was killed.
    pub(crate) fn has(&self, row: usize, column: usize) -> Result<bool, RunError> {
        match &self.folder {
            None => Ok(self.known.get((row, column)).is_some()),
            Some(folder) => Ok(folder.has(row, column)?),
        }
    }

    /// Keeps a tile.
    pub(crate) fn put(&self, row: usize, column: usize, tile: Matrix) -> Result<(), RunError> {
        let bytes = bytes_of(&tile);
        if let Some(folder) = &self.folder {
            folder.create(row, column, [tile.rows, tile.cols], &tile.values)?;
        }
        self.known.insert((row, column), tile, bytes);
        Ok(())
    }

    /// A tile of L: from memory, from its object, or, where an earlier process has left neither, from what `invert` wrote.
    fn tile(&self, row: usize, column: usize) -> Result<Arc<Matrix>, RunError> {
        self.known.get_or((row, column), || {
            if let Some(folder) = &self.folder
                && let Some(([rows, cols], values)) = folder.read(row, column)?
            {
                let tile = Matrix { rows, cols, values };
                let bytes = bytes_of(&tile);
                return Ok((tile, bytes));
            }
            let DualRows {
                output,
                layout,
                left_files,
                ..
            } = &*self.rows;
            left_files.check(output, &dual_files::factor_path(&layout.plan, row))?;
            let tiles = dual_files::read_factor(output, layout, row).map_err(|error| match (&self.folder, error) {
                // `invert` has not come so far: it is the tile that is gone.
                (Some(folder), RunError::Store(StoreError::NotFound { .. })) => {
                    RunError::Store(folder.lost(row, column))
                }
                (_, error) => error,
            })?;
            let mut wanted = None;
            for (other, tile) in tiles.into_iter().enumerate() {
                if other == column {
                    wanted = Some(tile);
                } else if self.folder.is_none() || !self.has(row, other)? {
                    self.put(row, other, tile)?;
                }
            }
            let tile = wanted.ok_or_else(|| RunError::Internal(format!("there is no tile ({row}, {column})")))?;
            if self.folder.is_some() {
                self.put(row, column, tile.clone())?;
            }
            let bytes = bytes_of(&tile);
            Ok((tile, bytes))
        })
    }
}

impl DualSource for DualStorage {
    fn rows(&self, chunk: usize) -> Result<Arc<WeightJacobian>, PosteriorError> {
        self.rows
            .rows(chunk)
            .map_err(|error| PosteriorError::Source(error.into()))
    }

    fn factor(&self, row: usize, column: usize) -> Result<Arc<Matrix>, PosteriorError> {
        self.tile(row, column)
            .map_err(|error| PosteriorError::Source(error.into()))
    }
}

/// Bytes of the tiles of a factor.
fn tile_bytes(layout: &DualLayout) -> u64 {
    (0..layout.n_chunks())
        .map(|chunk| 8 * (layout.rows_of(chunk) * (layout.first_row(chunk) + layout.rows_of(chunk))) as u64)
        .sum()
}

fn bytes_of(tile: &Matrix) -> u64 {
    8 * tile.values.len() as u64
}

/// Values by key; those that were kept first are dropped where there is no more room.
struct Recent<K, V> {
    kept: Mutex<Kept<K, V>>,
    /// Bytes; none: no limit.
    room: Option<u64>,
}

struct Kept<K, V> {
    values: HashMap<K, (Arc<V>, u64)>,
    order: VecDeque<K>,
    bytes: u64,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    fn new(room: Option<u64>) -> Self {
        Self {
            kept: Mutex::new(Kept {
                values: HashMap::new(),
                order: VecDeque::new(),
                bytes: 0,
            }),
            room,
        }
    }

    fn get(&self, key: K) -> Option<Arc<V>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.values.get(&key).map(|(value, _)| Arc::clone(value))
    }

    /// The value, loaded where it is not kept. Two workers may load it at once; both get the same.
    fn get_or(&self, key: K, load: impl FnOnce() -> Result<(V, u64), RunError>) -> Result<Arc<V>, RunError> {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let (value, bytes) = load()?;
        Ok(self.insert(key, value, bytes))
    }

    fn insert(&self, key: K, value: V, bytes: u64) -> Arc<V> {
        let value = Arc::new(value);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.values.insert(key, (Arc::clone(&value), bytes)) {
            Some((_, before)) => kept.bytes -= before,
            None => kept.order.push_back(key),
        }
        kept.bytes += bytes;
        while self.room.is_some_and(|room| kept.bytes > room) {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some((_, bytes)) = kept.values.remove(&oldest) {
                kept.bytes -= bytes;
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_first_makes_room() {
        let recent = Recent::new(Some(10));
        for key in 0..4 {
            recent.insert(key, key, 4);
        }
        assert_eq!(
            (0..4).filter(|&key| recent.get(key).is_some()).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(*recent.get_or(0, || Ok((7, 4))).unwrap(), 7);
        assert!(recent.get(2).is_none());
        // What is larger than all room is handed out and not kept.
        assert_eq!(*recent.get_or(9, || Ok((9, 11))).unwrap(), 9);
        assert!(recent.get(9).is_none());
        let all = Recent::new(None);
        (0..100).for_each(|key| drop(all.insert(key, key, u64::MAX / 200)));
        assert!((0..100).all(|key| all.get(key).is_some()));
    }
}
