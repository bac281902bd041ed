//! Training a network on a catalogue: what a run calls held out is what training calls validation.

use fisherflow_network::train::{Epoch, Recipe, TrainingReport, TrainingSet, train as fit_network};
use fisherflow_network::{Arithmetic, Labels};
use fisherflow_posterior::LabelEnds;
use fisherflow_spectra::{
    InputRange, PixelPopulation, PixelSums, RowFlags, SpectraError, SpectrumBatch, is_held_out, plan_groups,
};
use fisherflow_store::{Catalogue, StoreOptions, Stores};

use crate::bad_rows::BadRows;
use crate::error::RunError;
use crate::job::{CatalogueSource, ExistingOutput};
use crate::passes::differentiated::impute;

/// Spectra decoded at a time.
const BATCH: usize = 512;
/// Bytes of decoded spectra read ahead.
const PREFETCH_BYTES: usize = 64 << 20;
/// What a flux may be whatever the others are: in f32 sums of squares must be finite.
const MOST: f64 = 1e18;

/// A network to be trained: the `[train]` table with the tables around it, resolved.
#[derive(Clone, Debug)]
pub struct TrainJob {
    /// Where the trained network is written.
    pub network: String,
    /// What to do where a network is there.
    pub existing_network: ExistingOutput,
    /// Names of the labels.
    pub label_names: Vec<String>,
    /// Units of the labels, empty where a label has none.
    pub label_units: Vec<String>,
    /// The training set and, by the holdout rule, the validation set.
    pub catalogue: CatalogueSource,
    /// Share of the catalogue in the validation set, by hash of id or of the hold-out group.
    pub holdout_fraction: f64,
    /// How many times as far from 0 as the farthest flux of a typical held-out spectrum a flux must be for its spectrum to be left out.
    pub farthest_input: f64,
    /// Layers, optimiser, epochs, seed.
    pub recipe: Recipe,
    /// Arithmetic of the products.
    pub arithmetic: Arithmetic,
    /// Credentials and endpoints of the object stores.
    pub store: StoreOptions,
}

/// What a training did.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Spectra trained on.
    pub training: u64,
    /// Spectra of the validation set.
    pub validation: u64,
    /// Spectra left out: bad, or without all their labels.
    pub left_out: u64,
    /// What is wrong with those that are bad, in words; `None` where none is.
    pub bad_rows: Option<String>,
    /// Weights of the network.
    pub n_weights: u64,
    /// Epochs and losses.
    pub report: TrainingReport,
}

/// Trains a network on a catalogue, in memory and in this process alone, and writes it.
///
/// # Errors
/// A network that is there already, a catalogue that cannot be used, a recipe that makes no sense, a loss that becomes infinite.
pub fn train(job: &TrainJob, progress: &mut dyn FnMut(Epoch)) -> Result<Trained, RunError> {
    let stores = Stores::new(job.store.clone(), 2)?;
    let overwrite = job.existing_network == ExistingOutput::Overwrite;
    stores.check_new(&job.network, overwrite)?;
    let source = &job.catalogue;
    let catalogue =
        Catalogue::open(&stores, &source.uri, &source.columns, source.on_bad_object)?.excluding(&source.exclude)?;
    let range = input_range(job, &catalogue)?;
    let population = population(job, &catalogue, &range)?;
    let (mut training, mut validation) = (empty(&catalogue), empty(&catalogue));
    let (mut left_out, mut bad_rows) = (0, BadRows::default());
    for_each_batch(&catalogue, Some(&range), |mut batch| {
        impute(population.as_ref(), &mut batch)?;
        for row in 0..batch.n_rows() {
            if !batch.is_labelled(row) {
                bad_rows.add(&batch, row, batch.flags[row], RowFlags::BAD);
                left_out += 1;
            } else if is_held_out(batch.holdout[row], job.holdout_fraction) {
                push(&mut validation, &batch, row);
            } else {
                push(&mut training, &batch, row);
            }
        }
        Ok(())
    })?;
    if training.n_spectra == 0 {
        return Err(RunError::Refused(format!(
            "no spectrum of {} can be trained on: {left_out} are left out ({}) and {} held out for validation; mend these, or lower \
             noise.holdout_fraction",
            source.uri,
            if bad_rows.is_empty() {
                "without all labels".to_owned()
            } else {
                bad_rows.to_string()
            },
            validation.n_spectra
        )));
    }
    warn_of_strays(&job.label_names, &[&training, &validation]);
    let labels = Labels::unscaled(job.label_names.clone(), job.label_units.clone());
    let (network, report) = fit_network(&training, &validation, &job.recipe, labels, job.arithmetic, progress)?;
    stores.write_new(&job.network, network.to_safetensors()?, overwrite)?;
    Ok(Trained {
        training: training.n_spectra as u64,
        validation: validation.n_spectra as u64,
        left_out,
        bad_rows: (!bad_rows.is_empty()).then(|| bad_rows.to_string()),
        n_weights: network.n_weights() as u64,
        report,
    })
}

