//! What a run would do and take, found out without touching anything.

pub(crate) mod auto;
pub(crate) mod cluster_plan;
pub(crate) mod cluster_rates;
pub(crate) mod cluster_sizes;
pub(crate) mod found;
pub(crate) mod memory;
pub(crate) mod resources;

use std::sync::Arc;

use fisherflow_curvature::{
    BlockPlan, CurvatureError, CurvatureKind, References, StructureKind, correction_bytes, correction_flops,
    residual_flops, structure_of,
};
use fisherflow_network::DenseShape;
use fisherflow_posterior::{
    ComparisonSizes, DualCost, bases_flops, dense_covariance_flops, inverse_flops, measured_product_rate, scan_flops,
    spectrum_flops,
};
use fisherflow_store::{Changes, LargestRowGroup, SkippedObject};
use serde::Serialize;

use crate::context::{Context, GroupedCatalogue};
use crate::error::RunError;
use crate::job::{Job, LowRankSettings, Prior};
use crate::passes::certify::gradient_bytes;
use crate::passes::dual::{LARGEST_SPECTRUM, needs_spectrum};
use crate::passes::exclusions;
use crate::plan::auto::ChosenStructure;
use crate::plan::cluster_plan::{ClusterPlan, ClusterQuestion, cluster_plan};
use crate::plan::cluster_sizes::cluster_sizes;
use crate::plan::found::{FoundRun, found_run};
use crate::plan::memory::{MemoryPlan, Sizes, bases_bytes, iterated, matrix_bytes};
use crate::progress::meter::Meter;
use crate::run::release;

/// What a run would do and take. Floating-point operations count a multiplication and an addition as two.
#[derive(Clone, Debug, Serialize)]
pub struct RunPlan {
    /// Names everything that decides the bits of the output.
    pub run_id: String,
    /// URI of the output.
    pub output: String,
    /// What is there already.
    pub found: Option<FoundRun>,
    /// Which release it would make; `None` where the output is in no line.
    pub release: Option<ReleasePlan>,
    /// The products that the run file asks for.
    pub precision_asked: String,
    /// The products taken: slower ones where those are not exact enough for the catalogue's first spectra.
    pub precision: String,
    /// What their bits depend on: the same, or the kernels of bf16 that this machine has for them.
    pub kernel: String,
    /// The network.
    pub network: NetworkPlan,
    /// The spectra that the Hessian is summed over.
    pub fit: CataloguePlan,
    /// The spectra to predict; `None`: those of the fit, in the same passes.
    pub predict: Option<CataloguePlan>,
    /// What the groups of the fit leave in the store until the run is committed.
    pub checkpoints: CheckpointPlan,
    /// The blocks of the Hessian.
    pub blocks: Vec<BlockFacts>,
    /// What `auto` chose, layer by layer; empty where the run file gives the structures.
    pub chosen: Vec<ChosenStructure>,
    /// Floating-point operations of the whole run.
    pub flops: FlopPlan,
    /// Bytes of memory of one process.
    pub memory: MemoryPlan,
    /// Bytes that the output takes, before compression.
    pub output_bytes: u64,
    /// What the dual block takes, if there is one.
    pub dual: Option<DualPlan>,
    /// What a cluster would do and take.
    pub cluster: ClusterPlan,
}

/// The next release of a line.
#[derive(Clone, Debug, Serialize)]
pub struct ReleasePlan {
    /// The line.
    pub line: String,
    /// Which release, from 1.
    pub number: u64,
    /// What it changes of the one before, and how many groups it would compute.
    pub changes: Changes,
    /// Whether the one before is of the same inputs: then nothing is released.
    pub is_released: bool,
}

