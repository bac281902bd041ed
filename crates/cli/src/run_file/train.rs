//! `[train]`: the recipe of `fisherflow train`, whose result is written to `network.uri`.
//!
//! The validation split is the holdout of `[noise]`: `holdout_fraction` of the stars, by hash of id or of `holdout_group`.

use fisherflow_network::train::Recipe;
use fisherflow_network::{Activation, LayerSpec, NetworkError, Precision};

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

/// More units than any layer of spectra has.
const WIDEST: usize = 1 << 24;

/// Reads the table; what it does not say is as [`Recipe::default`] has it, but for `hidden` and `epochs`, which must be said. `precision`: of the
/// weights' steps.
///
/// # Errors
/// Missing or wrong values, and those that are out of range in that precision.
pub fn read(table: &Table<'_>, precision: Precision) -> Result<Recipe, RunFileError> {
    let need = |key: &str, remedy: &str| table.get(key).ok_or_else(|| table.missing(key, remedy));
    let mut recipe = Recipe {
        hidden: need("hidden", "write hidden = [64, 32]: sizes of the hidden layers")?
            .array("an array of layer sizes")?
            .iter()
            .map(|e| match e.count(1)? {
                width if width > WIDEST => Err(e.invalid(format!("is {width}: a layer has at most {WIDEST} units"))),
                width => Ok(width),
            })
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
        ("beta_1", &mut recipe.beta_1),
        ("beta_2", &mut recipe.beta_2),
        ("epsilon", &mut recipe.epsilon),
    ] {
        if let Some(e) = table.get(key) {
            *value = e.number()?;
        }
    }
    recipe.check(precision).map_err(|error| out_of_range(table, error))?;
    Ok(recipe)
}

/// The error of a recipe that cannot be followed, at the key that it names.
fn out_of_range(table: &Table<'_>, error: NetworkError) -> RunFileError {
    let (key, problem) = match error {
        NetworkError::Recipe { what, value, remedy } => (what, format!("is {value}; {remedy}")),
        other => ("", other.to_string()),
    };
    match table.get(key) {
        Some(entry) => entry.invalid(problem),
        None => table.missing(key, problem),
    }
}

/// An activation by name.
fn activation(entry: &Entry<'_>) -> Result<Activation, RunFileError> {
    match entry.string()?.parse::<LayerSpec>() {
        Ok(LayerSpec::Activation(a)) => Ok(a),
        Ok(other) => Err(entry.invalid(format!("is \"{other}\", expected an activation, as \"relu\""))),
        Err(e) => Err(entry.invalid(format!("is not an activation: {e}"))),
    }
}
