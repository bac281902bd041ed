//! What a run is asked to do: the run file after every default and path is resolved.

use std::collections::BTreeMap;
use std::time::Duration;

use fisherflow_curvature::{BlockOptions, CurvatureKind, StructureKind};
use fisherflow_network::{Arithmetic, Description, Precision, Processor};
use fisherflow_spectra::CatalogueColumns;
use fisherflow_store::{OnBadObject, StoreOptions};

use crate::fail_point::FailPoints;
use crate::interrupt::Interrupt;

/// Of the spectra a share that stays in the sums and shows the population, where none is held out.
pub(crate) const SAMPLED: f64 = 0.1;

/// One run, resolved: nothing here is relative, and nothing is left to a default.
#[derive(Clone, Debug)]
pub struct Job {
    /// The trained network.
    pub network: NetworkSource,
    /// The spectra that the Hessian is summed over.
    pub catalogue: CatalogueSource,
    /// The spectra whose error bars are asked for.
    pub predict: Predict,
    /// How each layer's curvature is held.
    pub curvature: Curvature,
    /// Where the residual covariance of the labels comes from.
    pub noise: Noise,
    /// Where the prior precision of the weights comes from.
    pub prior: Prior,
    /// By layer name, over `prior`: given precisions. Layers of one block must agree.
    pub prior_by_layer: BTreeMap<String, f64>,
    /// What is asked of the noise and of the held-out spectra beyond the least.
    pub calibration: Calibration,
    /// Arithmetic, batches and groups.
    pub compute: Compute,
    /// What is checked of the error bars.
    pub certificate: Certification,
    /// URI of what the sums are taken about, found by another run; none: the run finds it, or its line has it.
    pub basis: Option<String>,
    /// URI of the output, or of the line.
    pub output: String,
    /// Whether the output is a line, and the run makes its next release.
    pub releases: bool,
    /// What to do where the output already holds another run.
    pub existing_output: ExistingOutput,
    /// Credentials and endpoints of the object stores.
    pub store: StoreOptions,
}

impl Job {
    /// The run of a run file that says no more than this.
    #[must_use]
    pub fn new(network: String, catalogue: CatalogueSource, prior: Prior, output: String) -> Self {
        Self {
            network: NetworkSource {
                uri: network,
                said: Description::default(),
            },
            catalogue,
            predict: Predict::default(),
            curvature: Curvature::default(),
            noise: Noise::Holdout,
            prior,
            prior_by_layer: BTreeMap::new(),
            calibration: Calibration::default(),
            compute: Compute::default(),
            certificate: Certification::default(),
            basis: None,
            output,
            releases: false,
            existing_output: ExistingOutput::Refuse,
            store: StoreOptions::default(),
        }
    }

    /// Whether held-out spectra are kept out of the sums: they are where the noise, the prior or the weights' part is fitted to their residuals.
    pub(crate) fn keeps_out(&self) -> bool {
        self.noise == Noise::Holdout || self.prior == Prior::Holdout || self.calibration.label_scale
    }
}

impl Compute {
    /// The share of spectra that population, references and limit of inputs are found from: those held out or, where none are, as many that stay
    /// in the sums.
    pub(crate) fn sampled_fraction(&self) -> f64 {
        if self.holdout_fraction > 0.0 {
            self.holdout_fraction
        } else {
            SAMPLED
        }
    }
}

/// A network file, and what the run file says about it.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSource {
    /// URI of the file.
    pub uri: String,
    /// What the run file says; the file's own description wins.
    pub said: Description,
}

/// A catalogue and its columns.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogueSource {
    /// URI, with `*` where it names many objects.
    pub uri: String,
    /// Which column is what.
    pub columns: CatalogueColumns,
    /// Whether an object that cannot be read ends the run.
    pub on_bad_object: OnBadObject,
    /// URIs of tables of identifiers whose spectra are left out.
    pub exclude: Vec<String>,
}

impl CatalogueSource {
    /// All spectra of a catalogue, each object of which must be whole.
    #[must_use]
    pub fn new(uri: String, columns: CatalogueColumns) -> Self {
        Self {
            uri,
            columns,
            on_bad_object: OnBadObject::Fail,
            exclude: Vec::new(),
        }
    }
}

/// What to predict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predict {
    /// The catalogue; `None` where it is the one of the fit: then one pass serves both.
    pub catalogue: Option<CatalogueSource>,
    /// Whether `jacobians/` is written.
    pub jacobians: bool,
}

