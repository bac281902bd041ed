//! `inverse`: elements, the diagonal and products of a layer's inverse Hessian, from the files of a complete output.

use fisherflow_dataflow::{Finished, FinishedLayer, RunError};
use fisherflow_network::DenseShape;
use fisherflow_store::{Stores, read_vector};
use serde_json::json;

use super::answer::{Answer, AnswerFile, Size};
use super::{output_at, stores};
use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Page, count, number};
use crate::resolve::{Query, Question};
use crate::weights::Weights;

/// Answers a query.
///
/// # Errors
/// There is no complete output, no such layer or weight, a vector does not fit, the answer is too large, or its file is there already
/// or cannot be written.
pub fn inverse(query: &Query, terminal: &Terminal) -> Result<(), CliError> {
    let file = query.out.as_deref().map(AnswerFile::named).transpose()?;
    let stores = stores(&query.output)?;
    if let Some(file) = &file {
        stores.check_new(file.uri, query.overwrite)?;
    }
    let output = output_at(&stores, &query.output.uri)?;
    let finished = Finished::open(&stores, &output)?;
    // Before a block is read and worked on for what cannot be given.
    let size = size(&query.question, &finished.shapes(&query.layer)?)?;
    size.check_memory()?;
    if file.is_none() && !query.json {
        size.check_screen()?;
    }
    let layer = finished.layer(&query.layer, query.threads)?;
    let answer = answer(&stores, &layer, &query.question)?;
    let shapes = layer.posterior.shapes();
    let block = layer.posterior.block();
    if let Some(file) = &file {
        let metadata = layer
            .metadata
            .clone()
            .with("fisherflow.layer", query.layer.as_str())
            .with("fisherflow.query", query.question.to_string());
        answer.write(&stores, file, query.overwrite, shapes, &metadata)?;
    }
    let mut page = Page::new();
    if query.json {
        let mut said = json!({
            "output": output,
            "layer": query.layer,
            "block": block.layers.join("+"),
            "structure": block.structure,
            "n_weights": layer.posterior.n_weights(),
            "n_spectra": block.n_spectra,
            "prior_precision": block.prior_precision,
            "query": query.question.to_string(),
        });
        match &query.out {
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
                    query.layer,
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
            ("query", query.question.to_string()),
        ]);
        match &query.out {
            Some(uri) => {
                page.line(format!("written to {uri}"));
            }
            None => answer.print_to(page.gap(), shapes),
        }
    }
    if query.out.is_some() {
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
