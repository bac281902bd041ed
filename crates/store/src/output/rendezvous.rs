//! Processes that know nothing of one another but the output leave their addresses there: `rendezvous/<run id>/<process>.json`.
//!
//! An entry is a hint and no more: one of an earlier attempt leads nowhere, or to a process that fails the handshake, and is replaced by
//! the next to come with its number. So every process writes its own, looks again for those it still needs, and deletes its own when done.

use serde::{Deserialize, Serialize};

use crate::{StoreError, Stores};

/// The meeting place of one run.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    stores: Stores,
    uri: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    address: String,
}

impl Rendezvous {
    pub(crate) fn new(stores: &Stores, uri: &str) -> Self {
        Self {
            stores: stores.clone(),
            uri: uri.to_owned(),
        }
    }

    /// Leaves the address of a process, over what an earlier attempt left; touches nothing where it stands there already.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn announce(&self, process: usize, address: &str) -> Result<(), StoreError> {
        if self.address(process)?.as_deref() == Some(address) {
            return Ok(());
        }
        let uri = self.entry(process);
        let entry = Entry {
            address: address.to_owned(),
        };
        self.stores.write(&uri, self.stores.compact_document(&uri, &entry)?)
    }

    /// The address that a process left; `None` where it has not come yet, or something else stands there.
    ///
    /// # Errors
    /// The store does not say.
    pub fn address(&self, process: usize) -> Result<Option<String>, StoreError> {
        let found = self.stores.read_if_there(&self.entry(process))?;
        let entry: Option<Entry> = found.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(entry.map(|entry| entry.address))
    }

    /// Takes back the address of a process.
    ///
    /// # Errors
    /// It cannot be deleted.
    pub fn leave(&self, process: usize) -> Result<(), StoreError> {
        self.stores.delete(&self.entry(process))
    }

    fn entry(&self, process: usize) -> String {
        format!("{}/{process}.json", self.uri)
    }
}
