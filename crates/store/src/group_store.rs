//! What the finished groups of a pass left, so that no group is computed twice: big sums as raw numbers, the rest as a small document.
//!
//! ```text
//! <root>/<pass>/<name>-<attempt>.sums    little-endian f64, array after array; written first, under a name nobody else uses
//! <root>/<pass>/<name>.done              JSON: which arrays, the SHA-256 of each of their slices, what else the group gave; created once
//! ```
//!
//! `<name>` is the hash of everything that decides the numbers: two that finish the same group find the same ones, and it is no matter whose
//! `.done` is first. A `.done` that is already there may even be one's own, of a request whose answer was lost: what it says counts, and
//! the arrays of the other attempt are deleted. A group without its `.done` was never finished.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::{GetOptions, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::catalogue::hex;
use crate::disk::ReadOnce;
use crate::error::Cause;
use crate::failure::Action;
use crate::kept_arrays::KeptArrays;
use crate::location::Location;
use crate::parquet_out::close;
use crate::{StoreError, Stores, WrittenFile};

/// Numbers of a slice: 4 MiB.
pub const SLICE: usize = 1 << 19;
/// Bytes of a part of an upload; smaller arrays are one request.
const PART: usize = 16 << 20;
/// Parts that are on their way at a time.
const UPLOADS: usize = 2;
/// Slices whose hashes are taken at a time.
const HASHES: usize = 2;
/// Slices that are read ahead of their use by one reader.
const READ_AHEAD: usize = 4;
/// Documents that are read at a time.
const PARALLEL: usize = 16;
const DONE: &str = ".done";
const SUMS: &str = ".sums";

/// Where the groups of a run, or of several, leave what they gave.
#[derive(Clone, Debug)]
pub struct GroupStore {
    stores: Stores,
    root: String,
    on_written: OnWritten,
    kept: KeptArrays,
}

/// A slice of an array as bytes, without a copy.
struct SliceBytes {
    arrays: Arc<Vec<GroupArray>>,
    array: usize,
    numbers: Range<usize>,
}

impl AsRef<[u8]> for SliceBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.arrays[self.array].values[self.numbers.clone()])
    }
}

/// What is called between a group's numbers and its record.
#[derive(Clone, Default)]
struct OnWritten(Option<Arc<dyn Fn() + Send + Sync>>);

impl std::fmt::Debug for OnWritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnWritten").field(&self.0.is_some()).finish()
    }
}

/// An array of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupArray {
    /// Which of the group's arrays.
    pub key: u64,
    /// Whether it is added up over the groups, or only kept.
    pub purpose: Purpose,
    /// Number of spectra that it is of.
    pub n_spectra: u64,
    /// The numbers.
    pub values: Vec<f64>,
}

/// What an array of a group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The groups' arrays of one key are added up, element by element, in group order.
    Sum,
    /// It is read back for this group alone.
    Keep,
}

/// What a finished group left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The object of its arrays, relative to the pass's folder; none where it has no numbers.
    pub object: Option<String>,
    /// The arrays in it, one after another.
    pub arrays: Vec<StoredArray>,
    /// Files that the group left elsewhere, relative to the output.
    pub files: Vec<WrittenFile>,
    /// Whatever else it gave.
    pub found: Value,
}

/// An array as its group's record describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredArray {
    /// Which of the group's arrays.
    pub key: u64,
    /// Whether it is added up.
    pub purpose: Purpose,
    /// Number of spectra that it is of.
    pub n_spectra: u64,
    /// Numbers in it.
    pub len: usize,
    /// Of each slice of [`SLICE`] numbers.
    pub sha256: Vec<String>,
}

/// A slice of an array in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSlice {
    /// The object, relative to the pass's folder.
    pub object: String,
    /// Its first number in the object.
    pub start: u64,
    /// Numbers.
    pub len: usize,
    /// Of its bytes.
    pub sha256: String,
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

impl GroupRecord {
    /// Bytes of its arrays.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.arrays.iter().map(|array| 8 * array.len as u64).sum()
    }

    /// The slices of an array, in order; none where the group has no such array.
    #[must_use]
    pub fn slices(&self, key: u64) -> Option<Vec<StoredSlice>> {
        let object = self.object.clone().unwrap_or_default();
        let mut start = 0;
        for array in &self.arrays {
            if array.key == key {
                let slice = |(at, sha256): (usize, &String)| StoredSlice {
                    object: object.clone(),
                    start: start + (at * SLICE) as u64,
                    len: SLICE.min(array.len - at * SLICE),
                    sha256: sha256.clone(),
                };
                return Some(array.sha256.iter().enumerate().map(slice).collect());
            }
            start += array.len as u64;
        }
        None
    }
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

fn given_up() -> StoreError {
    StoreError::Stopped {
        object: "a finished group".to_owned(),
    }
}

