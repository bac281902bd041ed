//! What the predictions hold, from one pass over them: counts of all rows, and a sample of those with error bars.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, BooleanArray, Float64Array, ListArray, PrimitiveArray, RecordBatch};
use fisherflow_store::{Stores, Table};
use serde::Deserialize;

use crate::ReportError;
use crate::histogram::Histogram;
use crate::sample::Sample;

/// Rows read at a time.
const BATCH: usize = 8192;
/// Rows of the sample, at most.
const SAMPLE_ROWS: usize = 1 << 16;
/// Numbers of the sample, at most, about: 32 MiB.
const SAMPLE_VALUES: usize = 1 << 22;
/// The parts of the covariance.
const PARTS: [&str; 3] = ["cov_flux", "cov_weights", "cov_intrinsic"];
/// Numbers of the sample for each label: its value, its error, and the three parts' shares of its variance.
const PER_LABEL: usize = 2 + PARTS.len();

/// What one bit of the flags says, as the files' metadata names it, and how many rows have it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Flag {
    /// Its number.
    pub bit: u8,
    /// Its name.
    pub name: String,
    /// Whether such a row has no prediction.
    pub bad: bool,
    /// What it says.
    pub description: String,
    /// Rows.
    #[serde(skip)]
    pub rows: u64,
}

/// What the predictions hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Predictions {
    /// All rows.
    pub rows: u64,
    /// Rows without a prediction.
    pub bad: u64,
    /// Every flag that has a name, and those that a row has.
    pub flags: Vec<Flag>,
    /// The errors of each label, all rows.
    pub errors: Vec<Histogram>,
    sample: Sample,
}

impl Predictions {
    /// None.
    pub fn none(n_labels: usize) -> Self {
        let width = 1 + PER_LABEL * n_labels;
        let capacity = (SAMPLE_VALUES / width).min(SAMPLE_ROWS);
        Self {
            rows: 0,
            bad: 0,
            flags: Vec::new(),
            errors: vec![Histogram::default(); n_labels],
            sample: Sample::new(width, capacity),
        }
    }

    /// Reads them: the values and errors of `labels`, the covariances' parts, the flags.
    pub fn read(stores: &Stores, uri: &str, labels: &[String]) -> Result<Self, ReportError> {
        let table = Table::open(stores, uri)?;
        let mut found = Self::none(labels.len());
        let names = table.metadata().0.get("fisherflow.flags");
        found.flags = names
            .and_then(|names| serde_json::from_str(names).ok())
            .unwrap_or_default();
        let errors: Vec<String> = labels.iter().map(|label| format!("e_{label}")).collect();
        let mut columns = vec!["cov", "n_pix_good", "flags", "flag_bad"];
        columns.extend(PARTS);
        columns.extend(labels.iter().chain(&errors).map(String::as_str));
        for batch in table.batches(Some(&columns), BATCH)? {
            found.add(uri, &batch?, labels, &errors)?;
        }
        Ok(found)
    }

