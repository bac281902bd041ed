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

/// `[compute]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ComputeTable {
    /// What spectra are differentiated and summed on.
    pub processor: Processor,
    /// Arithmetic of the products; sums are f64 always.
    pub precision: Precision,
    /// Spectra a batch.
    pub batch: usize,
    /// Threads of a worker.
    pub threads: usize,
    /// Spectra a reduction group, at least: groups are whole row groups. None: as the sums ask for.
    pub group: Option<u64>,
    /// Bytes of spectra that stay in memory between passes.
    pub kept_spectra: u64,
    /// A folder for what a dual block has no room for in memory.
    pub scratch: Option<String>,
}

impl Default for ComputeTable {
    fn default() -> Self {
        let compute = Compute::default();
        Self {
            processor: compute.processor,
            precision: compute.arithmetic.precision,
            batch: compute.batch,
            threads: compute.arithmetic.threads,
            group: compute.group,
            kept_spectra: compute.kept_spectra,
            scratch: compute.scratch,
        }
    }
}

impl ComputeTable {
    /// Reads the table; `dual`: whether a block may be dual.
    ///
    /// # Errors
    /// Wrong values.
    pub fn read(table: &Table<'_>, dual: bool) -> Result<Self, RunFileError> {
        let mut read = Self::default();
        if let Some(e) = table.get("device") {
            read.processor = e.choice(&[("cpu", Processor::Cpu), ("cuda", Processor::Cuda)], &[])?;
            if read.processor == Processor::Cuda {
                read.batch = BATCH_ON_A_GPU;
                read.precision = Precision::F32;
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
            read.precision = match read.processor {
                Processor::Cpu => e.choice(&[&everywhere[..], &on_cpu].concat(), &[])?,
                Processor::Cuda => e.choice(&everywhere, &on_cpu.map(|(name, _)| name))?,
            };
        }
        if let Some(e) = table.get("batch") {
            read.batch = e.count(1)?;
        }
        if let Some(e) = table.get("threads") {
            read.threads = e.count(1)?;
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
}
