//! Small catalogues of simulated spectra, row by row, so that a test can spoil any of them.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use fisherflow_spectra::Simulation;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

/// A row of a catalogue; `None` is null.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    /// Column `id`.
    pub id: Option<String>,
    /// Column `flux`, continuum near 1.
    pub flux: Option<Vec<f32>>,
    /// Column `ivar`, 1 / flux^2; 0 = masked.
    pub ivar: Option<Vec<f32>>,
    /// Columns `teff` (K), `logg` and `fe_h` (dex).
    pub labels: [Option<f64>; 3],
    /// Column `visit`: the row's number in the simulation.
    pub visit: i64,
}

/// Spectra `first..first + n` of a simulation of `pixels` pixels.
#[must_use]
pub fn simulated(pixels: usize, first: u64, n: u64) -> Vec<Spectrum> {
    let simulation = Simulation::new(pixels, 11);
    (first..first + n)
        .map(|i| {
            let spectrum = simulation.spectrum(i);
            Spectrum {
                id: Some(simulation.id(i)),
                ivar: Some(spectrum.sigma.iter().map(|sigma| 1.0 / (sigma * sigma)).collect()),
                flux: Some(spectrum.flux),
                labels: spectrum.labels.map(Some),
                visit: i64::try_from(i).unwrap_or(i64::MAX),
            }
        })
        .collect()
}

/// One Parquet file of these spectra, with row groups of at most `row_group` rows.
///
/// # Panics
/// The encoder refuses them.
#[must_use]
pub fn parquet_bytes(spectra: &[Spectrum], row_group: usize) -> Vec<u8> {
    let lists = |of: fn(&Spectrum) -> Option<&Vec<f32>>| -> ArrayRef {
        let mut lists = ListBuilder::new(Float32Builder::new()).with_field(element());
        for spectrum in spectra {
            match of(spectrum) {
                Some(values) => {
                    lists.values().append_slice(values);
                    lists.append(true);
                }
                None => lists.append(false),
            }
        }
        Arc::new(lists.finish())
    };
    let label = |k: usize| -> ArrayRef { Arc::new(spectra.iter().map(|s| s.labels[k]).collect::<Float64Array>()) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(spectra.iter().map(|s| s.id.clone()).collect::<StringArray>()),
        lists(|s| s.flux.as_ref()),
        lists(|s| s.ivar.as_ref()),
        label(0),
        label(1),
        label(2),
        Arc::new(Int64Array::from_iter_values(spectra.iter().map(|s| s.visit))),
    ];
    let list = || DataType::List(Arc::new(element()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("flux", list(), true),
        Field::new("ivar", list(), true),
        Field::new("teff", DataType::Float64, true),
        Field::new("logg", DataType::Float64, true),
        Field::new("fe_h", DataType::Float64, true),
        Field::new("visit", DataType::Int64, true),
    ]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("columns agree");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(row_group))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).expect("a schema that Parquet has");
    writer.write(&batch).expect("a batch of the schema");
    writer.into_inner().expect("a footer")
}

fn element() -> Field {
    Field::new("element", DataType::Float32, true)
}

/// Writes `<folder>/<name>` as one Parquet object.
///
/// # Panics
/// It cannot be written.
pub fn write_catalogue(folder: &Path, name: &str, spectra: &[Spectrum], row_group: usize) {
    std::fs::create_dir_all(folder).expect("a folder can be made");
    std::fs::write(folder.join(name), parquet_bytes(spectra, row_group)).expect("an object can be written");
}

/// Writes spectra to `<folder>/part-00000.parquet`, ..., `rows` in each.
///
/// # Panics
/// They cannot be written.
pub fn write_objects(folder: &Path, spectra: &[Spectrum], rows: usize) {
    for (part, chunk) in spectra.chunks(rows).enumerate() {
        write_catalogue(folder, &format!("part-{part:05}.parquet"), chunk, rows);
    }
}

/// A Parquet file whose footer is whole and whose row group `row_group` is not: its bytes are overwritten.
///
/// # Panics
/// There is no such row group.
#[must_use]
pub fn broken_parquet(spectra: &[Spectrum], rows: usize, row_group: usize) -> Vec<u8> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let mut bytes = parquet_bytes(spectra, rows);
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).expect("a Parquet file");
    let (start, length) = reader.metadata().row_group(row_group).column(1).byte_range();
    drop(reader);
    let range = usize::try_from(start).unwrap_or(0)..usize::try_from(start + length).unwrap_or(0);
    bytes[range].fill(0xA5);
    bytes
}
