//! The Hessian of the network's outputs by its weights, for single stars of the catalogue to predict: diagonal, product or all of it.
//!
//! In label units (label unit per squared weight): that of the normalised output times the label scale. One worker does it; masked pixels are
//! replaced as in a run, by the population that a `fit` left or that a pass of its own finds.

use std::sync::Arc;

use arrow_cast::display::{ArrayFormatter, FormatOptions};
use fisherflow_network::LayerSpec;
use fisherflow_spectra::{PixelPopulation, RowFlags, SpectrumBatch};
use fisherflow_store::{Column, FileMetadata, Output, TableWriter, WrittenFile};
use timely::worker::Worker;

use crate::cluster;
use crate::cluster::whereabouts::Whereabouts;
use crate::context::Context;
use crate::error::RunError;
use crate::job::{Cluster, ExistingOutput, Job};
use crate::passes::{agree, population};
use crate::progress::meter::Meter;
use crate::progress::repeated;
use crate::run::stage_state::{FitState, Step};

/// Values held at once: rows of a dense Hessian are written as they come.
const AT_ONCE: usize = 1 << 22;

/// Values of one dense Hessian, at most.
const MOST: usize = 1 << 28;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputHessianRequest {
    /// Identifiers of stars of the catalogue to predict, as text.
    pub ids: Vec<String>,
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

/// The values of one star and label.
#[derive(Clone, Debug, PartialEq)]
pub struct StarSize {
    /// The star.
    pub id: String,
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
    let context = Arc::new(Context::open(job, 1, progress)?);
    let labels = labels(&context, request)?;
    check_size(&context, request)?;
    let out = Output::open(&context.stores, &request.out)?;
    let path = format!("{}.parquet", request.part.name());
    let overwrite = context.job.existing_output == ExistingOutput::Overwrite;
    context.stores.check_new(&out.child(&path), overwrite)?;
    let stars = stars(&context, &request.ids)?;
    let network = &context.network;
    let mut writer = Rows {
        context: &context,
        table: out.table(&path, &metadata(&context, request)),
        sizes: Vec::new(),
    };
    let p = network.n_weights();
    for (id, spectrum) in request.ids.iter().zip(&stars) {
        let forward = network.forward(&network.flux_tensor(&spectrum.flux)?)?;
        match &request.part {
            OutputHessianPart::Diagonal => {
                let all = network.output_hessian_diagonal(&forward)?;
                for &label in &labels {
                    writer.append(id, label, 0, p, &all[label * p..(label + 1) * p])?;
                }
            }
            OutputHessianPart::Product(v) => {
                let all = network.output_hessian_products(&forward, v)?;
                for &label in &labels {
                    writer.append(id, label, 0, p, &all[label * p..(label + 1) * p])?;
                }
            }
            OutputHessianPart::Dense => {
                let at_once = (AT_ONCE / (p * network.n_labels())).clamp(1, p);
                for first in (0..p).step_by(at_once) {
                    let rows = at_once.min(p - first);
                    let all = network.output_hessian_rows(&forward, first, rows)?;
                    for &label in &labels {
                        writer.append(id, label, first, rows, &all[label * rows * p..(label + 1) * rows * p])?;
                    }
                }
            }
        }
    }
    let sizes = writer.sizes;
    let Some(file) = writer.table.finish()? else {
        return Err(RunError::Usage("no star is asked for: name one with --id".to_owned()));
    };
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

/// The stars, in the order of `ids`, one spectrum each, masked pixels replaced.
fn stars(context: &Arc<Context>, ids: &[String]) -> Result<Vec<SpectrumBatch>, RunError> {
    let predicted = context.predicted();
    let mut found: Vec<Option<SpectrumBatch>> = vec![None; ids.len()];
    let _shown = repeated::shown(&context.progress)?;
    let (spectra, groups) = (predicted.catalogue.n_rows(), predicted.groups.len() as u64);
    context.progress.begin_over_spectra("stars", spectra, groups);
    for group in &predicted.groups {
        for batch in context.read(&predicted.catalogue, group) {
            let batch = batch?;
            context.progress.advance(batch.n_rows() as u64);
            let format = FormatOptions::default();
            let names = ArrayFormatter::try_new(batch.rows.column(0), &format)
                .map_err(|error| RunError::Internal(error.to_string()))?;
            for row in 0..batch.n_rows() {
                let name = names.value(row).to_string();
                for (found, _) in found
                    .iter_mut()
                    .zip(ids)
                    .filter(|(found, id)| found.is_none() && **id == name)
                {
                    *found = Some(batch.select(&[row])?);
                }
            }
        }
    }
    context.progress.end();
    let uri = context
        .job
        .predict
        .catalogue
        .as_ref()
        .map_or(&context.job.catalogue.uri, |source| &source.uri);
    let mut stars = ids
        .iter()
        .zip(found)
        .map(|(id, star)| match star {
            None => Err(RunError::Refused(format!("{uri} holds no star \"{id}\""))),
            Some(star) if star.is_bad(0) => Err(RunError::Refused(format!(
                "star \"{id}\" of {uri} has no prediction ({}): its flux cannot go through the network",
                star.flags[0].names().collect::<Vec<_>>().join(", ")
            ))),
            Some(star) => Ok(star),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let masked = |star: &SpectrumBatch| star.flags[0].contains(RowFlags::PIXELS_MASKED);
    if stars.iter().any(masked) {
        let population = known_population(context)?.ok_or_else(|| {
            RunError::Refused(format!(
                "a star asked for has masked pixels, and no held-out spectrum of {} tells what to expect there: raise noise.holdout_fraction",
                context.job.catalogue.uri
            ))
        })?;
        for star in &mut stars {
            star.impute(&population)?;
        }
    }
    Ok(stars)
}

/// The population that `fit` left, or that of a pass of its own.
fn known_population(context: &Arc<Context>) -> Result<Option<PixelPopulation>, RunError> {
    let cluster = Cluster::alone(1);
    let whereabouts = Whereabouts::new(&cluster, context.output.rendezvous(&context.run_id));
    let working = Arc::clone(context);
    let look = move |worker: &mut Worker| match agree::left_by::<FitState>(worker, &working, Step::Fit)? {
        Some(fit) => Ok(fit.population),
        None => population::population(worker, &working),
    };
    cluster::execute(
        &cluster,
        "output-hessian",
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
    table: TableWriter,
    sizes: Vec<StarSize>,
}

impl Rows<'_> {
    /// Appends `rows` weights from `first` on: a value a weight, or a row of the matrix.
    fn append(&mut self, id: &str, label: usize, first: usize, rows: usize, values: &[f64]) -> Result<(), RunError> {
        let labels = self.context.network.labels();
        let values: Vec<f64> = values.iter().map(|value| value * labels.scale[label]).collect();
        let width = values.len() / rows.max(1);
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(RunError::Refused(format!(
                "the Hessian of label {} of star \"{id}\" is not finite at weight {}: an activation overflowed; compute in f64",
                labels.names[label],
                first + at / width
            )));
        }
        self.count(id, &labels.names[label], &values);
        let (mut layers, mut outs, mut ins) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for shape in self.context.network.dense_layers() {
            let end = start + shape.n_weights();
            for weight in first.max(start)..(first + rows).min(end) {
                let (out, input) = ((weight - start) / shape.columns(), (weight - start) % shape.columns());
                layers.push(shape.name.clone());
                outs.push(Some(out as u64));
                ins.push((input < shape.inputs).then_some(input as u64));
            }
            start = end;
        }
        let values = if width == 1 {
            ("value", Column::Number(values))
        } else {
            ("values", Column::Numbers { width, values })
        };
        self.table.append(vec![
            ("id", Column::Text(vec![id.to_owned(); rows])),
            ("label", Column::Text(vec![labels.names[label].clone(); rows])),
            ("layer", Column::Text(layers)),
            ("out_index", Column::Count(outs)),
            ("in_index", Column::Count(ins)),
            values,
        ])?;
        Ok(())
    }

    fn count(&mut self, id: &str, label: &str, values: &[f64]) {
        let known = self.sizes.iter().position(|size| size.id == id && size.label == label);
        let at = known.unwrap_or_else(|| {
            self.sizes.push(StarSize {
                id: id.to_owned(),
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
        "weights": "layer by layer [W | b], shape [out, columns], columns = in, and 1 more for the bias, last, where there is one; row-major: index = out * columns + in; in_index null: the bias",
        "kinks": "at a kink of an activation its second derivative counts as 0",
        "label_scale": labels.scale,
    });
    FileMetadata::default()
        .with("fisherflow.version", env!("CARGO_PKG_VERSION"))
        .with("fisherflow.run_id", context.run_id.as_str())
        .with("fisherflow.model_sha256", context.network_sha256.as_str())
        .with("fisherflow.convention", convention.to_string())
        .with("fisherflow.labels", serde_json::json!(labels.names).to_string())
        .with("fisherflow.units", serde_json::json!(labels.units).to_string())
}
