//! A dual block at many prior precisions at once, through the eigenpairs of its Gram matrix, `Q = sum_i lambda_i q_i q_i^T`:
//!
//! ```text
//! T = J* J^T [q_1 q_2 ...]
//! (J* P^-1 J*^T)_kl = (k**_kl - sum_i T_ki T_li / (lambda_i + delta)) / delta
//! ```
//!
//! One product a spectrum with the eigenvectors, `2 K (K N)^2` operations, and each prior precision costs one sum over them.

use std::sync::Arc;

use fisherflow_curvature::WeightJacobian;
use fisherflow_network::LayerCapture;

use super::DualLayout;
use super::gram::{WholeGram, gram_tile, own_product};
use super::precision::unwhitened_rows;
use crate::eigen::Eigenpairs;
use crate::product::{dot, product, rows as row_major};
use crate::structures::cancellation::is_lost;
use crate::{PosteriorError, PriorScan, Spectrum};

/// Spectra whose inner products with all training rows are taken at once: the bits of a product follow its shape.
const SPECTRA_AT_ONCE: usize = 64;

/// The eigenpairs of a Gram matrix, and the rows that it is of.
pub(crate) struct DualScan {
    layout: DualLayout,
    /// By chunk.
    rows: Vec<Arc<WeightJacobian>>,
    pairs: Eigenpairs,
}

/// A dual block ready for any prior precision above 0, its `rows` chunk by chunk; `solving` threads find the eigenpairs, `threads` are those of
/// its products. In memory: rows, and twice a matrix of `K N` by `K N` beside the eigenproblem's own.
///
/// # Errors
/// If the eigenpairs do not converge, or the Gram matrix is no sum of squares.
pub fn dual_prior_scan(
    layout: &DualLayout,
    rows: Vec<Arc<WeightJacobian>>,
    solving: usize,
    threads: usize,
) -> Result<PriorScan, PosteriorError> {
    let mut whole = WholeGram::new(layout);
    for (row, left) in rows.iter().enumerate() {
        for (column, right) in rows.iter().enumerate().take(row + 1) {
            whole.put(row, column, &gram_tile(left, right, threads).values);
        }
    }
    let pairs = whole.into_pairs(solving)?;
    let spectrum = Spectrum::of_rank(pairs.values.clone(), layout.plan.n_weights(), pairs.clipped);
    let scan = DualScan {
        layout: layout.clone(),
        rows,
        pairs,
    };
    Ok(PriorScan::dual(&layout.plan, spectrum, scan, threads))
}

impl DualScan {
    /// The largest eigenvalue of Q.
    pub(crate) fn largest(&self) -> f64 {
        self.pairs.values.last().copied().unwrap_or(0.0)
    }

    /// Refuses a prior precision that is none, or that vanishes in the rounding of the Gram matrix.
    pub(crate) fn check(&self, delta: f64) -> Result<(), PosteriorError> {
        self.layout.check_prior(delta, self.largest())
    }

    /// `[prior_precisions, batch, K, K]`.
    pub(crate) fn covariance_at(
        &self,
        captures: &[LayerCapture],
        prior_precisions: &[f64],
        threads: usize,
    ) -> Result<Vec<f64>, PosteriorError> {
        let stars = unwhitened_rows(&self.layout.plan, captures)?;
        let (k, batch, n) = (stars.n_labels(), stars.n_spectra(), self.layout.n_rows());
        let mut covariance = vec![0.0; prior_precisions.len() * batch * k * k];
        let (mut own, mut weighted) = (vec![0.0; k * k], Vec::with_capacity(n));
        for start in (0..batch).step_by(SPECTRA_AT_ONCE) {
            let some = stars.slice(start, SPECTRA_AT_ONCE.min(batch - start));
            let turned = self.turned(&some, n, threads);
            for star in 0..some.n_spectra() {
                let row = |label: usize| &turned[(star * k + label) * n..][..n];
                for (at, own) in own.iter_mut().enumerate().filter(|(at, _)| at % k <= at / k) {
                    *own = own_product(&some, star, at / k, at % k);
                }
                for (at, &delta) in prior_precisions.iter().enumerate() {
                    let out = (at * batch + start + star) * k * k;
                    for i in 0..k {
                        let over = row(i).iter().zip(&self.pairs.values);
                        weighted.clear();
                        weighted.extend(over.map(|(t, lambda)| t / (lambda + delta)));
                        for j in 0..=i {
                            let prior = own[i * k + j];
                            let left = prior - dot(&weighted, row(j));
                            let value = left / delta;
                            if i == j && prior > 0.0 && is_lost(left, prior) {
                                return Err(PosteriorError::Cancelled {
                                    block: self.layout.plan.name(),
                                    prior_precision: delta,
                                    condition: (self.largest() + delta) / delta,
                                    value,
                                });
                            }
                            covariance[out + i * k + j] = value;
                            covariance[out + j * k + i] = value;
                        }
                    }
                }
            }
        }
        Ok(covariance)
    }

    /// T, `[n K, K N]`.
    fn turned(&self, stars: &WeightJacobian, n: usize, threads: usize) -> Vec<f64> {
        let mut inner = vec![0.0; stars.n_rows() * n];
        for (chunk, training) in self.rows.iter().enumerate() {
            let (tile, first) = (gram_tile(stars, training, threads), self.layout.first_row(chunk));
            for (row, values) in tile.values.chunks_exact(tile.cols.max(1)).enumerate() {
                inner[row * n + first..][..tile.cols].copy_from_slice(values);
            }
        }
        product(
            row_major(&inner, stars.n_rows(), n),
            row_major(&self.pairs.vectors, n, n),
            threads,
        )
    }
}
