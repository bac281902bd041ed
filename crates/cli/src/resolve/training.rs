//! `[train]` and the tables around it into a [`TrainJob`].

use fisherflow_dataflow::TrainJob;

use crate::args::TrainArgs;
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::run_file::{Folder, RunFile, RunFileError};

use super::cluster::threads;
use super::{existing, job, object_store};

/// The training of a run file whose paths start from `folder`.
///
/// # Errors
/// The file has no `[train]`, no labels, no holdout, or says of the network what training finds out.
pub fn training(
    run_file: &RunFile,
    folder: &Folder,
    args: &TrainArgs,
    environment: &Environment,
) -> Result<TrainJob, CliError> {
    let recipe = run_file.train()?.clone();
    let said = &run_file.network.said;
    let labels = said.labels.clone().unwrap_or_default();
    let found_out = [
        ("network.layers", said.layers.is_some()),
        ("network.input_mean", said.input_mean.is_some()),
        ("network.input_scale", said.input_scale.is_some()),
        ("network.labels.mean", labels.mean.is_some()),
        ("network.labels.scale", labels.scale.is_some()),
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
    let mut arithmetic = run_file.compute.arithmetic;
    if let Some(said) = args.threads {
        arithmetic.threads = threads(said)?;
    }
    let catalogue = job::catalogue(&run_file.catalogue, folder);
    let target = folder.locate(&run_file.network.uri);
    let mut uris = vec![target.as_str(), &catalogue.uri];
    uris.extend(catalogue.exclude.iter().map(String::as_str));
    Ok(TrainJob {
        store: object_store::patient(environment, &uris, &run_file.store)?,
        network: target,
        existing_network: existing(args.overwrite),
        label_units: labels.units.unwrap_or_else(|| vec![String::new(); columns.len()]),
        label_names: labels.names.unwrap_or_else(|| columns.clone()),
        catalogue,
        holdout_fraction: run_file.noise.holdout_fraction,
        farthest_input: run_file.noise.farthest_input,
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

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"version = 1
[network]
uri = "n.safetensors"
[network.labels]
units = ["K"]
[catalogue]
uri = "c.parquet"
id = "id"
flux = "flux"
ivar = "ivar"
labels = ["teff"]
[train]
hidden = [8]
epochs = 2
"#;

    fn resolved(text: &str, threads: Option<usize>) -> Result<TrainJob, CliError> {
        let run_file = RunFile::parse("run.toml", text.to_owned())?;
        let args = TrainArgs {
            file: "run.toml".into(),
            threads,
            overwrite: true,
        };
        let folder = Folder::current().unwrap();
        let environment = Environment::of([("AWS_REGION".into(), "eu-west-1".into())]);
        training(&run_file, &folder, &args, &environment)
    }

    #[test]
    fn a_table_of_ids_on_s3_is_reached_with_the_environment() {
        assert!(resolved(TEXT, None).unwrap().store.s3.is_empty());
        let excluding = TEXT.replace("id = \"id\"", "id = \"id\"\nexclude = \"s3://survey/bad.parquet\"");
        let store = resolved(&excluding, None).unwrap().store;
        assert_eq!(store.s3, [("aws_region".to_owned(), "eu-west-1".to_owned())]);
    }

    #[test]
    fn training_needs_no_curvature_prior_or_output() {
        let job = resolved(TEXT, Some(2)).unwrap();
        assert_eq!(job.label_names, ["teff"]);
        assert_eq!(job.label_units, ["K"]);
        assert_eq!((job.recipe.hidden.as_slice(), job.recipe.epochs), ([8].as_slice(), 2));
        assert_eq!(job.arithmetic.threads, 2);
        assert_eq!(job.holdout_fraction, 0.1);
        assert_eq!(job.existing_network, fisherflow_dataflow::ExistingOutput::Overwrite);
    }

    /// The network would be written with each label under another's name.
    #[test]
    fn labels_named_in_another_order_than_the_columns_are_refused() {
        let named = |names: &str| {
            let text = TEXT.replace("labels = [\"teff\"]", "labels = [\"teff\", \"logg\"]");
            resolved(&text.replace("units = [\"K\"]", &format!("names = {names}")), None)
        };
        let error = named(r#"["logg", "teff"]"#).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .contains("`catalogue.labels` names the columns in the order"),
            "{error}"
        );
        assert_eq!(named(r#"["T_eff", "log g"]"#).unwrap().label_names, ["T_eff", "log g"]);
    }

    #[test]
    fn what_training_finds_out_cannot_be_said() {
        for (line, key) in [
            ("[network]\ninput_mean = 1", "network.input_mean"),
            ("[network]\nlayers = [\"dense\"]", "network.layers"),
            ("[network.labels]\nmean = [1]", "network.labels.mean"),
        ] {
            let header = line.lines().next().unwrap();
            let error = resolved(&TEXT.replacen(header, line, 1), None).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!(resolved(TEXT, Some(0)).is_err());
        let untrained = TEXT.split("[train]").next().unwrap();
        assert!(
            resolved(untrained, None)
                .unwrap_err()
                .to_string()
                .contains("`[train]` is missing")
        );
    }
}
