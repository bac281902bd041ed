//! `[train]`: the recipe of `fisherflow train`, whose result is written to `network.uri`.
//!
//! The validation split is the holdout of `[noise]`: `holdout_fraction` of the stars, by hash of id or of `holdout_group`.

use fisherflow_network::{Activation, LayerSpec};

use super::error::RunFileError;
use super::table::{Entry, Table};

/// Keys of `[train]`.
pub const KEYS: &[&str] = &[
    "hidden",
    "activation",
    "epochs",
    "batch",
    "learning_rate",
    "beta_1",
    "beta_2",
    "epsilon",
    "patience",
    "seed",
];

/// `[train]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainTable {
    /// Sizes of the hidden layers, from the input; empty for a linear network.
    pub hidden: Vec<usize>,
    /// After every hidden layer.
    pub activation: Activation,
    /// At most so many passes over the training set; 0 leaves the network as initialised.
    pub epochs: usize,
    /// Spectra a step.
    pub batch: usize,
    /// Adam's step.
    pub learning_rate: f64,
    /// Adam's decay of the first moment.
    pub beta_1: f64,
    /// Adam's decay of the second moment.
    pub beta_2: f64,
    /// Adam's divisor floor.
    pub epsilon: f64,
    /// Epochs without a better validation loss before training stops; `None`: never.
    pub patience: Option<usize>,
    /// Of the initial weights and the order of spectra.
    pub seed: u64,
}

impl TrainTable {
    /// Reads the table. Defaults: relu, batch 64, Adam with learning rate 1e-3, beta_1 0.9, beta_2 0.999 and epsilon 1e-8, no early
    /// stopping, seed 0.
    ///
    /// # Errors
    /// Missing or wrong values.
    pub fn read(table: &Table<'_>) -> Result<Self, RunFileError> {
        let hidden = table
            .get("hidden")
            .ok_or_else(|| table.missing("hidden", "write hidden = [64, 32]: sizes of the hidden layers"))?
            .array("an array of layer sizes")?
            .iter()
            .map(|e| e.count(1))
            .collect::<Result<_, _>>()?;
        let epochs = table
            .get("epochs")
            .ok_or_else(|| table.missing("epochs", "write epochs = 100: at most so many passes over the training set"))?
            .count(0)?;
        let share = |key, default| within(table, key, default, 0.0, 1.0);
        let above_zero = |key, default| within(table, key, default, f64::MIN_POSITIVE, f64::INFINITY);
        Ok(Self {
            hidden,
            activation: match table.get("activation") {
                Some(e) => activation(&e)?,
                None => Activation::Relu,
            },
            epochs,
            batch: table.get("batch").map_or(Ok(64), |e| e.count(1))?,
            learning_rate: above_zero("learning_rate", 1e-3)?,
            beta_1: share("beta_1", 0.9)?,
            beta_2: share("beta_2", 0.999)?,
            epsilon: above_zero("epsilon", 1e-8)?,
            patience: table.get("patience").map(|e| e.count(1)).transpose()?,
            seed: table.get("seed").map_or(Ok(0), |e| e.integer(0))?,
        })
    }
}

/// A number from `low` to below `high`.
fn within(table: &Table<'_>, key: &str, default: f64, low: f64, high: f64) -> Result<f64, RunFileError> {
    let Some(entry) = table.get(key) else {
        return Ok(default);
    };
    let x = entry.number()?;
    if x >= low && x < high {
        return Ok(x);
    }
    let expected = if high.is_finite() { "from 0 to below 1" } else { "above 0" };
    Err(entry.invalid(format!("is {x}, expected a number {expected}")))
}

/// An activation by name.
fn activation(entry: &Entry<'_>) -> Result<Activation, RunFileError> {
    match entry.string()?.parse::<LayerSpec>() {
        Ok(LayerSpec::Activation(a)) => Ok(a),
        Ok(other) => Err(entry.invalid(format!("is \"{other}\", expected an activation, as \"relu\""))),
        Err(e) => Err(entry.invalid(format!("is not an activation: {e}"))),
    }
}
