//! Simulated spectra as a catalogue, for timings and tests of any size.

use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, Float64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};
use fisherflow_spectra::{CatalogueColumns, FluxError, LabelErrors, SimulatedSpectrum, Simulation};

use crate::tables::lists::{list_field, lists};
use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::tables::part::TablePart;
use crate::{StoreError, Stores};

/// Spectra made at a time.
const CHUNK: u64 = 256;

/// The columns of a simulated catalogue.
#[must_use]
pub fn simulated_columns() -> CatalogueColumns {
    CatalogueColumns {
        id: "id".to_owned(),
        flux: "flux".to_owned(),
        error: FluxError::Sigma("flux_err".to_owned()),
        mask: None,
        labels: Simulation::LABELS.map(str::to_owned).to_vec(),
        label_errors: LabelErrors::None,
        holdout_group: None,
        keep: Vec::new(),
    }
}

/// Writes the first `n` spectra of a simulation to `<uri>/part-*.parquet`, `rows_per_file` in each.
///
/// # Errors
/// The store does not take them.
pub fn write_simulated(
    stores: &Stores,
    uri: &str,
    simulation: &Simulation,
    n: u64,
    rows_per_file: u64,
) -> Result<Vec<WrittenFile>, StoreError> {
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        list_field("flux", DataType::Float32, false),
        list_field("flux_err", DataType::Float32, false),
    ];
    fields.extend(Simulation::LABELS.map(|label| Field::new(label, DataType::Float64, false)));
    let schema = Arc::new(Schema::new(fields));
    let metadata = FileMetadata::default().with("fisherflow.simulated", "true");
    let mut files = Vec::new();
    let rows_per_file = rows_per_file.max(1);
    for (part, first) in (0..n).step_by(rows_per_file as usize).enumerate() {
        let last = (first + rows_per_file).min(n);
        let part = TablePart {
            number: part as u64,
            of: n.div_ceil(rows_per_file),
        };
        let path = part.file();
        let uri = uri.trim_end_matches('/');
        let mut out = ParquetOut::create(stores, uri, &path, &schema, &metadata)?;
        for start in (first..last).step_by(CHUNK as usize) {
            let range = start..(start + CHUNK).min(last);
            let spectra: Vec<SimulatedSpectrum> = range.clone().map(|i| simulation.spectrum(i)).collect();
            let ids = range.map(|i| simulation.id(i));
            let mut columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values(ids)),
                lists::<Float32Type>(spectra.iter().map(|s| Some(s.flux.as_slice()))),
                lists::<Float32Type>(spectra.iter().map(|s| Some(s.sigma.as_slice()))),
            ];
            for label in 0..Simulation::LABELS.len() {
                let values = spectra.iter().map(|s| s.labels[label]);
                columns.push(Arc::new(Float64Array::from_iter_values(values)));
            }
            out.write_columns(columns)?;
        }
        files.push(out.finish()?);
    }
    Ok(files)
}
