//! One object of a catalogue: what its footer says, and whether it fits the objects before it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
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
    /// Pixels of a spectrum, as the footer counts them; `None` where it does not say.
    pub n_pixels: Option<usize>,
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
    Ok(Opened {
        version,
        row_schema,
        pixel_bits: pixel_bits(footer.schema(), columns),
        row_groups,
        row_group_bytes: bytes.max().unwrap_or(0),
        n_pixels: counted_pixels(&footer, &columns.flux),
    })
}

/// The number of pixels of a spectrum, as the footer counts values where all spectra have equally many.
fn counted_pixels(footer: &ArrowReaderMetadata, flux: &str) -> Option<usize> {
    let mask = leaves(footer, &[flux]);
    let mut counted = None;
    for group in footer.metadata().row_groups() {
        let rows = group.num_rows();
        if rows < 1 {
            continue;
        }
        let leaf = (0..group.num_columns()).find(|&leaf| mask.leaf_included(leaf))?;
        let values = group.column(leaf).num_values();
        // A null or empty list counts as one value: one pixel is no answer.
        if values % rows != 0 || values / rows < 2 {
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

/// The number of pixels that most of the first spectra of an object have, whatever its footer counts; `None` where every flux of them is null or
/// there is no row.
pub(crate) async fn probed_pixels(reader: &ObjectReader, flux: &str) -> Result<Option<usize>, StoreError> {
    // With the offset index only the first pages are read.
    let footer = reader.footer(PageIndexPolicy::Optional).await?;
    let groups = footer.metadata().row_groups();
    let Some(first) = groups.iter().position(|group| group.num_rows() > 0) else {
        return Ok(None);
    };
    unless_gave_up(reader, first, most_frequent_length(reader, first, footer, flux)).await
}

/// The length that most of the first rows of a column of lists have; `first`: the row group that they are in.
async fn most_frequent_length(
    reader: &ObjectReader,
    first: usize,
    footer: ArrowReaderMetadata,
    flux: &str,
) -> Result<Option<usize>, StoreError> {
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
        for row in (0..list.len()).filter(|&row| list.is_valid(row)) {
            *lengths.entry(list.value_length(row) as usize).or_default() += 1;
        }
    }
    // The most frequent; of two as frequent the longer.
    Ok(lengths
        .into_iter()
        .max_by_key(|&(length, count)| (count, length))
        .map(|(length, _)| length))
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

/// Checks an object against the first one.
pub(crate) fn agrees(
    opened: &Opened,
    first: Option<&(String, SchemaRef)>,
    n_pixels: usize,
    pixels_by: &str,
) -> Result<(), StoreError> {
    let object = &opened.version.path;
    if let Some(found) = opened.n_pixels
        && n_pixels != 0
        && found != n_pixels
    {
        return Err(StoreError::PixelCount {
            object: object.clone(),
            found,
            expected: n_pixels,
            expected_by: pixels_by.to_owned(),
        });
    }
    let Some((by, expected)) = first else {
        return Ok(());
    };
    same_types(object, &opened.row_schema, by, expected)
}

fn same_types(object: &str, found: &Schema, by: &str, expected: &Schema) -> Result<(), StoreError> {
    for (field, expected) in found.fields().iter().zip(expected.fields()) {
        // What the elements of a list are called differs from writer to writer, and means nothing.
        if !field.data_type().equals_datatype(expected.data_type()) {
            return Err(StoreError::ColumnType {
                object: object.to_owned(),
                column: field.name().clone(),
                found: type_name(field.data_type()),
                expected: format!("{} as in {by}", type_name(expected.data_type())),
            });
        }
    }
    Ok(())
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
    use std::sync::Arc;

    use arrow_schema::{DataType, Field};

    use super::*;

    #[test]
    fn lists_are_of_one_type_whatever_their_elements_are_called() {
        let schema = |element: &str, of: DataType| {
            let list = DataType::List(Arc::new(Field::new(element, of, true)));
            Schema::new(vec![Field::new("abundances", list, true)])
        };
        let found = schema("item", DataType::Float32);
        same_types("/b", &found, "/a", &schema("element", DataType::Float32)).unwrap();
        let error = same_types("/b", &found, "/a", &schema("item", DataType::Float64)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "column \"abundances\" of /b is a list of float, expected a list of double as in /a"
        );
    }
}
