//! Writing an object that only one may write: a claim, a commit, the mark of a finished group.
//!
//! A conditional write whose answer gets lost is sent again, and then meets its own object: that the object exists says nothing of who
//! wrote it. So what is there is read back and compared with what was to be written.

use bytes::Bytes;
use object_store::{Error, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};

use crate::objects::failure::Action;
use crate::objects::location::{Location, Place};
use crate::objects::patient::Once;
use crate::objects::verdict::lacks;
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
        self.block_on(self.create_once_at(&location, Bytes::from(bytes)))
    }

    /// The same on the I/O threads.
    pub(crate) async fn create_once_at(&self, location: &Location, bytes: Bytes) -> Result<Creation, StoreError> {
        let mut vanished = 0;
        loop {
            let options = PutOptions::from(PutMode::Create);
            let payload = PutPayload::from(bytes.clone());
            let error = match location.store.put_opts(&location.path, payload, options).await {
                Ok(_) => return Ok(Creation::Created),
                Err(error) => error,
            };
            let exists = matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. });
            if lacks(&error) {
                return Err(StoreError::LacksCondition {
                    uri: location.uri(),
                    source: self.cause(&error),
                });
            }
            let failed = self.failed(location, Action::Write, error);
            let mut reading = GetOptions::default();
            if !exists {
                // Patience is spent, or would not help.
                reading.extensions.insert(Once);
            }
            match self.read_by(location, reading).await {
                Ok(found) if found == bytes => return Ok(Creation::Ours),
                Ok(found) if exists => return Ok(Creation::Others(found.to_vec())),
                // It was deleted since, or the other's write came to nothing (409).
                Err(StoreError::NotFound { .. }) if exists && vanished < ATTEMPTS => vanished += 1,
                Err(error) if exists => return Err(error),
                _ => return Err(failed),
            }
        }
    }

    /// Refuses a store that ignores the condition of a conditional write: all that is told by who was first would be told wrongly there.
    /// `bytes` are what this process has just created at `uri`; with white space behind them they must mean the same.
    ///
    /// # Errors
    /// It is such a store ([`StoreError::IgnoresCondition`]), or does not say.
    pub(crate) fn check_condition(&self, uri: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let location = self.locate(uri)?;
        if location.place == Place::Local {
            return Ok(());
        }
        // Taken once, what was there may have been deleted meanwhile. The second time it is as it was.
        for bytes in [[bytes, b"\n"].concat(), bytes.to_vec()] {
            let options = PutOptions::from(PutMode::Create);
            let put = location
                .store
                .put_opts(&location.path, PutPayload::from(bytes), options);
            match self.block_on(put) {
                Ok(_) => {}
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => return Ok(()),
                Err(error) => return Err(self.failed(&location, Action::Write, error)),
            }
        }
        Err(StoreError::IgnoresCondition { uri: location.uri() })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::objects::memory::{Manner, Memory};
    use crate::{Claim, GroupArray, GroupStore, Output, Patience, Purpose, StoreOptions, StoredSlice};

    #[test]
    fn an_output_on_a_store_that_ignores_conditions_cannot_be_claimed() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        Memory::bucket(&stores, "careful", Manner::Careful);
        Memory::bucket(&stores, "careless", Manner::Careless);
        let claim = Claim {
            run_id: "r".into(),
            host: "node-1".into(),
            pid: 1,
            started: "2024-01-01T00:00:00Z".into(),
            machine: String::new(),
            born: 0,
            beat: 0,
        };
        let output = Output::open(&stores, "s3://careful/out").unwrap();
        assert!(output.claim(&claim, false).unwrap().is_some());
        assert_eq!(output.holder().unwrap(), Some(claim.clone()));
        let output = Output::open(&stores, "s3://careless/out").unwrap();
        let error = output.claim(&claim, false).unwrap_err();
        assert!(matches!(error, StoreError::IgnoresCondition { .. }), "{error}");
        assert!(error.to_string().contains("s3://careless/out"), "{error}");
        // The next run is told the same.
        assert_eq!(output.holder().unwrap(), None);
    }

    #[test]
    fn a_place_is_listed_no_further_than_to_the_first_that_is_not_ours() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        Memory::bucket(&stores, "unlisted", Manner::Unlisted);
        stores.write("s3://unlisted/out/thesis.tex", vec![1]).unwrap();
        let output = Output::open(&stores, "s3://unlisted/out").unwrap();
        let error = output.check_claimable().unwrap_err();
        assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn a_group_whose_record_stands_is_committed_whatever_was_heard_of_it() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        Memory::bucket(&stores, "unheard", Manner::Unheard);
        let groups = GroupStore::new(&stores, "s3://unheard/groups");
        let sums = GroupArray {
            key: 0,
            purpose: Purpose::Sum,
            n_spectra: 1,
            values: vec![1.0, 2.0],
        };
        let given = (vec![sums], Vec::new(), serde_json::Value::Null);
        let committing = groups.commit("pass", "a", "1", 0, given, || ()).unwrap();
        let committed = committing.wait().unwrap();
        assert_eq!(committed.record.object.as_deref(), Some("a-1.sums"));
        assert_eq!(groups.record("pass", "a").unwrap(), Some(committed.record));
    }

    /// Answers a request to a store that has nothing with `status`, or never, and notes its method. First contacts are always answered.
    fn answer(stream: TcpStream, status: Option<&str>, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
        let mut request = BufReader::new(stream);
        let mut line = String::new();
        request.read_line(&mut line)?;
        let Some((method, _)) = line.split_once(' ') else {
            return Ok(());
        };
        let mut length = 0;
        loop {
            let mut header = String::new();
            request.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        request.read_exact(&mut vec![0; length])?;
        asked.lock().unwrap().push(method.to_owned());
        let status = match (method, status) {
            ("HEAD", _) => "404 Not Found",
            (_, Some(status)) => status,
            (_, None) => loop {
                std::thread::park();
            },
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        request.into_inner().write_all(answer.as_bytes())
    }

    /// A bucket whose store is busy, and the methods of the requests to it.
    fn busy() -> (Stores, Arc<Mutex<Vec<String>>>) {
        let patience = Patience {
            retries: 2,
            ..Patience::default()
        };
        answered(Some("503 Slow Down"), patience)
    }

    /// A bucket whose store [`answer`]s so, and the methods of the requests to it.
    fn answered(status: Option<&'static str>, patience: Patience) -> (Stores, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || answer(stream.unwrap(), status, &noted));
            }
        });
        let s3 = [
            ("aws_access_key_id", "a"),
            ("aws_secret_access_key", "b"),
            ("aws_region", "us-east-1"),
            ("endpoint", endpoint.as_str()),
        ];
        let options = StoreOptions {
            patience,
            s3: s3.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            ..StoreOptions::default()
        };
        (Stores::new(options, 1).unwrap(), asked)
    }

    fn is_spent(error: &StoreError) -> bool {
        matches!(
            error,
            StoreError::Exhausted {
                attempts: 3,
                limit: "retries",
                ..
            }
        )
    }

    #[test]
    fn where_patience_is_spent_what_stands_there_is_looked_for_once() {
        let (stores, asked) = busy();
        let error = stores
            .create_once("s3://survey/out/a.done", b"me".to_vec())
            .unwrap_err();
        assert!(is_spent(&error), "{error}");
        assert_eq!(*asked.lock().unwrap(), ["HEAD", "PUT", "PUT", "PUT", "GET"]);
    }

    #[test]
    fn a_store_that_says_it_has_no_conditional_writes_is_asked_once() {
        let (stores, asked) = answered(Some("501 Not Implemented"), Patience::default());
        let error = stores
            .create_once("s3://survey/out/claim.json", b"me".to_vec())
            .unwrap_err();
        assert!(matches!(error, StoreError::LacksCondition { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains("s3://survey/out/claim.json") && said.contains("If-None-Match"),
            "{said}"
        );
        assert_eq!(*asked.lock().unwrap(), ["HEAD", "PUT"]);
    }

    #[test]
    fn where_patience_is_spent_on_sums_their_size_is_not_asked_for() {
        let (stores, asked) = busy();
        let slice = StoredSlice {
            object: "a-1.sums".to_owned(),
            start: 0,
            len: 2,
            sha256: Vec::new(),
        };
        // As whoever read the group's record has found it.
        stores.locate("s3://survey/groups").unwrap();
        let mut read = GroupStore::new(&stores, "s3://survey/groups").read("pass", vec![slice]);
        let error = read.next().unwrap().unwrap_err();
        assert!(is_spent(&error), "{error}");
        assert_eq!(*asked.lock().unwrap(), ["HEAD", "GET", "GET", "GET"]);
    }

    #[test]
    fn where_a_store_never_answers_the_time_of_a_request_is_named() {
        let patience = Patience {
            retries: 0,
            timeout: Duration::from_secs(1),
            ..Patience::default()
        };
        let (stores, asked) = answered(None, patience);
        let error = stores.read("s3://survey/a").unwrap_err();
        assert!(matches!(error, StoreError::Exhausted { .. }), "{error}");
        assert!(error.to_string().contains("retries, and timeout_seconds"), "{error}");
        assert_eq!(*asked.lock().unwrap(), ["HEAD", "GET"]);
    }

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
