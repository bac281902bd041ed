//! `run`, `fit`, `invert` and `predict`: stages of a run, and the one screen that says what came out and where.

use std::sync::Arc;

use fisherflow_dataflow::{Cluster, Job, Meter, Outcome, PassCount, Resources, RunSummary, Stage};
use fisherflow_store::{Line, Output, Stores, WrittenFile, by_folder};

use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Grid, Page, bytes, count, flop, rate};
use crate::signals;

use super::{IO_THREADS, findings};

/// Runs stages, and prints their summary in the first process.
///
/// # Errors
/// Whatever ended the run.
pub fn run(job: Job, stage: Stage, cluster: &Cluster, meter: &Arc<Meter>, terminal: &Terminal) -> Result<(), CliError> {
    signals::heed(&cluster.interrupt, terminal)?;
    let (stores, uri) = (Stores::new(job.store.clone(), IO_THREADS)?, job.output.clone());
    let releases = job.releases;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        output = job.output,
        stage = stage.name(),
        process = cluster.process,
        processes = cluster.processes,
        workers = cluster.workers,
        "begins"
    );
    tracing::debug!(
        network = job.network.uri,
        catalogue = job.catalogue.uri,
        precision = %job.compute.arithmetic.precision,
        threads = job.compute.arithmetic.threads,
        batch = job.compute.batch,
        group = job.compute.group,
        "of the run file"
    );
    let outcome = fisherflow_dataflow::run(Arc::new(job), stage, cluster, Arc::clone(meter))?;
    if cluster.process == 0 {
        let spectra = computed(&meter.report().passes);
        match outcome {
            Outcome::Done(done) if done.complete => {
                log(&done);
                let report = report(&stores, &done.output);
                page(&done, spectra, &checked(&done), report.as_deref()).tell(terminal);
            }
            Outcome::Done(done) => {
                log(&done);
                page(&done, spectra, "no manifest yet", None).tell(terminal);
            }
            Outcome::AlreadyComplete(manifest) => {
                // Its process may have ended before it came to that.
                let output = if releases {
                    Line::resolve(&stores, &uri)?.uri
                } else {
                    uri
                };
                if !stores.exists(&Output::open(&stores, &output)?.child(fisherflow_report::REPORT))? {
                    report(&stores, &output);
                }
                Page::new()
                    .line(format!(
                        "nothing to do: run {} is complete since {}, {} files; {}",
                        manifest.run_id,
                        manifest.created,
                        count(manifest.files.len() as u64),
                        if releases {
                            "the line's last release is of these very inputs, and --overwrite makes another"
                        } else {
                            "--overwrite runs it again"
                        }
                    ))
                    .tell(terminal);
            }
        }
    }
    Ok(())
}

/// What a run left, for who reads logs alone.
fn log(done: &RunSummary) {
    for note in &done.notes {
        tracing::info!(note, "note");
    }
    tracing::info!(
        run_id = done.run_id,
        output = done.output,
        stage = done.stage,
        complete = done.complete,
        spectra = done.fit.spectra,
        predicted = done.predict.map(|predict| predict.spectra),
        bad = done.predict.map(|predict| predict.bad),
        notes = done.notes.len(),
        seconds = done.seconds,
        "done"
    );
}

/// Writes the page of a complete output, and gives its URI. The output is whole without it: a page that cannot be drawn fails nobody's
/// night.
fn report(stores: &Stores, output: &str) -> Option<String> {
    fisherflow_report::write(stores, output)
        .inspect_err(|error| tracing::warn!(%error, "no report.html"))
        .ok()
        .map(|report| report.uri)
}

/// What is known of a complete output's files.
fn checked(done: &RunSummary) -> String {
    if done.read_back {
        return "complete, verified".to_owned();
    }
    let size = done.files.iter().map(|file| file.bytes).sum();
    format!("complete; {} to read back: fisherflow verify", bytes(size))
}

/// Spectra that this try computed, in the pass with most of them: groups that were there already say nothing of how fast it was.
fn computed(passes: &[PassCount]) -> u64 {
    const OF_GROUPS: [&str; 4] = ["curvature", "correction", "certify", "predict"];
    let passes = passes.iter().filter(|pass| OF_GROUPS.contains(&pass.pass.as_str()));
    passes
        .map(|pass| pass.of.saturating_sub(pass.resumed))
        .max()
        .unwrap_or(0)
}

