//! Bytes on S3 or disk to batches of spectra, and results to Parquet.
//!
//! Invariants: only this crate knows `object_store` and `parquet`; it knows nothing of networks, curvature or posteriors. Nothing of a run
//! is visible before its manifest.

mod async_reader;
mod catalogue;
mod catalogue_schema;
mod decode;
mod error;
mod fetch;
mod location;
mod options;
mod stores;

pub use catalogue::{Catalogue, CatalogueSummary, OnBadObject, SkippedObject};
pub use error::{Cause, StoreError};
pub use fetch::Fetch;
pub use options::StoreOptions;
pub use stores::{Creation, Stores};