/// What a dual block takes.
#[derive(Clone, Debug, Serialize)]
pub struct DualPlan {
    /// Its layers, joined by `+`.
    pub layer: String,
    /// Its size, bytes and operations over all workers, for the training spectra that the catalogue and the held-out share promise.
    pub cost: DualCost,
    /// Rows that its prior can be found for, at most; `None` where it is given: a run that comes to more ends there.
    pub most_rows: Option<u64>,
    /// Whether rows and factor are kept in the memory of each process.
    pub in_memory: bool,
    /// Bytes that a process keeps of them: rows and factor, or its budget.
    pub process_bytes: u64,
    /// Bytes of the factor's tiles in the scratch folder; 0 where they are kept in memory.
    pub scratch_bytes: u64,
    /// Workers of all processes.
    pub workers: usize,
    /// Operations a second of one worker, as measured here with an f64 product of tiles.
    pub worker_rate: f64,
    /// Seconds on all workers at that rate.
    pub seconds: DualSeconds,
}

/// Seconds of a dual block's steps.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DualSeconds {
    /// The Gram matrix.
    pub gram: f64,
    /// Its Cholesky factor.
    pub cholesky: f64,
    /// The effective parameters.
    pub effective_parameters: f64,
    /// The covariances of all spectra to predict, and of those held out.
    pub predict: f64,
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
    /// The one of which most is read: row groups are read whole.
    pub largest_row_group: Option<LargestRowGroup>,
    /// Reduction groups.
    pub groups: usize,
    /// Objects left out.
    pub skipped: Vec<SkippedObject>,
}

/// What the groups of the fit leave in the store until the run is committed: an interrupted run goes on from there.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CheckpointPlan {
    /// Spectra of a group, at least.
    pub group: u64,
    /// Bytes of one group's sums: of the Hessian, and of the gradient that the certificate checks.
    pub bytes: u64,
    /// Bytes of those of all groups.
    pub all_bytes: u64,
    /// Bytes of what the last pass for the eigenpairs of a `low_rank` block came to.
    pub eigenpairs: u64,
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
    /// What an `ekfac` block takes beside: its eigenbases, and its second sums in them.
    pub correction: Option<CorrectionFacts>,
    /// Operations of its inverse, and of its eigenvalues where the prior is to be found.
    pub inverse_flops: f64,
}

/// The second pass of an `ekfac` block.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CorrectionFacts {
    /// Bytes of its eigenbases, of which each process holds one copy, with another half of that where products are in f32.
    pub bases_bytes: u64,
    /// Operations of the eigenproblems.
    pub bases_flops: f64,
    /// Bytes of its sums.
    pub sums_bytes: u64,
    /// Operations of its sums over all spectra of the fit, beside another forward and backward pass.
    pub sums_flops: f64,
}

/// Operations of the passes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FlopPlan {
    /// Forward and backward passes and sums of the fit.
    pub fit: f64,
    /// Inverses.
    pub invert: f64,
    /// The exact posterior of some spectra, and another pass over all of them; 0 where neither is asked for.
    pub certificate: f64,
    /// Of these, the comparison with the exact posterior: in f64, by one worker with the threads of its process.
    pub comparison: f64,
    /// Forward and backward passes and covariances of the prediction.
    pub predict: f64,
}

