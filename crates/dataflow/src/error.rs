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
    /// The network file, or a product over it.
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
    /// A defect of fisherflow.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

impl RunError {
    /// 1 the run failed, 2 the run file or arguments are wrong, 3 data refused, 75 a process was lost.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Refused(_) | Self::Network(_) | Self::Spectra(_) => 3,
            Self::Store(error) if error.is_refusal() => 3,
            Self::PeerLost(_) => 75,
            _ => 1,
        }
    }
}
