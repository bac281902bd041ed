//! A bucket behind patience: every request is made again while that can help, and a read goes on where it was cut off.
//!
//! The client itself does not retry. So each attempt is signed anew (credentials may have been renewed), is counted and logged, and what is
//! retried does not depend on the request's verb: all of ours may be repeated. A conditional creation that is repeated may meet its own
//! object; [`crate::Stores::create_once`] looks. A read is of one version: what goes on after a cut states the etag it began with.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::objects::credentials::Credentials;
use crate::objects::patience::{Attempts, Patience};
use crate::objects::patient_upload::PatientUpload;
use crate::objects::retries::{Request, Retries};
use crate::objects::verdict::{Verdict, status, verdict};

/// Deletions at a time.
const DELETIONS: usize = 10;

/// A bucket behind patience.
#[derive(Clone, Debug)]
pub(crate) struct Patient {
    pub link: Arc<Link>,
}

/// Among the extensions of a read: it is made once, for patience is spent already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Once;

/// What all requests to a bucket share.
#[derive(Debug)]
pub(crate) struct Link {
    pub s3: AmazonS3,
    pub bucket: String,
    pub patience: Patience,
    pub credentials: Arc<Credentials>,
    pub retries: Arc<Retries>,
    pub secrets: Arc<Vec<String>>,
}

/// The end of patience, or of the credentials; goes through `object_store` as the source of its error.
#[derive(Debug, thiserror::Error)]
#[error("{last}")]
pub(crate) struct GivenUp {
    pub attempts: usize,
    pub elapsed: Duration,
    /// The key of `[store]` that allows no more of them.
    pub limit: &'static str,
    /// Bytes that were asked for.
    pub range: Option<Range<u64>>,
    /// Where the credentials came from, where it is they that ended.
    pub expired: Option<String>,
    pub last: Error,
}

impl Link {
    /// Makes a request until it succeeds, or trying again cannot help any more.
    pub async fn attempt<T, F>(&self, request: &Request<'_>, send: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.attempt_on(request, &mut Attempts::new(), send).await
    }

    /// The same after attempts that were made before.
    async fn attempt_on<T, F>(
        &self,
        request: &Request<'_>,
        attempts: &mut Attempts,
        mut send: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            let began = Instant::now();
            match send().await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.pause(request, attempts, began, error).await?,
            }
        }
    }

    /// The error of a HEAD, whose answer has no body to say why: where it was refused, what a GET of a byte is told.
    async fn explained(&self, path: &Path, error: Error) -> Error {
        if verdict(&error) != Verdict::Refused && status(&error) != Some(400) {
            return error;
        }
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(0..1)));
        self.s3.get_opts(path, options).await.err().unwrap_or(error)
    }

    /// Waits for the next attempt; the error, where there is to be none.
    pub async fn pause(
        &self,
        request: &Request<'_>,
        attempts: &mut Attempts,
        began: Instant,
        error: Error,
    ) -> Result<()> {
        let mut given_up = GivenUp {
            attempts: attempts.failed() + 1,
            elapsed: attempts.elapsed(),
            limit: attempts.limit(&self.patience),
            range: request.range.clone(),
            expired: None,
            last: error,
        };
        match verdict(&given_up.last) {
            Verdict::Final => return Err(given_up.last),
            Verdict::Again => {}
            Verdict::Expired => {
                if !self.credentials.renew(began) {
                    given_up.expired = Some(self.credentials.source());
                    return Err(given_up.into());
                }
            }
            Verdict::Refused => {
                if attempts.renewed || !self.credentials.renew(began) {
                    return Err(given_up.last);
                }
                attempts.renewed = true;
            }
        }
        let Some(pause) = attempts.pause(&self.patience) else {
            if verdict(&given_up.last) == Verdict::Expired {
                given_up.expired = Some(self.credentials.source());
            }
            return Err(given_up.into());
        };
        self.retries
            .note(request, &self.bucket, attempts, pause, &given_up.last, &self.secrets);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl From<GivenUp> for Error {
    fn from(given_up: GivenUp) -> Self {
        Error::Generic {
            store: "S3",
            source: Box::new(given_up),
        }
    }
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patient({})", self.link.s3)
    }
}

