//! `inverse`: elements, the diagonal and products of a layer's inverse Hessian, from the files of a complete output.

use std::fmt;

use fisherflow_dataflow::{Finished, FinishedLayer, RunError};
use fisherflow_network::DenseShape;
use fisherflow_store::{Stores, read_vector};
use serde_json::json;

use super::answer::{Answer, AnswerFile, Size};
use super::{check_out, output_at, stores};
use crate::args::InverseArgs;
use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Page, count, number};
use crate::resolve::{Place, threads};
use crate::weights::Weights;

/// What is asked.
enum Question {
    /// Elements.
    Elements {
        /// Of these weights,
        rows: Weights,
        /// with these.
        cols: Weights,
    },
    /// The diagonal.
    Diagonal,
    /// `P^-1 v`, v from a file.
    Solve(String),
    /// `v^T P^-1 v`, v from a file.
    Quadratic(String),
}

impl Question {
    /// The one of the arguments: exactly one is among them.
    fn of(args: &InverseArgs) -> Self {
        match (&args.rows, &args.solve, &args.quadratic) {
            (Some(rows), _, _) => Self::Elements {
                rows: rows.clone(),
                cols: args.cols.as_ref().unwrap_or(rows).clone(),
            },
            (None, Some(v), _) => Self::Solve(v.clone()),
            (None, None, Some(v)) => Self::Quadratic(v.clone()),
            (None, None, None) => Self::Diagonal,
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elements { rows, cols } => write!(f, "elements of P^-1: rows {rows}, columns {cols}"),
            Self::Diagonal => f.write_str("the diagonal of P^-1"),
            Self::Solve(uri) => write!(f, "P^-1 v, v = {uri}"),
            Self::Quadratic(uri) => write!(f, "v^T P^-1 v, v = {uri}"),
        }
    }
}

/// Answers a question.
///
/// # Errors
/// The number of threads is wrong, there is no complete output, no such layer or weight, a vector does not fit, the answer is too large, or its
/// file is there already, would be read as spectra or cannot be written.
pub fn inverse(place: &Place, args: &InverseArgs, terminal: &Terminal) -> Result<(), CliError> {
    let threads = threads(args.threads)?;
    let question = Question::of(args);
    let file = args.out.as_deref().map(AnswerFile::named).transpose()?;
    let stores = stores(place)?;
    if let Some(file) = &file {
        stores.check_new(file.uri, args.overwrite)?;
    }
    let output = output_at(&stores, &place.uri)?;
    if let Some(file) = &file {
        check_out(&stores, &output, file.uri)?;
    }
    let finished = Finished::open(&stores, &output)?;
    // Before a block is read and worked on for what cannot be given.
    let size = size(&question, &finished.shapes(&args.layer)?)?;
    size.check_memory()?;
    if file.is_none() && !args.json {
        size.check_screen()?;
    }
    let layer = finished.layer(&args.layer, threads)?;
    let answer = answer(&stores, &layer, &question)?;
    let shapes = layer.posterior.shapes();
    let block = layer.posterior.block();
    if let Some(file) = &file {
        let metadata = layer
            .metadata
            .clone()
            .with("fisherflow.layer", args.layer.as_str())
            .with("fisherflow.query", question.to_string());
        answer.write(&stores, file, args.overwrite, shapes, &metadata)?;
    }
    let mut page = Page::new();
    if args.json {
        let mut said = json!({
            "output": output,
            "layer": args.layer,
            "block": block.layers.join("+"),
            "structure": block.structure,
            "n_weights": layer.posterior.n_weights(),
            "n_spectra": block.n_spectra,
            "prior_precision": block.prior_precision,
            "query": question.to_string(),
        });
        match &args.out {
            Some(uri) => said["out"] = json!(uri),
            None => {
                if let (Some(said), serde_json::Value::Object(found)) = (said.as_object_mut(), answer.json()) {
                    said.extend(found);
                }
            }
        }
        page.line(said.to_string());
    } else {
        let held = if block.layers.len() > 1 {
            format!(" of block {}", block.layers.join("+"))
        } else {
            String::new()
        };
        page.facts(&[
            ("output", output),
            (
                "layer",
                format!(
                    "{}{held}: {} weights, held as {}",
                    args.layer,
                    count(layer.posterior.n_weights() as u64),
                    block.structure
                ),
            ),
            (
                "P",
                format!(
                    "H + {} I, H a sum over {} spectra, in normalised label units",
                    number(block.prior_precision),
                    count(block.n_spectra)
                ),
            ),
            ("query", question.to_string()),
        ]);
        match &args.out {
            Some(uri) => {
                page.line(format!("written to {uri}"));
            }
            None => answer.print_to(page.gap(), shapes),
        }
    }
    if args.out.is_some() {
        page.tell(terminal);
        return Ok(());
    }
    Ok(page.print()?)
}

/// How large the answer will be.
fn size(question: &Question, shapes: &[DenseShape]) -> Result<Size, CliError> {
    let number = |weights: &Weights| {
        let indices = weights.indices(shapes).map_err(CliError::Arguments)?;
        Ok::<usize, CliError>(indices.len())
    };
    Ok(match question {
        Question::Elements { rows, cols } => Size::Elements(number(rows)?, number(cols)?),
        Question::Diagonal | Question::Solve(_) => Size::Vector(shapes.iter().map(DenseShape::n_weights).sum()),
        Question::Quadratic(_) => Size::Number,
    })
}

fn answer(stores: &Stores, layer: &FinishedLayer, question: &Question) -> Result<Answer, CliError> {
    let posterior = &layer.posterior;
    let indices = |weights: &Weights| weights.indices(posterior.shapes()).map_err(CliError::Arguments);
    let vector = |uri: &str| -> Result<Vec<f64>, CliError> {
        let v = read_vector(stores, uri)?;
        if v.len() != posterior.n_weights() {
            return Err(CliError::Arguments(format!(
                "{uri} has {} values, and the layer has {} weights: give one value a weight, [W | b] row by row, the bias last where there is one",
                v.len(),
                posterior.n_weights()
            )));
        }
        Ok(v)
    };
    Ok(match question {
        Question::Elements { rows, cols } => {
            let (rows, cols) = (indices(rows)?, indices(cols)?);
            let values = posterior.elements(&rows, &cols).map_err(RunError::from)?.values;
            Answer::Elements { rows, cols, values }
        }
        Question::Diagonal => Answer::Vector(posterior.diagonal().map_err(RunError::from)?),
        Question::Solve(uri) => Answer::Vector(posterior.solve(&vector(uri)?).map_err(RunError::from)?),
        Question::Quadratic(uri) => Answer::Number(posterior.quadratic(&vector(uri)?).map_err(RunError::from)?),
    })
}
