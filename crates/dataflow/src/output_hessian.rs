//! The Hessian of the network's outputs by its weights, for single stars of the catalogue to predict: diagonal, product or all of it.
//!
//! In label units (label unit per squared weight): that of the normalised output times the label scale. One worker does it; masked pixels are
//! replaced, and spectra out of range refused, as in a run, by the population that a `fit` left, a basis holds, or a pass of its own finds.

mod chosen;

use std::sync::Arc;

use fisherflow_network::LayerSpec;
use fisherflow_spectra::{PixelFlux, PixelPopulation, RowFlags};
use fisherflow_store::{
    FileMetadata, Output, OutputHessianRows, OutputHessianSchema, OutputHessianValues, OutputHessianWriter, RowKeys,
    WrittenFile,
};
use timely::worker::Worker;

use crate::cluster;
use crate::cluster::terms::Terms;
use crate::cluster::whereabouts::Whereabouts;
use crate::context::Context;
use crate::error::RunError;
use crate::files::{self, WEIGHTS};
use crate::job::{Cluster, ExistingOutput, Job};
use crate::passes::{agree, population};
use crate::progress::meter::Meter;
use crate::run::stage_state::{FitState, Step};

use chosen::Chosen;
pub use chosen::{Choice, Visits};

/// Values held at once: rows of a dense Hessian are written as they come.
const AT_ONCE: usize = 1 << 22;

/// Values of one dense Hessian, at most.
const MOST: usize = 1 << 28;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputHessianRequest {
    /// Of which spectra of the catalogue to predict.
    pub spectra: Choice,
    /// Names of labels; empty: all.
    pub labels: Vec<String>,
    /// What of the Hessian.
    pub part: OutputHessianPart,
    /// URI of the folder of the file.
    pub out: String,
}

/// A part of a Hessian over all weights.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputHessianPart {
    /// The diagonal.
    Diagonal,
    /// All of it.
    Dense,
    /// Its product with a vector of all weights, layer after layer `[W | b]` row-major.
    Product(Vec<f64>),
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputHessianReport {
    /// Weights of the network.
    pub n_weights: u64,
    /// Whether every activation is piecewise linear: then the diagonal is 0.
    pub piecewise_linear: bool,
    /// URI of the file.
    pub uri: String,
    /// The file.
    pub file: WrittenFile,
    /// How large the values are.
    pub sizes: Vec<StarSize>,
}

/// The values of one spectrum and label.
#[derive(Clone, Debug, PartialEq)]
pub struct StarSize {
    /// The star.
    pub id: String,
    /// The file of its spectrum.
    pub file: String,
    /// The position there.
    pub row: u64,
    /// The label.
    pub label: String,
    /// How many values are not 0.
    pub not_zero: u64,
    /// The largest, without its sign; label unit per squared weight.
    pub largest: f64,
    /// Root of the sum of squares.
    pub norm: f64,
}

impl OutputHessianPart {
    /// In words, and as the file is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Diagonal => "diagonal",
            Self::Dense => "dense",
            Self::Product(_) => "product",
        }
    }
}

