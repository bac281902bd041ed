//! Each command, from what was typed to what is printed.

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
use std::num::NonZero;
use std::sync::Arc;

use fisherflow_dataflow::{Cluster, Job, Meter, Stage};
use fisherflow_store::{Line, Output, Resolved, Stores};

use crate::args::{Command, StageArgs};
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::counted;
use crate::progress;
use crate::resolve::{self, Place};
use crate::signals;

/// Threads that read and write where no run does.
const IO_THREADS: usize = 4;

/// Carries a command out: all that it means is resolved before anything is done.
///
/// # Errors
/// The run file, the arguments or the environment are wrong, or whatever ended it.
pub fn carry_out(command: Command, environment: &Environment, terminal: &Terminal) -> Result<(), CliError> {
    let place = |uri: &str| resolve::place(uri, [], environment);
    let stage = |args: &StageArgs, stage: Stage| -> Result<(), CliError> {
        signals::hold_back()?;
        let (job, cluster, metrics) = resolve::run(args, environment)?;
        warn_beyond_cores(&job, &cluster);
        run::run(job, stage, &cluster, &meter(terminal, metrics), terminal)
    };
    match command {
        Command::Run(args) => stage(&args, Stage::Run),
        Command::Fit(args) => stage(&args, Stage::Fit),
        Command::Invert(args) => stage(&args, Stage::Invert),
        Command::Predict(args) => stage(&args, Stage::Predict),
        Command::Plan(args) => {
            let (job, question) = resolve::plan(&args, environment)?;
            plan::plan(job, &question, args.json)
        }
        Command::Spectrum(args) => {
            signals::hold_back()?;
            let (job, settings, cluster, metrics) = resolve::spectrum(&args, environment)?;
            warn_beyond_cores(&job, &cluster);
            spectrum::spectrum(job, settings, &cluster, &meter(terminal, metrics), terminal)
        }
        Command::OutputHessian(args) => {
            let (job, request) = resolve::output_hessian(args, environment)?;
            output_hessian::output_hessian(job, request, &meter(terminal, None), terminal)
        }
        Command::Train(args) => train::train(&resolve::training(&args, environment)?, terminal),
        Command::Inspect(args) => inspect::inspect(&place(&args.uri)?),
        Command::Verify(args) => verify::verify(&place(&args.uri)?),
        Command::Status(args) => status::status(&place(&args.uri)?, args.json),
        Command::Releases(args) => releases::releases(&place(&args.uri)?, args.json),
        Command::Gc(args) => releases::gc(&place(&args.uri)?, &args, terminal),
        Command::Simulate(args) => simulate::simulate(&place(&args.out)?, &args, terminal),
        Command::Report(mut args) => {
            let output = resolve::place(&args.uri, &mut args.out, environment)?;
            output_page::report(&output, &args)
        }
        Command::Inverse(mut args) => {
            let files = [&mut args.solve, &mut args.quadratic, &mut args.out];
            let output = resolve::place(&args.output, files.into_iter().flatten(), environment)?;
            inverse::inverse(&output, &args, terminal)
        }
        Command::Export(mut args) => {
            let output = resolve::place(&args.output, [&mut args.out], environment)?;
            export::export(&output, &args, terminal)
        }
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

/// Warns of more threads than this process may have cores, by its affinity and its container's limit too.
fn warn_beyond_cores(job: &Job, cluster: &Cluster) {
    let cores = std::thread::available_parallelism().map_or(usize::MAX, NonZero::get);
    if let Some(said) = beyond_cores(cluster.workers, job.compute.arithmetic.threads, cores) {
        tracing::warn!("{said}");
    }
}

/// What to say of more threads than cores; `None` where there are none.
fn beyond_cores(workers: usize, threads: usize, cores: usize) -> Option<String> {
    let all = workers.saturating_mul(threads);
    (all > cores).then(|| {
        format!(
            "-w {workers} with compute.threads = {threads} makes {}, and this process has {}: they wait for one another, and every worker takes \
             memory; a worker a core, of one thread each, is enough",
            counted(all as u64, "thread", "threads"),
            counted(cores as u64, "core", "cores")
        )
    })
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

/// Refuses a file of `--out` that a catalogue of the complete output's run would read as spectra, and every later run with it.
///
/// # Errors
/// It would, or there is no complete output.
fn check_out(stores: &Stores, output: &str, out: &str) -> Result<(), CliError> {
    for input in Output::open(stores, output)?.complete()?.inputs {
        if input.etags_sha256.is_some() && stores.reads(&input.uri, out)? {
            return Err(CliError::Arguments(format!(
                "--out {out}: {}.uri {} of that output's run reads it as spectra, too: name a file outside of it",
                input.role, input.uri
            )));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::beyond_cores;

    #[test]
    fn more_threads_than_cores_are_told_with_both() {
        for (workers, threads, cores) in [(1, 1, 1), (2, 8, 16), (16, 1, 16)] {
            assert_eq!(beyond_cores(workers, threads, cores), None);
        }
        let said = beyond_cores(1000, 2, 16).unwrap();
        let words = ["-w 1000", "compute.threads = 2", "2,000 threads", "16 cores"];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(beyond_cores(1, 2, 1).unwrap().contains("1 core:"));
        assert!(beyond_cores(usize::MAX, 2, 16).is_some());
    }
}
