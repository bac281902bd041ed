//! The timely dataflow: who does what where, and no arithmetic on matrices.

mod job;

pub use job::{
    CatalogueSource, Cluster, Compute, Curvature, ExistingOutput, Job, NetworkSource, Noise,
    Predict, Progress, Stage,
};
