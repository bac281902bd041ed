//! How the rows of a dual block are cut into chunks, and what is known of the block once its factor is.

use fisherflow_curvature::{BlockPlan, Matrix, WeightJacobian};
use serde::{Deserialize, Serialize};

use super::gram::gram_diagonal;
use crate::structures::block_info::Certificate;
use crate::{BlockInfo, PosteriorError};

/// Rows of a chunk, at most, as long as it holds more than one spectrum: a tile of the Gram matrix has so many rows and columns.
const CHUNK_ROWS: usize = 768;

/// A dual block with the chunks of its training spectra.
#[derive(Clone, Debug, PartialEq)]
pub struct DualLayout {
    /// The block.
    pub plan: BlockPlan,
    /// K.
    pub n_labels: usize,
    /// Spectra of each chunk.
    pub chunks: Vec<usize>,
}

/// What the tiles of a factor add up to; added over chunks in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DualFacts {
    /// `2 sum ln L_ii`.
    pub log_det: f64,
    /// `tr Q`.
    pub trace: f64,
    /// `tr (Q + delta I)^-1`.
    pub trace_of_inverse: f64,
}

impl DualFacts {
    /// What a chunk's rows and its tile on the diagonal of L say, the trace of the inverse apart.
    #[must_use]
    pub fn of(rows: &WeightJacobian, tile: &Matrix) -> Self {
        let pivots = tile.values.iter().step_by(tile.cols + 1);
        Self {
            log_det: 2.0 * pivots.map(|pivot| pivot.ln()).sum::<f64>(),
            trace: gram_diagonal(rows).into_iter().sum(),
            trace_of_inverse: 0.0,
        }
    }

    /// Adds those of other chunks.
    pub fn add(&mut self, other: &Self) {
        self.log_det += other.log_det;
        self.trace += other.trace;
        self.trace_of_inverse += other.trace_of_inverse;
    }
}

impl DualLayout {
    /// Spectra that a chunk of a network with `n_labels` labels holds at most.
    #[must_use]
    pub fn spectra_a_chunk(n_labels: usize) -> usize {
        (CHUNK_ROWS / n_labels.max(1)).clamp(1, 512)
    }

    /// `n_spectra` training spectra in chunks as large as they may be.
    #[must_use]
    pub fn of(plan: &BlockPlan, n_labels: usize, n_spectra: usize) -> Self {
        let each = Self::spectra_a_chunk(n_labels);
        let chunks = (0..n_spectra).step_by(each).map(|first| each.min(n_spectra - first));
        Self {
            plan: plan.clone(),
            n_labels,
            chunks: chunks.collect(),
        }
    }

    /// Number of chunks: tiles in a row of tiles.
    #[must_use]
    pub fn n_chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Rows of a chunk.
    #[must_use]
    pub fn rows_of(&self, chunk: usize) -> usize {
        self.chunks[chunk] * self.n_labels
    }

    /// The first row of a chunk, counted over all.
    #[must_use]
    pub fn first_row(&self, chunk: usize) -> usize {
        self.chunks[..chunk].iter().sum::<usize>() * self.n_labels
    }

    /// Training spectra.
    #[must_use]
    pub fn n_spectra(&self) -> usize {
        self.chunks.iter().sum()
    }

    /// `K N`: the side of Q.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_spectra() * self.n_labels
    }

    /// Refuses a prior precision that is none, or that vanishes in the rounding of a Gram matrix whose diagonal reaches `largest`.
    ///
    /// # Errors
    /// [`PosteriorError::Prior`] and [`PosteriorError::DualPrior`].
    pub fn check_prior(&self, prior_precision: f64, largest: f64) -> Result<(), PosteriorError> {
        crate::structures::factored_block::check_prior(&self.plan, prior_precision)?;
        let rounding = self.n_rows().max(1) as f64 * f64::EPSILON * largest;
        if prior_precision > rounding {
            Ok(())
        } else {
            Err(PosteriorError::DualPrior {
                block: self.plan.name(),
                prior_precision,
                largest,
                least: rounding.max(f64::MIN_POSITIVE),
            })
        }
    }

    /// The block's certificate with a prior precision.
    #[must_use]
    pub fn info(&self, prior_precision: f64, facts: &DualFacts) -> BlockInfo {
        let (p, rows) = (self.plan.n_weights() as f64, self.n_rows() as f64);
        let certificate = Certificate {
            log_det: (p - rows) * prior_precision.ln() + facts.log_det,
            effective_parameters: rows - prior_precision * facts.trace_of_inverse,
            eigenvalues: None,
            // The largest eigenvalue of H is no larger than its trace, which is Q's; the smallest of P no smaller than the prior precision.
            condition: (facts.trace + prior_precision) / prior_precision,
            clipped_eigenvalues: 0,
            most_negative_eigenvalue: 0.0,
        };
        BlockInfo::new(&self.plan, self.n_spectra() as u64, prior_precision, certificate)
    }
}
