//! All that the page is about, read from an output.

use fisherflow_store::{Manifest, Output, Stores, WrittenFile};

use crate::ReportError;
use crate::jacobians::{self, Jacobians};
use crate::predictions::Predictions;
use crate::settings::Settings;

/// What an output holds.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    /// Its URI.
    pub output: String,
    /// What was committed.
    pub manifest: Manifest,
    /// Its settings.
    pub settings: Settings,
    /// From `predictions/`.
    pub predictions: Predictions,
    /// From `jacobians/`, where there are any.
    pub jacobians: Option<Jacobians>,
}

/// Reads an output.
pub(crate) fn find(stores: &Stores, output: &Output) -> Result<Findings, ReportError> {
    let manifest = output.manifest()?.ok_or_else(|| ReportError::NotFinished {
        output: output.uri().to_owned(),
    })?;
    manifest.check_version(output.uri())?;
    let settings = Settings::of(output, &manifest)?;
    check_whole(output, &manifest, settings.network.labels.len())?;
    let labels = &settings.network.labels;
    let holds = |folder: &str| manifest.files.iter().any(|file| file.path.starts_with(folder));
    let predictions = if holds("predictions/") {
        Predictions::read(stores, &output.child("predictions/"), labels)?
    } else {
        Predictions::none(labels.len())
    };
    let jacobians = if holds("jacobians/") {
        Some(Jacobians::read(stores, &output.child("jacobians/"), labels)?)
    } else {
        None
    };
    Ok(Findings {
        output: output.uri().to_owned(),
        manifest,
        settings,
        predictions,
        jacobians,
    })
}

/// Refuses files that are not as the manifest says, of those that the page is made of: nothing on it would show.
fn check_whole(output: &Output, manifest: &Manifest, n_labels: usize) -> Result<(), ReportError> {
    let looked_at = jacobians::rows_looked_at(n_labels);
    let mut rows = 0;
    let mut read = Vec::new();
    // In the order in which they are read.
    let mut files: Vec<&WrittenFile> = manifest.files.iter().collect();
    files.sort();
    for file in files {
        let is_jacobian = file.path.starts_with("jacobians/") && rows < looked_at;
        if is_jacobian {
            rows += file.rows;
        }
        if is_jacobian || file.path.starts_with("predictions/") {
            read.push(file.clone());
        }
    }
    match output.damages(&read)?.into_iter().next() {
        None => Ok(()),
        Some(damage) => Err(ReportError::Damaged {
            output: output.uri().to_owned(),
            damage,
        }),
    }
}
