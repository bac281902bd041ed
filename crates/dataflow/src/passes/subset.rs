//! Subset pass: some training spectra and some stars come to one worker, which compares the run's structures with the exact posterior there, and
//! prepares what the certify pass streams.
//!
//! Which rows: evenly spaced over the catalogue, by their position alone; row groups without any are not read. Stars are rows held out from the sums;
//! where none is, training rows.
//! In memory of that worker: the chosen spectra, and what [`Subset`] says.
//!
//! Where the certify pass follows, what was found is kept among the run's groups: a run that is killed in that pass does not compare again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fisherflow_curvature::{
    CurvatureError, CurvatureKind, LabelPrecision, ProductSums, References, StructureKind, WeightJacobian,
    add_hessian_products,
};
use fisherflow_network::{Backward, Forward, InputJacobian, LayerCapture, WeightDirections};
use fisherflow_posterior::{
    Comparison, CurvatureShare, PosteriorError, Probe, Subset, curvature_share, flux_covariance,
};
use fisherflow_spectra::{Group, ObjectVersion, PixelPopulation, Shard, SpectrumBatch};
use fisherflow_store::{GroupArray, Purpose};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::curvature::{label_errors, of_loss, references_of};
use super::differentiated::impute;
use super::{by_first, gathered, spectra_of, sum_up};
use crate::context::Context;
use crate::error::RunError;
use crate::group_name::{PassInputs, Serves};
use crate::operators::{Waits, conclude};
use crate::run::stage_state::{FitState, InvertState};
use crate::run::stages::begin_over;

/// Stars whose answers are probed.
const PROBED: usize = 16;

/// The folder of what was found, among the groups.
pub(crate) const SUBSET: &str = "subset";

/// What the worker that had the subset found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Compared {
    /// `None` where it was switched off or is impossible.
    pub(crate) comparison: Option<Comparison>,
    /// Why there is none although it was asked for.
    pub(crate) not_compared: Option<String>,
    /// Of the true Hessian, where it was asked for.
    pub(crate) curvature: Option<CurvatureShare>,
    /// One list a block; empty lists where no pass over all spectra was asked for.
    pub(crate) probes: Vec<Vec<Probe>>,
}

/// Chosen rows, masked pixels replaced.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Rows {
    n: usize,
    /// `[n, D]`.
    flux: Vec<f64>,
    /// `[n, K]`, label units; empty without labels.
    labels: Vec<f64>,
    /// `[n, K, K]`, label units; empty without label errors.
    label_covariance: Vec<f64>,
    /// `[n, D]`, flux units squared; empty unless the photons' part is in the weight of a spectrum.
    variance: Vec<f64>,
}

/// What a group contributes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Chosen {
    training: Rows,
    stars: Rows,
}

/// Brings the chosen rows together and compares; `noise`: `[K, K]`, normalised label units.
pub(crate) fn subset(
    worker: &mut Worker,
    context: &Arc<Context>,
    fit: &FitState,
    inverted: &InvertState,
    noise: &[f64],
) -> Result<Compared, RunError> {
    let looking = Arc::clone(context);
    if let Some(kept) = by_first(worker, context, "Agree", move || kept(&looking))? {
        return Ok(kept);
    }
    let positions = Positions::new(context, fit);
    let groups = positions.groups(&context.fit.groups);
    begin_over(context, "subset", &groups);
    let found = gathered(worker, context, |scope| {
        let at_work = Subsetting {
            context: Arc::clone(context),
            references: fit.references.clone(),
            prior_precisions: inverted.blocks.iter().map(|info| info.prior_precision).collect(),
            in_sums: fit.counts.in_sums,
            noise: noise.to_vec(),
        };
        let choose = Choose {
            context: Arc::clone(context),
            population: fit.population.clone(),
            positions,
            held_out: fit.counts.held_out > 0,
        };
        let of_subset = groups.clone();
        let spectra = spectra_of(scope, context, of_subset, Waits::InMemory(0), |context| &context.fit);
        let chosen = sum_up(
            spectra,
            &context.faults,
            "Choose",
            &groups,
            Chosen::default,
            move |chosen, batch| choose.add(chosen, batch),
            |total, group| {
                total.training.append(group.training);
                total.stars.append(group.stars);
                Ok(())
            },
        );
        conclude(chosen, "Compare", &context.faults, move |_, chosen| {
            at_work.compare(&chosen)
        })
    })?;
    Ok(found.into_values().next().unwrap_or_default())
}

impl Rows {
    fn append(&mut self, other: Self) {
        self.n += other.n;
        self.flux.extend(other.flux);
        self.labels.extend(other.labels);
        self.label_covariance.extend(other.label_covariance);
        self.variance.extend(other.variance);
    }

