//! What an output shows of its run: who holds it, what that told last, which files are there, and the state that follows from it.

use std::collections::BTreeMap;

use fisherflow_dataflow::{RunStatus, holder_runs};
use fisherflow_store::{Claim, Manifest, Output, Stores};

use crate::exit_code::CliError;

/// What an output shows of its run.
#[derive(Debug)]
pub struct Found {
    /// Of the output.
    pub uri: String,
    /// Who holds it, or held it when it was completed.
    pub holder: Option<Claim>,
    /// Whether the holder's process runs, where the system can be asked.
    pub holder_runs: Option<bool>,
    /// What was committed.
    pub manifest: Option<Manifest>,
    /// Whether the commit went to its last step.
    pub is_marked: bool,
    /// What the run last told, while the output is not complete.
    pub told: Option<RunStatus>,
    /// Paths and sizes of what is there.
    pub contents: Vec<(String, u64)>,
}

impl Found {
    /// What is known of an output; `None` where no run has begun.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn at(stores: &Stores, output: &Output) -> Result<Option<Self>, CliError> {
        match Self::read(stores, output)? {
            // What its process did last, it may have done since that was read.
            Some(found) if found.has_died() => Self::read(stores, output),
            found => Ok(found),
        }
    }

    fn read(stores: &Stores, output: &Output) -> Result<Option<Self>, CliError> {
        // What goes with the commit is read before it: what is gone has become the manifest.
        let told = RunStatus::read(stores, output);
        let (holder, contents, manifest) = (output.holder()?, output.contents()?, output.manifest()?);
        if holder.is_none() && manifest.is_none() {
            return Ok(None);
        }
        let is_marked = manifest.is_some() && output.is_marked()?;
        let told = if is_marked { None } else { told? };
        let holder_runs = holder.as_ref().and_then(holder_runs);
        Ok(Some(Self {
            uri: output.uri().to_owned(),
            holder,
            holder_runs,
            manifest,
            is_marked,
            told,
            contents,
        }))
    }

    /// Whether it is complete, and since when.
    pub fn since(&self) -> String {
        match &self.manifest {
            Some(manifest) if self.is_marked => format!("complete since {}", manifest.created),
            Some(_) if self.is_committing() => "committing: complete in a moment".to_owned(),
            Some(_) => "its commit was cut short: run again".to_owned(),
            None => "not complete".to_owned(),
        }
    }

    /// In one word: `complete`, `cut_short` (of a commit, which the next run brings to its end), `running`, `silent` (dead, or
    /// probably so), `ended` (`told.ended` and `told.ended_code` say how), or `begun` (it has told nothing yet).
    pub fn state(&self) -> &'static str {
        match (&self.manifest, &self.told) {
            (Some(_), _) if self.is_marked => "complete",
            (Some(_), _) if self.is_committing() => "running",
            (Some(_), _) => "cut_short",
            (None, Some(told)) if told.ended.is_some() => "ended",
            (None, _) if self.has_died() => "silent",
            (None, Some(told)) if told.is_silent() => "silent",
            (None, Some(_)) => "running",
            (None, None) => "begun",
        }
    }

    /// Whether the process that holds an incomplete output is known to be no more, and did not say how it ended.
    pub fn has_died(&self) -> bool {
        let has_ended = self.told.as_ref().is_some_and(|told| told.ended.is_some());
        self.manifest.is_none() && self.holder_runs == Some(false) && !has_ended
    }

    /// Whether the process that wrote the manifest is about to make the last steps of its commit: it runs, as the system says, or, elsewhere, it
    /// told so a moment ago.
    pub fn is_committing(&self) -> bool {
        let tells = |told: &RunStatus| told.ended.is_none() && !told.is_silent();
        self.manifest.is_some()
            && !self.is_marked
            && self
                .holder_runs
                .unwrap_or_else(|| self.told.as_ref().is_some_and(tells))
    }

    /// `done`, `begun` or `not done`, a stage.
    pub fn stages(&self) -> [(&'static str, &'static str); 3] {
        let is_there = |start: &str| self.contents.iter().any(|(path, _)| path.starts_with(start));
        let complete = self.manifest.is_some();
        let stage = |stage| {
            let is_done = complete || is_there(&format!("stages/{stage}.json"));
            (stage, if is_done { "done" } else { "not done" })
        };
        // The last stage is done with the output's manifest.
        let predict = match (complete, is_there("predictions/")) {
            (true, _) => "done",
            (false, true) => "begun",
            (false, false) => "not done",
        };
        [stage("fit"), stage("invert"), ("predict", predict)]
    }

    /// Processes that wait for others.
    pub fn waiting(&self) -> u64 {
        let waiting = self.contents.iter().filter(|(path, _)| path.starts_with("rendezvous/"));
        waiting.count() as u64
    }

    /// Files and bytes of each folder.
    pub fn folders(&self) -> BTreeMap<&str, (u64, u64)> {
        let mut folders: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (path, size) in &self.contents {
            let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
            let (files, total) = folders.entry(folder).or_default();
            *files += 1;
            *total += size;
        }
        folders
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// A process elsewhere.
    pub fn claim() -> Claim {
        Claim {
            run_id: "r".into(),
            host: "node-1".into(),
            pid: 7,
            started: "2026-01-01T00:00:00Z".into(),
            machine: String::new(),
            born: 0,
            beat: 0,
        }
    }

    /// Of an output that shows nothing.
    pub fn nothing() -> Found {
        Found {
            uri: String::new(),
            holder: None,
            holder_runs: None,
            manifest: None,
            is_marked: false,
            told: None,
            contents: Vec::new(),
        }
    }

    /// So many seconds ago, by a run that goes on or ended so: where that is not well, with 75.
    pub fn told(age_s: i64, ended: Option<&str>) -> RunStatus {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let process = json!({
            "heard_s": 1.0, "process": 0, "current": 0, "workers": [{ "worker": 0, "done": 3000, "groups": 3 }],
            "passes": [{
                "pass": "curvature", "unit": "spectra", "of": 9000, "of_groups": 9, "done": 3000, "resumed": 0, "groups": 3,
                "bytes_read": 1024, "seconds": 3.0,
            }],
            "bytes_read": 2048, "bytes_written": 0, "resident": 1 << 30,
        });
        let json = json!({
            "version": 1, "run_id": "r", "stage": "run", "host": "node-1", "pid": 7, "started": "", "written": "",
            "written_s": now.unwrap().as_secs() as i64 - age_s, "every_s": 10, "processes": 1, "ended": ended,
            "ended_code": ended.map(|how| if how == "done" { 0 } else { 75 }),
            "standing": {
                "pass": "curvature", "unit": "spectra", "done": 3000, "of": 9000, "groups": 3, "of_groups": 9, "seconds": 3.0,
                "rate": 1000.0, "bytes_rate": 2048.0, "eta_s": 6.0, "slowest": null, "silent": 0, "processes": [process],
            },
        });
        serde_json::from_value(json).unwrap()
    }

    /// Of nothing.
    pub fn manifest() -> Manifest {
        serde_json::from_value(json!({
            "version": 1, "fisherflow": "", "run_id": "r", "created": "", "inputs": [], "counts": {}, "files": [], "settings": {}, "notes": [],
        }))
        .unwrap()
    }

    /// A process of this machine is known to be dead at once, however fresh its last word is.
    #[test]
    fn a_run_killed_on_this_machine_is_silent_at_once() {
        let claim = |holder_runs, told| Found {
            holder_runs,
            told,
            ..nothing()
        };
        let states = [
            (Some(false), Some(told(2, None)), "silent"),
            (Some(false), None, "silent"),
            (Some(false), Some(told(2, Some("done"))), "ended"),
            (Some(true), Some(told(2, None)), "running"),
            (Some(true), None, "begun"),
            (None, Some(told(2, None)), "running"),
        ];
        for (holder_runs, told, state) in states {
            let case = format!("{holder_runs:?} {:?}", told.as_ref().map(|told| &told.ended));
            assert_eq!(claim(holder_runs, told).state(), state, "{case}");
        }
    }

    /// Between the manifest and `_SUCCESS` a run that lives is committing, and one that does not was cut short.
    #[test]
    fn a_commit_under_way_is_not_one_that_was_cut_short() {
        let manifest = manifest();
        let (alive, silent, ended) = (told(4, None), told(90, None), told(4, Some("stopped by SIGTERM")));
        for (holder_runs, told, is_marked, state, said) in [
            (Some(true), None, false, "running", "(committing"),
            (Some(true), Some(&alive), false, "running", "(committing"),
            (Some(false), Some(&alive), false, "cut_short", "cut short: run again"),
            (None, Some(&alive), false, "running", "(committing"),
            (None, Some(&silent), false, "cut_short", "cut short: run again"),
            (None, Some(&ended), false, "cut_short", "cut short: run again"),
            (None, None, false, "cut_short", "cut short: run again"),
            (Some(true), Some(&alive), true, "complete", "(complete since"),
        ] {
            let found = Found {
                holder_runs,
                manifest: Some(manifest.clone()),
                is_marked,
                told: told.cloned(),
                ..nothing()
            };
            let case = format!("{holder_runs:?} {:?} {is_marked}", told.map(RunStatus::age_s));
            assert_eq!(found.state(), state, "{case}");
            assert!(format!("({})", found.since()).contains(said), "{case}");
        }
    }

    #[test]
    fn predictions_before_the_manifest_are_only_begun() {
        let contents = [
            "stages/fit.json",
            "stages/invert.json",
            "predictions/part-00000.parquet",
        ];
        let contents: Vec<(String, u64)> = contents.iter().map(|path| ((*path).to_owned(), 1)).collect();
        let found = Found { contents, ..nothing() };
        assert_eq!(
            found.stages(),
            [("fit", "done"), ("invert", "done"), ("predict", "begun")]
        );
    }
}
