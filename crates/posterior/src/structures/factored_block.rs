//! A block's curvature, factored as far as no prior is needed: then its prior can be chosen from its eigenvalues, and nothing is decomposed
//! twice.

use candle_core::DType;
use fisherflow_curvature::{BlockCurvature, BlockPlan, CurvatureForm, KroneckerBases, Matrix};

use crate::eigen::{check_ends, decompose, eigenvalues};
use crate::structures::dense::DensePrecision;
use crate::structures::diagonal::{DiagonalPrecision, NonNegative, ends};
use crate::structures::eigenbasis::Eigenbasis;
use crate::structures::kronecker::KroneckerPrecision;
use crate::structures::low_rank::{LowRankPrecision, Parts};
use crate::structures::matrices::{check_curvature, check_factors};
use crate::{Factor, PosteriorError, Precision, PriorScan, Spectrum};

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
    /// The eigenvalues in the eigenbases of `S_A` and `S_G`.
    Kronecker(Eigenbasis),
    /// `diag(H)`.
    Diagonal(NonNegative),
    /// Leading eigenpairs and `diag(H)`.
    LowRank(Parts),
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
        CurvatureForm::Kronecker { a, g } => {
            let n_terms = curvature.n_spectra * plan.terms_a_spectrum();
            Factors::Kronecker(Eigenbasis::of_factors(
                decompose(a, &block, Factor::KronA, threads)?,
                decompose(g, &block, Factor::KronG, threads)?,
                n_terms,
            ))
        }
        CurvatureForm::Eigenbasis {
            a_vectors,
            g_vectors,
            eigenvalues,
        } => {
            let eigenvalues = NonNegative::new(plan, Factor::Eigenvalues, eigenvalues)?;
            Factors::Kronecker(Eigenbasis::corrected(a_vectors, g_vectors, eigenvalues))
        }
        CurvatureForm::Diagonal(d) => Factors::Diagonal(NonNegative::new(plan, Factor::Diagonal, d)?),
        CurvatureForm::LowRank {
            eigenvectors,
            eigenvalues,
            residuals,
            diagonal,
        } => {
            check_ends(ends(&eigenvalues), &block, Factor::Eigenvalues)?;
            Factors::LowRank(Parts {
                eigenvectors,
                eigenvalues,
                residuals,
                diagonal,
            })
        }
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
    /// If a dense block's eigenvalues do not converge, or it is no sum of squares, or the structure has no eigenvalues ([`PosteriorError::NoSpectrum`]).
    pub fn spectrum(&self) -> Result<Spectrum, PosteriorError> {
        match &self.factors {
            Factors::Dense(h) => {
                let found = eigenvalues(h, &self.plan.name(), Factor::Dense, self.threads)?;
                Ok(Spectrum::dense(found.values, found.clipped, found.most_negative))
            }
            Factors::Kronecker(eigenbasis) => Ok(eigenbasis.spectrum()),
            Factors::Diagonal(d) => Ok(Spectrum::new(d.values.values.clone(), d.clipped)),
            Factors::LowRank(_) => Err(PosteriorError::NoSpectrum {
                block: self.plan.name(),
                structure: self.plan.structure,
            }),
        }
    }

    /// The block at many prior precisions at once, for captures of one type (f32 or f64), its products on so many `threads`; a dense
    /// block's eigenvectors are computed here.
    ///
    /// # Errors
    /// As [`FactoredBlock::spectrum`].
    pub fn prior_scan(&self, captures: DType, threads: usize) -> Result<PriorScan, PosteriorError> {
        let plan = &self.plan;
        Ok(match &self.factors {
            Factors::Dense(h) => {
                let pairs = decompose(h.clone(), &plan.name(), Factor::Dense, self.threads)?;
                PriorScan::dense(plan, pairs, threads)
            }
            Factors::Kronecker(basis) => PriorScan::rotated(plan, basis, captures, threads),
            Factors::LowRank(_) => return Err(PosteriorError::NoScan { block: plan.name() }),
            Factors::Diagonal(d) => PriorScan::diagonal(plan, self.spectrum()?, &d.values, captures, threads),
        })
    }

    /// Adds the prior precision `delta` and inverts: `P = H + delta I`.
    ///
    /// # Errors
    /// If the prior precision is negative or not finite; if `H + delta I` is singular, which names the block, the pivot and the remedy.
    pub fn finish(self, prior_precision: f64) -> Result<Box<dyn Precision>, PosteriorError> {
        let Self {
            plan,
            n_spectra: n,
            factors,
            threads,
        } = self;
        check_prior(&plan, prior_precision)?;
        Ok(match factors {
            Factors::Dense(h) => Box::new(DensePrecision::with_prior(&plan, n, h, prior_precision, threads)?),
            Factors::Kronecker(eigenbasis) => Box::new(KroneckerPrecision::with_prior(
                &plan,
                n,
                eigenbasis,
                prior_precision,
                threads.into(),
            )?),
            Factors::Diagonal(d) => Box::new(DiagonalPrecision::with_prior(&plan, n, d, prior_precision, threads)?),
            Factors::LowRank(parts) => {
                Box::new(LowRankPrecision::with_prior(&plan, n, parts, prior_precision, threads)?)
            }
        })
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

/// The eigenbases of an `ekfac` block's Kronecker `factors`: what its second sums are taken in. No result depends on `threads`.
///
/// # Errors
/// If the factors are not Kronecker factors of the plan's size, not finite, or no sums of squares.
pub fn kronecker_bases(
    plan: &BlockPlan,
    factors: BlockCurvature,
    threads: usize,
) -> Result<KroneckerBases, PosteriorError> {
    let (a, g) = check_factors(plan, factors)?;
    let block = plan.name();
    let (inputs, outputs) = (a.rows, g.rows);
    let square = |n: usize, values: Vec<f64>| Matrix {
        rows: n,
        cols: n,
        values,
    };
    let a = decompose(a, &block, Factor::KronA, threads)?;
    let g = decompose(g, &block, Factor::KronG, threads)?;
    Ok(KroneckerBases::new(
        square(inputs, a.vectors),
        square(outputs, g.vectors),
    ))
}

#[cfg(test)]
mod tests {
    use fisherflow_curvature::StructureKind;
    use fisherflow_kernels::{Path, Products, add_gram};

    use super::*;
    use crate::brute_force::Mlp;
    use crate::invert;
    use crate::product::{as_f32, rows};
    use crate::structures::cases::{K, draw, matrix, plan};

    const INPUTS: usize = 120;
    const STARS: usize = 40;

    /// `S_A` of fewer stars than inputs, the first two of which are one: f64 of every number, or as a path of f32 sums it.
    fn input_factor(path: Option<Path>) -> Matrix {
        let side = INPUTS + 1;
        let mut x = draw(STARS * side, 71);
        for star in x.chunks_exact_mut(side) {
            star[1] = star[0];
            star[INPUTS] = 1.0;
        }
        let mut packed = vec![0.0; side * (side + 1) / 2];
        match path {
            None => add_gram(rows(&x, STARS, side), &mut packed, 1),
            Some(path) => add_gram(
                rows(&as_f32(&x), STARS, side),
                &mut packed,
                Products { path, threads: 1 },
            ),
        }
        let at = |i: usize, j: usize| packed[i.max(j) * (i.max(j) + 1) / 2 + i.min(j)];
        matrix(side, (0..side * side).map(|n| at(n / side, n % side)).collect())
    }

    /// What the products of sums make of eigenvalues that are 0, and what they never do.
    #[test]
    fn rounding_counts_as_0_and_no_more_than_rounding() {
        let plan = plan(&Mlp::random(&[INPUTS, 2, K], 72), StructureKind::Kfac, &[0]);
        let posterior = |a: Matrix| {
            let g = matrix(2, vec![STARS as f64, 0.0, 0.0, STARS as f64]);
            let curvature = BlockCurvature {
                n_spectra: STARS as u64,
                form: CurvatureForm::Kronecker { a, g },
            };
            invert(&plan, curvature, 1.0, 1)
        };
        for (path, least, most) in [
            (None, 0.0, 1e-13),
            (Some(Path::best()), 1e-10, 1e-6),
            (Path::bf16x3().ok(), 0.0, 1e-5),
        ] {
            let info = posterior(input_factor(path)).unwrap().info().clone();
            let share = -info.most_negative_eigenvalue;
            assert!((least..most).contains(&share), "{path:?}: {share:e}");
        }
        // 3e-4 of the largest less, along the difference of the two inputs that are one.
        let largest = posterior(input_factor(None))
            .unwrap()
            .info()
            .largest_eigenvalue
            .unwrap()
            - 1.0;
        let (mut damaged, side) = (input_factor(None), INPUTS + 1);
        for (at, sign) in [(0, -1.0), (1, 1.0), (side, 1.0), (side + 1, -1.0)] {
            damaged.values[at] += sign * 1.5e-4 * largest;
        }
        let error = posterior(damaged).err().unwrap();
        let text = error.to_string();
        let PosteriorError::Indefinite {
            factor: Factor::KronA,
            smallest,
            largest: found,
            ..
        } = error
        else {
            panic!("{text}")
        };
        assert!((smallest / found + 3e-4).abs() < 1e-9, "{text}");
        assert!(
            text.contains("kron_a of block layers.0") && text.contains("compute them again"),
            "{text}"
        );
    }
}
