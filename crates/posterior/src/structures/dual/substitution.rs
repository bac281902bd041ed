//! Forward and backward substitution with a factor that is handed out tile by tile.

use std::sync::Arc;

use faer::linalg::triangular_solve::solve_upper_triangular_in_place;
use faer::{MatMut, Par};
use fisherflow_curvature::Matrix;
use fisherflow_kernels::{Start, multiply};
use fisherflow_network::product::release_wide_registers;

use super::gram::view;
use super::{DualLayout, DualSource, OpenTile};
use crate::PosteriorError;

/// `Y = B L^-T` for right-hand sides that vanish before chunk `first`: `right` gives the columns of B of one chunk after another, a row a
/// right-hand side; so does what comes back, from chunk `first` on.
pub(super) fn forward(
    layout: &DualLayout,
    source: &dyn DualSource,
    first: usize,
    mut right: impl FnMut(usize) -> Result<OpenTile, PosteriorError>,
    threads: usize,
) -> Result<Vec<Matrix>, PosteriorError> {
    let mut found: Vec<Matrix> = Vec::with_capacity(layout.n_chunks() - first);
    for row in first..layout.n_chunks() {
        let mut open = right(row)?;
        for (column, known) in (first..row).zip(&found) {
            open.subtract(known, tile(layout, source, row, column)?.as_ref(), threads);
        }
        found.push(open.solve(tile(layout, source, row, row)?.as_ref(), threads));
    }
    Ok(found)
}

/// `Z = Y L^-1`.
pub(super) fn backward(
    layout: &DualLayout,
    source: &dyn DualSource,
    mut right: Vec<Matrix>,
    threads: usize,
) -> Result<Vec<Matrix>, PosteriorError> {
    for row in (0..layout.n_chunks()).rev() {
        let diagonal = tile(layout, source, row, row)?;
        let (before, from) = right.split_at_mut(row);
        let Some(known) = from.first_mut() else { continue };
        let (sides, n) = (known.rows, known.cols);
        let transposed = MatMut::from_column_major_slice_mut(&mut known.values, n, sides);
        solve_upper_triangular_in_place(view(&diagonal).transpose(), transposed, Par::Seq);
        release_wide_registers();
        let mut negative = known.clone();
        negative.values.iter_mut().for_each(|value| *value = -*value);
        for (column, left) in before.iter_mut().enumerate() {
            let tile = tile(layout, source, row, column)?;
            let to = MatMut::from_row_major_slice_mut(&mut left.values, sides, left.cols);
            multiply(to, Start::Kept, view(&negative), view(&tile), threads);
        }
    }
    Ok(right)
}

/// The part of `tr (Q + delta I)^-1` of the columns of one chunk: the squares of `L^-1` there, `(K N)^3 / 3` operations over all chunks.
///
/// # Errors
/// If a tile cannot be had.
pub fn trace_of_inverse(
    layout: &DualLayout,
    source: &dyn DualSource,
    chunk: usize,
    threads: usize,
) -> Result<f64, PosteriorError> {
    let n = layout.rows_of(chunk);
    let unit = |row: usize| {
        if row > chunk {
            return Ok(OpenTile::zeros(n, layout.rows_of(row)));
        }
        let mut unit = vec![0.0; n * n];
        unit.iter_mut().step_by(n + 1).for_each(|value| *value = 1.0);
        Ok(OpenTile::new(Matrix {
            rows: n,
            cols: n,
            values: unit,
        }))
    };
    let inverse = forward(layout, source, chunk, unit, threads)?;
    let squares = |tile: &Matrix| crate::product::dot(&tile.values, &tile.values);
    Ok(inverse.iter().map(squares).sum())
}

/// A tile of L, its size checked.
fn tile(
    layout: &DualLayout,
    source: &dyn DualSource,
    row: usize,
    column: usize,
) -> Result<Arc<Matrix>, PosteriorError> {
    let tile = source.factor(row, column)?;
    let expected = (layout.rows_of(row), layout.rows_of(column));
    if (tile.rows, tile.cols) == expected {
        Ok(tile)
    } else {
        Err(PosteriorError::Shape {
            what: format!("tile ({row}, {column}) of the factor of block {}", layout.plan.name()),
            expected: vec![expected.0, expected.1],
            found: vec![tile.rows, tile.cols],
        })
    }
}
