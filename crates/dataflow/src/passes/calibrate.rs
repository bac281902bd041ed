//! Calibrate pass: what held-out residuals show beyond the photons' part, the weights' part and the labels' own errors.

use std::sync::Arc;

use fisherflow_network::InputJacobian;
use fisherflow_posterior::{CellScatter, HeldOutStars, KnownParts, LabelFit, LabelScale, PullSums, ScatterEstimate};
use fisherflow_spectra::PixelPopulation;
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::budget::{flux_part, weights_part};
use super::curvature::rms_of;
use super::differentiated::Differentiated;
use super::{concluded_of_sample, held_out, through_network};
use crate::context::Context;
use crate::error::RunError;

/// What is fitted to the held-out spectra, label units.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Calibrated {
    /// C_intrinsic over all of them; none where none has labels.
    pub(crate) intrinsic: Option<ScatterEstimate>,
    /// C_intrinsic by cell, where label space is cut into cells.
    pub(crate) cells: Vec<CellScatter>,
    /// The factors of the weights' part, where they are asked for.
    pub(crate) label_scale: Option<LabelScale>,
    /// Pulls of the same spectra under all of this.
    pub(crate) pulls: PullSums,
    /// The same by cell, where label space is cut into cells.
    pub(crate) pulls_by_cell: Vec<PullSums>,
    /// R as it would be found today, where the sums are about a pinned one and the spectra have labels.
    pub(crate) noise_today: Option<ScatterEstimate>,
    /// Root mean square of their residuals, `[K]`, by R where none has labels: beside much larger errors of its own a spectrum tells nothing.
    pub(crate) residual_rms: Vec<f64>,
    /// Number of them that are in nothing of this, because nothing can be learnt beside their own errors.
    pub(crate) overwhelmed: u64,
    /// Whether the network knows each label; empty where too few of them have labels.
    pub(crate) label_fits: Vec<LabelFit>,
}

impl Calibrated {
    /// C_intrinsic of every cell: its own, or that of all cells.
    pub(crate) fn by_cell(&self, n_labels: usize) -> Vec<Vec<f64>> {
        let all = self
            .intrinsic
            .as_ref()
            .map_or_else(|| vec![0.0; n_labels * n_labels], |all| all.covariance.clone());
        if self.cells.is_empty() {
            return vec![all];
        }
        let own = |cell: &CellScatter| {
            cell.own
                .as_ref()
                .map_or_else(|| all.clone(), |own| own.covariance.clone())
        };
        self.cells.iter().map(own).collect()
    }
}

/// Fits the scatter beyond all known parts, and what else is asked for, to the held-out spectra. `noise`: R, `[K, K]`, label units.
pub(crate) fn calibrate(
    worker: &mut Worker,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    noise: &[f64],
) -> Result<Calibrated, RunError> {
    let (empty, adding, fitting, noise) = (
        Arc::clone(context),
        Arc::clone(context),
        Arc::clone(context),
        noise.to_vec(),
    );
    let calibrated = concluded_of_sample(
        worker,
        context,
        ("HeldOut", |scope| {
            through_network(held_out(scope, context), context, population, InputJacobian::InBlocks)
        }),
        move || none(&empty),
        (
            move |total: &mut HeldOut, held_out: Differentiated| add(&adding, total, &held_out),
            |total: &mut HeldOut, group: HeldOut| {
                let totals = total.by_cell.iter_mut().chain(&mut total.of_noise);
                for (total, group) in totals.zip(group.by_cell.iter().chain(&group.of_noise)) {
                    total.merge(group)?;
                }
                total.labels.extend(group.labels);
                total.residuals.extend(group.residuals);
                Ok(())
            },
        ),
        move |held_out| fitted(&fitting, &noise, held_out),
    )?;
    if let Some(found) = &calibrated.label_scale {
        context.set_label_scale(&found.scale);
    }
    Ok(calibrated)
}

