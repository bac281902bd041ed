//! Tiles of a matrix as objects of a folder: created whole or not at all, so that a run that was killed goes on from those that are there.
//!
//! An object holds `fftile02`, the SHA-256 of all that follows, the numbers of rows and columns as u64, and the values row after row as f64, all
//! little-endian. Where one that is read is not as it was written, all such ones of the folder are deleted: the run ends, and the next one computes
//! them again. One of another format has another name, so it is not there.

use sha2::{Digest, Sha256};

use crate::{Cause, Creation, StoreError, Stores};

const MARK: &[u8; 8] = b"fftile02";
/// How the names begin: with the same number.
const NAME: &str = "tile02-";
/// Bytes of the hash.
const HASH: usize = 32;
/// Bytes of the two sizes.
const SIZES: usize = 16;

/// A tile's numbers of rows and of columns, and its values row after row.
pub type Tile = ([usize; 2], Vec<f64>);

/// A folder of tiles.
#[derive(Clone, Debug)]
pub struct TileFolder {
    stores: Stores,
    folder: String,
}

impl TileFolder {
    /// The folder at a URI; touches nothing.
    #[must_use]
    pub fn new(stores: &Stores, uri: &str) -> Self {
        Self {
            stores: stores.clone(),
            folder: uri.trim_end_matches('/').to_owned(),
        }
    }

    /// Whether a tile is there.
    ///
    /// # Errors
    /// The store does not say.
    pub fn has(&self, row: usize, column: usize) -> Result<bool, StoreError> {
        self.stores.exists(&self.uri(row, column))
    }

    /// Writes a tile `values [rows, cols]`, row after row, unless it is there.
    ///
    /// # Errors
    /// It cannot be written, or another one is there.
    pub fn create(&self, row: usize, column: usize, sizes: [usize; 2], values: &[f64]) -> Result<(), StoreError> {
        let uri = self.uri(row, column);
        let mut bytes = Vec::with_capacity(MARK.len() + HASH + SIZES + 8 * values.len());
        bytes.extend_from_slice(MARK);
        bytes.extend_from_slice(&[0; HASH]);
        for size in sizes {
            bytes.extend_from_slice(&(size as u64).to_le_bytes());
        }
        for value in values {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let (header, hashed) = bytes.split_at_mut(MARK.len() + HASH);
        header[MARK.len()..].copy_from_slice(&Sha256::digest(hashed));
        match self.stores.create_once(&uri, bytes)? {
            Creation::Created | Creation::Ours => Ok(()),
            Creation::Others(found) if parse(&found).is_some_and(|(of, found)| of == sizes && found == values) => {
                Ok(())
            }
            Creation::Others(_) => Err(unlike(&uri, "another tile of the same run")),
        }
    }

    /// Reads a tile; `None` where it is not there.
    ///
    /// # Errors
    /// It cannot be read, or is not as it was written ([`StoreError::LostTile`]): then it is deleted, with all others of the folder that are not either.
    pub fn read(&self, row: usize, column: usize) -> Result<Option<Tile>, StoreError> {
        let uri = self.uri(row, column);
        let Some(bytes) = self.stores.read_if_there(&uri)? else {
            return Ok(None);
        };
        let tile = parse(&bytes);
        if tile.is_none() {
            self.delete_damaged()?;
            return Err(self.lost(row, column));
        }
        Ok(tile)
    }

    /// The error of a tile that is needed, and neither there nor anywhere else.
    #[must_use]
    pub fn lost(&self, row: usize, column: usize) -> StoreError {
        StoreError::LostTile {
            uri: self.uri(row, column),
        }
    }

    /// Deletes the tiles that are not as they were written: where one is not, others may not be, and each would end a run.
    fn delete_damaged(&self) -> Result<(), StoreError> {
        let is_tile = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with(NAME));
        for object in self.stores.list_all(&self.folder)? {
            if is_tile(&object.path)
                && let Some(bytes) = self.stores.read_if_there(&object.path)?
                && parse(&bytes).is_none()
            {
                self.stores.delete(&object.path)?;
            }
        }
        Ok(())
    }

    fn uri(&self, row: usize, column: usize) -> String {
        format!("{}/{NAME}{row:05}-{column:05}", self.folder)
    }
}

fn parse(bytes: &[u8]) -> Option<Tile> {
    let (hash, hashed) = bytes.strip_prefix(MARK)?.split_at_checked(HASH)?;
    if *hash != Sha256::digest(hashed)[..] {
        return None;
    }
    let (sizes, body) = hashed.split_at_checked(SIZES)?;
    let size = |at: usize| -> Option<usize> {
        let bytes: [u8; 8] = sizes.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let (rows, cols) = (size(0)?, size(8)?);
    if body.len() != rows.checked_mul(cols)?.checked_mul(8)? {
        return None;
    }
    let values = body.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
    Some(([rows, cols], values.collect()))
}

fn unlike(uri: &str, what: &str) -> StoreError {
    StoreError::BadDocument {
        uri: uri.to_owned(),
        source: Cause::said(format!("it holds {what}: delete it and run again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn tiles_are_created_once_and_read_back_bit_for_bit_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let folder = TileFolder::new(&stores, home.path().join("tiles").to_str().unwrap());
        let (sizes, values) = ([2, 3], [1.0, -0.0, f64::MIN_POSITIVE, 3e300, 5.0, 1.0 / 3.0]);
        assert!(!folder.has(4, 1).unwrap());
        assert_eq!(folder.read(4, 1).unwrap(), None);
        folder.create(4, 1, sizes, &values).unwrap();
        folder.create(4, 1, sizes, &values).unwrap();
        assert!(folder.has(4, 1).unwrap() && !folder.has(1, 4).unwrap());
        let (found_sizes, found) = folder.read(4, 1).unwrap().unwrap();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!((found_sizes, bits(&found)), (sizes, bits(&values)));
        let mut other = values;
        other[0] = 2.0;
        assert!(folder.create(4, 1, sizes, &other).is_err());
        let path_of = |name: &str| home.path().join("tiles").join(name);
        let path = path_of("tile02-00004-00001");
        let bytes = std::fs::read(&path).unwrap();
        folder.create(4, 2, sizes, &values).unwrap();
        // Of an earlier format.
        std::fs::write(path_of("tile-00004-00003"), "fftile01").unwrap();
        assert!(!folder.has(4, 3).unwrap());
        for damage in [
            |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1),
            |bytes: &mut Vec<u8>| bytes.truncate(10),
            // A bit of the hash, of a size and of a value.
            |bytes: &mut Vec<u8>| bytes[9] ^= 1,
            |bytes: &mut Vec<u8>| bytes[40] ^= 1,
            |bytes: &mut Vec<u8>| bytes[60] ^= 1,
        ] {
            let mut damaged = bytes.clone();
            damage(&mut damaged);
            for path in [&path, &path_of("tile02-00004-00000")] {
                std::fs::write(path, &damaged).unwrap();
            }
            let error = folder.read(4, 1).unwrap_err();
            assert!(matches!(error, StoreError::LostTile { .. }), "{error}");
            assert!(error.to_string().contains("tile02-00004-00001"), "{error}");
            // It is computed again, and so is the other one.
            let there = [0, 1, 2].map(|column| folder.has(4, column).unwrap());
            assert_eq!(there, [false, false, true]);
            folder.create(4, 1, sizes, &values).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }
}
