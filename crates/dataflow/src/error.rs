//! Why a run ended early, and with which exit code.

use fisherflow_curvature::CurvatureError;
use fisherflow_network::NetworkError;
use fisherflow_posterior::PosteriorError;
use fisherflow_spectra::SpectraError;
use fisherflow_store::{Damage, StoreError};

use crate::run::stage_state::Step;

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
    /// What a stage left in the output is not as it was written.
    #[error(
        "{output}: {}: nothing is made of it; run again: `fisherflow {}` with the same run file makes it anew, and so does `fisherflow run`",
        first_of(.damages), .step.command()
    )]
    Damaged {
        /// The output.
        output: String,
        /// Which of its files, and what is wrong with each.
        damages: Vec<Damage>,
        /// What left them.
        step: Step,
    },
    /// Before the commit, the output's files are not as they were written: they are taken back, with all that was made of them.
    #[error(
        "{output}: {first}: the store did not keep what was written ({damaged} of {files} files), and nothing is committed: look at the store and run \
         again, which makes them anew"
    )]
    NotKept {
        /// The output.
        output: String,
        /// Which file is the first, and what is wrong with it.
        first: Damage,
        /// How many are.
        damaged: usize,
        /// Of how many.
        files: usize,
    },
    /// What the fit kept of a group for the prediction is damaged or gone, and no longer counts as left: the next run's prediction computes it anew, for all
    /// groups.
    #[error(
        "what the fit kept of reduction group {group} for the prediction in {object} is damaged or gone: start the run again, its prediction \
         computes the photons' part of all groups anew, and nothing before it"
    )]
    KeptPart {
        /// Its index.
        group: u64,
        /// Where it is, or was.
        object: String,
    },
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
    /// An object was replaced under a run that makes a release: another try plans with what is there now.
    #[error(transparent)]
    ReplacedUnderRelease(StoreError),
    /// The output is another run's.
    #[error("{refusal} ({difference})")]
    AnotherRun {
        /// What is there, and the remedy.
        refusal: Box<StoreError>,
        /// In what that run differs from this one.
        difference: String,
    },
    /// The sums.
    #[error(transparent)]
    Curvature(#[from] CurvatureError),
    /// The inverse.
    #[error(transparent)]
    Posterior(#[from] PosteriorError),
    /// Not all processes of the cluster came, or they found unlike inputs.
    #[error("the cluster did not form ({0}): run again")]
    NotFormed(String),
    /// Another process of the cluster was lost.
    #[error("a process of the cluster was lost ({0}): run again")]
    PeerLost(String),
    /// Another process of the cluster failed, and said why.
    #[error("{process} failed: {said}")]
    PeerFailed {
        /// The process.
        process: String,
        /// The exit code that it ends with, as this process does.
        exit_code: u8,
        /// What it said, its remedy included.
        said: String,
    },
    /// Something else listens where this process is to.
    #[error(
        "cannot listen at {0}: another process does; wait until it has ended, or choose another port, and run again"
    )]
    PortTaken(String),
    /// This process, or another one of the cluster, was asked to end.
    #[error("stopped by {0}: run again to go on")]
    Interrupted(String),
    /// This worker ends because another one of the process did; the reason is with that one.
    #[error("stopped")]
    Stopped,
    /// The system lets this process start no further thread.
    #[error(
        "no thread can be started for {what} ({why}): raise the limit on processes and threads (`ulimit -u`, or the container's on pids) or, where \
         there is one, on memory (`ulimit -v`), or take fewer workers or threads"
    )]
    NoThread {
        /// What was to run on it.
        what: String,
        /// What the system says.
        why: String,
    },
    /// The system lets this process open no further file.
    #[error(
        "no further file can be opened for {what} ({why}): raise the limit on open files (`ulimit -n`), or take fewer processes"
    )]
    NoFile {
        /// What it was for.
        what: String,
        /// What the system says.
        why: String,
    },
    /// A defect of fisherflow.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

