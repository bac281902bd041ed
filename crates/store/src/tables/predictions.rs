//! `predictions/part-*.parquet`: a row a spectrum, in the catalogue's order: its key, labels, their errors and correlations, the covariance and
//! its parts.

use std::sync::Arc;

use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use fisherflow_spectra::RowFlags;

use crate::tables::column_list::{ColumnList, Role};
use crate::tables::lists::{list_field, lists};
use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::tables::part::TablePart;
use crate::tables::row_key::{self, RowKeys};
use crate::{Output, StoreError};

/// The columns of the predictions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictionSchema {
    labels: Vec<String>,
    n_rows_columns: usize,
    schema: SchemaRef,
}

/// Predictions of consecutive spectra.
#[derive(Clone, Copy, Debug)]
pub struct PredictionRows<'a> {
    /// Where they are.
    pub keys: RowKeys<'a>,
    /// Identifier and kept columns: `[n]`.
    pub rows: &'a RecordBatch,
    /// `[n, K]`, label units.
    pub labels: &'a [f64],
    /// `[n, K, K]`, label units: the sum of the three parts.
    pub covariance: &'a [f64],
    /// `[n, K, K]`: the part of the photon noise.
    pub flux: &'a [f64],
    /// `[n, K, K]`: the part of the network's weights.
    pub weights: &'a [f64],
    /// `[n, K, K]`: the part of misfit and label noise.
    pub intrinsic: &'a [f64],
    /// `[n]`.
    pub n_pix_good: &'a [u32],
    /// `[n]`: bad rows get nulls.
    pub flags: &'a [RowFlags],
}

impl PredictionSchema {
    /// The columns for a catalogue's identifier and kept columns and a network's labels.
    ///
    /// # Errors
    /// Two columns would have one name, upper and lower case taken as equal (Spark does).
    pub fn new(rows: &Schema, labels: &[String]) -> Result<Self, StoreError> {
        let mut columns = ColumnList::default();
        for (position, field) in rows.fields().iter().enumerate() {
            let field = field.as_ref().clone().with_nullable(true);
            if position == 0 {
                columns.add(field, Role::Identifier)?;
                row_key::add_columns(&mut columns)?;
            } else {
                columns.add(field, Role::Kept)?;
            }
        }
        let number = |name: String| Field::new(name, DataType::Float64, true);
        for label in labels {
            columns.add(number(label.clone()), Role::OfLabel("a label"))?;
            columns.add(number(format!("e_{label}")), Role::OfLabel("the error of a label"))?;
        }
        for (a, b) in pairs(labels.len()) {
            let name = format!("rho_{}_{}", labels[a], labels[b]);
            columns.add(number(name), Role::OfLabel("a correlation"))?;
        }
        for name in ["cov", "cov_flux", "cov_weights", "cov_intrinsic"] {
            columns.add(list_field(name, DataType::Float64, true), Role::Own("a covariance"))?;
        }
        for (name, data_type, words) in [
            ("n_pix_good", DataType::Int32, "the number of good pixels"),
            ("flags", DataType::Int64, "the flags"),
            ("flag_bad", DataType::Boolean, "the flag of bad rows"),
        ] {
            columns.add(Field::new(name, data_type, false), Role::Own(words))?;
        }
        Ok(Self {
            labels: labels.to_vec(),
            n_rows_columns: rows.fields().len(),
            schema: columns.schema(),
        })
    }

    /// The columns as they are written.
    #[must_use]
    pub fn arrow(&self) -> &SchemaRef {
        &self.schema
    }
}

/// Writes one part of the predictions.
#[derive(Debug)]
pub struct PredictionWriter {
    out: ParquetOut,
    columns: PredictionSchema,
    n_bad: u64,
}

impl Output {
    /// Begins a part of `predictions/`.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn predictions(
        &self,
        part: TablePart,
        columns: &PredictionSchema,
        metadata: &FileMetadata,
    ) -> Result<PredictionWriter, StoreError> {
        let metadata = described(metadata, &columns.labels);
        let path = format!("predictions/{}", part.file());
        Ok(PredictionWriter {
            out: ParquetOut::create(self.stores(), self.uri(), &path, &columns.schema, &metadata)?,
            columns: columns.clone(),
            n_bad: 0,
        })
    }
}

