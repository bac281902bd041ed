//! A Kronecker-factored block in the eigenbases of its factors: `H = (U (x) V) diag(lambda) (U (x) V)^T`.
//!
//! With `S_A = V diag(s) V^T` and `S_G = U diag(t) U^T`, `lambda_ij = t_i s_j / n_terms` (kfac), or `lambda_ij` was summed over spectra in these
//! bases (ekfac; George et al. 2018, arXiv:1806.03884).

use candle_core::WithDType;
use fisherflow_curvature::{BlockPlan, Matrix};

use crate::eigen::Eigenpairs;
use crate::structures::diagonal::NonNegative;
use crate::structures::matrices::single_layer;
use crate::{Factor, NamedMatrix, PosteriorError, Spectrum};

/// Both bases and the eigenvalues in them.
pub(crate) struct Eigenbasis {
    /// V, `[columns, columns]`, row-major; eigenvectors are columns.
    pub a_vectors: Vec<f64>,
    /// U, `[out, out]`.
    pub g_vectors: Vec<f64>,
    /// Eigenvalues that were negative from rounding and are 0 now: of both factors, or of the block.
    pub clipped: u64,
    /// The most negative of them, relative to the largest.
    pub most_negative: f64,
    eigenvalues: Eigenvalues,
}

/// The eigenvalues `lambda_ij`, none negative.
enum Eigenvalues {
    /// `t_i s_j / n_terms`: `s` `[columns]`, `t` `[out]`, both ascending; all 0 where nothing was summed.
    Product { s: Vec<f64>, t: Vec<f64>, n_terms: u64 },
    /// `[out, columns]`.
    Corrected(Matrix),
}

impl Eigenbasis {
    /// From the decompositions of `S_A` and `S_G`, sums of `n_terms` terms.
    pub(crate) fn of_factors(a: Eigenpairs, g: Eigenpairs, n_terms: u64) -> Self {
        Self {
            a_vectors: a.vectors,
            g_vectors: g.vectors,
            clipped: a.clipped + g.clipped,
            most_negative: a.most_negative.min(g.most_negative),
            eigenvalues: Eigenvalues::Product {
                s: a.values,
                t: g.values,
                n_terms,
            },
        }
    }

    /// From V, U and eigenvalues `[out, columns]` of their own.
    pub(crate) fn corrected(a_vectors: Matrix, g_vectors: Matrix, eigenvalues: NonNegative) -> Self {
        Self {
            a_vectors: a_vectors.values,
            g_vectors: g_vectors.values,
            clipped: eigenvalues.clipped,
            most_negative: eigenvalues.most_negative,
            eigenvalues: Eigenvalues::Corrected(eigenvalues.values),
        }
    }

    /// `columns` and `out`.
    pub(crate) fn sides(&self) -> (usize, usize) {
        match &self.eigenvalues {
            Eigenvalues::Product { s, t, .. } => (s.len(), t.len()),
            Eigenvalues::Corrected(values) => (values.cols, values.rows),
        }
    }

    /// The factors' eigenvalues `s` and `t` and the number of terms that divides their product; `None` where the eigenvalues are no product.
    pub(crate) fn factors(&self) -> Option<(&[f64], &[f64], u64)> {
        match &self.eigenvalues {
            Eigenvalues::Product { s, t, n_terms } => Some((s, t, *n_terms)),
            Eigenvalues::Corrected(_) => None,
        }
    }

    /// The number of terms that divides the product of the factors; `None` where the eigenvalues are no such product.
    pub(crate) fn n_terms(&self) -> Option<u64> {
        match &self.eigenvalues {
            Eigenvalues::Product { n_terms, .. } => Some(*n_terms),
            Eigenvalues::Corrected(_) => None,
        }
    }

