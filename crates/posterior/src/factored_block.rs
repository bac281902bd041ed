//! A block's curvature, factored as far as no prior is needed: then its prior can be chosen from its eigenvalues, and nothing is decomposed
//! twice.

use candle_core::DType;
use fisherflow_curvature::{BlockCurvature, BlockPlan, CurvatureForm, Matrix};

use crate::dense::DensePrecision;
use crate::diagonal::{DiagonalPrecision, NonNegative};
use crate::eigen::{Eigenpairs, decompose, eigenvalues};
use crate::kronecker::{KroneckerPrecision, eigenvalue};
use crate::matrices::check_curvature;
use crate::{BlockPosterior, Factor, PosteriorError, Precision, PriorScan, Spectrum};

/// What of a block's posterior does not depend on the prior.
pub struct FactoredBlock {
    plan: BlockPlan,
    n_spectra: u64,
    factors: Factors,
    threads: usize,
}

enum Factors {
    /// `H` as it is: its Cholesky factor needs the prior.
    Dense(Matrix),
    /// The eigenpairs of `S_A` and `S_G`.
    Kronecker { a: Eigenpairs, g: Eigenpairs },
    /// `diag(H)`.
    Diagonal(NonNegative),
}

/// Factors a block's curvature. No result depends on `threads`.
///
/// # Errors
/// If the curvature is not of the plan's structure and size, not finite, or no sum of squares.
pub fn factor(plan: &BlockPlan, curvature: BlockCurvature, threads: usize) -> Result<FactoredBlock, PosteriorError> {
    check_curvature(plan, &curvature)?;
    let block = plan.name();
    let factors = match curvature.form {
        CurvatureForm::Dense(h) => Factors::Dense(h),
        CurvatureForm::Kronecker { a, g } => Factors::Kronecker {
            a: decompose(a, &block, Factor::KronA, threads)?,
            g: decompose(g, &block, Factor::KronG, threads)?,
        },
        CurvatureForm::Diagonal(d) => Factors::Diagonal(NonNegative::new(plan, d)?),
    };
    Ok(FactoredBlock {
        plan: plan.clone(),
        n_spectra: curvature.n_spectra,
        factors,
        threads,
    })
}

impl FactoredBlock {
    /// The eigenvalues of `H`; those of a dense block are computed here.
    ///
    /// # Errors
    /// If a dense block's eigenvalues do not converge, or it is no sum of squares.
    pub fn spectrum(&self) -> Result<Spectrum, PosteriorError> {
        match &self.factors {
            Factors::Dense(h) => {
                let found = eigenvalues(h, &self.plan.name(), Factor::Dense, self.threads)?;
                Ok(Spectrum::new(found.values, found.clipped))
            }
            Factors::Kronecker { a, g } => Ok(Spectrum::kronecker(
                a.values.clone(),
                &g.values,
                self.n_spectra,
                a.clipped + g.clipped,
            )),
            Factors::Diagonal(d) => Ok(Spectrum::new(d.values.values.clone(), d.clipped)),
        }
    }

    /// The block at many prior precisions at once, for captures of one type (f32 or f64); a dense block's eigenvectors are computed here.
    ///
    /// # Errors
    /// As [`FactoredBlock::spectrum`].
    pub fn prior_scan(&self, captures: DType) -> Result<PriorScan, PosteriorError> {
        let (plan, threads) = (&self.plan, self.threads);
        Ok(match &self.factors {
            Factors::Dense(h) => PriorScan::dense(
                plan,
                decompose(h.clone(), &plan.name(), Factor::Dense, threads)?,
                threads,
            ),
            Factors::Kronecker { a, g } => {
                let eigenvalues = a
                    .values
                    .iter()
                    .flat_map(|&s| g.values.iter().map(move |&t| eigenvalue(s, t, self.n_spectra)))
                    .collect();
                PriorScan::rotated(plan, self.spectrum()?, (a, g), eigenvalues, captures, threads)
            }
            Factors::Diagonal(d) => PriorScan::diagonal(plan, self.spectrum()?, &d.values, captures, threads),
        })
    }

    /// Adds the prior precision `delta` and inverts: `P = H + delta I`.
    ///
    /// # Errors
    /// If the prior precision is negative or not finite; if `H + delta I` is singular, which names the block, the pivot and the remedy.
    pub fn finish(self, prior_precision: f64) -> Result<BlockPosterior, PosteriorError> {
        let Self {
            plan,
            n_spectra: n,
            factors,
            threads,
        } = self;
        check_prior(&plan, prior_precision)?;
        let precision: Box<dyn Precision> = match factors {
            Factors::Dense(h) => Box::new(DensePrecision::with_prior(&plan, n, h, prior_precision, threads)?),
            Factors::Kronecker { a, g } => Box::new(KroneckerPrecision::with_prior(
                &plan,
                n,
                a,
                g,
                prior_precision,
                threads,
            )?),
            Factors::Diagonal(d) => Box::new(DiagonalPrecision::with_prior(&plan, n, d, prior_precision, threads)?),
        };
        let info = precision.info().clone();
        Ok(BlockPosterior { precision, info })
    }
}

/// Refuses a prior precision that is none.
pub(crate) fn check_prior(plan: &BlockPlan, prior_precision: f64) -> Result<(), PosteriorError> {
    if prior_precision.is_finite() && prior_precision >= 0.0 {
        Ok(())
    } else {
        Err(PosteriorError::Prior {
            block: plan.name(),
            value: prior_precision,
        })
    }
}
