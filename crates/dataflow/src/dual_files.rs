//! The files of a dual block: the sides of its Jacobian's rows, chunk by chunk, and the rows of its factor.
//!
//! | file of `posterior/inverse/` | matrices |
//! | --- | --- |
//! | `block-BBB-rows-GGGGG-PPP` | chunk P of group G: of each layer `inputs` `[n, in]` and whitened `gradients` `[n K, out]`; where positions share its weights, the rows themselves as `gradients` `[n K, weights]` |
//! | `block-BBB-cholesky-CCCCC` | of chunk C, counted over all: `gram_cholesky` `[n K, first + n K]`, rows `first`, ... of L from column 0 to their tile's end |

use std::sync::Arc;

use fisherflow_curvature::{BlockPlan, LayerSides, Matrix, WeightJacobian};
use fisherflow_network::DenseShape;
use fisherflow_posterior::{DualLayout, DualSource, Factor};
use fisherflow_store::{MatrixSet, Output, StoredMatrix, WrittenFile};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::RunError;
use crate::files::metadata;

/// A chunk of training spectra of a dual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DualChunk {
    pub(crate) group: u64,
    /// Counted in the group.
    pub(crate) part: u64,
    pub(crate) n_spectra: usize,
}

fn rows_name(plan: &BlockPlan, group: u64, part: u64) -> String {
    format!("block-{:03}-rows-{group:05}-{part:03}", plan.id)
}

/// The chunks of a block's rows among an output's files, in order.
pub(crate) fn chunks_of(plan: &BlockPlan, n_labels: usize, files: &[WrittenFile]) -> Vec<DualChunk> {
    let start = format!("posterior/inverse/block-{:03}-rows-", plan.id);
    let chunk = |file: &WrittenFile| {
        let name = file.path.strip_prefix(&start)?.strip_suffix(".parquet")?;
        let (group, part) = name.split_once('-')?;
        // Of each layer one of gradients a label and, where no positions share its weights, one of inputs.
        let of_layer = |shape: &DenseShape| n_labels + usize::from(shape.shared == 1);
        let rows_a_spectrum: usize = plan.shapes.iter().map(of_layer).sum();
        Some(DualChunk {
            group: group.parse().ok()?,
            part: part.parse().ok()?,
            n_spectra: file.rows as usize / rows_a_spectrum.max(1),
        })
    };
    let mut chunks: Vec<DualChunk> = files.iter().filter_map(chunk).collect();
    chunks.sort_by_key(|chunk| (chunk.group, chunk.part));
    chunks
}

pub(crate) fn factor_name(plan: &BlockPlan, chunk: usize) -> String {
    format!("block-{:03}-cholesky-{chunk:05}", plan.id)
}

/// Writes the rows of a chunk.
pub(crate) fn write_rows(
    context: &Context,
    plan: &BlockPlan,
    chunk: DualChunk,
    rows: &WeightJacobian,
) -> Result<WrittenFile, RunError> {
    let name = rows_name(plan, chunk.group, chunk.part);
    let mut writer = context.output.matrices(MatrixSet::Inverse, &name, &metadata(context))?;
    for (shape, sides) in plan.shapes.iter().zip(rows.layers()) {
        let both = [(Factor::Inputs, &sides.inputs), (Factor::Gradients, &sides.gradients)];
        for (factor, matrix) in both.into_iter().filter(|(_, matrix)| matrix.cols > 0) {
            let whole = (matrix.cols, matrix.values.as_slice());
            writer.append_tiles(&shape.name, factor.as_str(), matrix.rows, &[whole])?;
        }
    }
    context.output.check_run(&context.run_id)?;
    Ok(writer.finish()?)
}

/// The path of a chunk's rows in the output.
pub(crate) fn rows_path(plan: &BlockPlan, chunk: DualChunk) -> String {
    MatrixSet::Inverse.path(&rows_name(plan, chunk.group, chunk.part))
}

/// The path of a chunk's rows of L in the output.
pub(crate) fn factor_path(plan: &BlockPlan, chunk: usize) -> String {
    MatrixSet::Inverse.path(&factor_name(plan, chunk))
}

/// Reads the rows of a chunk.
pub(crate) fn read_rows(
    output: &Output,
    plan: &BlockPlan,
    n_labels: usize,
    chunk: DualChunk,
) -> Result<WeightJacobian, RunError> {
    let name = rows_name(plan, chunk.group, chunk.part);
    let stored = output.read_matrices(MatrixSet::Inverse, &name)?;
    let mut matrices = stored.matrices.into_iter().map(matrix);
    let mut layers = Vec::with_capacity(plan.shapes.len());
    for shape in &plan.shapes {
        let no_inputs = Matrix {
            rows: chunk.n_spectra,
            cols: 0,
            values: Vec::new(),
        };
        let inputs = match LayerSides::widths(shape) {
            [0, _] => Some(no_inputs),
            _ => matrices.next(),
        };
        if let (Some(inputs), Some(gradients)) = (inputs, matrices.next()) {
            layers.push(LayerSides::new(shape, inputs, gradients));
        }
    }
    let rows = WeightJacobian::from_layers(plan, n_labels, layers)?;
    if rows.n_spectra() == chunk.n_spectra {
        Ok(rows)
    } else {
        Err(RunError::Refused(format!(
            "posterior/inverse/{name}.parquet is not of this run: run `fisherflow fit` again"
        )))
    }
}

/// Writes the rows of L that belong to a chunk.
pub(crate) fn write_factor(
    context: &Context,
    layout: &DualLayout,
    chunk: usize,
    source: &dyn DualSource,
) -> Result<WrittenFile, RunError> {
    let metadata = metadata(context).with("fisherflow.first_row", layout.first_row(chunk).to_string());
    let name = factor_name(&layout.plan, chunk);
    let mut writer = context.output.matrices(MatrixSet::Inverse, &name, &metadata)?;
    let tiles = (0..=chunk)
        .map(|column| source.factor(chunk, column))
        .collect::<Result<Vec<Arc<Matrix>>, _>>()?;
    let tiles: Vec<(usize, &[f64])> = tiles.iter().map(|tile| (tile.cols, tile.values.as_slice())).collect();
    writer.append_tiles(
        &layout.plan.name(),
        Factor::GramCholesky.as_str(),
        layout.rows_of(chunk),
        &tiles,
    )?;
    context.output.check_run(&context.run_id)?;
    Ok(writer.finish()?)
}

/// Reads them, as tiles.
pub(crate) fn read_factor(output: &Output, layout: &DualLayout, chunk: usize) -> Result<Vec<Matrix>, RunError> {
    let name = factor_name(&layout.plan, chunk);
    let mut stored = output.read_matrices(MatrixSet::Inverse, &name)?.matrices;
    let whole = stored
        .pop()
        .filter(|m| (m.rows, m.cols) == (layout.rows_of(chunk), layout.first_row(chunk) + layout.rows_of(chunk)))
        .ok_or_else(|| {
            RunError::Refused(format!(
                "posterior/inverse/{name}.parquet is not of this run: run `fisherflow invert` again"
            ))
        })?;
    let tile = |column: usize| {
        let (first, cols) = (layout.first_row(column), layout.rows_of(column));
        let rows = whole.values.chunks_exact(whole.cols.max(1));
        let values = rows.flat_map(|row| &row[first..first + cols]).copied().collect();
        Matrix {
            rows: whole.rows,
            cols,
            values,
        }
    };
    Ok((0..=chunk).map(tile).collect())
}

fn matrix(stored: StoredMatrix) -> Matrix {
    Matrix {
        rows: stored.rows,
        cols: stored.cols,
        values: stored.values,
    }
}
