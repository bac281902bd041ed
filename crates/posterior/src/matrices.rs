//! The matrices of a block as they are written and read back: one name a factor, one layer each.
//!
//! | structure | `posterior/hessian/` | `posterior/inverse/` |
//! | --- | --- | --- |
//! | full, block | `dense`: `H` | `dense`: `P^-1` |
//! | kfac | `kron_a`, `kron_g`: `H = kron_g (x) kron_a / n_spectra` | `a_eigenvectors` V, `a_eigenvalues` s, `g_eigenvectors` U, `g_eigenvalues` t |
//! | diagonal | `diagonal`: `diag(H)`, `[out, in + 1]` | `diagonal`: `diag(P)^-1`, `[out, in + 1]` |
//!
//! Eigenvectors are columns; eigenvalues, one row of them, ascend. With them
//! `P^-1 = (U (x) V) diag(1 / (t_i s_j / n_spectra + prior_precision)) (U (x) V)^T`.

use std::fmt;
use std::str::FromStr;

use fisherflow_curvature::{BlockCurvature, BlockPlan, CurvatureForm, Matrix, StructureKind};
use serde::{Deserialize, Serialize};

use crate::PosteriorError;

/// Which matrix of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// The block itself, `[p, p]`.
    Dense,
    /// `S_A`, `[in + 1, in + 1]`.
    KronA,
    /// `S_G`, `[out, out]`.
    KronG,
    /// Eigenvectors of `S_A`, one a column.
    AEigenvectors,
    /// Eigenvalues of `S_A`, ascending, `[1, in + 1]`.
    AEigenvalues,
    /// Eigenvectors of `S_G`, one a column.
    GEigenvectors,
    /// Eigenvalues of `S_G`, ascending, `[1, out]`.
    GEigenvalues,
    /// A diagonal as `[out, in + 1]`.
    Diagonal,
}

impl Factor {
    /// Every factor there is.
    pub const ALL: [Self; 8] = [
        Self::Dense,
        Self::KronA,
        Self::KronG,
        Self::AEigenvectors,
        Self::AEigenvalues,
        Self::GEigenvectors,
        Self::GEigenvalues,
        Self::Diagonal,
    ];

    /// The name in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::KronA => "kron_a",
            Self::KronG => "kron_g",
            Self::AEigenvectors => "a_eigenvectors",
            Self::AEigenvalues => "a_eigenvalues",
            Self::GEigenvectors => "g_eigenvectors",
            Self::GEigenvalues => "g_eigenvalues",
            Self::Diagonal => "diagonal",
        }
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Factor {
    type Err = PosteriorError;

    fn from_str(name: &str) -> Result<Self, PosteriorError> {
        Self::ALL
            .into_iter()
            .find(|factor| factor.as_str() == name)
            .ok_or_else(|| PosteriorError::UnknownFactor {
                name: name.to_owned(),
                known: Self::ALL.map(Self::as_str).join(", "),
            })
    }
}

/// One matrix of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedMatrix {
    /// The layer's name; a full block's is its layers' names joined by `+`.
    pub layer: String,
    /// Which matrix it is.
    pub factor: Factor,
    /// Its numbers.
    pub matrix: Matrix,
}