/// What `job` would do on a cluster: the network and the catalogues' footers are read, nothing is written.
///
/// # Errors
/// Whatever would end the run before its first pass.
pub fn plan(job: Arc<Job>, asked: &ClusterQuestion) -> Result<RunPlan, RunError> {
    let ClusterQuestion { processes, workers, .. } = *asked;
    let context = Context::open(job, (processes, workers), Meter::silent())?;
    let network = &context.network;
    let n_labels = network.n_labels();
    let n_fit = context.fit.catalogue.n_rows();
    let n_predict = context.predicted().catalogue.n_rows();
    let rank = context.job.curvature.low_rank.rank;
    let sizes = context.sizes();
    let blocks = block_facts(&context)?;
    let flops = flops(&context, &blocks)?;
    let held_out = context.job.compute.holdout_fraction * n_fit as f64;
    let posterior_bytes: u64 = context.blocks.iter().map(|block| matrix_bytes(block, rank)).sum();
    let whole = |cost: &DualCost| cost.row_bytes.saturating_add(cost.tile_bytes);
    let dual = context.dual_plan().map(|block| {
        let cost = sizes.dual_cost(block);
        let whole = whole(&cost);
        let budget = context.job.compute.memory.filter(|&memory| memory < whole);
        let (workers, threads) = (workers * processes, context.job.compute.arithmetic.threads);
        let worker_rate = measured_product_rate(threads);
        let seconds = |flops: f64| flops / (worker_rate * workers as f64);
        DualPlan {
            layer: block.name(),
            cost,
            most_rows: needs_spectrum(&context).then_some(LARGEST_SPECTRUM as u64),
            in_memory: budget.is_none(),
            process_bytes: budget.unwrap_or(whole),
            scratch_bytes: budget.map_or(0, |_| cost.tile_bytes),
            workers,
            worker_rate,
            seconds: DualSeconds {
                gram: seconds(cost.gram_flops),
                cholesky: seconds(cost.cholesky_flops),
                effective_parameters: seconds(cost.trace_flops),
                predict: seconds((held_out + n_predict as f64) * cost.predict_flops),
            },
        }
    });
    let memory = sizes.memory(&context.blocks)?;
    let of_group = context
        .checkpoint
        .bytes()
        .saturating_add(gradient_bytes(&context.job, &context.blocks).iter().sum());
    let pixels = if context.job.predict.jacobians {
        4 * n_labels * network.n_inputs()
    } else {
        0
    };
    let per_star = 8 * (2 * n_labels + 4 * n_labels * n_labels + 5) + pixels;
    let cluster = cluster_plan(&cluster_sizes(&context, &blocks, asked)?, asked);
    Ok(RunPlan {
        run_id: context.run_id.clone(),
        output: context.output.uri().to_string(),
        found: found_run(&context)?,
        release: release_plan(&context)?,
        precision_asked: context.asked.to_string(),
        precision: context.job.compute.arithmetic.precision.to_string(),
        kernel: context.kernel.clone(),
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
        checkpoints: CheckpointPlan {
            group: context.group,
            bytes: of_group,
            all_bytes: of_group.saturating_mul(context.fit.groups.len() as u64),
            eigenpairs: context
                .blocks
                .iter()
                .map(|block| 8 * iterated(block, rank) as u64)
                .sum(),
        },
        blocks,
        chosen: context.chosen.clone(),
        flops,
        memory,
        output_bytes: (n_predict * per_star as u64 + 2 * posterior_bytes + 24 * network.n_weights() as u64)
            .saturating_add(dual.as_ref().map_or(0, |dual| whole(&dual.cost))),
        dual,
        cluster,
    })
}

fn release_plan(context: &Context) -> Result<Option<ReleasePlan>, RunError> {
    let Some(release) = &context.release else {
        return Ok(None);
    };
    context.set_excluded(exclusions::of_all(context)?);
    let computed = release::to_compute(context)?;
    let Some(changes) = release::changes(context, context.excluded(), computed) else {
        return Ok(None);
    };
    Ok(Some(ReleasePlan {
        line: release.line.uri().to_owned(),
        number: release.number,
        changes,
        is_released: release.is_released(&context.run_id),
    }))
}

