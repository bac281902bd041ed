//! Correction pass: the eigenvalues of every `ekfac` block, summed over the training spectra once more in the eigenbases that the curvature
//! pass left in `stages/bases/`, and with them written as `posterior/hessian/`.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::{BlockSums, References, Structure, correction_of};
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::WrittenFile;
use timely::worker::Worker;

use super::curvature::{Sums, references_of};
use super::differentiated::differentiate;
use super::{run, spectra};
use crate::context::Context;
use crate::error::RunError;
use crate::files;
use crate::operators::{Accumulate, Conclude, Differentiate, Gather, ReduceInGroupOrder};

/// Sums the eigenvalues with the `references` and the `noise` of the curvature pass: of the rows in the sums, and without J_x.
pub(crate) fn correction(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    references: &References,
    noise: &[f64],
) -> Result<Vec<WrittenFile>, RunError> {
    let (references, outputs) = references_of(context, references);
    let structures: Rc<[Box<dyn Structure>]> = context
        .load_bases()?
        .iter()
        .map(|(&block, bases)| {
            correction_of(
                &context.blocks[block],
                &references,
                Arc::clone(bases),
                outputs,
                context.network.arithmetic().sums(),
            )
        })
        .collect::<Result<_, _>>()?;
    let hessian = run(worker, context, |scope, probe| {
        let (selecting, deriving, writing) = (Arc::clone(context), Arc::clone(context), Arc::clone(context));
        let (population, owned) = (population.cloned(), Rc::clone(&structures));
        Ok(spectra(scope, context, |context| &context.fit)
            .differentiate(&context.faults, move |batch| {
                let rows: Vec<usize> = (0..batch.n_rows())
                    .filter(|&row| selecting.is_in_sums(&batch, row))
                    .collect();
                let training = batch.select(&rows)?;
                selecting.progress.advance((batch.n_rows() - training.n_rows()) as u64);
                differentiate(&deriving, population.as_ref(), training, deriving.jacobian_of_sums())
            })
            .accumulate(
                "Correction",
                &context.faults,
                Sums::new(context, Rc::clone(&structures), noise)?,
            )
            .reduce_in_group_order(&context.faults, |total: &mut BlockSums, group| Ok(total.merge(&group)?))
            .conclude("WriteHessian", &context.faults, move |block, sums| {
                let structure = owned
                    .iter()
                    .find(|structure| structure.plan().id as u64 == block)
                    .ok_or_else(|| RunError::Internal(format!("block {block} has no eigenbases to be corrected in")))?;
                files::write_hessian(&writing, structure.plan(), &structure.curvature(&sums)?)
            })
            .gather(probe))
    })?;
    context.release_bases();
    Ok(hessian.take().into_values().collect())
}
