//! `status`: how far the run of an output is, and whether it lives, from what its store shows to anybody on any machine.

use std::collections::BTreeMap;

use fisherflow_dataflow::{RunStatus, Standing, Unit};
use fisherflow_store::{Claim, Line, Manifest, Output, Stores};

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count};
use crate::progress::{lagging, time};
use crate::resolve::Place;

use super::stores;

/// The stages of a run that leave a mark, in order.
const STAGES: [&str; 2] = ["fit", "invert"];
/// The folder of the last stage, which is done with the output's manifest.
const PREDICTIONS: &str = "predictions";

/// Prints who holds an output, how far the run is and when it last gave a sign of life, which stages are done, and what is written.
///
/// # Errors
/// There is no output, or it cannot be read.
pub fn status(place: &Place) -> Result<(), CliError> {
    let stores = stores(place)?;
    let line = Line::open(&stores, &place.uri)?;
    if line.basis()?.is_some() || !line.releases()?.is_empty() {
        return Ok(of_line(&stores, &line)?.print()?);
    }
    let output = Output::open(&stores, &place.uri)?;
    match of_output(&stores, &output)? {
        Some(page) => Ok(page.print()?),
        None => Err(CliError::Refused {
            uri: output.uri().to_owned(),
            problem: "nothing is there: no run has begun".to_owned(),
        }),
    }
}

/// What is known of an output; `None` where no run has begun.
fn of_output(stores: &Stores, output: &Output) -> Result<Option<Page>, CliError> {
    let (holder, manifest, contents) = (output.holder()?, output.manifest()?, output.contents()?);
    if holder.is_none() && contents.is_empty() {
        return Ok(None);
    }
    let told = match &manifest {
        Some(_) => None,
        None => RunStatus::read(stores, output)?,
    };
    let mut page = page(
        output.uri(),
        holder.as_ref(),
        manifest.as_ref(),
        told.as_ref(),
        &contents,
    );
    if let Some(told) = &told {
        page.gap().grid(&processes(&told.standing, told.age_s()));
    }
    page.gap().grid(&folders(&contents));
    Ok(Some(page))
}

/// The last release of a line, and the one in the making.
fn of_line(stores: &Stores, line: &Line) -> Result<Page, CliError> {
    let latest = line.latest()?;
    let mut page = Page::new();
    let mut facts = vec![("line", line.uri().to_owned())];
    let next = match &latest {
        Some(commit) => {
            facts.push((
                "last release",
                format!("{}, committed {}: {}", commit.release, commit.created, commit.changes),
            ));
            commit.release + 1
        }
        None => {
            facts.push(("last release", "none yet".to_owned()));
            1
        }
    };
    let making = Output::open(stores, &line.release_uri(next))?;
    let Some(in_the_making) = of_output(stores, &making)? else {
        facts.push(("in the making", "none".to_owned()));
        page.facts(&facts);
        return Ok(page);
    };
    facts.push((
        "in the making",
        format!("{next}: no reader sees it before it is committed"),
    ));
    page.facts(&facts).gap();
    page.append(in_the_making);
    Ok(page)
}

fn page(
    uri: &str,
    holder: Option<&Claim>,
    manifest: Option<&Manifest>,
    told: Option<&RunStatus>,
    contents: &[(String, u64)],
) -> Page {
    let mut facts = vec![(
        "output",
        match manifest {
            Some(manifest) => format!("{uri} (complete since {})", manifest.created),
            None => format!("{uri} (not complete)"),
        },
    )];
    match holder {
        Some(claim) => {
            facts.push(("run", claim.run_id.clone()));
            let verb = if manifest.is_some() { "was held by" } else { "held by" };
            facts.push((
                verb,
                format!("process {} on {} since {}", claim.pid, claim.host, claim.started),
            ));
        }
        None => facts.push(("run", "no run holds it".to_owned())),
    }
    if manifest.is_none() && holder.is_some() {
        facts.push(("last sign of life", sign_of_life(told)));
    }
    if let Some(told) = told {
        facts.push(("pass", pass(&told.standing)));
    }
    facts.push(("stages", stages(manifest, contents)));
    let waiting = contents
        .iter()
        .filter(|(path, _)| path.starts_with("rendezvous/"))
        .count();
    if waiting > 0 {
        facts.push(("at the rendezvous", format!("{} processes", count(waiting as u64))));
    }
    let mut page = Page::new();
    page.facts(&facts);
    page
}

