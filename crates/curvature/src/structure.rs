//! What every structure of a block does: add batches to its sums, and say what curvature the sums add up to.

use fisherflow_kernels::Products;
use fisherflow_network::LayerCapture;

use crate::dense::Dense;
use crate::diagonal::Diagonal;
use crate::kfac::Kfac;
use crate::low_rank::LowRank;
use crate::{
    BlockCurvature, BlockPlan, BlockSums, CurvatureError, LabelPrecision, References, RowByRow, StructureKind,
};

/// Curvature whose matrices are formed as their rows are asked for.
pub type CurvatureByRow<'a> = BlockCurvature<Box<dyn RowByRow + 'a>>;

/// A block in its structure. It holds no sums: those are [`BlockSums`], which it alone can read.
pub trait Structure: Send {
    /// The block.
    fn plan(&self) -> &BlockPlan;

    /// Number of values in the block's sums.
    fn sums_len(&self) -> usize;

    /// Adds a batch to the values of the block's sums, [`Structure::sums_len`] of them. `captures` are those of all layers (the block takes its own),
    /// `precision` has one `[K, K]` for each spectrum.
    ///
    /// The sums have the same bits for any number of threads.
    ///
    /// # Errors
    /// Captures or precisions that do not fit the block or the batch; nothing is added then.
    fn add_batch(
        &self,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
        sums: &mut [f64],
    ) -> Result<(), CurvatureError>;

    /// Adds a batch to the block's sums and its spectra to their count.
    ///
    /// # Errors
    /// Sums of another block; else as [`Structure::add_batch`].
    fn accumulate(
        &self,
        captures: &[LayerCapture],
        precision: &LabelPrecision,
        sums: &mut BlockSums,
    ) -> Result<(), CurvatureError> {
        check_sums(self, sums)?;
        self.add_batch(captures, precision, &mut sums.sums)?;
        sums.n_spectra += precision.batch() as u64;
        Ok(())
    }

    /// The curvature that the sums add up to, about no reference: 0 over no spectra. Its matrices are formed as their rows are asked for, as far
    /// as the structure allows.
    ///
    /// # Errors
    /// Sums of another block, or sums that are not finite.
    fn curvature_by_row<'a>(&'a self, sums: &'a BlockSums) -> Result<CurvatureByRow<'a>, CurvatureError>;

    /// The same, its matrices whole.
    ///
    /// # Errors
    /// As [`Structure::curvature_by_row`].
    fn curvature(&self, sums: &BlockSums) -> Result<BlockCurvature, CurvatureError> {
        Ok(self.curvature_by_row(sums)?.map(RowByRow::whole))
    }

    /// Floating-point operations (a multiplication and an addition are two) of the products over `n_spectra` spectra.
    fn flops(&self, n_spectra: u64) -> f64;

    /// Bytes of the block's sums, in memory and in a checkpoint.
    fn bytes(&self) -> u64 {
        (self.sums_len() as u64).saturating_mul(size_of::<f64>() as u64)
    }

    /// Sums over no spectra.
    ///
    /// # Errors
    /// Sums that do not fit in memory.
    fn empty(&self) -> Result<BlockSums, CurvatureError> {
        let plan = self.plan();
        // Zero as the system gives it: the threads that add to it are the first to touch it.
        let sums = bytemuck::try_zeroed_vec(self.sums_len()).map_err(|()| CurvatureError::TooLarge {
            block: plan.name(),
            structure: plan.structure,
            bytes: self.bytes(),
        })?;
        Ok(BlockSums {
            block: plan.id,
            structure: plan.structure,
            n_spectra: 0,
            sums,
        })
    }
}

/// The structure that a block's plan asks for. That of an `ekfac` block sums its Kronecker factors, whose eigenbases
/// [`correction_of`](crate::correction_of) then takes; that of a `low_rank` block is without its eigenpairs, which [`LowRank::new`] takes.
///
/// `references` are those of all layers of the network, `n_labels` is K, and `products` is how products are made: on how many threads, at least.
///
/// # Errors
/// References of other sizes than the block's layers; a structure that [has no sums](StructureKind::has_sums).
pub fn structure_of(
    plan: &BlockPlan,
    references: &References,
    n_labels: usize,
    products: impl Into<Products>,
) -> Result<Box<dyn Structure>, CurvatureError> {
    let products = products.into();
    Ok(match plan.structure {
        StructureKind::Full | StructureKind::Block => Box::new(Dense::new(plan, n_labels, products)),
        StructureKind::Kfac | StructureKind::Ekfac => Box::new(Kfac::new(plan, references, n_labels, products)?),
        StructureKind::Diagonal => Box::new(Diagonal::new(plan, n_labels, products)),
        StructureKind::LowRank => Box::new(LowRank::new(plan, None, n_labels, products)),
        StructureKind::Dual => return Err(CurvatureError::NoSums { block: plan.name() }),
    })
}

/// Checks that the sums are of this block.
pub(crate) fn check_sums(structure: &(impl Structure + ?Sized), sums: &BlockSums) -> Result<(), CurvatureError> {
    let plan = structure.plan();
    if (sums.block, sums.structure, sums.sums.len()) == (plan.id, plan.structure, structure.sums_len()) {
        return Ok(());
    }
    Err(CurvatureError::SumsDiffer {
        block: plan.id,
        structure: plan.structure,
        length: structure.sums_len(),
        found_block: sums.block,
        found_structure: sums.structure,
        found_length: sums.sums.len(),
    })
}

/// Checks that a part of a block's sums over `n_spectra` spectra is finite; `weight_of` gives the weight that a value belongs to.
pub(crate) fn check_finite(
    plan: &BlockPlan,
    part: &'static str,
    values: &[f64],
    weight_of: impl Fn(usize) -> usize,
    n_spectra: u64,
) -> Result<(), CurvatureError> {
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(CurvatureError::NonFiniteSums {
            block: plan.name(),
            layer: plan.layer_of_weight(weight_of(at)).to_owned(),
            part,
            n_spectra,
        }),
    }
}
