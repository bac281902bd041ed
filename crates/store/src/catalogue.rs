//! A catalogue: which objects a URI names, whether they fit together, and which shards they hold.

use std::collections::BTreeMap;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_schema::{Schema, SchemaRef};
use fisherflow_spectra::{
    BatchShape, CatalogueColumns, ErrorKind, FluxError, Group, LabelErrorKind, LabelErrors,
    MaskKind, ObjectVersion, Shard,
};
use futures::StreamExt;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::file::metadata::PageIndexPolicy;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::async_reader::{ObjectReader, store_error};
use crate::catalogue_schema::{check_schema, row_schema, type_name};
use crate::error::Cause;
use crate::fetch::{Fetch, FetchPlan};
use crate::{StoreError, Stores};

/// Footers read at a time.
const FOOTERS: usize = 16;
/// Rows looked at for the number of pixels.
const PROBE: usize = 64;

/// What to do with an object of a catalogue that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadObject {
    /// The run ends.
    Fail,
    /// The object is left out, and listed.
    Skip,
}

/// An object that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedObject {
    /// Its URI.
    pub object: String,
    /// Why.
    pub reason: String,
}

/// What is known of a catalogue once its footers are read: enough for another process to fetch from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueSummary {
    /// As given.
    pub uri: String,
    /// Which column is what.
    pub columns: CatalogueColumns,
    /// Pixels of a spectrum; 0 where there is no spectrum.
    pub n_pixels: usize,
    /// The objects, by path, those without rows included.
    pub objects: Vec<ObjectVersion>,
    /// The row groups, in the order of the objects and then of the file; those without rows left out.
    pub shards: Vec<Shard>,
    /// Objects that were left out.
    pub skipped: Vec<SkippedObject>,
}

/// A catalogue, opened.
#[derive(Clone, Debug)]
pub struct Catalogue {
    stores: Stores,
    summary: CatalogueSummary,
    row_schema: SchemaRef,
}

/// What the footer of one object says.
struct Opened {
    version: ObjectVersion,
    row_schema: SchemaRef,
    row_groups: Vec<u64>,
    /// Pixels of a spectrum; `None` where every flux is null or there is no row.
    n_pixels: Option<usize>,
}

