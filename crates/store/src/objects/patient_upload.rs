//! An upload in parts behind patience.
//!
//! The end of an upload whose answer got lost is sent again, and is then refused: there is no such upload any more. Whether the object is
//! what was uploaded is told by reading its parts back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStoreExt, PutPayload, PutResult, Result, UploadPart};
use sha2::{Digest, Sha256};

use crate::Cause;
use crate::objects::patience::Attempts;
use crate::objects::patient::{Link, Patient, request};
use crate::objects::upload_parts::{Numbered, UploadParts};

/// An upload in parts.
#[derive(Debug)]
pub(crate) struct PatientUpload {
    link: Arc<Link>,
    path: Path,
    id: String,
    parts: UploadParts,
    done: Arc<Mutex<BTreeMap<usize, Part>>>,
    /// Whether it was completed or aborted.
    ended: bool,
    runtime: tokio::runtime::Handle,
}

/// A part that the store has.
#[derive(Clone, Debug)]
struct Part {
    id: PartId,
    bytes: u64,
    sha256: [u8; 32],
}

impl Drop for PatientUpload {
    /// The parts of an upload that was given up are to be paid for until somebody deletes them.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (link, path, id) = (Arc::clone(&self.link), self.path.clone(), std::mem::take(&mut self.id));
        self.runtime.spawn(async move {
            if let Err(error) = abort(&link, &path, &id).await {
                let error = Cause::new(&error, &link.secrets);
                tracing::debug!(%error, %path, "an upload could not be aborted");
            }
        });
    }
}

async fn abort(link: &Link, path: &Path, id: &String) -> Result<()> {
    let send = || link.s3.abort_multipart(path, id);
    match link.attempt(&request("DELETE", path), send).await {
        // An attempt before was heard, or the upload was complete.
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}

impl PatientUpload {
    /// An upload that was begun; called on the I/O threads.
    pub fn new(link: Arc<Link>, path: Path, id: String) -> Self {
        Self {
            link,
            path,
            id,
            parts: UploadParts::default(),
            done: Arc::default(),
            ended: false,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Sends a part.
    fn send(&self, (index, data): Numbered) -> UploadPart {
        let (link, path, id) = (Arc::clone(&self.link), self.path.clone(), self.id.clone());
        let done = Arc::clone(&self.done);
        Box::pin(async move {
            let mut hash = Sha256::new();
            data.iter().for_each(|bytes| hash.update(bytes));
            let send = || link.s3.put_part(&path, &id, index, data.clone());
            let part = Part {
                id: link.attempt(&request("PUT", &path), send).await?,
                bytes: data.content_length() as u64,
                sha256: hash.finalize().into(),
            };
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(index, part);
            Ok(())
        })
    }

    /// Whether the object is there and holds these parts.
    async fn stands(&self, parts: &[Part]) -> Result<bool> {
        let store = Patient {
            link: Arc::clone(&self.link),
        };
        let found = match store.head(&self.path).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        if found.size != parts.iter().map(|part| part.bytes).sum::<u64>() {
            return Ok(false);
        }
        let mut start = 0;
        for part in parts {
            let bytes = store.get_range(&self.path, start..start + part.bytes).await?;
            if <[u8; 32]>::from(Sha256::digest(&bytes)) != part.sha256 {
                return Ok(false);
            }
            start += part.bytes;
        }
        Ok(true)
    }
}

#[async_trait]
impl MultipartUpload for PatientUpload {
    fn put_part(&mut self, piece: PutPayload) -> UploadPart {
        match self.parts.push(piece) {
            Some(part) => self.send(part),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if let Some(part) = self.parts.rest() {
            self.send(part).await?;
        }
        let parts: Vec<Part> = {
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.values().cloned().collect()
        };
        if parts.len() != self.parts.begun() {
            return Err(Error::Generic {
                store: "S3",
                source: format!("{} of {} parts were uploaded", parts.len(), self.parts.begun()).into(),
            });
        }
        let ids: Vec<PartId> = parts.iter().map(|part| part.id.clone()).collect();
        let mut attempts = Attempts::new();
        loop {
            let began = Instant::now();
            let completed = self.link.s3.complete_multipart(&self.path, &self.id, ids.clone());
            match completed.await {
                Ok(result) => {
                    self.ended = true;
                    return Ok(result);
                }
                Err(Error::NotFound { .. }) if attempts.failed() > 0 && self.stands(&parts).await? => {
                    tracing::debug!(path = %self.path, "an upload was complete: its answer was lost");
                    self.ended = true;
                    return Ok(PutResult {
                        e_tag: None,
                        version: None,
                    });
                }
                Err(error) => {
                    let request = request("POST", &self.path);
                    self.link.pause(&request, &mut attempts, began, error).await?;
                }
            }
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.ended = true;
        abort(&self.link, &self.path, &self.id).await
    }
}
