//! What `spectrum` and `output-hessian` are asked for.

use fisherflow_curvature::CurvatureKind;
use fisherflow_dataflow::{Choice, Job, OutputHessianPart, OutputHessianRequest, SpectrumSettings, Visits};

use crate::args::{OutputHessianArgs, SpectrumArgs};
use crate::exit_code::CliError;
use crate::npy;
use crate::run_file::Folder;

/// How the eigenvalues of a run's curvature are looked for.
///
/// # Errors
/// A kind that is none.
pub fn spectrum(args: &SpectrumArgs, job: &Job) -> Result<SpectrumSettings, CliError> {
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
    Ok(SpectrumSettings {
        kind,
        probes: args.probes,
        steps: args.steps,
        seed: args.seed,
        out: place(args.out.as_deref(), job, "-spectrum")?,
    })
}

/// Whose second derivatives of the outputs, and which.
///
/// # Errors
/// The vector of a product cannot be read.
pub fn output_hessian(args: OutputHessianArgs, job: &Job) -> Result<OutputHessianRequest, CliError> {
    Ok(OutputHessianRequest {
        out: place(args.out.as_deref(), job, "-output-hessian")?,
        spectra: Choice {
            ids: args.ids,
            file: args.of_file,
            rows: args.rows,
            visits: if args.all_visits { Visits::All } else { Visits::One },
        },
        labels: args.labels,
        part: match args.product {
            Some(file) => OutputHessianPart::Product(npy::read(&file)?),
            None if args.dense => OutputHessianPart::Dense,
            None => OutputHessianPart::Diagonal,
        },
    })
}

/// A folder as it was typed, or beside the run's output.
fn place(said: Option<&str>, job: &Job, ending: &str) -> Result<String, CliError> {
    match said {
        Some(uri) => Ok(Folder::current()
            .map_err(|source| CliError::folder(".", source))?
            .locate(uri)),
        None => Ok(format!("{}{ending}", job.output.trim_end_matches('/'))),
    }
}