impl PredictionWriter {
    /// Appends spectra, and gives their flags as they are written: a row whose result is not finite becomes a bad row with
    /// [`RowFlags::RESULT_NOT_FINITE`].
    ///
    /// # Errors
    /// Arrays that do not fit together, or a store that does not take them.
    pub fn append(&mut self, rows: &PredictionRows<'_>) -> Result<Vec<RowFlags>, StoreError> {
        let n = rows.flags.len();
        let k = self.columns.labels.len();
        self.check(rows, n, k)?;
        let flags: Vec<RowFlags> = (0..n).map(|row| checked_flags(rows, row, k)).collect();
        let bad: Vec<bool> = flags.iter().map(|flags| flags.is_bad()).collect();
        self.n_bad += bad.iter().filter(|&&bad| bad).count() as u64;
        let number = |value: &dyn Fn(usize) -> Option<f64>| -> ArrayRef {
            Arc::new(
                (0..n)
                    .map(|row| if bad[row] { None } else { value(row) })
                    .collect::<Float64Array>(),
            )
        };
        let variance = |row: usize, a: usize| rows.covariance[(row * k + a) * k + a];
        let keys = rows.keys.columns(n, 1).map_err(|error| self.out.encoding(&error))?;
        let (id, kept) = rows.rows.columns().split_at(1.min(rows.rows.num_columns()));
        let mut columns: Vec<ArrayRef> = id.iter().chain(&keys).chain(kept).cloned().collect();
        for a in 0..k {
            columns.push(number(&|row| Some(rows.labels[row * k + a])));
            columns.push(number(&|row| Some(variance(row, a).max(0.0).sqrt())));
        }
        for (a, b) in pairs(k) {
            columns.push(number(&|row| {
                let scale = (variance(row, a) * variance(row, b)).sqrt();
                let rho = rows.covariance[(row * k + a) * k + b] / scale;
                rho.is_finite().then(|| rho.clamp(-1.0, 1.0))
            }));
        }
        for part in [rows.covariance, rows.flux, rows.weights, rows.intrinsic] {
            let matrix = |row: usize| (!bad[row]).then(|| &part[row * k * k..(row + 1) * k * k]);
            columns.push(lists::<Float64Type>((0..n).map(matrix)));
        }
        let good = rows.n_pix_good.iter().map(|&n| i32::try_from(n).unwrap_or(i32::MAX));
        columns.push(Arc::new(Int32Array::from_iter_values(good)));
        columns.push(Arc::new(Int64Array::from_iter_values(flags.iter().map(|f| f.bits()))));
        columns.push(Arc::new(BooleanArray::from(bad.clone())));
        self.out.write_columns(columns)?;
        Ok(flags)
    }

    /// Rows without a prediction so far.
    #[must_use]
    pub fn n_bad(&self) -> u64 {
        self.n_bad
    }

    /// Ends the part.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn finish(self) -> Result<WrittenFile, StoreError> {
        self.out.finish()
    }

    fn check(&self, rows: &PredictionRows<'_>, n: usize, k: usize) -> Result<(), StoreError> {
        let shapes = [
            (
                "columns of identifier and kept columns",
                rows.rows.num_columns(),
                self.columns.n_rows_columns,
            ),
            ("rows of identifiers", rows.rows.num_rows(), n),
            ("labels", rows.labels.len(), n * k),
            ("covariances", rows.covariance.len(), n * k * k),
            ("covariances of the flux", rows.flux.len(), n * k * k),
            ("covariances of the weights", rows.weights.len(), n * k * k),
            ("intrinsic covariances", rows.intrinsic.len(), n * k * k),
            ("numbers of good pixels", rows.n_pix_good.len(), n),
        ];
        check_shapes(self.out.uri(), &shapes)
    }
}

/// Checks lengths, naming the file.
pub(crate) fn check_shapes(uri: &str, shapes: &[(&str, usize, usize)]) -> Result<(), StoreError> {
    match shapes.iter().find(|(_, found, expected)| found != expected) {
        Some(&(what, found, expected)) => Err(StoreError::Shape {
            what: format!("{what} for {uri}"),
            found,
            expected,
        }),
        None => Ok(()),
    }
}

fn pairs(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k).flat_map(move |a| (a + 1..k).map(move |b| (a, b)))
}

fn checked_flags(rows: &PredictionRows<'_>, row: usize, k: usize) -> RowFlags {
    let mut flags = rows.flags[row];
    let parts = [rows.covariance, rows.flux, rows.weights, rows.intrinsic];
    let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
    let all = finite(&rows.labels[row * k..(row + 1) * k])
        && parts.iter().all(|part| finite(&part[row * k * k..(row + 1) * k * k]));
    // A variance below 0 by more than the rounding of its parts is no number, and never an error of 0.
    let is_negative = |a: usize| {
        let at = (row * k + a) * k + a;
        let rounding = 1e-12 * (rows.flux[at].abs() + rows.weights[at].abs() + rows.intrinsic[at].abs());
        rows.covariance[at] < -rounding || rows.weights[at] < -rounding
    };
    if !flags.is_bad() && (!all || (0..k).any(is_negative)) {
        flags.insert(RowFlags::RESULT_NOT_FINITE);
    }
    flags
}

/// The metadata with the flags' bits and the columns' layout.
fn described(metadata: &FileMetadata, labels: &[String]) -> FileMetadata {
    let flags = serde_json::to_string(RowFlags::DESCRIPTIONS).unwrap_or_default();
    let names = serde_json::to_string(labels).unwrap_or_default();
    let layout = format!(
        "list of {0} doubles: the {1} x {1} matrix row after row, labels in the order of fisherflow.labels; cov = cov_flux + cov_weights + cov_intrinsic",
        labels.len() * labels.len(),
        labels.len()
    );
    metadata
        .clone()
        .with("fisherflow.row_key", row_key::IN_WORDS)
        .with("fisherflow.flags", flags)
        .with("fisherflow.labels", names)
        .with("fisherflow.covariance", layout)
}
