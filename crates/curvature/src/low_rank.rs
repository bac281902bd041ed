//! Leading eigenpairs of the exact curvature of several layers, and its diagonal: `H ~ U diag(lambda) U^T + diag(H - U diag(lambda) U^T)`.
//!
//! The eigenpairs come from passes of their own ([`BlockPower`](crate::BlockPower)); the sums are the diagonal of H, `[p]`, layer after layer.

use fisherflow_kernels::Products;
use fisherflow_network::LayerCapture;

use crate::diagonal::Diagonal;
use crate::structure::{CurvatureByRow, Structure, check_finite, check_sums};
use crate::{
    BlockCurvature, BlockPlan, BlockSums, CurvatureError, CurvatureForm, LabelPrecision, LeadingPairs, Matrix,
};

/// A block held as leading eigenpairs and diagonal.
pub struct LowRank {
    plan: BlockPlan,
    /// One a layer.
    diagonals: Vec<Diagonal>,
    /// `None`: the block's sizes and sums alone.
    pairs: Option<LeadingPairs>,
}

impl LowRank {
    /// The block with the eigenpairs that were found for it.
    #[must_use]
    pub fn new(plan: &BlockPlan, pairs: Option<LeadingPairs>, n_labels: usize, products: impl Into<Products>) -> Self {
        let products = products.into();
        let single = |(layer, shape): (&usize, &fisherflow_network::DenseShape)| {
            let plan = BlockPlan {
                layers: vec![*layer],
                shapes: vec![shape.clone()],
                ..plan.clone()
            };
            Diagonal::new(&plan, n_labels, products)
        };
        Self {
            diagonals: plan.layers.iter().zip(&plan.shapes).map(single).collect(),
            plan: plan.clone(),
            pairs,
        }
    }
}

impl Structure for LowRank {
    fn plan(&self) -> &BlockPlan {
        &self.plan
    }

    fn sums_len(&self) -> usize {
        self.plan.n_weights()
    }

    fn add_batch(
        &self,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
        mut sums: &mut [f64],
    ) -> Result<(), CurvatureError> {
        for diagonal in &self.diagonals {
            diagonal.check(captures, precision)?;
        }
        for diagonal in &self.diagonals {
            let (own, after) = std::mem::take(&mut sums).split_at_mut(diagonal.sums_len());
            sums = after;
            diagonal.add_batch(captures, precision, own)?;
        }
        Ok(())
    }

    fn curvature_by_row<'a>(&'a self, sums: &'a BlockSums) -> Result<CurvatureByRow<'a>, CurvatureError> {
        check_sums(self, sums)?;
        let Some(pairs) = &self.pairs else {
            return Err(CurvatureError::NoEigenpairs {
                block: self.plan.name(),
            });
        };
        check_finite(&self.plan, "diagonal", &sums.sums, |weight| weight, sums.n_spectra)?;
        let (p, rank) = (self.plan.n_weights(), pairs.values.len());
        let mut eigenvectors = Vec::with_capacity(p * rank);
        for weight in 0..p {
            eigenvectors.extend(pairs.vectors.iter().map(|u| u[weight]));
        }
        Ok(BlockCurvature {
            n_spectra: sums.n_spectra,
            form: CurvatureForm::LowRank {
                eigenvectors: Box::new(Matrix {
                    rows: p,
                    cols: rank,
                    values: eigenvectors,
                }),
                eigenvalues: pairs.values.clone(),
                residuals: pairs.residuals.clone(),
                diagonal: sums.sums.clone(),
            },
        })
    }

    fn flops(&self, n_spectra: u64) -> f64 {
        self.diagonals.iter().map(|diagonal| diagonal.flops(n_spectra)).sum()
    }
}
