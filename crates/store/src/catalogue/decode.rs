//! From the columns of record batches to a batch of spectra. Nulls and wrong lengths become flagged rows.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Float32Array, Float64Array, ListArray, RecordBatch, StringArray, UInt64Array};
use arrow_cast::cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::concat::concat_batches;
use fisherflow_spectra::{
    BatchShape, CatalogueColumns, FluxError, LabelErrors, RawRow, Shard, SpectrumBatch, SpectrumBatchBuilder, StarKey,
    holdout_hash,
};

use crate::catalogue::schema::type_name;
use crate::{ExcludeList, StoreError};

/// What decodes the batches of one catalogue.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    pub columns: CatalogueColumns,
    pub row_schema: SchemaRef,
    pub shape: BatchShape,
    pub excluded: Option<Arc<ExcludeList>>,
}

/// A batch of spectra, as far as its rows are decoded.
pub(crate) struct Decoding {
    builder: SpectrumBatchBuilder,
    /// The identifier and the kept columns.
    rows: Vec<RecordBatch>,
}

/// A column of lists; null elements are NaN.
struct Lists {
    list: ListArray,
    values: Floats,
}

/// The elements of lists. Single precision is widened row by row: the column as a whole would not fit into a cache.
enum Floats {
    Single(Float32Array),
    Double(Float64Array),
}

/// A column of bit fields or booleans a pixel.
struct Bits {
    list: ListArray,
    values: UInt64Array,
}

/// The record batch and the object that it comes from.
struct Source<'a> {
    object: &'a str,
    batch: &'a RecordBatch,
}

/// What rows are known by.
struct Keys {
    ids: StringArray,
    /// What decides which rows are held out together, where the catalogue has it.
    groups: Option<StringArray>,
}

/// Room for one row, used again for the next.
#[derive(Default)]
struct Scratch {
    flux: Vec<f64>,
    nulls: Vec<bool>,
    error: Vec<f64>,
    mask: Vec<bool>,
}

impl Decoder {
    /// A batch of at most `n_rows` spectra, none of them decoded.
    pub fn begin(&self, n_rows: usize) -> Decoding {
        Decoding {
            builder: SpectrumBatchBuilder::new(self.shape, n_rows),
            rows: Vec::new(),
        }
    }

