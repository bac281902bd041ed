//! One object of a catalogue: what its footer says, and how many pixels its first spectra have.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::SchemaRef;
use fisherflow_spectra::{CatalogueColumns, ObjectVersion, Shard};
use futures::{FutureExt, StreamExt};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::file::metadata::{PageIndexPolicy, RowGroupMetaData};

use crate::catalogue::schema::{check_schema, pixel_bits, row_schema, type_name};
use crate::objects::async_reader::{ObjectReader, store_error};
use crate::{Cause, StoreError, Stores};

/// Rows looked at for the number of pixels.
const PROBE: usize = 64;

/// What the footer of one object says.
pub(crate) struct Opened {
    pub version: ObjectVersion,
    pub row_schema: SchemaRef,
    /// Of a pixel in memory.
    pub pixel_bits: u64,
    pub row_groups: Vec<u64>,
    /// Bytes that are read of the largest row group.
    pub row_group_bytes: u64,
    /// Values of the flux in each of them, as the footer counts them.
    pub flux_values: Vec<u64>,
    /// Pixels of a spectrum, as the footer counts them or the first spectra have; `None` where neither says.
    pub n_pixels: Option<usize>,
}

impl Opened {
    /// Whether it has a spectrum.
    pub fn has_rows(&self) -> bool {
        self.row_groups.iter().any(|&rows| rows > 0)
    }

    /// Rows and values of the flux of the row groups that have rows.
    fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.row_groups.iter().copied().zip(self.flux_values.iter().copied());
        counts.filter(|&(rows, _)| rows > 0)
    }

    /// The number of pixels of a spectrum, as the footer counts values where all spectra have equally many.
    fn counted_pixels(&self) -> Option<usize> {
        let mut counted = None;
        for (rows, values) in self.counts() {
            // A null or empty list counts as one value: one pixel is no answer.
            if !values.is_multiple_of(rows) || values / rows < 2 {
                return None;
            }
            let pixels = usize::try_from(values / rows).ok();
            if counted.is_some() && counted != pixels {
                return None;
            }
            counted = pixels;
        }
        counted
    }

    /// Whether its footer counts what most spectra having so many pixels, and the others none, would give.
    pub fn counts_as(&self, n_pixels: usize) -> bool {
        let nulls: Option<u64> = self
            .counts()
            .map(|(rows, values)| nulls_among(rows, values, n_pixels as u64))
            .sum();
        let rows: u64 = self.row_groups.iter().sum();
        nulls.is_some_and(|nulls| nulls < rows.div_ceil(2))
    }
}

/// How many of `rows` spectra are null or empty, where each of the others has `n_pixels` values and such a one counts as one; `None` where the values
/// come out for no number of them.
fn nulls_among(rows: u64, values: u64, n_pixels: u64) -> Option<u64> {
    let missing = rows.checked_mul(n_pixels)?.checked_sub(values)?;
    let of_each = n_pixels.saturating_sub(1);
    (missing.checked_rem(of_each)? == 0).then(|| missing / of_each)
}

/// Reads the footer of an object and checks it against the columns.
pub(crate) async fn open_object(
    reader: &ObjectReader,
    version: ObjectVersion,
    columns: &CatalogueColumns,
) -> Result<Opened, StoreError> {
    let footer = reader.footer(PageIndexPolicy::Skip).await?;
    check_schema(reader.object(), footer.schema(), columns)?;
    let row_schema = row_schema(reader.object(), footer.schema(), columns)?;
    let row_groups: Vec<u64> = footer
        .metadata()
        .row_groups()
        .iter()
        .map(|group| group.num_rows().unsigned_abs())
        .collect();
    let read = leaves(&footer, &columns.names());
    let bytes = footer
        .metadata()
        .row_groups()
        .iter()
        .map(|group| stored_bytes(group, &read));
    let mut opened = Opened {
        version,
        row_schema,
        pixel_bits: pixel_bits(footer.schema(), columns),
        row_groups,
        row_group_bytes: bytes.max().unwrap_or(0),
        flux_values: values_of(&footer, &columns.flux),
        n_pixels: None,
    };
    opened.n_pixels = opened.counted_pixels();
    Ok(opened)
}

/// How many values a column of lists has in each row group, as the footer counts them.
fn values_of(footer: &ArrowReaderMetadata, column: &str) -> Vec<u64> {
    let mask = leaves(footer, &[column]);
    let groups = footer.metadata().row_groups().iter();
    groups
        .map(|group| {
            let leaf = (0..group.num_columns()).find(|&leaf| mask.leaf_included(leaf));
            leaf.map_or(0, |leaf| group.column(leaf).num_values().unsigned_abs())
        })
        .collect()
}

/// The number of pixels that the first spectra of an object have, whatever its footer counts: the `expected` one where any of them has it, else that of
/// most; `None` where every flux of them is null or empty, or there is no row.
pub(crate) async fn probed_pixels(
    reader: &ObjectReader,
    flux: &str,
    expected: Option<usize>,
) -> Result<Option<usize>, StoreError> {
    // With the offset index only the first pages are read.
    let footer = reader.footer(PageIndexPolicy::Optional).await?;
    let groups = footer.metadata().row_groups();
    let Some(first) = groups.iter().position(|group| group.num_rows() > 0) else {
        return Ok(None);
    };
    let lengths = unless_gave_up(reader, first, first_lengths(reader, first, footer, flux)).await?;
    if let Some(expected) = expected.filter(|expected| lengths.contains_key(expected)) {
        return Ok(Some(expected));
    }
    // The most frequent; of two as frequent the longer.
    let most = lengths.into_iter().max_by_key(|&(length, count)| (count, length));
    Ok(most.map(|(length, _)| length))
}

