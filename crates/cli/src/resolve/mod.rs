//! What was typed, the run file and the environment, resolved once into what is meant.

mod cluster;
mod derivatives;
mod job;
mod object_store;
mod question;
mod training;

use std::net::SocketAddr;

use fisherflow_dataflow::{Cluster, ClusterQuestion, ExistingOutput, Job, TrainJob};
use fisherflow_store::StoreOptions;

pub use cluster::threads;
pub use derivatives::{output_hessian, spectrum};

use crate::args::{PlanArgs, StageArgs, TrainArgs};
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::run_file::{Folder, RunFile};

/// A URI, and how to reach it.
#[derive(Debug)]
pub struct Place {
    /// An absolute path, or a URI.
    pub uri: String,
    /// Credentials and endpoints.
    pub store: StoreOptions,
}

/// The place that a typed `uri` means. Its store reaches `others` too, typed as well: each becomes what it means.
///
/// # Errors
/// The environment is wrong, or the folder of this process is gone.
pub fn place<'u>(
    uri: &str,
    others: impl IntoIterator<Item = &'u mut String>,
    environment: &Environment,
) -> Result<Place, CliError> {
    let folder = current()?;
    let uri = folder.locate(uri);
    let mut uris = vec![uri.as_str()];
    for other in others {
        *other = folder.locate(other);
        uris.push(other);
    }
    Ok(Place {
        store: object_store::options(environment, &uris)?,
        uri,
    })
}

/// A run, where it is done, and where its metrics are answered.
///
/// # Errors
/// The run file, the arguments or the environment are wrong.
pub fn run(args: &StageArgs, environment: &Environment) -> Result<(Job, Cluster, Option<SocketAddr>), CliError> {
    let run_file = RunFile::read(&args.file)?;
    let cluster = cluster::cluster(&args.cluster, environment)?;
    let metrics = cluster::metrics(&args.cluster)?;
    let folder = folder(&args.file)?;
    let job = job::job(&run_file, &folder, &[], existing(args.overwrite), environment)?;
    Ok((job, cluster, metrics))
}

/// A run that is planned, and on which cluster.
///
/// # Errors
/// As [`run`].
pub fn plan(args: &PlanArgs, environment: &Environment) -> Result<(Job, ClusterQuestion), CliError> {
    let run_file = RunFile::read(&args.file)?;
    let folder = folder(&args.file)?;
    let job = job::job(&run_file, &folder, &[], ExistingOutput::Refuse, environment)?;
    Ok((job, question::question(args)?))
}

/// The training of a network.
///
/// # Errors
/// As [`run`].
pub fn training(args: &TrainArgs, environment: &Environment) -> Result<TrainJob, CliError> {
    let run_file = RunFile::read(&args.file)?;
    training::training(&run_file, &folder(&args.file)?, args, environment)
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
