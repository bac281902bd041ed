//! Rows of row groups as they were decoded, kept in memory for the passes that read them again, as far as they fit.
//!
//! First come, first kept: passes read in the same order, and whoever reads more than fits would find nothing if the oldest went first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use fisherflow_spectra::Shard;

/// What is kept of one catalogue, for all workers of a process: nothing, until it may [grow](Self::limit).
#[derive(Debug, Default)]
pub(crate) struct KeptSpectra(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes that may be taken.
    limit: usize,
    /// Bytes that are, by what is kept and by what is being decoded.
    taken: usize,
    row_groups: HashMap<Chosen, KeptRows>,
}

#[derive(Debug)]
struct KeptRows {
    pieces: Arc<[RecordBatch]>,
    bytes: usize,
}

/// A row group, and which of its rows are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Chosen {
    shard: Shard,
    /// The bits of the held-out fraction; `None`: all rows.
    held_out: Option<u64>,
}

impl Chosen {
    pub fn new(shard: &Shard, held_out: Option<f64>) -> Self {
        Self {
            shard: shard.clone(),
            held_out: held_out.map(f64::to_bits),
        }
    }
}

/// The rows of a row group while they are decoded; what is not [kept](Self::keep) gives its room back.
pub(crate) struct Keeping {
    kept: Arc<KeptSpectra>,
    chosen: Chosen,
    rows: Vec<RecordBatch>,
    bytes: usize,
    /// Whether there was room for all of them.
    fits: bool,
}

impl KeptSpectra {
    /// At most so many bytes from here on; where more are taken, what is kept is let go.
    pub fn limit(&self, bytes: usize) {
        let mut state = self.state();
        state.limit = bytes;
        if state.taken > bytes {
            let gone = std::mem::take(&mut state.row_groups);
            state.taken -= gone.values().map(|rows| rows.bytes).sum::<usize>();
        }
    }

    /// The rows in the pieces in which they were decoded, where they are kept.
    pub fn get(&self, chosen: &Chosen) -> Option<Arc<[RecordBatch]>> {
        self.state().row_groups.get(chosen).map(|rows| Arc::clone(&rows.pieces))
    }

    /// Begins to keep a row group.
    pub fn begin(self: &Arc<Self>, chosen: Chosen) -> Keeping {
        Keeping {
            kept: Arc::clone(self),
            chosen,
            rows: Vec::new(),
            bytes: 0,
            fits: true,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeping {
    /// Adds the next rows, while there is room.
    pub fn push(&mut self, rows: &RecordBatch) {
        if !self.fits {
            return;
        }
        let bytes = rows.get_array_memory_size();
        let mut state = self.kept.state();
        if state.taken + bytes <= state.limit {
            state.taken += bytes;
            self.bytes += bytes;
            self.rows.push(rows.clone());
        } else {
            self.fits = false;
            self.rows = Vec::new();
            state.taken -= std::mem::take(&mut self.bytes);
        }
    }

    /// Keeps the row group, all of whose rows were added.
    pub fn keep(mut self) {
        if !self.fits {
            return;
        }
        let rows = KeptRows {
            pieces: std::mem::take(&mut self.rows).into(),
            bytes: std::mem::take(&mut self.bytes),
        };
        let mut state = self.kept.state();
        // Another worker may have kept it in the meantime.
        let before = state.row_groups.insert(self.chosen.clone(), rows);
        state.taken -= before.map_or(0, |rows| rows.bytes);
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.kept.state().taken -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Float32Array};
    use fisherflow_spectra::ObjectVersion;

    use super::*;

    fn chosen(row_group: usize, held_out: Option<f64>) -> Chosen {
        let shard = Shard {
            object: ObjectVersion {
                path: "/survey/a".to_owned(),
                size: 1,
                etag: None,
            },
            row_group,
            n_rows: 8,
            first_row: 0,
        };
        Chosen::new(&shard, held_out)
    }

    fn rows() -> RecordBatch {
        let column: ArrayRef = Arc::new(Float32Array::from(vec![1.0; 1000]));
        RecordBatch::try_from_iter([("flux", column)]).unwrap()
    }

    fn keeping(bytes: usize) -> Arc<KeptSpectra> {
        let kept = Arc::new(KeptSpectra::default());
        kept.limit(bytes);
        kept
    }

    fn read(kept: &Arc<KeptSpectra>, chosen: Chosen, pieces: usize) {
        let mut keeping = kept.begin(chosen);
        (0..pieces).for_each(|_| keeping.push(&rows()));
        keeping.keep();
    }

    #[test]
    fn what_fits_is_kept_whole_or_not_at_all() {
        let kept = keeping(4 * rows().get_array_memory_size());
        read(&kept, chosen(0, None), 2);
        read(&kept, chosen(1, None), 3);
        read(&kept, chosen(2, None), 1);
        let pieces = |row_group| kept.get(&chosen(row_group, None)).map(|rows| rows.len());
        assert_eq!([0, 1, 2].map(pieces), [Some(2), None, Some(1)]);
        assert_eq!(kept.state().taken, 3 * rows().get_array_memory_size());
        kept.limit(0);
        assert_eq!([0, 1, 2].map(pieces), [None; 3]);
        assert_eq!(kept.state().taken, 0);
    }

    #[test]
    fn held_out_rows_are_others() {
        let kept = keeping(1 << 30);
        read(&kept, chosen(0, Some(0.1)), 1);
        assert!(kept.get(&chosen(0, Some(0.1))).is_some());
        assert!(kept.get(&chosen(0, Some(0.05))).is_none() && kept.get(&chosen(0, None)).is_none());
    }

    /// A reading that ends early, and one that another was faster than.
    #[test]
    fn what_is_not_kept_takes_no_room() {
        let kept = keeping(1 << 30);
        let mut early = kept.begin(chosen(0, None));
        early.push(&rows());
        drop(early);
        assert_eq!(kept.state().taken, 0);
        read(&kept, chosen(0, None), 1);
        read(&kept, chosen(0, None), 1);
        assert_eq!(kept.state().taken, rows().get_array_memory_size());
    }
}