/// The lengths that the first rows of a column of lists have, and how many have each, those without elements left out; `first`: the row group that
/// they are in.
async fn first_lengths(
    reader: &ObjectReader,
    first: usize,
    footer: ArrowReaderMetadata,
    flux: &str,
) -> Result<BTreeMap<usize, usize>, StoreError> {
    let mask = leaves(&footer, &[flux]);
    let damaged = |error| damaged(reader, first, error);
    let mut stream = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), footer)
        .with_projection(mask)
        .with_limit(PROBE)
        .with_batch_size(PROBE)
        .build()
        .map_err(damaged)?;
    let mut lengths: BTreeMap<usize, usize> = BTreeMap::new();
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(damaged)?;
        let Some(list) = batch.column(0).as_list_opt::<i32>() else {
            return Err(StoreError::ColumnType {
                object: reader.object().to_owned(),
                column: flux.to_owned(),
                found: type_name(batch.column(0).data_type()),
                expected: "a list of float or double".to_owned(),
            });
        };
        let lengths_of_rows = (0..list.len()).filter(|&row| list.is_valid(row));
        for length in lengths_of_rows.map(|row| list.value_length(row) as usize) {
            if length > 0 {
                *lengths.entry(length).or_default() += 1;
            }
        }
    }
    Ok(lengths)
}

/// Some columns of each shard, in the order of the file; of shards of one object that follow one another the footer is read once.
pub(crate) async fn columns_of(
    stores: &Stores,
    shards: &[Shard],
    names: &[&str],
) -> Result<Vec<Vec<RecordBatch>>, StoreError> {
    let mut columns = Vec::with_capacity(shards.len());
    for of_object in shards.chunk_by(|one, next| one.object == next.object) {
        let Some(first) = of_object.first() else {
            continue;
        };
        let reader = ObjectReader::new(stores, first.object.clone())?;
        let footer = reader.footer(PageIndexPolicy::Skip).await?;
        for shard in of_object {
            columns.push(columns_of_row_group(&reader, footer.clone(), shard.row_group, names).await?);
        }
    }
    Ok(columns)
}

async fn columns_of_row_group(
    reader: &ObjectReader,
    footer: ArrowReaderMetadata,
    row_group: usize,
    names: &[&str],
) -> Result<Vec<RecordBatch>, StoreError> {
    let mask = leaves(&footer, names);
    let damaged = |error| damaged(reader, row_group, error);
    let read = async {
        let mut stream = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), footer)
            .with_row_groups(vec![row_group])
            .with_projection(mask)
            .build()
            .map_err(damaged)?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch.map_err(damaged)?);
        }
        Ok::<_, StoreError>(batches)
    };
    unless_gave_up(reader, row_group, read).await
}

/// What comes of reading and decoding a row group.
///
/// # Errors
/// Those of `read`; damaged bytes can make a decoder panic, and that is a fact about the file.
pub(crate) async fn unless_gave_up<T>(
    reader: &ObjectReader,
    row_group: usize,
    read: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let read = AssertUnwindSafe(read).catch_unwind().await;
    read.unwrap_or_else(|_| {
        Err(StoreError::BadRowGroup {
            object: reader.object().to_owned(),
            row_group,
            source: Cause::said("the decoder gave up"),
        })
    })
}

/// The leaves of top-level columns.
pub(crate) fn leaves(footer: &ArrowReaderMetadata, names: &[&str]) -> ProjectionMask {
    let schema = footer.parquet_schema();
    let roots = schema
        .root_schema()
        .get_fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| names.contains(&field.name()))
        .map(|(root, _)| root);
    ProjectionMask::roots(schema, roots)
}

/// Bytes of some leaves of a row group, as they are stored.
pub(crate) fn stored_bytes(row_group: &RowGroupMetaData, mask: &ProjectionMask) -> u64 {
    row_group
        .columns()
        .iter()
        .enumerate()
        .filter(|(leaf, _)| mask.leaf_included(*leaf))
        .map(|(_, column)| column.compressed_size().unsigned_abs())
        .sum()
}

/// From the decoder's error to one that names the row group.
pub(crate) fn damaged(reader: &ObjectReader, row_group: usize, error: parquet::errors::ParquetError) -> StoreError {
    store_error(error).unwrap_or_else(|error| StoreError::BadRowGroup {
        object: reader.object().to_owned(),
        row_group,
        source: Cause::new(&error, reader.secrets()),
    })
}

/// The row groups of an object.
pub(crate) fn shards(opened: &Opened) -> Vec<Shard> {
    let mut first_row = 0;
    let mut shards = Vec::new();
    for (row_group, &n_rows) in opened.row_groups.iter().enumerate() {
        if n_rows > 0 {
            shards.push(Shard {
                object: opened.version.clone(),
                row_group,
                n_rows,
                first_row,
            });
        }
        first_row += n_rows;
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_told_from_another_number_of_pixels_by_what_the_footer_counts() {
        // 7 spectra of 8 pixels, one of them null; and as many of 5.
        assert_eq!(nulls_among(7, 6 * 8 + 1, 8), Some(1));
        assert_eq!(nulls_among(7, 6 * 5 + 1, 8), None);
        assert_eq!(nulls_among(7, 6 * 9 + 1, 8), None);
        assert_eq!(nulls_among(7, 7 * 8, 8), Some(0));
        assert_eq!(nulls_among(7, 7, 1), None);
        assert_eq!(nulls_among(u64::MAX, 7, 8), None);
    }
}