    fn push(&mut self, batch: &SpectrumBatch, row: usize, jacobian: InputJacobian) {
        let (d, k) = (batch.n_pixels, batch.n_labels);
        self.n += 1;
        self.flux.extend_from_slice(&batch.flux[row * d..(row + 1) * d]);
        self.labels.extend_from_slice(&batch.labels[row * k..(row + 1) * k]);
        if let Some(covariance) = &batch.label_covariance {
            self.label_covariance
                .extend_from_slice(&covariance[row * k * k..(row + 1) * k * k]);
        }
        if jacobian != InputJacobian::NotWanted {
            self.variance.extend_from_slice(&batch.variance[row * d..(row + 1) * d]);
        }
    }

    /// Through the network.
    fn differentiate(&self, context: &Context) -> Result<(Forward, Backward), RunError> {
        let network = &context.network;
        let forward = network.forward(&self.flux)?;
        let jacobian = if self.variance.is_empty() {
            InputJacobian::NotWanted
        } else {
            InputJacobian::Wanted
        };
        let backward = network.backward(&forward, jacobian)?;
        Ok((forward, backward))
    }

    /// [`label_errors`] of the rows.
    fn label_errors(
        &self,
        context: &Context,
        noise: &[f64],
        backward: &Backward,
    ) -> Result<Option<Vec<f64>>, RunError> {
        let flux = backward.input_jacobian.as_ref();
        let flux = flux
            .map(|jacobian| flux_covariance(jacobian, &self.variance))
            .transpose()?;
        let own = (!self.label_covariance.is_empty()).then(|| self.label_covariance.clone());
        label_errors(context, noise, own, flux)
    }
}

/// The positions in the catalogue at which rows are looked at.
struct Positions {
    /// Of the first row of each row group, by object and row group.
    first: HashMap<(ObjectVersion, usize), u64>,
    /// Rows of the catalogue.
    of: u64,
    /// So many positions are looked at for training spectra, and for stars.
    wanted: (u64, u64),
}

impl Positions {
    fn new(context: &Context, fit: &FitState) -> Self {
        let (settings, counts) = (&context.job.certificate, &fit.counts);
        let mut first = HashMap::new();
        let mut rows = 0;
        for shard in context.fit.groups.iter().flat_map(|group| &group.shards) {
            first.insert((shard.object.clone(), shard.row_group), rows);
            rows += shard.n_rows;
        }
        let positions = |wanted: u64, among: u64| {
            let spread = u128::from(wanted) * u128::from(rows);
            spread.div_ceil(u128::from(among.max(1))).min(u128::from(rows)) as u64
        };
        let among = if counts.held_out > 0 {
            counts.held_out
        } else {
            counts.in_sums
        };
        let stars = if settings.compares() { settings.stars } else { 0 };
        Self {
            first,
            of: rows,
            wanted: (
                positions(settings.n_spectra(context.network.n_labels()), counts.in_sums),
                positions(stars.max(PROBED as u64), among),
            ),
        }
    }

    /// Of the first row of a row group.
    fn first(&self, shard: &Shard) -> u64 {
        let known = self.first.get(&(shard.object.clone(), shard.row_group));
        known.copied().unwrap_or_default()
    }

    /// How many of `wanted` positions, evenly spaced over the catalogue, are among so many rows from `first` on.
    fn among(&self, first: u64, rows: u64, wanted: u64) -> u64 {
        let before = |position: u64| u128::from(position) * u128::from(wanted) / u128::from(self.of.max(1));
        (before(first + rows) - before(first)) as u64
    }

    fn is_for_training(&self, position: u64) -> bool {
        self.among(position, 1, self.wanted.0) > 0
    }

    fn is_for_stars(&self, position: u64) -> bool {
        self.among(position, 1, self.wanted.1) > 0
    }

    /// The row groups in which a position is looked at, in the groups that they are of.
    fn groups(&self, all: &[Group]) -> Vec<Group> {
        let is_read = |shard: &Shard| {
            let (first, rows) = (self.first(shard), shard.n_rows);
            self.among(first, rows, self.wanted.0) + self.among(first, rows, self.wanted.1) > 0
        };
        let read = all.iter().map(|group| Group {
            index: group.index,
            shards: group.shards.iter().filter(|shard| is_read(shard)).cloned().collect(),
        });
        read.filter(|group| !group.shards.is_empty()).collect()
    }
}

/// Picks rows by their position in the catalogue.
struct Choose {
    context: Arc<Context>,
    population: Option<PixelPopulation>,
    positions: Positions,
    /// Whether any good row is held out.
    held_out: bool,
}

