//! The key of a spectrum in predictions and Jacobians: `file`, the object that it is in, and `row`, its position there.
//!
//! An identifier may have several rows, and many readers keep no order: by these two, tables are joined to one another and to the catalogue.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, Int64Array, StringArray};
use arrow_schema::{ArrowError, DataType, Field};

use crate::StoreError;
use crate::tables::column_list::{ColumnList, Role};

/// Where consecutive spectra are in their catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowKeys<'a> {
    /// [The object's name](fisherflow_spectra::ObjectVersion::name_below) in the catalogue.
    pub file: &'a str,
    /// Position of the first of them in the object.
    pub first_row: u64,
}

/// Adds the columns.
///
/// # Errors
/// One of their names is taken.
pub(crate) fn add_columns(columns: &mut ColumnList) -> Result<(), StoreError> {
    let name = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    columns.add(Field::new("file", name, false), Role::Own("the file of a row"))?;
    columns.add(
        Field::new("row", DataType::Int64, false),
        Role::Own("the position of a row in its file"),
    )
}

/// What they are, as a file's metadata says it.
pub(crate) const IN_WORDS: &str = "file: name of the object below the catalogue's folder, its own where the catalogue is one object; row: position of the \
                                   spectrum in it, from 0";

impl RowKeys<'_> {
    /// The columns of `n` spectra, `each` rows a spectrum; the name is there once.
    pub(crate) fn columns(&self, n: usize, each: usize) -> Result<[ArrayRef; 2], ArrowError> {
        let name = Arc::new(StringArray::from(vec![self.file]));
        let file = DictionaryArray::<Int32Type>::try_new(Int32Array::from(vec![0; n * each]), name)?;
        let first = i64::try_from(self.first_row).map_err(|error| ArrowError::from_external_error(Box::new(error)))?;
        let rows = (first..).take(n).flat_map(|row| std::iter::repeat_n(row, each));
        Ok([Arc::new(file), Arc::new(Int64Array::from_iter_values(rows))])
    }
}
