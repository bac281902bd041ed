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
    BlockPlan, BlockSums, CurvatureError, CurvatureKind, LabelPrecision, LeadingPairs, LowRank, References, Structure,
    StructureKind, add_residual_curvature, gradient_captures, structure_of,
};
use fisherflow_network::LayerCapture;
use fisherflow_posterior::{LabelEnds, is_overwhelmed, kronecker_bases};
use fisherflow_spectra::{PixelPopulation, RowFlags, SpectrumBatch};
use fisherflow_store::{GroupArray, MatrixSet, Purpose, WrittenFile};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::budget::flux_part;
use super::differentiated::{Differentiated, differentiate, overflow};
use super::flux_part::FluxPart;
use super::groups::{GroupPass, over_groups};
use super::weight_jacobian::{RowParts, Rows};
use crate::bad_rows::{BadRows, RowPlace};
use crate::context::Context;
use crate::dual_files::DualChunk;
use crate::error::RunError;
use crate::files;
use crate::group_name::PassInputs;
use crate::operators::{GroupFold, GroupSums, Total};
use crate::run::stage_state::FitCounts;

/// What the pass finds of some rows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RowsFound {
    pub(crate) counts: FitCounts,
    /// What is wrong with the bad ones.
    pub(crate) bad_rows: BadRows,
    /// The chunks of a dual block's rows.
    pub(crate) dual: Vec<DualChunk>,
    /// Of each label, over the rows in the sums; none where the fit reads none, and of groups that a build before this kept.
    #[serde(default)]
    pub(crate) label_ends: Vec<LabelEnds>,
}

/// What the pass leaves beside the Hessian's files.
pub(crate) struct Fitted {
    pub(crate) rows: RowsFound,
    pub(crate) files: Vec<WrittenFile>,
    /// The eigenbases of `ekfac` blocks.
    pub(crate) bases: Vec<WrittenFile>,
    /// Digest of what decided the groups' sums.
    pub(crate) sums: String,
    /// Groups that were computed; known to the first worker alone.
    pub(crate) computed: u64,
}

/// The pass's folder among the groups.
pub(crate) const CURVATURE: &str = "curvature";

/// Sums every block about `references`, each spectrum weighted by `(noise + S_n)^-1`, with errors in variables by
/// `(noise + S_n + J_x C_flux J_x^T)^-1`, or by 0 where that is nothing beside R; `noise`: `[K, K]`, normalised label units. `pairs` are those of
/// the `low_rank` block, if there is one.
pub(crate) fn curvature(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    references: &References,
    noise: &[f64],
    mut pairs: Option<LeadingPairs>,
) -> Result<Fitted, RunError> {
    let input_jacobian = if context.is_fused() {
        context.jacobian_of_predictions()
    } else {
        context.jacobian_of_sums()
    };
    let inputs = inputs(context, population, references, noise);
    let digest = inputs.digest();
    let pass = GroupPass {
        name: CURVATURE,
        inputs,
        over: |context| &context.fit,
    };
    let (references, outputs) = references_of(context, references);
    let structures: Rc<[Box<dyn Structure>]> = context
        .blocks
        .iter()
        .filter(|plan| plan.structure.has_sums())
        .map(|plan| -> Result<Box<dyn Structure>, CurvatureError> {
            let products = context.network.arithmetic().sums();
            match plan.structure {
                StructureKind::LowRank => Ok(Box::new(LowRank::new(plan, pairs.take(), outputs, products))),
                _ => structure_of(plan, &references, outputs, products),
            }
        })
        .collect::<Result<_, _>>()?;
    let (deriving, population) = (Arc::clone(context), population.cloned());
    let (writing, owned) = (Arc::clone(context), Rc::clone(&structures));
    let fold = Fold {
        noise: noise.to_vec(),
        sums: Sums::new(context, structures),
        rows: context.dual_plan().map(|plan| Rows::new(context, plan)),
        found: RowsFound::default(),
        flux: context.is_fused().then(|| FluxPart::new(context)),
        context: Arc::clone(context),
    };
    let over = over_groups(
        worker,
        context,
        &pass,
        move |batch| differentiate(&deriving, population.as_ref(), batch, input_jacobian),
        fold,
        move |block, total| {
            let structure = structure_with(&owned, block)?;
            let plan = structure.plan();
            let sums = sums_of(plan, total);
            if plan.structure != StructureKind::Ekfac {
                let curvature = structure.curvature_by_row(&sums)?;
                return files::write_hessian(&writing, plan, curvature);
            }
            let curvature = structure.curvature(&sums)?;
            drop(sums);
            writing.progress.begin("eigenbases", writing.corrected().count() as u64);
            let file = files::write_bases(&writing, plan, &kronecker_bases(plan, curvature, writing.cores)?)?;
            writing.progress.advance(1);
            Ok(file)
        },
    )?;
    let bases = MatrixSet::Bases.directory();
    let (bases, files): (Vec<_>, Vec<_>) = over
        .concluded
        .into_values()
        .partition(|file| file.path.starts_with(bases));
    let mut fitted = Fitted {
        rows: RowsFound::default(),
        files: files.into_iter().chain(over.files).collect(),
        bases,
        sums: digest,
        computed: over.computed,
    };
    over.found.into_iter().for_each(|found| fitted.rows.append(found));
    Ok(fitted)
}

