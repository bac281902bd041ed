//! `posterior/marginal_variance/`: a row a weight.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};

use crate::tables::parquet_out::{FileMetadata, ParquetOut, WrittenFile};
use crate::tables::predictions::check_shapes;
use crate::{Output, StoreError};

/// Weights in one record batch, about.
const CHUNK: usize = 65_536;

/// What the columns are: `inverse --diagonal` has a `value` too, and there it is the variance.
const COLUMNS: &str = "value: the weight; std_error: the root of its marginal variance, a diagonal element of P^-1, null where there is none; both as in the \
                       network, whose outputs are normalised labels";

/// The weights of one layer, `[W | b]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarginalRows<'a> {
    /// Name of the layer.
    pub layer: &'a str,
    /// Outputs of the layer.
    pub rows: usize,
    /// Inputs of the layer.
    pub inputs: usize,
    /// The inputs, and one where there is a bias: its column is the last.
    pub cols: usize,
    /// `[rows, cols]`: the weights.
    pub value: &'a [f64],
    /// `[rows, cols]`: the diagonal of the inverse, in normalised label units; its root is written.
    pub variance: &'a [f64],
}

/// Writes the weights of one block, layer after layer.
#[derive(Debug)]
pub struct MarginalVarianceWriter {
    out: ParquetOut,
}

impl Output {
    /// Begins the weights of a block.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn marginal_variance(&self, name: &str, metadata: &FileMetadata) -> Result<MarginalVarianceWriter, StoreError> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("layer", DataType::Utf8, false),
            Field::new("out_index", DataType::Int64, false),
            Field::new("in_index", DataType::Int64, true),
            Field::new("value", DataType::Float64, false),
            Field::new("std_error", DataType::Float64, true),
        ]));
        let path = format!("posterior/marginal_variance/{name}.parquet");
        let metadata = metadata.clone().with("fisherflow.marginal_variance", COLUMNS);
        Ok(MarginalVarianceWriter {
            out: ParquetOut::create(self.stores(), self.uri(), &path, &schema, &metadata)?,
        })
    }
}

impl MarginalVarianceWriter {
    /// Appends the weights of a layer: row after row, the bias of each row last, where there is one. A variance that is negative or not finite is null.
    ///
    /// # Errors
    /// Arrays that do not fit together, or a store that does not take them.
    pub fn append(&mut self, layer: &MarginalRows<'_>) -> Result<(), StoreError> {
        let (rows, cols) = (layer.rows, layer.cols);
        let shapes = [
            ("weights of a layer", layer.value.len(), rows * cols),
            ("variances of a layer", layer.variance.len(), rows * cols),
        ];
        check_shapes(self.out.uri(), &shapes)?;
        let step = (CHUNK / cols.max(1)).max(1);
        for first in (0..rows).step_by(step) {
            let last = (first + step).min(rows);
            let span = first * cols..last * cols;
            let at = || (first..last).flat_map(|out| (0..cols).map(move |input| (out, input)));
            let name = std::iter::repeat_n(layer.layer, span.len());
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values(name)),
                Arc::new(Int64Array::from_iter_values(at().map(|(out, _)| out as i64))),
                Arc::new(
                    at().map(|(_, input)| (input < layer.inputs).then_some(input as i64))
                        .collect::<Int64Array>(),
                ),
                Arc::new(Float64Array::from_iter_values(
                    layer.value[span.clone()].iter().copied(),
                )),
                Arc::new(
                    layer.variance[span]
                        .iter()
                        .map(|v| (v.is_finite() && *v >= 0.0).then(|| v.sqrt()))
                        .collect::<Float64Array>(),
                ),
            ];
            self.out.write_columns(columns)?;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn finish(self) -> Result<WrittenFile, StoreError> {
        self.out.finish()
    }
}
