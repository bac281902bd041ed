//! Columns that are whole in memory, each with its field, and the tables of them.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};

use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::{Output, StoreError};

/// A column and its field.
pub(crate) type NamedColumn = (Field, ArrayRef);

/// Text.
pub(crate) fn texts<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> NamedColumn {
    let values = StringArray::from_iter_values(values);
    (Field::new(name, DataType::Utf8, false), Arc::new(values))
}

/// Text; `None` is null.
pub(crate) fn texts_or_null<'a>(name: &str, values: impl Iterator<Item = Option<&'a str>>) -> NamedColumn {
    let values: StringArray = values.collect();
    (Field::new(name, DataType::Utf8, true), Arc::new(values))
}

/// Counts and positions.
pub(crate) fn counts(name: &str, values: impl Iterator<Item = u64>) -> NamedColumn {
    let values = Int64Array::from_iter_values(values.map(count));
    (Field::new(name, DataType::Int64, false), Arc::new(values))
}

/// Numbers; what is not finite is null.
pub(crate) fn numbers(name: &str, values: impl Iterator<Item = f64>) -> NamedColumn {
    numbers_or_null(name, values.map(|value| value.is_finite().then_some(value)))
}

/// Numbers; `None` is null.
pub(crate) fn numbers_or_null(name: &str, values: impl Iterator<Item = Option<f64>>) -> NamedColumn {
    let values: Float64Array = values.collect();
    (Field::new(name, DataType::Float64, true), Arc::new(values))
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Output {
    /// Writes a table of these columns.
    pub(crate) fn write_columns(
        &self,
        path: &str,
        columns: Vec<NamedColumn>,
        metadata: &FileMetadata,
    ) -> Result<WrittenFile, StoreError> {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
        let schema = Arc::new(Schema::new(fields));
        let mut out = ParquetOut::create(self.stores(), self.uri(), path, &schema, metadata)?;
        out.write_columns(columns)?;
        out.finish()
    }
}