impl Choose {
    fn add(&self, chosen: &mut Chosen, mut batch: SpectrumBatch) -> Result<(), RunError> {
        impute(self.population.as_ref(), &mut batch)?;
        let start = self.positions.first(&batch.shard);
        for (row, in_shard) in batch.positions.iter().enumerate() {
            let position = start + in_shard;
            let in_sums = self.context.is_in_sums(&batch, row);
            let is_star = if self.held_out {
                self.context.is_held_out(&batch, row)
            } else {
                in_sums
            };
            if in_sums && self.positions.is_for_training(position) {
                chosen.training.push(&batch, row, self.context.jacobian_of_sums());
            }
            if is_star && !batch.is_bad(row) && self.positions.is_for_stars(position) {
                chosen.stars.push(&batch, row, InputJacobian::NotWanted);
            }
        }
        self.context.progress.advance(batch.n_rows() as u64);
        Ok(())
    }
}

/// What the comparison needs beside the rows.
struct Subsetting {
    context: Arc<Context>,
    references: References,
    prior_precisions: Vec<f64>,
    in_sums: u64,
    noise: Vec<f64>,
}

impl Subsetting {
    /// What the comparison takes in memory, it takes in place of the spectra that are kept.
    fn compare(&self, chosen: &Chosen) -> Result<Compared, RunError> {
        let catalogue = &self.context.fit.catalogue;
        catalogue.keep(0);
        let compared = self.compared(chosen).and_then(|found| {
            if self.context.job.certificate.full_pass {
                keep(&self.context, &found)?;
            }
            Ok(found)
        });
        catalogue.keep(self.context.job.compute.kept_spectra);
        compared
    }

    fn compared(&self, chosen: &Chosen) -> Result<Compared, RunError> {
        let context = &self.context;
        let stars = chosen.stars.differentiate(context)?.1.captures;
        let mut found = Compared {
            probes: vec![Vec::new(); context.blocks.len()],
            ..Compared::default()
        };
        if context.job.certificate.full_pass && context.job.curvature.kind != CurvatureKind::Hessian {
            let some = evenly(&stars, chosen.stars.n, PROBED)?;
            for ((probes, plan), precision) in found
                .probes
                .iter_mut()
                .zip(&context.blocks)
                .zip(context.posterior()?.iter())
            {
                if plan
                    .shapes
                    .iter()
                    .all(|shape| WeightJacobian::check_layer(shape).is_ok())
                {
                    *probes = precision.probes(plan, &some)?;
                }
            }
        }
        if context.job.certificate.compares() && chosen.training.n > 0 {
            self.compare_training(&chosen.training, &stars, &mut found)?;
        }
        Ok(found)
    }