/// When the run last told anything, and what follows from it.
fn sign_of_life(told: Option<&RunStatus>) -> String {
    let Some(told) = told else {
        return "none yet: its processes form a cluster, or it ended before it began: look at its log".to_owned();
    };
    let age = time(told.age_s() as f64);
    match &told.ended {
        Some(how) if how == "done" => format!("{age} ago: `fisherflow {}` is done", told.stage),
        Some(how) => format!("{age} ago: ended: {how}"),
        None if told.is_silent() => format!("silent for {age}: probably dead, run again"),
        None => format!("{age} ago, by process {} on {}", told.pid, told.host),
    }
}

/// How far the current pass is.
fn pass(standing: &Standing) -> String {
    let Some(pass) = &standing.pass else {
        return "between two passes".to_owned();
    };
    let what = if standing.unit == Unit::Spectra {
        "spectra"
    } else {
        "blocks"
    };
    let mut said = format!("{pass}: {} of {} {what}", count(standing.done), count(standing.of));
    if standing.of_groups > 0 {
        said += &format!(", {} of {} groups", count(standing.groups), count(standing.of_groups));
    }
    said += &format!(", {:.1}/s, {}/s", standing.rate, bytes(standing.bytes_rate as u64));
    if let Some(eta) = standing.eta_s {
        said += &format!(", {} to go", time(eta));
    }
    if let Some(worker) = lagging(standing) {
        let behind = 100.0 * worker.behind();
        said += &format!(
            "; worker {} of process {} is {behind:.0} % behind",
            worker.worker, worker.process
        );
    }
    if standing.silent > 0 {
        said += &format!("; {} processes have told nothing yet", count(standing.silent));
    }
    said
}

/// A row a process; `age_s`: of what they are from.
fn processes(standing: &Standing, age_s: u64) -> Grid {
    let mut grid = Grid::new(&["process", "heard s ago", "pass", "done", "groups", "read", "memory"]);
    for told in &standing.processes {
        let (report, current) = (&told.report, told.report.pass());
        grid.row(vec![
            report.process.to_string(),
            format!("{:.0}", told.heard_s + age_s as f64),
            current.map_or_else(|| "-".to_owned(), |current| current.pass.clone()),
            current.map_or_else(String::new, |current| count(current.done)),
            current.map_or_else(String::new, |current| count(current.groups)),
            bytes(report.bytes_read),
            report.resident.map_or_else(String::new, bytes),
        ]);
    }
    grid
}

/// A row a folder.
fn folders(contents: &[(String, u64)]) -> Grid {
    let mut folders: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (path, size) in contents {
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let (files, total) = folders.entry(folder).or_default();
        *files += 1;
        *total += size;
    }
    let mut grid = Grid::new(&["folder", "files", "size"]);
    for (folder, (files, size)) in folders {
        grid.row(vec![format!("{folder}/"), count(files), bytes(size)]);
    }
    grid
}

