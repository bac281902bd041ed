//! What `spectrum` and `output-hessian` are asked for.

use fisherflow_curvature::CurvatureKind;
use fisherflow_dataflow::{Choice, Job, OutputHessianPart, OutputHessianRequest, SpectrumSettings, Visits};
use fisherflow_store::{Stores, read_vector};

use super::current;
use crate::args::{OutputHessianArgs, SpectrumArgs};
use crate::exit_code::CliError;

/// How the eigenvalues of a run's curvature are looked for; `out`: where [`typed`] says.
///
/// # Errors
/// A kind that is none.
pub fn spectrum(args: &SpectrumArgs, out: Option<String>, job: &Job) -> Result<SpectrumSettings, CliError> {
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
        out: out.unwrap_or_else(|| beside(job, "-spectrum")),
    })
}

/// Whose second derivatives of the outputs, and which; `out` and the vector of a `product`: where [`typed`] says.
///
/// # Errors
/// The vector of a product cannot be read.
pub fn output_hessian(
    args: OutputHessianArgs,
    out: Option<String>,
    product: Option<&str>,
    job: &Job,
) -> Result<OutputHessianRequest, CliError> {
    Ok(OutputHessianRequest {
        out: out.unwrap_or_else(|| beside(job, "-output-hessian")),
        spectra: Choice {
            ids: args.ids,
            file: args.of_file,
            rows: args.rows,
            visits: if args.all_visits { Visits::All } else { Visits::One },
        },
        labels: args.labels,
        part: match product {
            Some(uri) => OutputHessianPart::Product(read_vector(&Stores::new(job.store.clone(), 1)?, uri)?),
            None if args.dense => OutputHessianPart::Dense,
            None => OutputHessianPart::Diagonal,
        },
    })
}

/// A place as it was typed: its path starts from the folder of this process.
///
/// # Errors
/// That folder is gone.
pub fn typed(uri: Option<&str>) -> Result<Option<String>, CliError> {
    let Some(uri) = uri else { return Ok(None) };
    Ok(Some(current()?.locate(uri)))
}

/// A folder beside the run's output.
fn beside(job: &Job, ending: &str) -> String {
    format!("{}{ending}", job.output.trim_end_matches('/'))
}
