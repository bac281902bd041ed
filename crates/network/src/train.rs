//! Training: Adam on the mean squared error of normalised labels, in mini-batches, with early stopping.
//!
//! The loss is the mean over spectra and labels of `(f - label)^2`, as Keras' and torch's `mse`. The same seed, data and recipe give the
//! same weights, bit for bit, for any number of threads.

use candle_core::{DType, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::arithmetic::{Arithmetic, Precision};
use crate::backward::InputJacobian;
use crate::error::NetworkError;
use crate::labels::Labels;
use crate::layers::activation::Activation;
use crate::layers::dense::Dense;
use crate::network::Network;
use crate::training::adam::{Adam, Rates};
pub use crate::training::training_set::TrainingSet;

/// Spectra a forward pass where no gradient is wanted.
const VALIDATION_BATCH: usize = 512;

/// How to train.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Widths of the hidden layers, from the input on; empty for a linear network.
    pub hidden: Vec<usize>,
    /// After every hidden layer.
    pub activation: Activation,
    /// Passes over the training set, at most; 0 gives the network as it is initialised.
    pub epochs: usize,
    /// Spectra a step.
    pub batch: usize,
    /// Adam's step.
    pub learning_rate: f64,
    /// Adam's decay of the gradient's mean, in `[0, 1)`.
    pub beta_1: f64,
    /// Adam's decay of the mean of the gradient's square, in `[0, 1)`.
    pub beta_2: f64,
    /// What Adam adds to the root of the mean square.
    pub epsilon: f64,
    /// Epochs without a better loss before training stops, at least 1; `None`: never.
    pub patience: Option<usize>,
    /// Seed of the weights and of the order of spectra.
    pub seed: u64,
}

impl Default for Recipe {
    /// One hidden layer of 64 relu units; Adam as Keras sets it, but with epsilon 1e-8.
    fn default() -> Self {
        Self {
            hidden: vec![64],
            activation: Activation::Relu,
            epochs: 100,
            batch: 64,
            learning_rate: 1e-3,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            patience: None,
            seed: 0,
        }
    }
}

/// One finished epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// How many there will be at most.
    pub epochs: usize,
    /// Mean loss over the epoch's batches, each before its step.
    pub train_loss: f64,
    /// Loss of the validation set after the epoch; `None` where that set is empty.
    pub validation_loss: Option<f64>,
    /// Whether the weights are the best so far.
    pub improved: bool,
}

/// How training went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingReport {
    /// Epochs run.
    pub epochs: usize,
    /// The epoch whose weights were kept; 0 for the weights of the initialisation.
    pub best_epoch: usize,
    /// Training loss in that epoch; `None` where no epoch was run.
    pub train_loss: Option<f64>,
    /// Validation loss of the weights kept; `None` where the validation set is empty.
    pub validation_loss: Option<f64>,
    /// Whether training stopped for want of patience.
    pub stopped_early: bool,
    /// The epoch in which the loss was no number any more, where better weights were held by then: training ended there.
    pub diverged: Option<usize>,
}

/// Trains a network, and gives back the weights of the epoch with the smallest validation loss (training loss, where the validation set is
/// empty). `labels` says names and units; means and scales, of the input too, are found from the training set.
///
/// # Errors
/// Sets or a recipe that make no sense, values that are not finite, and a loss that becomes infinite before the validation loss was below that of the
/// initialisation.
pub fn train(
    training: &TrainingSet,
    validation: &TrainingSet,
    recipe: &Recipe,
    labels: Labels,
    arithmetic: Arithmetic,
    progress: &mut dyn FnMut(Epoch),
) -> Result<(Network, TrainingReport), NetworkError> {
    recipe.check(arithmetic.precision)?;
    let n_labels = labels.len();
    if training.n_spectra == 0 || training.n_pixels == 0 || n_labels == 0 {
        return Err(NetworkError::EmptyTrainingSet);
    }
    training.check("training", training.n_pixels, n_labels)?;
    if validation.n_spectra > 0 {
        validation.check("validation", training.n_pixels, n_labels)?;
    }
    let (input_mean, input_scale) = training.input_normalisation();
    let (mean, scale) = training.label_normalisation(n_labels);
    let labels = Labels { mean, scale, ..labels };
    let widths: Vec<usize> = [training.n_pixels]
        .into_iter()
        .chain(recipe.hidden.iter().copied())
        .chain([n_labels])
        .collect();
    let network = Network::he_normal(
        &widths,
        recipe.activation,
        labels,
        &input_mean,
        &[input_scale],
        recipe.seed,
        arithmetic,
    )?;
    descend(network, training, validation, recipe, progress)
}

