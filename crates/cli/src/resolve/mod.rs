//! What was typed, the run file and the environment, resolved once into what is meant.

mod cluster;
mod derivatives;
mod finished;
mod job;
mod object_store;
mod question;
mod training;

use std::net::SocketAddr;

use fisherflow_dataflow::{
    Cluster, ClusterQuestion, ExistingOutput, Job, OutputHessianRequest, SpectrumSettings, Stage, TrainJob,
};
use fisherflow_store::StoreOptions;

pub use finished::{Export, Query, Question, Report};

use crate::args::{Command, GcArgs, SimulateArgs};
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::run_file::{Folder, RunFile};

/// What is meant: nothing is relative, and nothing is left to a default.
#[derive(Debug)]
pub enum Task {
    /// Stages of a run.
    Run {
        /// The run.
        job: Box<Job>,
        /// Which stages.
        stage: Stage,
        /// Where.
        cluster: Cluster,
        /// Where its metrics are answered.
        metrics: Option<SocketAddr>,
    },
    /// What a run would do.
    Plan {
        /// The run.
        job: Box<Job>,
        /// On which cluster.
        question: ClusterQuestion,
        /// Whether it is said in JSON.
        json: bool,
    },
    /// The eigenvalues of a run's curvature.
    Spectrum {
        /// The run.
        job: Box<Job>,
        /// How they are looked for.
        settings: SpectrumSettings,
        /// Where.
        cluster: Cluster,
        /// Where its metrics are answered.
        metrics: Option<SocketAddr>,
    },
    /// Second derivatives of the outputs.
    OutputHessian {
        /// The run.
        job: Box<Job>,
        /// Of whom, and what.
        request: OutputHessianRequest,
    },
    /// The training of a network.
    Train(Box<TrainJob>),
    /// What stands at a URI.
    Inspect(Place),
    /// Whether an output is as its manifest says.
    Verify(Place),
    /// How far the run of an output is.
    Status {
        /// The output.
        place: Place,
        /// Whether it is said in JSON.
        json: bool,
    },
    /// The releases of a line.
    Releases {
        /// The line.
        place: Place,
        /// Whether they are said in JSON.
        json: bool,
    },
    /// What a line holds beyond them.
    Gc(Place, GcArgs),
    /// A catalogue of simulated spectra.
    Simulate(Place, SimulateArgs),
    /// What an output holds.
    Report(Report),
    /// A question about a layer's inverse.
    Inverse(Query),
    /// The Hessian in another program's convention.
    Export(Export),
}

/// A URI, and how to reach it.
#[derive(Debug)]
pub struct Place {
    /// An absolute path, or a URI.
    pub uri: String,
    /// Credentials and endpoints.
    pub store: StoreOptions,
}

/// Resolves a command.
///
/// # Errors
/// The run file, the arguments or the environment are wrong.
pub fn resolve(command: Command, environment: &Environment) -> Result<Task, CliError> {
    let place = |uri: &str| -> Result<Place, CliError> {
        let uri = current()?.locate(uri);
        Ok(Place {
            store: object_store::options(environment, &[&uri])?,
            uri,
        })
    };
    let stage = match &command {
        Command::Fit(_) => Stage::Fit,
        Command::Invert(_) => Stage::Invert,
        Command::Predict(_) => Stage::Predict,
        _ => Stage::Run,
    };
    match command {
        Command::Run(args) | Command::Fit(args) | Command::Invert(args) | Command::Predict(args) => {
            let existing = existing(args.overwrite);
            let run_file = RunFile::read(&args.file)?;
            Ok(Task::Run {
                cluster: cluster::cluster(&args.cluster, environment)?,
                metrics: cluster::metrics(&args.cluster)?,
                job: Box::new(job::job(&run_file, &folder(&args.file)?, &[], existing, environment)?),
                stage,
            })
        }
        Command::Plan(args) => {
            let run_file = RunFile::read(&args.file)?;
            let folder = folder(&args.file)?;
            let job = job::job(&run_file, &folder, &[], ExistingOutput::Refuse, environment)?;
            Ok(Task::Plan {
                job: Box::new(job),
                question: question::question(&args)?,
                json: args.json,
            })
        }
        Command::Spectrum(args) => {
            let run_file = RunFile::read(&args.file)?;
            let (folder, existing) = (folder(&args.file)?, existing(args.overwrite));
            let out = derivatives::typed(args.out.as_deref())?;
            let job = job::job(&run_file, &folder, &[out.as_deref()], existing, environment)?;
            Ok(Task::Spectrum {
                settings: derivatives::spectrum(&args, out, &job)?,
                cluster: cluster::cluster(&args.cluster, environment)?,
                metrics: cluster::metrics(&args.cluster)?,
                job: Box::new(job),
            })
        }
        Command::OutputHessian(args) => {
            let run_file = RunFile::read(&args.file)?;
            let (folder, existing) = (folder(&args.file)?, existing(args.overwrite));
            let out = derivatives::typed(args.out.as_deref())?;
            let product = derivatives::typed(args.product.as_deref())?;
            let typed = [out.as_deref(), product.as_deref()];
            let job = job::job(&run_file, &folder, &typed, existing, environment)?;
            Ok(Task::OutputHessian {
                request: derivatives::output_hessian(args, out, product.as_deref(), &job)?,
                job: Box::new(job),
            })
        }
        Command::Train(args) => {
            let run_file = RunFile::read(&args.file)?;
            let training = training::training(&run_file, &folder(&args.file)?, &args, environment)?;
            Ok(Task::Train(Box::new(training)))
        }
        Command::Inspect(args) => Ok(Task::Inspect(place(&args.uri)?)),
        Command::Verify(args) => Ok(Task::Verify(place(&args.uri)?)),
        Command::Status(args) => Ok(Task::Status {
            place: place(&args.uri)?,
            json: args.json,
        }),
        Command::Releases(args) => Ok(Task::Releases {
            place: place(&args.uri)?,
            json: args.json,
        }),
        Command::Gc(args) => Ok(Task::Gc(place(&args.uri)?, args)),
        Command::Simulate(args) => Ok(Task::Simulate(place(&args.out)?, args)),
        Command::Report(args) => Ok(Task::Report(finished::report(&args, environment)?)),
        Command::Inverse(args) => Ok(Task::Inverse(finished::query(args, environment)?)),
        Command::Export(args) => Ok(Task::Export(finished::export(&args, environment)?)),
    }
}

/// The folder that the paths of a run file start from.
fn folder(file: &std::path::Path) -> Result<Folder, CliError> {
    Folder::of(file).map_err(|source| CliError::folder(&file.display().to_string(), source))
}

/// The folder that typed paths start from: that of this process.
fn current() -> Result<Folder, CliError> {
    Folder::current().map_err(|source| CliError::folder(".", source))
}

/// What becomes of what is there.
fn existing(overwrite: bool) -> ExistingOutput {
    if overwrite {
        ExistingOutput::Overwrite
    } else {
        ExistingOutput::Refuse
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

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
            let command = Args::try_parse_from(words).unwrap().command;
            match resolve(command, &environment).unwrap() {
                Task::Spectrum { job, settings, .. } => (settings.out, job.store.s3),
                Task::OutputHessian { job, request } => (request.out, job.store.s3),
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
