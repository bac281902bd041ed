//! One kind of work over all spectra: each thread takes every so-manieth batch and keeps sums of its own, as a worker does.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use candle_core::Tensor;
use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, BlockSums, LabelPrecision, ReferenceSums, References, Structure,
    StructureKind, correction_of, plan_blocks, structure_of,
};
use fisherflow_network::{InputJacobian, Network};
use fisherflow_posterior::{Precision, flux_covariance, flux_covariance_in_blocks, weights_part_of_blocks};
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::checks;
use crate::inputs::{Batch, Inputs};
use crate::work::Work;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What a pass made of the spectra.
#[derive(Default)]
pub(crate) struct Made {
    /// J_x of each batch, `[K, n, D]`.
    pub(crate) jacobians: Vec<(usize, Tensor)>,
    /// `[n, K, K]` of each batch.
    pub(crate) flux: Vec<(usize, Vec<f64>)>,
    /// `[n, K, K]` of each batch.
    pub(crate) weights: Vec<(usize, Vec<f64>)>,
}

/// A thread's own structures and sums, and what it made last.
struct Worker {
    structures: Vec<Box<dyn Structure>>,
    sums: Vec<BlockSums>,
    made: Made,
}

/// What the threads share.
struct Shared<'a> {
    network: &'a Network,
    batches: &'a [Batch],
    posterior: &'a [Box<dyn Precision>],
    work: Work,
    workers: usize,
}

/// Times `work` over the spectra of `inputs`; one JSON object.
pub(crate) fn time(arguments: &Arguments, inputs: &Inputs, work: Work) -> Result<Value, Box<dyn Error>> {
    let network = &inputs.network;
    let plans = plans(network, work)?;
    let references = references(inputs)?;
    let posterior = match work.has_weights() {
        true => inputs.posterior()?,
        false => Vec::new(),
    };
    let bases: Vec<_> = match work {
        Work::Correction => (0..network.dense_layers().len())
            .map(|layer| inputs.bases(layer))
            .collect(),
        _ => Vec::new(),
    };
    let structure = |plan: &BlockPlan| {
        let (k, threads) = (network.n_labels(), network.arithmetic().threads);
        match bases.get(plan.layers[0]) {
            Some(bases) => correction_of(plan, &references, bases.clone(), k, threads),
            None => structure_of(plan, &references, k, threads),
        }
    };
    let mut workers = Vec::new();
    for _ in 0..arguments.workers {
        workers.push(Worker {
            structures: plans.iter().map(structure).collect::<Result<_, _>>()?,
            sums: Vec::new(),
            made: Made::default(),
        });
    }
    let shared = Shared {
        network,
        batches: &inputs.batches,
        posterior: &posterior,
        work,
        workers: arguments.workers,
    };
    let mut seconds = Vec::new();
    for repetition in 0..=arguments.repetitions {
        for worker in &mut workers {
            worker.reset()?;
        }
        let start = Instant::now();
        shared.pass(&mut workers)?;
        if repetition > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let once = Instant::now();
    let curvature = conclude(&mut workers)?;
    let once = once.elapsed().as_secs_f64();
    if let Some(path) = &arguments.save {
        let made = workers.into_iter().map(|worker| worker.made).collect();
        checks::save(path, inputs, &plans, made, &curvature)?;
    }

    let (n, median) = (inputs.n_spectra(), median(&seconds));
    let flops = flops(network, work, &plans, structure)?;
    Ok(json!({
        "work": work.name(),
        "spectra": n,
        "batch": arguments.batch,
        "workers": arguments.workers,
        "threads": arguments.threads,
        "precision": arguments.precision.to_string(),
        "seconds": seconds,
        "median_seconds": median,
        "once_seconds": once,
        "spectra_per_second": n as f64 / median,
        "gflop_per_spectrum": flops / 1e9,
        "gflops": flops * n as f64 / median / 1e9,
        "peak_rss_bytes": peak_rss(),
    }))
}

/// The blocks that are summed.
fn plans(network: &Network, work: Work) -> Result<Vec<BlockPlan>, Box<dyn Error>> {
    let shapes = network.dense_layers();
    let Some(kind) = work.structure() else {
        return Ok(Vec::new());
    };
    let last_two = shapes.len().saturating_sub(2);
    let (default, by_layer) = match kind {
        StructureKind::Full => {
            let names = shapes[last_two..].iter().map(|shape| (shape.name.clone(), kind));
            (StructureKind::Diagonal, names.collect())
        }
        _ => (kind, BTreeMap::new()),
    };
    let mut plans = plan_blocks(shapes, default, &by_layer, BlockOptions::default())?;
    plans.retain(|plan| plan.structure == kind);
    Ok(plans)
}

/// What the sums are taken about: the means over the first batch, in place of the held-out spectra.
fn references(inputs: &Inputs) -> Result<References, Box<dyn Error>> {
    let network = &inputs.network;
    let mut sums = ReferenceSums::empty(network.dense_layers(), network.n_labels());
    if let Some(batch) = inputs.batches.first() {
        let forward = network.forward(&batch.flux)?;
        sums.accumulate(&network.backward(&forward, InputJacobian::NotWanted)?.captures)?;
    }
    Ok(sums.finish()?)
}

impl Worker {
    fn reset(&mut self) -> Result<(), Box<dyn Error>> {
        self.made = Made::default();
        if self.sums.is_empty() {
            self.sums = self.structures.iter().map(|s| s.empty()).collect::<Result<_, _>>()?;
        }
        for sums in &mut self.sums {
            sums.sums.fill(0.0);
            sums.n_spectra = 0;
        }
        Ok(())
    }
}

impl Shared<'_> {
    fn pass(&self, workers: &mut [Worker]) -> Result<(), Box<dyn Error>> {
        let done: Vec<Fallible<()>> = std::thread::scope(|scope| {
            let running: Vec<_> = workers
                .iter_mut()
                .enumerate()
                .map(|(first, worker)| scope.spawn(move || self.run(first, worker)))
                .collect();
            let joined = running.into_iter().map(|thread| thread.join());
            joined
                .map(|done| done.unwrap_or_else(|_| Err("a thread of the benchmark panicked".into())))
                .collect()
        });
        for done in done {
            done.map_err(|error| -> Box<dyn Error> { error })?;
        }
        Ok(())
    }

    fn run(&self, first: usize, worker: &mut Worker) -> Fallible<()> {
        for index in (first..self.batches.len()).step_by(self.workers) {
            self.add(index, worker)?;
        }
        Ok(())
    }

    /// As `passes/differentiated.rs`, `passes/curvature.rs` and `passes/budget.rs` do.
    fn add(&self, index: usize, worker: &mut Worker) -> Fallible<()> {
        let (network, batch, work) = (self.network, &self.batches[index], self.work);
        let forward = network.forward(&batch.flux)?;
        let wanted = match (work.keeps_jacobian(), work.has_jacobian()) {
            (true, _) => InputJacobian::Wanted,
            (false, true) => InputJacobian::InBlocks,
            (false, false) => InputJacobian::NotWanted,
        };
        let mut backward = network.backward(&forward, wanted)?;
        if work.has_flux_covariance() {
            let covariance = match &backward.input_jacobian {
                Some(jacobian) => flux_covariance(jacobian, &batch.variance)?,
                None => flux_covariance_in_blocks(network, &backward, &batch.variance)?,
            };
            worker.made.flux.push((index, covariance));
        }
        if let Some(jacobian) = backward.input_jacobian.take() {
            worker.made.jacobians.push((index, jacobian));
        }
        if !worker.structures.is_empty() {
            let k = network.n_labels();
            let identity: Vec<f64> = (0..k * k).map(|i| f64::from(u8::from(i % (k + 1) == 0))).collect();
            let precision = LabelPrecision::constant(&identity, forward.batch())?;
            for (structure, sums) in worker.structures.iter().zip(&mut worker.sums) {
                structure.accumulate(&backward.captures, &precision, sums)?;
            }
        }
        if work.has_weights() {
            let part = weights_part_of_blocks(self.posterior, &backward.captures)?;
            worker.made.weights.push((index, part.covariance));
        }
        Ok(())
    }
}

