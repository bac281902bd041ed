//! What every worker of a process shares during a run.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fisherflow_curvature::{BlockPlan, CurvatureKind, StructureKind, plan_blocks};
use fisherflow_network::Network;
use fisherflow_posterior::{Evidence, Precision, Spectrum, evidence, in_label_units};
use fisherflow_spectra::{Group, SpectrumBatch, plan_groups};
use fisherflow_store::{Catalogue, Output, Stores};
use sha2::{Digest, Sha256};

use crate::error::RunError;
use crate::fault::Faults;
use crate::files;
use crate::job::{CatalogueSource, Compute, Job, Prior, Progress};
use crate::operators::GroupReader;
use crate::passes::rows;
use crate::stage_state::{FitCounts, InvertState};

/// Bytes of decoded spectra that a group's reader may hold ready.
const PREFETCH_BYTES: usize = 64 << 20;

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
}

/// The posterior of every block, loaded once a process.
pub(crate) type Posterior = Arc<Vec<Box<dyn Precision>>>;

/// What every worker of a process shares during a run.
pub(crate) struct Context {
    pub(crate) job: Arc<Job>,
    /// Names everything that decides the bits of the output: build, settings, network, catalogues.
    pub(crate) run_id: String,
    pub(crate) stores: Stores,
    pub(crate) network: Network,
    pub(crate) network_sha256: String,
    pub(crate) network_bytes: u64,
    pub(crate) blocks: Vec<BlockPlan>,
    pub(crate) fit: GroupedCatalogue,
    /// `None` where the catalogue of the fit is the one to predict.
    pub(crate) predict: Option<GroupedCatalogue>,
    pub(crate) output: Output,
    pub(crate) faults: Arc<Faults>,
    pub(crate) progress: Arc<dyn Progress>,
    /// Workers of each process.
    pub(crate) workers: usize,
    /// Threads that one block's inverse may use while the process's other workers wait for theirs.
    pub(crate) cores: usize,
    posterior: Mutex<Option<Posterior>>,
    /// Where the prior is by evidence, and once it is known.
    evidence: OnceLock<Evidence>,
    /// Held by the worker that computes the evidence for all of its process.
    maximising: Mutex<()>,
}

impl Context {
    /// Reads the network and the catalogues' footers, and checks that they fit one another; writes nothing.
    pub(crate) fn open(job: Arc<Job>, workers: usize, progress: Arc<dyn Progress>) -> Result<Self, RunError> {
        let stores = Stores::new(job.store.clone(), IO_THREADS)?;
        let bytes = stores.read(&job.network.uri)?;
        let network =
            Network::from_safetensors(&bytes, &job.network.said, job.compute.arithmetic).map_err(|source| {
                RunError::NetworkFile {
                    uri: job.network.uri.clone(),
                    source,
                }
            })?;
        let blocks = plan_blocks(network.dense_layers(), job.curvature.structure, &job.curvature.by_layer)
            .map_err(|error| RunError::Usage(format!("[curvature.layers]: {error}")))?;
        check_kind(&job, &blocks)?;
        let fit = GroupedCatalogue::open(&stores, &job.catalogue, &job.compute, &network)?;
        let predict = job
            .predict
            .catalogue
            .as_ref()
            .map(|source| GroupedCatalogue::open(&stores, source, &job.compute, &network))
            .transpose()?;
        let network_sha256 = hex(&Sha256::digest(&bytes));
        let output = Output::open(&stores, &job.output)?;
        let mut context = Self {
            workers: workers.max(1),
            cores: workers * job.compute.arithmetic.threads,
            run_id: String::new(),
            job,
            network,
            network_sha256,
            network_bytes: bytes.len() as u64,
            stores,
            blocks,
            fit,
            predict,
            output,
            faults: Arc::default(),
            progress,
            posterior: Mutex::default(),
            evidence: OnceLock::new(),
            maximising: Mutex::default(),
        };
        context.run_id = context.identity();
        Ok(context)
    }

    /// Whether the fit's own backward passes serve the prediction too.
    pub(crate) fn is_fused(&self) -> bool {
        self.predict.is_none()
    }

    /// The catalogue whose error bars are asked for.
    pub(crate) fn predicted(&self) -> &GroupedCatalogue {
        self.predict.as_ref().unwrap_or(&self.fit)
    }

    /// Whether a row of the fit's catalogue is counted in the sums.
    pub(crate) fn is_in_sums(&self, batch: &SpectrumBatch, row: usize) -> bool {
        rows::is_in_sums(batch, row, &self.job.compute, &self.job.noise)
    }

