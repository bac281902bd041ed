//! `run`, `fit`, `invert` and `predict`: stages of a run, and the one screen that says what came out and where.

use std::collections::BTreeMap;
use std::sync::Arc;

use fisherflow_dataflow::{Cluster, Job, Outcome, RunSummary, Stage};
use fisherflow_store::WrittenFile;

use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Grid, Page, bytes, count, number};
use crate::progress;

/// Runs stages, and prints their summary in the first process.
///
/// # Errors
/// Whatever ended the run.
pub fn run(job: Job, stage: Stage, cluster: &Cluster, terminal: &Terminal) -> Result<(), CliError> {
    let display = progress::display(terminal);
    let outcome = fisherflow_dataflow::run(Arc::new(job), stage, cluster, display)?;
    if cluster.process == 0 {
        match outcome {
            Outcome::Done(done) => page(&done).print()?,
            Outcome::AlreadyComplete(manifest) => Page::new()
                .line(format!(
                    "nothing to do: run {} is complete since {}, {} files; --overwrite runs it again",
                    manifest.run_id,
                    manifest.created,
                    count(manifest.files.len() as u64)
                ))
                .print()?,
        }
    }
    Ok(())
}

/// What a run left.
fn page(done: &RunSummary) -> Page {
    let mut page = Page::new();
    let state = match done.complete {
        true => "complete".to_owned(),
        false => format!("{} done, no manifest yet", done.stage),
    };
    let fit = &done.fit;
    let mut facts = vec![
        ("output", format!("{} ({state})", done.output)),
        ("run", done.run_id.clone()),
        (
            "fit",
            format!(
                "{} spectra: {} in the sums, {} held out, {} bad, {} without labels",
                count(fit.spectra),
                count(fit.in_sums),
                count(fit.held_out),
                count(fit.bad),
                count(fit.unlabelled)
            ),
        ),
    ];
    if let Some(predict) = &done.predict {
        facts.push((
            "predicted",
            format!(
                "{} spectra: {} bad (null, with flags), {} with masked pixels",
                count(predict.spectra),
                count(predict.bad),
                count(predict.pixels_masked)
            ),
        ));
    }
    let rate = fit.spectra.max(done.predict.map_or(0, |p| p.spectra)) as f64 / done.seconds;
    facts.push((
        "time",
        format!("{:.1} s, {} spectra/s", done.seconds, number(rate.round())),
    ));
    page.facts(&facts);
    if done.noise.is_some() || done.intrinsic.is_some() {
        page.gap().grid(&labels(done));
    }
    if !done.blocks.is_empty() {
        page.gap().grid(&blocks(done));
    }
    page.gap().grid(&files(&done.files));
    if !done.notes.is_empty() {
        page.gap();
        for note in &done.notes {
            page.line(format!("note: {note}"));
        }
    }
    page
}

/// A row a label: its error budget over the held-out spectra, and whether the error bars are as large as the errors.
fn labels(done: &RunSummary) -> Grid {
    let k = done.labels.len();
    let sigma = |covariance: Option<&Vec<f64>>, i: usize| {
        let variance = covariance.and_then(|c| c.get(i * k + i));
        variance.map_or("-".to_owned(), |v| number(v.max(0.0).sqrt()))
    };
    let intrinsic = done.intrinsic.as_ref();
    let mut grid = Grid::new(&[
        "label", "unit", "noise", "flux", "weights", "intrinsic", "pull mean", "pull std", "within 1",
    ]);
    for (i, label) in done.labels.iter().enumerate() {
        let pulls = done.pulls.as_ref().and_then(|p| p.get(i));
        let pull = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.3}"));
        grid.row(vec![
            label.clone(),
            done.units.get(i).cloned().unwrap_or_default(),
            sigma(done.noise.as_ref().map(|n| &n.covariance), i),
            sigma(intrinsic.map(|e| &e.mean_flux), i),
            sigma(intrinsic.map(|e| &e.mean_weights), i),
            sigma(intrinsic.map(|e| &e.covariance), i),
            pull(pulls.map(|p| p.mean)),
            pull(pulls.map(|p| p.standard_deviation)),
            pull(pulls.map(|p| p.within_one_sigma)),
        ]);
    }
    grid
}

/// A row a block of the Hessian.
fn blocks(done: &RunSummary) -> Grid {
    let mut grid = Grid::new(&["block", "structure", "weights", "effective", "log det", "condition"]);
    for block in &done.blocks {
        grid.row(vec![
            block.layers.join("+"),
            format!("{:?}", block.structure).to_lowercase(),
            count(block.n_weights),
            format!("{:.1}", block.effective_parameters),
            format!("{:.1}", block.log_det),
            format!("{:.1e}", block.condition),
        ]);
    }
    grid
}

/// A row a folder of the output.
pub fn files(files: &[WrittenFile]) -> Grid {
    let mut folders: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for file in files {
        let folder = file.path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let (number, rows, size) = folders.entry(folder).or_default();
        *number += 1;
        *rows += file.rows;
        *size += file.bytes;
    }
    let mut grid = Grid::new(&["folder", "files", "rows", "size"]);
    for (folder, (number, rows, size)) in folders {
        grid.row(vec![
            format!("{folder}/"),
            count(number),
            count(rows),
            bytes(size),
        ]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_by_folder() {
        let file = |path: &str, rows, bytes| WrittenFile {
            path: path.to_owned(),
            rows,
            bytes,
            sha256: String::new(),
        };
        let written = [
            file("predictions/part-00000.parquet", 10, 1024),
            file("predictions/part-00001.parquet", 5, 1024),
            file("posterior/hessian/block-000.parquet", 7, 10),
        ];
        let mut page = Page::new();
        page.grid(&files(&written));
        assert_eq!(
            page.to_string(),
            "folder              files  rows     size\n\
             posterior/hessian/      1     7     10 B\n\
             predictions/            2    15  2.0 KiB"
        );
    }
}
