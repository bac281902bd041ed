//! What a spectrum, a catalogue and a shard are: columns, row flags, batches of spectra, masked pixels, the range of inputs, the held-out
//! fraction, and simulated spectra.
//!
//! Invariant: no I/O. Bytes become batches in `fisherflow-store`.

mod batch;
mod batch_builder;
#[cfg(test)]
mod batch_tests;
mod columns;
mod error;
mod group_plan;
mod group_sample;
mod holdout;
mod input_range;
mod key_hash;
mod masked_pixels;
mod row_flags;
mod shard;
mod simulate;
mod star_key;

pub use batch::SpectrumBatch;
pub use batch_builder::{BatchShape, ErrorKind, LabelErrorKind, MaskKind, RawRow, SpectrumBatchBuilder};
pub use columns::{CatalogueColumns, FluxError, LabelErrors, Mask};
pub use error::SpectraError;
pub use group_plan::plan_groups;
pub use group_sample::sample_groups;
pub use holdout::{holdout_hash, is_held_out};
pub use input_range::{InputRange, PixelFlux};
pub use masked_pixels::{PixelPopulation, PixelSums};
pub use row_flags::{FlagDescription, RowFlags};
pub use shard::{Group, ObjectVersion, Shard};
pub use simulate::{SimulatedSpectrum, Simulation};
pub use star_key::StarKey;