    /// Whether a row of the fit's catalogue is kept out of the sums because the noise comes from its residuals.
    pub(crate) fn is_held_out(&self, batch: &SpectrumBatch, row: usize) -> bool {
        rows::is_kept_out(batch, row, &self.job.compute, &self.job.noise)
    }

    /// The batches of a group, read ahead on the store's threads.
    pub(crate) fn read(&self, catalogue: &Catalogue, group: &Group) -> GroupReader {
        Box::new(
            catalogue
                .fetch(group, self.job.compute.batch, PREFETCH_BYTES)
                .map(|batch| batch.map_err(RunError::from)),
        )
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
                .map(|(plan, info)| files::read_inverse(self, plan, info.clone()))
                .collect();
            *posterior = Some(Arc::new(loaded?));
        }
        Ok(())
    }

    /// The posterior of every block, once loaded.
    pub(crate) fn posterior(&self) -> Result<Posterior, RunError> {
        let posterior = self.posterior.lock().unwrap_or_else(PoisonError::into_inner);
        posterior
            .clone()
            .ok_or_else(|| RunError::Internal("a prediction began before its posterior was loaded".into()))
    }

    /// The evidence over the spectra of all blocks, in their order; the first worker to ask computes it for all of its process.
    pub(crate) fn maximise_evidence(&self, spectra: &[Spectrum]) -> Result<&Evidence, RunError> {
        let _maximising = self.maximising.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.evidence.get() {
            return Ok(known);
        }
        let mut weights_squared = 0.0;
        for &layer in self.blocks.iter().flat_map(|plan| &plan.layers) {
            let weights = self.network.weights_and_biases(layer)?;
            weights_squared += weights.iter().map(|weight| weight * weight).sum::<f64>();
        }
        let found = evidence(spectra, weights_squared)?;
        Ok(self.evidence.get_or_init(|| found))
    }

    /// Takes over the evidence that an `invert` before found.
    pub(crate) fn take_over_evidence(&self, inverted: &InvertState) {
        if let Some(found) = &inverted.evidence {
            self.evidence.get_or_init(|| found.clone());
        }
    }

    /// The prior precision, once it is known.
    pub(crate) fn prior_precision(&self) -> Option<f64> {
        match self.job.prior {
            Prior::Fixed(precision) => Some(precision),
            Prior::Evidence => self.evidence.get().map(|found| found.prior_precision),
        }
    }

    /// The evidence, where the prior is chosen by it and once it is known.
    pub(crate) fn evidence(&self) -> Option<&Evidence> {
        self.evidence.get()
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
        add("curvature", &format!("{:?}", job.curvature));
        add("noise", &format!("{:?}", job.noise));
        match job.prior {
            Prior::Fixed(precision) => add("prior", &format!("{precision:?}")),
            Prior::Evidence => add("prior", "evidence"),
        }
        add("precision", &format!("{:?}", job.compute.arithmetic.precision));
        add("batch", &job.compute.batch.to_string());
        add("group", &job.compute.group.to_string());
        add("certificate", &format!("{:?}", job.certificate));
        add("holdout", &format!("{:?}", job.compute.holdout_fraction));
        hex(&hash.finalize())[..16].to_string()
    }
}

impl GroupedCatalogue {
    fn open(stores: &Stores, source: &CatalogueSource, compute: &Compute, network: &Network) -> Result<Self, RunError> {
        let catalogue = Catalogue::open(stores, &source.uri, &source.columns, source.on_bad_object)?;
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
        let groups = plan_groups(catalogue.shards().iter().cloned(), compute.group);
        let plenty = PLENTY / compute.holdout_fraction;
        let every = ((catalogue.n_rows() as f64 / plenty) as usize).max(1);
        let sample = groups.iter().step_by(every).cloned().collect();
        Ok(Self {
            catalogue,
            groups,
            sample,
        })
    }
}

/// Refuses a kind of curvature that the structures, the prior or the catalogue cannot have.
fn check_kind(job: &Job, blocks: &[BlockPlan]) -> Result<(), RunError> {
    let kind = job.curvature.kind;
    let refused = |why: String| Err(RunError::Usage(format!("curvature.kind = \"{}\": {why}", kind.name())));
    if kind.needs_labels() && job.catalogue.columns.labels.is_empty() {
        return refused(format!(
            "it is made of the residuals of the labels, and {} names none: name its columns in catalogue.labels, or choose \"ggn\"",
            job.catalogue.uri
        ));
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
    if job.prior == Prior::Evidence {
        return refused("its eigenvalues may be negative, and no evidence can choose the prior precision: give prior.precision a number, or \
                        choose \"ggn\"".to_owned());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
