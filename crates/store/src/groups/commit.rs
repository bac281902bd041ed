//! Commits a finished group: its numbers first, under a name that nobody else uses, then its record, by which it counts.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::groups::record::{GroupArray, GroupRecord, PIECE, StoredArray};
use crate::hex::hex;
use crate::objects::failure::Action;
use crate::objects::location::Location;
use crate::tables::parquet_out::close;
use crate::{Creation, StoreError, Stores, WrittenFile};

/// Bytes of a part of an upload; smaller arrays are one request.
const PART: usize = 16 << 20;
/// Parts that are on their way at a time.
const UPLOADS: usize = 2;
/// Slices whose hashes are taken at a time.
const HASHES: usize = 2;

/// What is called between a group's numbers and its record.
#[derive(Clone, Default)]
pub(crate) struct OnWritten(pub Option<Arc<dyn Fn() + Send + Sync>>);

impl std::fmt::Debug for OnWritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnWritten").field(&self.0.is_some()).finish()
    }
}

/// A group that is being committed.
#[derive(Debug)]
pub struct Committing(mpsc::Receiver<Result<Committed, StoreError>>);

/// A group that was committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// What counts, whoever wrote it.
    pub record: GroupRecord,
    /// Bytes that were written for it here.
    pub bytes: u64,
}

impl Committing {
    /// How it went, once it is known.
    pub fn poll(&self) -> Option<Result<Committed, StoreError>> {
        match self.0.try_recv() {
            Ok(done) => Some(done),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => Some(Err(given_up())),
        }
    }

    /// How it went; blocks until it is known.
    ///
    /// # Errors
    /// It could not be committed.
    pub fn wait(&self) -> Result<Committed, StoreError> {
        self.0.recv().unwrap_or_else(|_| Err(given_up()))
    }
}

/// The error of what was not waited for.
pub(crate) fn given_up() -> StoreError {
    StoreError::Stopped {
        object: "a finished group".to_owned(),
    }
}

/// One attempt at one group.
pub(crate) struct Commit {
    pub stores: Stores,
    pub sums: Location,
    pub done: Location,
    /// The object of the numbers, relative to the pass's folder.
    pub object: String,
    pub on_written: OnWritten,
}

impl Commit {
    /// Commits on the I/O threads, where `then` is called once it is known how it went.
    pub fn start(
        self,
        (arrays, files, found): (Arc<Vec<GroupArray>>, Vec<WrittenFile>, Value),
        then: impl FnOnce() + Send + 'static,
    ) -> Committing {
        let (sender, receiver) = mpsc::channel();
        let handle = self.stores.handle().clone();
        handle.spawn(async move {
            let done = self.run(arrays, files, found).await;
            // Nobody waits any more where the run has ended.
            let _ = sender.send(done);
            then();
        });
        Committing(receiver)
    }

    async fn run(
        self,
        arrays: Arc<Vec<GroupArray>>,
        files: Vec<WrittenFile>,
        found: Value,
    ) -> Result<Committed, StoreError> {
        let has_numbers = arrays.iter().any(|array| !array.values.is_empty());
        let arrays = self.write_arrays(arrays).await?;
        if let Some(on_written) = &self.on_written.0 {
            on_written();
        }
        let record = GroupRecord {
            object: has_numbers.then(|| self.object.clone()),
            arrays,
            files,
            found,
        };
        let uri = self.done.uri();
        let document = self.stores.compact_document(&uri, &record)?;
        let bytes = record.bytes() + document.len() as u64;
        let first: GroupRecord = match self.stores.create_once_at(&self.done, document.into()).await? {
            Creation::Created | Creation::Ours => return Ok(Committed { record, bytes }),
            Creation::Others(first) => self.stores.parse_document(&uri, &first)?,
        };
        if has_numbers
            && first.object != record.object
            && let Err(error) = self.sums.store.delete(&self.sums.path).await
        {
            let error = self.stores.cause(&error);
            tracing::warn!(object = self.sums.uri(), %error, "sums that nobody needs stay");
        }
        Ok(Committed { record: first, bytes })
    }

