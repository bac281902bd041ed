//! The timely dataflow: who does what where, and no arithmetic on matrices.
//!
//! [`run`] carries a [`Job`] through its stages on this process's workers, together with those of the other processes of a
//! [`Cluster`]; [`plan`] says what that would take.

mod arithmetic_check;
mod bad_rows;
mod basis;
mod checkpoint;
mod cluster;
mod context;
mod drain;
mod dual_files;
mod dual_storage;
mod error;
mod fail_point;
mod fault;
mod files;
mod finished;
mod group_name;
mod interrupt;
mod job;
mod left_files;
mod operators;
mod output_hessian;
mod passes;
mod plan;
mod progress;
mod run;
mod spectral_density;
mod train;

pub use cluster::wire::WireCounts;
pub use error::RunError;
pub use fail_point::{FailAt, FailPoint, FailPoints, Failure};
pub use finished::{Exported, Finished, FinishedLayer};
pub use fisherflow_posterior::{NamedTensor, Peer, PosteriorPart, Reduction, clip_to_psd};
pub use interrupt::{Interrupt, Wish};
pub use job::{
    Calibration, CatalogueSource, Certification, Cluster, Compute, Curvature, ExistingOutput, Hosts, Job,
    LowRankSettings, NetworkSource, Noise, Predict, Prior, Stage, StructureChoice,
};
pub use output_hessian::{
    Choice, OutputHessianPart, OutputHessianReport, OutputHessianRequest, StarSize, Visits, output_hessian,
};
pub use passes::in_fit::InFit;
pub use passes::predict::PredictCounts;
pub use plan::auto::ChosenStructure;
pub use plan::cluster_plan::{ClusterPlan, ClusterQuestion, ClusterStage, WorkerPlan};
pub use plan::cluster_rates::ClusterRates;
pub use plan::found::FoundRun;
pub use plan::memory::MemoryPlan;
pub use plan::resources::{Resources, StageResources, TimeShare};
pub use plan::{
    BlockFacts, CataloguePlan, CorrectionFacts, DualPlan, DualSeconds, FlopPlan, NetworkPlan, ReleasePlan, RunPlan,
    plan,
};
pub use progress::meter::{Meter, Progress};
pub use progress::operator_times::{Activity, OperatorTimes};
pub use progress::standing::{PassCount, ProcessReport, ProcessStanding, Slowest, Standing, Unit, WorkerCount};
pub use progress::status::RunStatus;
pub use run::claim::{holder_runs, is_at_work, own_claim};
pub use run::prior_facts::{EvidenceFacts, HoldoutFacts, PriorFacts, PriorFrom, PriorPrecision};
pub use run::stage_state::{FitCounts, Step};
pub use run::summary::{EffectiveParameters, PullsOver, RunSummary};
pub use run::{Outcome, run};
pub use spectral_density::{SpectrumReport, SpectrumSettings, spectrum};
pub use train::{TrainJob, Trained, train};
