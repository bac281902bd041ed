//! A Kronecker-factored block: `P = S_G (x) S_A / n + delta I` in the eigenbases of its factors (exact damping).
//!
//! With `S_A = V diag(s) V^T` and `S_G = U diag(t) U^T` the eigenvalues of the block are `lambda_ij = t_i s_j / n`, and
//!
//! ```text
//! P^-1 = (U (x) V) diag(1 / (lambda_ij + delta)) (U (x) V)^T
//! a~ = V^T [a; 1],   g~_k = U^T g_k,   h_i = sum_j a~_j^2 / (lambda_ij + delta)
//! (J P^-1 J^T)_kl = sum_i g~_ki g~_li h_i
//! ```
//!
//! so `J_theta` is never formed: two rotations and one more product a batch, in the captures' type; the last sum is f64. (George et al.
//! 2018, arXiv:1806.03884, for the eigenbasis; Martens and Grosse 2015 for the factors.) The eigenproblems are f64.
//!
//! Memory: the eigenvectors once in f64; the first batch of f32 captures adds an f32 copy of them, and either type `1 / (lambda + delta)`.

use std::sync::OnceLock;

use candle_core::{DType, WithDType};
use fisherflow_curvature::{BlockPlan, Matrix, StructureKind};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::block_info::Certificate;
use crate::captures::Wanted;
use crate::certificate::kronecker_probes;
use crate::contraction::contract;
use crate::eigen::Eigenpairs;
use crate::elements::{check_weights, in_eigenbases};
use crate::matrices::single_layer;
use crate::product::{Scalar, product, rows};
use crate::{BlockInfo, Factor, NamedMatrix, PosteriorError, Precision, Probe};

/// How many rows of squared eigenvectors the marginal variance holds at a time.
const MARGINAL_ROWS: usize = 256;

/// The eigendecompositions of both factors.
pub(crate) struct KroneckerPrecision {
    index: usize,
    shape: DenseShape,
    info: BlockInfo,
    /// Of `S_A`, `[in + 1, in + 1]`.
    a: Eigenpairs,
    /// Of `S_G`, `[out, out]`.
    g: Eigenpairs,
    threads: usize,
    in_f32: OnceLock<InF32>,
    /// `1 / (lambda + delta)`, `[in + 1, out]`, for f64 captures.
    inverse_f64: OnceLock<Vec<f64>>,
}

/// What f32 captures are multiplied by.
struct InF32 {
    a_vectors: Vec<f32>,
    g_vectors: Vec<f32>,
    inverse: Vec<f32>,
}

impl KroneckerPrecision {
    /// Adds the prior to the eigenvalues of a block whose factors are decomposed.
    pub(crate) fn with_prior(
        plan: &BlockPlan,
        n_spectra: u64,
        a: Eigenpairs,
        g: Eigenpairs,
        prior_precision: f64,
        threads: usize,
    ) -> Result<Self, PosteriorError> {
        let block = plan.name();
        let (mut log_det, mut effective_parameters) = (0.0, 0.0);
        for &t in &g.values {
            let (mut row_log_det, mut row_effective) = (0.0, 0.0);
            for &s in &a.values {
                let lambda = eigenvalue(s, t, n_spectra);
                row_log_det += (lambda + prior_precision).ln();
                row_effective += lambda / (lambda + prior_precision);
            }
            log_det += row_log_det;
            effective_parameters += row_effective;
        }
        let ends = |of: fn(&[f64]) -> Option<&f64>| match (of(&a.values), of(&g.values)) {
            (Some(&s), Some(&t)) => eigenvalue(s, t, n_spectra),
            _ => 0.0,
        };
        let (smallest, largest) = (ends(<[f64]>::first), ends(<[f64]>::last));
        // Without a prior, an eigenvalue below the rounding error of the largest is none.
        let rounding = a.values.len().max(g.values.len()) as f64 * f64::EPSILON * largest;
        if prior_precision == 0.0 && smallest <= rounding {
            return Err(PosteriorError::SingularSpectrum {
                block,
                prior_precision,
                smallest,
                largest,
            });
        }
        let (smallest, largest) = (smallest + prior_precision, largest + prior_precision);
        let certificate = Certificate {
            log_det,
            effective_parameters,
            eigenvalues: Some((smallest, largest)),
            condition: largest / smallest,
            clipped_eigenvalues: a.clipped + g.clipped,
            most_negative_eigenvalue: a.most_negative.min(g.most_negative),
        };
        let info = BlockInfo::new(plan, n_spectra, prior_precision, certificate);
        Self::new(plan, a, g, info, threads)
    }

