//! The eigenvalues of the loss's curvature over all weights, matrix-free: passes of products over the training spectra, and tables of what they
//! show.
//!
//! Each step of all probes is one pass. The noise and the population are those of a `fit` with the same run file, where there is one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use fisherflow_curvature::{CurvatureKind, SpectralDensity, SpectralProbes};
use fisherflow_store::{Column, FileMetadata, Output, WrittenFile};
use timely::worker::Worker;

use crate::cluster;
use crate::cluster::whereabouts::Whereabouts;
use crate::context::Context;
use crate::error::RunError;
use crate::files;
use crate::job::{Cluster, ExistingOutput, Job};
use crate::passes::products::{Over, not_the_owner, products};
use crate::progress::meter::Meter;
use crate::run::stages;

/// Points of the density's curve.
const POINTS: usize = 512;

/// How the eigenvalues are looked for, and where what is found goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpectrumSettings {
    /// Of which curvature.
    pub kind: CurvatureKind,
    /// Random vectors, at least 1: each is an estimate of its own, and the error of their mean falls with the root of their number.
    pub probes: usize,
    /// Lanczos steps, at least 1: passes over the spectra; extreme eigenvalues converge with them.
    pub steps: usize,
    /// Of the probes.
    pub seed: u64,
    /// URI of a folder.
    pub out: String,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct SpectrumReport {
    /// The eigenvalues, as far as the probes show them.
    pub density: SpectralDensity,
    /// Spectra that the curvature is a sum over.
    pub n_spectra: u64,
    /// Number of probes and of steps done.
    pub done: (usize, usize),
    /// Folder of the files.
    pub out: String,
    /// What was written there.
    pub files: Vec<WrittenFile>,
    /// Wall time.
    pub seconds: f64,
}

/// Finds the eigenvalues on this process's workers together with those of the other processes, and writes them; the report is the first process's
/// alone.
///
/// # Errors
/// Whatever ended it, as [`run`](crate::run()).
pub fn spectrum(
    job: Arc<Job>,
    settings: SpectrumSettings,
    cluster: &Cluster,
    progress: Arc<Meter>,
) -> Result<Option<SpectrumReport>, RunError> {
    let started = Instant::now();
    let context = Arc::new(Context::open(job, (cluster.processes, cluster.workers), progress)?);
    check(&context, &settings)?;
    let out = Output::open(&context.stores, &settings.out)?;
    context.check_out(&out, &[NODES, DENSITY, SUMMARY])?;
    if cluster.process == 0 {
        let overwrite = context.job.existing_output == ExistingOutput::Overwrite;
        context.stores.check_new(&out.child(SUMMARY), overwrite)?;
    }
    // Before there are workers, of which only the first to ask would hear why it failed.
    context.differentiating()?;
    let command = format!("spectrum {settings:?}");
    let terms = context.terms(format!("{} {command}", context.run_id), &command);
    let (working, asked) = (Arc::clone(&context), settings.clone());
    let whereabouts = Whereabouts::new(cluster, context.output.rendezvous(&context.run_id));
    cluster::execute(
        cluster,
        &terms,
        &whereabouts,
        &context.faults,
        &context.progress,
        move |worker| work(worker, &working, &asked),
        |found| {
            let Some(found) = found else {
                return Ok(None);
            };
            let files = write(&context, &settings, &out, &found)?;
            Ok(Some(SpectrumReport {
                density: found.density,
                n_spectra: found.n_spectra,
                done: (settings.probes, found.steps),
                out: out.uri().to_owned(),
                files,
                seconds: started.elapsed().as_secs_f64(),
            }))
        },
    )
}

const NODES: &str = "nodes.parquet";
const DENSITY: &str = "density.parquet";
const SUMMARY: &str = "summary.parquet";

fn check(context: &Context, settings: &SpectrumSettings) -> Result<(), RunError> {
    if settings.probes == 0 || settings.steps == 0 {
        return Err(RunError::Usage("--probes and --steps take at least 1".to_owned()));
    }
    if settings.kind.needs_labels() && context.job.catalogue.columns.labels.is_empty() {
        return Err(RunError::Usage(format!(
            "a spectrum of the {} needs labels, and catalogue.labels names no columns: name them, or ask for --kind ggn",
            settings.kind.name()
        )));
    }
    let vectors = settings.probes as u64 * (settings.steps as u64 + 3);
    tracing::info!(
        bytes = 8 * vectors * context.network.n_weights() as u64,
        "the vectors of all probes and steps in memory"
    );
    Ok(())
}

/// What the owner of the sums finds.
#[derive(Clone)]
struct Found {
    density: SpectralDensity,
    n_spectra: u64,
    steps: usize,
}