/// What decides the sums of a group. The eigenpairs of a `low_rank` block do not: its sums are the diagonal, and they meet in the total.
pub(crate) fn inputs(
    context: &Context,
    population: Option<&PixelPopulation>,
    references: &References,
    noise: &[f64],
) -> PassInputs {
    let mut inputs = PassInputs::of_sums(context, CURVATURE, population, references, noise);
    inputs.add("photons' part kept", &context.is_fused().to_string());
    if context.dual_plan().is_some() || (context.is_fused() && context.job.predict.jacobians) {
        // The group leaves files of this run, in this output: those that another release of the same run names stay.
        inputs.add("run", &context.run_id);
        if let Some(release) = &context.release {
            inputs.add("release", &release.number.to_string());
        }
    }
    inputs
}

/// The structure of a block.
pub(super) fn structure_with(structures: &[Box<dyn Structure>], block: u64) -> Result<&dyn Structure, RunError> {
    let of_block = structures.iter().find(|structure| structure.plan().id as u64 == block);
    of_block
        .map(|structure| &**structure)
        .ok_or_else(|| RunError::Internal(format!("there is no block {block} of sums")))
}

/// A total as the sums of a block.
pub(super) fn sums_of(plan: &BlockPlan, total: Total) -> BlockSums {
    BlockSums {
        block: plan.id,
        structure: plan.structure,
        n_spectra: total.n_spectra,
        sums: total.values,
    }
}

/// Everything that one group gives.
struct Fold {
    context: Arc<Context>,
    noise: Vec<f64>,
    sums: Sums,
    /// Of a dual block.
    rows: Option<Rows>,
    found: RowsFound,
    /// Where the prediction needs it.
    flux: Option<FluxPart>,
}

impl GroupFold<Differentiated> for Fold {
    type Output = GroupSums<RowsFound>;

    fn add(&mut self, group: u64, all: Differentiated) -> Result<(), RunError> {
        let training = training(&self.context, &self.noise, &all)?;
        self.sums.add(&all.batch, &training)?;
        if let Some(rows) = &mut self.rows {
            rows.add(group, &training)?;
        }
        self.count(&all, &training);
        drop(training);
        if let Some(flux) = &mut self.flux {
            flux.add(group, &all)?;
        }
        Ok(())
    }

    fn finish(&mut self, group: u64) -> Result<Self::Output, RunError> {
        let mut arrays = self.sums.take()?;
        let rows = self.rows.as_mut().map(|rows| rows.finish(group)).transpose()?;
        let RowParts { chunks, mut files } = rows.unwrap_or_default();
        self.found.dual = chunks;
        if let Some(flux) = &mut self.flux {
            let (array, jacobians) = flux.finish()?;
            arrays.push(array);
            files.extend(jacobians);
        }
        Ok(GroupSums {
            arrays,
            files,
            found: std::mem::take(&mut self.found),
        })
    }
}

impl Fold {
    /// What became of every row.
    fn count(&mut self, all: &Differentiated, training: &Training) {
        let RowsFound {
            counts,
            bad_rows,
            label_ends,
            ..
        } = &mut self.found;
        counts.overwhelmed += training.n_without_weight as u64;
        for row in 0..all.batch.n_rows() {
            counts.spectra += 1;
            let counter = if all.batch.is_excluded(row) {
                &mut counts.excluded
            } else if all.batch.is_bad(row) {
                bad_rows.add(&all.batch, row, all.batch.flags[row], RowFlags::BAD);
                &mut counts.bad
            } else if self.context.is_in_sums(&all.batch, row) {
                &mut counts.in_sums
            } else if all.batch.n_labels > 0 && !all.batch.is_labelled(row) {
                &mut counts.unlabelled
            } else {
                &mut counts.held_out
            };
            *counter += 1;
        }
        let k = all.batch.n_labels;
        label_ends.resize_with(k, LabelEnds::default);
        for row in &training.rows {
            let labels = &all.batch.labels[row * k..(row + 1) * k];
            label_ends
                .iter_mut()
                .zip(labels)
                .for_each(|(ends, label)| ends.add(*label));
        }
    }
}

