//! Writing an object that only one may write: a claim, a commit, the mark of a finished group.
//!
//! A conditional write whose answer gets lost is sent again, and then meets its own object: that the object exists says nothing of who
//! wrote it. So what is there is read back and compared with what was to be written.

use object_store::{Error, ObjectStore, PutMode, PutOptions, PutPayload};

use crate::objects::failure::Action;
use crate::{StoreError, Stores};

/// Times that an object may appear and vanish under our hands.
const ATTEMPTS: usize = 5;

/// What stands at the place of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// What was given: it was not there before.
    Created,
    /// What was given: it was there before, byte for byte, or was written by this very call and the answer got lost.
    Ours,
    /// Something else.
    Others(
        /// What it holds.
        Vec<u8>,
    ),
}

impl Stores {
    /// Writes the object if it is not there. Of several that try at once with different bytes, one gets [`Creation::Created`] or
    /// [`Creation::Ours`], the others [`Creation::Others`]. Where who wrote matters, the bytes must say who: two that write the same
    /// cannot be told apart.
    ///
    /// # Errors
    /// It cannot be written, or what is there cannot be read.
    pub fn create_once(&self, uri: &str, bytes: Vec<u8>) -> Result<Creation, StoreError> {
        let location = self.locate(uri)?;
        let payload = PutPayload::from(bytes.clone());
        let mut vanished = 0;
        loop {
            let options = PutOptions::from(PutMode::Create);
            let put = location.store.put_opts(&location.path, payload.clone(), options);
            let error = match self.block_on(put) {
                Ok(_) => return Ok(Creation::Created),
                Err(error) => error,
            };
            let exists = matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. });
            let failed = self.failed(&location, Action::Write, error);
            match self.read(uri) {
                Ok(found) if found == bytes => return Ok(Creation::Ours),
                Ok(found) if exists => return Ok(Creation::Others(found)),
                // It was deleted since, or the other's write came to nothing (409).
                Err(StoreError::NotFound { .. }) if exists && vanished < ATTEMPTS => vanished += 1,
                Err(error) if exists => return Err(error),
                _ => return Err(failed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn the_same_bytes_are_ours_and_others_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().join("a/claim.json").to_str().unwrap().to_owned();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        assert_eq!(stores.create_once(&uri, b"me".to_vec()).unwrap(), Creation::Created);
        assert_eq!(stores.create_once(&uri, b"me".to_vec()).unwrap(), Creation::Ours);
        assert_eq!(
            stores.create_once(&uri, b"you".to_vec()).unwrap(),
            Creation::Others(b"me".to_vec())
        );
        assert_eq!(stores.read(&uri).unwrap(), b"me");
    }
}
