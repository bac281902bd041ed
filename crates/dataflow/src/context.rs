//! What every worker of a process shares during a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::DType;
use fisherflow_curvature::{BlockPlan, CurvatureError, CurvatureKind, KroneckerBases, StructureKind, plan_blocks};
use fisherflow_network::{Arithmetic, InputJacobian, Network, Precision as ProductPrecision};
use fisherflow_posterior::{
    BlockInfo, DualLayout, DualPrecision, Evidence, LabelCells, Precision, PriorScan, ScannedStars, Spectrum,
    dual_prior_scan, factor, in_label_units,
};
use fisherflow_spectra::{Group, SpectrumBatch, plan_groups};
use fisherflow_store::{Catalogue, Fetch, GroupIds, GroupStore, Holding, KnownCatalogue, Output, Stores};
use sha2::{Digest, Sha256};

use crate::arithmetic_check::exact_enough;
use crate::auto::{self, ChosenStructure};
use crate::basis::Pinned;
use crate::checkpoint::{self, Checkpoint};
use crate::dual_storage::{DualRows, DualStorage};
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::fault::Faults;
use crate::files;
use crate::group_name::Serves;
use crate::job::{CatalogueSource, Compute, Job, Prior, StructureChoice};
use crate::memory::Sizes;
use crate::meter::Meter;
use crate::operators::GroupReader;
use crate::passes::rows;
use crate::prior_choice::{self, PriorChoice};
use crate::prior_facts::PriorPrecision;
use crate::release::Release;
use crate::stage_state::{FitCounts, FitState, InvertState};

/// Bytes of decoded spectra that a group's reader may hold ready.
pub(crate) const PREFETCH_BYTES: usize = 64 << 20;

/// Held-out spectra that are plenty: a variance from so many is good to about 1 %.
const PLENTY: f64 = 16_384.0;

/// Threads of a process that wait for disks and networks.
const IO_THREADS: usize = 2;

/// A catalogue with its fixed reduction groups.
pub(crate) struct GroupedCatalogue {
    pub(crate) catalogue: Catalogue,
    /// All of them, in order.
    pub(crate) groups: Vec<Group>,
    /// Those whose held-out spectra give noise, references and calibration: all, or evenly spaced ones where that is plenty.
    pub(crate) sample: Vec<Group>,
    /// Rows that hold plenty of held-out spectra.
    pub(crate) plenty: f64,
}

/// The posterior of every block, loaded once a process.
pub(crate) type Posterior = Arc<Vec<Box<dyn Precision>>>;

/// The eigenbases of every `ekfac` block, by its position in the run's plan.
pub(crate) type Bases = Arc<BTreeMap<usize, Arc<KroneckerBases>>>;

/// What every worker of a process shares during a run.
pub(crate) struct Context {
    pub(crate) job: Arc<Job>,
    /// Names everything that decides the bits of the output: build, settings, network, catalogues.
    pub(crate) run_id: String,
    pub(crate) stores: Stores,
    /// What the bits of products depend on beside the numbers.
    pub(crate) kernel: String,
    /// The precision that the run file asks for; the job's is the one taken.
    pub(crate) asked: ProductPrecision,
    pub(crate) network: Network,
    pub(crate) network_sha256: String,
    pub(crate) network_bytes: u64,
    pub(crate) blocks: Vec<BlockPlan>,
    /// What `auto` chose; empty where the run file gives the structures.
    pub(crate) chosen: Vec<ChosenStructure>,
    pub(crate) fit: GroupedCatalogue,
    /// `None` where the catalogue of the fit is the one to predict.
    pub(crate) predict: Option<GroupedCatalogue>,
    pub(crate) output: Output,
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
    /// Workers of each process.
    pub(crate) workers: usize,
    /// Threads that one block's inverse may use while the process's other workers wait for theirs.
    pub(crate) cores: usize,
    posterior: Mutex<Option<Posterior>>,
    /// During the correction pass.
    bases: Mutex<Option<Bases>>,
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
    /// Held by the worker that chooses the prior for all of its process.
    choosing: Mutex<()>,
    /// Blocks in their eigenbases, while the prior is chosen by held-out spectra.
    scans: Mutex<BTreeMap<u64, Arc<PriorScan>>>,
    /// The factors of the weights' part, where they are asked for and once they are known.
    label_scale: OnceLock<Vec<f64>>,
}