/// Steps down from where `network` is, whose weights are moved in place.
fn descend(
    network: Network,
    training: &TrainingSet,
    validation: &TrainingSet,
    recipe: &Recipe,
    progress: &mut dyn FnMut(Epoch),
) -> Result<(Network, TrainingReport), NetworkError> {
    let targets = network.labels().to_outputs(&training.labels);
    let validation_targets = network.labels().to_outputs(&validation.labels);
    let validation_loss = |network: &Network| -> Result<Option<f64>, NetworkError> {
        if validation.n_spectra == 0 {
            Ok(None)
        } else {
            loss(network, validation, &validation_targets).map(Some)
        }
    };

    let mut report = TrainingReport {
        epochs: 0,
        best_epoch: 0,
        train_loss: None,
        validation_loss: None,
        stopped_early: false,
        diverged: None,
    };
    let at_first = validation_loss(&network)?;
    if recipe.epochs == 0 {
        report.validation_loss = at_first;
        return Ok((network, report));
    }
    let mut adam = Adam::new(&network, recipe.rates());
    let mut order: Vec<usize> = (0..training.n_spectra).collect();
    let mut shuffling = ChaCha8Rng::seed_from_u64(recipe.seed);
    shuffling.set_stream(1); // stream 0 drew the weights
    let mut best_loss = f64::INFINITY;
    let mut best_weights = Vec::new();
    for epoch in 1..=recipe.epochs {
        order.shuffle(&mut shuffling);
        let mut squares = 0.0;
        for rows in order.chunks(recipe.batch) {
            squares += step(&network, &mut adam, training, &targets, rows)?;
        }
        let train_loss = squares / targets.len() as f64;
        let validation_loss = validation_loss(&network)?;
        let decisive = validation_loss.unwrap_or(train_loss);
        if !(decisive.is_finite() && train_loss.is_finite()) {
            // Of spectra that no step was made on: those of training say nothing yet of the weights that an epoch ends with.
            if at_first.is_some_and(|at_first| best_loss < at_first) {
                report.diverged = Some(epoch);
                break;
            }
            return Err(NetworkError::Diverged {
                epoch,
                loss: if train_loss.is_finite() { decisive } else { train_loss },
            });
        }
        let improved = decisive < best_loss;
        if improved {
            best_loss = decisive;
            best_weights = copied_weights(&network)?;
            report.best_epoch = epoch;
            report.train_loss = Some(train_loss);
            report.validation_loss = validation_loss;
        }
        report.epochs = epoch;
        progress(Epoch {
            epoch,
            epochs: recipe.epochs,
            train_loss,
            validation_loss,
            improved,
        });
        if recipe
            .patience
            .is_some_and(|patience| epoch - report.best_epoch >= patience)
        {
            report.stopped_early = epoch < recipe.epochs;
            break;
        }
    }
    let diverged = |loss| NetworkError::Diverged {
        epoch: report.best_epoch,
        loss,
    };
    // A relu makes a 0 of what is not a number: what comes out may be finite and the weights not.
    if !are_finite(&best_weights)? {
        return Err(diverged(f64::NAN));
    }
    let network = network.with_weights(best_weights);
    // The losses of the last epoch's batches are those before its steps: what the kept weights give is not known yet.
    if validation.n_spectra == 0 {
        let of_kept = loss(&network, training, &targets)?;
        if !of_kept.is_finite() {
            return Err(diverged(of_kept));
        }
    }
    Ok((network, report))
}

impl Recipe {
    fn rates(&self) -> Rates {
        Rates {
            learning_rate: self.learning_rate,
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: self.epsilon,
        }
    }

