//! Spectra ahead of their use: row groups are read on the I/O threads, decoded on a thread of their own, and handed over in order.
//!
//! Memory in flight is bounded twice: compressed row groups that are read ahead, and decoded batches that wait. Each has half of the
//! prefetch budget; the one row group and the one batch that are needed next may exceed it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use fisherflow_spectra::{BatchShape, CatalogueColumns, Shard, SpectrumBatch, is_held_out};
use futures::FutureExt;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ParquetRecordBatchReader, RowFilter, RowSelectionPolicy,
};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::async_reader::ObjectReader;
use crate::catalogue_object::{damaged, leaves};
use crate::decode::{Decoder, holdout_hashes};
use crate::error::Cause;
use crate::{ExcludeList, StoreError, Stores};

/// A permit stands for this many bytes.
const PERMIT: usize = 1 << 10;
/// Bytes of a pixel in a batch: flux, variance, and whether it is good.
const PIXEL: usize = 2 * size_of::<f64>() + 1;
/// What is said of bytes that the decoder panics on.
const GAVE_UP: &str = "the decoder gave up";
/// Pixels that are decoded at a time: what they become on the way stays in a core's own cache.
const PIXELS_AT_ONCE: usize = 1 << 16;

/// What to fetch.
pub(crate) struct FetchPlan {
    pub stores: Stores,
    pub columns: CatalogueColumns,
    pub row_schema: SchemaRef,
    pub shape: BatchShape,
    pub excluded: Option<Arc<ExcludeList>>,
    pub shards: Vec<Shard>,
    /// Where given, of each row group only those rows that are in this held-out fraction.
    pub held_out: Option<f64>,
    pub batch_rows: usize,
    pub prefetch_bytes: usize,
}

/// The batches of a group, in order; the calling thread blocks until the next one is decoded. Dropping it stops the reading.
#[derive(Debug)]
pub struct Fetch {
    receiver: mpsc::UnboundedReceiver<Message>,
    /// Keeps the I/O threads.
    _stores: Stores,
    /// Of the last message, for the error of a reader that died.
    object: String,
    done: bool,
}

#[derive(Debug)]
enum Message {
    Batch(Box<SpectrumBatch>, OwnedSemaphorePermit),
    Failed(StoreError),
    Done,
}

/// A row group that is read and not yet decoded.
struct RowGroup {
    reader: ObjectReader,
    shard: Shard,
    /// `None` where none of its rows is wanted.
    decoder: Option<ParquetRecordBatchReader>,
    /// How many are.
    n_rows: u64,
    _permit: OwnedSemaphorePermit,
}

impl Iterator for Fetch {
    type Item = Result<SpectrumBatch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.receiver.blocking_recv() {
            Some(Message::Batch(batch, permit)) => {
                drop(permit);
                self.object.clone_from(&batch.shard.object.path);
                Some(Ok(*batch))
            }
            Some(Message::Failed(error)) => {
                self.done = true;
                Some(Err(error))
            }
            Some(Message::Done) => {
                self.done = true;
                None
            }
            None => {
                self.done = true;
                Some(Err(StoreError::Stopped {
                    object: self.object.clone(),
                }))
            }
        }
    }
}

impl Fetch {
    pub(crate) fn start(plan: FetchPlan) -> Self {
        let (batches, receiver) = mpsc::unbounded_channel();
        let object = plan
            .shards
            .first()
            .map_or_else(String::new, |shard| shard.object.path.clone());
        let readers: Result<Vec<_>, StoreError> = plan
            .shards
            .iter()
            .map(|shard| ObjectReader::new(&plan.stores, shard.object.clone()).map(|reader| (shard.clone(), reader)))
            .collect();
        let stores = plan.stores.clone();
        match readers {
            Ok(readers) => spawn(plan, readers, batches),
            Err(error) => {
                // Nobody but us holds the receiver, so this arrives.
                let _ = batches.send(Message::Failed(error));
            }
        }
        Self {
            receiver,
            _stores: stores,
            object,
            done: false,
        }
    }
}

