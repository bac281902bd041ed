//! Tables of results that no other module writes: named columns of text, counts and numbers.

use crate::tables::columns::{NamedColumn, counts, numbers, texts, texts_or_null};
use crate::tables::parquet_out::{FileMetadata, WrittenFile};
use crate::tables::predictions::check_shapes;
use crate::{Output, StoreError};

/// The values of a column, one a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Text.
    Text(Vec<String>),
    /// Text; `None` is null.
    TextOrNull(Vec<Option<String>>),
    /// Counts and positions.
    Count(Vec<u64>),
    /// Numbers; what is not finite is null.
    Number(Vec<f64>),
    /// Numbers; what is not finite is refused.
    Finite(Vec<f64>),
}

impl Output {
    /// Writes a table of its own, whole; `path` is that of its file.
    ///
    /// # Errors
    /// Columns of different lengths, a null where there can be none, or the store does not take it.
    pub fn write_small_table(
        &self,
        path: &str,
        columns: Vec<(impl AsRef<str>, Column)>,
        metadata: &FileMetadata,
    ) -> Result<WrittenFile, StoreError> {
        let rows = columns.first().map_or(0, |(_, column)| column.len());
        for (name, column) in &columns {
            let what = format!("column `{}`", name.as_ref());
            check_shapes(path, &[(what.as_str(), column.len(), rows)])?;
        }
        let columns = columns.into_iter().map(|(name, column)| column.named(name.as_ref()));
        self.write_columns(path, columns.collect(), metadata)
    }
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Text(values) => values.len(),
            Self::TextOrNull(values) => values.len(),
            Self::Count(values) => values.len(),
            Self::Number(values) | Self::Finite(values) => values.len(),
        }
    }

    fn named(self, name: &str) -> NamedColumn {
        match self {
            Self::Text(values) => texts(name, values.iter().map(String::as_str)),
            Self::TextOrNull(values) => texts_or_null(name, values.iter().map(Option::as_deref)),
            Self::Count(values) => counts(name, values.into_iter()),
            Self::Number(values) => numbers(name, values.into_iter()),
            Self::Finite(values) => {
                let (field, values) = numbers(name, values.into_iter());
                (field.with_nullable(false), values)
            }
        }
    }
}