impl RowsFound {
    /// Adds what was found of the rows after these.
    fn append(&mut self, other: Self) {
        self.counts.merge(&other.counts);
        self.bad_rows.merge(other.bad_rows);
        self.dual.extend(other.dual);
        let labels = self.label_ends.len().max(other.label_ends.len());
        self.label_ends.resize_with(labels, LabelEnds::default);
        for (ends, other) in self.label_ends.iter_mut().zip(&other.label_ends) {
            ends.merge(other);
        }
    }
}

/// What of a batch is summed.
pub(super) struct Training {
    /// The rows that are in the sums.
    pub(super) rows: Vec<usize>,
    /// Their captures: of all K outputs, or of the loss, by the kind of curvature.
    pub(super) captures: Vec<LayerCapture>,
    /// The precision of what the captures are of.
    pub(super) precision: LabelPrecision,
    /// Rows that weigh nothing.
    n_without_weight: usize,
    /// `label - f`, `[n, K]`, normalised label units.
    residuals: Vec<f64>,
}

/// The training spectra of a batch; `noise`: `[K, K]`, normalised label units.
pub(super) fn training(context: &Context, noise: &[f64], all: &Differentiated) -> Result<Training, RunError> {
    let rows = context.rows_in_sums(&all.batch);
    let precision = precision_of(context, noise, all, &rows)?;
    let n_without_weight = precision.n_without_weight();
    let captures = all.captures_of(&rows)?;
    let residuals = all.normalised_residuals_of(&rows, &context.network.labels().scale);
    let of_loss = of_loss(context.job.curvature.kind, &captures, &precision, &residuals)?;
    let (captures, precision) = of_loss.unwrap_or((captures, precision));
    Ok(Training {
        rows,
        captures,
        precision,
        n_without_weight,
        residuals,
    })
}

/// The captures and the precision of the loss, where the curvature is of its gradients and not of all K outputs: what is summed in their place.
pub(super) fn of_loss(
    kind: CurvatureKind,
    captures: &[LayerCapture],
    precision: &LabelPrecision,
    residuals: &[f64],
) -> Result<Option<(Vec<LayerCapture>, LabelPrecision)>, RunError> {
    match kind {
        CurvatureKind::EmpiricalFisher => Ok(Some((
            gradient_captures(captures, precision, residuals)?,
            LabelPrecision::constant(&[1.0], precision.batch())?,
        ))),
        CurvatureKind::Ggn | CurvatureKind::Hessian => Ok(None),
    }
}

/// What each of some rows weighs in sums; one that would spoil them is named.
pub(super) fn precision_of(
    context: &Context,
    noise: &[f64],
    all: &Differentiated,
    rows: &[usize],
) -> Result<LabelPrecision, RunError> {
    if let Some(row) = all.first_that_overflows(rows.iter().copied()) {
        return Err(overflow(context, RowPlace::of(&all.batch, row)));
    }
    let flux = if context.job.calibration.errors_in_variables {
        let of_all = flux_part(all)?;
        let of_row = |row: &usize| &of_all[row * noise.len()..][..noise.len()];
        Some(rows.iter().flat_map(of_row).copied().collect())
    } else {
        None
    };
    let errors = label_errors(context, noise, all.label_covariance_of(rows), flux)?;
    LabelPrecision::per_spectrum(noise, errors.as_deref(), rows.len())
        .map_err(|error| of_a_spectrum(error, &all.batch, rows))
}

/// Names the spectrum whose labels' covariance cannot be inverted.
fn of_a_spectrum(error: CurvatureError, batch: &SpectrumBatch, rows: &[usize]) -> RunError {
    let row = match &error {
        CurvatureError::LabelMatrix { spectrum, .. } => rows.get(*spectrum),
        _ => None,
    };
    match row {
        Some(&row) => RunError::Refused(format!(
            "{}: {error}. An error of a label or a pixel that stands for \"bad\" must be null, or the pixel masked",
            RowPlace::of(batch, row)
        )),
        None => error.into(),
    }
}

/// What the sums are taken about, and of how many outputs the captures are.
pub(super) fn references_of<'a>(context: &Context, references: &'a References) -> (Cow<'a, References>, usize) {
    match context.job.curvature.kind {
        CurvatureKind::EmpiricalFisher => (Cow::Owned(references.of_gradients(context.network.dense_layers())), 1),
        CurvatureKind::Ggn | CurvatureKind::Hessian => (Cow::Borrowed(references), context.network.n_labels()),
    }
}