impl GroupStore {
    /// At a URI; touches nothing.
    #[must_use]
    pub fn new(stores: &Stores, root: &str) -> Self {
        Self {
            stores: stores.clone(),
            root: root.trim_end_matches('/').to_owned(),
            on_written: OnWritten::default(),
            kept: KeptArrays::default(),
        }
    }

    /// The same; `on_written` is called on an I/O thread when a group's numbers are there and its record, by which they count, is not.
    #[must_use]
    pub fn calling(mut self, on_written: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_written = OnWritten(Some(Arc::new(on_written)));
        self
    }

    /// Those groups of a pass that are finished, of the `names` asked for. One whose arrays are gone is no longer finished.
    ///
    /// # Errors
    /// The store cannot be listed or read, or a record cannot be understood.
    pub fn finished(&self, pass: &str, names: &BTreeSet<String>) -> Result<BTreeMap<String, GroupRecord>, StoreError> {
        let folder = self.folder(pass);
        let objects = self.stores.list_all(&folder)?;
        let sizes: BTreeMap<&str, u64> = objects
            .iter()
            .filter_map(|object| Some((object.path.rsplit_once('/')?.1, object.size)))
            .collect();
        let wanted: Vec<&str> = sizes
            .keys()
            .filter_map(|file| file.strip_suffix(DONE))
            .filter(|name| names.contains(*name))
            .collect();
        let reads = wanted.iter().map(|name| self.read_record(pass, name));
        let read = futures::stream::iter(reads.collect::<Vec<_>>()).buffered(PARALLEL);
        let records: Vec<GroupRecord> = self.stores.block_on(read.try_collect())?;
        let mut finished = BTreeMap::new();
        for (name, record) in wanted.into_iter().zip(records) {
            let is_there = match &record.object {
                None => record.bytes() == 0,
                Some(object) => sizes.get(object.as_str()) == Some(&record.bytes()),
            };
            if is_there {
                finished.insert(name.to_owned(), record);
            } else {
                tracing::warn!(
                    pass,
                    group = name,
                    "the sums of a finished group are gone: it is computed again"
                );
                self.forget(pass, name)?;
            }
        }
        Ok(finished)
    }

