//! Bytes on S3 or disk to batches of spectra, and results to Parquet.
//!
//! Invariants: only this crate knows `object_store` and `parquet`; it knows nothing of networks, curvature or posteriors. Nothing of a run
//! is visible before its manifest.

mod any_table;
mod async_reader;
mod blocks;
mod catalogue;
mod catalogue_object;
mod catalogue_schema;
mod certificate;
mod claim;
mod create_once;
mod credentials;
mod decode;
mod disk;
mod error;
mod evidence;
mod failure;
mod fetch;
mod group_store;
mod holdout;
mod intrinsic;
mod jacobians;
mod lists;
mod location;
mod manifest;
mod marginal_variance;
mod matrices;
mod npy;
mod options;
mod output;
mod parquet_out;
mod patience;
mod patient;
mod patient_upload;
mod predictions;
mod rendezvous;
mod retries;
mod s3_client;
mod simulated;
mod small_tables;
mod stores;
mod table;
mod tidy;
mod tiles;
mod timestamp;
mod vector;
mod verdict;
mod verify;

pub use any_table::write_table;
pub use blocks::BlockRow;
pub use catalogue::{Catalogue, CatalogueSummary, OnBadObject, SkippedObject};
pub use certificate::CertificateRow;
pub use claim::{Claim, Held, Holding, SignOfLife};
pub use create_once::Creation;
pub use error::{Cause, StoreError};
pub use evidence::EvidenceRow;
pub use fetch::Fetch;
pub use group_store::{
    Committed, Committing, GroupArray, GroupRecord, GroupStore, Purpose, SLICE, SliceReader, StoredArray, StoredSlice,
};
pub use holdout::HoldoutRow;
pub use intrinsic::IntrinsicRow;
pub use jacobians::{JacobianRows, JacobianSchema, JacobianWriter};
pub use manifest::{Manifest, ManifestInput};
pub use marginal_variance::{MarginalRows, MarginalVarianceWriter};
pub use matrices::{MatrixRows, MatrixSet, MatrixWriter, StoredMatrices, StoredMatrix};
pub use npy::to_npy;
pub use options::{CredentialsFile, StoreOptions};
pub use output::Output;
pub use parquet_out::{FileMetadata, WrittenFile};
pub use patience::Patience;
pub use predictions::{PredictionRows, PredictionSchema, PredictionWriter};
pub use rendezvous::Rendezvous;
pub use simulated::{simulated_columns, write_simulated};
pub use small_tables::{Column, TableWriter};
pub use stores::Stores;
pub use table::{Table, TableBatches};
pub use tiles::{StoredTile, TileFolder};
pub use timestamp::now_utc;
pub use vector::read_vector;
pub use verify::Verified;
