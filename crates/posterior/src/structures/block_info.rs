//! What is known of a block after its inversion: its size, its certificate, and every numerical repair.

use fisherflow_curvature::{BlockPlan, StructureKind};
use serde::{Deserialize, Serialize};

/// A block's line in `posterior/blocks.parquet`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockInfo {
    /// The block's id in the run's plan.
    pub block: usize,
    /// The names of its layers, in its order.
    pub layers: Vec<String>,
    /// How it is held.
    pub structure: StructureKind,
    /// Number of weights, biases included: the side of the matrix.
    pub n_weights: u64,
    /// Number of spectra that the Hessian is a sum over.
    pub n_spectra: u64,
    /// Number of terms of a Kronecker block's sums, which divides the product of its factors: `n_spectra`, times the positions a spectrum that
    /// are summed one by one; `n_spectra` for every other structure.
    pub n_terms: u64,
    /// `delta`, in normalised label units, on the scale of the sum over spectra.
    pub prior_precision: f64,
    /// `ln det P`, `P = H + delta I`.
    pub log_det: f64,
    /// `gamma = tr(H P^-1) = sum lambda / (lambda + delta)`: how many weights the data determine. Over the whole network it cannot
    /// exceed the number of outputs times the number of spectra; where it does, the structure counts information that is not there.
    pub effective_parameters: f64,
    /// Smallest eigenvalue of `P`; none for a dense and a low-rank block, whose eigenvalues are not computed.
    pub smallest_eigenvalue: Option<f64>,
    /// Largest eigenvalue of `P`; none for a dense and a low-rank block.
    pub largest_eigenvalue: Option<f64>,
    /// Largest over smallest eigenvalue of `P`; for a dense block `|P|_1 |P^-1|_1` and for a low-rank one
    /// `(max D + lambda_1) / min D`, which are never smaller than that ratio.
    pub condition: f64,
    /// Number of eigenvalues of the factors (of the elements, for a diagonal) that were negative from rounding and were set to 0. For a
    /// low-rank block: of its eigenvalues, and of the diagonal less what they hold, which eigenpairs that have not converged make negative too.
    pub clipped_eigenvalues: u64,
    /// The most negative of them, relative to the largest of its factor, eigenvalues or diagonal; 0 where none was clipped.
    pub most_negative_eigenvalue: f64,
    /// What was added to the diagonal beyond the prior. 0: a block that cannot be factored is refused, not repaired.
    pub jitter: f64,
    /// Of a block held as leading eigenpairs and diagonal; always serialised, as processes exchange this in a form without names.
    pub low_rank: Option<LowRankFacts>,
}

/// How much of the Hessian its leading eigenpairs hold, and how well they are known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LowRankFacts {
    /// Number of eigenpairs.
    pub rank: u64,
    /// The largest eigenvalue.
    pub largest_eigenvalue: f64,
    /// The smallest that is held.
    pub smallest_eigenvalue: f64,
    /// The largest `|H u - lambda u|`: an eigenvalue of H lies within it of lambda.
    pub largest_residual: f64,
    /// Their share of the trace of H.
    pub trace_share: f64,
}

/// The numbers of a [`BlockInfo`] that its structure finds out.
pub(crate) struct Certificate {
    pub log_det: f64,
    pub effective_parameters: f64,
    pub eigenvalues: Option<(f64, f64)>,
    pub condition: f64,
    pub clipped_eigenvalues: u64,
    pub most_negative_eigenvalue: f64,
}

impl BlockInfo {
    /// The certificate of a block of this plan.
    pub(crate) fn new(plan: &BlockPlan, n_spectra: u64, prior_precision: f64, certificate: Certificate) -> Self {
        Self {
            block: plan.id,
            layers: plan.shapes.iter().map(|s| s.name.clone()).collect(),
            structure: plan.structure,
            n_weights: plan.n_weights() as u64,
            n_spectra,
            n_terms: n_spectra,
            prior_precision,
            log_det: certificate.log_det,
            effective_parameters: certificate.effective_parameters,
            smallest_eigenvalue: certificate.eigenvalues.map(|(smallest, _)| smallest),
            largest_eigenvalue: certificate.eigenvalues.map(|(_, largest)| largest),
            condition: certificate.condition,
            clipped_eigenvalues: certificate.clipped_eigenvalues,
            most_negative_eigenvalue: certificate.most_negative_eigenvalue,
            jitter: 0.0,
            low_rank: None,
        }
    }
}