    /// Whether it can be followed. Steps are made in the type of the weights: what the numbers are there counts.
    ///
    /// # Errors
    /// [`NetworkError::Recipe`] for the first setting that is out of range.
    pub fn check(&self, precision: Precision) -> Result<(), NetworkError> {
        let is_narrow = precision.dtype() == DType::F32;
        let refused = |what, value: String, remedy| Err(NetworkError::Recipe { what, value, remedy });
        if self.batch == 0 {
            return refused("batch", "0".to_owned(), "it must be at least 1");
        }
        if self.patience == Some(0) {
            return refused("patience", "0".to_owned(), "it must be at least 1, or left out");
        }
        if self.hidden.contains(&0) {
            return refused("hidden", format!("{:?}", self.hidden), "every width must be at least 1");
        }
        for (what, value) in [("learning_rate", self.learning_rate), ("epsilon", self.epsilon)] {
            if !(value.is_finite() && value > 0.0) {
                return refused(what, value.to_string(), "it must be a finite number above 0");
            }
            let narrow = value as f32;
            if is_narrow && !(narrow.is_finite() && narrow > 0.0) {
                let remedy =
                    "training in f32 rounds it to 0 or to infinity: take one from 1e-37 to 1e38, or train in f64";
                return refused(what, format!("{value:?}"), remedy);
            }
        }
        for (what, value) in [("beta_1", self.beta_1), ("beta_2", self.beta_2)] {
            if !(0.0..1.0).contains(&value) {
                return refused(what, value.to_string(), "it must be from 0 to below 1");
            }
            if is_narrow && value as f32 >= 1.0 {
                let remedy = "training in f32 rounds it to 1: take 0.9999999 or less, or train in f64";
                return refused(what, format!("{value:?}"), remedy);
            }
        }
        Ok(())
    }
}

/// One step on the given rows; the sum of squared residuals before it.
fn step(
    network: &Network,
    adam: &mut Adam,
    set: &TrainingSet,
    targets: &[f64],
    rows: &[usize],
) -> Result<f64, NetworkError> {
    let n_labels = network.n_labels();
    let forward = network.forward(&gathered(set, rows.iter().copied()))?;
    let wanted: Vec<f64> = rows
        .iter()
        .flat_map(|row| &targets[row * n_labels..(row + 1) * n_labels])
        .copied()
        .collect();
    let residuals = residuals(forward.output(), &wanted)?;
    let per_value = 2.0 / residuals.len() as f64;
    let seeds: Vec<f64> = residuals.iter().map(|r| per_value * r).collect();
    let seeds = Tensor::from_vec(seeds, (1, rows.len(), n_labels), &network.arithmetic().device())?;
    let seeds = seeds.to_dtype(network.arithmetic().precision.dtype())?;
    let captures = network.vjp(&forward, &seeds, InputJacobian::NotWanted)?.captures;
    adam.step(network, &captures)?;
    Ok(residuals.iter().map(|r| r * r).sum())
}

/// The mean of squared residuals over a set.
fn loss(network: &Network, set: &TrainingSet, targets: &[f64]) -> Result<f64, NetworkError> {
    let n_labels = network.n_labels();
    let mut squares = 0.0;
    for start in (0..set.n_spectra).step_by(VALIDATION_BATCH) {
        let end = (start + VALIDATION_BATCH).min(set.n_spectra);
        let forward = network.forward(&gathered(set, start..end))?;
        let residuals = residuals(forward.output(), &targets[start * n_labels..end * n_labels])?;
        squares += residuals.iter().map(|r| r * r).sum::<f64>();
    }
    Ok(squares / targets.len() as f64)
}

/// `f - target`, in normalised units, `[batch * K]`.
fn residuals(output: &Tensor, targets: &[f64]) -> Result<Vec<f64>, NetworkError> {
    let output = output.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    Ok(output.iter().zip(targets).map(|(f, y)| f - y).collect())
}

/// Some spectra of a set, `[rows * D]`.
fn gathered(set: &TrainingSet, rows: impl Iterator<Item = usize>) -> Vec<f64> {
    let of_row = |row: usize| &set.flux[row * set.n_pixels..(row + 1) * set.n_pixels];
    rows.flat_map(of_row).map(|flux| f64::from(*flux)).collect()
}

/// Whether all weights and biases are finite.
fn are_finite(weights: &[Dense]) -> Result<bool, NetworkError> {
    for dense in weights {
        for tensor in std::iter::once(&dense.weight).chain(&dense.bias) {
            let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            if !values.iter().all(|value| value.is_finite()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Weights and biases of all layers, which later steps leave alone.
fn copied_weights(network: &Network) -> Result<Vec<Dense>, NetworkError> {
    network
        .dense_iter()
        .map(|dense| {
            let bias = dense.bias.as_ref().map(Tensor::copy).transpose()?;
            Ok(Dense::new(dense.weight.copy()?, bias))
        })
        .collect()
}
