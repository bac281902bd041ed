//! JSON documents: a store's objects that say something in text.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{StoreError, Stores};

impl Stores {
    /// What a document says; `None` where it is not there.
    pub(crate) fn document<T: DeserializeOwned>(&self, uri: &str) -> Result<Option<T>, StoreError> {
        let bytes = self.read_if_there(uri)?;
        bytes.map(|bytes| self.parse_document(uri, &bytes)).transpose()
    }

    /// What the bytes of a document say.
    pub(crate) fn parse_document<T: DeserializeOwned>(&self, uri: &str, bytes: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| self.bad_document(uri, &error))
    }

    /// A document for people to read as well: indented, with a line end.
    pub(crate) fn document_bytes<T: Serialize>(&self, uri: &str, document: &T) -> Result<Vec<u8>, StoreError> {
        let mut text = serde_json::to_vec_pretty(document).map_err(|error| self.bad_document(uri, &error))?;
        text.push(b'\n');
        Ok(text)
    }

    /// A document for programs, on one line.
    pub(crate) fn compact_document<T: Serialize>(&self, uri: &str, document: &T) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(document).map_err(|error| self.bad_document(uri, &error))
    }

    fn bad_document(&self, uri: &str, error: &serde_json::Error) -> StoreError {
        StoreError::BadDocument {
            uri: uri.to_owned(),
            source: self.cause(error),
        }
    }
}
