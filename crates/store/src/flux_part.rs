//! `stages/flux/part-*.parquet`: labels and the photon noise's part of the covariance, from the pass over the spectra that also made the
//! curvature sums; the prediction adds the other parts.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, BooleanArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::error::Cause;
use crate::lists::{f64_lists, list_field};
use crate::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::predictions::check_shapes;
use crate::table::Table;
use crate::{StoreError, Stores};

/// Labels and covariances of a group, in the order of its rows; whatever bad rows hold is theirs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FluxPart {
    /// Number of spectra.
    pub n_rows: usize,
    /// K.
    pub n_labels: usize,
    /// `[n, K]`, label units.
    pub labels: Vec<f64>,
    /// `[n, K, K]`, label units.
    pub covariance: Vec<f64>,
}

/// Writes one part.
#[derive(Debug)]
pub struct FluxPartWriter {
    out: ParquetOut,
    schema: SchemaRef,
    n_labels: usize,
}

pub(crate) fn flux_part_path(part: u64) -> String {
    format!("stages/flux/part-{part:05}.parquet")
}

impl FluxPartWriter {
    pub(crate) fn create(
        stores: &Stores,
        output: &str,
        part: u64,
        n_labels: usize,
        metadata: &FileMetadata,
    ) -> Result<Self, StoreError> {
        let schema = Arc::new(Schema::new(vec![
            list_field("labels", DataType::Float64, false),
            list_field("cov_flux", DataType::Float64, false),
            // Keeps the number of rows even where there is no label.
            Field::new("row", DataType::Boolean, false),
        ]));
        let metadata = metadata.clone().with("fisherflow.n_labels", n_labels.to_string());
        Ok(Self {
            out: ParquetOut::create(stores, output, &flux_part_path(part), &schema, &metadata)?,
            schema,
            n_labels,
        })
    }

    /// Appends spectra: labels `[n, K]`, covariances `[n, K, K]`.
    ///
    /// # Errors
    /// Arrays that do not fit together, or a store that does not take them.
    pub fn append(&mut self, labels: &[f64], covariance: &[f64]) -> Result<(), StoreError> {
        let k = self.n_labels.max(1);
        let n = labels.len() / k;
        let shapes = [
            ("labels", labels.len(), n * k),
            ("covariances of the flux", covariance.len(), n * k * k),
        ];
        check_shapes(self.out.uri(), &shapes)?;
        let columns = vec![
            f64_lists(labels.chunks_exact(k).map(Some)),
            f64_lists(covariance.chunks_exact(k * k).map(Some)),
            Arc::new(BooleanArray::from(vec![true; n])) as _,
        ];
        let batch = self.out.batch(&self.schema, columns)?;
        self.out.write(&batch)
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.out.rows()
    }

    /// Ends the part.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn finish(self) -> Result<WrittenFile, StoreError> {
        self.out.finish(&FileMetadata::default())
    }
}

/// Reads one part; `None` where it was never ended.
pub(crate) fn read_flux_part(stores: &Stores, uri: &str) -> Result<Option<FluxPart>, StoreError> {
    if !stores.exists(uri)? {
        return Ok(None);
    }
    let table = Table::open(stores, uri)?;
    let unlike = || StoreError::BadDocument {
        uri: uri.to_owned(),
        source: Cause::said("it is not a table of labels and covariances"),
    };
    let n_labels = table.metadata().0.get("fisherflow.n_labels");
    let mut part = FluxPart {
        n_labels: n_labels.and_then(|text| text.parse().ok()).ok_or_else(unlike)?,
        ..FluxPart::default()
    };
    for batch in table.batches(Some(&["labels", "cov_flux"]), 65_536)? {
        let batch = batch?;
        part.n_rows += batch.num_rows();
        for (column, values) in [(0, &mut part.labels), (1, &mut part.covariance)] {
            let list = batch.column(column).as_list_opt::<i32>().ok_or_else(unlike)?;
            let found = list.values().as_primitive_opt::<Float64Type>().ok_or_else(unlike)?;
            let offsets = list.value_offsets();
            let span = offsets[0] as usize..offsets[list.len()] as usize;
            values.extend_from_slice(&found.values()[span]);
        }
    }
    let (n, k) = (part.n_rows, part.n_labels);
    let shapes = [
        ("labels", part.labels.len(), n * k),
        ("covariances of the flux", part.covariance.len(), n * k * k),
    ];
    check_shapes(uri, &shapes)?;
    Ok(Some(part))
}
