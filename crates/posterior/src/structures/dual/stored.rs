//! A dual block's rows and factor in memory, and as the matrices that are written: `inputs` and `gradients` a layer (`gradients` alone where
//! positions share its weights), `gram_cholesky`.

use std::sync::Arc;

use fisherflow_curvature::{LayerSides, Matrix, WeightJacobian};

use super::{DualLayout, DualPrecision, DualSource};
use crate::structures::matrix_set::MatrixSet;
use crate::{BlockInfo, Factor, NamedMatrix, PosteriorError, Precision};

/// Rows and factor in memory.
pub(super) struct InMemory {
    pub(super) rows: Vec<Arc<WeightJacobian>>,
    /// `L_ij` by row, then column.
    pub(super) factor: Vec<Vec<Arc<Matrix>>>,
}

impl InMemory {
    /// Rows in the layout's chunks, and no factor yet.
    pub(super) fn of_rows(layout: &DualLayout, rows: &WeightJacobian) -> Self {
        let mut first = 0;
        let chunk = |&n: &usize| {
            first += n;
            Arc::new(rows.slice(first - n, n))
        };
        Self {
            rows: layout.chunks.iter().map(chunk).collect(),
            factor: Vec::with_capacity(layout.n_chunks()),
        }
    }
}

impl DualSource for InMemory {
    fn rows(&self, chunk: usize) -> Result<Arc<WeightJacobian>, PosteriorError> {
        let rows = self.rows.get(chunk).cloned();
        rows.ok_or_else(|| PosteriorError::Source(format!("there is no chunk {chunk}").into()))
    }

    fn factor(&self, row: usize, column: usize) -> Result<Arc<Matrix>, PosteriorError> {
        let tile = self.factor.get(row).and_then(|row| row.get(column)).cloned();
        tile.ok_or_else(|| PosteriorError::Source(format!("there is no tile ({row}, {column})").into()))
    }
}

/// Everything in one piece: a layer's `inputs` `[N, in]` and `gradients` `[N K, out]`, and `gram_cholesky` `[K N, K N]`, lower triangular.
pub(super) fn matrices(layout: &DualLayout, source: &dyn DualSource) -> Result<Vec<NamedMatrix>, PosteriorError> {
    let mut all = WeightJacobian::none(&layout.plan, layout.n_labels);
    for chunk in 0..layout.n_chunks() {
        all.append(source.rows(chunk)?.as_ref())?;
    }
    let mut named = Vec::with_capacity(2 * layout.plan.shapes.len() + 1);
    for (shape, layer) in layout.plan.shapes.iter().zip(all.layers()) {
        if layer.inputs.cols > 0 {
            named.push(NamedMatrix::new(&shape.name, Factor::Inputs, layer.inputs.clone()));
        }
        named.push(NamedMatrix::new(
            &shape.name,
            Factor::Gradients,
            layer.gradients.clone(),
        ));
    }
    let n = layout.n_rows();
    let mut factor = vec![0.0; n * n];
    for i in 0..layout.n_chunks() {
        for j in 0..=i {
            let tile = source.factor(i, j)?;
            for (row, values) in tile.values.chunks_exact(tile.cols).enumerate() {
                let at = (layout.first_row(i) + row) * n + layout.first_row(j);
                factor[at..at + tile.cols].copy_from_slice(values);
            }
        }
    }
    let factor = Matrix {
        rows: n,
        cols: n,
        values: factor,
    };
    named.push(NamedMatrix::new(&layout.plan.name(), Factor::GramCholesky, factor));
    Ok(named)
}

/// The posterior again from the rows of its chunks and the tiles of its factor, by row, then column.
#[must_use]
pub fn dual_from_tiles(
    layout: DualLayout,
    info: BlockInfo,
    rows: Vec<WeightJacobian>,
    factor: Vec<Vec<Matrix>>,
    threads: usize,
) -> Box<dyn Precision> {
    let tiles = |row: Vec<Matrix>| row.into_iter().map(Arc::new).collect();
    let memory = InMemory {
        rows: rows.into_iter().map(Arc::new).collect(),
        factor: factor.into_iter().map(tiles).collect(),
    };
    Box::new(DualPrecision::new(layout, info, Arc::new(memory), threads))
}

/// The posterior again from its matrices.
pub(crate) fn from_matrices(
    plan: &fisherflow_curvature::BlockPlan,
    set: &mut MatrixSet,
    info: BlockInfo,
    threads: usize,
) -> Result<Box<dyn Precision>, PosteriorError> {
    let n = info.n_spectra as usize;
    let mut layers = Vec::with_capacity(plan.shapes.len());
    let mut k = 0;
    for shape in &plan.shapes {
        let [in_width, out_width] = LayerSides::widths(shape);
        let inputs = match in_width {
            0 => Matrix {
                rows: n,
                cols: 0,
                values: Vec::new(),
            },
            _ => set.take_of(&shape.name, Factor::Inputs, n, in_width)?,
        };
        k = set.rows_of(&shape.name, Factor::Gradients) / n.max(1);
        let gradients = set.take_of(&shape.name, Factor::Gradients, n * k, out_width)?;
        layers.push(LayerSides::new(shape, inputs, gradients));
    }
    let factor = set.take(Factor::GramCholesky, n * k, n * k)?;
    let rows = WeightJacobian::from_layers(plan, k, layers)?;
    let layout = DualLayout::of(plan, k, n);
    let mut memory = InMemory::of_rows(&layout, &rows);
    for i in 0..layout.n_chunks() {
        let tile = |j: usize| {
            let (rows, cols) = (layout.rows_of(i), layout.rows_of(j));
            let row = |row: usize| {
                let at = (layout.first_row(i) + row) * factor.cols + layout.first_row(j);
                &factor.values[at..at + cols]
            };
            let values = (0..rows).flat_map(|at| row(at).iter().copied()).collect();
            Arc::new(Matrix { rows, cols, values })
        };
        memory.factor.push((0..=i).map(tile).collect());
    }
    Ok(Box::new(DualPrecision::new(layout, info, Arc::new(memory), threads)))
}
