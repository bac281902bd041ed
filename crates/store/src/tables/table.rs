//! Any Parquet table, read back: batches of some of its columns, and its metadata.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use fisherflow_spectra::ObjectVersion;
use futures::StreamExt;
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use parquet::file::metadata::PageIndexPolicy;

use crate::catalogue::listing::remedy;
use crate::catalogue::object::{damaged, leaves, unless_gave_up};
use crate::catalogue::schema::find;
use crate::objects::async_reader::ObjectReader;
use crate::tables::parquet_out::FileMetadata;
use crate::{StoreError, Stores};

/// The Parquet objects that a URI names, read in order as one table.
#[derive(Clone, Debug)]
pub struct Table {
    stores: Stores,
    objects: Vec<ObjectVersion>,
    schema: SchemaRef,
    metadata: FileMetadata,
    n_rows: u64,
}

/// The batches of a table; the calling thread reads and decodes.
pub struct TableBatches {
    stores: Stores,
    columns: Option<Vec<String>>,
    batch_rows: usize,
    pending: std::vec::IntoIter<ObjectVersion>,
    current: Option<Reading>,
    failed: bool,
}

/// An object that is being read.
struct Reading {
    reader: ObjectReader,
    stream: ParquetRecordBatchStream<ObjectReader>,
    /// All its columns.
    schema: SchemaRef,
    /// Rows of each of its row groups.
    row_groups: Vec<u64>,
    /// Rows that were read.
    rows: u64,
}

impl Table {
    /// Opens the object, the directory or the objects of a pattern; schema and metadata are those of the first.
    ///
    /// # Errors
    /// Nothing is there, an object is not Parquet, a link leads nowhere, or a folder is named as an object.
    pub fn open(stores: &Stores, uri: &str) -> Result<Self, StoreError> {
        let mut listing = stores.listing(uri)?;
        if !listing.refused.is_empty() {
            return Err(listing.refused.swap_remove(0).1);
        }
        let unread = match listing.objects.is_empty() {
            true => listing.left_out_of(uri, stores),
            false => None,
        };
        let objects = listing.objects;
        let mut schema = None;
        let mut n_rows = 0;
        for object in &objects {
            let reader = ObjectReader::new(stores, object.clone())?;
            let footer = stores.block_on(reader.footer(PageIndexPolicy::Skip))?;
            n_rows += footer.metadata().file_metadata().num_rows().unsigned_abs();
            schema.get_or_insert_with(|| (plain(footer.schema()), metadata(&footer)));
        }
        let (schema, metadata) = schema.ok_or_else(|| StoreError::NoMatch {
            uri: uri.to_owned(),
            hint: remedy(unread.as_deref()),
        })?;
        Ok(Self {
            stores: stores.clone(),
            objects,
            schema,
            metadata,
            n_rows,
        })
    }

    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Key-value metadata of its first object.
    #[must_use]
    pub fn metadata(&self) -> &FileMetadata {
        &self.metadata
    }

    /// Its rows.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Its objects.
    #[must_use]
    pub fn objects(&self) -> &[ObjectVersion] {
        &self.objects
    }

    /// All rows, at most `batch_rows` at a time; only `columns` (in the order of the file) where they are given.
    ///
    /// # Errors
    /// The first object lacks a column; one that another lacks is an error of the batches.
    pub fn batches(&self, columns: Option<&[&str]>, batch_rows: usize) -> Result<TableBatches, StoreError> {
        let object = self.objects.first().map_or("", |object| &object.path);
        for column in columns.unwrap_or_default() {
            find(object, &self.schema, column)?;
        }
        Ok(TableBatches {
            stores: self.stores.clone(),
            columns: columns.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
            batch_rows: batch_rows.max(1),
            pending: self.objects.clone().into_iter(),
            current: None,
            failed: false,
        })
    }
}

impl Iterator for TableBatches {
    type Item = Result<RecordBatch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.advance() {
            Ok(batch) => batch.map(Ok),
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

impl Reading {
    /// The row group that the next row is in.
    fn row_group(&self) -> usize {
        let mut end = 0;
        let is_next = |rows: &u64| {
            end += rows;
            self.rows < end
        };
        let next = self.row_groups.iter().position(is_next);
        next.unwrap_or(self.row_groups.len().saturating_sub(1))
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        let row_group = self.row_group();
        let (reader, stream) = (&self.reader, &mut self.stream);
        let next = async {
            let batch = stream.next().await.transpose();
            batch.map_err(|error| damaged(reader, row_group, error))
        };
        let batch = unless_gave_up(reader, row_group, next).await?;
        self.rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        Ok(batch)
    }
}

impl TableBatches {
    /// The object that the last batch is of, and all its columns.
    pub(crate) fn object(&self) -> Option<(&str, &Schema)> {
        let reading = self.current.as_ref()?;
        Some((reading.reader.object(), &reading.schema))
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        loop {
            if let Some(reading) = &mut self.current {
                if let Some(batch) = self.stores.block_on(reading.next())? {
                    return Ok(Some(batch));
                }
                self.current = None;
            }
            let Some(object) = self.pending.next() else {
                return Ok(None);
            };
            let reader = ObjectReader::new(&self.stores, object)?;
            let footer = self.stores.block_on(reader.footer(PageIndexPolicy::Skip))?;
            for column in self.columns.iter().flatten() {
                find(reader.object(), footer.schema(), column)?;
            }
            let schema = plain(footer.schema());
            let groups = footer.metadata().row_groups().iter();
            let row_groups = groups.map(|group| group.num_rows().unsigned_abs()).collect();
            let mask = self.columns.as_ref().map(|columns| {
                let names: Vec<&str> = columns.iter().map(String::as_str).collect();
                leaves(&footer, &names)
            });
            let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), footer)
                .with_batch_size(self.batch_rows);
            if let Some(mask) = mask {
                builder = builder.with_projection(mask);
            }
            let stream = builder.build().map_err(|error| damaged(&reader, 0, error))?;
            self.current = Some(Reading {
                reader,
                stream,
                schema,
                row_groups,
                rows: 0,
            });
        }
    }
}

impl std::fmt::Debug for TableBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableBatches")
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

fn plain(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().clone()))
}

fn metadata(footer: &ArrowReaderMetadata) -> FileMetadata {
    let entries = footer.metadata().file_metadata().key_value_metadata();
    FileMetadata(
        entries
            .into_iter()
            .flatten()
            .filter(|entry| entry.key != "ARROW:schema")
            .map(|entry| (entry.key.clone(), entry.value.clone().unwrap_or_default()))
            .collect(),
    )
}
