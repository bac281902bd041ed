//! Whether trying again can help, by what a store said.

use object_store::Error;

use crate::Cause;

/// S3's names for credentials that were good once.
const EXPIRED: [&str; 5] = [
    "ExpiredToken",
    "TokenRefreshRequired",
    "InvalidToken",
    "InvalidAccessKeyId",
    "RequestExpired",
];
/// S3's names for what passes, beside every status from 500 but 501.
const PASSING: [&str; 2] = ["RequestTimeout<", "SlowDown"];
/// S3's name for a request that a wrong clock dated (403): that of a machine that was suspended is set right within minutes.
const SKEWED: &str = "RequestTimeTooSkewed<";
/// S3's names for a write that met another one at work (409): what came of that nobody knows yet.
const CONFLICTS: [&str; 2] = ["ConditionalRequestConflict", "OperationAborted"];

/// S3's name for what a store does not have (501, as a rule).
const LACKING: &str = "NotImplemented<";

/// What comes without a status and would come again: a redirect to nowhere, and a deletion of several that the store refuses one of.
const FINAL: [&str; 2] = ["without LOCATION", "(code: AccessDenied)"];

/// What an error means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It would say the same again.
    Final,
    /// It may pass.
    Again,
    /// The credentials are no longer good.
    Expired,
    /// Refused, and not said why: the credentials, or what they permit.
    Refused,
}

/// What an error means for the next attempt.
pub(crate) fn verdict(error: &Error) -> Verdict {
    let said = Cause::new(error, &[]);
    let says = |parts: &[&str]| parts.iter().any(|part| said.text().contains(part));
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::Generic { .. } => {}
        // To the client 409 is "already exists", which it need not.
        _ if status(error) == Some(409) && says(&CONFLICTS) => return Verdict::Again,
        _ => return Verdict::Final,
    }
    match status(error) {
        _ if is_skewed(&said) => Verdict::Again,
        _ if says(&EXPIRED) => Verdict::Expired,
        Some(401) => Verdict::Expired,
        _ if matches!(error, Error::Unauthenticated { .. }) => Verdict::Expired,
        _ if is_refused(error) => Verdict::Refused,
        _ if lacks(error) => Verdict::Final,
        Some(408 | 429 | 500..) => Verdict::Again,
        Some(_) if says(&PASSING) => Verdict::Again,
        Some(_) => Verdict::Final,
        None if says(&FINAL) => Verdict::Final,
        // The connection, or an answer that was cut short.
        None => Verdict::Again,
    }
}

/// Whether a store said that this machine's clock is wrong.
pub(crate) fn is_skewed(said: &Cause) -> bool {
    said.text().contains(SKEWED)
}

/// Whether a store said that it does not have what was asked of it.
pub(crate) fn lacks(error: &Error) -> bool {
    status(error) == Some(501) || Cause::new(error, &[]).text().contains(LACKING)
}

/// Whether a store said that it does not let us: for a listing the client has no error of its own.
pub(crate) fn is_refused(error: &Error) -> bool {
    let is_named = matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. });
    is_named || matches!(status(error), Some(401 | 403))
}

/// The status that the store answered with; `None` where no whole answer came.
pub(crate) fn status(error: &Error) -> Option<u16> {
    let said = Cause::new(error, &[]);
    let (_, after) = said.text().split_once("non-2xx status code: ")?;
    after.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Error {
        Error::Generic {
            store: "S3",
            source: format!("Server returned non-2xx status code: {text}").into(),
        }
    }

    #[test]
    fn what_passes_is_tried_again() {
        for (text, expected) in [
            ("503 Service Unavailable: <Code>SlowDown</Code>", Verdict::Again),
            ("500 Internal Server Error: ", Verdict::Again),
            ("501 Not Implemented: ", Verdict::Final),
            ("400 Bad Request: <Code>NotImplemented</Code>", Verdict::Final),
            ("429 Too Many Requests: ", Verdict::Again),
            ("400 Bad Request: <Code>RequestTimeout</Code>", Verdict::Again),
            ("400 Bad Request: <Code>ExpiredToken</Code>", Verdict::Expired),
            ("400 Bad Request: <Code>InvalidArgument</Code>", Verdict::Final),
            ("416 Range Not Satisfiable: ", Verdict::Final),
            ("403 Forbidden: <Code>AccessDenied</Code>", Verdict::Refused),
            ("401 Unauthorized: ", Verdict::Expired),
        ] {
            assert_eq!(verdict(&said(text)), expected, "{text}");
        }
        for (text, expected) in [
            ("409 Conflict: <Code>ConditionalRequestConflict</Code>", Verdict::Again),
            ("409 Conflict: <Code>OperationAborted</Code>", Verdict::Again),
            (
                "412 Precondition Failed: <Code>PreconditionFailed</Code>",
                Verdict::Final,
            ),
        ] {
            let exists = Error::AlreadyExists {
                path: "a".to_owned(),
                source: format!("Server returned non-2xx status code: {text}").into(),
            };
            assert_eq!(verdict(&exists), expected, "{text}");
        }
        let cut = Error::Generic {
            store: "S3",
            source: "error decoding response body".into(),
        };
        assert_eq!((status(&cut), verdict(&cut)), (None, Verdict::Again));
        let denied = |text: &str| Error::PermissionDenied {
            path: String::new(),
            source: text.to_owned().into(),
        };
        assert_eq!(verdict(&denied("<Code>ExpiredToken</Code>")), Verdict::Expired);
        assert_eq!(verdict(&denied("<Code>AccessDenied</Code>")), Verdict::Refused);
        let skewed = denied("403 Forbidden: <Code>RequestTimeTooSkewed</Code>");
        assert_eq!(verdict(&skewed), Verdict::Again);
    }
}
