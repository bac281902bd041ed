//! `<part>.parquet` of `output-hessian`: second derivatives of the outputs by the weights, a row a (spectrum, label, weight).

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;

use crate::tables::column_list::{ColumnList, Role};
use crate::tables::lists::{f64_rows, list_field};
use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::tables::predictions::check_shapes;
use crate::tables::row_key::{self, RowKeys};
use crate::{Output, StoreError};

/// The columns of second derivatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputHessianSchema {
    schema: SchemaRef,
    values: OutputHessianValues,
}

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputHessianValues {
    /// One number: of a diagonal, or a product.
    One,
    /// A row of the matrix, of so many numbers.
    Row(usize),
}

/// Second derivatives of one label of one spectrum.
#[derive(Clone, Copy, Debug)]
pub struct OutputHessianRows<'a> {
    /// Where the spectrum is.
    pub keys: RowKeys<'a>,
    /// Its identifier in the first column: `[1]`.
    pub star: &'a RecordBatch,
    /// The label.
    pub label: &'a str,
    /// `[n]`: the layer of each weight.
    pub layers: &'a [&'a str],
    /// `[n]`: its output.
    pub out_index: &'a [u64],
    /// `[n]`: its input; `None`: the bias.
    pub in_index: &'a [Option<u64>],
    /// `[n]` or `[n, width]`, label unit per squared weight.
    pub values: &'a [f64],
}

impl OutputHessianSchema {
    /// The columns for a catalogue's identifier, the first field of `rows`.
    ///
    /// # Errors
    /// The identifier is named as one of the other columns, or there is none.
    pub fn new(rows: &Schema, values: OutputHessianValues) -> Result<Self, StoreError> {
        let Some(id) = rows.fields().first() else {
            return Err(StoreError::Shape {
                what: "columns of identifiers for the second derivatives".to_owned(),
                found: 0,
                expected: 1,
            });
        };
        let mut columns = ColumnList::default();
        columns.add(id.as_ref().clone().with_nullable(true), Role::Identifier)?;
        row_key::add_columns(&mut columns)?;
        for (field, words) in [
            (Field::new("label", DataType::Utf8, false), "the label"),
            (Field::new("layer", DataType::Utf8, false), "the layer of a weight"),
            (
                Field::new("out_index", DataType::Int64, false),
                "the output of a weight",
            ),
            (Field::new("in_index", DataType::Int64, true), "the input of a weight"),
            match values {
                OutputHessianValues::One => (Field::new("value", DataType::Float64, false), "the second derivative"),
                OutputHessianValues::Row(_) => {
                    (list_field("values", DataType::Float64, false), "the second derivatives")
                }
            },
        ] {
            columns.add(field, Role::Own(words))?;
        }
        Ok(Self {
            schema: columns.schema(),
            values,
        })
    }
}

/// Writes the second derivatives.
#[derive(Debug)]
pub struct OutputHessianWriter {
    out: ParquetOut,
    columns: OutputHessianSchema,
}

impl Output {
    /// Begins a table of second derivatives of outputs; `path` is that of its file.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn output_hessian(
        &self,
        path: &str,
        columns: &OutputHessianSchema,
        metadata: &FileMetadata,
    ) -> Result<OutputHessianWriter, StoreError> {
        let metadata = metadata.clone().with("fisherflow.row_key", row_key::IN_WORDS);
        Ok(OutputHessianWriter {
            out: ParquetOut::create(self.stores(), self.uri(), path, &columns.schema, &metadata)?,
            columns: columns.clone(),
        })
    }
}

impl OutputHessianWriter {
    /// Appends weights.
    ///
    /// # Errors
    /// Arrays that do not fit together, or a store that does not take them.
    pub fn append(&mut self, rows: &OutputHessianRows<'_>) -> Result<(), StoreError> {
        let n = rows.layers.len();
        let width = match self.columns.values {
            OutputHessianValues::One => 1,
            OutputHessianValues::Row(width) => width,
        };
        let shapes = [
            ("rows of the identifier", rows.star.num_rows(), 1),
            ("outputs of weights", rows.out_index.len(), n),
            ("inputs of weights", rows.in_index.len(), n),
            ("second derivatives", rows.values.len(), n * width),
        ];
        check_shapes(self.out.uri(), &shapes)?;
        let encoding = |error| self.out.encoding(&error);
        let first = Int64Array::from(vec![0; n]);
        let id = take(rows.star.column(0), &first, None).map_err(encoding)?;
        let [file, row] = rows.keys.columns(1, n).map_err(encoding)?;
        let index = |index: u64| i64::try_from(index).unwrap_or(i64::MAX);
        let values: ArrayRef = match self.columns.values {
            OutputHessianValues::One => Arc::new(Float64Array::from(rows.values.to_vec())),
            OutputHessianValues::Row(width) => f64_rows(rows.values.to_vec(), width).map_err(encoding)?,
        };
        let columns: Vec<ArrayRef> = vec![
            id,
            file,
            row,
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(rows.label, n))),
            Arc::new(StringArray::from_iter_values(rows.layers)),
            Arc::new(Int64Array::from_iter_values(rows.out_index.iter().copied().map(index))),
            Arc::new(
                rows.in_index
                    .iter()
                    .map(|input| input.map(index))
                    .collect::<Int64Array>(),
            ),
            values,
        ];
        self.out.write_columns(columns)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn finish(self) -> Result<WrittenFile, StoreError> {
        self.out.finish()
    }
}
