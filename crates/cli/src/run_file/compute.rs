//! `[compute]`: arithmetic, batches, threads and reduction groups.

use fisherflow_dataflow::Compute;
use fisherflow_network::{Precision, Processor};

use super::error::RunFileError;
use super::table::Table;

/// Keys of `[compute]`.
pub const KEYS: &[&str] = &[
    "device",
    "precision",
    "batch",
    "threads",
    "group",
    "kept_spectra",
    "scratch",
];

/// Spectra a batch on a GPU where nothing is said: enough to keep it busy.
const BATCH_ON_A_GPU: usize = 4096;

/// Reads the table; what it does not say is as [`Compute::default`] has it. `dual`: whether a block may be dual.
///
/// # Errors
/// Wrong values.
pub fn read(table: &Table<'_>, dual: bool) -> Result<Compute, RunFileError> {
    let mut read = Compute::default();
    if let Some(e) = table.get("device") {
        read.processor = e.choice(&[("cpu", Processor::Cpu), ("cuda", Processor::Cuda)], &[])?;
        if read.processor == Processor::Cuda {
            read.batch = BATCH_ON_A_GPU;
            read.arithmetic.precision = Precision::F32;
        }
    }
    if let Some(e) = table.get("precision") {
        let (everywhere, on_cpu) = (
            [("f32", Precision::F32), ("f64", Precision::F64)],
            [
                ("auto", Precision::Auto),
                ("bf16x3", Precision::Bf16x3),
                ("bf16", Precision::Bf16),
            ],
        );
        read.arithmetic.precision = match read.processor {
            Processor::Cpu => e.choice(&[&everywhere[..], &on_cpu].concat(), &[])?,
            Processor::Cuda => e.choice(&everywhere, &on_cpu.map(|(name, _)| name))?,
        };
    }
    if let Some(e) = table.get("batch") {
        read.batch = e.count(1)?;
    }
    if let Some(e) = table.get("threads") {
        read.arithmetic.threads = e.count(1)?;
    }
    if let Some(e) = table.get("group") {
        read.group = Some(e.integer(1)?);
    }
    if let Some(e) = table.get("kept_spectra") {
        read.kept_spectra = e.bytes(0)?;
    }
    if let Some(e) = table.get("scratch") {
        if !dual {
            return Err(e.invalid("is of layers held as \"dual\", and there is none: leave it out"));
        }
        read.scratch = Some(e.string()?);
    }
    Ok(read)
}
