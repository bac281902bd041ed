//! The ledger of a line: which identifiers a reduction group holds, so that a list of spectra to leave out finds its groups without a spectrum
//! being read again.
//!
//! `groups/ids/<membership>-<column>.parquet` has one column, the catalogue's of identifiers, as text; it depends on the group's row groups and on
//! which column that is alone. `<column>` is the beginning of the SHA-256 of its name and type.

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

    /// The identifiers of a group that `catalogue` leaves out, in order, each once. The group's ids come from what is kept, or else from the column
    /// of identifiers alone; `keep`: they are kept then.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn excluded_in(&self, catalogue: &Catalogue, group: &Group, keep: bool) -> Result<Vec<String>, StoreError> {
        let kept = self.root.as_ref();
        let column = hex(&Sha256::digest(catalogue.facts().id_column()));
        let kept = kept.map(|root| format!("{root}/{}-{}.parquet", group.membership(), &column[..OF_COLUMN]));
        let is_kept = match &kept {
            Some(uri) => self.stores.exists(uri)?,
            None => false,
        };
        let excluded = catalogue.excluded();
        let is_left_out = |id: &str| excluded.is_some_and(|list| list.contains(id));
        let mut found: Vec<String> = Vec::new();
        match &kept {
            Some(uri) if is_kept => {
                if excluded.is_some() {
                    for batch in Table::open(&self.stores, uri)?.batches(None, BATCH_ROWS)? {
                        let ids = text(uri, batch?.column(0))?;
                        found.extend(ids.iter().flatten().filter(|id| is_left_out(id)).map(str::to_owned));
                    }
                }
            }
            _ => {
                let mut batches: Vec<RecordBatch> = Vec::new();
                for ids in catalogue.ids(group)? {
                    let ids = text(&catalogue.columns().id, &ids)?;
                    found.extend(ids.iter().flatten().filter(|id| is_left_out(id)).map(str::to_owned));
                    if keep && kept.is_some() {
                        let column: ArrayRef = Arc::new(ids);
                        let named = [(catalogue.columns().id.as_str(), column, true)];
                        batches.push(
                            RecordBatch::try_from_iter_with_nullable(named)
                                .map_err(|error| unlike(&catalogue.columns().id, &error))?,
                        );
                    }
                }
                if let Some(uri) = kept.filter(|_| keep) {
                    write_table(&self.stores, &uri, batches, &FileMetadata::default())?;
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
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
