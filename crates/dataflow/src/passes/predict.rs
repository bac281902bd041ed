//! Predict pass: the error budget of every row of the catalogue to predict, one output file a group.

use std::sync::Arc;

use fisherflow_network::InputJacobian;
use fisherflow_posterior::{PullSums, WeightsPart, is_overwhelmed, total_covariance};
use fisherflow_spectra::{PixelPopulation, RowFlags, SpectrumBatch};
use fisherflow_store::{PredictionRows, PredictionWriter, WrittenFile};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::budget::{flux_part, weights_part};
use super::calibrate::Calibrated;
use super::differentiated::{Differentiated, differentiate};
use super::flux_part::{FluxPartReader, is_kept};
use super::groups::{GroupPass, over_groups};
use super::in_fit::{self, InFit, Smallest};
use crate::bad_rows::BadRows;
use crate::context::Context;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::files::{self, JacobianPart};
use crate::group_name::PassInputs;
use crate::operators::{GroupFold, GroupSums};

/// What the predictions hold, and how large their errors are against residuals that the sums have not seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Predicted {
    pub(crate) counts: PredictCounts,
    /// What is wrong with the bad ones.
    pub(crate) bad_rows: BadRows,
    /// Those with [`RowFlags::UNLIKE_FIT`].
    pub(crate) unlike: BadRows,
    pub(crate) pulls: PullSums,
    /// How many of the stars that the pulls are over the fit has too, where another catalogue than the fit's is predicted, with labels.
    pub(crate) in_fit: Option<InFit>,
    pub(crate) files: Vec<WrittenFile>,
}

/// Rows of the catalogue to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictCounts {
    /// All of them: rows of `predictions/`.
    pub spectra: u64,
    /// Null, with a flag that says why.
    pub bad: u64,
    /// Null, because the run file leaves them out; none of the bad.
    pub excluded: u64,
    /// With at least one masked pixel.
    pub pixels_masked: u64,
    /// Predicted with [`RowFlags::WEIGHTS_IN_F32`].
    pub weights_in_f32: u64,
    /// Predicted with [`RowFlags::UNLIKE_FIT`], where another catalogue than the fit's is predicted.
    pub unlike_fit: u64,
    /// With labels and outside the sums, but in no pulls: nothing can be learnt beside their own errors.
    pub overwhelmed: u64,
}

/// What [`RowFlags::UNLIKE_FIT`] is [beyond](PixelPopulation::distance): standard deviations, root mean square over a spectrum's pixels.
const UNLIKE: f64 = 5.0;

/// Predicts every row, with the C_intrinsic of the cell of its predicted labels. `sums`: digest of what decided the sums of the curvature pass.
pub(crate) fn predict(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    calibrated: &Calibrated,
    sums: &str,
) -> Result<Predicted, RunError> {
    // The fit's own passes have left J_x and the photons' part where they serve here too. Where some of it is lost, all of it is computed again, the
    // same bits: nothing else was made of it.
    let kept = (context.is_fused() && is_kept(worker, context, sums)?).then_some(sums);
    let input_jacobian = match kept {
        Some(_) => InputJacobian::NotWanted,
        None => context.jacobian_of_predictions(),
    };
    if worker.index() == 0 && context.is_fused() && kept.is_none() {
        tracing::warn!(
            "what the fit kept of some groups for the prediction is gone: the photons' part of all is computed again"
        );
    }
    let pass = GroupPass {
        name: "predict",
        inputs: PassInputs::of_run(context, "predict"),
        over: Context::predicted,
    };
    let (deriving, imputing) = (Arc::clone(context), population.cloned());
    let over = over_groups(
        worker,
        context,
        &pass,
        move |batch| differentiate(&deriving, imputing.as_ref(), batch, input_jacobian),
        Fold::new(context, population, calibrated, kept),
        |_, _| Ok(()),
    )?;
    let mut total = Predicted::none(context);
    let mut chosen = Smallest::of_all();
    for (counts, bad_rows, unlike, pulls, keys) in over.found {
        total.bad_rows.merge(bad_rows);
        total.unlike.merge(unlike);
        total.counts.spectra += counts.spectra;
        total.counts.bad += counts.bad;
        total.counts.excluded += counts.excluded;
        total.counts.pixels_masked += counts.pixels_masked;
        total.counts.weights_in_f32 += counts.weights_in_f32;
        total.counts.unlike_fit += counts.unlike_fit;
        total.counts.overwhelmed += counts.overwhelmed;
        total.pulls.merge(&pulls)?;
        chosen.merge(keys);
    }
    total.in_fit = in_fit::look_up(worker, context, chosen)?;
    total.files = over.files;
    Ok(total)
}