impl Context {
    /// Reads the network and the catalogues' footers, and checks that they fit one another; writes nothing.
    pub(crate) fn open(job: Arc<Job>, workers: usize, progress: Arc<Meter>) -> Result<Self, RunError> {
        let asked = job.compute.arithmetic.precision;
        let kernel_of = |precision: ProductPrecision| {
            let kernel = precision.kernel();
            kernel.map_err(|error| RunError::Refused(with_source(&error)))
        };
        kernel_of(asked)?;
        let stores = Stores::new(job.store.clone(), IO_THREADS)?;
        let bytes = stores.read(&job.network.uri)?;
        let in_arithmetic = |arithmetic| Network::from_safetensors(&bytes, &job.network.said, arithmetic);
        let network = in_arithmetic(job.compute.arithmetic).map_err(|source| RunError::NetworkFile {
            uri: job.network.uri.clone(),
            source,
        })?;
        let release = job.releases.then(|| Release::next(&stores, &job.output)).transpose()?;
        let known = release.as_ref().and_then(|release| release.parent.as_ref());
        let known = known.map(KnownCatalogue::of);
        let catalogue = opened(&stores, &job.catalogue, &network, known.as_ref())?;
        let whole = plan_groups(catalogue.shards().iter().cloned(), u64::MAX, catalogue.folder());
        let all_threads = Arithmetic {
            threads: workers.max(1) * job.compute.arithmetic.threads,
            ..job.compute.arithmetic
        };
        let taken = exact_enough(all_threads, &catalogue, &whole, in_arithmetic)?;
        let (kernel, network) = (
            kernel_of(taken)?,
            if taken == asked {
                network
            } else {
                in_arithmetic(Arithmetic {
                    precision: taken,
                    ..job.compute.arithmetic
                })?
            },
        );
        let network = network.with_packed_weights();
        let job = if taken == asked {
            job
        } else {
            let mut slower = (*job).clone();
            slower.compute.arithmetic.precision = taken;
            Arc::new(slower)
        };
        let (blocks, chosen) = plan_of(&job, &network, catalogue.n_rows())?;
        check_curvature(&job, &blocks)?;
        let checkpoint = Checkpoint::of(network.dense_layers(), network.n_labels(), &blocks)?;
        let group = job.compute.group.unwrap_or_else(|| checkpoint.spectra_a_group());
        let fit = GroupedCatalogue::new(catalogue, group, &job.compute);
        let predict = match &job.predict.catalogue {
            None => None,
            Some(source) => {
                // Its groups leave rows alone.
                let group = job.compute.group.unwrap_or(checkpoint::LEAST);
                let catalogue = opened(&stores, source, &network, None)?;
                Some(GroupedCatalogue::new(catalogue, group, &job.compute))
            }
        };
        let given_priors = prior_choice::given(&job, &network, &blocks)?;
        let prior = PriorChoice::as_given(&given_priors).map_or_else(OnceLock::new, OnceLock::from);
        let cells = label_cells(&job, &network)?;
        let network_sha256 = hex(&Sha256::digest(&bytes));
        let basis = Pinned::find(&stores, &job, &network_sha256, release.as_ref())?;
        let uri = release.as_ref().map_or_else(|| job.output.clone(), Release::uri);
        let output = Output::open(&stores, &uri)?;
        let faults: Arc<Faults> = Arc::default();
        let passing = |groups: GroupStore| {
            let faults = Arc::clone(&faults);
            groups.calling(move || faults.pass(FailPoint::GroupWritten))
        };
        let groups_of_run = passing(output.groups());
        let groups = release
            .as_ref()
            .map_or_else(|| groups_of_run.clone(), |release| passing(release.line.groups()));
        let mut context = Self {
            workers: workers.max(1),
            cores: workers * job.compute.arithmetic.threads,
            run_id: String::new(),
            kernel,
            asked,
            job,
            network,
            network_sha256,
            network_bytes: bytes.len() as u64,
            stores,
            blocks,
            chosen,
            fit,
            predict,
            groups,
            groups_of_run,
            group,
            checkpoint,
            output,
            release,
            basis,
            excluded: OnceLock::new(),
            holding: OnceLock::new(),
            faults,
            progress,
            posterior: Mutex::default(),
            bases: Mutex::default(),
            dual_rows: OnceLock::new(),
            dual_storage: Mutex::default(),
            given_priors,
            cells,
            evidence: OnceLock::new(),
            prior,
            choosing: Mutex::default(),
            scans: Mutex::default(),
            label_scale: OnceLock::new(),
        };
        context.run_id = context.identity();
        context.progress.reads_from(context.stores.traffic(), &context.run_id);
        Ok(context)
    }

