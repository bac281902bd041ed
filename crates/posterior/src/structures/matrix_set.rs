//! The matrices of a block as they are read: each taken once by its name, of its size and finite, and none left.

use fisherflow_curvature::{BlockPlan, Matrix};

use crate::{Factor, NamedMatrix, PosteriorError};

/// The matrices of a block that are looked for by name, each once.
pub(crate) struct MatrixSet {
    block: String,
    matrices: Vec<NamedMatrix>,
}

impl MatrixSet {
    pub(crate) fn new(plan: &BlockPlan, matrices: Vec<NamedMatrix>) -> Self {
        Self {
            block: plan.name(),
            matrices,
        }
    }

    /// Takes the block's matrix of that name, which must be finite and `[rows, cols]`.
    pub(crate) fn take(&mut self, factor: Factor, rows: usize, cols: usize) -> Result<Matrix, PosteriorError> {
        let block = self.block.clone();
        self.take_of(&block, factor, rows, cols)
    }

    /// Rows of the matrix of a layer; 0 where there is none.
    pub(crate) fn rows_of(&self, layer: &str, factor: Factor) -> usize {
        let of = |m: &&NamedMatrix| m.layer == layer && m.factor == factor;
        self.matrices.iter().find(of).map_or(0, |m| m.matrix.rows)
    }

    /// Takes the matrix of a layer.
    pub(crate) fn take_of(
        &mut self,
        layer: &str,
        factor: Factor,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, PosteriorError> {
        let at = self
            .matrices
            .iter()
            .position(|m| m.layer == layer && m.factor == factor)
            .ok_or_else(|| PosteriorError::MissingMatrix {
                block: self.block.clone(),
                layer: layer.to_owned(),
                factor,
            })?;
        let matrix = self.matrices.swap_remove(at).matrix;
        check(&self.block, factor, &matrix, rows, cols)?;
        Ok(matrix)
    }

    /// Number of columns of the matrix of that name, where the plan does not say it.
    pub(crate) fn columns(&self, factor: Factor) -> Result<usize, PosteriorError> {
        let found = self.matrices.iter().find(|m| m.factor == factor);
        found
            .map(|m| m.matrix.cols)
            .ok_or_else(|| PosteriorError::MissingMatrix {
                block: self.block.clone(),
                layer: self.block.clone(),
                factor,
            })
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), PosteriorError> {
        match self.matrices.into_iter().next() {
            None => Ok(()),
            Some(left) => Err(PosteriorError::UnexpectedMatrix {
                block: self.block,
                layer: left.layer,
                factor: left.factor,
            }),
        }
    }
}

/// Refuses a matrix of the wrong size, or with a value that is not finite.
pub(crate) fn check(
    block: &str,
    factor: Factor,
    matrix: &Matrix,
    rows: usize,
    cols: usize,
) -> Result<(), PosteriorError> {
    if (matrix.rows, matrix.cols) != (rows, cols) || matrix.values.len() != rows * cols {
        return Err(PosteriorError::Shape {
            what: format!("{factor} of block {block}"),
            expected: vec![rows, cols],
            found: vec![matrix.rows, matrix.cols],
        });
    }
    match matrix.values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(PosteriorError::NotFinite {
            block: block.to_owned(),
            factor,
            row: at / cols,
        }),
    }
}