impl NamedMatrix {
    pub(crate) fn new(layer: &str, factor: Factor, matrix: Matrix) -> Self {
        Self {
            layer: layer.to_owned(),
            factor,
            matrix,
        }
    }
}

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

    /// Takes the matrix of that name, which must be finite and `[rows, cols]`.
    pub(crate) fn take(&mut self, factor: Factor, rows: usize, cols: usize) -> Result<Matrix, PosteriorError> {
        let at = self
            .matrices
            .iter()
            .position(|m| m.layer == self.block && m.factor == factor)
            .ok_or_else(|| PosteriorError::MissingMatrix {
                block: self.block.clone(),
                layer: self.block.clone(),
                factor,
            })?;
        let matrix = self.matrices.swap_remove(at).matrix;
        check(&self.block, factor, &matrix, rows, cols)?;
        Ok(matrix)
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

/// The only layer of a block whose structure holds one.
pub(crate) fn single_layer(plan: &BlockPlan) -> Result<&fisherflow_network::DenseShape, PosteriorError> {
    match plan.shapes.as_slice() {
        [shape] => Ok(shape),
        shapes => Err(PosteriorError::Layers {
            block: plan.name(),
            structure: plan.structure,
            layers: shapes.len(),
        }),
    }
}

/// Refuses a curvature of another form, size, or with values that are not finite.
pub(crate) fn check_curvature(plan: &BlockPlan, curvature: &BlockCurvature) -> Result<(), PosteriorError> {
    let block = plan.name();
    let wrong = |found| {
        Err(PosteriorError::Form {
            block: block.clone(),
            planned: plan.structure,
            found,
        })
    };
    match (plan.structure, &curvature.form) {
        (StructureKind::Full, CurvatureForm::Dense(h)) => {
            check(&block, Factor::Dense, h, plan.n_weights(), plan.n_weights())
        }
        (StructureKind::Block, CurvatureForm::Dense(h)) => {
            let p = single_layer(plan)?.n_weights();
            check(&block, Factor::Dense, h, p, p)
        }
        (StructureKind::Kfac, CurvatureForm::Kronecker { a, g }) => {
            let shape = single_layer(plan)?;
            check(&block, Factor::KronA, a, shape.inputs + 1, shape.inputs + 1)?;
            check(&block, Factor::KronG, g, shape.outputs, shape.outputs)
        }
        (StructureKind::Diagonal, CurvatureForm::Diagonal(d)) => {
            let shape = single_layer(plan)?;
            check(&block, Factor::Diagonal, d, shape.outputs, shape.inputs + 1)
        }
        (_, CurvatureForm::Dense(_)) => wrong("a dense matrix"),
        (_, CurvatureForm::Kronecker { .. }) => wrong("a Kronecker product"),
        (_, CurvatureForm::Diagonal(_)) => wrong("a diagonal"),
    }
}

/// The matrices of a block's Hessian: what `posterior/hessian/` holds.
#[must_use]
pub fn hessian_matrices(plan: &BlockPlan, curvature: &BlockCurvature) -> Vec<NamedMatrix> {
    let name = plan.name();
    match &curvature.form {
        CurvatureForm::Dense(h) => vec![NamedMatrix::new(&name, Factor::Dense, h.clone())],
        CurvatureForm::Kronecker { a, g } => vec![
            NamedMatrix::new(&name, Factor::KronA, a.clone()),
            NamedMatrix::new(&name, Factor::KronG, g.clone()),
        ],
        CurvatureForm::Diagonal(d) => vec![NamedMatrix::new(&name, Factor::Diagonal, d.clone())],
    }
}

/// A block's curvature again from the matrices of [`hessian_matrices`] and the count of spectra.
///
/// # Errors
/// If a matrix of the block's structure is missing, there twice, of another size, or not finite.
pub fn hessian_from_matrices(
    plan: &BlockPlan,
    n_spectra: u64,
    matrices: Vec<NamedMatrix>,
) -> Result<BlockCurvature, PosteriorError> {
    let mut set = MatrixSet::new(plan, matrices);
    let form = match plan.structure {
        StructureKind::Full | StructureKind::Block => {
            let p = plan.n_weights();
            CurvatureForm::Dense(set.take(Factor::Dense, p, p)?)
        }
        StructureKind::Kfac => {
            let shape = single_layer(plan)?;
            CurvatureForm::Kronecker {
                a: set.take(Factor::KronA, shape.inputs + 1, shape.inputs + 1)?,
                g: set.take(Factor::KronG, shape.outputs, shape.outputs)?,
            }
        }
        StructureKind::Diagonal => {
            let shape = single_layer(plan)?;
            CurvatureForm::Diagonal(set.take(Factor::Diagonal, shape.outputs, shape.inputs + 1)?)
        }
    };
    set.finish()?;
    let curvature = BlockCurvature { n_spectra, form };
    check_curvature(plan, &curvature)?;
    Ok(curvature)
}

#[cfg(test)]
mod tests {
    use fisherflow_network::DenseShape;

    use super::*;

    fn plan(structure: StructureKind) -> BlockPlan {
        BlockPlan {
            id: 0,
            structure,
            layers: vec![0],
            shapes: vec![DenseShape {
                name: "layers.0".into(),
                inputs: 2,
                outputs: 2,
                bias: true,
                shared: 1,
            }],
        }
    }

    fn matrix(rows: usize, cols: usize) -> Matrix {
        Matrix {
            rows,
            cols,
            values: (0..rows * cols).map(|i| i as f64).collect(),
        }
    }

    #[test]
    fn names_are_read_back_as_written() {
        for factor in Factor::ALL {
            assert_eq!(factor.as_str().parse::<Factor>().unwrap(), factor);
        }
        let error = "kron_b".parse::<Factor>().unwrap_err().to_string();
        assert!(error.contains("kron_a"), "{error}");
    }

    #[test]
    fn a_hessian_is_read_back_as_written() {
        let kfac = CurvatureForm::Kronecker {
            a: matrix(3, 3),
            g: matrix(2, 2),
        };
        for (structure, form) in [
            (StructureKind::Kfac, kfac),
            (StructureKind::Block, CurvatureForm::Dense(matrix(6, 6))),
            (StructureKind::Full, CurvatureForm::Dense(matrix(6, 6))),
            (StructureKind::Diagonal, CurvatureForm::Diagonal(matrix(2, 3))),
        ] {
            let curvature = BlockCurvature { n_spectra: 7, form };
            let plan = plan(structure);
            let written = hessian_matrices(&plan, &curvature);
            let read = hessian_from_matrices(&plan, 7, written.clone()).unwrap();
            assert_eq!(read, curvature);

            let mut twice = written.clone();
            twice.extend(written.clone());
            assert!(matches!(
                hessian_from_matrices(&plan, 7, twice),
                Err(PosteriorError::UnexpectedMatrix { .. })
            ));
            assert!(matches!(
                hessian_from_matrices(&plan, 7, written[1..].to_vec()),
                Err(PosteriorError::MissingMatrix { .. })
            ));
            let mut wrong = written;
            wrong[0].matrix = matrix(5, 5);
            assert!(matches!(
                hessian_from_matrices(&plan, 7, wrong),
                Err(PosteriorError::Shape { .. })
            ));
        }
    }
}
