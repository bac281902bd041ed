//! `train`: a network from a catalogue, written to the run file's `network.uri`.

use fisherflow_dataflow::{TrainJob, Trained};
use fisherflow_network::train::TrainingReport;

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
    if let Some(epoch) = trained.report.diverged {
        tracing::warn!(
            epoch,
            kept = trained.report.best_epoch,
            "training diverged, and the best weights of before are kept; lower the learning rate"
        );
    }
    page(job, &trained).tell(terminal);
    Ok(())
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
        ("epochs", epochs_in_words(report)),
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

fn epochs_in_words(report: &TrainingReport) -> String {
    let end = match report.diverged {
        Some(epoch) => format!(", diverged in epoch {epoch}"),
        None if report.stopped_early => ", stopped early".to_owned(),
        None => String::new(),
    };
    format!(
        "{}{end}, the weights of epoch {} are kept",
        report.epochs, report.best_epoch
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_training_ended_is_told() {
        let report = TrainingReport {
            epochs: 80,
            best_epoch: 60,
            train_loss: Some(0.1),
            validation_loss: Some(0.2),
            stopped_early: false,
            diverged: None,
        };
        let said = |stopped_early, diverged| {
            epochs_in_words(&TrainingReport {
                stopped_early,
                diverged,
                ..report
            })
        };
        assert_eq!(said(false, None), "80, the weights of epoch 60 are kept");
        assert_eq!(said(true, None), "80, stopped early, the weights of epoch 60 are kept");
        let diverged = said(false, Some(81));
        assert_eq!(diverged, "80, diverged in epoch 81, the weights of epoch 60 are kept");
    }
}
