//! The matrices of a block as they are written and read back: one name a factor, one layer each.
//!
//! | structure | `posterior/hessian/` | `posterior/inverse/` |
//! | --- | --- | --- |
//! | full, block | `dense`: `H` | `dense`: `P^-1` |
//! | kfac | `kron_a`, `kron_g`: `H = kron_g (x) kron_a / n_spectra` | `a_eigenvectors` V, `a_eigenvalues` s, `g_eigenvectors` U, `g_eigenvalues` t |
//! | ekfac | `a_eigenvectors` V, `g_eigenvectors` U, `eigenvalues` Lambda `[out, columns]`: `H = (U (x) V) diag(Lambda) (U (x) V)^T` | the same |
//! | diagonal | `diagonal`: `diag(H)`, `[out, columns]` | `diagonal`: `diag(P)^-1`, `[out, columns]` |
//! | dual | none: `H = J^T J` | of each layer `inputs` a, `gradients` g, whose rows `g (x) [a; 1]` are J's; `gram_cholesky` L, `L L^T = J J^T + prior_precision` |
//! | low_rank | `eigenvectors` U, `eigenvalues` L, `residuals`, `diagonal`: `diag(H)` | `diagonal` D^-1, `low_rank` Z: `P^-1 = D^-1 - Z Z^T` |
//!
//! Eigenvectors are columns; eigenvalues, one row of them, ascend (those of `low_rank` descend, and its diagonals are one row). With them
//! `P^-1 = (U (x) V) diag(1 / (t_i s_j / n_spectra + prior_precision)) (U (x) V)^T`, for ekfac with `Lambda_ij` for `t_i s_j / n_spectra`.
//!
//! Where positions of a spectrum share a layer's weights and `S_A` sums over each, `n_spectra` times their number takes the place of `n_spectra`:
//! where there is a bias, the last diagonal element of `kron_a`. `columns` are a layer's inputs, and one more where it has a bias.

use fisherflow_curvature::{BlockCurvature, BlockPlan, CurvatureForm, KroneckerBases, Matrix, StructureKind};

use crate::structures::low_rank::one_row;
use crate::structures::matrix_set::{MatrixSet, check};
use crate::{Factor, NamedMatrix, PosteriorError};

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
            check(&block, Factor::KronA, a, shape.columns(), shape.columns())?;
            check(&block, Factor::KronG, g, shape.outputs, shape.outputs)?;
            check_terms(plan, a, curvature.n_spectra)
        }
        (
            StructureKind::Ekfac,
            CurvatureForm::Eigenbasis {
                a_vectors,
                g_vectors,
                eigenvalues,
            },
        ) => {
            let shape = single_layer(plan)?;
            let (inputs, outputs) = (shape.columns(), shape.outputs);
            check(&block, Factor::AEigenvectors, a_vectors, inputs, inputs)?;
            check(&block, Factor::GEigenvectors, g_vectors, outputs, outputs)?;
            check(&block, Factor::Eigenvalues, eigenvalues, outputs, inputs)
        }
        (StructureKind::Diagonal, CurvatureForm::Diagonal(d)) => {
            let shape = single_layer(plan)?;
            check(&block, Factor::Diagonal, d, shape.outputs, shape.columns())
        }
        (
            StructureKind::LowRank,
            CurvatureForm::LowRank {
                eigenvectors,
                eigenvalues,
                residuals,
                diagonal,
            },
        ) => {
            let (p, rank) = (plan.n_weights(), eigenvalues.len());
            check(&block, Factor::Eigenvectors, eigenvectors, p, rank)?;
            check(&block, Factor::Eigenvalues, &one_row(eigenvalues), 1, rank)?;
            check(&block, Factor::Residuals, &one_row(residuals), 1, rank)?;
            check(&block, Factor::Diagonal, &one_row(diagonal), 1, p)
        }
        (_, CurvatureForm::LowRank { .. }) => wrong("eigenpairs and a diagonal"),
        (_, CurvatureForm::Dense(_)) => wrong("a dense matrix"),
        (_, CurvatureForm::Kronecker { .. }) => wrong("a Kronecker product"),
        (_, CurvatureForm::Eigenbasis { .. }) => wrong("a diagonal in the eigenbases of its factors"),
        (_, CurvatureForm::Diagonal(_)) => wrong("a diagonal"),
    }
}

