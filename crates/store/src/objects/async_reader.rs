//! Byte ranges of one version of one object, for the Parquet decoder.
//!
//! The size comes from the listing, so that every request is bounded. Where the listing gave an etag each request carries it, and a file
//! on a disk (whose etag is inode, time of change and size) is looked at again after each read: an object that was replaced in between is
//! an error, never a mixture.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fisherflow_spectra::ObjectVersion;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::{GetOptions, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use crate::objects::failure::{Action, failed};
use crate::objects::int96::in_microseconds;
use crate::objects::location::{Location, Place};
use crate::objects::stores::version;
use crate::{Cause, StoreError, Stores};

/// Ranges nearer to each other than this are read in one request.
const GAP: u64 = 1 << 20;
/// A range longer than this is read in several requests: a usual row group is one, of which some are under way at a time. Requests cost, and a
/// read that is cut goes on where it was.
const PIECE: u64 = 64 << 20;
/// Requests at a time for one row group.
const PARALLEL: usize = 8;
/// Bytes read from the end of an object at first, in the hope that they hold the footer.
const FOOTER: usize = 64 << 10;

/// Reads one version of one object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectReader {
    location: Location,
    version: ObjectVersion,
    secrets: Arc<Vec<String>>,
    /// Of S3, for messages.
    endpoint: Option<String>,
}

impl ObjectReader {
    pub fn new(stores: &Stores, version: ObjectVersion) -> Result<Self, StoreError> {
        Ok(Self {
            location: stores.locate(&version.path)?,
            version,
            secrets: stores.secrets(),
            endpoint: stores.endpoint(),
        })
    }

    pub fn object(&self) -> &str {
        &self.version.path
    }

    /// Whether both read the same version of the same object.
    pub fn is_same(&self, other: &ObjectReader) -> bool {
        self.version == other.version
    }

    pub fn secrets(&self) -> &[String] {
        &self.secrets
    }

