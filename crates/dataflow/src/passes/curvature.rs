//! Curvature pass: the sums of every block over the training spectra, written as `posterior/hessian/`.
//!
//! Those of an `ekfac` block are its Kronecker factors: what is left of it are their eigenbases, in `stages/bases/`, for the correction pass.
//!
//! Where the catalogue of the fit is the one to predict, the same backward passes go one step further and leave, for every row, the
//! labels, the photons' part of the covariance and J_x.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::{BlockSums, LabelPrecision, References, Structure, StructureKind, structure_of};
use fisherflow_network::{InputJacobian, LayerCapture};
use fisherflow_posterior::kronecker_bases;
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::WrittenFile;
use timely::worker::Worker;

use super::differentiated::{Differentiated, differentiate};
use super::flux_part::FluxPart;
use super::weight_jacobian::Rows;
use super::{run, spectra};
use crate::context::Context;
use crate::dual_files::DualChunk;
use crate::error::RunError;
use crate::files;
use crate::operators::{Accumulate, Conclude, Differentiate, Gather, GroupFold, ReduceInGroupOrder};
use crate::stage_state::FitCounts;

/// What the pass leaves beside the Hessian's files.
pub(crate) struct Fitted {
    pub(crate) counts: FitCounts,
    /// The chunks of a dual block's rows.
    pub(crate) dual: Vec<DualChunk>,
    pub(crate) files: Vec<WrittenFile>,
}

/// Sums every block about `references`, each spectrum weighted by `(noise + S_n)^-1`; `noise`: `[K, K]`, normalised label units.
pub(crate) fn curvature(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    references: &References,
    noise: &[f64],
) -> Result<Fitted, RunError> {
    let input_jacobian = if context.is_fused() {
        InputJacobian::Wanted
    } else {
        InputJacobian::NotWanted
    };
    let (hessian, rows, counts, flux) = run(worker, context, |scope, probe| {
        let (deriving, population) = (Arc::clone(context), population.cloned());
        let differentiated = spectra(scope, context, |context| &context.fit)
            .differentiate(&context.faults, move |batch| {
                differentiate(&deriving, population.as_ref(), batch, input_jacobian)
            });

        let writing = Arc::clone(context);
        let structures: Rc<[Box<dyn Structure>]> = context
            .blocks
            .iter()
            .filter(|plan| plan.structure.has_sums())
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
                let structure = owned
                    .iter()
                    .find(|structure| structure.plan().id as u64 == block)
                    .ok_or_else(|| RunError::Internal(format!("there is no block {block} of sums")))?;
                let plan = structure.plan();
                let curvature = structure.curvature(&sums)?;
                drop(sums);
                if plan.structure != StructureKind::Ekfac {
                    return Ok(Some(files::write_hessian(&writing, plan, &curvature)?));
                }
                writing.progress.begin("eigenbases", writing.corrected().count() as u64);
                files::write_bases(&writing, plan, &kronecker_bases(plan, curvature, writing.cores)?)?;
                writing.progress.advance(1);
                Ok(None)
            })
            .gather(probe);

        let rows = context.dual_plan().map(|plan| {
            differentiated
                .clone()
                .accumulate("WeightJacobian", &context.faults, Rows::new(context, plan, noise))
                .gather(probe)
        });

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
        Ok((hessian, rows, counts, flux))
    })?;
    let mut files: Vec<WrittenFile> = hessian.take().into_values().flatten().collect();
    let mut dual = Vec::new();
    for parts in rows.into_iter().flat_map(|rows| rows.take().into_values()) {
        dual.extend(parts.chunks);
        files.extend(parts.files);
    }
    files.extend(flux.into_iter().flat_map(|flux| flux.take().into_values().flatten()));
    Ok(Fitted {
        counts: counts.take().remove(&0).unwrap_or_default(),
        dual,
        files,
    })
}

/// The captures of a batch's training spectra, and the precision of their labels; `noise`: `[K, K]`, normalised label units.
pub(super) fn training(
    context: &Context,
    noise: &[f64],
    all: &Differentiated,
) -> Result<(Vec<LayerCapture>, LabelPrecision), RunError> {
    let training: Vec<usize> = (0..all.batch.n_rows())
        .filter(|&row| context.is_in_sums(&all.batch, row))
        .collect();
    let own = all
        .label_covariance_of(&training)
        .map(|own| context.in_normalised_units(own))
        .transpose()?;
    let precision = LabelPrecision::per_spectrum(noise, own.as_deref(), training.len())?;
    Ok((all.captures_of(&training)?, precision))
}

/// The sums of some blocks over the training spectra of one group.
pub(crate) struct Sums {
    context: Arc<Context>,
    structures: Rc<[Box<dyn Structure>]>,
    noise: Vec<f64>,
    sums: Vec<BlockSums>,
}

impl Sums {
    pub(crate) fn new(
        context: &Arc<Context>,
        structures: Rc<[Box<dyn Structure>]>,
        noise: &[f64],
    ) -> Result<Self, RunError> {
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
        if self.structures.is_empty() {
            return Ok(());
        }
        let (captures, precision) = training(&self.context, &self.noise, &all)?;
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