/// Adds the workers' sums, in their order, and re-forms them about zero.
fn conclude(workers: &mut [Worker]) -> Result<Vec<BlockCurvature>, Box<dyn Error>> {
    let Some((total, others)) = workers.split_first_mut() else {
        return Ok(Vec::new());
    };
    for other in others {
        for (total, sums) in total.sums.iter_mut().zip(std::mem::take(&mut other.sums)) {
            total.n_spectra += sums.n_spectra;
            total
                .sums
                .iter_mut()
                .zip(sums.sums)
                .for_each(|(sum, value)| *sum += value);
        }
    }
    let curvature = total
        .structures
        .iter()
        .zip(&total.sums)
        .map(|(s, sums)| s.curvature(sums));
    Ok(curvature.collect::<Result<_, _>>()?)
}

/// Floating-point operations of the products of one spectrum.
fn flops(
    network: &Network,
    work: Work,
    plans: &[BlockPlan],
    structure: impl Fn(&BlockPlan) -> Result<Box<dyn Structure>, fisherflow_curvature::CurvatureError>,
) -> Result<f64, Box<dyn Error>> {
    let k = network.n_labels() as f64;
    let layers = network.dense_layers().iter();
    let [forward, backward] = [0, 1].map(|first| -> f64 {
        let products = layers.clone().skip(first).map(|s| 2.0 * (s.inputs * s.outputs) as f64);
        products.sum()
    });
    let mut total = forward + k * if work.has_jacobian() { forward } else { backward };
    for plan in plans {
        total += structure(plan)?.flops(1);
    }
    if work.has_weights() {
        let of_layer = |s: &fisherflow_network::DenseShape| {
            let (columns, outputs) = (s.columns() as f64, s.outputs as f64);
            2.0 * (columns * columns + k * outputs * outputs)
        };
        total += layers.map(of_layer).sum::<f64>();
    }
    Ok(total)
}

/// The middle one; of an even number the mean of both.
pub(crate) fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = ((sorted.len().max(1) - 1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

/// `VmHWM` of this process, where the system tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}