fn spawn(plan: FetchPlan, readers: Vec<(Shard, ObjectReader)>, batches: mpsc::UnboundedSender<Message>) {
    let handle = plan.stores.handle().clone();
    let row_groups = Budget::new(plan.prefetch_bytes / 2);
    let waiting = Budget::new(plan.prefetch_bytes / 2);
    let rows = Rows {
        of_batch: plan.batch_rows.max(1),
        at_once: (PIXELS_AT_ONCE / plan.shape.n_pixels.max(1)).clamp(1, plan.batch_rows.max(1)),
    };
    let decoder = Decoder {
        columns: plan.columns,
        row_schema: plan.row_schema,
        shape: plan.shape,
        excluded: plan.excluded,
    };
    let (columns, held_out) = (decoder.columns.clone(), plan.held_out);
    // The permits bound what is read ahead; the channels only keep the order.
    let (reads, mut to_decode) = mpsc::unbounded_channel();
    handle.spawn(async move {
        let mut footer: Option<(ObjectReader, ArrowReaderMetadata)> = None;
        for (shard, reader) in readers {
            let read = async {
                let known = match footer.take() {
                    Some((last, known)) if last.is_same(&reader) => known,
                    _ => reader.footer(PageIndexPolicy::Skip).await?,
                };
                footer = Some((reader.clone(), known.clone()));
                start_row_group(&reader, shard, (&columns, held_out), known, rows.at_once, &row_groups).await
            };
            let read = read.await;
            let failed = read.is_err();
            if reads.send(read).is_err() || failed {
                return;
            }
        }
    });
    let blocking = handle.clone();
    handle.spawn_blocking(move || {
        while let Some(row_group) = to_decode.blocking_recv() {
            let row_group = row_group.and_then(|pending: tokio::task::JoinHandle<_>| {
                blocking.block_on(pending).unwrap_or_else(|_| {
                    Err(StoreError::Stopped {
                        object: "a row group".to_owned(),
                    })
                })
            });
            let sent = row_group.and_then(|row_group| {
                decode_row_group(
                    row_group,
                    &decoder,
                    rows.of_batch,
                    // A batch has its room before it is made.
                    |n_rows| blocking.block_on(waiting.take(n_rows * decoder.shape.n_pixels * PIXEL)),
                    |batch, room| batches.send(Message::Batch(Box::new(batch), room)).ok(),
                )
            });
            match sent {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let _ = batches.send(Message::Failed(error));
                    return;
                }
            }
        }
        let _ = batches.send(Message::Done);
    });
}

/// How rows come.
#[derive(Clone, Copy)]
struct Rows {
    of_batch: usize,
    /// Out of the Parquet decoder.
    at_once: usize,
}

/// Begins to read a row group once the budget has room for it.
async fn start_row_group(
    reader: &ObjectReader,
    shard: Shard,
    (columns, held_out): (&CatalogueColumns, Option<f64>),
    footer: ArrowReaderMetadata,
    rows_at_once: usize,
    budget: &Budget,
) -> Result<tokio::task::JoinHandle<Result<RowGroup, StoreError>>, StoreError> {
    let Some(meta) = footer
        .metadata()
        .row_groups()
        .get(shard.row_group)
        .filter(|meta| meta.num_rows().unsigned_abs() == shard.n_rows)
    else {
        return Err(reader.replaced().await);
    };
    let mask = leaves(&footer, &columns.names());
    let bytes: u64 = meta
        .columns()
        .iter()
        .enumerate()
        .filter(|(leaf, _)| mask.leaf_included(*leaf))
        .map(|(_, column)| column.compressed_size().unsigned_abs())
        .sum();
    let permit = budget.take(bytes as usize).await.ok_or_else(|| StoreError::Stopped {
        object: shard.object.path.clone(),
    })?;
    let reader = reader.clone();
    let choice = held_out.map(|fraction| Choice::new(columns, fraction, reader.object()));
    Ok(tokio::spawn(async move {
        let of = shard.clone();
        let opened = open_row_group(reader, shard, mask, choice, footer, rows_at_once, permit);
        // Damaged bytes can make the decoder panic; that is a fact about the file.
        let opened = AssertUnwindSafe(opened).catch_unwind().await;
        opened.unwrap_or_else(|_| Err(bad_row_group(&of, Cause::said(GAVE_UP))))
    }))
}

/// Reads a row group; of `choice`, its rows are chosen by then.
async fn open_row_group(
    reader: ObjectReader,
    shard: Shard,
    mask: ProjectionMask,
    choice: Option<Choice>,
    footer: ArrowReaderMetadata,
    rows_at_once: usize,
    permit: OwnedSemaphorePermit,
) -> Result<RowGroup, StoreError> {
    let row_group = shard.row_group;
    let fail = |error| damaged(&reader, row_group, error);
    let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), footer.clone())
        .with_row_groups(vec![row_group])
        .with_projection(mask)
        .with_batch_size(rows_at_once);
    if let Some(choice) = &choice {
        // A row is thousands of pixels: what is not wanted is passed over, never decoded and dropped.
        builder = builder
            .with_row_filter(choice.filter(&footer))
            .with_row_selection_policy(RowSelectionPolicy::Selectors);
    }
    let decoder = builder.build().map_err(fail)?.next_row_group().await.map_err(fail)?;
    let (seen, n_rows) = match &choice {
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
        reader,
        shard,
        decoder,
        n_rows,
        _permit: permit,
    })
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

