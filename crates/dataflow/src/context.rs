//! What every worker of a process shares during a run.

mod identity;
mod open;
mod shared;
mod terms;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::DType;
use fisherflow_curvature::{BlockPlan, CurvatureKind, KroneckerBases};
use fisherflow_network::{InputJacobian, Network, NetworkError, Precision as ProductPrecision};
use fisherflow_posterior::{Evidence, LabelCells, Precision, PriorScan, in_label_units};
use fisherflow_spectra::{Group, InputRange, SpectrumBatch};
use fisherflow_store::{Catalogue, Fetch, GroupIds, GroupStore, Holding, Output, Stores, with_causes};

use crate::arithmetic_check::as_on_the_cpu;
use crate::basis::Pinned;
use crate::checkpoint::Checkpoint;
use crate::dual_storage::{DualRows, DualStorage};
use crate::error::RunError;
use crate::fault::Faults;
use crate::group_name::Serves;
use crate::job::Job;
use crate::left_files::LeftFiles;
use crate::operators::{GroupReader, Readers};
use crate::passes::rows;
use crate::plan::auto::ChosenStructure;
use crate::plan::memory::{RowGroups, Sizes};
use crate::progress::meter::Meter;
use crate::run::prior_choice::PriorChoice;
use crate::run::release::Release;
use crate::run::stage_state::FitCounts;

/// Bytes of decoded spectra that a group's reader may hold ready.
pub(crate) const PREFETCH_BYTES: usize = 64 << 20;

/// Held-out spectra that are plenty: a variance from so many is good to about 1 %.
pub(crate) const PLENTY: f64 = 16_384.0;

/// Cells of label space that are given plenty each. More of them share what so many have: held-out spectra stand in memory.
pub(crate) const MANY_CELLS: usize = 8;

/// How the groups of a sample are chosen: another number where they are others. 3: by hash, until their rows are enough.
const SAMPLE_VERSION: &str = "3";

/// Threads of a process that wait for disks and networks.
const IO_THREADS: usize = 2;

/// A catalogue with its fixed reduction groups.
pub(crate) struct GroupedCatalogue {
    pub(crate) catalogue: Catalogue,
    /// All of them, in order.
    pub(crate) groups: Vec<Group>,
    /// Those whose held-out spectra give noise, references and calibration: all, or as many as are plenty, chosen by hash.
    pub(crate) sample: Vec<Group>,
    /// Rows that hold plenty of held-out spectra for the cells of label space.
    pub(crate) plenty: f64,
    /// Who read which of the groups.
    pub(crate) readers: Readers,
}

/// The posterior of every block, loaded once a process.
pub(crate) type Posterior = Arc<Vec<Box<dyn Precision>>>;

/// The eigenbases of every `ekfac` block, by its position in the run's plan.
pub(crate) type Bases = Arc<BTreeMap<usize, Arc<KroneckerBases>>>;