    async fn range(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let options = GetOptions::new()
            .with_range(Some(range.clone()))
            .with_if_match(self.version.etag.clone());
        let result = match self.location.store.get_opts(&self.location.path, options).await {
            Ok(object) => object.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }) => {
                return Err(self.replaced().await);
            }
            // A file that is written over while it is read ends early.
            Err(_) if self.is_another_file().await => return Err(self.replaced().await),
            Err(error) => return Err(self.failed(error)),
        };
        // A store without etags: shorter than it was listed. A file: its etag was looked at before it was read, and is again.
        if bytes.len() as u64 != range.end - range.start
            || (self.location.place == Place::Local && self.found().await?.as_ref() != Some(&self.version))
        {
            return Err(self.replaced().await);
        }
        Ok(bytes)
    }

    /// Whether a file is known to be no longer the one that was planned with.
    async fn is_another_file(&self) -> bool {
        self.location.place == Place::Local
            && matches!(self.found().await, Ok(found) if found.as_ref() != Some(&self.version))
    }

    /// What stands there now; `None` where nothing does.
    async fn found(&self) -> Result<Option<ObjectVersion>, StoreError> {
        match self.location.store.head(&self.location.path).await {
            Ok(meta) => Ok(Some(version(&self.location.place, &meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The error of an object that is no longer the one that was planned with.
    pub async fn replaced(&self) -> StoreError {
        StoreError::Replaced {
            object: self.version.path.clone(),
            planned: in_words(&self.version),
            found: match self.found().await {
                Ok(Some(found)) => in_words(&found),
                Ok(None) => "nothing".to_owned(),
                Err(_) => "another version".to_owned(),
            },
        }
    }

    fn failed(&self, error: object_store::Error) -> StoreError {
        failed(
            &self.location,
            Action::Read,
            error,
            &self.secrets,
            self.endpoint.as_deref(),
        )
    }

    async fn ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        self.ranges_by(self.piece(), ranges).await
    }

    /// The bytes of ranges, by requests of at most `piece` bytes.
    async fn ranges_by(&self, piece: u64, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let spans = merged(ranges);
        let pieces: Vec<(usize, Range<u64>)> = spans
            .iter()
            .enumerate()
            .flat_map(|(span, range)| split(range, piece).map(move |piece| (span, piece)))
            .collect();
        let mut read = futures::stream::iter(pieces)
            .map(|(span, piece)| async move { self.range(piece).await.map(|bytes| (span, bytes)) })
            .buffered(PARALLEL);
        let mut whole: Vec<Bytes> = vec![Bytes::new(); spans.len()];
        let mut joined = BytesMut::new();
        while let Some((span, bytes)) = read.try_next().await? {
            let wanted = (spans[span].end - spans[span].start) as usize;
            if bytes.len() == wanted {
                whole[span] = bytes;
                continue;
            }
            // Put together as they come, in order: no more than one piece is in memory twice.
            joined.reserve(wanted - joined.len());
            joined.extend_from_slice(&bytes);
            if joined.len() == wanted {
                whole[span] = std::mem::take(&mut joined).freeze();
            }
        }
        Ok(ranges
            .iter()
            .map(|range| {
                let at = spans.partition_point(|span| span.start <= range.start) - 1;
                let start = (range.start - spans[at].start) as usize;
                whole[at].slice(start..start + (range.end - range.start) as usize)
            })
            .collect())
    }

    /// Bytes of one request, at most. A disk has no requests, and what it gives in one piece need not be put together.
    fn piece(&self) -> u64 {
        match self.location.place {
            Place::Local => u64::MAX,
            _ => PIECE,
        }
    }

    /// The footer, and the schema it states without the hints of the Arrow library that wrote it: lists are lists, strings are strings.
    pub async fn footer(&self, offsets: PageIndexPolicy) -> Result<ArrowReaderMetadata, StoreError> {
        if self.version.size == 0 {
            return Err(StoreError::EmptyObject {
                object: self.version.path.clone(),
            });
        }
        // Damaged bytes can make the decoder panic, and that is a fact about the file.
        let decoded = AssertUnwindSafe(self.decoded_footer(offsets)).catch_unwind().await;
        match decoded.unwrap_or_else(|_| Err(ParquetError::General("the decoder gave up".to_owned()))) {
            Ok(footer) => self.check_places(footer.metadata()).map(|()| footer),
            Err(error) => Err(self.diagnosed(error).await),
        }
    }

    async fn decoded_footer(&self, offsets: PageIndexPolicy) -> parquet::errors::Result<ArrowReaderMetadata> {
        let mut reader = self.clone();
        let footer = ParquetMetaDataReader::new()
            .with_prefetch_hint(Some(FOOTER))
            .with_page_index_policy(offsets)
            .load_and_finish(&mut reader, self.version.size)
            .await?;
        let footer = Arc::new(footer);
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let read = ArrowReaderMetadata::try_new(Arc::clone(&footer), options)?;
        match in_microseconds(read.parquet_schema(), read.schema()) {
            None => Ok(read),
            Some(schema) => ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new().with_schema(schema)),
        }
    }

    /// Refuses a footer by which a column lies where the object has no bytes: the decoder would panic.
    fn check_places(&self, footer: &ParquetMetaData) -> Result<(), StoreError> {
        for (row_group, group) in footer.row_groups().iter().enumerate() {
            for column in group.columns() {
                let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
                let bytes = column.compressed_size();
                let end = u64::try_from(start).ok().zip(u64::try_from(bytes).ok());
                let end = end.and_then(|(start, bytes)| start.checked_add(bytes));
                if end.is_none_or(|end| end > self.version.size) {
                    let said = format!(
                        "its footer has {bytes} bytes of column \"{}\" at {start}, in a file of {} bytes",
                        column.column_path().string(),
                        self.version.size
                    );
                    return Err(StoreError::BadRowGroup {
                        object: self.version.path.clone(),
                        row_group,
                        source: Cause::said(said),
                    });
                }
            }
        }
        Ok(())
    }

    /// Refuses bytes that the object does not have: what asks for them is damaged, and nothing was replaced.
    fn check_ranges(&self, ranges: &[Range<u64>]) -> parquet::errors::Result<()> {
        let size = self.version.size;
        match ranges.iter().find(|range| range.start > range.end || range.end > size) {
            None => Ok(()),
            Some(range) => Err(ParquetError::EOF(format!(
                "it asks for the bytes {} to {} of a file of {size}",
                range.start, range.end
            ))),
        }
    }

    /// Why a footer cannot be read.
    async fn diagnosed(&self, error: ParquetError) -> StoreError {
        let cause = match store_error(error) {
            Ok(error) => return error,
            Err(error) => Cause::new(&error, &self.secrets),
        };
        let size = self.version.size;
        let ends = [0..size.min(4), size.saturating_sub(4)..size];
        match self.ranges(&ends).await {
            Ok(ends) if ends[0].as_ref() == b"PAR1" || ends[1].as_ref() == b"PAR1" => StoreError::Truncated {
                object: self.version.path.clone(),
                source: Some(cause),
            },
            Ok(_) => StoreError::NotParquet {
                object: self.version.path.clone(),
            },
            Err(error) => error,
        }
    }
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            let ranges = [range];
            self.check_ranges(&ranges)?;
            let bytes = self.ranges(&ranges).await.map_err(external)?;
            Ok(bytes.into_iter().next().unwrap_or_default())
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            self.check_ranges(&ranges)?;
            self.ranges(&ranges).await.map_err(external)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let footer = self.footer(PageIndexPolicy::Skip).await.map_err(external)?;
            Ok(Arc::clone(footer.metadata()))
        }
        .boxed()
    }
}

