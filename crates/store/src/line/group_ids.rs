//! The ledger of a line: which identifiers a reduction group holds, so that a list of spectra to leave out finds its groups without a spectrum
//! being read again.
//!
//! `groups/ids/<membership>-<column>.parquet` has one column, the catalogue's of identifiers, as text; it depends on the group's row groups and on
//! which column that is alone. `<column>` is the beginning of the SHA-256 of its name and type. Its metadata have the SHA-256 of the identifiers: which sums
//! may be taken again depends on them.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_cast::cast::cast;
use arrow_schema::DataType;
use fisherflow_spectra::Group;
use sha2::{Digest, Sha256};

use crate::tables::parquet_out::FileMetadata;
use crate::tables::table::Table;
use crate::{Catalogue, StoreError, Stores, hex, write_table};

/// Identifiers decoded at a time.
const BATCH_ROWS: usize = 65_536;

/// Key of the metadata under which the hash of the identifiers stands.
const IDS_SHA256: &str = "fisherflow.ids_sha256";

/// Letters of the hash of a column's name and type.
const OF_COLUMN: usize = 16;

/// Where the identifiers of groups are kept.
#[derive(Clone, Debug)]
pub struct GroupIds {
    stores: Stores,
    /// Folder; none: they are read from the catalogue every time.
    root: Option<String>,
}

impl GroupIds {
    /// Kept below `root`, the folder of groups; without one, nowhere.
    #[must_use]
    pub fn new(stores: &Stores, root: Option<&str>) -> Self {
        Self {
            stores: stores.clone(),
            root: root.map(|root| format!("{root}/ids")),
        }
    }

    /// The identifiers of a group that `catalogue` leaves out, in order, each once. The group's ids come from what is kept, or else, as where that is
    /// damaged, from the column of identifiers alone; `keep`: they are kept then.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn excluded_in(&self, catalogue: &Catalogue, group: &Group, keep: bool) -> Result<Vec<String>, StoreError> {
        let column = hex(&Sha256::digest(catalogue.facts().id_column()));
        let of_group = |root| format!("{root}/{}-{}.parquet", group.membership(), &column[..OF_COLUMN]);
        let uri = self.root.as_ref().map(of_group);
        let excluded = catalogue.excluded();
        let mut kept = None;
        if let Some(uri) = &uri
            && self.stores.exists(uri)?
        {
            if excluded.is_none() {
                return Ok(Vec::new());
            }
            kept = self.kept(uri)?;
        }
        let ids = match kept {
            Some(kept) => kept,
            None => {
                let name = &catalogue.columns().id;
                let ids = catalogue.ids(group)?;
                let ids = ids.iter().map(|ids| text(name, ids)).collect::<Result<Vec<_>, _>>()?;
                if let Some(uri) = uri.filter(|_| keep) {
                    self.keep(&uri, name, &ids)?;
                }
                ids
            }
        };
        let is_left_out = |id: &&str| excluded.is_some_and(|list| list.contains(id));
        let left_out = ids.iter().flat_map(|ids| ids.iter().flatten().filter(is_left_out));
        let mut found: Vec<String> = left_out.map(str::to_owned).collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// What is kept; `None` where it is not what was written, or has no hash, as earlier builds wrote it.
    fn kept(&self, uri: &str) -> Result<Option<Vec<StringArray>>, StoreError> {
        let read = || -> Result<_, StoreError> {
            let table = Table::open(&self.stores, uri)?;
            let Some(written) = table.metadata().0.get(IDS_SHA256) else {
                return Ok((false, None));
            };
            let batches = table.batches(None, BATCH_ROWS)?;
            let ids = batches
                .map(|batch| text(uri, batch?.column(0)))
                .collect::<Result<Vec<_>, _>>()?;
            Ok((true, (*written == sha256_of(&ids)).then_some(ids)))
        };
        let (says, ids) = match read() {
            Ok(ids) => ids,
            Err(
                StoreError::EmptyObject { .. }
                | StoreError::NotParquet { .. }
                | StoreError::Truncated { .. }
                | StoreError::BadRowGroup { .. },
            ) => (true, None),
            Err(error) => return Err(error),
        };
        if says && ids.is_none() {
            tracing::warn!(
                object = uri,
                "identifiers that a line keeps are not what was written: read from the catalogue again"
            );
        }
        Ok(ids)
    }

    fn keep(&self, uri: &str, name: &str, ids: &[StringArray]) -> Result<(), StoreError> {
        let batch = |ids: &StringArray| {
            let column: ArrayRef = Arc::new(ids.clone());
            RecordBatch::try_from_iter_with_nullable([(name, column, true)]).map_err(|error| unlike(name, &error))
        };
        let batches = ids.iter().map(batch).collect::<Result<Vec<_>, _>>()?;
        let metadata = FileMetadata::default().with(IDS_SHA256, sha256_of(ids));
        write_table(&self.stores, uri, batches, &metadata)?;
        Ok(())
    }
}

/// Of all identifiers, however they lie in batches.
fn sha256_of(ids: &[StringArray]) -> String {
    let mut hash = Sha256::new();
    for id in ids.iter().flatten() {
        // No identifier is as long as a null says.
        hash.update(id.map_or(u64::MAX, |id| id.len() as u64).to_le_bytes());
        hash.update(id.unwrap_or_default());
    }
    hex(&hash.finalize())
}

fn text(of: &str, ids: &ArrayRef) -> Result<StringArray, StoreError> {
    let ids = cast(ids, &DataType::Utf8).map_err(|error| unlike(of, &error))?;
    Ok(ids.as_string::<i32>().clone())
}

fn unlike(of: &str, error: &arrow_schema::ArrowError) -> StoreError {
    StoreError::ColumnType {
        object: of.to_owned(),
        column: "of identifiers".to_owned(),
        found: error.to_string(),
        expected: "text or integers".to_owned(),
    }
}
