//! Elements of `P^-1` that a user asks for, without forming the matrix.
//!
//! A block that is diagonal in the eigenbases U of `S_G` and V of `S_A`, with `mu_ij = lambda_ij + delta`, has between the weights of
//! outputs o and o' the elements
//!
//! ```text
//! P^-1 = (U (x) V) diag(1 / mu) (U (x) V)^T
//! P^-1[(o, :), (o', :)] = V diag(d) V^T,   d_j = sum_i U_oi U_o'i / mu_ij
//! ```
//!
//! so that a pair of outputs costs `out * columns`, and an element of it `columns` more. Any other structure solves for unit vectors.

use std::collections::BTreeMap;

use fisherflow_curvature::Matrix;

use crate::product::dot;
use crate::{BlockInfo, PosteriorError, Precision};

/// Refuses a weight that the block does not have.
pub(crate) fn check_weights<'a>(
    info: &BlockInfo,
    weights: impl IntoIterator<Item = &'a usize>,
) -> Result<(), PosteriorError> {
    match weights.into_iter().find(|&&weight| weight as u64 >= info.n_weights) {
        None => Ok(()),
        Some(&index) => Err(PosteriorError::NoWeight {
            block: info.layers.join("+"),
            index,
            n_weights: info.n_weights,
        }),
    }
}

/// Refuses a vector that has not a number for each weight of the block.
pub(crate) fn check_vector(info: &BlockInfo, v: &[f64]) -> Result<(), PosteriorError> {
    if v.len() as u64 == info.n_weights {
        Ok(())
    } else {
        Err(PosteriorError::Shape {
            what: format!("the vector to solve block {} for", info.layers.join("+")),
            expected: vec![info.n_weights as usize],
            found: vec![v.len()],
        })
    }
}

/// `[rows, cols]` of `P^-1`, a unit vector a column.
pub(crate) fn by_solving<P: Precision + ?Sized>(
    precision: &P,
    rows: &[usize],
    cols: &[usize],
) -> Result<Matrix, PosteriorError> {
    check_weights(precision.info(), rows.iter().chain(cols))?;
    let mut values = vec![0.0; rows.len() * cols.len()];
    let mut unit = vec![0.0; precision.info().n_weights as usize];
    for (at, &col) in cols.iter().enumerate() {
        unit[col] = 1.0;
        let solved = precision.solve(&unit)?;
        unit[col] = 0.0;
        for (row, values) in rows.iter().zip(values.chunks_exact_mut(cols.len())) {
            values[at] = solved[*row];
        }
    }
    Ok(Matrix {
        rows: rows.len(),
        cols: cols.len(),
        values,
    })
}

/// `[rows, cols]` of a `P^-1` that is diagonal in the eigenbases `u: [out, out]` and `v: [columns, columns]` (eigenvectors are columns), where
/// it is `inverse(i, j)`. The weights are those of the block.
pub(crate) fn in_eigenbases(
    u: &[f64],
    v: &[f64],
    inverse: impl Fn(usize, usize) -> f64,
    rows: &[usize],
    cols: &[usize],
) -> Matrix {
    let side = |square: &[f64]| square.len().isqrt();
    let (outputs, inputs) = (side(u), side(v));
    // Positions in the answer, by output.
    let by_output = |weights: &[usize]| {
        let mut of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, weight) in weights.iter().enumerate() {
            of.entry(weight / inputs).or_default().push(at);
        }
        of
    };
    let vector = |weight: usize| &v[weight % inputs * inputs..(weight % inputs + 1) * inputs];
    let mut values = vec![0.0; rows.len() * cols.len()];
    let mut scaled = vec![0.0; inputs];
    for (o, of_row) in &by_output(rows) {
        for (p, of_col) in &by_output(cols) {
            let mut between = vec![0.0; inputs];
            for i in 0..outputs {
                let both = u[o * outputs + i] * u[p * outputs + i];
                for (j, d) in between.iter_mut().enumerate() {
                    *d += both * inverse(i, j);
                }
            }
            for &row in of_row {
                for ((scaled, v), d) in scaled.iter_mut().zip(vector(rows[row])).zip(&between) {
                    *scaled = v * d;
                }
                for &col in of_col {
                    values[row * cols.len() + col] = dot(&scaled, vector(cols[col]));
                }
            }
        }
    }
    Matrix {
        rows: rows.len(),
        cols: cols.len(),
        values,
    }
}