/// What each block takes.
pub(crate) fn block_facts(context: &Context) -> Result<Vec<BlockFacts>, CurvatureError> {
    let network = &context.network;
    let n_labels = network.n_labels();
    let zero = References::zero(network.dense_layers(), n_labels);
    let n_fit = context.fit.catalogue.n_rows();
    let LowRankSettings { rank, passes } = context.job.curvature.low_rank;
    let sizes = context.sizes();
    let mut blocks = Vec::new();
    for block in &context.blocks {
        if !block.structure.has_sums() {
            let cost = sizes.dual_cost(block);
            blocks.push(BlockFacts {
                layer: block.name(),
                structure: block.structure.name(),
                n_weights: block.n_weights() as u64,
                sums_bytes: 0,
                sums_flops: 0.0,
                correction: None,
                inverse_flops: cost.gram_flops
                    + cost.cholesky_flops
                    + cost.trace_flops
                    + match context.job.prior {
                        _ if !needs_spectrum(context) => 0.0,
                        // As a dense block of that size: its eigenpairs, or its eigenvalues.
                        Prior::Holdout => 9.0 * (cost.rows as f64).powi(3),
                        _ => 4.0 / 3.0 * (cost.rows as f64).powi(3),
                    },
            });
            continue;
        }
        let structure = structure_of(block, &zero, n_labels, 1)?;
        blocks.push(BlockFacts {
            layer: block.name(),
            structure: block.structure.name(),
            n_weights: block.n_weights() as u64,
            sums_bytes: sizes.sums_bytes(block)?,
            sums_flops: structure.flops(n_fit)
                + 4.0 * (passes * iterated(block, rank)) as f64 * n_fit as f64
                + match context.job.curvature.kind {
                    CurvatureKind::Hessian => residual_flops(block, network.n_weights(), n_fit),
                    CurvatureKind::Ggn | CurvatureKind::EmpiricalFisher => 0.0,
                },
            correction: (block.structure == StructureKind::Ekfac).then(|| CorrectionFacts {
                bases_bytes: bases_bytes(block),
                bases_flops: bases_flops(block),
                sums_bytes: correction_bytes(block),
                sums_flops: correction_flops(block, n_labels, n_fit),
            }),
            inverse_flops: inverse_flops(block)
                + match context.job.prior {
                    Prior::Fixed(_) => 0.0,
                    Prior::Evidence | Prior::EvidencePerBlock => spectrum_flops(block),
                    Prior::Holdout => scan_flops(block),
                },
        });
    }
    Ok(blocks)
}

/// Operations of all processes of a run with such blocks.
///
/// # Errors
/// Blocks of layers that the network does not have.
pub(crate) fn flops(context: &Context, blocks: &[BlockFacts]) -> Result<FlopPlan, CurvatureError> {
    let network = &context.network;
    let n_fit = context.fit.catalogue.n_rows();
    let n_predict = context.predicted().catalogue.n_rows();
    let rank = context.job.curvature.low_rank.rank;
    let sizes = context.sizes();
    let k = network.n_labels() as f64;
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
    let weights: f64 = context
        .blocks
        .iter()
        .map(|block| predictive_flops(block, rank, k))
        .sum::<f64>()
        + context
            .dual_plan()
            .map_or(0.0, |block| sizes.dual_cost(block).predict_flops);
    let fused = context.is_fused();
    let errors_in_variables = context.job.calibration.errors_in_variables;
    let held_out = context.job.compute.holdout_fraction * n_fit as f64;
    let corrections: Vec<CorrectionFacts> = blocks.iter().filter_map(|block| block.correction).collect();
    let forward_passes = if corrections.is_empty() { 1.0 } else { 2.0 };
    let comparison = comparison_flops(&sizes, &context.blocks)?;
    let full_pass = if context.job.certificate.full_pass {
        n_fit as f64 * (forward + backward)
    } else {
        0.0
    };
    Ok(FlopPlan {
        fit: (held_out + forward_passes * n_fit as f64) * (forward + backward)
            + if fused { n_fit as f64 * by_flux } else { 0.0 }
            + if errors_in_variables && !fused {
                forward_passes * n_fit as f64 * by_flux
            } else {
                0.0
            }
            + blocks.iter().map(|block| block.sums_flops).sum::<f64>()
            + corrections.iter().map(|of| of.bases_flops + of.sums_flops).sum::<f64>(),
        invert: blocks.iter().map(|block| block.inverse_flops).sum(),
        certificate: comparison + full_pass,
        comparison,
        predict: held_out * (forward + backward + by_flux + weights)
            + n_predict as f64 * (forward + backward + weights + if fused { 0.0 } else { by_flux }),
    })
}