/// What every worker of a process shares during a run.
pub(crate) struct Context {
    pub(crate) job: Arc<Job>,
    /// Names everything that decides the bits of the output: version, settings, network, catalogues.
    pub(crate) run_id: String,
    pub(crate) stores: Stores,
    /// What the bits of products depend on beside the numbers.
    pub(crate) kernel: String,
    /// The precision that the run file asks for; the job's is the one taken.
    pub(crate) asked: ProductPrecision,
    pub(crate) network: Network,
    /// The same where spectra are differentiated, once it is there.
    differentiating: OnceLock<Network>,
    pub(crate) network_sha256: String,
    pub(crate) network_bytes: u64,
    pub(crate) blocks: Vec<BlockPlan>,
    /// What `auto` chose; empty where the run file gives the structures.
    pub(crate) chosen: Vec<ChosenStructure>,
    pub(crate) fit: GroupedCatalogue,
    /// `None` where the catalogue of the fit is the one to predict.
    pub(crate) predict: Option<GroupedCatalogue>,
    pub(crate) output: Output,
    /// The files in it that earlier stages left.
    pub(crate) left_files: Arc<LeftFiles>,
    /// Which release of which line the output is; `None` where it stands for itself.
    pub(crate) release: Option<Release>,
    /// What the sums are taken about; `None` where this run finds it.
    pub(crate) basis: Option<Pinned>,
    /// Of each group of the fit, the identifiers in it that are left out, once they are looked up.
    excluded: OnceLock<Vec<Vec<String>>>,
    /// This process's claim of the output, in the first process of a run.
    holding: OnceLock<Holding>,
    /// Where finished groups leave what they gave: of a line for all its releases.
    pub(crate) groups: GroupStore,
    /// Where they leave what serves this run alone.
    groups_of_run: GroupStore,
    /// Spectra of a group of the fit, at least.
    pub(crate) group: u64,
    /// What a group of the fit leaves there.
    pub(crate) checkpoint: Checkpoint,
    pub(crate) faults: Arc<Faults>,
    pub(crate) progress: Arc<Meter>,
    /// Processes of the run.
    pub(crate) processes: usize,
    /// Workers of each.
    pub(crate) workers: usize,
    /// Threads that one block's inverse may use while the process's other workers wait for theirs.
    pub(crate) cores: usize,
    /// Whether a worker has failed at what it was to make for all of its process.
    failed: AtomicBool,
    posterior: Mutex<Option<Posterior>>,
    /// During the correction pass.
    bases: Mutex<Option<Bases>>,
    /// Rows of the dual block that this process has made.
    dual_rows_made: AtomicUsize,
    /// The rows of the dual block, if there is one and once it is fitted.
    dual_rows: OnceLock<Arc<DualRows>>,
    /// Its factor, once the prior is known.
    dual_storage: Mutex<Option<Arc<DualStorage>>>,
    /// The prior precision that the run file gives each block; none where it is to be found.
    pub(crate) given_priors: Vec<Option<f64>>,
    /// The cells of C_intrinsic.
    pub(crate) cells: LabelCells,
    /// The evidence of one precision for all, once it is known.
    evidence: OnceLock<Evidence>,
    /// The prior precision of every block, once it is known.
    prior: OnceLock<PriorChoice>,
    /// Held by the worker that chooses the prior, or moves the network, for all of its process.
    choosing: Mutex<()>,
    /// Blocks in their eigenbases, while the prior is chosen by held-out spectra.
    scans: Mutex<BTreeMap<usize, Arc<PriorScan>>>,
    /// The factors of the weights' part, where they are asked for and once they are known.
    label_scale: OnceLock<Vec<f64>>,
    /// What inputs may be, once the held-out spectra have told.
    input_range: OnceLock<InputRange>,
}

impl Context {
    /// From here on this process holds the output.
    pub(crate) fn hold(&self, holding: &Holding) {
        self.holding.get_or_init(|| holding.clone());
    }

    /// Whether this process has claimed the output.
    pub(crate) fn holds(&self) -> bool {
        self.holding.get().is_some()
    }

    /// Where that claim is in the output, and what it holds.
    pub(crate) fn claim_entry(&self) -> Result<(String, Vec<u8>), RunError> {
        match self.holding.get() {
            Some(holding) => Ok(holding.entry()?),
            None => Err(RunError::Internal(
                "its first process has not claimed the output".into(),
            )),
        }
    }

    /// Looks whether the output is still this process's, before it writes what others build upon.
    pub(crate) fn check_claim(&self) -> Result<(), RunError> {
        match self.holding.get() {
            Some(holding) => Ok(holding.check()?),
            None => Ok(()),
        }
    }

    /// The network where spectra are differentiated: on the processor that the run file names.
    pub(crate) fn differentiating(&self) -> Result<&Network, RunError> {
        self.once(&self.differentiating, || {
            let refused = |error: NetworkError| RunError::Refused(with_causes(&error));
            // Not the data are at fault: another machine or build, or another run file.
            let lacking = |error: NetworkError| RunError::Usage(with_causes(&error));
            let device = self.job.compute.processor.device().map_err(lacking)?;
            if device.is_cpu() {
                return Ok(self.network.clone());
            }
            let moved = self.network.on(&device).map_err(refused)?;
            let processor = self.job.compute.processor;
            as_on_the_cpu(processor, &moved, &self.network, &self.fit.catalogue)?;
            Ok(moved)
        })
    }

