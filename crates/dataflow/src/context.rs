//! What every worker of a process shares during a run.

use std::sync::{Arc, OnceLock};

use fisherflow_curvature::BlockPlan;
use fisherflow_network::Network;
use fisherflow_posterior::Precision;
use fisherflow_spectra::{Group, SpectrumBatch};
use fisherflow_store::{Catalogue, Output, Stores};

use crate::error::RunError;
use crate::fault::Faults;
use crate::job::{Job, Progress};
use crate::operators::GroupReader;

/// Bytes of decoded spectra that a group's reader may hold ready.
const PREFETCH_BYTES: usize = 64 << 20;

/// A catalogue with its fixed reduction groups.
pub(crate) struct GroupedCatalogue {
    pub(crate) catalogue: Catalogue,
    pub(crate) groups: Vec<Group>,
}

/// What every worker of a process shares during a run.
pub(crate) struct Context {
    pub(crate) job: Arc<Job>,
    pub(crate) run_id: String,
    pub(crate) stores: Stores,
    pub(crate) network: Network,
    pub(crate) blocks: Vec<BlockPlan>,
    pub(crate) fit: GroupedCatalogue,
    /// `None` where the catalogue of the fit is the one to predict.
    pub(crate) predict: Option<GroupedCatalogue>,
    pub(crate) output: Output,
    pub(crate) faults: Arc<Faults>,
    pub(crate) progress: Arc<dyn Progress>,
    /// Cores that one block's inverse may use while the other workers wait for theirs.
    pub(crate) cores: usize,
    posterior: OnceLock<Arc<Vec<Box<dyn Precision>>>>,
}