/// The sums of some blocks over the training spectra of one group after another.
pub(crate) struct Sums {
    context: Arc<Context>,
    structures: Rc<[Box<dyn Structure>]>,
    /// Of the group at hand, from its first batch on: between groups there is nothing in memory.
    sums: Option<Vec<BlockSums>>,
}

impl Sums {
    pub(crate) fn new(context: &Arc<Context>, structures: Rc<[Box<dyn Structure>]>) -> Self {
        Self {
            context: Arc::clone(context),
            structures,
            sums: None,
        }
    }

    /// Adds what is summed of a batch.
    pub(super) fn add(&mut self, batch: &SpectrumBatch, training: &Training) -> Result<(), RunError> {
        if self.structures.is_empty() {
            return Ok(());
        }
        let mut sums = self.begun()?;
        for (structure, sums) in self.structures.iter().zip(&mut sums) {
            structure.accumulate(&training.captures, &training.precision, sums)?;
        }
        if self.context.job.curvature.kind == CurvatureKind::Hessian && !training.rows.is_empty() {
            let (network, spectra) = (&self.context.network, batch.select(&training.rows)?);
            let forward = network.forward(&spectra.flux)?;
            let Training {
                precision, residuals, ..
            } = training;
            for (structure, sums) in self.structures.iter().zip(&mut sums) {
                add_residual_curvature(structure.plan(), network, &forward, precision, residuals, sums)?;
            }
        }
        self.sums = Some(sums);
        Ok(())
    }

    /// The group's sums.
    pub(crate) fn take(&mut self) -> Result<Vec<GroupArray>, RunError> {
        let arrays = self.begun()?.into_iter().map(|sums| GroupArray {
            key: sums.block as u64,
            purpose: Purpose::Sum,
            n_spectra: sums.n_spectra,
            values: sums.sums,
        });
        Ok(arrays.collect())
    }

    fn begun(&mut self) -> Result<Vec<BlockSums>, RunError> {
        if let Some(begun) = self.sums.take() {
            return Ok(begun);
        }
        let empty = self.structures.iter().map(|structure| structure.empty());
        Ok(empty.collect::<Result<_, _>>()?)
    }
}

/// What is known of the errors of spectra's labels, `[n, K, K]`, normalised label units, from label units: `own`, their label covariances, and with errors
/// in variables `flux`, what photon noise does to the predictions that they are compared with. Where that is beyond all measure beside R it is infinite:
/// of a pixel's error that stands for "bad", rounding leaves no covariance.
pub(super) fn label_errors(
    context: &Context,
    noise: &[f64],
    own: Option<Vec<f64>>,
    flux: Option<Vec<f64>>,
) -> Result<Option<Vec<f64>>, RunError> {
    let own = own.map(|own| context.in_normalised_units(own)).transpose()?;
    let Some(flux) = flux else { return Ok(own) };
    let mut errors = context.in_normalised_units(flux)?;
    let rms = rms_of(noise, context.network.n_labels());
    for flux in errors.chunks_exact_mut(noise.len()) {
        if is_overwhelmed(&rms, flux, None) {
            flux.fill(f64::INFINITY);
        }
    }
    if let Some(own) = own {
        errors.iter_mut().zip(own).for_each(|(errors, own)| *errors += own);
    }
    Ok(Some(errors))
}

/// Root mean square of each label's residuals as R has it, `[K]`. Beside errors of the labels R may be 0: of such a label it tells nothing.
pub(super) fn rms_of(noise: &[f64], n_labels: usize) -> Vec<f64> {
    let variances = noise.iter().step_by(n_labels + 1);
    variances
        .map(|&variance| if variance > 0.0 { variance.sqrt() } else { f64::INFINITY })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line goes on with what a build kept that knew nothing of labels' ends, and named nothing.
    #[test]
    fn what_an_earlier_build_found_of_rows_is_read() {
        let now = RowsFound {
            counts: FitCounts {
                spectra: 7,
                ..FitCounts::default()
            },
            label_ends: vec![LabelEnds::of([1.0, 2.0])],
            ..RowsFound::default()
        };
        let then = serde_json::json!([now.counts, now.bad_rows, now.dual]);
        let mut read: RowsFound = serde_json::from_value(then).unwrap();
        assert_eq!((read.counts, read.label_ends.len()), (now.counts, 0));
        let again: RowsFound = serde_json::from_value(serde_json::to_value(&now).unwrap()).unwrap();
        read.append(again);
        assert_eq!((read.counts.spectra, read.label_ends), (14, now.label_ends));
    }
}