fn bad_row_group(shard: &Shard, says: Cause) -> StoreError {
    StoreError::BadRowGroup {
        object: shard.object.path.clone(),
        row_group: shard.row_group,
        source: says,
    }
}

/// Bytes that may be in flight.
#[derive(Clone)]
struct Budget {
    semaphore: Arc<Semaphore>,
    permits: usize,
}

impl Budget {
    fn new(bytes: usize) -> Self {
        let permits = (bytes / PERMIT).clamp(1, u32::MAX as usize / 2);
        Self {
            semaphore: Arc::new(Semaphore::new(permits)),
            permits,
        }
    }

    /// Waits for room; what is larger than the whole budget waits for all of it.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = (bytes / PERMIT).clamp(1, self.permits) as u32;
        Arc::clone(&self.semaphore).acquire_many_owned(permits).await.ok()
    }
}

/// Decodes a row group batch by batch, each once there is `room` for so many rows; `Ok(false)` where nobody takes them any more.
fn decode_row_group(
    row_group: RowGroup,
    decoder: &Decoder,
    batch_rows: usize,
    mut room: impl FnMut(usize) -> Option<OwnedSemaphorePermit>,
    mut send: impl FnMut(SpectrumBatch, OwnedSemaphorePermit) -> Option<()>,
) -> Result<bool, StoreError> {
    let n_rows = row_group.n_rows;
    let mut first_row = 0;
    let mut pieces = Pieces { row_group, rest: None };
    while first_row < n_rows {
        let wanted = usize::try_from(n_rows - first_row).map_or(batch_rows, |left| left.min(batch_rows));
        let Some(room) = room(wanted) else { return Ok(false) };
        // Damaged bytes can make the decoder panic; that is a fact about the file.
        let batch = std::panic::catch_unwind(AssertUnwindSafe(|| pieces.batch(decoder, first_row, wanted)))
            .unwrap_or_else(|_| Err(pieces.damaged(Cause::said(GAVE_UP))))?;
        let found = batch.n_rows();
        if found < wanted {
            let found = first_row + found as u64;
            return Err(pieces.damaged(Cause::said(format!("{found} of {n_rows} rows"))));
        }
        first_row += found as u64;
        if send(batch, room).is_none() {
            return Ok(false);
        }
    }
    // No row is left out either: pages may hold more than the footer says.
    match std::panic::catch_unwind(AssertUnwindSafe(|| pieces.have_more())) {
        Ok(false) => Ok(true),
        _ => Err(pieces.damaged(Cause::said(format!("more than {n_rows} rows")))),
    }
}

/// What comes out of the Parquet decoder, some rows at a time.
struct Pieces {
    row_group: RowGroup,
    /// Rows that were decoded with the batch before.
    rest: Option<RecordBatch>,
}

impl Pieces {
    /// The next `wanted` rows, or as many as there are.
    fn batch(&mut self, decoder: &Decoder, first_row: u64, wanted: usize) -> Result<SpectrumBatch, StoreError> {
        let mut decoding = decoder.begin(wanted);
        let mut missing = wanted;
        while missing > 0 {
            let piece = match self.rest.take() {
                Some(rest) => rest,
                None => match self.next() {
                    Some(piece) => {
                        piece.map_err(|error| self.damaged(Cause::new(&error, self.row_group.reader.secrets())))?
                    }
                    None => break,
                },
            };
            let n = missing.min(piece.num_rows());
            decoder.push(&mut decoding, &self.row_group.shard.object.path, &piece.slice(0, n))?;
            if n < piece.num_rows() {
                self.rest = Some(piece.slice(n, piece.num_rows() - n));
            }
            missing -= n;
        }
        decoder.finish(decoding, &self.row_group.shard, first_row)
    }

    fn have_more(&mut self) -> bool {
        self.rest.is_some() || self.next().is_some()
    }

    fn next(&mut self) -> Option<Result<RecordBatch, ArrowError>> {
        self.row_group.decoder.as_mut()?.next()
    }

    fn damaged(&self, says: Cause) -> StoreError {
        bad_row_group(&self.row_group.shard, says)
    }
}
