//! From what a store says to a situation that somebody can act on.

use std::error::Error;
use std::io::ErrorKind;

use crate::objects::disk::NotWritten;
use crate::objects::location::{Location, Place};
use crate::objects::patient::GivenUp;
use crate::objects::retries::in_words;
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
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
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
            None => s3_failed(uri, action, source, endpoint),
        },
    }
}

fn s3_failed(uri: String, action: Action, source: Cause, endpoint: Option<&str>) -> StoreError {
    if lacks_credentials(&source) {
        StoreError::NoCredentials { uri, source }
    } else if says(
        &source,
        &["error sending request", "onnection refused", "dns error", "onnect"],
    ) {
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
        None if lacks_credentials(&source) => StoreError::NoCredentials { uri, source },
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

fn lacks_credentials(source: &Cause) -> bool {
    let parts = ["169.254.169.254", "/latest/api/token", "redential", "nstance metadata"];
    says(source, &parts)
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
