//! What can be wrong with a run file: every message says where, which key, what is expected and what to do.

use std::fmt;
use std::sync::Arc;

/// A line of a run file; displays as `file:line`, which terminals and editors make a link of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Line, counted from 1.
    pub line: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A run file that cannot be read, or does not say what a run needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunFileError {
    /// The file cannot be read.
    #[error("cannot read the run file {file}")]
    Unreadable {
        /// The file as the user named it.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML.
    #[error("{at}: not valid toml: {message}")]
    Syntax {
        /// Where.
        at: At,
        /// What the parser says.
        message: String,
    },
    /// A key that is not in the contract.
    #[error("{at}: unknown key `{key}`: {remedy}")]
    UnknownKey {
        /// Where.
        at: At,
        /// The key with its table.
        key: String,
        /// What was probably meant, and all known keys.
        remedy: String,
    },
    /// A value of another type than the key takes.
    #[error("{at}: `{key}` takes {expected}, found {found}")]
    WrongType {
        /// Where.
        at: At,
        /// The key with its table.
        key: String,
        /// What it takes.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A value of the right type that makes no sense.
    #[error("{at}: `{key}` {problem}")]
    Invalid {
        /// Where.
        at: At,
        /// The key with its table.
        key: String,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// A key that a run cannot do without.
    #[error("{at}: `{key}` is missing: {remedy}")]
    Missing {
        /// The table that should have it.
        at: At,
        /// The key with its table.
        key: String,
        /// What to write.
        remedy: String,
    },
    /// Part of the contract that this version does not do yet.
    #[error("{at}: `{key}`: {said} is not yet supported by this version of fisherflow; {supported}")]
    Unsupported {
        /// Where.
        at: At,
        /// The key with its table.
        key: String,
        /// What the file asks for.
        said: String,
        /// What can stand there instead.
        supported: String,
    },
}
