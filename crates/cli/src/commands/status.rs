//! `status`: how far the run of an output is, and whether it lives, from what its store shows to anybody on any machine.

use std::collections::BTreeMap;

use fisherflow_dataflow::{RunStatus, Standing, Unit};
use fisherflow_store::{Line, Output, Stores};
use serde_json::{Value, json};

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count, rate};
use crate::progress::{lagging, time};
use crate::resolve::Place;

use super::run_state::Found;
use super::stores;

/// Prints who holds an output, how far the run is and when it last gave a sign of life, which stages are done, and what is written; for people
/// or as JSON.
///
/// # Errors
/// There is no output, or it cannot be read.
pub fn status(place: &Place, json: bool) -> Result<(), CliError> {
    let stores = stores(place)?;
    let named = Line::named_release(&stores, &place.uri)?;
    let uri = named.as_ref().map_or(&place.uri, |named| &named.uri);
    let line = match &named {
        Some(_) => None,
        None => Some(Line::open(&stores, uri)?),
    };
    if let Some(line) = &line
        && (line.basis()?.is_some() || !line.releases()?.is_empty())
    {
        return of_line(&stores, line, json);
    }
    match (Found::at(&stores, &Output::open(&stores, uri)?)?, &line) {
        (Some(found), _) if json => Ok(Page::print_json(&found.json())?),
        (Some(found), _) => Ok(found.page().print()?),
        // The basis of a line is pinned behind its first passes: until then its first release alone tells of it.
        (None, Some(line)) if first_release(&stores, line)?.is_some() => of_line(&stores, line, json),
        (None, _) => Err(CliError::Refused {
            uri: uri.clone(),
            problem: "no run has begun there".to_owned(),
        }),
    }
}

/// What is said of an output that has a manifest while its commit did not go to its last step; `None` where it did.
///
/// # Errors
/// It cannot be read.
pub fn open_commit(stores: &Stores, output: &Output) -> Result<Option<String>, CliError> {
    let found = Found::at(stores, output)?.filter(|found| !found.is_marked);
    Ok(found.map(|found| found.since()))
}

/// What the first run of a line shows, whether it is committed or not.
fn first_release(stores: &Stores, line: &Line) -> Result<Option<Found>, CliError> {
    Found::at(stores, &Output::open(stores, &line.release_uri(1))?)
}

/// The last release of a line, and the one in the making.
fn of_line(stores: &Stores, line: &Line, json: bool) -> Result<(), CliError> {
    let read = || -> Result<_, CliError> {
        let latest = line.latest()?;
        let next = latest.as_ref().map_or(1, |commit| commit.release + 1);
        let making = Found::at(stores, &Output::open(stores, &line.release_uri(next))?)?;
        Ok((latest, next, making))
    };
    let (latest, next, making) = match read()? {
        // It may have been committed since the line was read.
        (_, _, Some(found)) if found.is_marked => read()?,
        found => found,
    };
    if json {
        return Ok(Page::print_json(&json!({
            "version": 1,
            "line": line.uri(),
            "state": state_of_line(latest.is_some(), making.as_ref()),
            "last_release": latest.as_ref().map(|commit| json!({ "release": commit.release, "created": commit.created })),
            "in_the_making": making.as_ref().map(|found| json!({ "release": next, "output": found.json() })),
        }))?);
    }
    let last = match &latest {
        Some(commit) => format!("{}, committed {}: {}", commit.release, commit.created, commit.changes),
        None => "none yet".to_owned(),
    };
    let in_the_making = match &making {
        Some(_) => format!("{next}: no reader sees it before it is committed"),
        None => "none".to_owned(),
    };
    let mut page = Page::new();
    page.facts(&[
        ("line", line.uri().to_owned()),
        ("last release", last),
        ("in the making", in_the_making),
    ]);
    if let Some(found) = making {
        page.gap().append(found.page());
    }
    Ok(page.print()?)
}

/// The state of a line in one word, as of an output: that of the release in the making, else of the last one.
fn state_of_line(is_released: bool, making: Option<&Found>) -> &'static str {
    match making.map(|found| (found.state(), found.holder_runs)) {
        // It counts with the line's commit, the next step of its process.
        Some(("complete", Some(true))) => "running",
        Some(("complete", _)) => "cut_short",
        Some((state, _)) => state,
        None if is_released => "complete",
        None => "begun",
    }
}

