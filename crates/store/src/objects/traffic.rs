//! What goes over the wire: every byte and request of the object stores, counted where it passes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use crate::objects::retries::Retries;
use crate::objects::upload_parts::PartEnds;

/// Bytes and requests since the stores were opened, over all of them.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    requests: AtomicU64,
    /// Attempts that failed and were made again.
    pub(crate) retries: Arc<Retries>,
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficCounts {
    /// Bytes that came, of the ranges asked for.
    pub bytes_read: u64,
    /// Bytes that went.
    pub bytes_written: u64,
    /// Reads, writes, listings, deletions and copies asked for, of an upload the start, each part as S3 has them and the end; what a client asks
    /// for again is not counted again.
    pub requests: u64,
    /// Requests that failed and were made again.
    pub retries: u64,
}

impl Traffic {
    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> TrafficCounts {
        TrafficCounts {
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            retries: self.retries.count(),
        }
    }

    fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    fn wrote(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A store whose traffic is counted.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    traffic: Arc<Traffic>,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, traffic: &Arc<Traffic>) -> Self {
        Self {
            inner,
            traffic: Arc::clone(traffic),
        }
    }
}

impl<S: ObjectStore> fmt::Display for Counted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Counted<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.traffic.asked();
        let bytes = payload.content_length();
        let put = self.inner.put_opts(location, payload, options).await?;
        self.traffic.wrote(bytes);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.traffic.asked();
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(CountedUpload {
            upload,
            parts: PartEnds::default(),
            traffic: Arc::clone(&self.traffic),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.traffic.asked();
        let head = options.head;
        let result = self.inner.get_opts(location, options).await?;
        if head {
            return Ok(result);
        }
        let payload = match result.payload {
            GetResultPayload::Stream(stream) => {
                let traffic = Arc::clone(&self.traffic);
                GetResultPayload::Stream(
                    stream
                        .inspect(move |bytes| {
                            if let Ok(bytes) = bytes {
                                traffic.read(bytes.len() as u64);
                            }
                        })
                        .boxed(),
                )
            }
            file @ GetResultPayload::File(..) => {
                self.traffic.read(result.range.end - result.range.start);
                file
            }
        };
        Ok(GetResult { payload, ..result })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.traffic.asked();
        let read = self.inner.get_ranges(location, ranges).await?;
        self.traffic.read(read.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(read)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.traffic.asked();
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.traffic.asked();
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.traffic.asked();
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.traffic.asked();
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.traffic.asked();
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.traffic.asked();
        self.inner.rename_opts(from, to, options).await
    }
}

/// An upload in parts whose traffic is counted.
#[derive(Debug)]
struct CountedUpload {
    upload: Box<dyn MultipartUpload>,
    parts: PartEnds,
    traffic: Arc<Traffic>,
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, piece: PutPayload) -> UploadPart {
        let (bytes, traffic) = (piece.content_length(), Arc::clone(&self.traffic));
        if self.parts.push(bytes) {
            traffic.asked();
        }
        let put = self.upload.put_part(piece);
        Box::pin(async move {
            put.await?;
            traffic.wrote(bytes);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if self.parts.rest() {
            self.traffic.asked();
        }
        self.traffic.asked();
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.traffic.asked();
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StoreOptions, Stores};

    /// An upload to nowhere.
    #[derive(Debug)]
    struct Nowhere;

    #[async_trait]
    impl MultipartUpload for Nowhere {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            Box::pin(std::future::ready(Ok(())))
        }

        async fn complete(&mut self) -> Result<PutResult> {
            Ok(PutResult {
                e_tag: None,
                version: None,
            })
        }

        async fn abort(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_that_go_in_one_part_are_one_request() {
        let traffic: Arc<Traffic> = Arc::default();
        let mut upload = CountedUpload {
            upload: Box::new(Nowhere),
            parts: PartEnds::default(),
            traffic: Arc::clone(&traffic),
        };
        let piece = Bytes::from(vec![0; 16 << 20]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // The first 2,000 are a part each; two, two, and what is left at the end.
            for _ in 0..2005 {
                upload.put_part(PutPayload::from(piece.clone())).await.unwrap();
            }
            upload.complete().await.unwrap();
        });
        let counts = traffic.counts();
        assert_eq!((counts.requests, counts.bytes_written), (2000 + 3 + 1, 2005 << 24));
    }

    #[test]
    fn bytes_are_counted_where_they_pass() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().join("x").to_str().unwrap().to_owned();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        stores.write(&uri, vec![7; 1000]).unwrap();
        assert_eq!(stores.read(&uri).unwrap().len(), 1000);
        assert!(stores.exists(&uri).unwrap());
        let counts = stores.traffic().counts();
        assert_eq!(
            (counts.bytes_written, counts.bytes_read),
            (1000, 1000),
            "a look is no read"
        );
        assert_eq!(counts.requests, 3);
    }
}