/// Which curvature, and the structure of each layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curvature {
    /// Every layer not named below.
    pub structure: StructureChoice,
    /// By layer name.
    pub by_layer: BTreeMap<String, StructureKind>,
    /// Of every block.
    pub options: BlockOptions,
    /// Which curvature of the loss is summed.
    pub kind: CurvatureKind,
    /// The layers held as leading eigenpairs and diagonal.
    pub low_rank: LowRankSettings,
}

/// How the layers without a structure of their own are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructureChoice {
    /// All of them so.
    Given(StructureKind),
    /// Each as exactly as a process of one worker can within so many bytes. No structure depends on the machine or on the number of workers.
    Auto {
        /// Bytes.
        memory: u64,
    },
}

impl StructureChoice {
    /// What `auto` may use where the run file does not say: 8 GiB.
    pub const MEMORY: u64 = 8 << 30;
}

impl Default for StructureChoice {
    fn default() -> Self {
        Self::Auto { memory: Self::MEMORY }
    }
}

impl From<StructureKind> for StructureChoice {
    fn from(kind: StructureKind) -> Self {
        Self::Given(kind)
    }
}

/// How the eigenpairs of a `low_rank` block are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRankSettings {
    /// Number of eigenpairs.
    pub rank: usize,
    /// Passes over the spectra.
    pub passes: usize,
}

impl Default for LowRankSettings {
    fn default() -> Self {
        Self { rank: 32, passes: 4 }
    }
}

/// The residual covariance R of the labels.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// From the residuals of the held-out fraction of the catalogue.
    Holdout,
    /// Given: `[K][K]`, in label units.
    Covariance(Vec<Vec<f64>>),
}

/// The prior precision of every weight: `delta`, in normalised units, on the scale of the SUM over spectra.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Prior {
    /// Given.
    Fixed(f64),
    /// The one, for all blocks together, that maximises the marginal likelihood of the spectra's labels.
    Evidence,
    /// One a block: each maximises it over its own weights.
    EvidencePerBlock,
    /// The one, for all blocks together, that makes the residuals of held-out spectra most likely.
    Holdout,
}

/// What is asked of the noise and of the held-out spectra beyond the least.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Whether each spectrum's photon noise weighs its labels too: `Lam_n = (R + S_n + J_x C_flux J_x^T)^-1`.
    pub errors_in_variables: bool,
    /// Labels with edges that cut label space into cells, each with a C_intrinsic of its own; without any, one for all.
    pub intrinsic_bins: Vec<(String, Vec<f64>)>,
    /// Whether the weights' part is given a factor a label, from held-out spectra.
    pub label_scale: bool,
}

/// Arithmetic, batches and groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Compute {
    /// Arithmetic of the products, and a worker's own threads.
    pub arithmetic: Arithmetic,
    /// What spectra are differentiated and summed on.
    pub processor: Processor,
    /// Spectra a batch.
    pub batch: usize,
    /// Spectra a reduction group, at least: groups are whole row groups. None: 4,096, or as many as keep the sums that a group leaves in the
    /// store at 16 KiB a spectrum.
    pub group: Option<u64>,
    /// Share of the catalogue held out from the sums, chosen by hash of id; in `[0, 1)`.
    pub holdout_fraction: f64,
    /// How many times as far from the input mean as the farthest pixel of a typical held-out spectrum a pixel must be for its spectrum to be
    /// out of range; infinite: only one that overflows is.
    pub farthest_input: f64,
    /// Bytes that a process may take for a dual block's rows and factor; none: everything in memory. No bit depends on it.
    pub memory: Option<u64>,
    /// Bytes of the fit's spectra that a process keeps in memory between passes, as they were decoded. No bit depends on it.
    pub kept_spectra: u64,
    /// URI of a folder, reachable by every process, for the tiles that memory has no room for; none: in the output.
    pub scratch: Option<String>,
}

impl Default for Compute {
    fn default() -> Self {
        Self {
            arithmetic: Arithmetic {
                precision: Precision::default(),
                threads: 1,
            },
            processor: Processor::default(),
            batch: 512,
            group: None,
            holdout_fraction: 0.1,
            // In sums of second order a spectrum beyond it weighs as much as a million others.
            farthest_input: 1e3,
            memory: None,
            kept_spectra: 512 << 20,
            scratch: None,
        }
    }
}