/// What a run left; `spectra`: how many it computed.
fn page(done: &RunSummary, spectra: u64, state: &str, report: Option<&str>) -> Page {
    let mut page = Page::new();
    let fit = &done.fit;
    let mut facts = vec![
        ("output", format!("{} ({state})", done.output)),
        ("run", done.run_id.clone()),
    ];
    if let Some((number, changes)) = &done.release {
        facts.push(("release", format!("{number}: {changes}")));
    }
    facts.push((
        "spectra",
        format!(
            "{} spectra: {} in the sums, {} held out, {} bad, {} without labels{}",
            count(fit.spectra),
            count(fit.in_sums),
            count(fit.held_out),
            count(fit.bad),
            count(fit.unlabelled),
            match fit.excluded {
                0 => String::new(),
                excluded => format!(", {} excluded by id", count(excluded)),
            }
        ),
    ));
    if let Some(predict) = &done.predict {
        facts.push((
            "predicted",
            format!(
                "{} spectra: {} bad (null, with flags){}, {} with masked pixels",
                count(predict.spectra),
                count(predict.bad),
                match predict.excluded {
                    0 => String::new(),
                    excluded => format!(", {} excluded by id (null)", count(excluded)),
                },
                count(predict.pixels_masked)
            ),
        ));
    }
    let time = match spectra {
        0 => format!("{:.1} s", done.seconds),
        spectra => format!(
            "{:.1} s, {} spectra/s",
            done.seconds,
            rate(spectra as f64 / done.seconds)
        ),
    };
    facts.push(("time", time));
    facts.push(("memory", memory(&done.resources)));
    for stage in &done.resources.stages {
        facts.push((
            stage.stage,
            format!(
                "{} predicted, in {:.1} s: {}/s",
                flop(stage.flops_predicted),
                stage.seconds,
                flop(stage.flops_predicted / stage.seconds.max(1e-9))
            ),
        ));
    }
    facts.push(("traffic", traffic(&done.resources)));
    facts.extend(report.map(|uri| ("report", uri.to_owned())));
    page.facts(&facts);
    findings::of_run(done, &mut page);
    page.gap().grid(&times(&done.resources));
    page.gap().grid(&files(&done.files));
    if !done.notes.is_empty() {
        page.gap();
        for note in &done.notes {
            page.line(format!("note: {note}"));
        }
    }
    page
}

/// What was predicted, and what was measured.
fn memory(resources: &Resources) -> String {
    let predicted = bytes(resources.memory_predicted);
    match resources.memory_peak {
        Some(peak) => format!("predicted {predicted}, peak {}", bytes(peak)),
        None => format!("predicted {predicted}"),
    }
}

/// What this process exchanged with its stores and with the other processes.
fn traffic(resources: &Resources) -> String {
    let ((read, written), (sent, received)) = (resources.store_bytes, resources.network_bytes);
    let mut said = format!("{} read, {} written", bytes(read), bytes(written));
    if sent + received > 0 {
        said += &format!("; {} to other processes, {} from them", bytes(sent), bytes(received));
    }
    said
}

/// Where the time of this process's workers went.
fn times(resources: &Resources) -> Grid {
    let all: f64 = resources.time.iter().map(|share| share.mean).sum();
    let mut grid = Grid::new(&["time of a worker", "mean s", "least s", "most s", "share"]);
    for share in &resources.time {
        grid.row(vec![
            share.activity.name().to_owned(),
            format!("{:.1}", share.mean),
            format!("{:.1}", share.least),
            format!("{:.1}", share.most),
            format!("{:.0} %", 100.0 * share.mean / all.max(1e-9)),
        ]);
    }
    grid
}

/// A row a folder of the output.
pub fn files(files: &[WrittenFile]) -> Grid {
    let mut grid = Grid::new(&["folder", "files", "rows", "size"]);
    for (folder, of) in by_folder(files) {
        grid.row(vec![
            format!("{folder}/"),
            count(of.files),
            count(of.rows),
            bytes(of.bytes),
        ]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use fisherflow_dataflow::Unit;

    use super::*;

    #[test]
    fn spectra_of_an_earlier_try_are_not_counted() {
        let pass = |name: &str, of, resumed| PassCount {
            pass: name.to_owned(),
            unit: Unit::Spectra,
            of,
            of_groups: 3,
            done: of,
            resumed,
            groups: 3,
            bytes_read: 0,
            seconds: 1.0,
        };
        let population = pass("population", 900, 0);
        let resumed = pass("curvature", 900, 600);
        assert_eq!(computed(&[population.clone(), resumed.clone()]), 300);
        assert_eq!(computed(&[population.clone(), resumed, pass("predict", 400, 0)]), 400);
        let certify = pass("certify", 900, 200);
        assert_eq!(
            computed(&[population.clone(), pass("curvature", 900, 900), certify]),
            700
        );
        assert_eq!(computed(&[population, pass("curvature", 900, 900)]), 0);
    }

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