    async fn write_arrays(&self, arrays: Arc<Vec<GroupArray>>) -> Result<Vec<StoredArray>, StoreError> {
        let mut stored = Vec::with_capacity(arrays.len());
        let mut upload = BufWriter::with_capacity(self.sums.store.clone(), self.sums.path.clone(), PART)
            .with_max_concurrency(UPLOADS);
        let failed = |error| self.stores.failed(&self.sums, Action::Write, error);
        let mut is_empty = true;
        for (at, array) in arrays.iter().enumerate() {
            let len = array.values.len();
            let mut sha256 = Vec::with_capacity(len.div_ceil(PIECE));
            let (mut pieces, mut hashing) = ((0..len).step_by(PIECE), VecDeque::new());
            loop {
                for first in pieces.by_ref().take(HASHES - hashing.len()) {
                    let bytes = little_endian(&arrays, at, first..len.min(first + PIECE));
                    hashing.push_back(tokio::task::spawn_blocking(move || {
                        (hex(&Sha256::digest(&bytes)), bytes)
                    }));
                }
                let Some(next) = hashing.pop_front() else { break };
                let (hash, bytes) = next.await.map_err(|_| given_up())?;
                sha256.push(hash);
                upload.put(bytes).await.map_err(failed)?;
                is_empty = false;
            }
            stored.push(StoredArray {
                key: array.key,
                purpose: array.purpose,
                n_spectra: array.n_spectra,
                len,
                sha256,
            });
        }
        if !is_empty {
            close(&mut upload).await.map_err(failed)?;
        }
        Ok(stored)
    }
}

/// A piece of an array as it lies in the object.
fn little_endian(arrays: &Arc<Vec<GroupArray>>, array: usize, numbers: Range<usize>) -> Bytes {
    if cfg!(target_endian = "little") {
        return Bytes::from_owner(PieceBytes {
            arrays: Arc::clone(arrays),
            array,
            numbers,
        });
    }
    let values = &arrays[array].values[numbers];
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A piece of an array as bytes, without a copy.
struct PieceBytes {
    arrays: Arc<Vec<GroupArray>>,
    array: usize,
    numbers: Range<usize>,
}

impl AsRef<[u8]> for PieceBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.arrays[self.array].values[self.numbers.clone()])
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write};
    use std::sync::Mutex;

    use tracing::field::Field;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::objects::memory::{Manner, Memory};
    use crate::{Purpose, StoreOptions};

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<String>>);

    impl Subscriber for Log {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut kept = self.0.lock().unwrap();
            event.record(&mut |field: &Field, value: &dyn Debug| writeln!(kept, "{field}: {value:?}").unwrap());
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn why_sums_that_nobody_needs_stay_is_logged_without_the_credentials_that_the_store_repeats() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        Memory::bucket(&stores, "kept", Manner::Undeleted);
        let commit = |attempt: &str| {
            let object = format!("a-{attempt}.sums");
            let commit = Commit {
                stores: stores.clone(),
                sums: stores.locate(&format!("s3://kept/groups/pass/{object}")).unwrap(),
                done: stores.locate("s3://kept/groups/pass/a.done").unwrap(),
                object,
                on_written: OnWritten::default(),
            };
            let sums = GroupArray {
                key: 0,
                purpose: Purpose::Sum,
                n_spectra: 1,
                values: vec![1.0],
            };
            let running = commit.run(Arc::new(vec![sums]), Vec::new(), Value::Null);
            stores.block_on(running).unwrap().record.object
        };
        let log = Log::default();
        let counts = tracing::subscriber::with_default(log.clone(), || ["1", "2"].map(commit));
        assert!(
            counts.iter().all(|object| object.as_deref() == Some("a-1.sums")),
            "{counts:?}"
        );
        let said = log.0.lock().unwrap().clone();
        assert!(said.contains("sums that nobody needs stay"), "{said}");
        assert!(said.contains("<Token-0>***") && !said.contains("FwoG"), "{said}");
    }
}