/// Missing labels that are written as numbers would be learnt as any other.
fn warn_of_strays(names: &[String], sets: &[&TrainingSet]) {
    for (label, name) in names.iter().enumerate() {
        let values = sets
            .iter()
            .flat_map(|set| set.labels.iter().skip(label).step_by(names.len()));
        let ends = LabelEnds::of(values.copied());
        if let Some(stray) = ends.stray() {
            tracing::warn!(
                "label {name}: of {} spectra, {stray}: a missing label must be null, else the network learns it",
                ends.n_spectra()
            );
        }
    }
}

/// How far from 0 a flux may be, by what held-out spectra have: as a run has it of the network's inputs, whose mean and scale are not known yet.
fn input_range(job: &TrainJob, catalogue: &Catalogue) -> Result<InputRange, RunError> {
    let pixels = catalogue.n_pixels();
    let mut range = InputRange {
        mean: vec![0.0; pixels],
        scale: vec![1.0; pixels],
        limit: f64::INFINITY,
    };
    let mut farthest = Vec::new();
    for_each_batch(catalogue, None, |batch| {
        let of_rows = range.farthest(&batch).into_iter().zip(&batch.holdout);
        let held_out = of_rows.filter(|(_, hash)| is_held_out(**hash, job.holdout_fraction));
        farthest.extend(held_out.map(|(farthest, _)| farthest));
        Ok(())
    })?;
    let limit = InputRange::limit_by(farthest, job.farthest_input);
    range.limit = limit.map_or(MOST, |limit| limit.min(MOST));
    Ok(range)
}

/// What a masked pixel is replaced with, by the rule of a run: the mean over held-out spectra.
fn population(job: &TrainJob, catalogue: &Catalogue, range: &InputRange) -> Result<Option<PixelPopulation>, RunError> {
    let mut sums = PixelSums::new(catalogue.n_pixels());
    for_each_batch(catalogue, Some(range), |batch| {
        let held_out = (0..batch.n_rows()).filter(|&row| is_held_out(batch.holdout[row], job.holdout_fraction));
        Ok(sums.accumulate(&batch, held_out)?)
    })?;
    match sums.finish() {
        Err(SpectraError::NoPopulation { .. }) => Ok(None),
        population => Ok(Some(population?)),
    }
}

/// Every batch of the catalogue, spectra out of range flagged.
fn for_each_batch(
    catalogue: &Catalogue,
    range: Option<&InputRange>,
    mut visit: impl FnMut(SpectrumBatch) -> Result<(), RunError>,
) -> Result<(), RunError> {
    for group in plan_groups(catalogue.shards().iter().cloned(), u64::MAX, catalogue.folder()) {
        for batch in catalogue.fetch(&group, BATCH, PREFETCH_BYTES) {
            let mut batch = batch?;
            if let Some(range) = range {
                range.flag(&mut batch);
            }
            visit(batch)?;
        }
    }
    Ok(())
}

fn empty(catalogue: &Catalogue) -> TrainingSet {
    TrainingSet {
        n_pixels: catalogue.n_pixels(),
        ..TrainingSet::default()
    }
}

fn push(set: &mut TrainingSet, batch: &SpectrumBatch, row: usize) {
    let (d, k) = (batch.n_pixels, batch.n_labels);
    set.n_spectra += 1;
    set.flux
        .extend(batch.flux[row * d..(row + 1) * d].iter().map(|flux| *flux as f32));
    set.labels.extend_from_slice(&batch.labels[row * k..(row + 1) * k]);
}
