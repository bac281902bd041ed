//! Curvature pass: the sums of every block over the training spectra, written as `posterior/hessian/`.
//!
//! Where the catalogue of the fit is the one to predict, the same backward passes go one step further and leave, for every row, the
//! labels, the photons' part of the covariance and J_x.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::{BlockSums, LabelPrecision, References, Structure, structure_of};
use fisherflow_network::InputJacobian;
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::WrittenFile;
use timely::worker::Worker;

use super::budget::flux_part;
use super::differentiated::{Differentiated, differentiate};
use super::flux_part::FluxPart;
use super::{run, spectra};
use crate::context::Context;
use crate::error::RunError;
use crate::files;
use crate::operators::{Accumulate, Conclude, Differentiate, Gather, GroupFold, ReduceInGroupOrder};
use crate::stage_state::FitCounts;

/// What the pass leaves beside the Hessian's files.
pub(crate) struct Fitted {
    pub(crate) counts: FitCounts,
    pub(crate) files: Vec<WrittenFile>,
}

/// Sums every block about `references`, each spectrum weighted by `(noise + S_n)^-1`, with errors in variables by
/// `(noise + S_n + J_x C_flux J_x^T)^-1`; `noise`: `[K, K]`, normalised label units.
pub(crate) fn curvature(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    references: &References,
    noise: &[f64],
) -> Result<Fitted, RunError> {
    let input_jacobian = if context.is_fused() || context.job.calibration.errors_in_variables {
        InputJacobian::Wanted
    } else {
        InputJacobian::NotWanted
    };
    let (hessian, counts, flux) = run(worker, context, |scope, probe| {
        let (deriving, population) = (Arc::clone(context), population.cloned());
        let differentiated = spectra(scope, context, |context| &context.fit)
            .differentiate(&context.faults, move |batch| {
                differentiate(&deriving, population.as_ref(), batch, input_jacobian)
            });

        let writing = Arc::clone(context);
        let structures: Rc<[Box<dyn Structure>]> = context
            .blocks
            .iter()
            .map(|plan| {
                structure_of(
                    plan,
                    references,
                    context.network.n_labels(),
                    context.network.arithmetic().threads,
                )
            })
            .collect::<Result<_, _>>()?;
        let owned = Rc::clone(&structures);
        let hessian = differentiated
            .clone()
            .accumulate("Curvature", &context.faults, Sums::new(context, structures, noise)?)
            .reduce_in_group_order(&context.faults, |total: &mut BlockSums, group| Ok(total.merge(&group)?))
            .conclude("WriteHessian", &context.faults, move |block, sums| {
                let structure = &owned[block as usize];
                files::write_hessian(&writing, structure.plan(), &structure.curvature(&sums)?)
            })
            .gather(probe);

        let counts = differentiated
            .clone()
            .accumulate(
                "Count",
                &context.faults,
                Count {
                    context: Arc::clone(context),
                    counts: FitCounts::default(),
                },
            )
            .reduce_in_group_order(&context.faults, |total: &mut FitCounts, group| {
                total.merge(&group);
                Ok(())
            })
            .gather(probe);

        let flux = context.is_fused().then(|| {
            differentiated
                .accumulate("FluxPart", &context.faults, FluxPart::new(context))
                .gather(probe)
        });
        Ok((hessian, counts, flux))
    })?;
    let mut files: Vec<WrittenFile> = hessian.take().into_values().collect();
    files.extend(flux.into_iter().flat_map(|flux| flux.take().into_values().flatten()));
    Ok(Fitted {
        counts: counts.take().remove(&0).unwrap_or_default(),
        files,
    })
}

/// The sums of every block over the training spectra of one group.
struct Sums {
    context: Arc<Context>,
    structures: Rc<[Box<dyn Structure>]>,
    noise: Vec<f64>,
    sums: Vec<BlockSums>,
}

impl Sums {
    fn new(context: &Arc<Context>, structures: Rc<[Box<dyn Structure>]>, noise: &[f64]) -> Result<Self, RunError> {
        let sums = empty(&structures)?;
        Ok(Self {
            context: Arc::clone(context),
            structures,
            noise: noise.to_vec(),
            sums,
        })
    }
}

fn empty(structures: &[Box<dyn Structure>]) -> Result<Vec<BlockSums>, RunError> {
    Ok(structures
        .iter()
        .map(|structure| structure.empty())
        .collect::<Result<_, _>>()?)
}

impl GroupFold<Rc<Differentiated>> for Sums {
    type Output = BlockSums;

    fn add(&mut self, _group: u64, all: Rc<Differentiated>) -> Result<(), RunError> {
        let training: Vec<usize> = (0..all.batch.n_rows())
            .filter(|&row| self.context.is_in_sums(&all.batch, row))
            .collect();
        let captures = all.captures_of(&training)?;
        let own = own_covariance(&self.context, &all, &training)?;
        let precision = LabelPrecision::per_spectrum(&self.noise, own.as_deref(), training.len())?;
        for (structure, sums) in self.structures.iter().zip(&mut self.sums) {
            structure.accumulate(&captures, &precision, sums)?;
        }
        Ok(())
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, BlockSums)>, RunError> {
        let sums = std::mem::take(&mut self.sums);
        let parts = sums.into_iter().map(|sums| (sums.block as u64, sums)).collect();
        self.sums = empty(&self.structures)?;
        Ok(parts)
    }
}

/// What is known of the error of each row's labels, `[rows, K, K]`, normalised label units: its own label covariance and, with errors in
/// variables, what its photon noise does to the prediction that they are compared with.
fn own_covariance(context: &Context, all: &Differentiated, rows: &[usize]) -> Result<Option<Vec<f64>>, RunError> {
    let mut own = all.label_covariance_of(rows);
    if context.job.calibration.errors_in_variables {
        let square = context.network.n_labels() * context.network.n_labels();
        let flux = flux_part(all)?;
        let of_rows = rows.iter().flat_map(|row| &flux[row * square..(row + 1) * square]);
        match &mut own {
            Some(own) => own.iter_mut().zip(of_rows).for_each(|(own, flux)| *own += flux),
            None => own = Some(of_rows.copied().collect()),
        }
    }
    own.map(|own| context.in_normalised_units(own)).transpose()
}

/// What became of every row of one group.
struct Count {
    context: Arc<Context>,
    counts: FitCounts,
}

impl GroupFold<Rc<Differentiated>> for Count {
    type Output = FitCounts;

    fn add(&mut self, _group: u64, all: Rc<Differentiated>) -> Result<(), RunError> {
        for row in 0..all.batch.n_rows() {
            self.counts.spectra += 1;
            let counter = if all.batch.is_bad(row) {
                &mut self.counts.bad
            } else if self.context.is_in_sums(&all.batch, row) {
                &mut self.counts.in_sums
            } else if all.batch.n_labels > 0 && !all.batch.is_labelled(row) {
                &mut self.counts.unlabelled
            } else {
                &mut self.counts.held_out
            };
            *counter += 1;
        }
        Ok(())
    }

    fn finish(&mut self, _group: u64) -> Result<Vec<(u64, FitCounts)>, RunError> {
        Ok(vec![(0, std::mem::take(&mut self.counts))])
    }
}
