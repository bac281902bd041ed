//! Correction pass: the eigenvalues of every `ekfac` block, summed over the training spectra once more in the eigenbases that the curvature
//! pass left in `stages/bases/`, and with them written as `posterior/hessian/`.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::{References, Structure, correction_of};
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::WrittenFile;
use timely::worker::Worker;

use super::curvature::{Sums, references_of, structure_with, sums_of, training};
use super::differentiated::{Differentiated, differentiate};
use super::groups::{GroupPass, over_groups};
use super::select;
use crate::context::Context;
use crate::error::RunError;
use crate::files;
use crate::group_name::PassInputs;
use crate::operators::{GroupFold, GroupSums};

/// The pass's folder among the groups.
pub(crate) const CORRECTION: &str = "correction";

/// Sums the eigenvalues with the `references` and the `noise` of the curvature pass: of the rows in the sums, and without J_x. `sums`: digest of
/// what decided those of the curvature pass.
pub(crate) fn correction(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    references: &References,
    noise: &[f64],
    sums: &str,
) -> Result<(Vec<WrittenFile>, String), RunError> {
    let (about, outputs) = references_of(context, references);
    let structures: Rc<[Box<dyn Structure>]> = context
        .load_bases()?
        .iter()
        .map(|(&block, bases)| {
            correction_of(
                &context.blocks[block],
                &about,
                Arc::clone(bases),
                outputs,
                context.network.arithmetic().sums(),
            )
        })
        .collect::<Result<_, _>>()?;
    let mut inputs = PassInputs::of_sums(context, CORRECTION, population, references, noise);
    inputs.found_over("eigenbases", sums, context);
    let digest = inputs.digest();
    let pass = GroupPass {
        name: CORRECTION,
        inputs,
        over: |context| &context.fit,
    };
    let (deriving, writing, owned) = (Arc::clone(context), Arc::clone(context), Rc::clone(&structures));
    let population = population.cloned();
    let over = over_groups(
        worker,
        context,
        &pass,
        move |batch| {
            let training = select(&deriving, &batch, &deriving.rows_in_sums(&batch))?;
            differentiate(&deriving, population.as_ref(), training, deriving.jacobian_of_sums())
        },
        Fold {
            context: Arc::clone(context),
            noise: noise.to_vec(),
            sums: Sums::new(context, structures),
        },
        move |block, total| {
            let structure = structure_with(&owned, block)?;
            let sums = sums_of(structure.plan(), total);
            files::write_hessian(&writing, structure.plan(), structure.curvature_by_row(&sums)?)
        },
    )?;
    context.release_bases();
    Ok((over.concluded.into_values().collect(), digest))
}

struct Fold {
    context: Arc<Context>,
    noise: Vec<f64>,
    sums: Sums,
}

impl GroupFold<Differentiated> for Fold {
    type Output = GroupSums<()>;

    fn add(&mut self, _group: u64, all: Differentiated) -> Result<(), RunError> {
        self.sums.add(&all.batch, &training(&self.context, &self.noise, &all)?)
    }

    fn finish(&mut self, _group: u64) -> Result<GroupSums<()>, RunError> {
        Ok(GroupSums {
            arrays: self.sums.take()?,
            files: Vec::new(),
            found: (),
        })
    }
}