    /// What a finished group left; `None` where it is not finished.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn record(&self, pass: &str, name: &str) -> Result<Option<GroupRecord>, StoreError> {
        match self.stores.block_on(self.read_record(pass, name)) {
            Ok(record) => Ok(Some(record)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets a group count as never finished.
    ///
    /// # Errors
    /// Its record cannot be deleted.
    pub fn forget(&self, pass: &str, name: &str) -> Result<(), StoreError> {
        self.stores.delete(&self.done_uri(pass, name))
    }

    /// Commits a group on the I/O threads; `then` is called there once it is known how it went. Of several attempts at one group, all
    /// get what the first of them left.
    ///
    /// `attempt` is a name that no other attempt has. The arrays are kept in memory until `worker` commits another group, or
    /// [`GroupStore::release`].
    ///
    /// # Errors
    /// The place cannot be a location.
    pub fn commit(
        &self,
        pass: &str,
        name: &str,
        attempt: &str,
        worker: u64,
        (arrays, files, found): (Vec<GroupArray>, Vec<WrittenFile>, Value),
        then: impl FnOnce() + Send + 'static,
    ) -> Result<Committing, StoreError> {
        let object = format!("{name}-{attempt}{SUMS}");
        let commit = Commit {
            stores: self.stores.clone(),
            sums: self.stores.locate(&format!("{}/{object}", self.folder(pass)))?,
            done: self.stores.locate(&self.done_uri(pass, name))?,
            object,
            on_written: self.on_written.clone(),
        };
        let arrays = Arc::new(arrays);
        let uri = format!("{}/{}", self.folder(pass), commit.object);
        self.kept.keep(worker, uri, Arc::clone(&arrays));
        let (sender, receiver) = mpsc::channel();
        self.stores.handle().spawn(async move {
            let done = commit.run(arrays, files, found).await;
            // Nobody waits any more where the run has ended.
            let _ = sender.send(done);
            then();
        });
        Ok(Committing(receiver))
    }

    /// Keeps no arrays in memory any longer.
    pub fn release(&self) {
        self.kept.release();
    }

    /// Reads slices in the order given, ahead of their use on the I/O threads.
    #[must_use]
    pub fn read(&self, pass: &str, slices: Vec<StoredSlice>) -> SliceReader {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let (store, folder) = (self.clone(), self.folder(pass));
        self.stores.handle().spawn(async move {
            // Each a task of its own: their hashes are taken side by side.
            let reads = slices.into_iter().map(|slice| {
                let (store, folder) = (store.clone(), folder.clone());
                let read = tokio::spawn(async move { store.read_slice(&folder, slice).await });
                async move { read.await.unwrap_or_else(|_| Err(given_up())) }
            });
            let mut read = futures::stream::iter(reads).buffered(READ_AHEAD);
            while let Some(slice) = read.next().await {
                if sender.send(slice).await.is_err() {
                    return;
                }
            }
        });
        SliceReader {
            receiver,
            _stores: self.stores.clone(),
        }
    }

    fn folder(&self, pass: &str) -> String {
        format!("{}/{pass}", self.root)
    }

    fn done_uri(&self, pass: &str, name: &str) -> String {
        format!("{}/{name}{DONE}", self.folder(pass))
    }

    async fn read_record(&self, pass: &str, name: &str) -> Result<GroupRecord, StoreError> {
        let location = self.stores.locate(&self.done_uri(pass, name))?;
        read_record(&self.stores, &location).await
    }

    async fn read_slice(&self, folder: &str, slice: StoredSlice) -> Result<Vec<f64>, StoreError> {
        let uri = format!("{folder}/{}", slice.object);
        if let Some(kept) = self.kept.slice(&uri, &slice) {
            return Ok(kept);
        }
        let location = self.stores.locate(&uri)?;
        let range = 8 * slice.start..8 * (slice.start + slice.len as u64);
        let mut options = GetOptions::new().with_range(Some(range));
        options.extensions.insert(ReadOnce);
        let bytes = match location.store.get_opts(&location.path, options).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = bytes.map_err(|error| self.stores.failed(&location, Action::Read, error))?;
        if hex(&Sha256::digest(&bytes)) != slice.sha256 {
            return Err(StoreError::BadDocument {
                uri,
                source: Cause::said(format!(
                    "its numbers from {} on are not those that were written: delete it, and run again",
                    slice.start
                )),
            });
        }
        let (numbers, _) = bytes.as_chunks::<8>();
        Ok(numbers.iter().map(|number| f64::from_le_bytes(*number)).collect())
    }
}

/// Slices of arrays, in the order asked for; the calling thread blocks until the next one is there. Dropping it stops the reading.
#[derive(Debug)]
pub struct SliceReader {
    receiver: tokio::sync::mpsc::Receiver<Result<Vec<f64>, StoreError>>,
    /// Keeps the I/O threads.
    _stores: Stores,
}

impl Iterator for SliceReader {
    type Item = Result<Vec<f64>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.blocking_recv()
    }
}

/// One attempt at one group.
struct Commit {
    stores: Stores,
    sums: Location,
    done: Location,
    object: String,
    on_written: OnWritten,
}

impl Commit {
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
        let document = serde_json::to_vec(&record).map_err(|error| StoreError::BadDocument {
            uri: self.done.uri(),
            source: self.stores.cause(&error),
        })?;
        let bytes = record.bytes() + document.len() as u64;
        let created = self
            .done
            .store
            .put_opts(
                &self.done.path,
                PutPayload::from(document),
                PutOptions::from(PutMode::Create),
            )
            .await;
        match created {
            Ok(_) => Ok(Committed { record, bytes }),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                let first = read_record(&self.stores, &self.done).await?;
                if has_numbers
                    && first.object != record.object
                    && let Err(error) = self.sums.store.delete(&self.sums.path).await
                {
                    tracing::warn!(object = self.sums.uri(), %error, "sums that nobody needs stay");
                }
                Ok(Committed { record: first, bytes })
            }
            Err(error) => Err(self.stores.failed(&self.done, Action::Write, error)),
        }
    }

    async fn write_arrays(&self, arrays: Arc<Vec<GroupArray>>) -> Result<Vec<StoredArray>, StoreError> {
        let mut stored = Vec::with_capacity(arrays.len());
        let mut upload = BufWriter::with_capacity(self.sums.store.clone(), self.sums.path.clone(), PART)
            .with_max_concurrency(UPLOADS);
        let failed = |error| self.stores.failed(&self.sums, Action::Write, error);
        let mut is_empty = true;
        for (at, array) in arrays.iter().enumerate() {
            let len = array.values.len();
            let mut sha256 = Vec::with_capacity(len.div_ceil(SLICE));
            let (mut slices, mut hashing) = ((0..len).step_by(SLICE), VecDeque::new());
            loop {
                for first in slices.by_ref().take(HASHES - hashing.len()) {
                    let bytes = little_endian(&arrays, at, first..len.min(first + SLICE));
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

/// A slice of an array as it lies in the object.
fn little_endian(arrays: &Arc<Vec<GroupArray>>, array: usize, numbers: Range<usize>) -> Bytes {
    if cfg!(target_endian = "little") {
        return Bytes::from_owner(SliceBytes {
            arrays: Arc::clone(arrays),
            array,
            numbers,
        });
    }
    let values = &arrays[array].values[numbers];
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

async fn read_record(stores: &Stores, location: &Location) -> Result<GroupRecord, StoreError> {
    let bytes = match location.store.get(&location.path).await {
        Ok(object) => object.bytes().await,
        Err(error) => Err(error),
    };
    let bytes = bytes.map_err(|error| stores.failed(location, Action::Read, error))?;
    serde_json::from_slice(&bytes).map_err(|error| StoreError::BadDocument {
        uri: location.uri(),
        source: stores.cause(&error),
    })
}
