//! What the end-to-end tests share: the built binary and how it ended, catalogues with deliberate defects, run files, outputs read back,
//! and the helpers outside Rust (Python, an S3 server) that `tests/run` provides.
//!
//! Everything is asked of the program as a user asks it, through the binary, and checked from what it leaves. Where a helper is missing
//! the tests that need it say so and pass; `tests/run` sets all of them.

mod binary;
mod bucket;
mod catalogue;
mod chaos;
mod faulty_proxy;
mod network;
mod output;
mod outside;
mod place;
mod plain_network;
mod processes;
mod run_file;
mod table;

pub use binary::{Ended, fisherflow, fisherflow_on, repository, run};
pub use bucket::{Bucket, SECRET, on_s3, on_s3_without_keys};
pub use catalogue::{Spectrum, broken_parquet, parquet_bytes, simulated, write_catalogue, write_objects};
pub use chaos::{Attempt, Disturbance, Ends};
pub use faulty_proxy::{Fault, FaultyProxy, On, Request};
pub use network::{LABELS, he_normal, network};
pub use output::{counts, data_files, digests, everything_in, has_manifest, manifest, sha256, stages_left};
pub use outside::{consumer, python, s3_endpoint};
pub use place::Place;
pub use plain_network::{PlainLayer, PlainNetwork};
pub use processes::{Processes, free_addresses, stopped_at, wait_for_file};
pub use run_file::{RunFile, pipeline, toml_path};
pub use table::Table;
