//! Tables of results that no other module writes: named columns of text, counts and numbers.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef};
use arrow_schema::{Field, Schema, SchemaRef};

use crate::tables::columns::{NamedColumn, counts_or_null, numbers, texts};
use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::tables::predictions::check_shapes;
use crate::{Output, StoreError, Stores};

/// The values of a column, one a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Text.
    Text(Vec<String>),
    /// Counts and positions; `None` is null.
    Count(Vec<Option<u64>>),
    /// Numbers; what is not finite is null.
    Number(Vec<f64>),
}

/// A table being written; its columns are those of the first rows.
#[derive(Debug)]
pub struct TableWriter {
    stores: Stores,
    output: String,
    path: String,
    metadata: FileMetadata,
    open: Option<(ParquetOut, SchemaRef)>,
}

impl Output {
    /// Begins a table of its own; `path` is that of its file.
    #[must_use]
    pub fn table(&self, path: &str, metadata: &FileMetadata) -> TableWriter {
        TableWriter {
            stores: self.stores().clone(),
            output: self.uri().to_owned(),
            path: path.to_owned(),
            metadata: metadata.clone(),
            open: None,
        }
    }
}

impl TableWriter {
    /// Appends rows.
    ///
    /// # Errors
    /// Columns of different lengths, or other ones than those of the first rows, or the store does not take them.
    pub fn append(&mut self, columns: Vec<(&str, Column)>) -> Result<(), StoreError> {
        let columns = columns.into_iter().map(|(name, column)| column.named(name));
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.unzip();
        let (out, schema) = match &mut self.open {
            Some(open) => open,
            closed => {
                let schema = Arc::new(Schema::new(fields));
                let out = ParquetOut::create(&self.stores, &self.output, &self.path, &schema, &self.metadata)?;
                closed.insert((out, schema))
            }
        };
        let rows = columns.first().map_or(0, |column| column.len());
        for column in &columns {
            check_shapes(out.uri(), &[("a column", column.len(), rows)])?;
        }
        let batch = out.batch(schema, columns)?;
        out.write(&batch)
    }

    /// Ends the table; `None` where it has no rows, and is not written.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn finish(self) -> Result<Option<WrittenFile>, StoreError> {
        self.open
            .map(|(out, _)| out.finish(&FileMetadata::default()))
            .transpose()
    }
}

impl Column {
    fn named(self, name: &str) -> NamedColumn {
        match self {
            Self::Text(values) => texts(name, values.iter().map(String::as_str)),
            Self::Count(values) => counts_or_null(name, values.into_iter()),
            Self::Number(values) => numbers(name, values.into_iter()),
        }
    }
}
