//! Curvature pass: the sums of every block over the training spectra, written as `posterior/hessian/`.
//!
//! Those of an `ekfac` block are its Kronecker factors: what is left of it are their eigenbases, in `stages/bases/`, for the correction pass.
//!
//! Where the catalogue of the fit is the one to predict, the same backward passes go one step further and leave, for every row, the
//! labels, the photons' part of the covariance and J_x.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::{
    BlockSums, CurvatureError, CurvatureKind, LabelPrecision, LeadingPairs, LowRank, References, Structure,
    StructureKind, add_residual_curvature, gradient_captures, structure_of,
};
use fisherflow_network::{InputJacobian, LayerCapture};
use fisherflow_posterior::kronecker_bases;
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::WrittenFile;
use timely::worker::Worker;

use super::budget::flux_part;
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

/// Sums every block about `references`, each spectrum weighted by `(noise + S_n)^-1`, with errors in variables by
/// `(noise + S_n + J_x C_flux J_x^T)^-1`; `noise`: `[K, K]`, normalised label units. `pairs` are those of the `low_rank` block, if there is
/// one.
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
        context.jacobian_of_sums()
    };
    let (hessian, rows, counts, flux) = run(worker, context, |scope, probe| {
        let (deriving, population) = (Arc::clone(context), population.cloned());
        let differentiated = spectra(scope, context, |context| &context.fit)
            .differentiate(&context.faults, move |batch| {
                differentiate(&deriving, population.as_ref(), batch, input_jacobian)
            });

        let writing = Arc::clone(context);
        let (references, outputs) = references_of(context, references);
        let structures: Rc<[Box<dyn Structure>]> = context
            .blocks
            .iter()
            .filter(|plan| plan.structure.has_sums())
            .map(|plan| -> Result<Box<dyn Structure>, CurvatureError> {
                let products = context.network.arithmetic().sums();
                match plan.structure {
                    StructureKind::LowRank => Ok(Box::new(LowRank::new(plan, pairs.cloned(), outputs, products))),
                    _ => structure_of(plan, &references, outputs, products),
                }
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

/// What of a batch is summed.
pub(super) struct Training {
    /// The rows that are in the sums.
    pub(super) rows: Vec<usize>,
    /// Their captures: of all K outputs, or of the loss, by the kind of curvature.
    pub(super) captures: Vec<LayerCapture>,
    /// The precision of what the captures are of.
    pub(super) precision: LabelPrecision,
    /// `label - f`, `[n, K]`, normalised label units.
    residuals: Vec<f64>,
}

/// The training spectra of a batch; `noise`: `[K, K]`, normalised label units.
pub(super) fn training(context: &Context, noise: &[f64], all: &Differentiated) -> Result<Training, RunError> {
    let rows: Vec<usize> = (0..all.batch.n_rows())
        .filter(|&row| context.is_in_sums(&all.batch, row))
        .collect();
    let own = own_covariance(context, all, &rows)?;
    let precision = LabelPrecision::per_spectrum(noise, own.as_deref(), rows.len())?;
    let captures = all.captures_of(&rows)?;
    let residuals = all.normalised_residuals_of(&rows, &context.network.labels().scale);
    let (captures, precision) = match context.job.curvature.kind {
        CurvatureKind::EmpiricalFisher => (
            gradient_captures(&captures, &precision, &residuals)?,
            LabelPrecision::constant(&[1.0], rows.len())?,
        ),
        CurvatureKind::Ggn | CurvatureKind::Hessian => (captures, precision),
    };
    Ok(Training {
        rows,
        captures,
        precision,
        residuals,
    })
}

/// What the sums are taken about, and of how many outputs the captures are.
pub(super) fn references_of<'a>(context: &Context, references: &'a References) -> (Cow<'a, References>, usize) {
    match context.job.curvature.kind {
        CurvatureKind::EmpiricalFisher => (Cow::Owned(references.of_gradients(context.network.dense_layers())), 1),
        CurvatureKind::Ggn | CurvatureKind::Hessian => (Cow::Borrowed(references), context.network.n_labels()),
    }
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
        let training = training(&self.context, &self.noise, &all)?;
        for (structure, sums) in self.structures.iter().zip(&mut self.sums) {
            structure.accumulate(&training.captures, &training.precision, sums)?;
        }
        if self.context.job.curvature.kind == CurvatureKind::Hessian && !training.rows.is_empty() {
            let (network, spectra) = (&self.context.network, all.batch.select(&training.rows)?);
            let forward = network.forward(&network.flux_tensor(&spectra.flux)?)?;
            let Training {
                precision, residuals, ..
            } = &training;
            for (structure, sums) in self.structures.iter().zip(&mut self.sums) {
                add_residual_curvature(structure.plan(), network, &forward, precision, residuals, sums)?;
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

/// What is known of the error of each row's labels, `[rows, K, K]`, normalised label units: its own label covariance and, with errors in
/// variables, what its photon noise does to the prediction that they are compared with.
pub(super) fn own_covariance(
    context: &Context,
    all: &Differentiated,
    rows: &[usize],
) -> Result<Option<Vec<f64>>, RunError> {
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