impl Predicted {
    fn none(context: &Context) -> Self {
        Self {
            counts: PredictCounts::default(),
            bad_rows: BadRows::default(),
            unlike: BadRows::default(),
            pulls: PullSums::new(context.network.n_labels()),
            in_fit: None,
            files: Vec::new(),
        }
    }
}

struct Fold {
    context: Arc<Context>,
    /// Of the fit, where another catalogue is predicted.
    population: Option<PixelPopulation>,
    /// C_intrinsic by cell, `[K, K]` each, label units.
    intrinsic: Vec<Vec<f64>>,
    /// [`Calibrated::residual_rms`].
    residual_rms: Vec<f64>,
    /// Digest of what decided the sums of the curvature pass, where its groups have kept the photons' part.
    kept: Option<String>,
    open: Option<Part>,
    done: Predicted,
    /// Of the stars, those that may be looked up in the fit's catalogue.
    chosen: Smallest,
}

/// The files of the group at hand.
struct Part {
    predictions: PredictionWriter,
    jacobians: Option<JacobianPart>,
    flux: Option<FluxPartReader>,
}

impl Fold {
    fn new(
        context: &Arc<Context>,
        population: Option<&PixelPopulation>,
        calibrated: &Calibrated,
        kept: Option<&str>,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            population: population.filter(|_| !context.is_fused()).cloned(),
            intrinsic: calibrated.by_cell(context.network.n_labels()),
            residual_rms: calibrated.residual_rms.clone(),
            kept: kept.map(str::to_owned),
            open: None,
            done: Predicted::none(context),
            chosen: Smallest::of_group(context),
        }
    }

    fn part(&mut self, group: u64) -> Result<&mut Part, RunError> {
        if self.open.is_none() {
            let context = &self.context;
            self.open = Some(Part {
                predictions: files::predictions(context, group)?,
                jacobians: (context.job.predict.jacobians && !context.is_fused())
                    .then(|| JacobianPart::open(context, group))
                    .transpose()?,
                flux: self
                    .kept
                    .as_ref()
                    .map(|sums| FluxPartReader::open(context, sums, group))
                    .transpose()?,
            });
        }
        self.open
            .as_mut()
            .ok_or_else(|| RunError::Internal("a part was not opened".into()))
    }
}

impl GroupFold<Differentiated> for Fold {
    type Output = GroupSums<(PredictCounts, BadRows, BadRows, PullSums, Smallest)>;

    fn add(&mut self, group: u64, all: Differentiated) -> Result<(), RunError> {
        let context = Arc::clone(&self.context);
        let of_cell = |labels: &[f64]| self.intrinsic[context.cells.cell_of(labels)].iter().copied();
        let k = context.network.n_labels();
        let intrinsic: Vec<f64> = all.labels.chunks_exact(k).flat_map(of_cell).collect();
        let weights = weights_part(&context, &all)?;
        let flags = flags(&context, self.population.as_ref(), &all, &weights);
        let part = self.part(group)?;
        let flux = match &mut part.flux {
            Some(reader) => reader.next(all.batch.n_rows())?,
            None => flux_part(&all)?,
        };
        let covariance = total_covariance(k, &flux, &weights.covariance, &intrinsic)?;
        let written = part.predictions.append(&PredictionRows {
            keys: files::row_keys(&context, &all.batch),
            rows: &all.batch.rows,
            labels: &all.labels,
            covariance: &covariance,
            flux: &flux,
            weights: &weights.covariance,
            intrinsic: &intrinsic,
            n_pix_good: &all.batch.n_pix_good,
            flags: &flags,
        })?;
        if let Some(jacobians) = &mut part.jacobians {
            jacobians.append(&context, &all)?;
        }
        for (row, written) in written.into_iter().enumerate() {
            if written.is_bad() && !all.batch.is_excluded(row) {
                self.done.bad_rows.add(&all.batch, row, written, RowFlags::BAD);
            }
            self.done.unlike.add(&all.batch, row, flags[row], RowFlags::UNLIKE_FIT);
        }
        let counts = &mut self.done.counts;
        counts.spectra += flags.len() as u64;
        let with = |flag: RowFlags| flags.iter().filter(|flags| flags.contains(flag)).count() as u64;
        counts.pixels_masked += with(RowFlags::PIXELS_MASKED);
        counts.weights_in_f32 += with(RowFlags::WEIGHTS_IN_F32);
        counts.unlike_fit += with(RowFlags::UNLIKE_FIT);
        counts.excluded += (0..flags.len()).filter(|&row| all.batch.is_excluded(row)).count() as u64;
        if all.batch.n_labels > 0 {
            let mut unseen = unseen_residuals(&all, &flags);
            counts.overwhelmed += leave_out_overwhelmed(&mut unseen, &all.batch, &flux, &self.residual_rms);
            self.done
                .pulls
                .accumulate(&unseen, &covariance, all.batch.label_covariance.as_deref())?;
            self.chosen.add(&context, &all.batch, &unseen);
        }
        Ok(())
    }

