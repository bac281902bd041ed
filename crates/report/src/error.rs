//! What can go wrong between an output and its page.

use fisherflow_store::{Damage, StoreError};
use thiserror::Error;

/// A failure that names the file and says what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// There is no manifest: nothing of the output is valid yet.
    #[error(
        "{output} has no manifest.json: no run has finished there; run it to its end, or name the directory that holds manifest.json"
    )]
    NotFinished {
        /// The output.
        output: String,
    },
    /// A file is not as the manifest says.
    #[error(
        "{output}: {damage}: the output is not as its manifest says (`fisherflow verify` tells all of it); run it again with --overwrite"
    )]
    Damaged {
        /// The output.
        output: String,
        /// The file, and what is wrong with it.
        damage: Damage,
    },
    /// The manifest's settings are not those that a run writes.
    #[error(
        "the settings in {output}/manifest.json are not those of this version: use the fisherflow that wrote it, or run again with --overwrite"
    )]
    Settings {
        /// The output.
        output: String,
        /// What is missing or mistyped.
        #[source]
        source: serde_json::Error,
    },
    /// A column is not what a run writes.
    #[error("column \"{column}\" of {table} is not {expected}: run `fisherflow verify` on the output")]
    Column {
        /// URI of the table.
        table: String,
        /// The column.
        column: String,
        /// What it should be.
        expected: String,
    },
    /// A plot could not be drawn.
    #[error("the plot of {plot} could not be drawn: {reason}")]
    Plot {
        /// What it shows.
        plot: String,
        /// What the drawing library says.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
