//! Each command, from what is meant to what is printed.

mod answer;
mod export;
mod findings;
mod inspect;
mod inspect_catalogue;
mod inspect_network;
mod inverse;
mod output_hessian;
mod output_page;
mod plan;
mod releases;
mod run;
mod run_state;
mod simulate;
mod spectrum;
mod status;
mod train;
mod verify;

use std::net::SocketAddr;
use std::sync::Arc;

use fisherflow_dataflow::Meter;
use fisherflow_store::{Line, Resolved, Stores};

use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::progress;
use crate::resolve::{Place, Task};

/// Threads that read and write where no run does.
const IO_THREADS: usize = 4;

/// Carries a command out.
///
/// # Errors
/// Whatever ended it.
pub fn carry_out(task: Task, terminal: &Terminal) -> Result<(), CliError> {
    match task {
        Task::Run {
            job,
            stage,
            cluster,
            metrics,
        } => run::run(*job, stage, &cluster, &meter(terminal, metrics), terminal),
        Task::Plan { job, question, json } => plan::plan(*job, &question, json),
        Task::Spectrum {
            job,
            settings,
            cluster,
            metrics,
        } => spectrum::spectrum(*job, settings, &cluster, &meter(terminal, metrics), terminal),
        Task::OutputHessian { job, request } => {
            output_hessian::output_hessian(*job, request, &meter(terminal, None), terminal)
        }
        Task::Train(training) => train::train(&training, terminal),
        Task::Inspect(place) => inspect::inspect(&place),
        Task::Verify(place) => verify::verify(&place),
        Task::Status { place, json } => status::status(&place, json),
        Task::Releases { place, json } => releases::releases(&place, json),
        Task::Gc(place, args) => releases::gc(&place, &args, terminal),
        Task::Simulate(place, args) => simulate::simulate(&place, &args, terminal),
        Task::Report(asked) => output_page::report(&asked),
        Task::Inverse(query) => inverse::inverse(&query, terminal),
        Task::Export(what) => export::export(&what, terminal),
    }
}

/// What counts a run, shown as fits the terminal and, where asked for, to Prometheus. What only shows a run does not end it.
fn meter(terminal: &Terminal, metrics: Option<SocketAddr>) -> Arc<Meter> {
    let meter = Meter::new(progress::display(terminal));
    terminal.run.is_counted_by(&meter);
    if let Some(address) = metrics
        && let Err(error) = crate::metrics::serve(&meter, address)
    {
        tracing::warn!(%address, %error, "no metrics: the address of --metrics cannot be listened at; the run goes on");
    }
    meter
}

/// The stores of a place.
fn stores(place: &Place) -> Result<Stores, CliError> {
    Ok(Stores::new(place.store.clone(), IO_THREADS)?)
}

/// The output that a URI means: of a line the last release, or the one named by `@`.
///
/// # Errors
/// The line has no such release.
fn output_at(stores: &Stores, uri: &str) -> Result<String, CliError> {
    Ok(resolved(stores, uri)?.uri)
}

/// The same, and of which line which release it is.
///
/// # Errors
/// As [`output_at`].
fn resolved(stores: &Stores, uri: &str) -> Result<Resolved, CliError> {
    let resolved = Line::resolve(stores, uri)?;
    if let Some((line, release)) = &resolved.release {
        tracing::info!(line, release, "reads");
    }
    Ok(resolved)
}