    fn compare_training(&self, rows: &Rows, stars: &[LayerCapture], found: &mut Compared) -> Result<(), RunError> {
        let (context, kind) = (&self.context, self.context.job.curvature.kind);
        let (forward, backward) = rows.differentiate(context)?;
        let errors = rows.label_errors(context, &self.noise, &backward)?;
        let captures = backward.captures;
        let precision = LabelPrecision::per_spectrum(&self.noise, errors.as_deref(), rows.n)?;
        let scale = &context.network.labels().scale;
        let predicted = forward.labels(&context.network)?;
        let residuals: Vec<f64> = rows
            .labels
            .iter()
            .zip(&predicted)
            .zip(scale.iter().cycle())
            .map(|((label, predicted), scale)| (label - predicted) / scale)
            .collect();

        let of_loss = of_loss(kind, &captures, &precision, &residuals)?;
        let summed = of_loss
            .as_ref()
            .map_or((&captures[..], &precision), |(captures, one)| (&captures[..], one));
        let (references, _) = references_of(context, &self.references);
        let subset = Subset {
            shapes: context.network.dense_layers(),
            plans: &context.blocks,
            prior_precisions: &self.prior_precisions,
            training: (&captures, &precision),
            summed,
            references: &references,
            stars,
            threads: context.cores,
        };
        let posterior = context.posterior()?;
        let own = (rows.n as u64 == self.in_sums).then_some(posterior.as_slice());
        if own.is_none() && kind == CurvatureKind::Hessian {
            found.not_compared = Some(format!(
                "the true Hessian of a subset may be indefinite: raise certificate.spectra to all {}",
                self.in_sums
            ));
        } else if own.is_none()
            && context
                .blocks
                .iter()
                .any(|plan| plan.structure == StructureKind::LowRank)
        {
            found.not_compared = Some(format!(
                "low_rank layers are not compared on a subset: raise certificate.spectra to all {}",
                self.in_sums
            ));
        } else {
            match subset.compare(own, &context.job.certificate.compare) {
                Ok(comparison) => found.comparison = Some(comparison),
                // The comparison is impossible; the run itself is not.
                Err(
                    error @ (PosteriorError::Prior { .. }
                    | PosteriorError::DualPrior { .. }
                    | PosteriorError::Cancelled { .. }
                    | PosteriorError::Singular { .. }
                    | PosteriorError::SingularSpectrum { .. }
                    | PosteriorError::Curvature(CurvatureError::SharedRows { .. })),
                ) => found.not_compared = Some(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        let steps = context.job.certificate.hessian_steps;
        if steps > 0 && !rows.labels.is_empty() {
            found.curvature = Some(self.negative_curvature((&forward, &captures), &precision, &residuals, steps)?);
        }
        Ok(())
    }

    /// Of the true Hessian of the subset, scaled to the number of all training spectra, plus the prior precision.
    fn negative_curvature(
        &self,
        spectra: (&Forward, &[LayerCapture]),
        precision: &LabelPrecision,
        residuals: &[f64],
        steps: usize,
    ) -> Result<CurvatureShare, RunError> {
        let network = &self.context.network;
        let (layers, shapes) = (
            (0..network.dense_layers().len()).collect::<Vec<_>>(),
            network.dense_layers(),
        );
        let scale = self.in_sums as f64 / precision.batch() as f64;
        let mut deltas = vec![0.0; shapes.len()];
        for (plan, &delta) in self.context.blocks.iter().zip(&self.prior_precisions) {
            plan.layers.iter().for_each(|&layer| deltas[layer] = delta);
        }
        let prior: Vec<f64> = shapes
            .iter()
            .zip(&deltas)
            .flat_map(|(shape, &delta)| std::iter::repeat_n(delta, shape.n_weights()))
            .collect();
        let rounding = network.arithmetic().precision.relative_rounding();
        curvature_share((scale, &prior), steps, rounding, |v| {
            let directions = WeightDirections::new(&layers, shapes, v, &network.arithmetic())?;
            let mut sums = ProductSums::empty(&layers, shapes, 1);
            add_hessian_products(network, spectra, precision, residuals, &directions, &mut sums)?;
            Ok(sums.products()?)
        })
    }
}

/// Of [`Compared`] all but the probes, and how many of these each block has.
type Kept = (Option<Comparison>, Option<String>, Option<CurvatureShare>, Vec<usize>);

/// What is kept is called by the run alone: it is taken back with the posterior that it is of.
fn name(context: &Context) -> String {
    PassInputs::of_run(context, SUBSET).digest()[..32].to_owned()
}

/// Keeps what was found; the probes as numbers.
fn keep(context: &Context, found: &Compared) -> Result<(), RunError> {
    let store = context.groups_that_serve(Serves::ThisRun);
    let arrays = (0..).zip(found.probes.iter().flatten()).map(|(key, probe)| GroupArray {
        key,
        purpose: Purpose::Keep,
        n_spectra: 1,
        values: probe.to_numbers(),
    });
    let of_blocks: Vec<usize> = found.probes.iter().map(Vec::len).collect();
    let rest = serde_json::to_value((&found.comparison, &found.not_compared, &found.curvature, of_blocks));
    let rest = rest.map_err(|error| RunError::Internal(error.to_string()))?;
    let attempt = format!("{:016x}", rand::random::<u64>());
    let what = (arrays.collect(), Vec::new(), rest);
    store.commit(SUBSET, &name(context), &attempt, 0, what, || ())?.wait()?;
    store.release();
    Ok(())
}

/// What an earlier try kept, if it is there.
fn kept(context: &Context) -> Result<Option<Compared>, RunError> {
    let (store, name) = (context.groups_that_serve(Serves::ThisRun), name(context));
    let mut finished = store.finished(SUBSET, &BTreeSet::from([name.clone()]))?;
    let Some(record) = finished.remove(&name) else {
        return Ok(None);
    };
    let Ok((comparison, not_compared, curvature, of_blocks)) = serde_json::from_value::<Kept>(record.found.clone())
    else {
        // JSON has no word for what is not a number: it is made again.
        return Ok(None);
    };
    let mut all = Vec::with_capacity(record.arrays.len());
    for array in &record.arrays {
        let slices = record.slices(array.key).unwrap_or_default();
        let probe = Probe::from_numbers(&store.read(SUBSET, slices).concat()?);
        all.push(probe.ok_or_else(|| RunError::Internal("what is kept of a probe is none".into()))?);
    }
    let mut all = all.into_iter();
    let probes = of_blocks.into_iter().map(|n| all.by_ref().take(n).collect());
    Ok(Some(Compared {
        comparison,
        not_compared,
        curvature,
        probes: probes.collect(),
    }))
}

/// The captures of at most `wanted` of `n` spectra, evenly spaced.
fn evenly(captures: &[LayerCapture], n: usize, wanted: usize) -> Result<Vec<LayerCapture>, RunError> {
    let count = wanted.min(n);
    let rows: Vec<u32> = (0..count).map(|at| (at * n / count) as u32).collect();
    super::differentiated::select(captures, &rows)
}