    /// Adds the spectra of one record batch of an object.
    ///
    /// # Errors
    /// A column is not as the footer said.
    pub fn push(&self, decoding: &mut Decoding, object: &str, batch: &RecordBatch) -> Result<(), StoreError> {
        let source = Source { object, batch };
        let columns = &self.columns;
        let flux_column = source.lists(&columns.flux)?;
        let error = match &columns.error {
            FluxError::Sigma(column) | FluxError::Ivar(column) => Some(source.lists(column)?),
            FluxError::Exact => None,
        };
        let mask = match &columns.mask {
            Some(mask) => Some((source.bits(&mask.column)?, mask.bad())),
            None => None,
        };
        let labels = source.numbers(&columns.labels)?;
        let label_sigmas = match &columns.label_errors {
            LabelErrors::Sigma(sigmas) => source.numbers(sigmas)?,
            _ => Vec::new(),
        };
        let label_covariance = match &columns.label_errors {
            LabelErrors::Covariance(column) => Some(source.lists(column)?),
            _ => None,
        };
        let keys = Keys::of(columns, &source)?;

        let mut scratch = Scratch::default();
        let (mut label_row, mut label_error_row) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let flux = flux_column.row(row, &mut scratch.flux);
            let null_pixels = match flux {
                Some(_) => flux_column.null_row(row, &mut scratch.nulls),
                None => None,
            };
            let error = match &error {
                Some(error) => error.row(row, &mut scratch.error),
                None => None,
            };
            let mask = match &mask {
                Some((mask, bad)) => mask.bad_row(row, *bad, &mut scratch.mask),
                None => None,
            };
            scalars(&labels, row, &mut label_row);
            match &label_covariance {
                Some(covariance) => {
                    if covariance.row(row, &mut label_error_row).is_none() {
                        label_error_row.clear();
                    }
                }
                None => scalars(&label_sigmas, row, &mut label_error_row),
            }
            let id = keys.id(row);
            decoding.builder.push(&RawRow {
                has_id: id.is_some(),
                excluded: id.is_some_and(|id| self.excluded.as_ref().is_some_and(|list| list.contains(id))),
                flux,
                null_pixels,
                error,
                mask,
                labels: &label_row,
                label_error: &label_error_row,
                holdout_key: keys.of_holdout(row),
            });
        }
        decoding.rows.push(self.rows(&source)?);
        Ok(())
    }

    /// The batch, which begins at `first_row` of the shard.
    ///
    /// # Errors
    /// The columns of its rows do not fit one another.
    pub fn finish(&self, decoding: Decoding, shard: &Shard, first_row: u64) -> Result<SpectrumBatch, StoreError> {
        let rows = concat_batches(&self.row_schema, &decoding.rows)
            .map_err(|error| self.unlike_footer(&shard.object.path, error.to_string()))?;
        Ok(decoding.builder.finish(shard.clone(), first_row, rows)?)
    }

    /// The identifier and the kept columns.
    fn rows(&self, source: &Source<'_>) -> Result<RecordBatch, StoreError> {
        let arrays = self
            .row_schema
            .fields()
            .iter()
            .map(|field| {
                let array = source.column(field.name())?;
                if array.data_type() == field.data_type() {
                    Ok(array)
                } else {
                    source.cast(field.name(), &array, field.data_type())
                }
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        RecordBatch::try_new(Arc::clone(&self.row_schema), arrays)
            .map_err(|error| self.unlike_footer(source.object, error.to_string()))
    }

    fn unlike_footer(&self, object: &str, found: String) -> StoreError {
        StoreError::ColumnType {
            object: object.to_owned(),
            column: self.columns.id.clone(),
            found,
            expected: "the columns of the footer".to_owned(),
        }
    }
}

/// The hash of each row by which it is held out or not; the batch has the key columns at least.
///
/// # Errors
/// They are not as the footer said.
pub(crate) fn holdout_hashes(
    columns: &CatalogueColumns,
    object: &str,
    batch: &RecordBatch,
) -> Result<Vec<f64>, StoreError> {
    let keys = Keys::of(columns, &Source { object, batch })?;
    Ok((0..batch.num_rows())
        .map(|row| holdout_hash(keys.of_holdout(row)))
        .collect())
}

/// The keys of the rows that have an identifier and all their labels and are not left out; the batch has these columns at least.
///
/// # Errors
/// They are not as the footer said.
pub(crate) fn star_keys(
    columns: &CatalogueColumns,
    excluded: Option<&ExcludeList>,
    object: &str,
    batch: &RecordBatch,
) -> Result<Vec<StarKey>, StoreError> {
    let source = Source { object, batch };
    let (ids, labels) = (source.keys(&columns.id)?, source.numbers(&columns.labels)?);
    let is_left_out = |id: &str| excluded.is_some_and(|list| list.contains(id));
    let mut of_row = Vec::new();
    let mut keys = Vec::new();
    for (row, id) in ids.iter().enumerate() {
        if let Some(id) = id.filter(|id| !is_left_out(id)) {
            scalars(&labels, row, &mut of_row);
            keys.extend(StarKey::of(id, &of_row));
        }
    }
    Ok(keys)
}

impl Keys {
    fn of(columns: &CatalogueColumns, source: &Source<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            ids: source.keys(&columns.id)?,
            groups: columns
                .holdout_group
                .as_ref()
                .map(|column| source.keys(column))
                .transpose()?,
        })
    }

    /// The identifier; `None` where it is null.
    fn id(&self, row: usize) -> Option<&str> {
        self.ids.is_valid(row).then(|| self.ids.value(row))
    }

    fn of_holdout(&self, row: usize) -> &str {
        match &self.groups {
            Some(groups) if groups.is_valid(row) => groups.value(row),
            _ => self.id(row).unwrap_or_default(),
        }
    }
}

impl Lists {
    /// The elements of a row; `None` where the row is null.
    fn row<'a>(&self, row: usize, scratch: &'a mut Vec<f64>) -> Option<&'a [f64]> {
        let span = span(&self.list, row)?;
        scratch.clear();
        match &self.values {
            Floats::Single(values) => {
                scratch.extend(values.values()[span.clone()].iter().map(|&value| f64::from(value)))
            }
            Floats::Double(values) => scratch.extend_from_slice(&values.values()[span.clone()]),
        }
        if self.values.has_nulls() {
            for (value, at) in scratch.iter_mut().zip(span) {
                if self.values.is_null(at) {
                    *value = f64::NAN;
                }
            }
        }
        Some(scratch)
    }

    /// Which elements of a row are null; `None` where none is.
    fn null_row<'a>(&self, row: usize, scratch: &'a mut Vec<bool>) -> Option<&'a [bool]> {
        if !self.values.has_nulls() {
            return None;
        }
        scratch.clear();
        scratch.extend(span(&self.list, row)?.map(|at| self.values.is_null(at)));
        Some(scratch)
    }
}