    /// What memory and operations depend on.
    pub(crate) fn sizes(&self) -> Sizes<'_> {
        let cluster = (self.processes, self.workers);
        let predict = self.predict.as_ref();
        Sizes {
            predicted: predict.map(|grouped| RowGroups::of(&grouped.catalogue)),
            ..Sizes::of(&self.job, &self.network, &self.fit.catalogue, cluster)
        }
    }

    /// Whether the fit's own backward passes serve the prediction too.
    pub(crate) fn is_fused(&self) -> bool {
        self.predict.is_none()
    }

    /// The catalogue whose error bars are asked for.
    pub(crate) fn predicted(&self) -> &GroupedCatalogue {
        self.predict.as_ref().unwrap_or(&self.fit)
    }

    /// Its URI, as the run file says it.
    pub(crate) fn predicted_uri(&self) -> &str {
        let own = self.job.predict.catalogue.as_ref();
        &own.unwrap_or(&self.job.catalogue).uri
    }

    /// How far a pass over spectra that are summed goes back: to the flux where their photons' part is in their weight.
    pub(crate) fn jacobian_of_sums(&self) -> InputJacobian {
        if self.job.calibration.errors_in_variables {
            InputJacobian::InBlocks
        } else {
            InputJacobian::NotWanted
        }
    }

    /// How far a pass goes back that leaves what is predicted: J_x is in memory only where it is written.
    pub(crate) fn jacobian_of_predictions(&self) -> InputJacobian {
        if self.job.predict.jacobians {
            InputJacobian::Wanted
        } else {
            InputJacobian::InBlocks
        }
    }

    /// Whether a row of the fit's catalogue is counted in the sums.
    pub(crate) fn is_in_sums(&self, batch: &SpectrumBatch, row: usize) -> bool {
        rows::is_in_sums(batch, row, &self.job)
    }

    /// The rows of a batch that are.
    pub(crate) fn rows_in_sums(&self, batch: &SpectrumBatch) -> Vec<usize> {
        let rows = 0..batch.n_rows();
        rows.filter(|&row| self.is_in_sums(batch, row)).collect()
    }

    /// Whether a row of the fit's catalogue is kept out of the sums because something is fitted to its residuals.
    pub(crate) fn is_held_out(&self, batch: &SpectrumBatch, row: usize) -> bool {
        rows::is_kept_out(batch, row, &self.job)
    }

    /// The batches of a group, read ahead on the store's threads; counted as a group once the last of them is taken.
    pub(crate) fn read(&self, catalogue: &Catalogue, group: &Group) -> GroupReader {
        let batches = catalogue.fetch(group, self.job.compute.batch, PREFETCH_BYTES);
        self.counted(batches.map(|batch| batch.map_err(RunError::from)), 0)
    }

    /// The spectra of a group of the fit's catalogue that are in a fraction chosen by hash, few of each row group in a batch of several; the others count
    /// as done with it.
    pub(crate) fn read_chosen(&self, group: &Group, fraction: f64) -> GroupReader {
        let batch_rows = self.job.compute.batch;
        let catalogue = &self.fit.catalogue;
        let batches = catalogue.fetch_held_out(group, fraction, batch_rows, PREFETCH_BYTES);
        self.counted(joined(batches, batch_rows), group.n_rows())
    }

    /// A group's batches, spectra out of range flagged, its end counted; of `rows` those that are not among them count as done then.
    fn counted(
        &self,
        mut batches: impl Iterator<Item = Result<SpectrumBatch, RunError>> + 'static,
        mut rows: u64,
    ) -> GroupReader {
        let meter = Arc::clone(&self.progress);
        let known = self.input_range.get().cloned();
        let range = known.unwrap_or_else(|| self.input_range(self.overflow_limit()));
        Box::new(std::iter::from_fn(move || {
            let mut next = batches.next();
            match &mut next {
                Some(Ok(batch)) => {
                    rows = rows.saturating_sub(batch.n_rows() as u64);
                    range.flag(batch);
                }
                Some(Err(_)) => {}
                None => {
                    meter.advance(std::mem::take(&mut rows));
                    meter.group_done();
                }
            }
            next
        }))
    }

    /// Covariances in label units, `[n, K, K]`, in normalised label units.
    pub(crate) fn in_normalised_units(&self, mut covariances: Vec<f64>) -> Result<Vec<f64>, RunError> {
        let inverse: Vec<f64> = self.network.labels().scale.iter().map(|scale| 1.0 / scale).collect();
        in_label_units(&mut covariances, &inverse)?;
        Ok(covariances)
    }

    /// Whether the identifiers that are left out are to be looked up, or those of a line's groups to be kept.
    pub(crate) fn looks_up_ids(&self) -> bool {
        self.release.is_some() || self.fit.catalogue.excluded().is_some()
    }

    /// Where the identifiers of groups are kept.
    pub(crate) fn group_ids(&self) -> GroupIds {
        let root = self.release.as_ref().map(|release| release.line.groups_uri());
        GroupIds::new(&self.stores, root.as_deref())
    }

    /// Takes over, for each group of the fit, the identifiers in it that are left out; the same for every worker.
    pub(crate) fn set_excluded(&self, excluded: Vec<Vec<String>>) {
        self.excluded.get_or_init(|| excluded);
    }

    /// Of each group of the fit, the identifiers in it that are left out; none where there are none, or they are not looked up.
    pub(crate) fn excluded(&self) -> &[Vec<String>] {
        self.excluded.get().map_or(&[], Vec::as_slice)
    }

    /// The identifiers in a group of the fit that are left out, in order.
    pub(crate) fn excluded_in(&self, group: &Group) -> &[String] {
        self.excluded().get(group.index as usize).map_or(&[], Vec::as_slice)
    }

    /// Where groups leave what serves every run, or this one alone.
    pub(crate) fn groups_that_serve(&self, serves: Serves) -> &GroupStore {
        match serves {
            Serves::EveryRun => &self.groups,
            Serves::ThisRun => &self.groups_of_run,
        }
    }

    /// The type of the captures.
    pub(crate) fn captures(&self) -> DType {
        self.job.compute.arithmetic.precision.dtype()
    }

    /// What effective parameters cannot exceed, in words and in number.
    pub(crate) fn effective_limit(&self, counts: &FitCounts) -> (&'static str, u64) {
        // What photon noise drowns determines nothing.
        let weighed = counts.in_sums - counts.overwhelmed;
        let of_labels = weighed * self.network.n_labels() as u64;
        match self.job.curvature.kind {
            CurvatureKind::Ggn if counts.overwhelmed > 0 => ("labels x spectra that weigh", of_labels),
            CurvatureKind::Ggn => ("labels x spectra", of_labels),
            CurvatureKind::EmpiricalFisher if counts.overwhelmed > 0 => ("spectra that weigh", weighed),
            CurvatureKind::EmpiricalFisher => ("spectra", weighed),
            CurvatureKind::Hessian => ("weights", self.network.n_weights() as u64),
        }
    }
}

/// The same spectra in batches of up to `batch_rows`, across row groups.
fn joined(mut batches: Fetch, batch_rows: usize) -> impl Iterator<Item = Result<SpectrumBatch, RunError>> {
    let mut next = None;
    std::iter::from_fn(move || {
        let mut joined = match next.take().or_else(|| batches.next())? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(RunError::from(error))),
        };
        loop {
            match batches.next() {
                Some(Ok(batch)) if joined.n_rows() + batch.n_rows() <= batch_rows => {
                    if let Err(error) = joined.append(batch) {
                        return Some(Err(error.into()));
                    }
                }
                other => {
                    next = other;
                    return Some(Ok(joined));
                }
            }
        }
    })
}
