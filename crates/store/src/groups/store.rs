//! What the finished groups of a pass left, so that no group is computed twice: big sums as raw numbers, the rest as a small document.
//!
//! ```text
//! <root>/<pass>/<name>-<attempt>.sums    little-endian f64, array after array; written first, under a name nobody else uses
//! <root>/<pass>/<name>.done              JSON: which arrays, the SHA-256 of each of their pieces, what else the group gave; created once
//! ```
//!
//! `<name>` is the hash of everything that decides the numbers: two that finish the same group find the same ones, and it is no matter whose
//! `.done` is first. A `.done` that is already there may even be one's own, of a request whose answer was lost: what it says counts, and
//! the arrays of the other attempt are deleted. A group without its `.done` was never finished. Where arrays are found to be damaged or gone, when they
//! are read, its `.done` is deleted: the run ends, and the next one computes that group again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, ObjectStoreExt};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::groups::commit::{Commit, Committing, OnWritten, given_up};
use crate::groups::kept_arrays::KeptArrays;
use crate::groups::record::{GroupArray, GroupRecord, PIECE, StoredSlice};
use crate::hex::hex;
use crate::objects::disk::ReadOnce;
use crate::objects::stores::REQUESTS;
use crate::{StoreError, Stores, WrittenFile};

/// Slices that are read ahead of their use by one reader.
const READ_AHEAD: usize = 2;
/// What the name of a finished group's record ends with.
pub(crate) const DONE: &str = ".done";
const SUMS: &str = ".sums";

/// Where the groups of a run, or of several, leave what they gave.
#[derive(Clone, Debug)]
pub struct GroupStore {
    stores: Stores,
    root: String,
    on_written: OnWritten,
    kept: KeptArrays,
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
        let read = futures::stream::iter(reads.collect::<Vec<_>>()).buffered(REQUESTS);
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

    /// How many of these groups of a pass have left a record, as a listing tells; nothing is read, and none is looked into.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn n_recorded(&self, pass: &str, names: &BTreeSet<String>) -> Result<u64, StoreError> {
        let objects = self.stores.list_all(&self.folder(pass))?;
        let recorded = objects.iter().filter(|object| {
            let file = object.path.rsplit_once('/').map_or("", |(_, file)| file);
            file.strip_suffix(DONE).is_some_and(|name| names.contains(name))
        });
        Ok(recorded.count() as u64)
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

    /// Removes what a group left, its record first, by which it counts.
    ///
    /// # Errors
    /// Its record cannot be read, or something cannot be deleted.
    pub fn remove(&self, pass: &str, name: &str) -> Result<(), StoreError> {
        let Some(record) = self.record(pass, name)? else {
            return Ok(());
        };
        self.forget(pass, name)?;
        match record.object {
            Some(object) => self.stores.delete(&format!("{}/{object}", self.folder(pass))),
            None => Ok(()),
        }
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
        Ok(commit.start((arrays, files, found), then))
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
        GroupRecord::read(&self.stores, &location).await
    }

    /// Lets the group whose arrays an object holds count as never finished.
    async fn forget_group_of(&self, folder: &str, object: &str) -> Result<(), StoreError> {
        let name = object.rsplit_once('-').map_or(object, |(name, _)| name);
        let done = self.stores.locate(&format!("{folder}/{name}{DONE}"))?;
        // Another reader of the same arrays may have been faster.
        self.stores.delete_at(&done).await
    }

    async fn read_slice(&self, folder: &str, slice: StoredSlice) -> Result<Vec<f64>, StoreError> {
        let uri = format!("{folder}/{}", slice.object);
        if let Some(kept) = self.kept.slice(&uri, &slice) {
            return Ok(kept);
        }
        let location = self.stores.locate(&uri)?;
        let range = 8 * slice.start..8 * (slice.start + slice.len as u64);
        let end = range.end;
        let mut options = GetOptions::new().with_range(Some(range));
        options.extensions.insert(ReadOnce);
        let bytes = self.stores.read_by(&location, options).await;
        let damaged = match &bytes {
            Ok(bytes) => first_damaged(bytes, &slice.sha256),
            Err(StoreError::NotFound { .. }) => Some(0),
            // Patience is spent once.
            Err(StoreError::Exhausted { .. } | StoreError::Expired { .. }) => None,
            // Of an object that was cut off before the slice, a store says no more than that it cannot be read there.
            Err(_) => {
                let found = location.store.head(&location.path).await;
                found.is_ok_and(|found| found.size < end).then_some(0)
            }
        };
        if let Some(piece) = damaged {
            self.forget_group_of(folder, &slice.object).await?;
            return Err(StoreError::DamagedSums {
                uri,
                start: slice.start + (piece * PIECE) as u64,
            });
        }
        let bytes = bytes?;
        let (numbers, _) = bytes.as_chunks::<8>();
        Ok(numbers.iter().map(|number| f64::from_le_bytes(*number)).collect())
    }
}

/// The first piece of a slice's bytes that is not what was written; all that there should be may not be there.
fn first_damaged(bytes: &[u8], sha256: &[String]) -> Option<usize> {
    let mut pieces = bytes.chunks(8 * PIECE);
    sha256
        .iter()
        .position(|sha256| pieces.next().is_none_or(|piece| hex(&Sha256::digest(piece)) != *sha256))
}

/// Slices of arrays, in the order asked for; the calling thread blocks until the next one is there. Dropping it stops the reading.
#[derive(Debug)]
pub struct SliceReader {
    receiver: tokio::sync::mpsc::Receiver<Result<Vec<f64>, StoreError>>,
    /// Keeps the I/O threads.
    _stores: Stores,
}

impl SliceReader {
    /// Slices that one holds at most: those read ahead, one that is handed over, and one that waits to be.
    pub const HOLDS: usize = READ_AHEAD + 2;

    /// All that is still to be read, one slice after another.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn concat(mut self) -> Result<Vec<f64>, StoreError> {
        self.try_fold(Vec::new(), |mut all, slice| {
            all.append(&mut slice?);
            Ok(all)
        })
    }
}

impl Iterator for SliceReader {
    type Item = Result<Vec<f64>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.blocking_recv()
    }
}