/// What the held-out spectra say.
fn fitted(context: &Context, noise: &[f64], held_out: HeldOut) -> Result<Calibrated, RunError> {
    let HeldOut {
        mut by_cell,
        mut of_noise,
        labels,
        residuals,
    } = held_out;
    let residual_rms = residual_rms(context, &by_cell, noise)?;
    let mut overwhelmed = 0;
    for stars in &mut by_cell {
        overwhelmed += stars.leave_out_overwhelmed(&residual_rms)?;
    }
    if let Some(stars) = &mut of_noise {
        stars.leave_out_overwhelmed(&residual_rms)?;
    }
    let label_scale = if context.job.calibration.label_scale {
        let found = LabelScale::of_cells(&by_cell).map_err(|error| {
            RunError::Refused(format!("no factors of the weights' part (prior.label_scale): {error}"))
        })?;
        for stars in &mut by_cell {
            stars.scale_weights(&found.scale)?;
        }
        Some(found)
    } else {
        None
    };
    let all = merged(context, &by_cell)?;
    let mut calibrated = Calibrated {
        intrinsic: (all.n_spectra() > 0).then(|| all.intrinsic()).transpose()?,
        cells: if context.cells.n_cells() > 1 {
            context.cells.scatter(&by_cell)?
        } else {
            Vec::new()
        },
        label_scale,
        pulls: PullSums::new(context.network.n_labels()),
        pulls_by_cell: Vec::new(),
        // Nothing rests on it: residuals that are all 0 give none.
        noise_today: of_noise.and_then(|stars| stars.noise().ok()),
        residual_rms,
        overwhelmed,
        label_fits: LabelFit::of_labels(&labels, &residuals, context.network.n_labels())?,
    };
    let intrinsic = calibrated.by_cell(context.network.n_labels());
    for (stars, intrinsic) in by_cell.iter().zip(&intrinsic) {
        stars.pulls(intrinsic, &mut calibrated.pulls)?;
        if context.cells.n_cells() > 1 {
            let mut of_cell = PullSums::new(context.network.n_labels());
            stars.pulls(intrinsic, &mut of_cell)?;
            calibrated.pulls_by_cell.push(of_cell);
        }
    }
    Ok(calibrated)
}

/// Root mean square of each label's residuals over held-out spectra, `[K]`, or by R where there are none.
fn residual_rms(context: &Context, by_cell: &[HeldOutStars], noise: &[f64]) -> Result<Vec<f64>, RunError> {
    let all = merged(context, by_cell)?;
    if all.n_spectra() > 0 {
        return Ok(all.residual_rms());
    }
    Ok(rms_of(noise, context.network.n_labels()))
}

/// The held-out spectra of all cells, cell after cell.
fn merged(context: &Context, by_cell: &[HeldOutStars]) -> Result<HeldOutStars, RunError> {
    Ok(HeldOutStars::merged(context.network.n_labels(), by_cell)?)
}

/// Held-out spectra, label units.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct HeldOut {
    /// Of each cell, with all that is known of their errors.
    by_cell: Vec<HeldOutStars>,
    /// All of them, with what R is beyond; none where R is not pinned.
    of_noise: Option<HeldOutStars>,
    /// Of all of them as the catalogue gives them, `[n, K]`.
    labels: Vec<f64>,
    /// `label - prediction`, `[n, K]`.
    residuals: Vec<f64>,
}

fn none(context: &Context) -> HeldOut {
    let stars = HeldOutStars::new(context.network.n_labels());
    let pinned = context
        .basis
        .as_ref()
        .is_some_and(|pinned| pinned.basis.estimate.is_some());
    HeldOut {
        by_cell: vec![stars.clone(); context.cells.n_cells()],
        of_noise: pinned.then_some(stars),
        labels: Vec::new(),
        residuals: Vec::new(),
    }
}

/// Adds a batch.
fn add(context: &Context, total: &mut HeldOut, held_out: &Differentiated) -> Result<(), RunError> {
    let flux = flux_part(held_out)?;
    let weights = weights_part(context, held_out)?.covariance;
    let residuals = held_out.residuals();
    let k = context.network.n_labels();
    total.labels.extend_from_slice(&held_out.batch.labels);
    total.residuals.extend_from_slice(&residuals);
    // Without label columns there are no residuals.
    for (star, residual) in residuals.chunks_exact(k).enumerate() {
        let square = star * k * k..(star + 1) * k * k;
        let own = held_out.batch.label_covariance.as_deref();
        let known = KnownParts {
            flux: Some(&flux[square.clone()]),
            weights: Some(&weights[square.clone()]),
            label_covariance: own.map(|own| &own[square]),
        };
        let cell = context.cells.cell_of(&held_out.labels[star * k..(star + 1) * k]);
        total.by_cell[cell].push(residual, known)?;
        if let Some(stars) = &mut total.of_noise {
            let in_variables = context.job.calibration.errors_in_variables;
            let known = KnownParts {
                flux: known.flux.filter(|_| in_variables),
                weights: None,
                ..known
            };
            stars.push(residual, known)?;
        }
    }
    Ok(())
}
