//! What the benchmark is asked for.

use std::error::Error;
use std::path::PathBuf;
use std::str::FromStr;

use fisherflow_network::Precision;

use crate::work::Work;

/// Every option with its default.
pub(crate) const USAGE: &str = "\
--inputs FOLDER     network.safetensors, spectra.safetensors, posterior.safetensors (tests/peers/make_inputs.py); default: simulated
--widths A,B,...    without --inputs: widths of the network (1024,512,128,32,3)
--work A,B,...      product, jacobian, flux_covariance, diagonal, kfac, correction, weights, last_two, fit, all (each of them)
--spectra N         spectra of a pass (1024)
--batch N           spectra a batch (512)
--workers N         threads that take batches (1)
--threads N         threads of each product (1)
--repetitions N     timed passes (3)
--precision NAME    arithmetic of the products, as in the run file (auto)
--save FILE         also what was computed: J of the first spectra, covariances, sums times a probe, safetensors";

/// As given on the command line.
pub(crate) struct Arguments {
    pub(crate) inputs: Option<PathBuf>,
    pub(crate) widths: Vec<usize>,
    pub(crate) work: Vec<Work>,
    pub(crate) spectra: usize,
    pub(crate) batch: usize,
    pub(crate) workers: usize,
    pub(crate) threads: usize,
    pub(crate) repetitions: usize,
    pub(crate) precision: Precision,
    pub(crate) save: Option<PathBuf>,
}

impl Arguments {
    /// None where only the usage was asked for.
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Self>, Box<dyn Error>> {
        let mut arguments = Self {
            inputs: None,
            widths: vec![1024, 512, 128, 32, 3],
            work: Work::ALL.to_vec(),
            spectra: 1024,
            batch: 512,
            workers: 1,
            threads: 1,
            repetitions: 3,
            precision: Precision::default(),
            save: None,
        };
        while let Some(name) = given.next() {
            // Cargo says so of every benchmark.
            if name == "--bench" {
                continue;
            }
            if name == "--help" {
                return Ok(None);
            }
            let value = given.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
            match name.as_str() {
                "--inputs" => arguments.inputs = Some(value.into()),
                "--widths" => arguments.widths = list(&value)?,
                "--work" => arguments.work = list(&value)?,
                "--spectra" => arguments.spectra = value.parse()?,
                "--batch" => arguments.batch = value.parse::<usize>()?.max(1),
                "--workers" => arguments.workers = value.parse::<usize>()?.max(1),
                "--threads" => arguments.threads = value.parse()?,
                "--repetitions" => arguments.repetitions = value.parse::<usize>()?.max(1),
                "--precision" => arguments.precision = value.parse()?,
                "--save" => arguments.save = Some(value.into()),
                _ => return Err(format!("there is no {name}\n{USAGE}").into()),
            }
        }
        Ok(Some(arguments))
    }
}

fn list<T: FromStr>(value: &str) -> Result<Vec<T>, T::Err> {
    value.split(',').map(str::parse).collect()
}
