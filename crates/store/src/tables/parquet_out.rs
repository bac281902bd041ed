//! A Parquet file as it is written: row groups go out as they fill, and the file's SHA-256 is taken on the way.
//!
//! Rows are encoded and sent on a thread of the file's own, so that whoever writes goes on computing; one batch waits at most. What is encoded
//! is hashed on one more thread, beside the encoding of what comes next.
//!
//! Writer version 1 and zstd 1, which pandas, Spark, DuckDB and Polars all read. Floats in lists (spectra, Jacobians, rows of matrices) are
//! stored plain, without dictionary and statistics: zstd makes them 4 to 7 % smaller and writing them half as long again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::hex::hex;
use crate::objects::async_reader::store_error;
use crate::objects::failure::{Action, failed};
use crate::objects::location::{Location, Place};
use crate::objects::stores::start_waiter;
use crate::{Cause, StoreError, Stores};

/// Rows of a row group, at most.
const ROW_GROUP_ROWS: usize = 65_536;
/// Bytes of a row group, at most, about.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Bytes of a part of an upload; a smaller file is one request.
const PART: usize = 16 << 20;
/// Parts that are on their way at a time: more hold more memory, share a connection that may be slow, and on a disk wait for one another.
const UPLOADS: usize = 2;
/// How long the end of the process waits for an upload to be aborted.
const ABORT: std::time::Duration = std::time::Duration::from_secs(5);

/// Key-value metadata of a file: `fisherflow.version`, `fisherflow.run_id`, ...
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMetadata(
    /// Key to value.
    pub BTreeMap<String, String>,
);

/// A file of the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Relative to the output.
    pub path: String,
    /// Rows; 0 where it is no table.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Of its bytes, hexadecimal.
    pub sha256: String,
}

impl FileMetadata {
    /// With one more entry.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }
}

/// One Parquet file being written.
pub(crate) struct ParquetOut {
    stores: Stores,
    schema: SchemaRef,
    /// `None` once the encoder has ended.
    encoder: Option<(mpsc::Sender<Message>, Ending)>,
    digest: Arc<Mutex<Hashed>>,
    uri: String,
    path: String,
    rows: u64,
}

/// What comes of an encoder.
type Ending = oneshot::Receiver<Result<(), StoreError>>;

/// What the encoder is told; a channel that ends without an end means that the file is given up.
enum Message {
    Rows(RecordBatch),
    End(FileMetadata),
}

/// What encodes and sends a file's rows.
struct Encoder {
    stores: Stores,
    writer: AsyncArrowWriter<HashingWriter>,
    uri: String,
}

#[derive(Default)]
struct Hashed {
    hash: Sha256,
    bytes: u64,
}

/// Passes bytes on to the store and into the hash.
struct HashingWriter {
    upload: BufWriter,
    /// Whether its end has begun: then there is nothing left to abort, and `BufWriter` panics on whoever tries.
    ending: bool,
    digest: Arc<Mutex<Hashed>>,
    /// The hashing of what was written last.
    hashing: Option<JoinHandle<()>>,
    location: Location,
    secrets: Arc<Vec<String>>,
    endpoint: Option<String>,
}

impl ParquetOut {
    /// Begins `path` under `output`; nothing is visible before [`ParquetOut::finish`].
    pub fn create(
        stores: &Stores,
        output: &str,
        path: &str,
        schema: &SchemaRef,
        metadata: &FileMetadata,
    ) -> Result<Self, StoreError> {
        Self::create_in_row_groups(stores, output, path, schema, metadata, ROW_GROUP_BYTES)
    }

    /// The same in row groups of so many bytes, about.
    pub fn create_in_row_groups(
        stores: &Stores,
        output: &str,
        path: &str,
        schema: &SchemaRef,
        metadata: &FileMetadata,
        bytes: usize,
    ) -> Result<Self, StoreError> {
        let uri = format!("{output}/{path}");
        let writer = HashingWriter::new(stores, stores.locate(&uri)?);
        let digest = Arc::clone(&writer.digest);
        // Without the hint of the Arrow library: pyarrow then shows our metadata as the schema's.
        let options = ArrowWriterOptions::new()
            .with_properties(properties(schema, metadata, bytes))
            .with_skip_arrow_metadata(true);
        let writer = AsyncArrowWriter::try_new_with_options(writer, Arc::clone(schema), options)
            .map_err(|error| encode(stores, &uri, error))?;
        let encoder = Encoder {
            stores: stores.clone(),
            writer,
            uri: uri.clone(),
        };
        let (sender, messages) = mpsc::channel(1);
        let (said, result) = oneshot::channel();
        let encode = move || {
            // Nobody waits for what a file comes to whose writer is gone.
            let _ = said.send(encoder.run(messages));
        };
        start_waiter("fisherflow-enc", encode)?;
        Ok(Self {
            stores: stores.clone(),
            schema: Arc::clone(schema),
            encoder: Some((sender, result)),
            digest,
            uri,
            path: path.to_owned(),
            rows: 0,
        })
    }

