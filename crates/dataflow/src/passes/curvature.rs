//! Curvature pass: the sums of every block over the training spectra, written as `posterior/hessian/`.
//!
//! Where the catalogue of the fit is the one to predict, the same backward passes go one step further and leave, for every row, the
//! labels, the photons' part of the covariance and J_x.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::{
    BlockSums, CurvatureError, CurvatureKind, LabelPrecision, LeadingPairs, LowRank, References, Structure,
    StructureKind, add_residual_curvature, gradient_captures, structure_of,
};
use fisherflow_network::InputJacobian;
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::WrittenFile;
use timely::worker::Worker;

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

/// Sums every block about `references`, each spectrum weighted by `(noise + S_n)^-1`; `noise`: `[K, K]`, normalised label units. `pairs` are
/// those of the `low_rank` block, if there is one.
pub(crate) fn curvature(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    references: &References,
    noise: &[f64],
    pairs: Option<&LeadingPairs>,
) -> Result<Fitted, RunError> {
    let input_jacobian = if context.is_fused() {
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
        let (references, outputs) = match context.job.curvature.kind {
            CurvatureKind::EmpiricalFisher => (&references.of_gradients(context.network.dense_layers()), 1),
            CurvatureKind::Ggn | CurvatureKind::Hessian => (references, context.network.n_labels()),
        };
        let structures: Rc<[Box<dyn Structure>]> = context
            .blocks
            .iter()
            .map(|plan| -> Result<Box<dyn Structure>, CurvatureError> {
                let threads = context.network.arithmetic().threads;
                match plan.structure {
                    StructureKind::LowRank => Ok(Box::new(LowRank::new(plan, pairs.cloned(), outputs, threads))),
                    _ => structure_of(plan, references, outputs, threads),
                }
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
        let own = all
            .label_covariance_of(&training)
            .map(|own| self.context.in_normalised_units(own))
            .transpose()?;
        let precision = LabelPrecision::per_spectrum(&self.noise, own.as_deref(), training.len())?;
        let (network, kind) = (&self.context.network, self.context.job.curvature.kind);
        let residuals = all.normalised_residuals_of(&training, &network.labels().scale);
        let gradients = match kind {
            CurvatureKind::EmpiricalFisher => Some((
                gradient_captures(&captures, &precision, &residuals)?,
                LabelPrecision::constant(&[1.0], training.len())?,
            )),
            CurvatureKind::Ggn | CurvatureKind::Hessian => None,
        };
        let (summed, weights) = gradients
            .as_ref()
            .map_or((&captures, &precision), |(captures, one)| (captures, one));
        for (structure, sums) in self.structures.iter().zip(&mut self.sums) {
            structure.accumulate(summed, weights, sums)?;
        }
        if kind == CurvatureKind::Hessian && !training.is_empty() {
            let spectra = all.batch.select(&training)?;
            let forward = network.forward(&network.flux_tensor(&spectra.flux)?)?;
            for (structure, sums) in self.structures.iter().zip(&mut self.sums) {
                add_residual_curvature(structure.plan(), network, &forward, &precision, &residuals, sums)?;
            }
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
