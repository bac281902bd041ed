//! A Parquet table of any columns at any URI: what a query was asked to write.

use arrow_array::RecordBatch;

use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::{StoreError, Stores};

/// Writes a Parquet file; replaces what is there. Nothing is visible before its end.
///
/// # Errors
/// There is no batch, a batch has other columns than the first, or the store does not take it.
pub fn write_table(
    stores: &Stores,
    uri: &str,
    batches: impl IntoIterator<Item = RecordBatch>,
    metadata: &FileMetadata,
) -> Result<WrittenFile, StoreError> {
    let refused = |reason: &str| StoreError::BadUri {
        uri: uri.to_owned(),
        reason: reason.to_owned(),
    };
    let (folder, name) = uri
        .rsplit_once('/')
        .ok_or_else(|| refused("it names no file in a folder"))?;
    let mut batches = batches.into_iter().peekable();
    let Some(first) = batches.peek() else {
        return Err(refused("there is nothing to write to it"));
    };
    let mut out = ParquetOut::create(stores, folder, name, &first.schema(), metadata)?;
    for batch in batches {
        out.write(&batch)?;
    }
    out.finish()
}