    /// Where it will be.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Appends rows, column by column.
    pub fn write_columns(&mut self, columns: Vec<ArrayRef>) -> Result<(), StoreError> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| self.encoding(&error))?;
        self.write(&batch)
    }

    /// Rows that cannot be put into columns.
    pub fn encoding(&self, error: &ArrowError) -> StoreError {
        StoreError::Encode {
            uri: self.uri.clone(),
            source: self.stores.cause(error),
        }
    }

    /// Appends rows. An error may be that of rows before these.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        let Some((sender, _)) = &self.encoder else {
            return Err(self.ended());
        };
        if sender.blocking_send(Message::Rows(batch.clone())).is_err() {
            // The encoder has stopped, and says why.
            self.join()?;
            return Err(self.ended());
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Ends the file.
    pub fn finish(self) -> Result<WrittenFile, StoreError> {
        self.finish_with(FileMetadata::default())
    }

    /// The same with some more metadata.
    pub fn finish_with(mut self, more: FileMetadata) -> Result<WrittenFile, StoreError> {
        if let Some((sender, _)) = &self.encoder {
            // An encoder that has stopped says why when it is joined.
            let _ = sender.blocking_send(Message::End(more));
        }
        self.join()?;
        let mut digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(WrittenFile {
            path: self.path.clone(),
            rows: self.rows,
            bytes: digest.bytes,
            sha256: hex(&digest.hash.finalize_reset()),
        })
    }

    /// Waits for the encoder.
    fn join(&mut self) -> Result<(), StoreError> {
        let Some((sender, result)) = self.encoder.take() else {
            return Err(self.ended());
        };
        drop(sender);
        self.stores.block_on(result).unwrap_or_else(|_| {
            Err(StoreError::Encode {
                uri: self.uri.clone(),
                source: Cause::said("its encoder gave up"),
            })
        })
    }

    fn ended(&self) -> StoreError {
        StoreError::Encode {
            uri: self.uri.clone(),
            source: Cause::said("the file was ended before"),
        }
    }
}

impl Encoder {
    /// Until the end; a file that is not ended leaves nothing behind.
    fn run(mut self, mut messages: mpsc::Receiver<Message>) -> Result<(), StoreError> {
        let handle = self.stores.handle().clone();
        let mut failed = None;
        while let Some(message) = messages.blocking_recv() {
            let (done, ends) = match message {
                Message::Rows(batch) => (handle.block_on(self.writer.write(&batch)), false),
                Message::End(more) => {
                    for (key, value) in more.0 {
                        self.writer.append_key_value_metadata(KeyValue::new(key, value));
                    }
                    (handle.block_on(self.writer.finish()).map(drop), true)
                }
            };
            match done {
                Ok(()) if ends => return Ok(()),
                Ok(()) => {}
                Err(error) => {
                    failed = Some(encode(&self.stores, &self.uri, error));
                    break;
                }
            }
        }
        let mut inner = self.writer.into_inner();
        if !inner.ending
            && let Err(error) = handle.block_on(inner.upload.abort())
        {
            let error = self.stores.cause(&error);
            tracing::debug!(%error, "an upload could not be aborted");
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for ParquetOut {
    /// A file that was not ended leaves nothing behind. The process may be about to end, so its encoder is waited for; whether that was in
    /// time shows where the next run tidies up.
    fn drop(&mut self) {
        if let Some((sender, result)) = self.encoder.take() {
            drop(sender);
            let _ = self
                .stores
                .block_on(async { tokio::time::timeout(ABORT, result).await });
        }
    }
}

impl std::fmt::Debug for ParquetOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetOut")
            .field("uri", &self.uri)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl HashingWriter {
    fn new(stores: &Stores, location: Location) -> Self {
        Self {
            upload: BufWriter::with_capacity(Arc::clone(&location.store), location.path.clone(), PART)
                .with_max_concurrency(UPLOADS),
            ending: false,
            digest: Arc::default(),
            hashing: None,
            location,
            secrets: stores.secrets(),
            endpoint: stores.endpoint(),
        }
    }

    /// Passes bytes on. The upload waits for parts on their way between two pieces, not within one: on S3 a piece is no more than a part.
    async fn put(&mut self, mut bytes: Bytes) -> Result<(), object_store::Error> {
        let most = match self.location.place {
            Place::Local => bytes.len(),
            Place::S3 { .. } => PART,
        };
        while bytes.len() > most {
            self.upload.put(bytes.split_to(most)).await?;
        }
        self.upload.put(bytes).await
    }

    /// Waits until all that was written is hashed.
    async fn hashed(&mut self) -> parquet::errors::Result<()> {
        match self.hashing.take() {
            Some(hashing) => hashing.await.map_err(|error| ParquetError::External(Box::new(error))),
            None => Ok(()),
        }
    }

    fn failed(&self, error: object_store::Error) -> ParquetError {
        ParquetError::External(Box::new(failed(
            &self.location,
            Action::Write,
            error,
            &self.secrets,
            self.endpoint.as_deref(),
        )))
    }
}

impl AsyncFileWriter for HashingWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            self.hashed().await?;
            let (digest, hashed) = (Arc::clone(&self.digest), bytes.clone());
            self.hashing = Some(tokio::task::spawn_blocking(move || {
                let mut digest = digest.lock().unwrap_or_else(PoisonError::into_inner);
                digest.hash.update(&hashed);
                digest.bytes += hashed.len() as u64;
            }));
            let put = self.put(bytes).await;
            put.map_err(|error| self.failed(error))
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            self.hashed().await?;
            // The end sends what is left whether there is room or not: that is waited for here.
            let room = self.put(Bytes::new()).await;
            room.map_err(|error| self.failed(error))?;
            self.ending = true;
            let closed = close(&mut self.upload).await;
            closed.map_err(|error| self.failed(error))
        }
        .boxed()
    }
}