    /// Of the sample: how many good pixels each spectrum has.
    pub fn n_pix_good(&self) -> impl Iterator<Item = f64> + '_ {
        self.sample.column(0)
    }

    /// Of the sample: a label's values, label units.
    pub fn values(&self, label: usize) -> impl Iterator<Item = f64> + '_ {
        self.sample.column(1 + PER_LABEL * label)
    }

    /// Of the sample: a label's errors, label units.
    pub fn errors(&self, label: usize) -> impl Iterator<Item = f64> + '_ {
        self.sample.column(2 + PER_LABEL * label)
    }

    /// Of the sample: the share of a part (0 flux, 1 weights, 2 intrinsic) in a label's variance.
    pub fn shares(&self, label: usize, part: usize) -> impl Iterator<Item = f64> + '_ {
        self.sample.column(3 + PER_LABEL * label + part)
    }

    /// Rows of the sample, and of how many rows it keeps one on average.
    pub fn sampled(&self) -> (u64, u64) {
        (self.sample.len() as u64, self.sample.one_in())
    }

    fn add(&mut self, uri: &str, batch: &RecordBatch, labels: &[String], errors: &[String]) -> Result<(), ReportError> {
        let k = labels.len();
        let bad: &BooleanArray = column(uri, batch, "flag_bad", "booleans", |c| c.as_boolean_opt())?;
        let flags: &PrimitiveArray<Int64Type> = column(uri, batch, "flags", "int64", |c| c.as_primitive_opt())?;
        let good: &PrimitiveArray<Int32Type> = column(uri, batch, "n_pix_good", "int32", |c| c.as_primitive_opt())?;
        let doubles = |name: &str| -> Result<&Float64Array, ReportError> {
            column(uri, batch, name, "doubles", |c| c.as_primitive_opt::<Float64Type>())
        };
        let values = labels.iter().map(|name| doubles(name)).collect::<Result<Vec<_>, _>>()?;
        let errors = errors.iter().map(|name| doubles(name)).collect::<Result<Vec<_>, _>>()?;
        let total = Variances::of(uri, batch, "cov", k)?;
        let parts = PARTS
            .iter()
            .map(|part| Variances::of(uri, batch, part, k))
            .collect::<Result<Vec<_>, _>>()?;
        let mut row_values = vec![f64::NAN; 1 + PER_LABEL * k];
        for row in 0..batch.num_rows() {
            self.rows += 1;
            self.count_flags(flags.value(row));
            if bad.value(row) {
                self.bad += 1;
                continue;
            }
            row_values[0] = f64::from(good.value(row));
            for label in 0..k {
                let at = 1 + PER_LABEL * label;
                row_values[at] = valid(values[label], row);
                row_values[at + 1] = valid(errors[label], row);
                self.errors[label].add(row_values[at + 1]);
                let variance = total.get(row, label);
                for (share, part) in row_values[at + 2..].iter_mut().zip(&parts) {
                    *share = part.get(row, label) / variance;
                }
            }
            self.sample.offer(&row_values);
        }
        Ok(())
    }

    fn count_flags(&mut self, bits: i64) {
        let mut rest = bits as u64;
        while rest != 0 {
            let bit = rest.trailing_zeros() as u8;
            rest &= rest - 1;
            match self.flags.iter_mut().find(|flag| flag.bit == bit) {
                Some(flag) => flag.rows += 1,
                None => self.flags.push(Flag {
                    bit,
                    name: format!("bit {bit}"),
                    bad: false,
                    description: "not named in the files".to_owned(),
                    rows: 1,
                }),
            }
        }
    }
}

/// The diagonals of a column of covariances.
struct Variances<'a> {
    lists: &'a ListArray,
    values: &'a Float64Array,
    n_labels: usize,
}

impl<'a> Variances<'a> {
    fn of(uri: &str, batch: &'a RecordBatch, name: &str, k: usize) -> Result<Self, ReportError> {
        let expected = format!("lists of {} doubles", k * k);
        let lists = column(uri, batch, name, &expected, |c| c.as_list_opt::<i32>())?;
        let right = |row: usize| lists.is_null(row) || lists.value_length(row) as usize == k * k;
        match lists.values().as_primitive_opt::<Float64Type>() {
            Some(values) if (0..lists.len()).all(right) => Ok(Self {
                lists,
                values,
                n_labels: k,
            }),
            _ => Err(unlike(uri, name, &expected)),
        }
    }

    fn get(&self, row: usize, label: usize) -> f64 {
        if self.lists.is_null(row) {
            return f64::NAN;
        }
        let start = self.lists.value_offsets()[row] as usize;
        valid(self.values, start + label * self.n_labels + label)
    }
}

/// A column of a batch as what it should be.
pub(crate) fn column<'a, T: ?Sized>(
    uri: &str,
    batch: &'a RecordBatch,
    name: &str,
    expected: &str,
    cast: impl Fn(&'a dyn Array) -> Option<&'a T>,
) -> Result<&'a T, ReportError> {
    batch
        .column_by_name(name)
        .and_then(|column| cast(column.as_ref()))
        .ok_or_else(|| unlike(uri, name, expected))
}

/// The error of a column that is not what it should be.
pub(crate) fn unlike(uri: &str, name: &str, expected: &str) -> ReportError {
    ReportError::Column {
        table: uri.to_owned(),
        column: name.to_owned(),
        expected: expected.to_owned(),
    }
}

fn valid(values: &Float64Array, at: usize) -> f64 {
    if values.is_null(at) { f64::NAN } else { values.value(at) }
}
