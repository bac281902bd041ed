//! Objects by URI: plain paths, `file://` and `s3://`, over one runtime of I/O threads.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fisherflow_spectra::ObjectVersion;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};

use crate::objects::disk::Disk;
use crate::objects::failure::{Action, failed, is_absent, is_nothing};
use crate::objects::location::{Location, Place, parse, store_path};
use crate::objects::traffic::{Counted, Traffic};
use crate::timestamp::rfc3339;
use crate::{Cause, StoreError, StoreOptions};

/// Objects that are deleted before it is asked whether the others may be.
const AT_ONCE: usize = 512;
/// Small requests that are under way at once.
pub(crate) const REQUESTS: usize = 16;

/// Access to every object store of a run. Clones share connections and threads.
///
/// Its methods block the calling thread until the I/O threads are done; they must not be called from an asynchronous runtime.
#[derive(Clone)]
pub struct Stores {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: StoreOptions,
    secrets: Arc<Vec<String>>,
    local: Arc<dyn ObjectStore>,
    traffic: Arc<Traffic>,
    pub(crate) s3: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    /// `None` only while it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    handle: tokio::runtime::Handle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Never blocks, so that the last clone may be dropped anywhere.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

/// Starts a thread for what waits until a group is read or a file written. Among the runtime's threads for blocking work, whose number is
/// limited, such waiters could be all there are, and what they wait for would never begin.
pub(crate) fn start_waiter(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop).map_err(StoreError::Runtime)
}

impl Stores {
    /// Stores with `io_threads` threads of their own (at least one).
    ///
    /// # Errors
    /// An unknown option, or threads that could not be started.
    pub fn new(options: StoreOptions, io_threads: usize) -> Result<Self, StoreError> {
        options.validate()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(io_threads.max(1))
            .thread_name("fisherflow-io")
            .enable_all()
            .build()
            .map_err(StoreError::Runtime)?;
        let traffic = Arc::new(Traffic::default());
        Ok(Self {
            inner: Arc::new(Inner {
                secrets: Arc::new(options.secrets()),
                options,
                local: Arc::new(Counted::new(Disk::default(), &traffic)),
                traffic,
                s3: Mutex::new(HashMap::new()),
                handle: runtime.handle().clone(),
                runtime: Some(runtime),
            }),
        })
    }

