//! Files on a disk: whole or not there, and on the disk itself before anybody is told that they are.
//!
//! A file is written beside its place as `name#1`, flushed to the disk (`fsync`), and moved or linked to its name; then the folder is
//! flushed. So what a document names (a commit, the mark of a finished group) is on the disk before the document is. Listings leave out
//! `name#1`: what a killed process left there is never read.
//!
//! Large files, which are written in parts, go past the page cache where that can be (`direct.rs`); so do reads that say [`ReadOnce`].

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use crate::objects::direct::{self, LargeFile};

/// Times that the folder of a new file is made: whoever removes empty ones may come before the file.
const ROUNDS: u32 = 8;

/// Files on a disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    files: LocalFileSystem,
}

/// An extension of a request: nobody is going to read the same bytes again soon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOnce;

/// A file could not be written; goes through `object_store` as the source of its error.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(crate) struct NotWritten {
    /// Bytes it was to have, as far as they were known.
    pub bytes: u64,
    pub source: std::io::Error,
}

/// A file system makes no hard links; within the error of the system.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoHardLinks(std::io::Error);

impl NotWritten {
    fn of(bytes: u64) -> impl Fn(std::io::Error) -> Error {
        move |source| Error::Generic {
            store: "disk",
            source: Box::new(NotWritten { bytes, source }),
        }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

#[async_trait]
impl ObjectStore for Disk {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.files.put_opts(path, payload, options).await,
        };
        let file = self.files.path_to_filesystem(path)?;
        let bytes = payload.content_length() as u64;
        let name = path.to_string();
        blocking(move || match write(&file, &payload, create) {
            Ok(()) => Ok(PutResult {
                e_tag: None,
                version: None,
            }),
            Err(error) if create && error.kind() == ErrorKind::AlreadyExists => Err(Error::AlreadyExists {
                path: name,
                source: Box::new(error),
            }),
            Err(error) => Err(NotWritten::of(bytes)(error)),
        })
        .await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let file = self.files.path_to_filesystem(path)?;
        blocking(move || {
            let (cached, beside) = staged(&file).map_err(NotWritten::of(0))?;
            let large = Arc::new(Mutex::new(LargeFile::new(cached, &beside)));
            let upload = Upload {
                file,
                beside: Some(beside),
                large,
                bytes: 0,
            };
            Ok(Box::new(upload) as Box<dyn MultipartUpload>)
        })
        .await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let once = options.extensions.get::<ReadOnce>().is_some() && !options.head;
        let mut result = self.files.get_opts(path, options).await?;
        if let (true, GetResultPayload::File(_, file)) = (once, &result.payload) {
            let (file, range) = (file.clone(), result.range.clone());
            let read = blocking(move || Ok(direct::read(&file, &range))).await?;
            if let Some(bytes) = read {
                result.payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
            }
        }
        Ok(result)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}

/// A large file, written in parts.
#[derive(Debug)]
struct Upload {
    file: PathBuf,
    /// Where it is written; `None` once it is at its place, or given up.
    beside: Option<PathBuf>,
    large: Arc<Mutex<LargeFile>>,
    bytes: u64,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (at, large) = (self.bytes, Arc::clone(&self.large));
        self.bytes += data.content_length() as u64;
        let bytes = self.bytes;
        Box::pin(blocking(move || {
            let mut large = large.lock().unwrap_or_else(PoisonError::into_inner);
            let parts = data.iter().map(AsRef::as_ref);
            large.write(at, parts).map_err(NotWritten::of(bytes))
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Some(beside) = self.beside.take() else {
            return Err(NotWritten::of(self.bytes)(ErrorKind::NotFound.into()));
        };
        let (file, large, bytes) = (self.file.clone(), Arc::clone(&self.large), self.bytes);
        blocking(move || {
            let flushed = large.lock().unwrap_or_else(PoisonError::into_inner).flush();
            let placed = flushed.and_then(|()| std::fs::rename(&beside, &file));
            if placed.is_err() {
                remove(&beside);
            }
            placed.and_then(|()| flush_folder(&file)).map_err(NotWritten::of(bytes))
        })
        .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn abort(&mut self) -> Result<()> {
        let Some(beside) = self.beside.take() else {
            return Ok(());
        };
        blocking(move || {
            remove(&beside);
            Ok(())
        })
        .await
    }
}

impl Drop for Upload {
    /// An upload that was given up leaves nothing behind.
    fn drop(&mut self) {
        if let Some(beside) = self.beside.take() {
            remove(&beside);
        }
    }
}

/// Removes a file that did not come to its place.
fn remove(beside: &FilePath) {
    if let Err(error) = std::fs::remove_file(beside) {
        tracing::debug!(file = %beside.display(), %error, "a half-written file stays");
    }
}

/// Writes a file, whole or not at all; with `create` only where there is none.
fn write(file: &FilePath, payload: &PutPayload, create: bool) -> std::io::Result<()> {
    write_by(file, payload, create, |from, to| std::fs::hard_link(from, to))
}

/// The same, where `link` makes a hard link.
fn write_by(
    file: &FilePath,
    payload: &PutPayload,
    create: bool,
    link: impl FnOnce(&FilePath, &FilePath) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let (mut staged, beside) = staged(file)?;
    let written = payload
        .iter()
        .try_for_each(|bytes| staged.write_all(bytes))
        .and_then(|()| staged.sync_all());
    drop(staged);
    let placed = written.and_then(|()| {
        if create {
            link(&beside, file).map_err(not_linked)
        } else {
            std::fs::rename(&beside, file)
        }
    });
    if create || placed.is_err() {
        remove(&beside);
    }
    placed.and_then(|()| flush_folder(file))
}

/// The error of a link. It is to a file of ours in its own folder: where that is not allowed, no link is.
fn not_linked(error: std::io::Error) -> std::io::Error {
    // On Linux; not everywhere of a kind of its own.
    const EOPNOTSUPP: i32 = 95;
    let is_unknown = matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported)
        || (cfg!(target_os = "linux") && error.raw_os_error() == Some(EOPNOTSUPP));
    match is_unknown {
        true => std::io::Error::new(error.kind(), NoHardLinks(error)),
        false => error,
    }
}

/// A new file beside `file`, its folders made where they are not there.
fn staged(file: &FilePath) -> std::io::Result<(File, PathBuf)> {
    staged_in(file, make_folder)
}

/// The same, where `make` makes a folder.
fn staged_in(
    file: &FilePath,
    mut make: impl FnMut(&FilePath) -> std::io::Result<()>,
) -> std::io::Result<(File, PathBuf)> {
    let (mut number, mut rounds) = (1_u64, 0);
    loop {
        let mut name = file.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let beside = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Ok(staged) => return Ok((staged, beside)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => match (error.kind(), file.parent()) {
                // Some file systems have a folder in which no file can be.
                (ErrorKind::NotFound, Some(folder)) if rounds < ROUNDS => {
                    make(folder)?;
                    rounds += 1;
                }
                _ => return Err(error),
            },
        }
    }
}

/// Makes a folder, and those above it. Where one of them goes meanwhile, its file finds none.
fn make_folder(folder: &FilePath) -> std::io::Result<()> {
    match std::fs::create_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        made => made,
    }
}

/// Flushes the folder of a file. Some file systems have no such thing, and need none.
fn flush_folder(file: &FilePath) -> std::io::Result<()> {
    let Some(folder) = file.parent() else {
        return Ok(());
    };
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        flushed => flushed,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_goes_before_its_file_is_there_is_made_again() {
        let home = tempfile::tempdir().unwrap();
        let mut goes = 3;
        let made = |folder: &FilePath| -> std::io::Result<()> {
            make_folder(folder)?;
            if goes > 0 {
                goes -= 1;
                std::fs::remove_dir_all(home.path().join("groups"))?;
            }
            Ok(())
        };
        let (_, beside) = staged_in(&home.path().join("groups/curvature/c9.sums"), made).unwrap();
        assert_eq!(beside, home.path().join("groups/curvature/c9.sums#1"));
        assert!(beside.exists());
        // One in which no file can be is not made for ever.
        let error = staged_in(&home.path().join("nowhere/c9.sums"), |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_system_without_hard_links_is_told_from_a_place_that_takes_nothing() {
        use crate::StoreError;
        use crate::objects::failure::{Action, failed};
        use crate::objects::location::{Location, Place};

        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("claim.json");
        let location = Location {
            store: Arc::new(Disk::default()),
            path: Path::from_filesystem_path(home.path()).unwrap().join("claim.json"),
            place: Place::Local,
        };
        let of = |code| {
            let link = |_: &FilePath, _: &FilePath| Err(std::io::Error::from_raw_os_error(code));
            let error = write_by(&file, &PutPayload::from(vec![1_u8]), true, link).unwrap_err();
            failed(&location, Action::Write, NotWritten::of(1)(error), &[], None)
        };
        // EPERM, ENOSYS, EOPNOTSUPP.
        for code in [1, 38, 95] {
            let error = of(code);
            assert!(matches!(error, StoreError::NoHardLinks { .. }), "{error:?}");
            let said = error.to_string();
            assert!(said.contains("/claim.json") && said.contains("hard links"), "{said}");
        }
        // EIO, EROFS.
        assert!(matches!(of(5), StoreError::DiskFailed { .. }));
        assert!(matches!(of(30), StoreError::NotWritable { .. }));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