/// `fit done, invert done, predict begun`.
fn stages(manifest: Option<&Manifest>, contents: &[(String, u64)]) -> String {
    let is_there = |start: &str| contents.iter().any(|(path, _)| path.starts_with(start));
    let mut said: Vec<String> = STAGES
        .iter()
        .map(|stage| {
            let is_done = manifest.is_some() || is_there(&format!("stages/{stage}.json"));
            format!("{stage} {}", if is_done { "done" } else { "not done" })
        })
        .collect();
    let predict = match (manifest, is_there(&format!("{PREDICTIONS}/"))) {
        (Some(_), _) => "done",
        (None, true) => "begun",
        (None, false) => "not done",
    };
    said.push(format!("predict {predict}"));
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use fisherflow_dataflow::RunError;

    use super::*;

    #[test]
    fn a_run_half_done_is_told_from_its_files() {
        let contents: Vec<(String, u64)> = [
            ("claim.json", 100),
            ("posterior/hessian/block-000.parquet", 2048),
            ("posterior/hessian/block-001.parquet", 2048),
            ("rendezvous/r/1.json", 30),
            ("stages/fit.json", 10),
        ]
        .map(|(path, size)| (path.to_owned(), size))
        .to_vec();
        let claim = Claim {
            run_id: "r".into(),
            host: "node-1".into(),
            pid: 7,
            started: "2026-01-01T00:00:00Z".into(),
            machine: String::new(),
            born: 0,
            beat: 0,
        };
        let mut page = page("/out", Some(&claim), None, None, &contents);
        let said = page.gap().grid(&folders(&contents)).to_string();
        for words in [
            "/out (not complete)",
            "process 7 on node-1 since 2026-01-01T00:00:00Z",
            "fit done, invert not done, predict not done",
            "none yet",
            "1 processes",
        ] {
            assert!(said.contains(words), "{words}\n{said}");
        }
        let hessian = said
            .lines()
            .find(|line| line.starts_with("posterior/hessian/"))
            .unwrap();
        let cells: Vec<&str> = hessian.split_whitespace().collect();
        assert_eq!(cells, ["posterior/hessian/", "2", "4.0", "KiB"]);
    }

    fn told(age_s: u64, ended: Option<&str>) -> RunStatus {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let process = serde_json::json!({
            "heard_s": 1.0, "process": 0, "current": 0, "workers": [{ "worker": 0, "done": 3000, "groups": 3 }],
            "passes": [{
                "pass": "curvature", "unit": "spectra", "of": 9000, "of_groups": 9, "done": 3000, "resumed": 0, "groups": 3,
                "bytes_read": 1024, "seconds": 3.0,
            }],
            "bytes_read": 2048, "bytes_written": 0, "resident": 1 << 30,
        });
        let json = serde_json::json!({
            "version": 1, "run_id": "r", "stage": "run", "host": "node-1", "pid": 7, "started": "", "written": "",
            "written_s": now.unwrap().as_secs() - age_s, "every_s": 10, "processes": 1, "ended": ended,
            "standing": {
                "pass": "curvature", "unit": "spectra", "done": 3000, "of": 9000, "groups": 3, "of_groups": 9, "seconds": 3.0,
                "rate": 1000.0, "bytes_rate": 2048.0, "eta_s": 6.0, "slowest": null, "silent": 0, "processes": [process],
            },
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_run_is_alive_silent_or_ended() {
        assert!(sign_of_life(Some(&told(4, None))).ends_with("s ago, by process 7 on node-1"));
        let silent = sign_of_life(Some(&told(90, None)));
        assert!(
            silent.starts_with("silent for 9") && silent.ends_with(": probably dead, run again"),
            "{silent}"
        );
        // How it ended says what to do by itself.
        let how = RunError::PeerLost("process 1 has ended".to_owned()).to_string();
        let lost = sign_of_life(Some(&told(4, Some(&how))));
        assert!(
            lost.ends_with("ended: a process of the cluster was lost (process 1 has ended): run again"),
            "{lost}"
        );
        assert_eq!(lost.matches("run again").count(), 1, "{lost}");
        let told = told(4, None);
        assert_eq!(
            pass(&told.standing),
            "curvature: 3,000 of 9,000 spectra, 3 of 9 groups, 1000.0/s, 2.0 KiB/s, 6 s to go"
        );
        let mut page = Page::new();
        let grid = page.grid(&processes(&told.standing, 0)).to_string();
        assert!(
            grid.lines()
                .nth(1)
                .unwrap()
                .contains("curvature  3,000       3  2.0 KiB  1.0 GiB"),
            "{grid}"
        );
    }

    #[test]
    fn predictions_before_the_manifest_are_only_begun() {
        let contents = [
            "stages/fit.json",
            "stages/invert.json",
            "predictions/part-00000.parquet",
        ];
        let contents: Vec<(String, u64)> = contents.iter().map(|path| ((*path).to_owned(), 1)).collect();
        assert_eq!(stages(None, &contents), "fit done, invert done, predict begun");
    }
}