/// Computes and writes the second derivatives, a row a weight: `<out>/<part>.parquet`.
///
/// # Errors
/// A star or label that is not there, a star without a prediction, a vector of another length, a dense Hessian too large, or whatever
/// reading and writing gives.
pub fn output_hessian(
    job: Arc<Job>,
    request: &OutputHessianRequest,
    progress: Arc<Meter>,
) -> Result<OutputHessianReport, RunError> {
    let context = Arc::new(Context::open(job, (1, 1), progress)?);
    let labels = labels(&context, request)?;
    check_size(&context, request)?;
    let out = Output::open(&context.stores, &request.out)?;
    let path = format!("{}.parquet", request.part.name());
    context.check_out(&out, &[path.as_str()])?;
    let overwrite = context.job.existing_output == ExistingOutput::Overwrite;
    context.stores.check_new(&out.child(&path), overwrite)?;
    let network = &context.network;
    let p = network.n_weights();
    let values = match request.part {
        OutputHessianPart::Diagonal | OutputHessianPart::Product(_) => OutputHessianValues::One,
        OutputHessianPart::Dense => OutputHessianValues::Row(p),
    };
    let columns = OutputHessianSchema::new(context.predicted().catalogue.row_schema(), values)?;
    let stars = stars(&context, &request.spectra)?;
    let mut writer = Rows {
        context: &context,
        table: out.output_hessian(&path, &columns, &metadata(&context, request))?,
        sizes: Vec::new(),
    };
    for star in &stars {
        let forward = network.forward(&star.spectrum.flux)?;
        match &request.part {
            OutputHessianPart::Diagonal => {
                let all = network.output_hessian_diagonal(&forward)?;
                for &label in &labels {
                    writer.append(star, label, 0, p, &all[label * p..(label + 1) * p])?;
                }
            }
            OutputHessianPart::Product(v) => {
                let all = network.output_hessian_products(&forward, v)?;
                for &label in &labels {
                    writer.append(star, label, 0, p, &all[label * p..(label + 1) * p])?;
                }
            }
            OutputHessianPart::Dense => {
                let at_once = (AT_ONCE / (p * network.n_labels())).clamp(1, p);
                for first in (0..p).step_by(at_once) {
                    let rows = at_once.min(p - first);
                    let all = network.output_hessian_rows(&forward, first, rows)?;
                    for &label in &labels {
                        writer.append(star, label, first, rows, &all[label * rows * p..(label + 1) * rows * p])?;
                    }
                }
            }
        }
    }
    let sizes = writer.sizes;
    let file = writer.table.finish()?;
    let linear = |spec: &LayerSpec| match spec {
        LayerSpec::Activation(activation) => activation.is_piecewise_linear(),
        LayerSpec::Input { .. }
        | LayerSpec::Dense
        | LayerSpec::Conv1d { .. }
        | LayerSpec::Pool1d { .. }
        | LayerSpec::Flatten(_) => true,
    };
    Ok(OutputHessianReport {
        n_weights: p as u64,
        piecewise_linear: network.layer_specs().iter().all(linear),
        uri: out.child(&path),
        file,
        sizes,
    })
}

/// Positions of the labels asked for.
fn labels(context: &Context, request: &OutputHessianRequest) -> Result<Vec<usize>, RunError> {
    let names = &context.network.labels().names;
    if request.labels.is_empty() {
        return Ok((0..names.len()).collect());
    }
    let position = |label: &String| {
        names.iter().position(|name| name == label).ok_or_else(|| {
            RunError::Usage(format!(
                "the network gives no label \"{label}\"; its labels are {}",
                names.join(", ")
            ))
        })
    };
    request.labels.iter().map(position).collect()
}

fn check_size(context: &Context, request: &OutputHessianRequest) -> Result<(), RunError> {
    let p = context.network.n_weights();
    match &request.part {
        OutputHessianPart::Product(v) if v.len() != p => Err(RunError::Usage(format!(
            "the vector of --product has {} values, and the network {p} weights, biases included: layer after layer [W | b], row-major",
            v.len()
        ))),
        OutputHessianPart::Dense if p.saturating_mul(p) > MOST => Err(RunError::Usage(format!(
            "the Hessian of one output by {p} weights has {:.1e} values: ask for --diagonal or --product",
            (p as f64) * (p as f64)
        ))),
        _ => Ok(()),
    }
}

/// The spectra asked for, masked pixels replaced; of several visits those without a prediction are left out, with a warning.
fn stars(context: &Arc<Context>, choice: &Choice) -> Result<Vec<Chosen>, RunError> {
    let mut found = choice.spectra(context)?;
    let masked = |star: &Chosen| star.spectrum.flags[0].contains(RowFlags::PIXELS_MASKED);
    let population = match context.job.compute.farthest_input.is_finite() || found.iter().any(masked) {
        true => known_population(context)?,
        false => None,
    };
    if let Some(limit) = population.as_ref().and_then(|population| population.input_limit) {
        let range = context.input_range(limit);
        found.iter_mut().for_each(|star| range.flag(&mut star.spectrum));
    }
    let (mut stars, bad): (Vec<Chosen>, Vec<Chosen>) = found.into_iter().partition(|star| !star.spectrum.is_bad(0));
    for star in bad {
        let flags: Vec<&str> = star.spectrum.flags[0].names().collect();
        let mut why = flags.join(", ");
        if let Some(PixelFlux { pixel, flux }) = star.spectrum.out_of_range[0] {
            why += &format!(", pixel {pixel}: {flux:.3e}");
        }
        let star = star.place();
        if stars.is_empty() || choice.visits == Visits::One {
            return Err(RunError::Refused(format!(
                "{star} of {} has no prediction ({why}): its flux cannot go through the network",
                context.predicted_uri()
            )));
        }
        tracing::warn!("{star} has no prediction ({why}), and is left out");
    }
    if let Some(star) = stars.iter().find(|star| masked(star)) {
        let population = population.ok_or_else(|| {
            RunError::Refused(format!(
                "{} has masked pixels, and no held-out spectrum of {} tells what to expect there: raise noise.holdout_fraction",
                star.place(),
                context.job.catalogue.uri
            ))
        })?;
        for star in &mut stars {
            star.spectrum.impute(&population)?;
        }
    }
    Ok(stars)
}

