//! The timely dataflow: who does what where, and no arithmetic on matrices.
//!
//! [`run`] carries a [`Job`] through its stages on this process's workers, together with those of the other processes of a
//! [`Cluster`]; [`plan`] says what that would take.

mod calibration_notes;
mod cluster;
mod context;
mod error;
mod fault;
mod files;
mod job;
mod manifest;
mod mesh;
mod operators;
mod passes;
mod plan;
mod prior_choice;
mod prior_facts;
mod run;
mod stage_state;
mod stages;
mod train;

pub use error::RunError;
pub use job::{
    Calibration, CatalogueSource, Cluster, Compute, Curvature, ExistingOutput, Job, NetworkSource, Noise, Predict,
    Prior, Progress, Stage,
};
pub use passes::predict::PredictCounts;
pub use plan::{BlockFacts, CataloguePlan, FlopPlan, MemoryPlan, NetworkPlan, RunPlan, plan};
pub use prior_facts::{EvidenceFacts, HoldoutFacts, PriorFacts, PriorFrom, PriorPrecision};
pub use run::{EffectiveParameters, Outcome, PullsOver, RunSummary, run};
pub use stage_state::FitCounts;
pub use train::{TrainJob, Trained, train};
