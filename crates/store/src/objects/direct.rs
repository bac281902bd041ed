//! Files past the page cache: what a run writes or reads once would only push out of it what is read again and again.
//!
//! The system takes direct writes and reads in whole blocks, from and to memory that is aligned like them. What is no whole block, and
//! everything where the file system does not do it, goes the ordinary way.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

/// Bytes that positions, lengths and memory are aligned to: a page, and no smaller than a block of any disk.
const ALIGNMENT: usize = 4096;
/// Bytes of one direct write.
const STAGE: usize = 4 << 20;

/// A new file that is being written, at several places in any order.
#[derive(Debug)]
pub(crate) struct LargeFile {
    /// `None` where the file system knows no direct writes.
    direct: Option<File>,
    /// The same file through the page cache.
    cached: File,
    /// What is written next, from an aligned place on.
    stage: Vec<u8>,
}

impl LargeFile {
    /// Of a new file and its path.
    pub fn new(cached: File, path: &Path) -> Self {
        Self {
            direct: open(OpenOptions::new().write(true), path),
            cached,
            stage: Vec::new(),
        }
    }

    /// Writes `parts`, one after another, from byte `at` on.
    pub fn write<'a>(&mut self, mut at: u64, parts: impl Iterator<Item = &'a [u8]>) -> std::io::Result<()> {
        if self.direct.is_none() || !at.is_multiple_of(ALIGNMENT as u64) {
            self.cached.seek(SeekFrom::Start(at))?;
            let mut parts = parts;
            return parts.try_for_each(|part| self.cached.write_all(part));
        }
        let mut stage = std::mem::take(&mut self.stage);
        let start = begin(&mut stage);
        for mut part in parts {
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(start + STAGE - stage.len()));
                stage.extend_from_slice(now);
                part = later;
                if stage.len() == start + STAGE {
                    self.put(at, &stage[start..])?;
                    at += STAGE as u64;
                    stage.truncate(start);
                }
            }
        }
        self.put(at, &stage[start..])?;
        self.stage = stage;
        Ok(())
    }

    /// Flushes it to the disk.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.stage = Vec::new();
        self.cached.sync_all()
    }

    /// Writes aligned bytes to an aligned place: whole blocks directly, the rest through the page cache.
    fn put(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        let whole = bytes.len() - bytes.len() % ALIGNMENT;
        let written = self.put_blocks(at, &bytes[..whole])?;
        if written < bytes.len() {
            self.cached.seek(SeekFrom::Start(at + written as u64))?;
            self.cached.write_all(&bytes[written..])?;
        }
        Ok(())
    }

    /// Writes whole blocks directly; how many bytes were, before the file system would no more.
    fn put_blocks(&mut self, at: u64, blocks: &[u8]) -> std::io::Result<usize> {
        let Some(direct) = &mut self.direct else { return Ok(0) };
        direct.seek(SeekFrom::Start(at))?;
        let mut written = 0;
        while written < blocks.len() && written.is_multiple_of(ALIGNMENT) {
            match direct.write(&blocks[written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_unknown(&error) => {
                    self.direct = None;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}

/// A range of a file; `None` where it cannot be read directly: whoever asks then goes the ordinary way, and meets any error there.
pub(crate) fn read(path: &Path, range: &Range<u64>) -> Option<Bytes> {
    let mut file = open(OpenOptions::new().read(true), path)?;
    let before = (range.start % ALIGNMENT as u64) as usize;
    let wanted = before + (range.end - range.start) as usize;
    let blocks = wanted.next_multiple_of(ALIGNMENT);
    let mut bytes = vec![0; blocks + ALIGNMENT];
    let start = offset(&bytes);
    file.seek(SeekFrom::Start(range.start - before as u64)).ok()?;
    let mut read = 0;
    // What is no whole number of blocks is the end of the file.
    while read < wanted && read.is_multiple_of(ALIGNMENT) {
        match file.read(&mut bytes[start + read..start + blocks]) {
            Ok(0) => return None,
            Ok(n) => read += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    (read >= wanted).then(|| Bytes::from(bytes).slice(start + before..start + wanted))
}

/// An empty stage with room, up to its first aligned place.
fn begin(stage: &mut Vec<u8>) -> usize {
    stage.clear();
    stage.reserve_exact(STAGE + ALIGNMENT);
    let start = offset(stage);
    stage.resize(start, 0);
    start
}

/// The first aligned place of memory.
fn offset(memory: &[u8]) -> usize {
    // A place that cannot be told is one that the file system refuses.
    memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT)
}

/// Whether an error says that the file system knows no such access.
fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

/// A file for direct access; `None` where that cannot be.
#[cfg(target_os = "linux")]
fn open(options: &mut OpenOptions, path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open(_: &mut OpenOptions, _: &Path) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 31 + i / 4096) as u8).collect()
    }

    fn create(folder: &tempfile::TempDir) -> (LargeFile, std::path::PathBuf) {
        let path = folder.path().join("file");
        (LargeFile::new(File::create(&path).unwrap(), &path), path)
    }

    #[test]
    fn parts_of_any_size_in_any_order_make_the_file() {
        let all = numbers(3 * STAGE + 12_345);
        for cuts in [
            vec![],
            vec![STAGE],
            vec![4096, STAGE + 4096],
            vec![1, 4097, 2 * STAGE - 1],
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mut file, path) = create(&folder);
            let mut cuts = cuts;
            cuts.push(all.len());
            let mut last = 0;
            let mut spans = Vec::new();
            for cut in cuts {
                spans.push(last..cut);
                last = cut;
            }
            for span in spans.into_iter().rev() {
                file.write(span.start as u64, all[span].chunks(100_003)).unwrap();
            }
            file.flush().unwrap();
            assert!(std::fs::read(&path).unwrap() == all);
        }
    }

    #[test]
    fn what_the_file_system_refuses_is_written_through_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let (mut file, path) = create(&folder);
        let all = numbers(STAGE);
        let mut memory = Vec::new();
        let start = begin(&mut memory) + 1;
        memory.resize(start, 0);
        memory.extend_from_slice(&all);
        // Memory that is not aligned: most file systems take none.
        file.put(0, &memory[start..]).unwrap();
        assert!(std::fs::read(&path).unwrap() == all);
    }

    #[test]
    fn a_range_is_read_from_any_byte_to_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let all = numbers(70_001);
        std::fs::write(&path, &all).unwrap();
        for range in [
            0..4096,
            0..70_001,
            1..2,
            4095..4097,
            8192..70_000,
            65_536..70_001,
            70_000..70_001,
        ] {
            // `None` where the folder's file system does not read directly.
            if let Some(read) = read(&path, &(range.start as u64..range.end as u64)) {
                assert_eq!(read, all[range]);
            }
        }
        assert_eq!(read(&path, &(0..70_002)), None);
    }
}
