//! From what a store says to a situation that somebody can act on.

use crate::StoreError;
use crate::error::Cause;
use crate::location::{Location, Place};

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
        return StoreError::NotWritable { uri, source };
    }
    match error {
        object_store::Error::NotFound { .. } if action != Action::Write => StoreError::NotFound { uri },
        object_store::Error::Precondition { .. } if action == Action::Read => StoreError::Replaced { object: uri },
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            StoreError::Denied {
                uri,
                action: action.done(),
                source,
            }
        }
        _ if location.place == Place::Local => {
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
        _ => s3_failed(uri, action, source, endpoint),
    }
}

fn s3_failed(uri: String, action: Action, source: Cause, endpoint: Option<&str>) -> StoreError {
    let says = |parts: &[&str]| parts.iter().any(|part| source.text().contains(part));
    if says(&["169.254.169.254", "/latest/api/token", "redential", "nstance metadata"]) {
        StoreError::NoCredentials { uri, source }
    } else if says(&["error sending request", "onnection refused", "dns error", "onnect"]) {
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

/// Whether nothing, or a directory, is at a path on disk.
pub(crate) fn is_absent(location: &Location) -> bool {
    match std::fs::metadata(location.uri()) {
        Ok(found) => found.is_dir(),
        Err(error) => matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
        ),
    }
}
