//! `[train]`: the recipe of `fisherflow train`, whose result is written to `network.uri`.
//!
//! The validation split is the holdout of `[noise]`: `holdout_fraction` of the stars, by hash of id or of `holdout_group`.

use fisherflow_network::train::Recipe;
use fisherflow_network::{Activation, LayerSpec};

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;

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

/// Reads the table; what it does not say is as [`Recipe::default`] has it, but for `hidden` and `epochs`, which must be said.
///
/// # Errors
/// Missing or wrong values.
pub fn read(table: &Table<'_>) -> Result<Recipe, RunFileError> {
    let need = |key: &str, remedy: &str| table.get(key).ok_or_else(|| table.missing(key, remedy));
    let mut recipe = Recipe {
        hidden: need("hidden", "write hidden = [64, 32]: sizes of the hidden layers")?
            .array("an array of layer sizes")?
            .iter()
            .map(|e| e.count(1))
            .collect::<Result<_, _>>()?,
        epochs: need(
            "epochs",
            "write epochs = 100: at most so many passes over the training set",
        )?
        .count(0)?,
        ..Recipe::default()
    };
    if let Some(e) = table.get("activation") {
        recipe.activation = activation(&e)?;
    }
    if let Some(e) = table.get("batch") {
        recipe.batch = e.count(1)?;
    }
    if let Some(e) = table.get("patience") {
        recipe.patience = Some(e.count(1)?);
    }
    if let Some(e) = table.get("seed") {
        recipe.seed = e.integer(0)?;
    }
    for (key, value) in [
        ("learning_rate", &mut recipe.learning_rate),
        ("epsilon", &mut recipe.epsilon),
    ] {
        *value = within(table, key, *value, f64::MIN_POSITIVE, f64::INFINITY)?;
    }
    for (key, value) in [("beta_1", &mut recipe.beta_1), ("beta_2", &mut recipe.beta_2)] {
        *value = within(table, key, *value, 0.0, 1.0)?;
    }
    Ok(recipe)
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
    let expected = if high.is_finite() {
        "from 0 to below 1"
    } else {
        "above 0"
    };
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
