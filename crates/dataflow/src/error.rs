//! Why a run ended early, and with which exit code.

use fisherflow_curvature::CurvatureError;
use fisherflow_network::NetworkError;
use fisherflow_posterior::PosteriorError;
use fisherflow_spectra::SpectraError;
use fisherflow_store::StoreError;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The run file or the arguments ask for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The data are not what the run file says.
    #[error("{0}")]
    Refused(String),
    /// A network file that cannot be used.
    #[error("{uri}: {source}")]
    NetworkFile {
        /// The file.
        uri: String,
        /// Why.
        #[source]
        source: NetworkError,
    },
    /// A product over the network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Spectra that are not what they should be.
    #[error(transparent)]
    Spectra(#[from] SpectraError),
    /// Reading or writing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sums.
    #[error(transparent)]
    Curvature(#[from] CurvatureError),
    /// The inverse.
    #[error(transparent)]
    Posterior(#[from] PosteriorError),
    /// Another process of the cluster was lost, or never came.
    #[error("a process of the cluster was lost ({0}): run again")]
    PeerLost(String),
    /// This process, or another one of the cluster, was asked to end.
    #[error("stopped by {0}: run again to go on")]
    Interrupted(String),
    /// This worker ends because another one of the process did; the reason is with that one.
    #[error("stopped")]
    Stopped,
    /// A defect of fisherflow.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

impl RunError {
    /// 1 the run failed, 2 the run file or arguments are wrong, 3 data refused, 75 a process was lost, asked to end or given up by another, or
    /// the store gave out: run again.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Posterior(PosteriorError::NoPeerForm { .. }) => 2,
            Self::Refused(_) | Self::NetworkFile { .. } | Self::Spectra(_) => 3,
            Self::Store(error) if is_refusal(error) => 3,
            Self::PeerLost(_) | Self::Interrupted(_) => 75,
            Self::Store(StoreError::TakenOver { .. } | StoreError::Exhausted { .. }) => 75,
            _ => 1,
        }
    }
}

/// Whether the data, not the store, are at fault.
fn is_refusal(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NoMatch { .. }
            | StoreError::NotFound { .. }
            | StoreError::NotComplete { .. }
            | StoreError::Replaced { .. }
            | StoreError::EmptyObject { .. }
            | StoreError::NotParquet { .. }
            | StoreError::Truncated { .. }
            | StoreError::BadRowGroup { .. }
            | StoreError::MissingColumn { .. }
            | StoreError::ColumnType { .. }
            | StoreError::PixelCount { .. }
            | StoreError::ColumnCollision { .. }
            | StoreError::BadVector { .. }
            | StoreError::Spectra(_)
    )
}
