//! The timely dataflow: who does what where, and no arithmetic on matrices.
#![allow(dead_code)]

mod cluster;
mod error;
mod fault;
mod job;
mod mesh;
mod operators;

pub use error::RunError;
pub use job::{
    CatalogueSource, Cluster, Compute, Curvature, ExistingOutput, Job, NetworkSource, Noise,
    Predict, Progress, Stage,
};