impl RunError {
    /// 1 the run failed, 2 the run file or arguments are wrong, 3 data refused, 75 run again: a process was lost, never came, found another catalogue,
    /// was asked to end or given up by another, its port was taken, the store gave out or does not answer, an object was replaced under a run that makes a
    /// release, or what a group left, or a tile, is damaged and computed anew. Where another process failed, that one's.
    ///
    /// A file of a stage that is damaged is made anew by another run too, and is 1: Kubernetes and systemd count that and come again, and a store that
    /// loses what is written ends their tries.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Posterior(PosteriorError::NoPeerForm { .. }) => 2,
            Self::Network(error) | Self::NetworkFile { source: error, .. } if is_asked_wrongly(error) => 2,
            Self::Store(error) if is_misplaced(error) => 2,
            Self::AnotherRun { .. } => 2,
            Self::Refused(_) | Self::NetworkFile { .. } | Self::Spectra(_) => 3,
            Self::Network(NetworkError::TrainingValue { .. }) => 3,
            Self::Store(error) if is_refusal(error) => 3,
            Self::PeerFailed { exit_code, .. } => *exit_code,
            Self::Posterior(PosteriorError::Source(source)) => source.downcast_ref::<Self>().map_or(1, Self::exit_code),
            Self::NotFormed(_)
            | Self::PeerLost(_)
            | Self::PortTaken(_)
            | Self::Interrupted(_)
            | Self::KeptPart { .. }
            | Self::ReplacedUnderRelease(_)
            | Self::Store(
                StoreError::Exhausted { .. }
                | StoreError::Unreachable { .. }
                | StoreError::TakenOver { .. }
                | StoreError::ClaimRemoved { .. }
                | StoreError::DamagedSums { .. }
                | StoreError::LostTile { .. },
            ) => 75,
            _ => 1,
        }
    }

    /// As it ends a run that makes a release, if it does. The next try of any other finds its output begun with the version that was replaced.
    pub(crate) fn of_run(self, makes_release: bool) -> Self {
        match self {
            Self::Store(replaced @ StoreError::Replaced { .. }) if makes_release => {
                Self::ReplacedUnderRelease(replaced)
            }
            other => other,
        }
    }

    /// The system started no thread for `what`.
    pub(crate) fn no_thread(what: &str, why: &impl std::fmt::Display) -> Self {
        Self::NoThread {
            what: what.to_owned(),
            why: why.to_string(),
        }
    }

    /// Whose work is not there as it was written, where that is what went wrong, and which files of the output that is.
    pub(crate) fn damaged(&self) -> Option<(Step, &[Damage])> {
        match self {
            Self::Damaged { step, damages, .. } => Some((*step, damages.as_slice())),
            Self::Posterior(PosteriorError::Source(source)) => source.downcast_ref::<Self>().and_then(Self::damaged),
            _ => None,
        }
    }

    /// Whether it began in this process, so that the others know of it only what this one tells them.
    pub(crate) fn is_own(&self) -> bool {
        !matches!(
            self,
            Self::PeerLost(_) | Self::PeerFailed { .. } | Self::Interrupted(_) | Self::Stopped
        )
    }
}

/// What is wrong with the first of some files, and how many there are.
fn first_of(damages: &[Damage]) -> String {
    match damages {
        [] => String::new(),
        [one] => one.to_string(),
        [first, ..] => format!("{first} (the first of {} such files)", damages.len()),
    }
}

/// Whether the run file asks of a network or of this machine what it cannot do, or says of the network's file what that says otherwise.
fn is_asked_wrongly(error: &NetworkError) -> bool {
    matches!(
        error,
        NetworkError::NoGpu(_)
            | NetworkError::NotOnGpu { .. }
            | NetworkError::MissingKernel { .. }
            | NetworkError::Recipe { .. }
            | NetworkError::Disagree { .. }
            | NetworkError::LayersDisagree { .. }
    )
}

/// Whether the run file or the arguments name a place that cannot be used, not its store.
fn is_misplaced(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::BadUri { .. }
            | StoreError::UnknownOption { .. }
            | StoreError::SecretInUrl { .. }
            | StoreError::UnusableOption { .. }
            | StoreError::BadOptions { .. }
            | StoreError::Exists { .. }
            | StoreError::InOutput { .. }
            | StoreError::NotAFolder { .. }
            | StoreError::IgnoresCondition { .. }
            | StoreError::LacksCondition { .. }
            | StoreError::NoHardLinks { .. }
            | StoreError::NotOurs { .. }
            | StoreError::NotOfARun { .. }
            | StoreError::Complete { .. }
            | StoreError::Unfinished { .. }
    )
}

/// Whether the data, not the store, are at fault.
fn is_refusal(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NoMatch { .. }
            | StoreError::NotFound { .. }
            | StoreError::NotComplete { .. }
            | StoreError::NoOutput { .. }
            | StoreError::NoRelease { .. }
            | StoreError::Replaced { .. }
            | StoreError::EmptyObject { .. }
            | StoreError::NotParquet { .. }
            | StoreError::Truncated { .. }
            | StoreError::BadRowGroup { .. }
            | StoreError::DanglingObject { .. }
            | StoreError::FolderOfObjects { .. }
            | StoreError::OutputAmongObjects { .. }
            | StoreError::MissingColumn { .. }
            | StoreError::RepeatedColumn { .. }
            | StoreError::ColumnType { .. }
            | StoreError::MaskBit { .. }
            | StoreError::MaskedColumn { .. }
            | StoreError::PixelCount { .. }
            | StoreError::NetworkPixels { .. }
            | StoreError::NoMajority { .. }
            | StoreError::ColumnCollision { .. }
            | StoreError::BadDocument { .. }
            | StoreError::ManifestVersion { .. }
            | StoreError::BadVector { .. }
            | StoreError::Spectra(_)
    )
}