    /// Requests that failed and were made again, so far.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.inner.traffic.retries.count()
    }

    /// The whole object.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn read(&self, uri: &str) -> Result<Vec<u8>, StoreError> {
        self.read_with_time(uri).map(|(bytes, _)| bytes)
    }

    /// The whole object; `None` where it is not there.
    ///
    /// # Errors
    /// The store does not say, or it cannot be read.
    pub(crate) fn read_if_there(&self, uri: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.read(uri) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The whole object, and when it was written by the store's own clock, in seconds since 1970.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn read_with_time(&self, uri: &str) -> Result<(Vec<u8>, u64), StoreError> {
        let location = self.locate(uri)?;
        self.block_on(async {
            let object = location.store.get(&location.path).await?;
            let written = written(&object.meta);
            Ok((object.bytes().await?.to_vec(), written))
        })
        .map_err(|error| self.failed(&location, Action::Read, error))
    }

    /// Whole small objects, several at a time, in the order given; `None` for what is not there.
    ///
    /// # Errors
    /// The store does not say, or one cannot be read.
    pub(crate) fn read_each(&self, uris: &[String]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let reads = uris.iter().map(|uri| async {
            match self.read_at(&self.locate(uri)?).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffered(REQUESTS);
        self.block_on(reads.try_collect())
    }

    /// The whole object, on the I/O threads.
    pub(crate) async fn read_at(&self, location: &Location) -> Result<Bytes, StoreError> {
        self.read_by(location, GetOptions::default()).await
    }

    /// The same, by these options.
    pub(crate) async fn read_by(&self, location: &Location, options: GetOptions) -> Result<Bytes, StoreError> {
        let bytes = match location.store.get_opts(&location.path, options).await {
            Ok(object) => object.bytes().await,
            Err(error) => Err(error),
        };
        bytes.map_err(|error| self.failed(location, Action::Read, error))
    }

    /// Writes the object, whether it was there or not: all of it or nothing.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, uri: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let location = self.locate(uri)?;
        self.block_on(location.store.put(&location.path, PutPayload::from(bytes)))
            .map(|_| ())
            .map_err(|error| self.failed(&location, Action::Write, error))
    }

    /// Whether the object is there.
    ///
    /// # Errors
    /// The store does not say.
    pub fn exists(&self, uri: &str) -> Result<bool, StoreError> {
        self.head(uri).map(|found| found.is_some())
    }

    /// The object's version; `None` where it is not there.
    ///
    /// # Errors
    /// The store does not say.
    pub fn head(&self, uri: &str) -> Result<Option<ObjectVersion>, StoreError> {
        let location = self.locate(uri)?;
        match self.block_on(location.store.head(&location.path)) {
            Ok(meta) => Ok(Some(version(&location.place, &meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) if location.place == Place::Local && is_absent(&location) => {
                tracing::debug!(uri, %error, "not a file");
                Ok(None)
            }
            Err(error) => Err(self.failed(&location, Action::Read, error)),
        }
    }

    /// Every object under a URI, at any depth, by path.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn list_all(&self, uri: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        self.list_sorted(uri, |object, _| object)
    }

    /// The first of the objects under a URI that a listing comes upon and that `fits`, markers of folders among them; no further is listed.
    pub(crate) fn first_under(
        &self,
        uri: &str,
        fits: impl Fn(&ObjectVersion) -> bool,
    ) -> Result<Option<ObjectVersion>, StoreError> {
        let base = self.locate(uri)?;
        let prefix = (!base.path.is_root()).then_some(&base.path);
        let found = self.block_on(async {
            let mut metas = base.store.list(prefix);
            while let Some(meta) = metas.try_next().await? {
                let object = version(&base.place, &meta);
                if fits(&object) {
                    return Ok(Some(object));
                }
            }
            Ok(None)
        });
        self.listed(&base, found)
    }

    /// Every object under a URI, at any depth, by path, and how long ago it was written.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub(crate) fn list_with_age(
        &self,
        uri: &str,
        now: SystemTime,
    ) -> Result<Vec<(ObjectVersion, Duration)>, StoreError> {
        self.list_sorted(uri, |object, written| {
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(written);
            (object, now.duration_since(written).unwrap_or_default())
        })
    }

    /// What is made of every object under a URI and of when it was written, in order.
    fn list_sorted<T: Ord>(&self, uri: &str, of: impl Fn(ObjectVersion, u64) -> T) -> Result<Vec<T>, StoreError> {
        let base = self.locate(uri)?;
        let metas = self.block_on(self.list_under(&base))?;
        let found = metas.iter().map(|meta| of(version(&base.place, meta), written(meta)));
        let mut found: Vec<T> = found.collect();
        found.sort();
        Ok(found)
    }

    /// When objects were written, RFC 3339 in UTC, in the order given; those are left out of which the store does not say.
    ///
    /// # Errors
    /// One of them is no location.
    pub(crate) fn times_of<'u>(
        &self,
        uris: impl Iterator<Item = &'u str>,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let located = uris.map(|uri| self.locate(uri).map(|location| (uri.to_owned(), location)));
        let located: Vec<(String, Location)> = located.collect::<Result<_, StoreError>>()?;
        let asked = futures::stream::iter(located).map(|(uri, location)| async move {
            let found = location.store.head(&location.path).await.ok()?;
            Some((uri, rfc3339(written(&found))))
        });
        let said = asked.buffered(REQUESTS).filter_map(std::future::ready);
        Ok(self.block_on(said.collect::<Vec<_>>()))
    }

    /// Removes a folder if it is empty, and the empty folders below it, on a disk: an object store has none. What links lead to is left alone.
    ///
    /// # Errors
    /// A folder cannot be looked into.
    pub(crate) fn remove_empty_folders(&self, uri: &str) -> Result<(), StoreError> {
        let base = self.locate(uri)?;
        if base.place != Place::Local {
            return Ok(());
        }
        let (uri, failed) = (base.uri(), |error: std::io::Error| StoreError::NotWritable {
            uri: base.uri(),
            source: self.cause(&error),
        });
        let folder = std::path::Path::new(&uri);
        match folder.symlink_metadata() {
            Ok(found) if found.is_dir() => remove_if_empty(folder).map(drop).map_err(failed),
            _ => Ok(()),
        }
    }

    /// Deletes one object; none there is no error.
    ///
    /// # Errors
    /// It cannot be deleted.
    pub fn delete(&self, uri: &str) -> Result<(), StoreError> {
        self.block_on(self.delete_at(&self.locate(uri)?))
    }

    /// The same of several, a few at a time.
    ///
    /// # Errors
    /// One cannot be deleted: whether others are is unknown.
    pub(crate) fn delete_each<'u>(&self, uris: impl Iterator<Item = &'u str>) -> Result<(), StoreError> {
        let deletions = uris.map(|uri| async { self.delete_at(&self.locate(uri)?).await });
        let deletions = futures::stream::iter(deletions.collect::<Vec<_>>()).buffer_unordered(REQUESTS);
        self.block_on(deletions.try_collect())
    }

    /// The same of one, on the I/O threads.
    pub(crate) async fn delete_at(&self, location: &Location) -> Result<(), StoreError> {
        match location.store.delete(&location.path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(location, Action::Delete, error)),
        }
    }

    /// Deletes every object under a URI, and on a disk the directory itself; returns how many objects there were.
    ///
    /// # Errors
    /// One cannot be deleted.
    pub fn delete_prefix(&self, uri: &str) -> Result<u64, StoreError> {
        self.delete_prefix_while(uri, || Ok(()))
    }

    /// The same, as long as `may_go_on`, which is asked every few hundred objects: it may take minutes.
    ///
    /// # Errors
    /// One cannot be deleted, or what `may_go_on` says.
    pub(crate) fn delete_prefix_while(
        &self,
        uri: &str,
        may_go_on: impl Fn() -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let base = self.locate(uri)?;
        if base.path.is_root() {
            return Err(StoreError::BadUri {
                uri: uri.to_owned(),
                reason: "everything under a root is not ours to delete".to_owned(),
            });
        }
        let objects = self.list_all(uri)?;
        if base.place == Place::Local {
            self.delete_folder(&base.uri(), may_go_on)?;
            return Ok(objects.len() as u64);
        }
        for some in objects.chunks(AT_ONCE) {
            may_go_on()?;
            self.delete_each(some.iter().map(|object| object.path.as_str()))?;
        }
        Ok(objects.len() as u64)
    }

    /// The same of a folder on a disk, with what a killed process left half written, which no listing shows. A link goes, and nothing that it leads to.
    fn delete_folder(&self, folder: &str, may_go_on: impl Fn() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let failed = |error: std::io::Error| StoreError::NotWritable {
            uri: folder.to_owned(),
            source: self.cause(&error),
        };
        let gone = |deleted: std::io::Result<()>| match deleted {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
        let mut files = Vec::new();
        gone(add_files(std::path::Path::new(folder), &mut files))?;
        for some in files.chunks(AT_ONCE) {
            may_go_on()?;
            some.iter().try_for_each(|file| gone(std::fs::remove_file(file)))?;
        }
        may_go_on()?;
        gone(std::fs::remove_dir_all(folder))
    }

    /// What goes over the wire, over all clones.
    #[must_use]
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.inner.traffic
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.inner.handle.block_on(future)
    }

    pub(crate) fn handle(&self) -> &tokio::runtime::Handle {
        &self.inner.handle
    }

    pub(crate) fn secrets(&self) -> Arc<Vec<String>> {
        Arc::clone(&self.inner.secrets)
    }

    pub(crate) fn endpoint(&self) -> Option<String> {
        self.inner.options.endpoint().map(str::to_owned)
    }

    pub(crate) fn cause(&self, error: &(dyn std::error::Error + 'static)) -> Cause {
        Cause::new(error, &self.inner.secrets)
    }

    pub(crate) fn failed(&self, location: &Location, action: Action, error: object_store::Error) -> StoreError {
        failed(
            location,
            action,
            error,
            &self.inner.secrets,
            self.inner.options.endpoint(),
        )
    }

    /// The store and path of a URI without `*`.
    pub(crate) fn locate(&self, uri: &str) -> Result<Location, StoreError> {
        let parsed = parse(uri)?;
        let path = store_path(&parsed)?;
        let store = match &parsed.place {
            Place::Local => Arc::clone(&self.inner.local),
            Place::S3 { bucket } => self.bucket(bucket)?,
        };
        Ok(Location {
            store,
            path,
            place: parsed.place,
        })
    }

    /// Every object below a place, at any depth, but for the markers of folders there.
    pub(crate) async fn list_under(&self, base: &Location) -> Result<Vec<ObjectMeta>, StoreError> {
        let prefix = (!base.path.is_root()).then_some(&base.path);
        let mut metas: Vec<ObjectMeta> = self.listed(base, base.store.list(prefix).try_collect().await)?;
        let markers = markers(&metas, &base.path);
        metas.retain(|meta| meta.size > 0 || !markers.contains(&meta.location));
        Ok(metas)
    }

    /// The objects directly in a place, and the folders there.
    pub(crate) async fn list_in(&self, base: &Location) -> Result<(Vec<ObjectMeta>, Vec<Path>), StoreError> {
        let prefix = (!base.path.is_root()).then_some(&base.path);
        let found = base.store.list_with_delimiter(prefix).await;
        self.listed(base, found.map(|found| (found.objects, found.common_prefixes)))
    }

    /// A listing; that of what is not there is empty.
    fn listed<T: Default>(&self, base: &Location, found: object_store::Result<T>) -> Result<T, StoreError> {
        match found {
            Err(object_store::Error::NotFound { .. }) => Ok(T::default()),
            Err(_) if base.place == Place::Local && is_nothing(base) => Ok(T::default()),
            found => found.map_err(|error| self.failed(base, Action::List, error)),
        }
    }
}