impl Found {
    /// For people.
    fn page(&self) -> Page {
        let manifest = self.manifest.as_ref();
        let mut facts = vec![("output", format!("{} ({})", self.uri, self.since()))];
        match &self.holder {
            Some(claim) => {
                facts.push(("run", claim.run_id.clone()));
                let has_ended = self.told.as_ref().is_some_and(|told| told.ended.is_some());
                let is_over = has_ended || self.has_died() || (manifest.is_some() && !self.is_committing());
                let verb = if is_over { "was held by" } else { "held by" };
                facts.push((
                    verb,
                    format!("process {} on {} since {}", claim.pid, claim.host, claim.started),
                ));
            }
            None => facts.push(("run", "no run holds it".to_owned())),
        }
        if manifest.is_none() && self.holder.is_some() {
            facts.push(("last sign of life", sign_of_life(self.told.as_ref(), self.has_died())));
        }
        let told = self.told.as_ref().filter(|_| manifest.is_none());
        if let Some(told) = told {
            facts.push(("pass", pass(&told.standing)));
        }
        let stages: Vec<String> = self.stages().map(|(stage, how)| format!("{stage} {how}")).into();
        facts.push(("stages", stages.join(", ")));
        let waiting = self.waiting();
        if waiting > 0 {
            facts.push(("at the rendezvous", format!("{} processes", count(waiting))));
        }
        let mut page = Page::new();
        page.facts(&facts);
        if let Some(told) = told {
            page.gap().grid(&processes(&told.standing, told.age_s()));
        }
        let mut grid = Grid::new(&["folder", "files", "size"]);
        for (folder, (files, size)) in self.folders() {
            grid.row(vec![format!("{folder}/"), count(files), bytes(size)]);
        }
        page.gap().grid(&grid);
        page
    }

    /// For programs.
    fn json(&self) -> Value {
        let folders = self.folders().into_iter();
        json!({
            "version": 1,
            "output": self.uri,
            "state": self.state(),
            "complete": self.manifest.as_ref().map(|manifest| &manifest.created),
            "holder": self.holder.as_ref().map(|claim| json!({
                "run_id": claim.run_id, "host": claim.host, "pid": claim.pid, "started": claim.started,
            })),
            "told": self.told,
            "told_age_s": self.told.as_ref().map(RunStatus::age_s),
            "stages": self.stages().into_iter().collect::<BTreeMap<_, _>>(),
            "at_the_rendezvous": self.waiting(),
            "folders": folders.map(|(folder, (files, bytes))| json!({ "folder": folder, "files": files, "bytes": bytes })).collect::<Vec<_>>(),
        })
    }
}

/// When the run last told anything, and what follows from it; `has_died`: its process is known to be no more.
fn sign_of_life(told: Option<&RunStatus>, has_died: bool) -> String {
    let Some(told) = told else {
        if has_died {
            return "none, and its process is no more: look at its log, run again".to_owned();
        }
        return "none yet: its processes form a cluster, or it ended before it began: look at its log".to_owned();
    };
    let age = time(told.age_s() as f64);
    match &told.ended {
        Some(how) if how == "done" => format!("{age} ago: `fisherflow {}` is done", told.stage),
        Some(how) => {
            let with = told.ended_code.map_or_else(String::new, |code| format!(" with {code}"));
            format!("{age} ago: ended{with}: {how}")
        }
        None if has_died && told.is_silent() => {
            format!(
                "silent for {age}: process {} on {} is no more, run again",
                told.pid, told.host
            )
        }
        None if has_died => format!(
            "{age} ago, by process {} on {}, which is no more: run again",
            told.pid, told.host
        ),
        None if told.ahead_s() > 5 => format!(
            "not known: the store's clock is {} ahead of this machine's",
            time(told.ahead_s() as f64)
        ),
        None if told.is_silent() => format!("silent for {age}: probably dead, run again"),
        None => format!("{age} ago, by process {} on {}", told.pid, told.host),
    }
}