/// All steps; what is found is known to the first worker alone.
fn work(worker: &mut Worker, context: &Arc<Context>, settings: &SpectrumSettings) -> Result<Option<Found>, RunError> {
    let loss = stages::loss(worker, context, settings.kind)?;
    let over = Over::all(context);
    let probes = SpectralProbes::new(over.n_weights(), settings.probes, settings.seed);
    let mut vectors = probes.directions();
    // The owner of the sums is the first worker; the others only take over the next vectors.
    let probes = Rc::new(RefCell::new((worker.index() == 0).then_some(probes)));
    let n_spectra = Rc::new(RefCell::new(0));
    let mut steps = 0;
    while steps < settings.steps && !vectors.is_empty() {
        steps += 1;
        stages::begin_over_fit(context, &format!("step {steps} of {}", settings.steps));
        let (owned, counted) = (Rc::clone(&probes), Rc::clone(&n_spectra));
        vectors = products(worker, context, &loss, &over, vectors, move |sums| {
            *counted.borrow_mut() = sums.n_spectra;
            let mut probes = owned.borrow_mut();
            let probes = probes.as_mut().ok_or_else(not_the_owner)?;
            probes.step(&sums.products()?);
            Ok(probes.directions())
        })?;
    }
    context.progress.end();
    let probes = probes.borrow();
    let Some(probes) = probes.as_ref() else {
        return Ok(None);
    };
    let n_spectra = *n_spectra.borrow();
    if n_spectra == 0 {
        return Err(RunError::Refused(format!(
            "no spectrum of {} can be counted in the sums: run `fisherflow fit` to see why",
            context.job.catalogue.uri
        )));
    }
    let density = probes.density(context.network.arithmetic().precision.relative_rounding())?;
    Ok(Some(Found {
        density,
        n_spectra,
        steps,
    }))
}

/// Writes nodes, density and, last, the summary.
fn write(
    context: &Context,
    settings: &SpectrumSettings,
    out: &Output,
    found: &Found,
) -> Result<Vec<WrittenFile>, RunError> {
    let density = &found.density;
    let metadata = metadata(context, settings, found);
    let nodes = vec![
        (
            "probe",
            Column::Count(density.nodes.iter().map(|node| node.probe as u64).collect()),
        ),
        (
            "value",
            Column::Number(density.nodes.iter().map(|node| node.ritz.value).collect()),
        ),
        (
            "weight",
            Column::Number(density.nodes.iter().map(|node| node.ritz.weight).collect()),
        ),
        (
            "residual",
            Column::Number(density.nodes.iter().map(|node| node.ritz.residual).collect()),
        ),
    ];
    let curve = density.curve(POINTS);
    let curve = vec![
        ("value", Column::Number(curve.iter().map(|point| point.value).collect())),
        (
            "density_per_decade",
            Column::Number(curve.iter().map(|point| point.per_decade).collect()),
        ),
        (
            "cumulative",
            Column::Number(curve.iter().map(|point| point.cumulative).collect()),
        ),
    ];
    let count = |n: usize| Column::Count(vec![n as u64]);
    let number = |value: f64| Column::Number(vec![value]);
    let negative = density.share_up_to(-density.rounding);
    let summary = vec![
        ("kind", Column::Text(vec![settings.kind.name().to_owned()])),
        ("n_spectra", Column::Count(vec![found.n_spectra])),
        ("n_weights", count(density.n_weights)),
        ("probes", count(settings.probes)),
        ("steps", count(found.steps)),
        ("seed", Column::Count(vec![settings.seed])),
        ("largest", number(density.largest.value)),
        ("largest_residual", number(density.largest.residual)),
        ("smallest", number(density.smallest.value)),
        ("smallest_residual", number(density.smallest.residual)),
        ("trace", number(density.trace)),
        ("trace_std_error", number(density.trace_error.unwrap_or(f64::NAN))),
        ("rounding", number(density.rounding)),
        ("negative_share", number(density.negative_share)),
        ("negative_share_least", number(negative[0])),
        ("negative_share_most", number(negative[1])),
        ("negative_trace_share", number(density.negative_trace_share)),
    ];
    [(NODES, nodes), (DENSITY, curve), (SUMMARY, summary)]
        .into_iter()
        .map(|(path, columns)| Ok(out.write_small_table(path, columns, &metadata)?))
        .collect()
}

fn metadata(context: &Context, settings: &SpectrumSettings, found: &Found) -> FileMetadata {
    let convention = serde_json::json!({
        "curvature": settings.kind.name(),
        "hessian": files::curvature_in_words(settings.kind),
        "nodes": "stochastic Lanczos quadrature: weight is the node's share of a probe (1 in all), residual |H u - value u|",
        "density": "mean over probes: share of the eigenvalues a decade of value, smoothed by a Gaussian of a tenth of a decade; within rounding of 0 the scale is linear",
        "negative_share": "of the nodes; least and most: what the steps prove of the probes (Chebyshev, Markov and Stieltjes)",
        "rounding": "eigenvalues of no more than this size are not told from 0, and not counted as negative",
    });
    files::origin(context)
        .with("fisherflow.n_spectra", found.n_spectra.to_string())
        .with("fisherflow.convention", convention.to_string())
}