    /// `lambda_i1, lambda_i2, ...` of one column of U.
    pub(crate) fn row(&self, i: usize) -> impl Iterator<Item = f64> + '_ {
        let (values, scale) = match &self.eigenvalues {
            Eigenvalues::Product { s, t, n_terms } => (s.as_slice(), per_term(t[i], *n_terms)),
            Eigenvalues::Corrected(values) => (&values.values[i * values.cols..][..values.cols], 1.0),
        };
        values.iter().map(move |value| value * scale)
    }

    /// `sum_i lambda_ij` of every column j of V.
    pub(crate) fn sizes(&self) -> Vec<f64> {
        let (columns, outputs) = self.sides();
        let mut sizes = vec![0.0; columns];
        for i in 0..outputs {
            sizes
                .iter_mut()
                .zip(self.row(i))
                .for_each(|(size, lambda)| *size += lambda);
        }
        sizes
    }

    /// The smallest and the largest eigenvalue.
    pub(crate) fn ends(&self) -> (f64, f64) {
        let all = || (0..self.sides().1).flat_map(|i| self.row(i));
        (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max))
    }

    /// `1 / (lambda + delta)`, `[columns, out]`.
    pub(crate) fn inverse<T: WithDType>(&self, prior_precision: f64) -> Vec<T> {
        let (inputs, outputs) = self.sides();
        let mut inverse = vec![T::zero(); inputs * outputs];
        for i in 0..outputs {
            for (j, lambda) in self.row(i).enumerate() {
                inverse[j * outputs + i] = T::from_f64(1.0 / (lambda + prior_precision));
            }
        }
        inverse
    }

    /// `s_j` and `t_i / n_terms`, whose products the eigenvalues are; `None` where they are no product.
    pub(crate) fn product(&self) -> Option<(&[f64], Vec<f64>)> {
        let (s, t, n_terms) = self.factors()?;
        Some((s, t.iter().map(|&t| per_term(t, n_terms)).collect()))
    }

    /// The eigenvalues alone.
    pub(crate) fn spectrum(&self) -> Spectrum {
        let spectrum = match &self.eigenvalues {
            Eigenvalues::Product { s, t, n_terms } => Spectrum::kronecker(s.clone(), t, *n_terms, self.clipped),
            Eigenvalues::Corrected(values) => Spectrum::new(values.values.clone(), self.clipped),
        };
        spectrum.with_rounding(least_prior(self.sides(), self.ends()))
    }

    /// What it is made of, as it is written.
    pub(crate) fn matrices(&self, layer: &str) -> Vec<NamedMatrix> {
        let (inputs, outputs) = self.sides();
        let matrix = |factor, rows, values: &[f64]| {
            let matrix = Matrix {
                rows,
                cols: values.len() / rows,
                values: values.to_vec(),
            };
            NamedMatrix::new(layer, factor, matrix)
        };
        let a_vectors = matrix(Factor::AEigenvectors, inputs, &self.a_vectors);
        let g_vectors = matrix(Factor::GEigenvectors, outputs, &self.g_vectors);
        match &self.eigenvalues {
            Eigenvalues::Product { s, t, .. } => vec![
                a_vectors,
                matrix(Factor::AEigenvalues, 1, s),
                g_vectors,
                matrix(Factor::GEigenvalues, 1, t),
            ],
            Eigenvalues::Corrected(values) => {
                vec![
                    a_vectors,
                    g_vectors,
                    matrix(Factor::Eigenvalues, outputs, &values.values),
                ]
            }
        }
    }
}

/// Refuses a prior precision under which eigenvalues that are rounding would decide, or whose reciprocal, of 0 that of the smallest eigenvalue, is no
/// number of f32. `ends` are the smallest and the largest eigenvalue of the block.
pub(crate) fn check_seen(plan: &BlockPlan, ends: (f64, f64), prior_precision: f64) -> Result<(), PosteriorError> {
    let shape = single_layer(plan)?;
    let least = if prior_precision > 0.0 { prior_precision } else { ends.0 };
    let overflows = least > 0.0 && ((1.0 / least) as f32).is_infinite();
    if overflows || prior_precision < least_prior((shape.columns(), shape.outputs), ends) {
        return Err(PosteriorError::SingularSpectrum {
            block: plan.name(),
            prior_precision,
            smallest: ends.0,
            largest: ends.1,
        });
    }
    Ok(())
}

/// The least prior precision that is seen beside eigenvalues which are rounding, in a block of these `columns` and `out`; 0 where none is: an
/// eigenvalue below the rounding error of the largest.
fn least_prior((columns, outputs): (usize, usize), (smallest, largest): (f64, f64)) -> f64 {
    let rounding = f64::EPSILON * largest;
    if smallest <= columns.max(outputs) as f64 * rounding {
        rounding.max(f64::MIN_POSITIVE)
    } else {
        0.0
    }
}

/// An eigenvalue of a sum of `n_terms` terms as one of their mean; where nothing was summed, 0.
fn per_term(eigenvalue: f64, n_terms: u64) -> f64 {
    if n_terms == 0 { 0.0 } else { eigenvalue / n_terms as f64 }
}