/// The markers of folders (`out/`, as the console of S3 and Hadoop make them) in a listing, which takes their slash away: of what has no bytes the
/// place itself that was listed, and what others lie below.
fn markers(metas: &[ObjectMeta], base: &Path) -> HashSet<Path> {
    let all: BTreeSet<&str> = metas.iter().map(|meta| meta.location.as_ref()).collect();
    let is_marker = |location: &Path| location == base || is_folder(location.as_ref(), &all);
    let empty = metas.iter().filter(|meta| meta.size == 0).map(|meta| &meta.location);
    empty.filter(|location| is_marker(location)).cloned().collect()
}

/// Whether some of a listing's names are below another one.
fn is_folder(name: &str, all: &BTreeSet<&str>) -> bool {
    let folder = format!("{name}/");
    let next = all.range::<&str, _>(folder.as_str()..).next();
    next.is_some_and(|next| next.starts_with(&folder))
}

pub(crate) fn version(place: &Place, meta: &ObjectMeta) -> ObjectVersion {
    ObjectVersion {
        path: place.uri(meta.location.as_ref()),
        size: meta.size,
        etag: meta.e_tag.clone(),
    }
}

/// When an object was written by the store's own clock, in seconds since 1970.
fn written(meta: &ObjectMeta) -> u64 {
    u64::try_from(meta.last_modified.timestamp()).unwrap_or(0)
}

