//! `train`: a network from a catalogue, written to the run file's `network.uri`.

use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::resolve::Training;

/// Trains a network.
///
/// # Errors
/// Whatever ended the training.
pub fn train(training: Training, _terminal: &Terminal) -> Result<(), CliError> {
    Err(CliError::Arguments(format!(
        "train is not yet supported by this version of fisherflow: nothing was written to {}",
        training.network
    )))
}
