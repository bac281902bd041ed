//! `posterior/hessian/`, `posterior/inverse/` and `stages/bases/`: matrices in long form, a row a matrix row.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use crate::tables::lists::{f64_rows, list_field};
use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::tables::predictions::check_shapes;
use crate::tables::table::Table;
use crate::{Output, StoreError};

/// Bytes that are copied into one record batch, about.
const CHUNK: usize = 8 << 20;
/// Bytes of a row group: nobody reads a part of a matrix by its row groups, and while one is on its way to the store the next is encoded.
const ROW_GROUP: usize = 16 << 20;
/// Metadata key: the matrices of the file with their shapes.
const SHAPES: &str = "fisherflow.matrices";

/// Which matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatrixSet {
    /// The sums over spectra.
    Hessian,
    /// The inverse, with the prior.
    Inverse,
    /// Eigenbases that one pass over the spectra leaves for the next.
    Bases,
}

/// One matrix as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMatrix {
    /// Name of the layer or block.
    pub layer: String,
    /// `dense`, `kron_a`, ...
    pub factor: String,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` values, row after row.
    pub values: Vec<f64>,
}

/// The matrices of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMatrices {
    /// In the order they were written.
    pub matrices: Vec<StoredMatrix>,
    /// Key-value metadata of the file.
    pub metadata: FileMetadata,
}

/// Writes the matrices of one block, one after the other; needs little memory beyond them.
#[derive(Debug)]
pub struct MatrixWriter {
    out: ParquetOut,
    shapes: Vec<MatrixShape>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MatrixShape {
    layer: String,
    factor: String,
    rows: usize,
    cols: usize,
}

impl MatrixSet {
    /// Its directory in the output.
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            MatrixSet::Hessian => "posterior/hessian",
            MatrixSet::Inverse => "posterior/inverse",
            MatrixSet::Bases => "stages/bases",
        }
    }

    /// The path of a file of it in the output; `name` without its ending.
    #[must_use]
    pub fn path(self, name: &str) -> String {
        format!("{}/{name}.parquet", self.directory())
    }
}

impl Output {
    /// Begins the matrices of a block; `name` is the file's, without its ending.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn matrices(&self, set: MatrixSet, name: &str, metadata: &FileMetadata) -> Result<MatrixWriter, StoreError> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("layer", DataType::Utf8, false),
            Field::new("factor", DataType::Utf8, false),
            Field::new("row", DataType::Int64, false),
            list_field("values", DataType::Float64, false),
        ]));
        let path = set.path(name);
        Ok(MatrixWriter {
            out: ParquetOut::create_in_row_groups(self.stores(), self.uri(), &path, &schema, metadata, ROW_GROUP)?,
            shapes: Vec::new(),
        })
    }

    /// The matrices of a block.
    ///
    /// # Errors
    /// They are not there, or cannot be read.
    pub fn read_matrices(&self, set: MatrixSet, name: &str) -> Result<StoredMatrices, StoreError> {
        let uri = self.child(&set.path(name));
        if !self.stores().exists(&uri)? {
            return Err(StoreError::NotFound { uri });
        }
        let table = Table::open(self.stores(), &uri)?;
        let shapes: Vec<MatrixShape> = match table.metadata().0.get(SHAPES) {
            Some(text) => self.stores().parse_document(&uri, text.as_bytes())?,
            None => return Err(unlike(&uri, "no list of its matrices in its metadata")),
        };
        let mut matrices: Vec<StoredMatrix> = Vec::with_capacity(shapes.len());
        let columns = ["layer", "factor", "row", "values"];
        let widest = shapes.iter().map(|shape| shape.cols).max().unwrap_or(1);
        let batch_rows = (CHUNK / (8 * widest.max(1))).clamp(1, 8192);
        let mut pending = shapes.into_iter();
        for batch in table.batches(Some(&columns), batch_rows)? {
            append_rows(&uri, &batch?, &mut pending, &mut matrices)?;
        }
        // What is left has no rows.
        matrices.extend(pending.map(begin));
        if let Some(short) = matrices.iter().find(|m| m.values.len() != m.rows * m.cols) {
            return Err(StoreError::Shape {
                what: format!("values of {} of {} in {uri}", short.factor, short.layer),
                found: short.values.len(),
                expected: short.rows * short.cols,
            });
        }
        Ok(StoredMatrices {
            matrices,
            metadata: table.metadata().clone(),
        })
    }
}

impl MatrixWriter {
    /// Appends a matrix of `rows` rows that is held as tiles side by side: columns, and values row after row, of each. `layer` may be a block's name;
    /// `factor`: `dense`, `kron_a`, ...
    ///
    /// # Errors
    /// Its values do not fit its shape, or the store does not take it.
    pub fn append_tiles(
        &mut self,
        layer: &str,
        factor: &str,
        rows: usize,
        tiles: &[(usize, &[f64])],
    ) -> Result<(), StoreError> {
        for &(cols, values) in tiles {
            check_shapes(self.out.uri(), &[("values of a matrix", values.len(), rows * cols)])?;
        }
        let cols: usize = tiles.iter().map(|(cols, _)| cols).sum();
        self.append_formed(layer, factor, (rows, cols), |first, lines| {
            for (row, mut line) in (first..).zip(lines.chunks_exact_mut(cols.max(1))) {
                for &(cols, values) in tiles {
                    let (part, rest) = line.split_at_mut(cols);
                    part.copy_from_slice(&values[row * cols..(row + 1) * cols]);
                    line = rest;
                }
            }
        })
    }

    /// Appends a matrix `[rows, cols]` that is formed as it is written: `form(first, lines)` writes the rows from `first` on, as many as there
    /// is room for.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn append_formed(
        &mut self,
        layer: &str,
        factor: &str,
        (rows, cols): (usize, usize),
        mut form: impl FnMut(usize, &mut [f64]),
    ) -> Result<(), StoreError> {
        let step = (CHUNK / (8 * cols.max(1))).max(1);
        for first in (0..rows).step_by(step) {
            let last = (first + step).min(rows);
            let n = last - first;
            let mut lines = vec![0.0; n * cols];
            form(first, &mut lines);
            let lists = f64_rows(lines, cols).map_err(|error| self.out.encoding(&error))?;
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(layer, n))),
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(factor, n))),
                Arc::new(Int64Array::from_iter_values(first as i64..last as i64)),
                lists,
            ];
            self.out.write_columns(columns)?;
        }
        self.shapes.push(MatrixShape {
            layer: layer.to_owned(),
            factor: factor.to_owned(),
            rows,
            cols,
        });
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn finish(self) -> Result<WrittenFile, StoreError> {
        let shapes = serde_json::to_string(&self.shapes).unwrap_or_default();
        self.out.finish_with(FileMetadata::default().with(SHAPES, shapes))
    }
}

fn begin(shape: MatrixShape) -> StoredMatrix {
    StoredMatrix {
        values: Vec::with_capacity(shape.rows * shape.cols),
        layer: shape.layer,
        factor: shape.factor,
        rows: shape.rows,
        cols: shape.cols,
    }
}

fn append_rows(
    uri: &str,
    batch: &RecordBatch,
    pending: &mut std::vec::IntoIter<MatrixShape>,
    matrices: &mut Vec<StoredMatrix>,
) -> Result<(), StoreError> {
    let (Some(layers), Some(factors), Some(rows), Some(lists)) = (
        batch.column(0).as_string_opt::<i32>(),
        batch.column(1).as_string_opt::<i32>(),
        batch.column(2).as_primitive_opt::<Int64Type>(),
        batch.column(3).as_list_opt::<i32>(),
    ) else {
        return Err(unlike(uri, "columns of other types"));
    };
    let Some(values) = lists.values().as_primitive_opt::<Float64Type>() else {
        return Err(unlike(uri, "values of another type"));
    };
    let offsets = lists.value_offsets();
    for at in 0..batch.num_rows() {
        // The next matrix, and before it those without rows.
        while matrices.last().is_none_or(|m| m.values.len() == m.rows * m.cols) {
            match pending.next() {
                Some(shape) => matrices.push(begin(shape)),
                None => return Err(unlike(uri, "more rows than its metadata says")),
            }
        }
        let span = offsets[at] as usize..offsets[at + 1] as usize;
        let row = usize::try_from(rows.value(at)).unwrap_or(usize::MAX);
        match matrices.last_mut() {
            Some(matrix)
                if matrix.layer == layers.value(at)
                    && matrix.factor == factors.value(at)
                    && span.len() == matrix.cols
                    && matrix.values.len() == row.saturating_mul(matrix.cols)
                    && row < matrix.rows =>
            {
                matrix.values.extend_from_slice(&values.values()[span]);
            }
            _ => return Err(unlike(uri, "rows out of order")),
        }
    }
    Ok(())
}

fn unlike(uri: &str, what: &str) -> StoreError {
    StoreError::BadDocument {
        uri: uri.to_owned(),
        source: crate::Cause::said(what),
    }
}
