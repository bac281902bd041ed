//! A run file into a [`Job`].

use fisherflow_dataflow::{Calibration, CatalogueSource, Compute, ExistingOutput, Job, NetworkSource, Noise, Predict};

use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::run_file::{Folder, RunFile};

use super::object_store;

/// The job of a run file whose paths start from `folder`; its store reaches `typed` too, places of the command line.
///
/// # Errors
/// A table that a run needs is absent, or the environment's object store settings are wrong.
pub fn job(
    run_file: &RunFile,
    folder: &Folder,
    typed: &[Option<&str>],
    existing_output: ExistingOutput,
    environment: &Environment,
) -> Result<Job, CliError> {
    let network = NetworkSource {
        uri: folder.locate(&run_file.network.uri),
        ..run_file.network.clone()
    };
    let fit = catalogue(&run_file.catalogue, folder);
    let predict = Predict {
        catalogue: run_file
            .predict
            .catalogue
            .as_ref()
            .map(|written| catalogue(written, folder)),
        jacobians: run_file.predict.jacobians,
    };
    let prior = run_file.prior()?;
    let output = folder.locate(&run_file.output()?.uri);
    let mut uris = vec![network.uri.as_str(), &fit.uri, &output];
    uris.extend(predict.catalogue.iter().map(|source| source.uri.as_str()));
    let excluded = std::iter::once(&fit).chain(&predict.catalogue);
    uris.extend(excluded.flat_map(|source| &source.exclude).map(String::as_str));
    let scratch = run_file.compute.scratch.as_ref().map(|uri| folder.locate(uri));
    uris.extend(scratch.as_deref());
    let basis = run_file.noise.basis.as_ref().map(|uri| folder.locate(uri));
    uris.extend(basis.as_deref());
    uris.extend(typed.iter().copied().flatten());
    let store = object_store::patient(environment, &uris, &run_file.store)?;
    Ok(Job {
        curvature: run_file.curvature.clone(),
        noise: match &run_file.noise.covariance {
            Some(covariance) => Noise::Covariance(covariance.clone()),
            None => Noise::Holdout,
        },
        prior: prior.precision,
        prior_by_layer: prior.layers.clone(),
        calibration: Calibration {
            errors_in_variables: run_file.noise.errors_in_variables,
            intrinsic_bins: run_file.noise.intrinsic_bins.clone(),
            label_scale: prior.label_scale,
        },
        compute: Compute {
            scratch,
            ..run_file.compute.clone()
        },
        certificate: run_file.certificate.clone(),
        network,
        catalogue: fit,
        predict,
        basis,
        output,
        releases: run_file.output()?.releases,
        existing_output,
        store,
    })
}

/// A catalogue at its place.
pub fn catalogue(written: &CatalogueSource, folder: &Folder) -> CatalogueSource {
    CatalogueSource {
        uri: folder.locate(&written.uri),
        exclude: written.exclude.iter().map(|uri| folder.locate(uri)).collect(),
        ..written.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fisherflow_curvature::StructureKind;
    use fisherflow_dataflow::Prior;

    use super::*;

    const TEXT: &str = r#"version = 1
[network]
uri = "../networks/n.safetensors"
input_mean = 1.0
[catalogue]
uri = "data/*.parquet"
id = "id"
flux = "flux"
ivar = "ivar"
labels = ["teff"]
[predict]
uri = "s3://survey/dr17/*.parquet"
jacobians = true
[curvature]
structure = "kfac"
[noise]
holdout_fraction = 0.2
[prior]
precision = 2
[compute]
threads = 3
[output]
uri = "out"
"#;

    /// The job of a run file in `<folder>/pipelines/`, and that folder.
    fn resolved(text: &str) -> (Result<Job, CliError>, String) {
        let home = tempfile::tempdir().unwrap();
        let pipelines = home.path().join("pipelines");
        std::fs::create_dir(&pipelines).unwrap();
        let file = pipelines.join("run.toml");
        std::fs::write(&file, text).unwrap();
        let run_file = RunFile::read(&file).unwrap();
        let folder = Folder::of(&file).unwrap();
        let environment = Environment::of([("AWS_REGION".into(), "eu-west-1".into())]);
        let made = job(&run_file, &folder, &[], ExistingOutput::Refuse, &environment);
        let home = home.path().canonicalize().unwrap();
        (made, home.display().to_string())
    }

    #[test]
    fn nothing_of_a_job_is_relative() {
        let (job, home) = resolved(TEXT);
        let job = job.unwrap();
        assert_eq!(job.network.uri, format!("{home}/networks/n.safetensors"));
        assert_eq!(job.catalogue.uri, format!("{home}/pipelines/data/*.parquet"));
        assert_eq!(job.output, format!("{home}/pipelines/out"));
        assert!(Path::new(&job.output).is_absolute());
        let predicted = job.predict.catalogue.unwrap();
        assert_eq!(predicted.uri, "s3://survey/dr17/*.parquet");
        assert!(job.predict.jacobians);
        assert_eq!(job.network.said.input_mean, Some(vec![1.0]));
        assert_eq!(job.network.said.labels, None);
        assert_eq!(job.curvature.structure, StructureKind::Kfac.into());
        assert_eq!(job.noise, Noise::Holdout);
        assert_eq!(job.prior, Prior::Fixed(2.0));
        assert_eq!((job.compute.memory, job.compute.scratch), (None, None));
        assert_eq!(job.compute.holdout_fraction, 0.2);
        assert_eq!(job.compute.arithmetic.threads, 3);
        assert_eq!(job.store.s3, [("aws_region".to_owned(), "eu-west-1".to_owned())]);
    }

    #[test]
    fn a_dual_block_may_have_a_budget_and_a_place_to_go_beyond_it() {
        let text = TEXT
            .replace("structure = \"kfac\"", "structure = \"dual\"\nmemory = \"1.5 GiB\"")
            .replace("threads = 3", "scratch = \"tiles\"");
        let (job, home) = resolved(&text);
        let job = job.unwrap();
        assert_eq!(job.curvature.structure, StructureKind::Dual.into());
        assert_eq!(job.compute.memory, Some(3 << 29));
        assert_eq!(job.compute.scratch, Some(format!("{home}/pipelines/tiles")));
    }

    #[test]
    fn a_prior_may_be_left_to_the_evidence() {
        let (job, _) = resolved(&TEXT.replace("precision = 2", "precision = \"evidence\""));
        let job = job.unwrap();
        assert_eq!(job.prior, Prior::Evidence);
        assert!(job.prior_by_layer.is_empty());
        assert_eq!(job.calibration, Calibration::default());
    }

    #[test]
    fn a_run_needs_its_prior_and_says_so() {
        let (job, _) = resolved(&TEXT.replace("[prior]\nprecision = 2\n", ""));
        let error = job.unwrap_err();
        assert!(error.to_string().contains("`[prior]` is missing"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