impl Catalogue {
    /// Lists the objects of a catalogue and reads their footers, all of them: what is wrong with an object is told here, before any work.
    ///
    /// # Errors
    /// No object matches, or, with [`OnBadObject::Fail`], an object that cannot be used: empty, truncated, not Parquet, a column missing
    /// or of another type, another number of pixels than the objects before it. With `Skip`: no object is left.
    pub fn open(
        stores: &Stores,
        uri: &str,
        columns: &CatalogueColumns,
        on_bad_object: OnBadObject,
    ) -> Result<Self, StoreError> {
        columns.validate()?;
        let listed = stores.list(uri)?;
        if listed.is_empty() {
            return Err(StoreError::NoMatch {
                uri: uri.to_owned(),
                hint: "name an object, a directory of *.parquet, or a pattern with *".to_owned(),
            });
        }
        let readers = listed
            .into_iter()
            .map(|version| ObjectReader::new(stores, version.clone()).map(|r| (version, r)))
            .collect::<Result<Vec<_>, _>>()?;
        let footers = stores.block_on(
            futures::stream::iter(readers)
                .map(|(version, reader)| async move {
                    let opened = open_object(&reader, version, columns).await;
                    (reader, opened)
                })
                .buffered(FOOTERS)
                .collect::<Vec<_>>(),
        );
        let mut summary = CatalogueSummary {
            uri: uri.to_owned(),
            columns: columns.clone(),
            n_pixels: 0,
            objects: Vec::new(),
            shards: Vec::new(),
            skipped: Vec::new(),
        };
        let mut first: Option<(String, SchemaRef)> = None;
        let mut pixels_by = String::new();
        for (reader, opened) in footers {
            let fits = opened.and_then(|opened| {
                agrees(&opened, first.as_ref(), summary.n_pixels, &pixels_by).map(|()| opened)
            });
            match fits {
                Ok(opened) => {
                    if let (0, Some(found)) = (summary.n_pixels, opened.n_pixels) {
                        summary.n_pixels = found;
                        pixels_by.clone_from(&opened.version.path);
                    }
                    first.get_or_insert_with(|| {
                        (opened.version.path.clone(), opened.row_schema.clone())
                    });
                    summary.shards.extend(shards(&opened));
                    summary.objects.push(opened.version);
                }
                Err(error) if on_bad_object == OnBadObject::Skip && is_about_the_object(&error) => {
                    tracing::warn!(object = reader.object(), %error, "object left out");
                    summary.skipped.push(SkippedObject {
                        object: reader.object().to_owned(),
                        reason: error.to_string(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        let Some((_, row_schema)) = first else {
            return Err(StoreError::NoMatch {
                uri: uri.to_owned(),
                hint: match summary.skipped.first() {
                    Some(skipped) => format!(
                        "all {} objects were left out, the first because {}",
                        summary.skipped.len(),
                        skipped.reason
                    ),
                    None => "nothing is there".to_owned(),
                },
            });
        };
        Ok(Self {
            stores: stores.clone(),
            summary,
            row_schema,
        })
    }

    /// A catalogue as another process opened it: one footer is read again.
    ///
    /// # Errors
    /// Its first object cannot be read any more.
    pub fn from_summary(stores: &Stores, summary: CatalogueSummary) -> Result<Self, StoreError> {
        let first = summary.objects.first().ok_or_else(|| StoreError::NoMatch {
            uri: summary.uri.clone(),
            hint: "nothing is there".to_owned(),
        })?;
        let reader = ObjectReader::new(stores, first.clone())?;
        let footer = stores.block_on(reader.footer(PageIndexPolicy::Skip))?;
        let row_schema = row_schema(reader.object(), footer.schema(), &summary.columns)?;
        Ok(Self {
            stores: stores.clone(),
            summary,
            row_schema,
        })
    }

    /// What another process needs to know.
    #[must_use]
    pub fn summary(&self) -> &CatalogueSummary {
        &self.summary
    }

    /// Which column is what.
    #[must_use]
    pub fn columns(&self) -> &CatalogueColumns {
        &self.summary.columns
    }

    /// Number of spectra.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.summary.shards.iter().map(|shard| shard.n_rows).sum()
    }

    /// Pixels of a spectrum; 0 where there is no spectrum.
    #[must_use]
    pub fn n_pixels(&self) -> usize {
        self.summary.n_pixels
    }

    /// Bytes of its objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.summary.objects.iter().map(|object| object.size).sum()
    }

    /// Its shards, in order.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.summary.shards
    }

    /// The objects that were left out.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedObject] {
        &self.summary.skipped
    }

    /// The identifier (first) and the kept columns: the schema of [`fisherflow_spectra::SpectrumBatch::rows`].
    #[must_use]
    pub fn row_schema(&self) -> &SchemaRef {
        &self.row_schema
    }

    /// SHA-256, in hexadecimal, of the path, size and etag of every object: another version of the catalogue has another one.
    #[must_use]
    pub fn etags_sha256(&self) -> String {
        let mut hash = Sha256::new();
        for object in &self.summary.objects {
            let etag = object.etag.as_deref().unwrap_or("");
            hash.update(format!("{}\n{}\n{etag}\n", object.path, object.size));
        }
        hex(&hash.finalize())
    }

    /// The spectra of a group, in order, in batches of at most `batch_rows` rows, none across two shards.
    ///
    /// They are read and decoded ahead on threads of the store, with at most about `prefetch_bytes` in flight beyond the row group and the
    /// batch at hand.
    #[must_use]
    pub fn fetch(&self, group: &Group, batch_rows: usize, prefetch_bytes: usize) -> Fetch {
        Fetch::start(FetchPlan {
            stores: self.stores.clone(),
            columns: self.summary.columns.clone(),
            row_schema: self.row_schema.clone(),
            shape: self.shape(),
            shards: group.shards.clone(),
            batch_rows,
            prefetch_bytes,
        })
    }

    /// What every row of a batch has.
    #[must_use]
    pub fn shape(&self) -> BatchShape {
        let columns = &self.summary.columns;
        BatchShape {
            n_pixels: self.summary.n_pixels,
            n_labels: columns.labels.len(),
            error: match columns.error {
                FluxError::Sigma(_) => ErrorKind::Sigma,
                FluxError::Ivar(_) => ErrorKind::Ivar,
                FluxError::Exact => ErrorKind::Exact,
            },
            label_error: match columns.label_errors {
                LabelErrors::None => LabelErrorKind::None,
                LabelErrors::Sigma(_) => LabelErrorKind::Sigma,
                LabelErrors::Covariance(_) => LabelErrorKind::Covariance,
            },
            mask: match columns.mask {
                Some(_) => MaskKind::Given,
                None => MaskKind::NotGiven,
            },
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn open_object(
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
    let n_pixels = pixels(reader, &footer, &columns.flux).await?;
    Ok(Opened {
        version,
        row_schema,
        row_groups,
        n_pixels,
    })
}

/// The number of pixels that most of the first spectra have.
async fn pixels(
    reader: &ObjectReader,
    footer: &ArrowReaderMetadata,
    flux: &str,
) -> Result<Option<usize>, StoreError> {
    let groups = footer.metadata().row_groups();
    let Some(first) = groups.iter().position(|group| group.num_rows() > 0) else {
        return Ok(None);
    };
    // With the offset index only the first pages are read.
    let footer = reader.footer(PageIndexPolicy::Optional).await?;
    let mask = leaves(&footer, &[flux]);
    let damaged = |error| damaged(reader, first, error);
    let mut stream = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), footer)
        .with_row_groups(vec![first])
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

/// From the decoder's error to one that names the row group.
pub(crate) fn damaged(
    reader: &ObjectReader,
    row_group: usize,
    error: parquet::errors::ParquetError,
) -> StoreError {
    store_error(error).unwrap_or_else(|error| StoreError::BadRowGroup {
        object: reader.object().to_owned(),
        row_group,
        source: Cause::new(&error, reader.secrets()),
    })
}

fn agrees(
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
        if field.data_type() != expected.data_type() {
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

fn shards(opened: &Opened) -> Vec<Shard> {
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

/// Whether leaving the object out is an answer; a store that does not answer at all is none.
fn is_about_the_object(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::Unreachable { .. } | StoreError::NoCredentials { .. } | StoreError::Spectra(_)
    )
}
