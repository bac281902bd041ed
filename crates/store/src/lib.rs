//! Bytes on S3 or disk to batches of spectra, and results to Parquet.
//!
//! Invariants: only this crate knows `object_store` and `parquet`; it knows nothing of networks, curvature or posteriors. Nothing of a run
//! is visible before its manifest.

mod catalogue;
mod cause;
mod documents;
mod error;
mod groups;
mod hex;
pub mod in_words;
mod line;
mod nearest_name;
mod objects;
mod output;
mod tables;
mod timestamp;

pub use catalogue::exclude_list::ExcludeList;
pub use catalogue::fetch::Fetch;
pub use catalogue::simulated::{simulated_columns, write_simulated};
pub use catalogue::{Catalogue, CatalogueSummary, LargestRowGroup, OnBadObject, SkippedObject};
pub use cause::{Cause, with_causes};
pub use error::StoreError;
pub use groups::commit::{Committed, Committing};
pub use groups::record::{GroupArray, GroupRecord, Purpose, SLICE, StoredArray, StoredSlice};
pub use groups::store::{GroupStore, SliceReader};
pub use hex::hex;
pub use line::commit::{Changes, Commit, ReleasedGroup};
pub use line::garbage::{Garbage, Removed, Retention};
pub use line::group_ids::GroupIds;
pub use line::known_catalogue::{CatalogueFacts, KnownCatalogue};
pub use line::{Line, Resolved};
pub use objects::create_once::Creation;
pub use objects::location::folder_of;
pub use objects::options::{CredentialsFile, StoreOptions};
pub use objects::patience::Patience;
pub use objects::stores::Stores;
pub use objects::traffic::{Traffic, TrafficCounts};
pub use output::Output;
pub use output::claim::{Claim, Held, Holding, SignOfLife};
pub use output::folders::{FolderSize, by_folder};
pub use output::manifest::{Manifest, ManifestInput};
pub use output::rendezvous::Rendezvous;
pub use output::verify::{Damage, Verified};
pub use tables::any_table::write_table;
pub use tables::intrinsic::IntrinsicRow;
pub use tables::jacobians::{JacobianRows, JacobianSchema, JacobianWriter};
pub use tables::marginal_variance::{MarginalRows, MarginalVarianceWriter};
pub use tables::matrices::{MatrixSet, MatrixWriter, StoredMatrices, StoredMatrix};
pub use tables::npy::to_npy;
pub use tables::output_hessian::{OutputHessianRows, OutputHessianSchema, OutputHessianValues, OutputHessianWriter};
pub use tables::parquet_out::{FileMetadata, WrittenFile};
pub use tables::part::TablePart;
pub use tables::predictions::{PredictionRows, PredictionSchema, PredictionWriter};
pub use tables::row_key::RowKeys;
pub use tables::small_tables::Column;
pub use tables::table::{Table, TableBatches};
pub use tables::tiles::{Tile, TileFolder};
pub use tables::vector::read_vector;
pub use timestamp::now_utc;
