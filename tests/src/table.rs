//! The Parquet files of an output, with the plain Parquet reader.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The rows of one file, or of all files of a folder in the order of their names, and the metadata of the first.
#[derive(Debug)]
pub struct Table {
    batches: Vec<RecordBatch>,
    /// Key-value metadata.
    pub metadata: BTreeMap<String, String>,
}

impl Table {
    /// Reads a file or folder.
    ///
    /// # Panics
    /// There is none, or it is no Parquet.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let files = if path.is_dir() {
            sorted(path)
        } else {
            vec![path.to_path_buf()]
        };
        assert!(!files.is_empty(), "{} holds no file", path.display());
        let mut table = Self {
            batches: Vec::new(),
            metadata: BTreeMap::new(),
        };
        for file in files {
            let opened = File::open(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let builder = ParquetRecordBatchReaderBuilder::try_new(opened).expect("Parquet");
            if table.metadata.is_empty() {
                let pairs = builder
                    .metadata()
                    .file_metadata()
                    .key_value_metadata()
                    .cloned()
                    .unwrap_or_default();
                table.metadata = pairs
                    .into_iter()
                    .filter_map(|pair| Some((pair.key, pair.value?)))
                    .collect();
            }
            let reader = builder.build().expect("a reader");
            table
                .batches
                .extend(reader.map(|batch| batch.expect("rows that can be decoded")));
        }
        table
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the columns.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let schema = self.batches.first().map(RecordBatch::schema);
        schema.map_or_else(Vec::new, |schema| {
            schema.fields().iter().map(|field| field.name().clone()).collect()
        })
    }

    /// One value, as an array of length 1: equal arrays are equal bit for bit.
    ///
    /// # Panics
    /// There is no such column or row.
    #[must_use]
    pub fn cell(&self, column: &str, row: usize) -> ArrayRef {
        let mut row = row;
        for batch in &self.batches {
            if row < batch.num_rows() {
                let array = batch
                    .column_by_name(column)
                    .unwrap_or_else(|| panic!("no column {column} in {:?}", self.names()));
                return Arc::clone(array).slice(row, 1);
            }
            row -= batch.num_rows();
        }
        panic!("no row {row} more")
    }

    /// Whether a value is null.
    ///
    /// # Panics
    /// As [`Table::cell`].
    #[must_use]
    pub fn is_null(&self, column: &str, row: usize) -> bool {
        self.cell(column, row).is_null(0)
    }

    /// A text.
    ///
    /// # Panics
    /// As [`Table::cell`], or it is none.
    #[must_use]
    pub fn text(&self, column: &str, row: usize) -> String {
        self.cell(column, row).as_string::<i32>().value(0).to_owned()
    }

    /// A whole number.
    ///
    /// # Panics
    /// As [`Table::cell`], or it is none.
    #[must_use]
    pub fn whole(&self, column: &str, row: usize) -> i64 {
        self.cell(column, row).as_primitive::<Int64Type>().value(0)
    }

    /// A double.
    ///
    /// # Panics
    /// As [`Table::cell`], or it is none.
    #[must_use]
    pub fn number(&self, column: &str, row: usize) -> f64 {
        self.cell(column, row).as_primitive::<Float64Type>().value(0)
    }

    /// Whether a flag is set.
    ///
    /// # Panics
    /// As [`Table::cell`], or it is none.
    #[must_use]
    pub fn flag(&self, column: &str, row: usize) -> bool {
        self.cell(column, row).as_boolean().value(0)
    }

    /// A list of floats or doubles, as doubles.
    ///
    /// # Panics
    /// As [`Table::cell`], or it is none.
    #[must_use]
    pub fn list(&self, column: &str, row: usize) -> Vec<f64> {
        let cell = self.cell(column, row);
        assert!(cell.is_valid(0), "{column} of row {row} is null");
        let values = cell.as_list::<i32>().value(0);
        match values.as_primitive_opt::<Float64Type>() {
            Some(doubles) => doubles.values().to_vec(),
            None => values
                .as_primitive::<Float32Type>()
                .values()
                .iter()
                .copied()
                .map(f64::from)
                .collect(),
        }
    }
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}
