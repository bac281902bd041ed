//! `[train]` and the tables around it into a [`Training`].

use fisherflow_dataflow::{CatalogueSource, ExistingOutput};
use fisherflow_network::Arithmetic;
use fisherflow_store::StoreOptions;

use crate::args::TrainArgs;
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::run_file::{Folder, RunFile, RunFileError, TrainTable};

use super::{existing, job, object_store};

/// A network to be trained.
#[derive(Debug)]
pub struct Training {
    /// Where the trained network is written.
    pub network: String,
    /// What to do where a network is there.
    pub existing_network: ExistingOutput,
    /// Names of the labels: as the run file calls them, or the catalogue's columns.
    pub label_names: Vec<String>,
    /// Units of the labels, empty where a label has none.
    pub label_units: Vec<String>,
    /// The training set and, by the holdout, the validation set.
    pub catalogue: CatalogueSource,
    /// Share of the catalogue in the validation set, by hash of id; in `(0, 1)`.
    pub holdout_fraction: f64,
    /// The recipe.
    pub recipe: TrainTable,
    /// Arithmetic, and the threads that it may use.
    pub arithmetic: Arithmetic,
    /// Credentials and endpoints.
    pub store: StoreOptions,
}

/// The training of a run file whose paths start from `folder`.
///
/// # Errors
/// The file has no `[train]`, no labels, no holdout, or says of the network what training finds out.
pub fn training(
    run_file: &RunFile,
    folder: &Folder,
    args: &TrainArgs,
    environment: &Environment,
) -> Result<Training, CliError> {
    let recipe = run_file.train()?.clone();
    let network = &run_file.network;
    let found_out = [
        ("network.layers", network.layers.is_some()),
        ("network.input_mean", network.input_mean.is_some()),
        ("network.input_scale", network.input_scale.is_some()),
        ("network.labels.mean", network.labels.mean.is_some()),
        ("network.labels.scale", network.labels.scale.is_some()),
    ];
    if let Some((key, _)) = found_out.iter().find(|(_, said)| *said) {
        return Err(not_for_training(
            run_file,
            key,
            "is found by training and written into the network: leave it out",
        ));
    }
    let columns = &run_file.catalogue.columns.labels;
    if columns.is_empty() {
        return Err(not_for_training(
            run_file,
            "catalogue.labels",
            "is missing: name the columns of labels to train on",
        ));
    }
    if run_file.noise.holdout_fraction == 0.0 {
        return Err(not_for_training(
            run_file,
            "noise.holdout_fraction",
            "is 0: training needs a validation set, give a share above 0",
        ));
    }
    if args.threads == Some(0) {
        return Err(CliError::Arguments("--threads takes at least 1".to_owned()));
    }
    let mut arithmetic = job::arithmetic(&run_file.compute);
    if let Some(threads) = args.threads {
        arithmetic.threads = threads;
    }
    let names = network.labels.names.clone();
    let units = network.labels.units.clone();
    let catalogue = job::catalogue(&run_file.catalogue, folder);
    let target = folder.locate(&network.uri);
    Ok(Training {
        store: object_store::options(environment, &[&target, &catalogue.uri])?,
        network: target,
        existing_network: existing(args.overwrite),
        label_units: units.unwrap_or_else(|| vec![String::new(); columns.len()]),
        label_names: names.unwrap_or_else(|| columns.clone()),
        catalogue,
        holdout_fraction: run_file.noise.holdout_fraction,
        recipe,
        arithmetic,
    })
}

/// A run file that is right for a run, but not for training.
fn not_for_training(run_file: &RunFile, key: &str, problem: &str) -> CliError {
    CliError::RunFile(RunFileError::Invalid {
        at: run_file.at.clone(),
        key: key.to_owned(),
        problem: problem.to_owned(),
    })
}