/// The Kronecker factors of an `ekfac` block, refused like those of a `kfac` one.
pub(crate) fn check_factors(plan: &BlockPlan, factors: BlockCurvature) -> Result<(Matrix, Matrix), PosteriorError> {
    let as_kfac = BlockPlan {
        structure: StructureKind::Kfac,
        ..plan.clone()
    };
    check_curvature(&as_kfac, &factors)?;
    match factors.form {
        CurvatureForm::Kronecker { a, g } => Ok((a, g)),
        _ => Err(PosteriorError::Form {
            block: plan.name(),
            planned: plan.structure,
            found: "no Kronecker product",
        }),
    }
}

/// Refuses an `S_A` that sums over other terms than the plan's. Without a bias it does not count them.
fn check_terms(plan: &BlockPlan, a: &Matrix, n_spectra: u64) -> Result<(), PosteriorError> {
    let expected = n_spectra * plan.terms_a_spectrum();
    let found = a.values.last().copied().unwrap_or(0.0);
    if found == expected as f64 || !single_layer(plan)?.bias {
        Ok(())
    } else {
        Err(PosteriorError::Terms {
            block: plan.name(),
            found,
            expected,
            n_spectra,
        })
    }
}

/// The matrices of a block's Hessian: what `posterior/hessian/` holds.
#[must_use]
pub fn hessian_matrices<M: From<Matrix>>(plan: &BlockPlan, curvature: BlockCurvature<M>) -> Vec<NamedMatrix<M>> {
    let name = plan.name();
    match curvature.form {
        CurvatureForm::Dense(h) => vec![NamedMatrix::new(&name, Factor::Dense, h)],
        CurvatureForm::Kronecker { a, g } => vec![
            NamedMatrix::new(&name, Factor::KronA, a),
            NamedMatrix::new(&name, Factor::KronG, g),
        ],
        CurvatureForm::Eigenbasis {
            a_vectors,
            g_vectors,
            eigenvalues,
        } => vec![
            NamedMatrix::new(&name, Factor::AEigenvectors, a_vectors),
            NamedMatrix::new(&name, Factor::GEigenvectors, g_vectors),
            NamedMatrix::new(&name, Factor::Eigenvalues, eigenvalues),
        ],
        CurvatureForm::Diagonal(d) => vec![NamedMatrix::new(&name, Factor::Diagonal, d)],
        CurvatureForm::LowRank {
            eigenvectors,
            eigenvalues,
            residuals,
            diagonal,
        } => vec![
            NamedMatrix::new(&name, Factor::Eigenvectors, eigenvectors),
            NamedMatrix::new(&name, Factor::Eigenvalues, one_row(&eigenvalues).into()),
            NamedMatrix::new(&name, Factor::Residuals, one_row(&residuals).into()),
            NamedMatrix::new(&name, Factor::Diagonal, one_row(&diagonal).into()),
        ],
    }
}

/// The matrices of an `ekfac` block's eigenbases: what is handed from its first sums to its second.
#[must_use]
pub fn bases_matrices(plan: &BlockPlan, bases: &KroneckerBases) -> Vec<NamedMatrix> {
    let name = plan.name();
    vec![
        NamedMatrix::new(&name, Factor::AEigenvectors, bases.a_vectors().clone()),
        NamedMatrix::new(&name, Factor::GEigenvectors, bases.g_vectors().clone()),
    ]
}

