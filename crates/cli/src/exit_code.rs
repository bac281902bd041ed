//! What can end a command, and the exit code that tells a scheduler about it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use fisherflow_dataflow::RunError;
use fisherflow_report::ReportError;
use fisherflow_store::{StoreError, now_utc, with_causes};
use serde_json::json;

use crate::args::LogFormat;
use crate::hostfile::HostfileError;
use crate::logging::Terminal;
use crate::run_file::RunFileError;

/// The run failed.
const FAILED: u8 = 1;
/// The run file or the arguments are wrong.
const WRONG: u8 = 2;
/// Data are refused.
const REFUSED: u8 = 3;

/// What ended a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The run file is wrong.
    #[error(transparent)]
    RunFile(#[from] RunFileError),
    /// The arguments are wrong.
    #[error("{0}")]
    Arguments(String),
    /// The hostfile is wrong.
    #[error(transparent)]
    Hostfile(#[from] HostfileError),
    /// The file of `--secret-file` cannot be read.
    #[error("cannot read the secret file {}", path.display())]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system does not let this process take its place in a cluster.
    #[error("cannot {what}")]
    System {
        /// What it does not let.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The folder that relative paths start from cannot be found.
    #[error("cannot find the folder of {file}")]
    Folder {
        /// A file in it.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The run ended early.
    #[error(transparent)]
    Run(Box<RunError>),
    /// The page of plots could not be made.
    #[error("report.html cannot be made")]
    Report(#[source] ReportError),
    /// The page of plots cannot be written into its output.
    #[error("{uri} cannot be written: name another file for it with --out")]
    NoPlaceForReport {
        /// The page.
        uri: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// What stands at a URI is not what it should be.
    #[error("{uri}: {problem}")]
    Refused {
        /// The URI.
        uri: String,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Output(#[from] std::io::Error),
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        RunError::from(error).into()
    }
}

impl From<ReportError> for CliError {
    /// What the store does is the store's, whoever reads.
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Store(error) => error.into(),
            other => Self::Report(other),
        }
    }
}

impl CliError {
    /// The folder of `file` cannot be found.
    pub fn folder(file: &str, source: std::io::Error) -> Self {
        let file = file.to_owned();
        Self::Folder { file, source }
    }

    /// 1 the run failed, 2 the run file or arguments are wrong, 3 data refused, 75 run again: a process was lost or asked to end, the store
    /// gave out, or sums were damaged.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::RunFile(_)
            | Self::Arguments(_)
            | Self::Hostfile(_)
            | Self::SecretFile { .. }
            | Self::Folder { .. } => WRONG,
            Self::Run(error) => error.exit_code(),
            Self::Refused { .. } | Self::Report(ReportError::Damaged { .. }) => REFUSED,
            Self::Output(_) | Self::Report(_) | Self::NoPlaceForReport { .. } | Self::System { .. } => FAILED,
        }
    }
}

/// How the process ends, what went wrong being said.
pub fn of(done: Result<(), CliError>, terminal: &Terminal) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(say(&error, terminal)),
    }
}

/// Says what went wrong, with its causes; its exit code.
pub fn say(error: &CliError, terminal: &Terminal) -> u8 {
    let code = error.exit_code();
    match terminal.format {
        LogFormat::Text => {
            // Where nobody listens the exit code has to do.
            let _ = writeln!(std::io::stderr(), "error: {} (exit code {code})", with_causes(error));
        }
        LogFormat::Json if tracing::enabled!(tracing::Level::ERROR) => {
            tracing::error!(exit_code = code, error = with_causes(error), "failed");
        }
        LogFormat::Json => {
            // FISHERFLOW_LOG says nothing of this, and a failure without a word helps nobody.
            let line = json!({ "timestamp": now_utc(), "level": "ERROR", "message": "failed", "exit_code": code, "error": with_causes(error) });
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let source = std::io::Error::other("no such file");
        let error = CliError::folder("a.toml", source);
        assert_eq!(with_causes(&error), "cannot find the folder of a.toml: no such file");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn refused_data_exit_with_3() {
        let error = CliError::Refused {
            uri: "out".to_owned(),
            problem: "is empty".to_owned(),
        };
        assert_eq!(error.exit_code(), 3);
        assert_eq!(error.to_string(), "out: is empty");
    }

    #[test]
    fn a_store_that_gives_out_while_a_page_is_drawn_is_one() {
        let lost = StoreError::ClaimRemoved {
            output: "out".to_owned(),
        };
        assert_eq!(CliError::from(ReportError::Store(lost)).exit_code(), 75);
        let gone = StoreError::NotFound { uri: "a".to_owned() };
        assert_eq!(CliError::from(ReportError::Store(gone)).exit_code(), 3);
        let unfinished = ReportError::NotFinished {
            output: "out".to_owned(),
        };
        assert_eq!(CliError::from(unfinished).exit_code(), 1);
    }
}
