//! Tables of results that no other module writes: named columns of text, counts and numbers.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

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
        let (out, schema) = match &mut self.open {
            Some(open) => open,
            closed => {
                let fields: Vec<Field> = columns.iter().map(|(name, column)| column.field(name)).collect();
                let schema = Arc::new(Schema::new(fields));
                let out = ParquetOut::create(&self.stores, &self.output, &self.path, &schema, &self.metadata)?;
                closed.insert((out, schema))
            }
        };
        let rows = columns.first().map_or(0, |(_, column)| column.len());
        for (_, column) in &columns {
            check_shapes(out.uri(), &[("a column", column.len(), rows)])?;
        }
        let arrays = columns.into_iter().map(|(_, column)| column.array()).collect();
        let batch = out.batch(schema, arrays)?;
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
    fn len(&self) -> usize {
        match self {
            Self::Text(values) => values.len(),
            Self::Count(values) => values.len(),
            Self::Number(values) => values.len(),
        }
    }

    fn field(&self, name: &str) -> Field {
        match self {
            Self::Text(_) => Field::new(name, DataType::Utf8, false),
            Self::Count(_) => Field::new(name, DataType::Int64, true),
            Self::Number(_) => Field::new(name, DataType::Float64, true),
        }
    }

    fn array(self) -> ArrayRef {
        match self {
            Self::Text(values) => Arc::new(StringArray::from(values)),
            Self::Count(values) => Arc::new(
                values
                    .into_iter()
                    .map(|count| count.map(|count| i64::try_from(count).unwrap_or(i64::MAX)))
                    .collect::<Int64Array>(),
            ),
            Self::Number(values) => Arc::new(
                values
                    .into_iter()
                    .map(|value| value.is_finite().then_some(value))
                    .collect::<Float64Array>(),
            ),
        }
    }
}
