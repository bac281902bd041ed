//! What `spectrum` and `output-hessian` are asked for.

use std::net::SocketAddr;

use fisherflow_curvature::CurvatureKind;
use fisherflow_dataflow::{Choice, Cluster, Job, OutputHessianPart, OutputHessianRequest, SpectrumSettings, Visits};
use fisherflow_store::{Stores, read_vector};

use super::cluster::{cluster, counted, metrics};
use super::job::job;
use super::{current, existing, folder};
use crate::args::{OutputHessianArgs, SpectrumArgs};
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::run_file::RunFile;

/// Most probes, and steps of each, of a spectrum: each is kept in memory and takes a product over all spectra.
const MOST_PRODUCTS: usize = 1_000_000;

/// A run, how the eigenvalues of its curvature are looked for, where, and where the metrics are answered.
///
/// # Errors
/// The run file, the arguments or the environment are wrong.
pub fn spectrum(
    args: &SpectrumArgs,
    environment: &Environment,
) -> Result<(Job, SpectrumSettings, Cluster, Option<SocketAddr>), CliError> {
    let run_file = RunFile::read(&args.file)?;
    let folder = folder(&args.file)?;
    let out = typed(args.out.as_deref())?;
    let existing = existing(args.overwrite);
    let job = job(&run_file, &folder, &[out.as_deref()], existing, environment)?;
    let kinds = [
        CurvatureKind::Ggn,
        CurvatureKind::EmpiricalFisher,
        CurvatureKind::Hessian,
    ];
    let kind = match &args.kind {
        None => job.curvature.kind,
        Some(said) => kinds
            .into_iter()
            .find(|kind| kind.name() == said)
            .ok_or_else(|| CliError::Arguments(format!("--kind {said}: expected ggn, empirical_fisher or hessian")))?,
    };
    let settings = SpectrumSettings {
        kind,
        probes: counted(
            "--probes",
            args.probes,
            MOST_PRODUCTS,
            "their error falls with the root of their number",
        )?,
        steps: counted(
            "--steps",
            args.steps,
            MOST_PRODUCTS,
            "no more are needed than there are weights",
        )?,
        seed: args.seed,
        out: out.unwrap_or_else(|| beside(&job, "-spectrum")),
    };
    let cluster = cluster(&args.cluster, environment)?;
    let metrics = metrics(&args.cluster)?;
    Ok((job, settings, cluster, metrics))
}

/// A run, and which second derivatives of its network's outputs, of whose spectra.
///
/// # Errors
/// As [`spectrum`], or the vector of a product cannot be read.
pub fn output_hessian(
    args: OutputHessianArgs,
    environment: &Environment,
) -> Result<(Job, OutputHessianRequest), CliError> {
    let run_file = RunFile::read(&args.file)?;
    let folder = folder(&args.file)?;
    let out = typed(args.out.as_deref())?;
    let product = typed(args.product.as_deref())?;
    let (places, existing) = ([out.as_deref(), product.as_deref()], existing(args.overwrite));
    let job = job(&run_file, &folder, &places, existing, environment)?;
    let request = OutputHessianRequest {
        out: out.unwrap_or_else(|| beside(&job, "-output-hessian")),
        spectra: Choice {
            ids: args.ids,
            file: args.of_file,
            rows: args.rows,
            visits: if args.all_visits { Visits::All } else { Visits::One },
        },
        labels: args.labels,
        part: match product {
            Some(uri) => OutputHessianPart::Product(read_vector(&Stores::new(job.store.clone(), 1)?, &uri)?),
            None if args.dense => OutputHessianPart::Dense,
            None => OutputHessianPart::Diagonal,
        },
    };
    Ok((job, request))
}

/// A place as it was typed: its path starts from the folder of this process.
///
/// # Errors
/// That folder is gone.
fn typed(uri: Option<&str>) -> Result<Option<String>, CliError> {
    let Some(uri) = uri else { return Ok(None) };
    Ok(Some(current()?.locate(uri)))
}

/// A folder beside the run's output.
fn beside(job: &Job, ending: &str) -> String {
    format!("{}{ending}", job.output.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    const TEXT: &str = r#"version = 1
[network]
uri = "n.safetensors"
[catalogue]
uri = "c.parquet"
id = "id"
flux = "flux"
ivar = "ivar"
labels = ["teff"]
[prior]
precision = 2
[output]
uri = "out"
"#;

    /// Where all but the output of these commands is on a disk.
    #[test]
    fn a_folder_on_s3_that_is_typed_is_reached_with_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        std::fs::write(&file, TEXT).unwrap();
        let environment = Environment::of([("AWS_REGION".into(), "eu-west-1".into())]);
        let store_of = |command: &str, more: &[&str]| {
            let words = [&["fisherflow", command, file.to_str().unwrap()][..], more].concat();
            match Args::try_parse_from(words).unwrap().command {
                Command::Spectrum(args) => {
                    let (job, settings, ..) = spectrum(&args, &environment).unwrap();
                    (settings.out, job.store.s3)
                }
                Command::OutputHessian(args) => {
                    let (job, request) = output_hessian(args, &environment).unwrap();
                    (request.out, job.store.s3)
                }
                other => panic!("{other:?}"),
            }
        };
        let (nothing, star): ([&str; 0], _) = ([], ["--id", "star-1", "--diagonal"]);
        for (command, more) in [("spectrum", &nothing[..]), ("output-hessian", &star[..])] {
            let (out, s3) = store_of(command, &[more, &["--out", "s3://bucket/found"][..]].concat());
            assert_eq!(out, "s3://bucket/found");
            assert_eq!(s3, [("aws_region".to_owned(), "eu-west-1".to_owned())], "{command}");
            let (out, s3) = store_of(command, more);
            assert!(out.ends_with(&format!("/out-{command}")), "{out}");
            assert!(s3.is_empty(), "{command}");
        }
    }
}