impl Floats {
    fn has_nulls(&self) -> bool {
        match self {
            Self::Single(values) => values.null_count() > 0,
            Self::Double(values) => values.null_count() > 0,
        }
    }

    fn is_null(&self, at: usize) -> bool {
        match self {
            Self::Single(values) => values.is_null(at),
            Self::Double(values) => values.is_null(at),
        }
    }
}

impl Bits {
    /// Which pixels of a row have one of the bad bits, or a null; `None` where the row is null.
    fn bad_row<'a>(&self, row: usize, bad: u64, scratch: &'a mut Vec<bool>) -> Option<&'a [bool]> {
        scratch.clear();
        scratch.extend(span(&self.list, row)?.map(|at| self.values.is_null(at) || self.values.value(at) & bad != 0));
        Some(scratch)
    }
}

impl Source<'_> {
    fn column(&self, name: &str) -> Result<ArrayRef, StoreError> {
        self.batch
            .column_by_name(name)
            .cloned()
            .ok_or_else(|| StoreError::MissingColumn {
                object: self.object.to_owned(),
                column: name.to_owned(),
                nearest: None,
            })
    }

    fn cast(&self, name: &str, array: &ArrayRef, to: &DataType) -> Result<ArrayRef, StoreError> {
        // What has no value in the other type becomes null.
        let options = CastOptions {
            safe: true,
            ..CastOptions::default()
        };
        cast_with_options(array, to, &options).map_err(|_| StoreError::ColumnType {
            object: self.object.to_owned(),
            column: name.to_owned(),
            found: type_name(array.data_type()),
            expected: type_name(to),
        })
    }

    fn list(&self, name: &str) -> Result<ListArray, StoreError> {
        let array = self.column(name)?;
        array
            .as_list_opt::<i32>()
            .cloned()
            .ok_or_else(|| StoreError::ColumnType {
                object: self.object.to_owned(),
                column: name.to_owned(),
                found: type_name(array.data_type()),
                expected: "a list".to_owned(),
            })
    }

    fn lists(&self, name: &str) -> Result<Lists, StoreError> {
        let list = self.list(name)?;
        let values = match list.values().as_primitive_opt::<Float32Type>() {
            Some(values) => Floats::Single(values.clone()),
            None => {
                let values = self.cast(name, list.values(), &DataType::Float64)?;
                Floats::Double(values.as_primitive::<Float64Type>().clone())
            }
        };
        Ok(Lists { list, values })
    }

    fn bits(&self, name: &str) -> Result<Bits, StoreError> {
        let list = self.list(name)?;
        let values = if *list.values().data_type() == DataType::Boolean {
            let values = list.values().as_boolean();
            values
                .iter()
                .map(|value| value.map(|bad| if bad { u64::MAX } else { 0 }))
                .collect()
        } else if list.values().data_type().is_signed_integer() {
            // The sign bit of a 32-bit field stays bit 31: widen without a sign.
            let width = list.values().data_type().primitive_width().unwrap_or(8) * 8;
            let keep = u64::MAX >> (64 - width);
            let signed = self.cast(name, list.values(), &DataType::Int64)?;
            signed.as_primitive::<Int64Type>().unary(|bits| bits as u64 & keep)
        } else {
            let unsigned = self.cast(name, list.values(), &DataType::UInt64)?;
            unsigned.as_primitive::<UInt64Type>().clone()
        };
        Ok(Bits { list, values })
    }

    /// Columns of numbers, as f64.
    fn numbers(&self, names: &[String]) -> Result<Vec<Float64Array>, StoreError> {
        names
            .iter()
            .map(|name| {
                let array = self.cast(name, &self.column(name)?, &DataType::Float64)?;
                Ok(array.as_primitive::<Float64Type>().clone())
            })
            .collect()
    }

    /// A column of identifiers, as text.
    fn keys(&self, name: &str) -> Result<StringArray, StoreError> {
        let array = self.cast(name, &self.column(name)?, &DataType::Utf8)?;
        Ok(array.as_string::<i32>().clone())
    }
}

/// Where the elements of a row are; `None` where the row is null.
fn span(list: &ListArray, row: usize) -> Option<std::ops::Range<usize>> {
    let offsets = list.value_offsets();
    list.is_valid(row)
        .then(|| offsets[row] as usize..offsets[row + 1] as usize)
}

/// One value of each column; null = NaN.
fn scalars(columns: &[Float64Array], row: usize, scratch: &mut Vec<f64>) {
    scratch.clear();
    scratch.extend(columns.iter().map(|column| {
        if column.is_null(row) {
            f64::NAN
        } else {
            column.value(row)
        }
    }));
}