/// An `ekfac` block's eigenbases again from the matrices of [`bases_matrices`].
///
/// # Errors
/// If a matrix is missing, there twice, of another size, or not finite.
pub fn bases_from_matrices(plan: &BlockPlan, matrices: Vec<NamedMatrix>) -> Result<KroneckerBases, PosteriorError> {
    let mut set = MatrixSet::new(plan, matrices);
    let shape = single_layer(plan)?;
    let (inputs, outputs) = (shape.columns(), shape.outputs);
    let a_vectors = set.take(Factor::AEigenvectors, inputs, inputs)?;
    let g_vectors = set.take(Factor::GEigenvectors, outputs, outputs)?;
    set.finish()?;
    Ok(KroneckerBases::new(a_vectors, g_vectors))
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
                a: set.take(Factor::KronA, shape.columns(), shape.columns())?,
                g: set.take(Factor::KronG, shape.outputs, shape.outputs)?,
            }
        }
        StructureKind::Ekfac => {
            let shape = single_layer(plan)?;
            let (inputs, outputs) = (shape.columns(), shape.outputs);
            CurvatureForm::Eigenbasis {
                a_vectors: set.take(Factor::AEigenvectors, inputs, inputs)?,
                g_vectors: set.take(Factor::GEigenvectors, outputs, outputs)?,
                eigenvalues: set.take(Factor::Eigenvalues, outputs, inputs)?,
            }
        }
        StructureKind::Diagonal => {
            let shape = single_layer(plan)?;
            CurvatureForm::Diagonal(set.take(Factor::Diagonal, shape.outputs, shape.columns())?)
        }
        StructureKind::Dual => {
            return Err(PosteriorError::Form {
                block: plan.name(),
                planned: plan.structure,
                found: "a set of matrices of H, which it does not have",
            });
        }
        StructureKind::LowRank => {
            let (p, rank) = (plan.n_weights(), set.columns(Factor::Eigenvectors)?);
            CurvatureForm::LowRank {
                eigenvectors: set.take(Factor::Eigenvectors, p, rank)?,
                eigenvalues: set.take(Factor::Eigenvalues, 1, rank)?.values,
                residuals: set.take(Factor::Residuals, 1, rank)?.values,
                diagonal: set.take(Factor::Diagonal, 1, p)?.values,
            }
        }
    };
    set.finish()?;
    let curvature = BlockCurvature { n_spectra, form };
    check_curvature(plan, &curvature)?;
    Ok(curvature)
}

#[cfg(test)]
mod tests {
    use fisherflow_curvature::BlockOptions;
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
            options: BlockOptions::default(),
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
    fn a_hessian_is_read_back_as_written() {
        let kfac = CurvatureForm::Kronecker {
            a: matrix(3, 3),
            g: matrix(2, 2),
        };
        let ekfac = CurvatureForm::Eigenbasis {
            a_vectors: matrix(3, 3),
            g_vectors: matrix(2, 2),
            eigenvalues: matrix(2, 3),
        };
        for (structure, form) in [
            (StructureKind::Kfac, kfac),
            (StructureKind::Ekfac, ekfac),
            (StructureKind::Block, CurvatureForm::Dense(matrix(6, 6))),
            (StructureKind::Full, CurvatureForm::Dense(matrix(6, 6))),
            (StructureKind::Diagonal, CurvatureForm::Diagonal(matrix(2, 3))),
            (
                StructureKind::LowRank,
                CurvatureForm::LowRank {
                    eigenvectors: matrix(6, 2),
                    eigenvalues: vec![2.0, 1.0],
                    residuals: vec![0.1, 0.2],
                    diagonal: vec![3.0; 6],
                },
            ),
        ] {
            // The last element of `kron_a` counts them.
            let curvature = BlockCurvature { n_spectra: 8, form };
            let plan = plan(structure);
            let written = hessian_matrices(&plan, curvature.clone());
            let read = hessian_from_matrices(&plan, 8, written.clone()).unwrap();
            assert_eq!(read, curvature);

            let mut twice = written.clone();
            twice.extend(written.clone());
            assert!(matches!(
                hessian_from_matrices(&plan, 8, twice),
                Err(PosteriorError::UnexpectedMatrix { .. })
            ));
            assert!(matches!(
                hessian_from_matrices(&plan, 8, written[1..].to_vec()),
                Err(PosteriorError::MissingMatrix { .. })
            ));
            let mut wrong = written;
            wrong[0].matrix = matrix(5, 5);
            assert!(matches!(
                hessian_from_matrices(&plan, 8, wrong),
                Err(PosteriorError::Shape { .. })
            ));
        }
    }
}