    /// From here on this process holds the output.
    pub(crate) fn hold(&self, holding: &Holding) {
        self.holding.get_or_init(|| holding.clone());
    }

    /// Looks whether the output is still this process's, before it writes what others build upon.
    pub(crate) fn check_claim(&self) -> Result<(), RunError> {
        match self.holding.get() {
            Some(holding) => Ok(holding.check()?),
            None => Ok(()),
        }
    }

    /// What memory and operations depend on.
    pub(crate) fn sizes(&self) -> Sizes<'_> {
        sizes(&self.job, &self.network, self.fit.catalogue.n_rows(), self.workers)
    }

    /// Whether the fit's own backward passes serve the prediction too.
    pub(crate) fn is_fused(&self) -> bool {
        self.predict.is_none()
    }

    /// The catalogue whose error bars are asked for.
    pub(crate) fn predicted(&self) -> &GroupedCatalogue {
        self.predict.as_ref().unwrap_or(&self.fit)
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

    /// Whether a row of the fit's catalogue is kept out of the sums because something is fitted to its residuals.
    pub(crate) fn is_held_out(&self, batch: &SpectrumBatch, row: usize) -> bool {
        rows::is_kept_out(batch, row, &self.job)
    }

    /// The batches of a group, read ahead on the store's threads; counted as a group once the last of them is taken.
    pub(crate) fn read(&self, catalogue: &Catalogue, group: &Group) -> GroupReader {
        self.counted(catalogue.fetch(group, self.job.compute.batch, PREFETCH_BYTES), 0)
    }

    /// The held-out spectra of a group of the fit's catalogue, or a share of them; the others count as done with it.
    pub(crate) fn read_held_out(&self, group: &Group, share: f64) -> GroupReader {
        let (fraction, batch_rows) = (self.job.compute.holdout_fraction * share, self.job.compute.batch);
        let catalogue = &self.fit.catalogue;
        let batches = catalogue.fetch_held_out(group, fraction, batch_rows, PREFETCH_BYTES);
        self.counted(batches, group.n_rows())
    }

    /// A group's batches, its end counted; of `rows` those that are not among them count as done then.
    fn counted(&self, mut batches: Fetch, mut rows: u64) -> GroupReader {
        let meter = Arc::clone(&self.progress);
        Box::new(std::iter::from_fn(move || {
            let next = batches.next();
            match &next {
                Some(Ok(batch)) => rows = rows.saturating_sub(batch.n_rows() as u64),
                Some(Err(_)) => {}
                None => {
                    meter.advance(std::mem::take(&mut rows));
                    meter.group_done();
                }
            }
            next.map(|batch| batch.map_err(RunError::from))
        }))
    }

    /// Covariances in label units, `[n, K, K]`, in normalised label units.
    pub(crate) fn in_normalised_units(&self, mut covariances: Vec<f64>) -> Result<Vec<f64>, RunError> {
        let inverse: Vec<f64> = self.network.labels().scale.iter().map(|scale| 1.0 / scale).collect();
        in_label_units(&mut covariances, &inverse)?;
        Ok(covariances)
    }

    /// Loads the posterior of every block from the files that `invert` wrote; the first worker to ask reads them for all.
    pub(crate) fn load_posterior(&self, inverted: &InvertState) -> Result<(), RunError> {
        let mut posterior = self.posterior.lock().unwrap_or_else(PoisonError::into_inner);
        if posterior.is_none() {
            let blocks = self.blocks.iter().zip(&inverted.blocks);
            let loaded: Result<Vec<_>, _> = blocks
                .map(|(plan, info)| {
                    if plan.structure.has_sums() {
                        files::read_inverse(self, plan, info.clone())
                    } else {
                        self.dual_precision(info.clone())
                    }
                })
                .collect();
            *posterior = Some(Arc::new(loaded?));
        }
        Ok(())
    }

    /// The block that is held as dual, if there is one.
    pub(crate) fn dual_plan(&self) -> Option<&BlockPlan> {
        self.blocks.iter().find(|plan| !plan.structure.has_sums())
    }

    /// Where the tiles of this run's factor go that memory has no room for.
    pub(crate) fn scratch(&self) -> String {
        match &self.job.compute.scratch {
            Some(folder) => format!("{}/fisherflow-{}", folder.trim_end_matches('/'), self.run_id),
            None => self.output.child("stages/dual"),
        }
    }

    /// Takes over the dual block's rows that the fit left, if there is one.
    pub(crate) fn open_dual(&self, fit: &FitState) {
        if let Some(plan) = self.dual_plan() {
            let layout = DualLayout {
                plan: plan.clone(),
                n_labels: self.network.n_labels(),
                chunks: fit.dual.iter().map(|chunk| chunk.n_spectra).collect(),
            };
            self.dual_rows
                .get_or_init(|| Arc::new(DualRows::new(self, layout, &fit.dual)));
        }
    }

    /// The dual block's rows.
    pub(crate) fn dual_rows(&self) -> Result<&Arc<DualRows>, RunError> {
        self.dual_rows
            .get()
            .ok_or_else(|| RunError::Internal("a dual block was asked for before its rows".into()))
    }

    /// Where the dual block's factor is; the same for all workers of the process.
    pub(crate) fn dual_storage(&self, prior_precision: f64) -> Result<Arc<DualStorage>, RunError> {
        let mut storage = self.dual_storage.lock().unwrap_or_else(PoisonError::into_inner);
        match &*storage {
            Some(known) if known.prior_precision == prior_precision => Ok(Arc::clone(known)),
            _ => {
                let new = Arc::new(DualStorage::new(self, self.dual_rows()?, prior_precision));
                *storage = Some(Arc::clone(&new));
                Ok(new)
            }
        }
    }

    /// The dual block's posterior.
    fn dual_precision(&self, info: BlockInfo) -> Result<Box<dyn Precision>, RunError> {
        let storage = self.dual_storage(info.prior_precision)?;
        let layout = storage.rows.layout.clone();
        let threads = self.network.arithmetic().threads;
        Ok(Box::new(DualPrecision::new(layout, info, storage, threads)))
    }

    /// The posterior of every block, once loaded.
    pub(crate) fn posterior(&self) -> Result<Posterior, RunError> {
        let posterior = self.posterior.lock().unwrap_or_else(PoisonError::into_inner);
        posterior
            .clone()
            .ok_or_else(|| RunError::Internal("a prediction began before its posterior was loaded".into()))
    }

    /// The blocks whose eigenvalues are summed in a second pass over the spectra, by their position in the plan.
    pub(crate) fn corrected(&self) -> impl Iterator<Item = (usize, &BlockPlan)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.filter(|(_, plan)| plan.structure == StructureKind::Ekfac)
    }

    /// The eigenbases that the curvature pass left; the first worker to ask reads them for all.
    pub(crate) fn load_bases(&self) -> Result<Bases, RunError> {
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = &*bases {
            return Ok(Arc::clone(loaded));
        }
        let read = |(block, plan)| Ok((block, Arc::new(files::read_bases(self, plan)?)));
        let loaded = Arc::new(self.corrected().map(read).collect::<Result<_, RunError>>()?);
        *bases = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    /// Lets go of the eigenbases once no worker of the process sums in them any more.
    pub(crate) fn release_bases(&self) {
        *self.bases.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The evidence of one precision over the spectra of all blocks, in their order; the first worker to ask computes it for all of its
    /// process.
    pub(crate) fn evidence_of_all(&self, spectra: &[Spectrum]) -> Result<&Evidence, RunError> {
        self.once(&self.evidence, || {
            prior_choice::evidence_of_all(&self.network, &self.blocks, &self.given_priors, spectra)
        })
    }

    /// The prior by evidence, as the run file asks for it; likewise.
    pub(crate) fn choose_by_evidence(&self, spectra: &[Spectrum]) -> Result<&PriorChoice, RunError> {
        if self.job.prior == Prior::EvidencePerBlock {
            return self.once(&self.prior, || {
                PriorChoice::by_evidence_per_block(&self.network, &self.blocks, &self.given_priors, spectra)
            });
        }
        let evidence = self.evidence_of_all(spectra)?;
        self.once(&self.prior, || {
            Ok(PriorChoice::by_evidence(&self.given_priors, evidence.clone()))
        })
    }

    /// The prior by held-out spectra; likewise.
    pub(crate) fn choose_by_holdout(
        &self,
        spectra: &[Spectrum],
        scanned: &ScannedStars,
    ) -> Result<&PriorChoice, RunError> {
        let evidence = self.evidence_of_all(spectra)?;
        self.once(&self.prior, || {
            PriorChoice::by_holdout(&self.given_priors, spectra, evidence.clone(), scanned)
        })
    }

    /// What a cell holds; the first worker to ask makes it for all of its process.
    fn once<'c, T>(
        &self,
        cell: &'c OnceLock<T>,
        make: impl FnOnce() -> Result<T, RunError>,
    ) -> Result<&'c T, RunError> {
        let _choosing = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cell.get() {
            return Ok(known);
        }
        let made = make()?;
        Ok(cell.get_or_init(|| made))
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

    /// What one run of several processes must agree on beside its name: no process may make another release, or know another basis.
    pub(crate) fn agreement(&self) -> String {
        let release = self.release.as_ref().map_or(0, |release| release.number);
        let basis = self.basis.as_ref().map_or("", |basis| &basis.sha256);
        format!("{release} {basis}")
    }

    /// The type of the captures.
    pub(crate) fn captures(&self) -> DType {
        self.job.compute.arithmetic.precision.dtype()
    }

    /// Keeps a block in its eigenbasis for the workers of this process.
    pub(crate) fn keep_scan(&self, block: u64, scan: PriorScan) {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        scans.insert(block, Arc::new(scan));
    }

    /// Every block in its eigenbasis, of a Hessian over `n_spectra` spectra; the first worker to ask factors for all of its process what
    /// other processes have.
    pub(crate) fn scans(&self, n_spectra: u64) -> Result<Vec<Arc<PriorScan>>, RunError> {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        for (block, plan) in (0..).zip(&self.blocks) {
            if let std::collections::btree_map::Entry::Vacant(missing) = scans.entry(block) {
                let threads = self.network.arithmetic().threads;
                let scan = if plan.structure.has_sums() {
                    let factored = factor(plan, files::read_hessian(self, plan, n_spectra)?, self.cores)?;
                    factored.prior_scan(self.captures(), threads)?
                } else {
                    let rows = self.dual_rows()?;
                    dual_prior_scan(&rows.layout, rows.all()?, self.cores, threads)?
                };
                missing.insert(Arc::new(scan));
            }
        }
        Ok(scans.values().cloned().collect())
    }

    /// Lets the blocks in their eigenbases go.
    pub(crate) fn drop_scans(&self) {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes over the prior that an `invert` before found.
    pub(crate) fn take_over_prior(&self, inverted: &InvertState) {
        self.prior.get_or_init(|| inverted.prior.clone());
    }

    /// The prior precision, once it is known.
    pub(crate) fn prior_precision(&self) -> Option<PriorPrecision> {
        let names = self.blocks.iter().map(BlockPlan::name);
        let choice = self.prior.get()?;
        Some(PriorPrecision::of_blocks(names, &choice.by_block))
    }

    /// The prior precision of every block and how it was found, once it is known.
    pub(crate) fn prior_choice(&self) -> Option<&PriorChoice> {
        self.prior.get()
    }

    /// Takes over the factors of the weights' part, the same for every worker.
    pub(crate) fn set_label_scale(&self, scale: &[f64]) {
        self.label_scale.get_or_init(|| scale.to_vec());
    }

    /// The factors of the weights' part, `[K]`, where they are asked for and once they are known.
    pub(crate) fn label_scale(&self) -> Option<&[f64]> {
        self.label_scale.get().map(Vec::as_slice)
    }

    /// What effective parameters cannot exceed, in words and in number.
    pub(crate) fn effective_limit(&self, counts: &FitCounts) -> (&'static str, u64) {
        match self.job.curvature.kind {
            CurvatureKind::Ggn => ("labels x spectra", counts.in_sums * self.network.n_labels() as u64),
            CurvatureKind::EmpiricalFisher => ("spectra", counts.in_sums),
            CurvatureKind::Hessian => ("weights", self.network.n_weights() as u64),
        }
    }

    fn identity(&self) -> String {
        let job = &self.job;
        let mut hash = Sha256::new();
        let mut add = |what: &str, value: &str| {
            hash.update((value.len() as u64).to_le_bytes());
            hash.update(what);
            hash.update(value);
        };
        add("version", env!("CARGO_PKG_VERSION"));
        add("network", &self.network_sha256);
        add("said", &format!("{:?}", job.network.said));
        add("fit", &self.fit.catalogue.etags_sha256());
        let excluded = |of: &GroupedCatalogue| of.catalogue.excluded().map(|list| list.sha256().to_owned());
        add(
            "excluded",
            &format!("{:?} {:?}", excluded(&self.fit), self.predict.as_ref().map(excluded)),
        );
        add("fit columns", &format!("{:?}", job.catalogue.columns));
        add(
            "predict",
            &self
                .predict
                .as_ref()
                .map_or_else(String::new, |predict| predict.catalogue.etags_sha256()),
        );
        add(
            "predict columns",
            &format!("{:?}", job.predict.catalogue.as_ref().map(|source| &source.columns)),
        );
        add("jacobians", &job.predict.jacobians.to_string());
        for block in &self.blocks {
            add("block", &format!("{} {:?}", block.structure, block.layers));
        }
        let curvature = &job.curvature;
        add(
            "curvature",
            &format!("{:?} {:?} {:?}", curvature.options, curvature.kind, curvature.low_rank),
        );
        add("noise", &format!("{:?}", job.noise));
        match job.prior {
            Prior::Fixed(precision) => add("prior", &format!("{precision:?}")),
            Prior::Evidence => add("prior", "evidence"),
            Prior::EvidencePerBlock => add("prior", "evidence per block"),
            Prior::Holdout => add("prior", "holdout"),
        }
        add("prior by layer", &format!("{:?}", job.prior_by_layer));
        add("calibration", &format!("{:?}", job.calibration));
        add("precision", &self.kernel);
        add("batch", &job.compute.batch.to_string());
        add("group", &self.group.to_string());
        add("certificate", &format!("{:?}", job.certificate));
        add("holdout", &format!("{:?}", job.compute.holdout_fraction));
        let found = hex(&hash.clone().finalize())[..16].to_owned();
        match &self.basis {
            // The run that found the basis is the same run when it goes on with it.
            Some(basis) if !basis.is_of(&found) => {
                hash.update(&basis.sha256);
                hex(&hash.finalize())[..16].to_owned()
            }
            _ => found,
        }
    }
}

/// An error and what caused it.
fn with_source(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

impl GroupedCatalogue {
    /// With groups of about `group` spectra.
    fn new(catalogue: Catalogue, group: u64, compute: &Compute) -> Self {
        let groups = plan_groups(catalogue.shards().iter().cloned(), group, catalogue.folder());
        let plenty = PLENTY / compute.holdout_fraction;
        let every = ((catalogue.n_rows() as f64 / plenty) as usize).max(1);
        let sample = groups.iter().step_by(every).cloned().collect();
        Self {
            catalogue,
            groups,
            sample,
            plenty,
        }
    }
}

/// A catalogue that fits the network.
fn opened(
    stores: &Stores,
    source: &CatalogueSource,
    network: &Network,
    known: Option<&KnownCatalogue<'_>>,
) -> Result<Catalogue, RunError> {
    let (uri, columns) = (&source.uri, &source.columns);
    let catalogue = Catalogue::open_knowing(stores, uri, columns, source.on_bad_object, known)?;
    let catalogue = catalogue.excluding(&source.exclude)?;
    if catalogue.n_rows() == 0 {
        return Err(RunError::Refused(format!("{} holds no spectra", source.uri)));
    }
    if catalogue.n_pixels() != network.n_inputs() {
        return Err(RunError::Refused(format!(
            "spectra in {} have {} pixels in column \"{}\", and the network takes {}: resample the spectra to the network's grid, or \
             name the column that holds it",
            source.uri,
            catalogue.n_pixels(),
            source.columns.flux,
            network.n_inputs()
        )));
    }
    let labels = source.columns.labels.len();
    if labels != 0 && labels != network.n_labels() {
        return Err(RunError::Usage(format!(
            "{} has {labels} label columns named, and the network gives {} labels ({}): name one column a label, in that order",
            source.uri,
            network.n_labels(),
            network.labels().names.join(", ")
        )));
    }
    Ok(catalogue)
}

fn sizes<'a>(job: &'a Job, network: &'a Network, n_rows: u64, workers: usize) -> Sizes<'a> {
    Sizes {
        job,
        shapes: network.dense_layers(),
        n_pixels: network.n_inputs(),
        n_labels: network.n_labels(),
        n_rows,
        workers,
    }
}

/// The blocks of the Hessian, and what `auto` chose for which layer.
fn plan_of(job: &Job, network: &Network, n_rows: u64) -> Result<(Vec<BlockPlan>, Vec<ChosenStructure>), RunError> {
    let curvature = &job.curvature;
    let planned = |structure, by_layer| {
        plan_blocks(network.dense_layers(), structure, by_layer, curvature.options).map_err(|error| {
            let key = match error {
                CurvatureError::SplitBiasOfFull { .. } => "curvature.split_bias",
                _ => "[curvature.layers]",
            };
            RunError::Usage(format!("{key}: {error}"))
        })
    };
    match curvature.structure {
        StructureChoice::Given(structure) => Ok((planned(structure, &curvature.by_layer)?, Vec::new())),
        StructureChoice::Auto { memory } => {
            // Checks the names of layers before anything is chosen beside them.
            planned(StructureKind::Diagonal, &curvature.by_layer)?;
            let choice = auto::choose(&sizes(job, network, n_rows, 1), memory)?;
            Ok((planned(StructureKind::Diagonal, &choice.by_layer)?, choice.chosen))
        }
    }
}

/// Refuses a kind of curvature that the structures, the prior or the catalogue cannot have, and a prior that a structure cannot have.
fn check_curvature(job: &Job, blocks: &[BlockPlan]) -> Result<(), RunError> {
    let kind = job.curvature.kind;
    let refused = |why: String| Err(RunError::Usage(format!("curvature.kind = \"{}\": {why}", kind.name())));
    if kind.needs_labels() && job.catalogue.columns.labels.is_empty() {
        return refused(format!(
            "it is made of the residuals of the labels, and {} names none: name its columns in catalogue.labels, or choose \"ggn\"",
            job.catalogue.uri
        ));
    }
    let dual = blocks.iter().any(|block| block.structure == StructureKind::Dual);
    if dual && kind != CurvatureKind::Ggn {
        return refused(
            "\"dual\" holds the Gauss-Newton curvature alone: choose \"ggn\", or another structure".to_owned(),
        );
    }
    let low_rank = blocks.iter().find(|block| block.structure == StructureKind::LowRank);
    let is_found = !matches!(job.prior, Prior::Fixed(_));
    if let Some(block) = low_rank.filter(|_| is_found) {
        return Err(RunError::Usage(format!(
            "layer {} is held as \"low_rank\", whose eigenvalues are not all known, and prior.precision needs them to be found: give it a \
             number, or hold the layer by another structure",
            block.name()
        )));
    }
    if kind != CurvatureKind::Hessian {
        return Ok(());
    }
    let dense = [StructureKind::Full, StructureKind::Block];
    if let Some(block) = blocks.iter().find(|block| !dense.contains(&block.structure)) {
        return refused(format!(
            "layer {} is held as \"{}\", and the true Hessian has no form but the dense one: hold every layer as \"full\" or \"block\", or \
             choose \"ggn\"",
            block.name(),
            block.structure
        ));
    }
    if is_found {
        return refused("its eigenvalues may be negative, and no evidence can choose the prior precision: give prior.precision a number, or \
                        choose \"ggn\"".to_owned());
    }
    Ok(())
}

/// The cells that the run file cuts label space into.
fn label_cells(job: &Job, network: &Network) -> Result<LabelCells, RunError> {
    let names = &network.labels().names;
    let axes = job.calibration.intrinsic_bins.iter().map(|(name, edges)| {
        let label = names.iter().position(|label| label == name).ok_or_else(|| {
            RunError::Usage(format!(
                "[noise.intrinsic_bins]: the network has no label `{name}`, it has {}",
                names.join(", ")
            ))
        })?;
        Ok((label, edges.clone()))
    });
    let axes = axes.collect::<Result<Vec<_>, RunError>>()?;
    LabelCells::new(axes).map_err(|error| RunError::Usage(format!("[noise.intrinsic_bins]: {error}")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
