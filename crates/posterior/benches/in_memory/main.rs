//! What a run does to every spectrum, timed over spectra that lie in memory: the functions that the passes call, on threads of their own in
//! place of workers, without reading, writing or dataflow.
//!
//! `cargo bench` takes a small network over simulated spectra. `tests/peers/run` gives the inputs that other software gets:
//!
//! ```text
//! cargo bench --bench in_memory -- --inputs FOLDER --work kfac,weights --spectra 2048 --workers 2
//! ```
//!
//! One JSON line a kind of work. `seconds` are of whole passes over the spectra, one a repetition, after a first one that is not counted;
//! `once_seconds` is what a pass does once, whatever the number of spectra: adding the workers' sums and re-forming them about zero.

mod arguments;
mod checks;
mod inputs;
mod passes;
mod product;
mod work;

use std::error::Error;

use arguments::Arguments;
use inputs::Inputs;
use work::Work;

/// As in a run: batches and products take and give back the same large buffers over and over.
#[global_allocator]
static BUFFERS: fisherflow_kernels::Buffers = fisherflow_kernels::Buffers::new();

fn main() -> Result<(), Box<dyn Error>> {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1))? else {
        println!("{}", arguments::USAGE);
        return Ok(());
    };
    let (products, passes): (Vec<Work>, _) = arguments.work.iter().partition(|work| **work == Work::Product);
    for _ in products {
        println!("{}", product::time(&arguments)?);
    }
    if passes.is_empty() {
        return Ok(());
    }
    let inputs = Inputs::load(&arguments)?;
    for work in passes {
        println!("{}", passes::time(&arguments, &inputs, work)?);
    }
    Ok(())
}