/// All that is in a folder and those below it and is no folder itself, links to folders included.
fn add_files(folder: &std::path::Path, files: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    if folder.is_symlink() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            add_files(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Removes the empty folders below a folder, and then that, if nothing else is in it; whether it is gone.
fn remove_if_empty(folder: &std::path::Path) -> std::io::Result<bool> {
    let is_gone = |error: &std::io::Error| error.kind() == ErrorKind::NotFound;
    let entries = match std::fs::read_dir(folder) {
        Err(error) if is_gone(&error) => return Ok(true),
        entries => entries?,
    };
    let mut is_empty = true;
    for entry in entries {
        let entry = entry?;
        // A link to a folder is none: what it leads to may be anybody's.
        is_empty &= entry.file_type()?.is_dir() && remove_if_empty(&entry.path())?;
    }
    if !is_empty {
        return Ok(false);
    }
    match std::fs::remove_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(true),
        // Something came since.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_of_a_folder_is_told_by_what_is_in_it() {
        let of = |name: &str, size: u64| ObjectMeta {
            location: Path::from(name),
            last_modified: SystemTime::UNIX_EPOCH.into(),
            size,
            e_tag: None,
            version: None,
        };
        let metas = [
            of("s", 0),
            of("s/night1.parquet", 0),
            of("s/night1.parquet.bak", 0),
            of("s/night1.parquet/a.parquet", 1),
            of("s/night2.parquet", 0),
            of("s/night3.parquet", 1),
            of("s/night3.parquet/a.parquet", 1),
        ];
        let found = markers(&metas, &Path::from("s"));
        assert_eq!(found, HashSet::from(["s", "s/night1.parquet"].map(Path::from)));
    }

    /// Whoever lost an output while it deletes leaves the rest, which may be the other's.
    #[cfg(unix)]
    #[test]
    fn what_a_link_leads_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (out, archive) = (folder.path().join("out"), folder.path().join("archive"));
        for folder in [&out, &archive, &archive.join("below")] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("part"), b"x").unwrap();
        }
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let uri = |path: &std::path::Path| path.display().to_string();
        std::os::unix::fs::symlink(&archive, out.join("predictions")).unwrap();
        stores.delete_prefix(&uri(&out.join("predictions"))).unwrap();
        assert!(!out.join("predictions").is_symlink());
        std::os::unix::fs::symlink(&archive, out.join("predictions")).unwrap();
        stores.delete_prefix(&uri(&out)).unwrap();
        assert!(!out.exists());
        assert_eq!(stores.list_all(&uri(&archive)).unwrap().len(), 2);
    }

    #[test]
    fn what_is_deleted_is_deleted_as_long_as_it_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().join("out").display().to_string();
        std::fs::create_dir_all(format!("{uri}/predictions")).unwrap();
        for object in 0..2 * AT_ONCE {
            std::fs::write(format!("{uri}/predictions/{object}"), b"x").unwrap();
        }
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let asked = std::cell::Cell::new(0);
        let lost = || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => Ok(()),
                _ => Err(stores.locate("s3:///").unwrap_err()),
            }
        };
        assert!(stores.delete_prefix_while(&uri, lost).is_err());
        assert_eq!(stores.list_all(&uri).unwrap().len(), AT_ONCE);
        assert_eq!(stores.delete_prefix(&uri).unwrap(), AT_ONCE as u64);
        assert!(!folder.path().join("out").exists());
    }
}
