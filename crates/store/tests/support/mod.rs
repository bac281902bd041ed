//! Catalogues for the tests, written with the plain Parquet writer.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, FixedSizeListBuilder, Float32Builder, Float64Builder, Int32Builder, LargeListBuilder, ListBuilder,
};
use arrow_array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use fisherflow_spectra::{CatalogueColumns, FluxError, LabelErrors, Mask};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// Columns `id`, `flux`, `flux_err`, `teff`, `logg`, and `snr` kept.
pub fn columns() -> CatalogueColumns {
    CatalogueColumns {
        id: "id".into(),
        flux: "flux".into(),
        error: FluxError::Sigma("flux_err".into()),
        mask: None,
        labels: vec!["teff".into(), "logg".into()],
        label_errors: LabelErrors::None,
        holdout_group: None,
        keep: vec!["snr".into()],
    }
}

pub fn with_mask(mut columns: CatalogueColumns) -> CatalogueColumns {
    columns.mask = Some(Mask {
        column: "mask".into(),
        bad_bits: vec![1],
    });
    columns
}

/// Flux of spectrum `i` in pixel `p`.
pub fn flux(i: usize, p: usize) -> f32 {
    1.0 + i as f32 * 0.25 + p as f32 * 0.001
}

/// The plain columns of `n` spectra of `d` pixels, counted from `first`.
pub fn plain(first: usize, n: usize, d: usize) -> Vec<(&'static str, ArrayRef)> {
    let ids = (first..first + n).map(|i| format!("star-{i}"));
    vec![
        ("id", Arc::new(StringArray::from_iter_values(ids))),
        ("flux", floats(first, n, d, flux)),
        ("flux_err", floats(first, n, d, |_, _| 0.5)),
        ("teff", f64s(first, n, |i| 5000.0 + i as f64)),
        ("logg", f64s(first, n, |i| 2.0 + 0.01 * i as f64)),
        (
            "snr",
            Arc::new((first..first + n).map(|i| Some(i as f32)).collect::<Float32Array>()),
        ),
    ]
}

pub fn f64s(first: usize, n: usize, value: impl Fn(usize) -> f64) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values((first..first + n).map(value)))
}

pub fn i64s(first: usize, n: usize) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values((first..first + n).map(|i| i as i64)))
}

pub fn floats(first: usize, n: usize, d: usize, value: impl Fn(usize, usize) -> f32) -> ArrayRef {
    let mut builder = ListBuilder::new(Float32Builder::new());
    for i in first..first + n {
        (0..d).for_each(|p| builder.values().append_value(value(i, p)));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

pub fn large_doubles(n: usize, d: usize, value: impl Fn(usize, usize) -> f64) -> ArrayRef {
    let mut builder = LargeListBuilder::new(Float64Builder::new());
    for i in 0..n {
        (0..d).for_each(|p| builder.values().append_value(value(i, p)));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

pub fn fixed_floats(n: usize, d: usize, value: impl Fn(usize, usize) -> f32) -> ArrayRef {
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), d as i32);
    for i in 0..n {
        (0..d).for_each(|p| builder.values().append_value(value(i, p)));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

pub fn ints(n: usize, d: usize, value: impl Fn(usize, usize) -> i32) -> ArrayRef {
    let mut builder = ListBuilder::new(Int32Builder::new());
    for i in 0..n {
        (0..d).for_each(|p| builder.values().append_value(value(i, p)));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

pub fn bools(n: usize, d: usize, value: impl Fn(usize, usize) -> bool) -> ArrayRef {
    let mut builder = ListBuilder::new(BooleanBuilder::new());
    for i in 0..n {
        (0..d).for_each(|p| builder.values().append_value(value(i, p)));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

/// Replaces or adds a column.
pub fn set(columns: &mut Vec<(&'static str, ArrayRef)>, name: &'static str, array: ArrayRef) {
    columns.retain(|(n, _)| *n != name);
    columns.push((name, array));
}

/// The bytes of a Parquet file with row groups of at most `group` rows.
pub fn parquet(columns: Vec<(&'static str, ArrayRef)>, group: usize) -> Vec<u8> {
    parquet_by(Compression::ZSTD(ZstdLevel::default()), columns, group)
}

pub fn parquet_by(codec: Compression, columns: Vec<(&'static str, ArrayRef)>, group: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_max_row_group_row_count(Some(group))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}