    /// From eigenpairs that were computed before.
    pub(crate) fn new(
        plan: &BlockPlan,
        a: Eigenpairs,
        g: Eigenpairs,
        info: BlockInfo,
        threads: usize,
    ) -> Result<Self, PosteriorError> {
        Ok(Self {
            index: plan.layers.first().copied().unwrap_or_default(),
            shape: single_layer(plan)?.clone(),
            info,
            a,
            g,
            threads,
            in_f32: OnceLock::new(),
            inverse_f64: OnceLock::new(),
        })
    }

    /// `1 / (lambda + delta)`, `[in + 1, out]`.
    fn inverse<T: WithDType>(&self) -> Vec<T> {
        let mut inverse = Vec::with_capacity(self.a.values.len() * self.g.values.len());
        for &s in &self.a.values {
            for &t in &self.g.values {
                let lambda = eigenvalue(s, t, self.info.n_spectra);
                inverse.push(T::from_f64(1.0 / (lambda + self.info.prior_precision)));
            }
        }
        inverse
    }

    fn predict<T: Scalar>(
        &self,
        wanted: &Wanted<'_>,
        capture: &LayerCapture,
        a_vectors: &[T],
        g_vectors: &[T],
        inverse: &[T],
    ) -> Result<Vec<f64>, PosteriorError> {
        let (inputs, outputs) = (self.a.values.len(), self.g.values.len());
        let sides = wanted.sides::<T>(capture)?;
        let input = product(
            rows(&sides.input, sides.batch, inputs),
            rows(a_vectors, inputs, inputs),
            self.threads,
        );
        let grad = product(
            rows(&sides.grad, sides.n_outputs * sides.batch, outputs),
            rows(g_vectors, outputs, outputs),
            self.threads,
        );
        Ok(contract(
            input,
            &grad,
            inverse,
            sides.batch,
            sides.n_outputs,
            self.threads,
        ))
    }
}

/// `t_i s_j / n`; 0 where nothing was summed.
pub(crate) fn eigenvalue(s: f64, t: f64, n_spectra: u64) -> f64 {
    if n_spectra == 0 {
        0.0
    } else {
        s * (t / n_spectra as f64)
    }
}

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