#[async_trait]
impl ObjectStore for Patient {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let request = request("PUT", path);
        let send = || self.link.s3.put_opts(path, payload.clone(), options.clone());
        self.link.attempt(&request, send).await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let request = request("POST", path);
        let begin = || self.link.s3.create_multipart(path);
        let id = self.link.attempt(&request, begin).await?;
        Ok(Box::new(PatientUpload::new(Arc::clone(&self.link), path.clone(), id)))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if options.extensions.get::<Once>().is_some() {
            return self.link.s3.get_opts(path, options).await;
        }
        let asked = match &options.range {
            Some(GetRange::Bounded(range)) => Some(range.clone()),
            _ => None,
        };
        let request = Request {
            method: if options.head { "HEAD" } else { "GET" },
            path,
            range: asked,
        };
        let mut attempts = Attempts::new();
        let send = || async {
            match self.link.s3.get_opts(path, options.clone()).await {
                Err(error) if options.head => Err(self.link.explained(path, error).await),
                answer => answer,
            }
        };
        let mut result = self.link.attempt_on(&request, &mut attempts, send).await?;
        if let (false, GetResultPayload::Stream(body)) = (options.head, &mut result.payload) {
            let read = Read {
                link: Arc::clone(&self.link),
                path: path.clone(),
                options: GetOptions {
                    if_match: result.meta.e_tag.clone(),
                    ..options
                },
                range: result.range.clone(),
                body: std::mem::replace(body, futures::stream::empty().boxed()),
                attempts,
            };
            result.payload = GetResultPayload::Stream(read.stream());
        }
        Ok(result)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let link = Arc::clone(&self.link);
        paths
            .map(move |path| {
                let link = Arc::clone(&link);
                async move {
                    let path = path?;
                    let delete = || link.s3.delete(&path);
                    link.attempt(&request("DELETE", &path), delete).await?;
                    Ok(path)
                }
            })
            .buffered(DELETIONS)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing = Listing {
            link: Arc::clone(&self.link),
            prefix: prefix.cloned(),
            found: self.link.s3.list(prefix),
            last: None,
            sorted: true,
            attempts: Attempts::new(),
        };
        listing.stream()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = Path::default();
        let request = request("LIST", prefix.unwrap_or(&root));
        let folder = prefix
            .filter(|prefix| !prefix.is_root())
            .map(|prefix| format!("{prefix}/"));
        let mut found = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
        };
        let mut options = PaginatedListOptions {
            delimiter: Some("/".into()),
            ..PaginatedListOptions::default()
        };
        loop {
            let send = || self.link.s3.list_paginated(folder.as_deref(), options.clone());
            let page = self.link.attempt(&request, send).await?;
            found.common_prefixes.extend(page.result.common_prefixes);
            found.objects.extend(page.result.objects);
            options.page_token = page.page_token;
            if options.page_token.is_none() {
                return Ok(found);
            }
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let send = || self.link.s3.copy_opts(from, to, options.clone());
        self.link.attempt(&request("COPY", from), send).await
    }
}

/// A body that is being read, and what of it is still to come.
struct Read {
    link: Arc<Link>,
    path: Path,
    /// Of a request for what is still to come.
    options: GetOptions,
    range: Range<u64>,
    body: BoxStream<'static, Result<Bytes>>,
    attempts: Attempts,
}

impl Read {
    fn stream(self) -> BoxStream<'static, Result<Bytes>> {
        futures::stream::try_unfold(self, |mut read| async move {
            let next = read.next().await?;
            Ok(next.map(|bytes| (bytes, read)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let began = Instant::now();
            let error = match self.body.next().await {
                Some(Ok(bytes)) => {
                    self.range.start += bytes.len() as u64;
                    self.attempts.progressed(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                None if self.range.is_empty() => return Ok(None),
                None => Error::Generic {
                    store: "S3",
                    source: format!("the body ended {} bytes early", self.range.end - self.range.start).into(),
                },
                Some(Err(error)) => error,
            };
            if self.options.if_match.is_none() {
                // Without an etag what comes next may be of another version.
                return Err(error);
            }
            let request = Request {
                method: "GET",
                path: &self.path,
                range: Some(self.range.clone()),
            };
            self.link.pause(&request, &mut self.attempts, began, error).await?;
            self.options.range = Some(GetRange::Bounded(self.range.clone()));
            let send = || self.link.s3.get_opts(&self.path, self.options.clone());
            let result = self.link.attempt_on(&request, &mut self.attempts, send).await?;
            self.body = result.into_stream();
        }
    }
}

/// A listing, and how far it came.
struct Listing {
    link: Arc<Link>,
    prefix: Option<Path>,
    found: BoxStream<'static, Result<ObjectMeta>>,
    last: Option<Path>,
    /// Whether all came in the order of their paths: only then is there a place to go on from.
    sorted: bool,
    attempts: Attempts,
}

impl Listing {
    fn stream(self) -> BoxStream<'static, Result<ObjectMeta>> {
        futures::stream::try_unfold(self, |mut listing| async move {
            let next = listing.next().await?;
            Ok(next.map(|meta| (meta, listing)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        loop {
            let began = Instant::now();
            let error = match self.found.try_next().await {
                Ok(Some(meta)) => {
                    self.sorted &= self.last.as_ref().is_none_or(|last| *last < meta.location);
                    self.last = Some(meta.location.clone());
                    if self.attempts.failed() > 0 {
                        self.attempts = Attempts::new();
                    }
                    return Ok(Some(meta));
                }
                Ok(None) => return Ok(None),
                Err(error) if !self.sorted => return Err(error),
                Err(error) => error,
            };
            let root = Path::default();
            let request = request("LIST", self.prefix.as_ref().unwrap_or(&root));
            self.link.pause(&request, &mut self.attempts, began, error).await?;
            self.found = match &self.last {
                Some(last) => self.link.s3.list_with_offset(self.prefix.as_ref(), last),
                None => self.link.s3.list(self.prefix.as_ref()),
            };
        }
    }
}

pub(crate) fn request<'a>(method: &'static str, path: &'a Path) -> Request<'a> {
    Request {
        method,
        path,
        range: None,
    }
}