/// How far the current pass is.
fn pass(standing: &Standing) -> String {
    let Some(pass) = &standing.pass else {
        return "between two passes".to_owned();
    };
    let what = match standing.unit {
        Unit::Spectra => "spectra",
        Unit::Blocks => "blocks",
        Unit::Tiles => "tiles",
    };
    let mut said = format!("{pass}: {} of {} {what}", count(standing.done), count(standing.of));
    if standing.of_groups > 0 {
        said += &format!(", {} of {} groups", count(standing.groups), count(standing.of_groups));
    }
    said += &format!(", {}/s, {}/s", rate(standing.rate), bytes(standing.bytes_rate as u64));
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

#[cfg(test)]
mod tests {
    use fisherflow_dataflow::RunError;
    use fisherflow_store::StoreOptions;

    use super::super::run_state::tests::{claim, manifest, nothing, told};
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
        let found = Found {
            uri: "/out".to_owned(),
            holder: Some(claim()),
            contents,
            ..nothing()
        };
        let said = found.page().to_string();
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

        let told = found.json();
        assert_eq!(told["complete"], Value::Null);
        assert_eq!(told["state"], "begun");
        assert_eq!(told["holder"]["pid"], 7);
        assert_eq!(told["stages"]["fit"], "done");
        assert_eq!(
            told["folders"][1],
            json!({ "folder": "posterior/hessian", "files": 2, "bytes": 4096 })
        );
    }

    #[test]
    fn a_run_is_alive_silent_or_ended() {
        let sign_of_life = |told: Option<&RunStatus>| sign_of_life(told, false);
        assert!(sign_of_life(Some(&told(4, None))).ends_with("s ago, by process 7 on node-1"));
        let ahead = sign_of_life(Some(&told(-600, None)));
        assert_eq!(ahead, "not known: the store's clock is 10 min ahead of this machine's");
        let state = |told: RunStatus| {
            let told = Some(told);
            Found { told, ..nothing() }.state()
        };
        let states = [told(4, None), told(90, None), told(4, Some("done"))].map(state);
        assert_eq!(states, ["running", "silent", "ended"]);
        let silent = sign_of_life(Some(&told(90, None)));
        assert!(
            silent.starts_with("silent for 9") && silent.ends_with(": probably dead, run again"),
            "{silent}"
        );
        // How it ended says what to do by itself.
        let how = RunError::PeerLost("process 1 has ended".to_owned()).to_string();
        let lost = sign_of_life(Some(&told(4, Some(&how))));
        assert!(
            lost.ends_with("ended with 75: a process of the cluster was lost (process 1 has ended): run again"),
            "{lost}"
        );
        assert_eq!(lost.matches("run again").count(), 1, "{lost}");
        let told = told(4, None);
        assert_eq!(
            pass(&told.standing),
            "curvature: 3,000 of 9,000 spectra, 3 of 9 groups, 1,000/s, 2.0 KiB/s, 6 s to go"
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
    fn a_process_that_is_no_more_is_said_to_be() {
        for (told, said) in [
            (
                told(2, None),
                " ago, by process 7 on node-1, which is no more: run again",
            ),
            (told(90, None), ": process 7 on node-1 is no more, run again"),
        ] {
            let found = sign_of_life(Some(&told), true);
            assert!(found.ends_with(said), "{found}");
        }
        assert!(sign_of_life(None, true).ends_with("its process is no more: look at its log, run again"));
    }

    #[test]
    fn the_first_run_of_a_line_is_seen_before_it_pins_a_basis() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            uri: folder.path().join("line").to_str().unwrap().to_owned(),
            store: StoreOptions::default(),
        };
        assert!(status(&place, false).is_err(), "nothing is there");
        let stores = stores(&place).unwrap();
        let line = Line::open(&stores, &place.uri).unwrap();
        let release = Output::open(&stores, &line.release_uri(1)).unwrap();
        assert!(release.claim(&claim(), false).unwrap().is_some());
        for json in [false, true] {
            status(&place, json).unwrap();
        }
    }

    #[test]
    fn a_line_is_in_the_state_of_its_release_in_the_making() {
        let making = |told, is_marked: bool, holder_runs| Found {
            told,
            is_marked,
            holder_runs,
            manifest: is_marked.then(manifest),
            ..nothing()
        };
        for (is_released, making, state) in [
            (false, None, "begun"),
            (true, None, "complete"),
            (true, Some(making(Some(told(4, None)), false, None)), "running"),
            (true, Some(making(Some(told(90, None)), false, None)), "silent"),
            // Without the line's commit no reader sees it.
            (false, Some(making(None, true, Some(true))), "running"),
            (false, Some(making(None, true, Some(false))), "cut_short"),
        ] {
            assert_eq!(state_of_line(is_released, making.as_ref()), state);
        }
    }
}
