//! `jacobians/part-*.parquet`: a row a (spectrum, label): the derivative of the label with respect to every pixel.

use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;
use fisherflow_spectra::RowFlags;

use crate::tables::column_list::{ColumnList, Role};
use crate::tables::lists::{list_field, lists};
use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::tables::part::TablePart;
use crate::tables::predictions::check_shapes;
use crate::tables::row_key::{self, RowKeys};
use crate::{Output, StoreError};

/// Jacobians of consecutive spectra.
#[derive(Clone, Copy, Debug)]
pub struct JacobianRows<'a> {
    /// Where they are.
    pub keys: RowKeys<'a>,
    /// The identifier in its first column: `[n]`.
    pub rows: &'a RecordBatch,
    /// `[K, n, D]`, label unit per flux unit.
    pub jacobian: &'a [f32],
    /// `[n]`: bad rows get nulls.
    pub flags: &'a [RowFlags],
}

/// Writes one part of the Jacobians.
#[derive(Debug)]
pub struct JacobianWriter {
    out: ParquetOut,
    labels: Vec<String>,
    n_pixels: usize,
}

impl Output {
    /// Begins a part of `jacobians/`.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn jacobians(
        &self,
        part: TablePart,
        columns: &JacobianSchema,
        metadata: &FileMetadata,
    ) -> Result<JacobianWriter, StoreError> {
        let names = serde_json::to_string(&columns.labels).unwrap_or_default();
        let metadata = metadata
            .clone()
            .with("fisherflow.row_key", row_key::IN_WORDS)
            .with("fisherflow.labels", names)
            .with("fisherflow.n_pixels", columns.n_pixels.to_string())
            .with(
                "fisherflow.jacobian",
                "d label / d flux of every pixel, label unit per flux unit",
            );
        let path = format!("jacobians/{}", part.file());
        Ok(JacobianWriter {
            out: ParquetOut::create(self.stores(), self.uri(), &path, &columns.schema, &metadata)?,
            labels: columns.labels.clone(),
            n_pixels: columns.n_pixels,
        })
    }
}

impl JacobianWriter {
    /// Appends spectra: all labels of the first, then all of the second, ... A row that is not finite is null.
    ///
    /// # Errors
    /// Arrays that do not fit together, or a store that does not take them.
    pub fn append(&mut self, rows: &JacobianRows<'_>) -> Result<(), StoreError> {
        let (n, k, d) = (rows.flags.len(), self.labels.len(), self.n_pixels);
        let shapes = [
            ("rows of identifiers", rows.rows.num_rows(), n),
            ("jacobians", rows.jacobian.len(), k * n * d),
        ];
        check_shapes(self.out.uri(), &shapes)?;
        let indices = UInt32Array::from_iter_values((0..n as u32).flat_map(|row| std::iter::repeat_n(row, k)));
        let ids = take(rows.rows.column(0), &indices, None).map_err(|error| StoreError::Encode {
            uri: self.out.uri().to_owned(),
            source: crate::Cause::new(&error, &[]),
        })?;
        let [file, row] = rows.keys.columns(n, k).map_err(|error| self.out.encoding(&error))?;
        let labels: Vec<&str> = (0..n).flat_map(|_| self.labels.iter().map(String::as_str)).collect();
        let labels: ArrayRef = Arc::new(StringArray::from(labels));
        let order = (0..n).flat_map(|row| (0..k).map(move |label| (row, label)));
        let jacobians = lists::<Float32Type>(order.map(|(row, label)| {
            let start = (label * n + row) * d;
            let values = &rows.jacobian[start..start + d];
            (!rows.flags[row].is_bad() && values.iter().all(|v| v.is_finite())).then_some(values)
        }));
        self.out.write_columns(vec![ids, file, row, labels, jacobians])
    }

    /// Ends the part.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn finish(self) -> Result<WrittenFile, StoreError> {
        self.out.finish()
    }
}

/// The columns of the Jacobians.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JacobianSchema {
    schema: SchemaRef,
    labels: Vec<String>,
    n_pixels: usize,
}

impl JacobianSchema {
    /// The columns for a catalogue's identifier (the first field of `rows`), a network's labels and `n_pixels` pixels.
    ///
    /// # Errors
    /// The identifier is named as one of the other columns, or there is none.
    pub fn new(rows: &Schema, labels: &[String], n_pixels: usize) -> Result<Self, StoreError> {
        let Some(id) = rows.fields().first() else {
            return Err(StoreError::Shape {
                what: "columns of identifiers for the jacobians".to_owned(),
                found: 0,
                expected: 1,
            });
        };
        let mut columns = ColumnList::default();
        columns.add(id.as_ref().clone().with_nullable(true), Role::Identifier)?;
        row_key::add_columns(&mut columns)?;
        columns.add(
            Field::new("label", DataType::Utf8, false),
            Role::Own("the label of a Jacobian"),
        )?;
        columns.add(
            list_field("jacobian", DataType::Float32, true),
            Role::Own("the Jacobian"),
        )?;
        Ok(Self {
            schema: columns.schema(),
            labels: labels.to_vec(),
            n_pixels,
        })
    }
}
