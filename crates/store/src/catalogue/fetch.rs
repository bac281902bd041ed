//! Spectra ahead of their use: row groups are read on the I/O threads, decoded on a thread of their own, and handed over in order.
//!
//! Memory in flight is bounded twice: compressed row groups that are read ahead of the one being decoded, and decoded batches that wait. Each has half
//! of the prefetch budget; the one row group and the one batch that are needed next may exceed it.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use fisherflow_spectra::{BatchShape, CatalogueColumns, Shard, SpectrumBatch};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::file::metadata::PageIndexPolicy;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::catalogue::batches::decode_row_group;
use crate::catalogue::decode::Decoder;
use crate::catalogue::kept_spectra::KeptSpectra;
use crate::catalogue::row_group::RowGroups;
use crate::objects::async_reader::ObjectReader;
use crate::objects::byte_budget::ByteBudget;
use crate::objects::stores::start_waiter;
use crate::{ExcludeList, StoreError, Stores};

/// Bytes of a pixel in a batch: flux, variance, and whether it is good.
const PIXEL: usize = 2 * size_of::<f64>() + 1;
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
    /// Rows that earlier passes kept, and where these are kept.
    pub kept: Arc<KeptSpectra>,
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
    let n_row_groups = plan.shards.len();
    let waiting = ByteBudget::new(plan.prefetch_bytes / 2);
    let batch_rows = plan.batch_rows.max(1);
    let row_groups = RowGroups {
        columns: plan.columns.clone(),
        held_out: plan.held_out,
        at_once: (PIXELS_AT_ONCE / plan.shape.n_pixels.max(1)).clamp(1, batch_rows),
        budget: ByteBudget::new(plan.prefetch_bytes / 2),
        kept: plan.kept,
    };
    let decoder = Decoder {
        columns: plan.columns,
        row_schema: plan.row_schema,
        shape: plan.shape,
        excluded: plan.excluded,
    };
    // The permits bound what is read ahead; the channels only keep the order.
    let (reads, mut to_decode) = mpsc::unbounded_channel();
    handle.spawn(async move {
        let mut footer: Option<(ObjectReader, ArrowReaderMetadata)> = None;
        for (shard, reader) in readers {
            let read = match row_groups.kept(&reader, &shard) {
                Some(row_group) => Ok(tokio::spawn(std::future::ready(Ok(row_group)))),
                None => {
                    let read = async {
                        let known = match footer.take() {
                            Some((last, known)) if last.is_same(&reader) => known,
                            _ => reader.footer(PageIndexPolicy::Skip).await?,
                        };
                        footer = Some((reader.clone(), known.clone()));
                        row_groups.begin(&reader, shard, known).await
                    };
                    read.await
                }
            };
            let failed = read.is_err();
            if reads.send(read).is_err() || failed {
                return;
            }
        }
    });
    let (blocking, to_tell) = (handle, batches.clone());
    let decode = move || {
        for _ in 0..n_row_groups {
            let row_group = to_decode.blocking_recv().unwrap_or_else(|| Err(reading_stopped()));
            let row_group = row_group.and_then(|pending: tokio::task::JoinHandle<_>| {
                blocking.block_on(pending).unwrap_or_else(|_| Err(reading_stopped()))
            });
            let sent = row_group.and_then(|row_group| {
                decode_row_group(
                    row_group,
                    &decoder,
                    batch_rows,
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
    };
    if let Err(error) = start_waiter("fisherflow-dec", decode) {
        let _ = to_tell.send(Message::Failed(error));
    }
}

fn reading_stopped() -> StoreError {
    StoreError::Stopped {
        object: "a row group".to_owned(),
    }
}
