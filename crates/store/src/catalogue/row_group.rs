//! The rows of one row group, some at a time: all of them, or those that are held out, by their keys, which are read before all else; out of the
//! Parquet decoder, or as an earlier pass kept them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use fisherflow_spectra::{CatalogueColumns, Shard, is_held_out};
use futures::FutureExt;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ParquetRecordBatchReader, RowFilter, RowSelectionPolicy,
};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::catalogue::decode::holdout_hashes;
use crate::catalogue::kept_spectra::{Chosen, Keeping, KeptSpectra};
use crate::catalogue::object::{damaged, leaves, stored_bytes};
use crate::objects::async_reader::ObjectReader;
use crate::objects::byte_budget::ByteBudget;
use crate::{Cause, StoreError};

/// A row group whose bytes are in memory.
pub(crate) struct RowGroup {
    pub shard: Shard,
    /// Rows that are wanted of it.
    pub n_rows: u64,
    reader: ObjectReader,
    rows: Rows,
}

enum Rows {
    Decoded {
        /// `None` where none is wanted.
        decoder: Option<Box<ParquetRecordBatchReader>>,
        keeping: Keeping,
        /// Of the bytes, until their decoding begins: then the next row group is read.
        permit: Option<OwnedSemaphorePermit>,
    },
    Kept {
        pieces: Arc<[RecordBatch]>,
        taken: usize,
    },
}

/// How the row groups of a catalogue are read.
pub(crate) struct RowGroups {
    pub columns: CatalogueColumns,
    /// Where given, of each only those rows that are in this held-out fraction.
    pub held_out: Option<f64>,
    /// Rows that are decoded at a time.
    pub at_once: usize,
    /// Of bytes that are read, and whose decoding has not begun.
    pub budget: ByteBudget,
    pub kept: Arc<KeptSpectra>,
}

impl RowGroups {
    /// A row group that an earlier pass kept.
    pub fn kept(&self, reader: &ObjectReader, shard: &Shard) -> Option<RowGroup> {
        let pieces = self.kept.get(&Chosen::new(shard, self.held_out))?;
        Some(RowGroup {
            shard: shard.clone(),
            n_rows: pieces.iter().map(|piece| piece.num_rows() as u64).sum(),
            reader: reader.clone(),
            rows: Rows::Kept { pieces, taken: 0 },
        })
    }

    /// Begins to read one once the budget has room for it.
    ///
    /// # Errors
    /// The object is not the one that was planned with.
    pub async fn begin(
        &self,
        reader: &ObjectReader,
        shard: Shard,
        footer: ArrowReaderMetadata,
    ) -> Result<JoinHandle<Result<RowGroup, StoreError>>, StoreError> {
        let Some(meta) = footer
            .metadata()
            .row_groups()
            .get(shard.row_group)
            .filter(|meta| meta.num_rows().unsigned_abs() == shard.n_rows)
        else {
            return Err(reader.replaced().await);
        };
        let mask = leaves(&footer, &self.columns.names());
        let permit = self
            .budget
            .take(stored_bytes(meta, &mask) as usize)
            .await
            .ok_or_else(|| StoreError::Stopped {
                object: shard.object.path.clone(),
            })?;
        let opening = Opening {
            reader: reader.clone(),
            mask,
            choice: self
                .held_out
                .map(|fraction| Choice::new(&self.columns, fraction, reader.object())),
            footer,
            at_once: self.at_once,
            keeping: self.kept.begin(Chosen::new(&shard, self.held_out)),
            permit,
        };
        Ok(tokio::spawn(async move {
            let of = shard.clone();
            let opened = AssertUnwindSafe(opening.open(shard)).catch_unwind().await;
            opened.unwrap_or_else(|_| Err(gave_up(&of)))
        }))
    }
}

/// What a row group is opened with.
struct Opening {
    reader: ObjectReader,
    mask: ProjectionMask,
    choice: Option<Choice>,
    footer: ArrowReaderMetadata,
    at_once: usize,
    keeping: Keeping,
    permit: OwnedSemaphorePermit,
}

