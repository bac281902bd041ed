//! From what a store says to a situation that somebody can act on.

use std::error::Error;
use std::io::ErrorKind;

use crate::objects::disk::{NoHardLinks, NotWritten};
use crate::objects::location::{Location, Place};
use crate::objects::patient::GivenUp;
use crate::objects::retries::in_words;
use crate::objects::verdict::{is_refused, status};
use crate::{Cause, StoreError};

/// What was being done when a store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
    List,
    Delete,
}

impl Action {
    fn done(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Write => "written",
            Action::List => "listed",
            Action::Delete => "deleted",
        }
    }
}

/// From the store's error to a situation that somebody can act on.
pub(crate) fn failed(
    location: &Location,
    action: Action,
    error: object_store::Error,
    secrets: &[String],
    endpoint: Option<&str>,
) -> StoreError {
    let uri = location.uri();
    let source = Cause::new(&error, secrets);
    if location.place == Place::Local && is_of_the_disk(&error) {
        return StoreError::DiskFailed {
            uri,
            action: action.done(),
            source,
        };
    }
    if location.place == Place::Local && is_one_too_many(&error) {
        return StoreError::TooManyFiles {
            uri,
            action: action.done(),
            source,
        };
    }
    if location.place == Place::Local && has_no_links(&error) {
        return StoreError::NoHardLinks { uri, source };
    }
    if location.place == Place::Local && matches!(action, Action::Write | Action::Delete) {
        return match no_room(&error) {
            Some(bytes) => StoreError::NoRoom { uri, bytes, source },
            None => StoreError::NotWritable { uri, source },
        };
    }
    match error {
        object_store::Error::NotFound { .. } if action != Action::Write => StoreError::NotFound { uri },
        object_store::Error::Precondition { .. } if action == Action::Read => StoreError::Replaced {
            object: uri,
            planned: "the one whose reading began".to_owned(),
            found: "another".to_owned(),
        },
        _ if given_up(&error).is_none() && is_refused(&error) && !asked_for_credentials(&source) => {
            StoreError::Denied {
                uri,
                action: action.done(),
                source,
            }
        }
        _ if location.place == Place::Local => {
            // Below a file is nothing, whatever the system calls that.
            if action == Action::Read && is_nothing(location) {
                return StoreError::NotFound { uri };
            }
            if source.text().contains("ermission denied") {
                return StoreError::Denied {
                    uri,
                    action: action.done(),
                    source,
                };
            }
            StoreError::Transfer {
                uri,
                action: action.done(),
                source,
            }
        }
        error => match given_up(&error) {
            Some(given_up) => spent(uri, action, given_up, secrets),
            None => s3_failed(uri, action, (&error, source), endpoint),
        },
    }
}

fn s3_failed(
    uri: String,
    action: Action,
    (error, source): (&object_store::Error, Cause),
    endpoint: Option<&str>,
) -> StoreError {
    let unreachable = ["error sending request", "onnection refused", "dns error", "onnect"];
    if lacks_credentials(error, &source) {
        StoreError::NoCredentials { uri, source }
    } else if status(error).is_none() && says(&source, &unreachable) {
        StoreError::Unreachable {
            uri,
            endpoint: endpoint.unwrap_or("the S3 endpoint of AWS").to_owned(),
            source,
        }
    } else {
        StoreError::Transfer {
            uri,
            action: action.done(),
            source,
        }
    }
}

/// Patience, or the credentials, came to an end.
fn spent(uri: String, action: Action, given_up: &GivenUp, secrets: &[String]) -> StoreError {
    let source = Cause::new(&given_up.last, secrets);
    match &given_up.expired {
        Some(credentials) => StoreError::Expired {
            uri,
            action: action.done(),
            credentials: credentials.clone(),
            source,
        },
        None if lacks_credentials(&given_up.last, &source) => StoreError::NoCredentials { uri, source },
        None => StoreError::Exhausted {
            uri,
            bytes: given_up
                .range
                .as_ref()
                .map_or_else(String::new, |range| format!(" (bytes {})", in_words(range))),
            action: action.done(),
            attempts: given_up.attempts,
            seconds: given_up.elapsed.as_secs_f64(),
            limit: given_up.limit,
            source,
        },
    }
}

