//! `fisherflow`: error bars for neural networks over whole catalogues of spectra.
//!
//! What was typed ([`args`]) and what the run file says ([`run_file`]) is resolved once into what is meant ([`resolve`]), and carried out
//! ([`commands`]). Only this crate reads arguments and the environment.

mod args;
mod commands;
mod environment;
mod exit_code;
mod exposition;
mod foreign_files;
mod hostfile;
mod logging;
mod metrics;
mod open_files;
mod printing;
mod process_times;
mod progress;
mod resolve;
mod run_file;
mod signals;
mod slurm;
mod weights;

/// Batches and products take and give back the same large buffers over and over.
#[global_allocator]
static BUFFERS: fisherflow_kernels::Buffers = fisherflow_kernels::Buffers::new();

fn main() -> std::process::ExitCode {
    let args: args::Args = clap::Parser::parse();
    let environment = environment::Environment::read();
    let terminal = logging::start(&args.logging, &environment);
    open_files::raise_limit();
    let done = commands::carry_out(args.command, &environment, &terminal);
    exit_code::of(done, &terminal)
}