/// What is checked of a run's error bars before they are given out.
#[derive(Clone, Debug, PartialEq)]
pub struct Certification {
    /// Training spectra of the comparison with the exact posterior, about; 0: none. `None`: [`Certification::n_spectra`] says.
    pub spectra: Option<u64>,
    /// Held-out stars compared on, about.
    pub stars: u64,
    /// Structures compared beside the run's own, each over all layers.
    pub compare: Vec<StructureKind>,
    /// Whether all training spectra are streamed once more, for the residual of the answers and the gradient at theta.
    pub full_pass: bool,
    /// Lanczos steps with the true Hessian of the comparison's spectra; 0: none.
    pub hessian_steps: usize,
}

impl Default for Certification {
    fn default() -> Self {
        Self {
            spectra: None,
            stars: 200,
            compare: Vec::new(),
            full_pass: true,
            hessian_steps: 0,
        }
    }
}

impl Certification {
    /// Whether anything is checked at all.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.compares() || self.full_pass
    }

    /// Whether there is a comparison.
    #[must_use]
    pub fn compares(&self) -> bool {
        self.spectra != Some(0)
    }

    /// The same with what is left open settled.
    #[must_use]
    pub fn settled(&self, n_labels: usize) -> Self {
        Self {
            spectra: Some(self.n_spectra(n_labels)),
            ..self.clone()
        }
    }

    /// Training spectra of the comparison, about. Where nothing is asked 2,000, and of more than three labels fewer: its matrices are of labels x spectra
    /// on a side.
    #[must_use]
    pub fn n_spectra(&self, n_labels: usize) -> u64 {
        const SPECTRA: u64 = 2000;
        const ROWS: u64 = 3 * SPECTRA;
        self.spectra
            .unwrap_or_else(|| (ROWS / (n_labels as u64).max(1)).clamp(1, SPECTRA))
    }
}

/// What to do where the output already holds another run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingOutput {
    /// Refuse, naming the run that holds it.
    Refuse,
    /// Delete it first.
    Overwrite,
}

/// The processes and workers of the run.
#[derive(Clone)]
pub struct Cluster {
    /// Which of the processes this one is.
    pub process: usize,
    /// Number of processes.
    pub processes: usize,
    /// Where they are; unused for a single process.
    pub hosts: Hosts,
    /// Workers (threads) a process.
    pub workers: usize,
    /// The secret that every process proves to know; may be empty where all of them are on this machine.
    pub secret: Vec<u8>,
    /// Digest of the program: processes of unlike builds do not form a cluster.
    pub build: [u8; 32],
    /// How long to wait for the other processes at start-up.
    pub deadline: Duration,
    /// How long a process may be silent before it counts as lost.
    pub peer_timeout: Duration,
    /// By which this process is asked to end early.
    pub interrupt: Interrupt,
    /// Where this process fails, in tests of what becomes of the others.
    pub fail_points: FailPoints,
}

/// Where the processes of a run are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// `host:port` of every process, in order. Names are looked up again until they are known and somebody answers there.
    Listed(Vec<String>),
    /// The processes leave their addresses under the output.
    Rendezvous {
        /// The name or IPv4 address by which the others reach this one.
        host: String,
        /// Where this one listens; 0 for any free port.
        port: u16,
    },
}

impl Cluster {
    /// One process of so many workers.
    #[must_use]
    pub fn alone(workers: usize) -> Self {
        Self {
            process: 0,
            processes: 1,
            hosts: Hosts::Listed(Vec::new()),
            workers,
            secret: Vec::new(),
            build: [0; 32],
            deadline: Duration::from_secs(60),
            peer_timeout: Duration::from_secs(60),
            interrupt: Interrupt::default(),
            fail_points: FailPoints::default(),
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("process", &self.process)
            .field("processes", &self.processes)
            .field("hosts", &self.hosts)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// The stages of a run, each runnable alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Noise, references and curvature sums: writes `posterior/hessian/`.
    Fit,
    /// Prior and inverse of each block: writes the rest of `posterior/`.
    Invert,
    /// Error bars: writes `predictions/` and `jacobians/`, and commits the manifest.
    Predict,
    /// All of them.
    Run,
}

impl Stage {
    /// The command that runs it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Invert => "invert",
            Self::Predict => "predict",
            Self::Run => "run",
        }
    }
}
