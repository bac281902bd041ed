//! `output-hessian`: second derivatives of the outputs by the weights, for single stars.

use std::sync::Arc;

use fisherflow_dataflow::{Job, Meter, OutputHessianRequest};

use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Grid, Page, bytes, count, number};

/// Computes and writes them, and prints how large they are.
///
/// # Errors
/// Whatever ended it.
pub fn output_hessian(
    job: Job,
    request: OutputHessianRequest,
    meter: &Arc<Meter>,
    terminal: &Terminal,
) -> Result<(), CliError> {
    let report = fisherflow_dataflow::output_hessian(Arc::new(job), &request, Arc::clone(meter))?;
    let mut page = Page::new();
    page.facts(&[
        (
            "hessian",
            format!(
                "of the outputs by {} weights, label units: the {}",
                count(report.n_weights),
                request.part.name()
            ),
        ),
        (
            "file",
            format!(
                "{}: {} rows, {}",
                report.uri,
                count(report.file.rows),
                bytes(report.file.bytes)
            ),
        ),
    ]);
    let mut grid = Grid::new(&["id", "file", "row", "label", "not 0", "largest", "root sum of squares"]);
    for star in &report.sizes {
        grid.row(vec![
            star.id.clone(),
            star.file.clone(),
            star.row.to_string(),
            star.label.clone(),
            count(star.not_zero),
            number(star.largest),
            number(star.norm),
        ]);
    }
    page.gap().grid(&grid);
    if report.piecewise_linear {
        page.gap().line(
            "note: every activation of this network is piecewise linear: an output is linear in the weights of one layer, so all that is not 0 \
             are terms between different layers, and none is on the diagonal",
        );
    }
    page.tell(terminal);
    Ok(())
}