/// Ends an upload: what it wrote becomes visible.
pub(crate) async fn close(upload: &mut BufWriter) -> Result<(), object_store::Error> {
    let closed =
        std::future::poll_fn(|context| tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut *upload), context));
    closed.await.map_err(from_io)
}

/// The store's error out of the I/O error that carried it.
fn from_io(error: std::io::Error) -> object_store::Error {
    match error.downcast::<object_store::Error>() {
        Ok(error) => error,
        Err(error) => object_store::Error::Generic {
            store: "upload",
            source: Box::new(error),
        },
    }
}

fn encode(stores: &Stores, uri: &str, error: ParquetError) -> StoreError {
    store_error(error).unwrap_or_else(|error| StoreError::Encode {
        uri: uri.to_owned(),
        source: stores.cause(&error),
    })
}

fn properties(schema: &SchemaRef, metadata: &FileMetadata, row_group_bytes: usize) -> WriterProperties {
    let entries = metadata
        .0
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
        .collect();
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(concat!("fisherflow ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(row_group_bytes))
        .set_key_value_metadata(Some(entries));
    for field in schema.fields() {
        let mut path = Vec::new();
        float_leaves(field, &mut path, &mut |leaf, in_list| {
            let column = ColumnPath::new(leaf.to_vec());
            builder = std::mem::take(&mut builder).set_column_dictionary_enabled(column.clone(), false);
            if in_list {
                builder = std::mem::take(&mut builder)
                    .set_column_compression(column.clone(), Compression::UNCOMPRESSED)
                    .set_column_statistics_enabled(column, EnabledStatistics::None);
            }
        });
    }
    builder.build()
}

/// Calls `found` with the Parquet path of every column of floats.
fn float_leaves(field: &Field, path: &mut Vec<String>, found: &mut impl FnMut(&[String], bool)) {
    path.push(field.name().clone());
    match field.data_type() {
        t if t.is_floating() => found(path, path.len() > 1),
        DataType::List(element) | DataType::LargeList(element) => {
            path.push("list".to_owned());
            float_leaves(element, path, found);
            path.pop();
        }
        _ => {}
    }
    path.pop();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::StoreOptions;
    use crate::objects::memory::{Manner, Memory};

    #[test]
    fn no_more_parts_are_on_their_way_at_a_time_than_may_be() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let parts = Memory::bucket(&stores, "survey", Manner::Careful);
        let uri = "s3://survey/out/a.parquet";
        let mut writer = HashingWriter::new(&stores, stores.locate(uri).unwrap());
        // As a row group comes, whole, and what is left behind it.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            writer.write(Bytes::from(vec![0; 4 * PART])).await.unwrap();
            writer.write(Bytes::from_static(b"footer")).await.unwrap();
            writer.complete().await.unwrap();
        });
        assert_eq!(parts.most.load(Ordering::Relaxed), UPLOADS);
        assert_eq!(stores.read(uri).unwrap().len(), 4 * PART + 6);
    }
}
