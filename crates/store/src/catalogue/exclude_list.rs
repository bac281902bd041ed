//! The spectra that a run leaves out by identifier: tables of ids, read once.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_cast::cast::cast;
use arrow_schema::DataType;
use sha2::{Digest, Sha256};

use crate::catalogue::schema::{check_no_mask_beside, find, is_key, type_name};
use crate::hex::hex;
use crate::tables::table::Table;
use crate::{StoreError, Stores};

/// Identifiers decoded at a time.
const BATCH_ROWS: usize = 65_536;

/// Identifiers of spectra that are in no sum, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExcludeList {
    ids: HashSet<String>,
    sha256: String,
    /// Those that it was read from, by URI.
    objects: Vec<String>,
}

impl ExcludeList {
    /// Reads the column `id` of every table; nulls say nothing. `type_of_id` is the catalogue's, of the objects at `catalogue`.
    ///
    /// # Errors
    /// A table is not there, or one of its objects has no such column, or identifiers that are numbers where the catalogue's are text, or the
    /// other way.
    pub(crate) fn read(
        stores: &Stores,
        uris: &[String],
        id: &str,
        type_of_id: &DataType,
        catalogue: &str,
    ) -> Result<Self, StoreError> {
        let (mut ids, mut objects) = (HashSet::new(), Vec::new());
        for uri in uris {
            let table = Table::open(stores, uri)?;
            objects.extend(table.objects().iter().map(|object| object.path.clone()));
            let check =
                |object: &str, found: &DataType| match is_key(found) && found.is_integer() == type_of_id.is_integer() {
                    true => Ok(()),
                    false => Err(StoreError::ColumnType {
                        object: object.to_owned(),
                        column: id.to_owned(),
                        found: type_name(found),
                        expected: format!("{} as in {catalogue}", type_name(type_of_id)),
                    }),
                };
            check(uri, find(uri, table.schema(), id)?.data_type())?;
            let mut batches = table.batches(Some(&[id]), BATCH_ROWS)?;
            while let Some(batch) = batches.next() {
                let batch = batch?;
                // Each table of a folder has columns and types of its own.
                let (object, schema) = batches.object().unwrap_or((uri, table.schema()));
                check(object, batch.column(0).data_type())?;
                check_no_mask_beside(object, schema, id, false)?;
                let text = cast(batch.column(0), &DataType::Utf8).map_err(|error| StoreError::ColumnType {
                    object: object.to_owned(),
                    column: id.to_owned(),
                    found: error.to_string(),
                    expected: type_name(type_of_id),
                })?;
                ids.extend(text.as_string::<i32>().iter().flatten().map(str::to_owned));
            }
        }
        Ok(Self {
            objects,
            ..Self::of(ids)
        })
    }

    /// The list of given ids.
    #[must_use]
    pub fn of(ids: HashSet<String>) -> Self {
        let mut sorted: Vec<&String> = ids.iter().collect();
        sorted.sort_unstable();
        let mut hash = Sha256::new();
        for id in sorted {
            hash.update((id.len() as u64).to_le_bytes());
            hash.update(id);
        }
        let sha256 = hex(&hash.finalize());
        Self {
            ids,
            sha256,
            objects: Vec::new(),
        }
    }

    /// Whether a spectrum of this identifier is left out.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Number of identifiers, each once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it leaves nothing out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The objects that it was read from, by URI.
    #[must_use]
    pub fn objects(&self) -> &[String] {
        &self.objects
    }

    /// SHA-256, in hexadecimal, of the identifiers in order: the same for the same ids, however many tables they stand in.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_its_ids() {
        let list = |ids: &[&str]| ExcludeList::of(ids.iter().map(|&id| id.to_owned()).collect());
        assert_eq!(list(&["a", "b"]), list(&["b", "a", "b"]));
        assert_ne!(list(&["ab"]).sha256(), list(&["a", "b"]).sha256());
        assert!(list(&["a"]).contains("a") && !list(&["a"]).contains("b"));
        assert_eq!(list(&["b", "a", "b"]).len(), 2);
        assert!(list(&[]).is_empty());
    }
}
