//! The timely dataflow: who does what where, and no arithmetic on matrices.
//!
//! [`run`] carries a [`Job`] through its stages on this process's workers, together with those of the other processes of a
//! [`Cluster`]; [`plan`] says what that would take.

mod cluster;
mod context;
mod error;
mod fault;
mod files;
mod finished;
mod job;
mod manifest;
mod mesh;
mod operators;
mod passes;
mod plan;
mod prior_facts;
mod run;
mod stage_state;
mod stages;
mod train;

pub use error::RunError;
pub use finished::{Exported, Finished, FinishedLayer};
pub use fisherflow_posterior::{NamedTensor, Peer, PosteriorPart, Reduction};
pub use job::{
    CatalogueSource, Certification, Cluster, Compute, Curvature, ExistingOutput, Job, NetworkSource, Noise, Predict,
    Prior, Progress, Stage,
};
pub use passes::predict::PredictCounts;
pub use plan::{BlockFacts, CataloguePlan, FlopPlan, MemoryPlan, NetworkPlan, RunPlan, plan};
pub use prior_facts::{EvidenceFacts, PriorFacts, PriorFrom};
pub use run::{Outcome, RunSummary, run};
pub use stage_state::FitCounts;
pub use train::{TrainJob, Trained, train};
