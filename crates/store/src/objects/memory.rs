//! A bucket in memory, for tests: with the manners of some stores, and a count of the parts on their way to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use crate::Stores;

/// What a store makes of a conditional write, or of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Careful,
    /// It takes every write.
    Careless,
    /// Its answer gets lost, however often it is asked for.
    Unheard,
    /// As careful; its listings fail behind what is there.
    Unlisted,
    /// As careful; it deletes nothing, and repeats the credentials of who asks.
    Undeleted,
}

/// A store in memory.
#[derive(Debug)]
pub(crate) struct Memory {
    inner: InMemory,
    manner: Manner,
    parts: Arc<Parts>,
}

/// Parts of uploads that are on their way, and were at a time, at most.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    now: AtomicUsize,
    pub most: AtomicUsize,
}

/// An upload whose parts are counted.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    parts: Arc<Parts>,
}

impl Memory {
    /// A bucket of these stores.
    pub fn bucket(stores: &Stores, name: &str, manner: Manner) -> Arc<Parts> {
        let parts: Arc<Parts> = Arc::default();
        let store: Arc<dyn ObjectStore> = Arc::new(Self {
            inner: InMemory::new(),
            manner,
            parts: Arc::clone(&parts),
        });
        stores.inner.s3.lock().unwrap().insert(name.to_owned(), store);
        parts
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let (put, parts) = (self.inner.put_part(part), Arc::clone(&self.parts));
        let now = parts.now.fetch_add(1, Ordering::Relaxed) + 1;
        parts.most.fetch_max(now, Ordering::Relaxed);
        Box::pin(async move {
            tokio::task::yield_now().await;
            let put = put.await;
            parts.now.fetch_sub(1, Ordering::Relaxed);
            put
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl ObjectStore for Memory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let is_unheard = self.manner == Manner::Unheard && options.mode == PutMode::Create;
        let options = match self.manner {
            Manner::Careless => PutOptions::default(),
            Manner::Careful | Manner::Unheard | Manner::Unlisted | Manner::Undeleted => options,
        };
        let put = self.inner.put_opts(location, payload, options).await?;
        match is_unheard {
            true => Err(lost("the answer is lost")),
            false => Ok(put),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload {
            inner: self.inner.put_multipart_opts(location, options).await?,
            parts: Arc::clone(&self.parts),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.manner != Manner::Undeleted {
            return self.inner.delete_stream(locations);
        }
        let refused = |_| Err(lost("<Code>InvalidToken</Code><Token-0>FwoG</Token-0>"));
        locations.map(refused).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.inner.list(prefix);
        if self.manner != Manner::Unlisted {
            return listed;
        }
        listed.chain(stream::iter([Err(lost("the rest is lost"))])).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn lost(what: &'static str) -> Error {
    Error::Generic {
        store: "memory",
        source: what.into(),
    }
}