impl Precision for KroneckerPrecision {
    fn solve(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError> {
        let (inputs, outputs) = (self.a.values.len(), self.g.values.len());
        if v.len() != inputs * outputs {
            return Err(PosteriorError::Shape {
                what: format!("the vector to solve block {} for", self.shape.name),
                expected: vec![inputs * outputs],
                found: vec![v.len()],
            });
        }
        // With v as a matrix [out, in + 1]: U ((U^T v V) / (lambda + delta)) V^T.
        let (u, vectors) = (
            rows(&self.g.vectors, outputs, outputs),
            rows(&self.a.vectors, inputs, inputs),
        );
        let turned = product(u.transpose(), rows(v, outputs, inputs), self.threads);
        let mut turned = product(rows(&turned, outputs, inputs), vectors, self.threads);
        for (row, &t) in turned.chunks_exact_mut(inputs).zip(&self.g.values) {
            for (x, &s) in row.iter_mut().zip(&self.a.values) {
                *x /= eigenvalue(s, t, self.info.n_spectra) + self.info.prior_precision;
            }
        }
        let back = product(rows(&turned, outputs, inputs), vectors.transpose(), self.threads);
        Ok(product(u, rows(&back, outputs, inputs), self.threads))
    }

    fn elements(&self, rows: &[usize], cols: &[usize]) -> Result<Matrix, PosteriorError> {
        check_weights(&self.info, rows.iter().chain(cols))?;
        let (n, delta) = (self.info.n_spectra, self.info.prior_precision);
        let inverse = |i: usize, j: usize| 1.0 / (eigenvalue(self.a.values[j], self.g.values[i], n) + delta);
        Ok(in_eigenbases(&self.g.vectors, &self.a.vectors, inverse, rows, cols))
    }

    fn covariance_of(&self, captures: &[LayerCapture]) -> Result<Vec<f64>, PosteriorError> {
        let wanted = Wanted {
            index: self.index,
            shape: &self.shape,
            structure: StructureKind::Kfac,
        };
        let capture = wanted.find(captures)?;
        if capture.input.dtype() == DType::F32 {
            let own = self.in_f32.get_or_init(|| InF32 {
                a_vectors: to_f32(&self.a.vectors),
                g_vectors: to_f32(&self.g.vectors),
                inverse: self.inverse(),
            });
            self.predict(&wanted, capture, &own.a_vectors, &own.g_vectors, &own.inverse)
        } else {
            let inverse = self.inverse_f64.get_or_init(|| self.inverse());
            self.predict(&wanted, capture, &self.a.vectors, &self.g.vectors, inverse)
        }
    }

    fn marginal_variance(&self) -> Vec<Matrix> {
        // var_oj = sum_i U_oi^2 (sum_m V_jm^2 / (lambda_im + delta)), a tile of j at a time.
        let (inputs, outputs) = (self.a.values.len(), self.g.values.len());
        let squares = |values: &[f64]| values.iter().map(|v| v * v).collect::<Vec<_>>();
        let u2 = squares(&self.g.vectors);
        let inverse: Vec<f64> = self.inverse();
        let mut values = vec![0.0; outputs * inputs];
        for start in (0..inputs).step_by(MARGINAL_ROWS) {
            let len = MARGINAL_ROWS.min(inputs - start);
            let v2 = squares(&self.a.vectors[start * inputs..(start + len) * inputs]);
            let inner = product(rows(&v2, len, inputs), rows(&inverse, inputs, outputs), self.threads);
            let tile = product(
                rows(&u2, outputs, outputs),
                rows(&inner, len, outputs).transpose(),
                self.threads,
            );
            for (row, from) in values.chunks_exact_mut(inputs).zip(tile.chunks_exact(len)) {
                row[start..start + len].copy_from_slice(from);
            }
        }
        vec![Matrix {
            rows: outputs,
            cols: inputs,
            values,
        }]
    }

    fn inverse_matrices(&self) -> Vec<NamedMatrix> {
        let name = &self.shape.name;
        let vectors = |pairs: &Eigenpairs| Matrix {
            rows: pairs.values.len(),
            cols: pairs.values.len(),
            values: pairs.vectors.clone(),
        };
        let values = |pairs: &Eigenpairs| Matrix {
            rows: 1,
            cols: pairs.values.len(),
            values: pairs.values.clone(),
        };
        vec![
            NamedMatrix::new(name, Factor::AEigenvectors, vectors(&self.a)),
            NamedMatrix::new(name, Factor::AEigenvalues, values(&self.a)),
            NamedMatrix::new(name, Factor::GEigenvectors, vectors(&self.g)),
            NamedMatrix::new(name, Factor::GEigenvalues, values(&self.g)),
        ]
    }

    fn probes(&self, _plan: &BlockPlan, stars: &[LayerCapture]) -> Result<Vec<Probe>, PosteriorError> {
        let wanted = Wanted {
            index: self.index,
            shape: &self.shape,
            structure: StructureKind::Kfac,
        };
        let facts = (self.info.n_spectra, self.info.prior_precision);
        kronecker_probes(&wanted, (&self.a, &self.g), facts, stars, self.threads)
    }

    fn info(&self) -> &BlockInfo {
        &self.info
    }
}