fn lacks_credentials(error: &object_store::Error, source: &Cause) -> bool {
    // With an answer of the store comes its URL, which may be called anything.
    asked_for_credentials(source) || status(error).is_none() && says(source, &["redential"])
}

/// Whether it was not the store that was asked, but who gives credentials: an instance's metadata, a container's agent (Amazon's addresses for them).
fn asked_for_credentials(source: &Cause) -> bool {
    let asked = [
        "169.254.169.254",
        "/latest/api/token",
        "nstance metadata",
        "169.254.170.2",
        "[fd00:ec2::",
    ];
    says(source, &asked)
}

fn says(source: &Cause, parts: &[&str]) -> bool {
    parts.iter().any(|part| source.text().contains(part))
}

/// The end of patience, where an error is that; it may be wrapped in another one.
fn given_up(error: &object_store::Error) -> Option<&GivenUp> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

/// Bytes that were to be written (0: not known), where an error is that there is no room for them.
fn no_room(error: &object_store::Error) -> Option<u64> {
    let full = |cause: &(dyn Error + 'static)| {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(
            kind,
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
        )
    };
    let bytes = chain(error).find_map(|cause| cause.downcast_ref::<NotWritten>().map(|found| found.bytes));
    chain(error).any(full).then_some(bytes.unwrap_or(0))
}

/// Whether the disk, or the server of a network file system, failed, so that no other place on it would do.
fn is_of_the_disk(error: &object_store::Error) -> bool {
    // `EIO` on every Unix; it has no kind of its own.
    const EIO: i32 = 5;
    let failed = |error: &std::io::Error| {
        (cfg!(unix) && error.raw_os_error() == Some(EIO)) || error.kind() == ErrorKind::StaleNetworkFileHandle
    };
    of_the_system(error).any(failed)
}

/// Whether as many files are open as this process, or the whole system, may have.
fn is_one_too_many(error: &object_store::Error) -> bool {
    // On every Unix; they have no kind of their own.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && of_the_system(error).any(|error| matches!(error.raw_os_error(), Some(ENFILE | EMFILE)))
}

/// Whether it is a file system without hard links.
fn has_no_links(error: &object_store::Error) -> bool {
    of_the_system(error).any(|error| error.get_ref().is_some_and(|inner| inner.is::<NoHardLinks>()))
}

/// What the system said.
fn of_the_system(error: &object_store::Error) -> impl Iterator<Item = &std::io::Error> {
    chain(error).filter_map(|cause| cause.downcast_ref())
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// Whether nothing, or a directory, is at a path on disk.
pub(crate) fn is_absent(location: &Location) -> bool {
    is_nothing(location) || std::fs::metadata(location.uri()).is_ok_and(|found| found.is_dir())
}

/// Whether nothing is at a path on disk.
pub(crate) fn is_nothing(location: &Location) -> bool {
    let error = std::fs::metadata(location.uri()).err();
    error.is_some_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::objects::disk::Disk;

    #[test]
    fn a_disk_that_fails_is_told_from_a_place_that_takes_nothing() {
        let location = Location {
            store: Arc::new(Disk::default()),
            path: "out/claim.json".into(),
            place: Place::Local,
        };
        let of = |action, code| {
            let source = std::io::Error::from_raw_os_error(code);
            let error = object_store::Error::Generic {
                store: "disk",
                source: Box::new(NotWritten { bytes: 0, source }),
            };
            failed(&location, action, error, &[], None)
        };
        for (action, done) in [(Action::Write, "written"), (Action::Read, "read")] {
            let error = of(action, 5);
            assert!(matches!(error, StoreError::DiskFailed { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains("/out/claim.json") && said.contains(done), "{said}");
            assert!(!said.contains("directory"), "{said}");
        }
        // Of this process, and of the whole system.
        for code in [24, 23] {
            for (action, done) in [(Action::Write, "written"), (Action::Read, "read")] {
                let said = of(action, code).to_string();
                assert!(said.contains(done) && said.contains("ulimit -n"), "{said}");
                assert!(!said.contains("choose an output"), "{said}");
            }
        }
        // A folder that is not there, and one that is read alone.
        for code in [2, 30] {
            let error = of(Action::Write, code);
            assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
        }
    }
}