    fn finish(&mut self, _group: u64) -> Result<Self::Output, RunError> {
        if let Some(part) = self.open.take() {
            self.done.counts.bad += part.predictions.n_bad() - self.done.counts.excluded;
            self.context.faults.pass(FailPoint::BeforePart);
            self.context.output.check_run(&self.context.run_id)?;
            self.done.files.push(part.predictions.finish()?);
            self.context.faults.pass(FailPoint::PartWritten);
            if let Some(jacobians) = part.jacobians {
                self.done.files.push(jacobians.finish(&self.context)?);
            }
        }
        let done = std::mem::replace(&mut self.done, Predicted::none(&self.context));
        let chosen = std::mem::replace(&mut self.chosen, Smallest::of_group(&self.context));
        Ok(GroupSums {
            arrays: Vec::new(),
            files: done.files,
            found: (done.counts, done.bad_rows, done.unlike, done.pulls, chosen),
        })
    }
}

/// Whether a row is far from the population.
fn is_unlike(population: &PixelPopulation, batch: &SpectrumBatch, row: usize) -> bool {
    let pixels = row * batch.n_pixels..(row + 1) * batch.n_pixels;
    let (flux, variance) = (&batch.flux[pixels.clone()], &batch.variance[pixels.clone()]);
    population.distance(flux, variance, &batch.good[pixels]) > UNLIKE
}

/// The catalogue's flags, how a row was computed, and what the fit did with it where it is in the catalogue of the fit; else whether it is far from the
/// fit's `population`.
fn flags(
    context: &Context,
    population: Option<&PixelPopulation>,
    all: &Differentiated,
    weights: &WeightsPart,
) -> Vec<RowFlags> {
    let mut flags = all.batch.flags.clone();
    if let Some(population) = population {
        for (row, flags) in flags.iter_mut().enumerate().filter(|(_, flags)| !flags.is_bad()) {
            if is_unlike(population, &all.batch, row) {
                flags.insert(RowFlags::UNLIKE_FIT);
            }
        }
    }
    for &row in weights.in_f32.iter().filter(|&&row| !all.batch.is_bad(row)) {
        flags[row].insert(RowFlags::WEIGHTS_IN_F32);
    }
    if context.is_fused() {
        for (row, flags) in flags.iter_mut().enumerate().filter(|(_, flags)| !flags.is_bad()) {
            if context.is_in_sums(&all.batch, row) {
                flags.insert(RowFlags::IN_SUMS);
            } else if context.is_held_out(&all.batch, row) {
                flags.insert(RowFlags::HELD_OUT);
            }
        }
    }
    flags
}

/// The residuals of good rows that are not in the sums; NaN for the others, whose residuals the network has been fitted to.
fn unseen_residuals(all: &Differentiated, flags: &[RowFlags]) -> Vec<f64> {
    let mut residuals = all.residuals();
    for (row, flags) in residuals.chunks_exact_mut(all.batch.n_labels.max(1)).zip(flags) {
        if flags.is_bad() || flags.contains(RowFlags::IN_SUMS) {
            row.fill(f64::NAN);
        }
    }
    residuals
}

/// Makes NaN of the residuals that are nothing beside their spectrum's own errors, as what is fitted to held-out spectra leaves them out: a pull near 0 would
/// stand for errors as small as that. Returns the number of spectra. `flux`: the photons' part, `[n, K, K]`; `rms`: `[K]`.
fn leave_out_overwhelmed(residuals: &mut [f64], batch: &SpectrumBatch, flux: &[f64], rms: &[f64]) -> u64 {
    let (k, mut left_out) = (rms.len(), 0);
    for (row, residual) in residuals.chunks_exact_mut(k).enumerate() {
        let square = row * k * k..(row + 1) * k * k;
        let own = batch.label_covariance.as_deref().map(|own| &own[square.clone()]);
        let has_pulls = batch.is_labelled(row) && residual.iter().all(|residual| residual.is_finite());
        if has_pulls && is_overwhelmed(rms, &flux[square], own) {
            residual.fill(f64::NAN);
            left_out += 1;
        }
    }
    left_out
}
