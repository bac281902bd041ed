//! What a run would do and take, found out without touching anything.

use std::sync::Arc;

use fisherflow_curvature::{BlockPlan, References, StructureKind, structure_of};
use fisherflow_posterior::{inverse_flops, spectrum_flops};
use fisherflow_store::SkippedObject;
use serde::Serialize;

use crate::context::{Context, GroupedCatalogue};
use crate::error::RunError;
use crate::files::structure_name;
use crate::job::{Job, Prior, Progress};

/// What a run would do and take. Floating-point operations count a multiplication and an addition as two.
#[derive(Clone, Debug, Serialize)]
pub struct RunPlan {
    /// Names everything that decides the bits of the output.
    pub run_id: String,
    /// URI of the output.
    pub output: String,
    /// The network.
    pub network: NetworkPlan,
    /// The spectra that the Hessian is summed over.
    pub fit: CataloguePlan,
    /// The spectra to predict; `None`: those of the fit, in the same passes.
    pub predict: Option<CataloguePlan>,
    /// The blocks of the Hessian.
    pub blocks: Vec<BlockFacts>,
    /// Floating-point operations of the whole run.
    pub flops: FlopPlan,
    /// Bytes of memory of one process.
    pub memory: MemoryPlan,
    /// Bytes that the output takes, before compression.
    pub output_bytes: u64,
}

/// The network of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkPlan {
    /// Its file.
    pub uri: String,
    /// Pixels a spectrum.
    pub n_inputs: usize,
    /// Labels.
    pub labels: Vec<String>,
    /// Weights, biases included.
    pub n_weights: usize,
    /// Dense layers.
    pub n_layers: usize,
}

/// A catalogue of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct CataloguePlan {
    /// As the run file names it.
    pub uri: String,
    /// Parquet objects.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Spectra.
    pub spectra: u64,
    /// Row groups that hold spectra.
    pub row_groups: usize,
    /// Reduction groups.
    pub groups: usize,
    /// Objects left out.
    pub skipped: Vec<SkippedObject>,
}

/// A block of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct BlockFacts {
    /// Its layers, joined by `+`.
    pub layer: String,
    /// How it is held.
    pub structure: &'static str,
    /// Its weights.
    pub n_weights: u64,
    /// Bytes of its sums.
    pub sums_bytes: u64,
    /// Operations of its sums over all spectra of the fit.
    pub sums_flops: f64,
    /// Operations of its inverse, and of its eigenvalues where the prior is chosen by evidence.
    pub inverse_flops: f64,
}

/// Operations of the passes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FlopPlan {
    /// Forward and backward passes and sums of the fit.
    pub fit: f64,
    /// Inverses.
    pub invert: f64,
    /// Forward and backward passes and covariances of the prediction.
    pub predict: f64,
}

/// Memory of one process at the widest place of each stage, beside about 100 MB for the program and what is read ahead.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryPlan {
    /// A worker's own sums, a group's sums on their way from each worker, and the totals.
    pub fit: u64,
    /// The largest block: its curvature, factors and inverse; beside all others, where the prior waits for the evidence.
    pub invert: u64,
    /// The posterior of all blocks.
    pub predict: u64,
}

struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// What `job` would do on `workers` workers a process: the network and the catalogues' footers are read, nothing is written.
///
/// # Errors
/// Whatever would end the run before its first pass.
pub fn plan(job: Arc<Job>, workers: usize) -> Result<RunPlan, RunError> {
    let context = Context::open(job, workers, Arc::new(Silent))?;
    let network = &context.network;
    let n_labels = network.n_labels();
    let zero = References::zero(network.dense_layers(), n_labels);
    let n_fit = context.fit.catalogue.n_rows();
    let n_predict = context.predicted().catalogue.n_rows();
    let mut blocks = Vec::new();
    for block in &context.blocks {
        let structure = structure_of(block, &zero, n_labels, 1)?;
        blocks.push(BlockFacts {
            layer: block.name(),
            structure: structure_name(block.structure),
            n_weights: block.n_weights() as u64,
            sums_bytes: structure.bytes(),
            sums_flops: structure.flops(n_fit),
            inverse_flops: inverse_flops(block)
                + match context.job.prior {
                    Prior::Fixed(_) => 0.0,
                    Prior::Evidence => spectrum_flops(block),
                },
        });
    }
    let k = n_labels as f64;
    let products = |layers: usize| -> f64 {
        network
            .dense_layers()
            .iter()
            .skip(layers)
            .map(|shape| 2.0 * (shape.shared * shape.inputs * shape.outputs) as f64)
            .sum()
    };
    let (forward, backward) = (products(0), k * products(1));
    let by_flux = k * (products(0) - products(1));
    let weights: f64 = context.blocks.iter().map(|block| predictive_flops(block, k)).sum();
    let fused = context.is_fused();
    let held_out = context.job.compute.holdout_fraction * n_fit as f64;
    let sums_bytes: u64 = blocks.iter().map(|block| block.sums_bytes).sum();
    let posterior_bytes: u64 = context.blocks.iter().map(matrix_bytes).sum();
    let flops = FlopPlan {
        fit: (held_out + n_fit as f64) * (forward + backward)
            + if fused { n_fit as f64 * by_flux } else { 0.0 }
            + blocks.iter().map(|block| block.sums_flops).sum::<f64>(),
        invert: blocks.iter().map(|block| block.inverse_flops).sum(),
        predict: held_out * (forward + backward + by_flux + weights)
            + n_predict as f64 * (forward + backward + weights + if fused { 0.0 } else { by_flux }),
    };
    let matrices = context.blocks.iter().map(matrix_bytes);
    let memory = MemoryPlan {
        fit: sums_bytes * (2 * workers as u64 + 1),
        invert: match context.job.prior {
            Prior::Fixed(_) => matrices.map(|bytes| 4 * bytes).max().unwrap_or(0),
            Prior::Evidence => posterior_bytes + matrices.map(|bytes| 3 * bytes).max().unwrap_or(0),
        },
        predict: posterior_bytes,
    };
    let pixels = if context.job.predict.jacobians {
        4 * n_labels * network.n_inputs()
    } else {
        0
    };
    let per_star = 8 * (2 * n_labels + 4 * n_labels * n_labels + 4) + pixels;
    Ok(RunPlan {
        run_id: context.run_id.clone(),
        output: context.output.uri().to_string(),
        network: NetworkPlan {
            uri: context.job.network.uri.clone(),
            n_inputs: network.n_inputs(),
            labels: network.labels().names.clone(),
            n_weights: network.n_weights(),
            n_layers: network.dense_layers().len(),
        },
        fit: catalogue(&context.job.catalogue.uri, &context.fit),
        predict: context
            .job
            .predict
            .catalogue
            .as_ref()
            .zip(context.predict.as_ref())
            .map(|(source, grouped)| catalogue(&source.uri, grouped)),
        blocks,
        flops,
        memory,
        output_bytes: n_predict * per_star as u64 + 2 * posterior_bytes + 24 * network.n_weights() as u64,
    })
}

fn catalogue(uri: &str, grouped: &GroupedCatalogue) -> CataloguePlan {
    let catalogue = &grouped.catalogue;
    CataloguePlan {
        uri: uri.to_string(),
        objects: catalogue.summary().objects.len(),
        bytes: catalogue.bytes(),
        spectra: catalogue.n_rows(),
        row_groups: catalogue.shards().len(),
        groups: grouped.groups.len(),
        skipped: catalogue.skipped().to_vec(),
    }
}

/// Operations of one star's weights' part.
fn predictive_flops(block: &BlockPlan, k: f64) -> f64 {
    let p = block.n_weights() as f64;
    match block.structure {
        StructureKind::Full | StructureKind::Block => 2.0 * k * p * p,
        StructureKind::Diagonal => 2.0 * k * p,
        StructureKind::Kfac => block
            .shapes
            .iter()
            .map(|shape| {
                let (a, g) = ((shape.inputs + 1) as f64, shape.outputs as f64);
                2.0 * (a * a + k * g * g + a * g)
            })
            .sum(),
    }
}

/// Bytes of a block's matrices in f64: the square, or the Kronecker factors.
fn matrix_bytes(block: &BlockPlan) -> u64 {
    let p = block.n_weights() as u64;
    8 * match block.structure {
        StructureKind::Full | StructureKind::Block => p * p,
        StructureKind::Diagonal => p,
        StructureKind::Kfac => block
            .shapes
            .iter()
            .map(|shape| {
                let (a, g) = (shape.inputs as u64 + 1, shape.outputs as u64);
                a * a + g * g + a * g
            })
            .sum(),
    }
}
