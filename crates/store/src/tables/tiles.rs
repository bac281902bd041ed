//! Tiles of a matrix as objects of a folder: created whole or not at all, so that a run that was killed goes on from those that are there.
//!
//! An object holds `fftile01`, the numbers of rows and columns as u64, and the values row after row as f64, all little-endian.

use crate::{Cause, Creation, StoreError, Stores};

const MARK: &[u8; 8] = b"fftile01";
const HEADER: usize = 24;

/// A folder of tiles.
#[derive(Clone, Debug)]
pub struct TileFolder {
    stores: Stores,
    folder: String,
}

/// A tile as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTile {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` values, row after row.
    pub values: Vec<f64>,
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

    /// Writes a tile, unless it is there.
    ///
    /// # Errors
    /// It cannot be written, or another one is there.
    pub fn create(&self, row: usize, column: usize, tile: &StoredTile) -> Result<(), StoreError> {
        let uri = self.uri(row, column);
        let mut bytes = Vec::with_capacity(HEADER + 8 * tile.values.len());
        bytes.extend_from_slice(MARK);
        for size in [tile.rows, tile.cols] {
            bytes.extend_from_slice(&(size as u64).to_le_bytes());
        }
        for value in &tile.values {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        match self.stores.create_once(&uri, bytes)? {
            Creation::Created | Creation::Ours => Ok(()),
            Creation::Others(found) if parse(&found).as_ref() == Some(tile) => Ok(()),
            Creation::Others(_) => Err(unlike(&uri, "another tile of the same run")),
        }
    }

    /// Reads a tile.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is no tile.
    pub fn read(&self, row: usize, column: usize) -> Result<StoredTile, StoreError> {
        let uri = self.uri(row, column);
        parse(&self.stores.read(&uri)?).ok_or_else(|| unlike(&uri, "no tile"))
    }

    fn uri(&self, row: usize, column: usize) -> String {
        format!("{}/tile-{row:05}-{column:05}", self.folder)
    }
}

fn parse(bytes: &[u8]) -> Option<StoredTile> {
    let (header, body) = bytes.split_at_checked(HEADER)?;
    let size = |at: usize| -> Option<usize> {
        let bytes: [u8; 8] = header.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let (rows, cols) = (size(8)?, size(16)?);
    if !header.starts_with(MARK) || body.len() != rows.checked_mul(cols)?.checked_mul(8)? {
        return None;
    }
    let values = body.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
    Some(StoredTile {
        rows,
        cols,
        values: values.collect(),
    })
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
    fn tiles_are_created_once_and_read_back_bit_for_bit() {
        let home = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let folder = TileFolder::new(&stores, home.path().join("tiles").to_str().unwrap());
        let tile = StoredTile {
            rows: 2,
            cols: 3,
            values: vec![1.0, -0.0, f64::MIN_POSITIVE, 3e300, 5.0, 1.0 / 3.0],
        };
        assert!(!folder.has(4, 1).unwrap());
        assert!(matches!(folder.read(4, 1), Err(StoreError::NotFound { .. })));
        folder.create(4, 1, &tile).unwrap();
        folder.create(4, 1, &tile).unwrap();
        assert!(folder.has(4, 1).unwrap() && !folder.has(1, 4).unwrap());
        let bits = |tile: &StoredTile| tile.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&folder.read(4, 1).unwrap()), bits(&tile));
        let mut other = tile;
        other.values[0] = 2.0;
        assert!(folder.create(4, 1, &other).is_err());
        let path = home.path().join("tiles/tile-00004-00001");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = folder.read(4, 1).unwrap_err();
        assert!(format!("{error:?}").contains("no tile"), "{error:?}");
    }
}
