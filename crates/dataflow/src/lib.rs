//! The timely dataflow: who does what where, and no arithmetic on matrices.
//!
//! [`run`] carries a [`Job`] through its stages on this process's workers, together with those of the other processes of a
//! [`Cluster`]; [`plan`] says what that would take.

mod arithmetic_check;
mod auto;
mod bad_rows;
mod basis;
mod calibration_notes;
mod checkpoint;
mod claim;
mod claim_keeper;
mod cluster;
mod cluster_plan;
mod cluster_rates;
mod cluster_sizes;
mod context;
mod data_notes;
mod drain;
mod dual_files;
mod dual_storage;
mod error;
mod fail_point;
mod fault;
mod files;
mod finished;
mod group_name;
mod handshake;
mod heartbeat;
mod inputs;
mod interrupt;
mod job;
mod manifest;
mod membership;
mod memory;
mod mesh;
mod meter;
mod operator_times;
mod operators;
mod output_hessian;
mod passes;
mod plan;
mod prior_choice;
mod prior_facts;
mod read_back;
mod release;
mod repeated;
mod resources;
mod run;
mod spectrum;
mod stage_state;
mod stages;
mod standing;
mod status;
mod still_there;
mod strays;
mod train;
mod whereabouts;
mod wire;

pub use auto::ChosenStructure;
pub use cluster_plan::{ClusterPlan, ClusterQuestion, ClusterStage, WorkerPlan};
pub use cluster_rates::ClusterRates;
pub use error::RunError;
pub use fail_point::{FailAt, FailPoint, FailPoints, Failure};
pub use finished::{Exported, Finished, FinishedLayer};
pub use fisherflow_posterior::{NamedTensor, Peer, PosteriorPart, Reduction};
pub use interrupt::{Interrupt, Wish};
pub use job::{
    Calibration, CatalogueSource, Certification, Cluster, Compute, Curvature, ExistingOutput, Hosts, Job,
    LowRankSettings, NetworkSource, Noise, Predict, Prior, Stage, StructureChoice,
};
pub use memory::MemoryPlan;
pub use meter::{Meter, Progress};
pub use operator_times::{Activity, OperatorTimes};
pub use output_hessian::{OutputHessianPart, OutputHessianReport, OutputHessianRequest, StarSize, output_hessian};
pub use passes::predict::PredictCounts;
pub use plan::{
    BlockFacts, CataloguePlan, CorrectionFacts, DualPlan, DualSeconds, FlopPlan, NetworkPlan, ReleasePlan, RunPlan,
    plan,
};
pub use prior_facts::{EvidenceFacts, HoldoutFacts, PriorFacts, PriorFrom, PriorPrecision};
pub use resources::{Resources, StageResources, TimeShare};
pub use run::{EffectiveParameters, Outcome, PullsOver, RunSummary, run};
pub use spectrum::{SpectrumReport, SpectrumSettings, spectrum};
pub use stage_state::FitCounts;
pub use standing::{PassCount, ProcessReport, ProcessStanding, Slowest, Standing, Unit, WorkerCount};
pub use status::RunStatus;
pub use train::{TrainJob, Trained, train};
pub use wire::WireCounts;