/// Operations of the comparison with the exact posterior; 0 where there is none. Second derivatives of its spectra are not counted.
pub(crate) fn comparison_flops(sizes: &Sizes<'_>, blocks: &[BlockPlan]) -> Result<f64, CurvatureError> {
    let (asked, in_sums) = (&sizes.job.certificate, sizes.n_spectra());
    let n_spectra = asked.n_spectra(sizes.n_labels).min(in_sums);
    let is_all = n_spectra == in_sums;
    let needs_all = sizes.job.curvature.kind == CurvatureKind::Hessian
        || blocks.iter().any(|block| block.structure == StructureKind::LowRank);
    if n_spectra == 0 || (needs_all && !is_all) {
        return Ok(0.0);
    }
    ComparisonSizes {
        shapes: sizes.shapes,
        plans: blocks,
        compare: &asked.compare,
        n_labels: sizes.n_labels,
        n_spectra: n_spectra as usize,
        n_stars: asked.stars.min(sizes.n_rows) as usize,
        is_all,
    }
    .flops()
}

fn catalogue(uri: &str, grouped: &GroupedCatalogue) -> CataloguePlan {
    let catalogue = &grouped.catalogue;
    CataloguePlan {
        uri: uri.to_string(),
        objects: catalogue.summary().objects.len(),
        bytes: catalogue.bytes(),
        spectra: catalogue.n_rows(),
        row_groups: catalogue.shards().len(),
        largest_row_group: catalogue.largest_row_group(),
        groups: grouped.groups.len(),
        skipped: catalogue.skipped().to_vec(),
    }
}

/// Operations of one star's weights' part. Of a layer whose weights positions share, the star's K rows of the Jacobian are formed.
fn predictive_flops(block: &BlockPlan, rank: usize, k: f64) -> f64 {
    let p = block.n_weights() as f64;
    let shared = |shape: &DenseShape| if shape.shared > 1 { shape.shared as f64 } else { 0.0 };
    let formed = |shape: &DenseShape| 2.0 * k * shared(shape) * shape.n_weights() as f64;
    let all_formed = block.shapes.iter().map(formed).sum::<f64>();
    match block.structure {
        StructureKind::Full | StructureKind::Block => dense_covariance_flops(block, k as usize) + all_formed,
        StructureKind::Diagonal => 2.0 * k * p + all_formed,
        StructureKind::Dual => 0.0,
        StructureKind::LowRank => block
            .shapes
            .iter()
            .map(|shape| 2.0 * (k + rank as f64) * (shape.shared * shape.n_weights()) as f64)
            .sum(),
        StructureKind::Kfac | StructureKind::Ekfac => block
            .shapes
            .iter()
            .map(|shape| {
                let (a, g) = (shape.columns() as f64, shape.outputs as f64);
                let squares = if shape.shared > 1 { formed(shape) } else { 2.0 * a * g };
                2.0 * shape.shared as f64 * (a * a + k * g * g) + squares
            })
            .sum(),
    }
}

#[cfg(test)]
mod tests {
    use fisherflow_curvature::BlockOptions;

    use super::*;

    /// 2 labels, 4 columns and 4 outputs; at five positions everything is rotated five times, and rows of 16 weights are formed.
    #[test]
    fn a_star_of_five_positions_takes_more_than_one_of_one() {
        let flops = |structure, shared| {
            let shape = DenseShape {
                name: "layers.0".to_owned(),
                inputs: 3,
                outputs: 4,
                bias: true,
                shared,
            };
            let block = BlockPlan {
                id: 0,
                structure,
                layers: vec![0],
                shapes: vec![shape],
                options: BlockOptions::default(),
            };
            predictive_flops(&block, 7, 2.0)
        };
        let formed = 2.0 * 2.0 * 5.0 * 16.0;
        for (structure, alone, shared) in [
            (StructureKind::Block, 200.0, 1024.0 + formed),
            (StructureKind::Diagonal, 64.0, 64.0 + formed),
            (StructureKind::LowRank, 288.0, 5.0 * 288.0),
            (StructureKind::Kfac, 96.0 + 32.0, 5.0 * 96.0 + formed),
        ] {
            assert_eq!(
                [flops(structure, 1), flops(structure, 5)],
                [alone, shared],
                "{structure}"
            );
        }
    }
}