/// Size and etag.
fn in_words(version: &ObjectVersion) -> String {
    match &version.etag {
        Some(etag) => format!("{} bytes, etag {}", version.size, etag.trim_matches('"')),
        None => format!("{} bytes", version.size),
    }
}

fn external(error: StoreError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// Our own error out of the decoder's, where the decoder only passed it on.
pub(crate) fn store_error(error: ParquetError) -> Result<StoreError, ParquetError> {
    match error {
        ParquetError::External(source) => match source.downcast::<StoreError>() {
            Ok(error) => Ok(*error),
            Err(source) => match source.downcast::<ParquetError>() {
                Ok(inner) => store_error(*inner),
                Err(source) => Err(ParquetError::External(source)),
            },
        },
        other => Err(other),
    }
}

/// Sorted spans that cover the ranges, those near each other in one.
fn merged(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.to_vec();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut spans: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match spans.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP) => {
                last.end = last.end.max(range.end);
            }
            _ => spans.push(range),
        }
    }
    spans
}

/// A range in pieces of so many bytes.
fn split(range: &Range<u64>, piece: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = range.end;
    std::iter::successors((range.start < end).then_some(range.start), move |start| {
        start.checked_add(piece).filter(|start| *start < end)
    })
    .map(move |start| start..start.saturating_add(piece).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_read_together() {
        let far = 10 * GAP;
        assert_eq!(merged(&[far..far + 5, 0..10, 20..30]), [0..30, far..far + 5]);
        let pieces: Vec<_> = split(&(5..5 + 2 * PIECE + 1), PIECE).collect();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[2], 5 + 2 * PIECE..6 + 2 * PIECE);
    }

    #[test]
    fn bytes_behind_the_end_are_a_fault_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let uri = directory.path().join("x").to_str().unwrap().to_owned();
        let stores = Stores::new(crate::StoreOptions::default(), 2).unwrap();
        stores.write(&uri, vec![0; 40]).unwrap();
        let version = stores.head(&uri).unwrap().unwrap();
        let mut reader = ObjectReader::new(&stores, version).unwrap();
        for range in [30..41, u64::MAX - 1..u64::MAX] {
            let error = stores.block_on(reader.get_bytes(range.clone())).unwrap_err();
            assert!(matches!(error, ParquetError::EOF(_)), "{error}");
            let error = stores.block_on(reader.get_byte_ranges(vec![0..4, range])).unwrap_err();
            assert!(error.to_string().contains("of a file of 40"), "{error}");
        }
        assert_eq!(stores.block_on(reader.get_bytes(30..40)).unwrap().len(), 10);
    }

    #[test]
    fn ranges_come_back_in_the_order_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let uri = directory.path().join("x").to_str().unwrap().to_owned();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let stores = Stores::new(crate::StoreOptions::default(), 2).unwrap();
        stores.write(&uri, bytes.clone()).unwrap();
        let version = stores.head(&uri).unwrap().unwrap();
        let reader = ObjectReader::new(&stores, version).unwrap();
        let ranges = [2_999_990..3_000_000, 0..7, 5..9, 1_100_000..1_900_000];
        for piece in [u64::MAX, 300_000, 800_000] {
            let read = stores.block_on(reader.ranges_by(piece, &ranges)).unwrap();
            for (range, read) in ranges.iter().zip(read) {
                assert_eq!(read, bytes[range.start as usize..range.end as usize]);
            }
        }
    }
}