/// The population that `fit` left, that of the basis, or that of a pass of its own.
fn known_population(context: &Arc<Context>) -> Result<Option<PixelPopulation>, RunError> {
    let cluster = Cluster::alone(1);
    let whereabouts = Whereabouts::new(&cluster, context.output.rendezvous(&context.run_id));
    let working = Arc::clone(context);
    let look = move |worker: &mut Worker| match agree::left_by::<FitState>(worker, &working, Step::Fit)? {
        Some(fit) => Ok(fit.population),
        None => match &working.basis {
            Some(pinned) => Ok(pinned.basis.population.clone()),
            None => population::population(worker, &working),
        },
    };
    cluster::execute(
        &cluster,
        &Terms::of("output-hessian".to_owned()),
        &whereabouts,
        &context.faults,
        &context.progress,
        look,
        Ok,
    )
}

/// The table as it grows.
struct Rows<'c> {
    context: &'c Context,
    table: OutputHessianWriter,
    sizes: Vec<StarSize>,
}

impl Rows<'_> {
    /// Appends `rows` weights from `first` on: a value a weight, or a row of the matrix.
    fn append(
        &mut self,
        star: &Chosen,
        label: usize,
        first: usize,
        rows: usize,
        values: &[f64],
    ) -> Result<(), RunError> {
        let labels = self.context.network.labels();
        let values: Vec<f64> = values.iter().map(|value| value * labels.scale[label]).collect();
        let width = values.len() / rows.max(1);
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(RunError::Refused(format!(
                "the Hessian of label {} of {} is not finite at weight {}: an activation overflowed; compute in f64",
                labels.names[label],
                star.place(),
                first + at / width
            )));
        }
        self.count(star, &labels.names[label], &values);
        let (mut layers, mut out_index, mut in_index) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for shape in self.context.network.dense_layers() {
            let end = start + shape.n_weights();
            for weight in first.max(start)..(first + rows).min(end) {
                let (out, input) = ((weight - start) / shape.columns(), (weight - start) % shape.columns());
                layers.push(shape.name.as_str());
                out_index.push(out as u64);
                in_index.push((input < shape.inputs).then_some(input as u64));
            }
            start = end;
        }
        self.table.append(&OutputHessianRows {
            keys: RowKeys {
                file: &star.file,
                first_row: star.row,
            },
            star: &star.spectrum.rows,
            label: &labels.names[label],
            layers: &layers,
            out_index: &out_index,
            in_index: &in_index,
            values: &values,
        })?;
        Ok(())
    }

    fn count(&mut self, star: &Chosen, label: &str, values: &[f64]) {
        let is_same = |size: &StarSize| size.row == star.row && size.file == star.file && size.label == label;
        let known = self.sizes.iter().position(is_same);
        let at = known.unwrap_or_else(|| {
            self.sizes.push(StarSize {
                id: star.id.clone(),
                file: star.file.clone(),
                row: star.row,
                label: label.to_owned(),
                not_zero: 0,
                largest: 0.0,
                norm: 0.0,
            });
            self.sizes.len() - 1
        });
        let size = &mut self.sizes[at];
        size.not_zero += values.iter().filter(|value| **value != 0.0).count() as u64;
        size.largest = values
            .iter()
            .fold(size.largest, |largest, value| largest.max(value.abs()));
        size.norm = (size.norm * size.norm + values.iter().map(|value| value * value).sum::<f64>()).sqrt();
    }
}

fn metadata(context: &Context, request: &OutputHessianRequest) -> FileMetadata {
    let labels = context.network.labels();
    let convention = serde_json::json!({
        "hessian": "d2 label / d weight^2 of one spectrum: of the network's OUTPUT, not of a loss; label unit per squared weight",
        "part": request.part.name(),
        "weights": format!("{WEIGHTS}; in_index null: the bias"),
        "kinks": "at a kink of an activation its second derivative counts as 0",
        "label_scale": labels.scale,
    });
    files::origin(context)
        .with("fisherflow.convention", convention.to_string())
        .with("fisherflow.labels", serde_json::json!(labels.names).to_string())
        .with("fisherflow.units", serde_json::json!(labels.units).to_string())
}
