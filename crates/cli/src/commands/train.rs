//! `train`: a network from a catalogue, written to the run file's `network.uri`.

use fisherflow_dataflow::{TrainJob, Trained};

use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Page, count, number};
use crate::progress;

/// Trains a network, and prints how it went.
///
/// # Errors
/// Whatever ended the training.
pub fn train(job: &TrainJob, terminal: &Terminal) -> Result<(), CliError> {
    let mut epochs = progress::Epochs::new(terminal);
    let trained = fisherflow_dataflow::train(job, &mut |epoch| epochs.show(&epoch))?;
    epochs.end();
    Ok(page(job, &trained).tell(terminal)?)
}

fn page(job: &TrainJob, trained: &Trained) -> Page {
    let report = &trained.report;
    let loss = |loss: Option<f64>| loss.map_or("none".to_owned(), number);
    let mut page = Page::new();
    page.facts(&[
        (
            "network",
            format!("{}, {} weights", job.network, count(trained.n_weights)),
        ),
        (
            "spectra",
            format!(
                "{} trained on, {} of validation, {} left out (bad, or without all labels){}",
                count(trained.training),
                count(trained.validation),
                count(trained.left_out),
                trained
                    .bad_rows
                    .as_ref()
                    .map_or_else(String::new, |rows| format!(": {rows}"))
            ),
        ),
        (
            "epochs",
            format!(
                "{}{}, the weights of epoch {} are kept",
                report.epochs,
                if report.stopped_early { ", stopped early" } else { "" },
                report.best_epoch
            ),
        ),
        (
            "loss",
            format!(
                "training {}, validation {}: mean square over spectra and labels, in normalised units",
                loss(report.train_loss),
                loss(report.validation_loss)
            ),
        ),
    ]);
    page
}