impl Opening {
    /// Reads a row group; where rows are chosen, they are by then.
    async fn open(self, shard: Shard) -> Result<RowGroup, StoreError> {
        let reader = self.reader;
        let fail = |error| damaged(&reader, shard.row_group, error);
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), self.footer.clone())
            .with_row_groups(vec![shard.row_group])
            .with_projection(self.mask)
            .with_batch_size(self.at_once);
        if let Some(choice) = &self.choice {
            // A row is thousands of pixels: what is not wanted is passed over, never decoded and dropped.
            builder = builder
                .with_row_filter(choice.filter(&self.footer))
                .with_row_selection_policy(RowSelectionPolicy::Selectors);
        }
        let decoder = builder.build().map_err(fail)?.next_row_group().await.map_err(fail)?;
        let (seen, n_rows) = match &self.choice {
            Some(choice) => choice.seen(),
            None => (shard.n_rows, shard.n_rows),
        };
        if seen != shard.n_rows {
            let says = Cause::said(format!("{seen} of {} rows", shard.n_rows));
            return Err(bad_row_group(&shard, says));
        }
        if decoder.is_none() && n_rows > 0 {
            return Err(reader.replaced().await);
        }
        Ok(RowGroup {
            shard,
            n_rows,
            reader,
            rows: Rows::Decoded {
                decoder: decoder.map(Box::new),
                keeping: self.keeping,
                permit: Some(self.permit),
            },
        })
    }
}

impl RowGroup {
    /// The next rows.
    ///
    /// # Errors
    /// The bytes are damaged.
    pub fn next(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        let rows = self.rows.next();
        rows.map_err(|error| self.damaged(Cause::new(&error, self.reader.secrets())))
    }

    /// Keeps its rows for the passes after, where there was room: all of them have been taken, and are as the footer says.
    pub fn keep(self) {
        if let Rows::Decoded { keeping, .. } = self.rows {
            keeping.keep();
        }
    }

    /// The error of rows that are not as the footer says.
    pub fn damaged(&self, says: Cause) -> StoreError {
        bad_row_group(&self.shard, says)
    }
}

impl Rows {
    fn next(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        match self {
            Self::Kept { pieces, taken } => {
                *taken += 1;
                Ok(pieces.get(*taken - 1).cloned())
            }
            Self::Decoded {
                decoder,
                keeping,
                permit,
            } => {
                *permit = None;
                let rows = decoder.as_mut().and_then(Iterator::next).transpose()?;
                if let Some(rows) = &rows {
                    keeping.push(rows);
                }
                Ok(rows)
            }
        }
    }
}

/// Which rows of a row group are held out: by their keys, which are read before all else.
struct Choice {
    columns: CatalogueColumns,
    fraction: f64,
    object: String,
    /// Rows that were looked at, and chosen.
    counts: Arc<(AtomicU64, AtomicU64)>,
}

impl Choice {
    fn new(columns: &CatalogueColumns, fraction: f64, object: &str) -> Self {
        Self {
            columns: columns.clone(),
            fraction,
            object: object.to_owned(),
            counts: Arc::default(),
        }
    }

    fn filter(&self, footer: &ArrowReaderMetadata) -> RowFilter {
        let (columns, object, fraction) = (self.columns.clone(), self.object.clone(), self.fraction);
        let keys: Vec<&str> = std::iter::once(columns.id.as_str())
            .chain(columns.holdout_group.as_deref())
            .collect();
        let (mask, counts) = (leaves(footer, &keys), Arc::clone(&self.counts));
        RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, move |rows| {
            let hashes = holdout_hashes(&columns, &object, &rows)
                .map_err(|error| ArrowError::ExternalError(Box::new(ParquetError::External(Box::new(error)))))?;
            let chosen: BooleanArray = hashes.iter().map(|hash| Some(is_held_out(*hash, fraction))).collect();
            counts.0.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
            counts.1.fetch_add(chosen.true_count() as u64, Ordering::Relaxed);
            Ok(chosen)
        }))])
    }

    fn seen(&self) -> (u64, u64) {
        (
            self.counts.0.load(Ordering::Relaxed),
            self.counts.1.load(Ordering::Relaxed),
        )
    }
}

/// What comes of decoding rows of a row group.
///
/// # Errors
/// Those of `decode`; damaged bytes can make a decoder panic, and that is a fact about the file.
pub(crate) fn decoded<T>(shard: &Shard, decode: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(gave_up(shard)))
}

fn gave_up(shard: &Shard) -> StoreError {
    bad_row_group(shard, Cause::said("the decoder gave up"))
}

fn bad_row_group(shard: &Shard, says: Cause) -> StoreError {
    StoreError::BadRowGroup {
        object: shard.object.path.clone(),
        row_group: shard.row_group,
        source: says,
    }
}
