//! A line of releases: the next night costs what changed, and gives what a run from scratch gives.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use fisherflow_tests::{
    Ended, RunFile, Spectrum, counts, data_files, digests, everything_in, fisherflow_on, has_manifest, manifest,
    network, sha256, simulated, stopped_at, toml_path, write_catalogue,
};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

const PIXELS: usize = 24;
/// Rows of an object.
const ROWS: u64 = 6;
/// Objects of the first night.
const OBJECTS: u64 = 80;

/// A catalogue of many small objects in a folder, and the run files of its nights.
struct Nights {
    home: tempfile::TempDir,
}

impl Nights {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        network(&home.path().join("network.safetensors"), &[PIXELS, 8, 3]);
        let nights = Self { home };
        (0..OBJECTS).for_each(|object| nights.write(2 * object, object));
        nights
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn object(&self, number: u64) -> PathBuf {
        self.path(&format!("catalogue/night-{number:04}.parquet"))
    }

    /// Writes the object of a number, with the spectra of a place in the simulation.
    fn write(&self, number: u64, place: u64) {
        let spectra: Vec<Spectrum> = simulated(PIXELS, place * ROWS, ROWS);
        let object = self.object(number);
        let name = object.file_name().unwrap().to_str().unwrap();
        write_catalogue(&self.path("catalogue"), name, &spectra, ROWS as usize);
    }

    /// The second night: 5 objects come, 2 are reduced anew, 3 go; 40 ids are left out.
    fn second_night(&self) {
        for (at, number) in [1, 41, 43, 99, 161].into_iter().enumerate() {
            self.write(number, OBJECTS + at as u64);
        }
        for (at, number) in [20, 88].into_iter().enumerate() {
            self.write(number, OBJECTS + 10 + at as u64);
        }
        for number in [4, 60, 150] {
            std::fs::remove_file(self.object(number)).unwrap();
        }
        let ids: Vec<String> = (0..40).map(|i| id(31 + i / ROWS, i % ROWS)).collect();
        write_ids(&self.path("bad_plates.parquet"), &ids);
    }

    /// A run file of these spectra, which go to `output`.
    fn run_file(&self, output: &str) -> RunFile {
        let mut run_file =
            RunFile::new(self.home.path(), output).predicting(self.home.path(), "catalogue/night-000*.parquet");
        run_file.compute = "precision = \"f64\"\nbatch = 8\ngroup = 30".to_owned();
        run_file
    }

    /// The run of a line.
    fn of_line(&self, run_file: &RunFile) -> PathBuf {
        let file = run_file.write(self.home.path(), "line");
        let toml = format!("{}releases = true\n", run_file.toml());
        std::fs::write(&file, toml).unwrap();
        file
    }

    /// The same run from scratch, about the basis of the line.
    fn scratch_file(&self, run_file: &RunFile) -> PathBuf {
        let mut run_file = run_file.clone();
        run_file.output = toml_path(&self.path("scratch"));
        run_file.noise += &format!("\nbasis = \"{}\"", toml_path(&self.path("line/basis.json")));
        run_file.write(self.home.path(), "scratch")
    }

    fn commit(&self, release: u64) -> Value {
        let bytes = std::fs::read(self.path(&format!("line/commits/{release}.json"))).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

/// The identifier of a row of the spectra at a place in the simulation.
fn id(place: u64, row: u64) -> String {
    simulated(PIXELS, place * ROWS + row, 1)[0].id.clone().unwrap()
}

fn write_ids(file: &Path, ids: &[String]) {
    let column: ArrayRef = std::sync::Arc::new(StringArray::from_iter_values(ids));
    let batch = RecordBatch::try_from_iter([("id", column)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    std::fs::write(file, writer.into_inner().unwrap()).unwrap();
}

/// How many groups a pass computed and took over, as its log says.
fn groups_of(ended: &Ended, pass: &str) -> (u64, u64) {
    let mut lines = ended
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let fields = lines.find(|fields| fields["pass"] == pass && !fields["groups_computed"].is_null());
    let fields = fields.unwrap_or_else(|| panic!("pass {pass} says nothing\n{ended}"));
    (
        fields["groups_computed"].as_u64().unwrap(),
        fields["groups_resumed"].as_u64().unwrap(),
    )
}

#[test]
fn the_next_night_costs_what_changed_and_equals_a_run_from_scratch() {
    let nights = Nights::new();
    let mut run_file = nights.run_file("line");
    let first = fisherflow_on("run", &nights.of_line(&run_file), &[]);
    first.expect_done();
    assert!(has_manifest(&nights.path("line/releases/1")));
    let of_first = nights.commit(1);
    let n_groups = of_first["groups"].as_array().unwrap().len();
    assert!(n_groups > 10, "{n_groups} groups");
    assert_eq!(of_first["changes"]["touched"].as_array().unwrap().len(), n_groups);
    let before = digests(&nights.path("line/releases/1"));

    let again = fisherflow_on("run", &nights.of_line(&run_file), &[]);
    again.expect_done();
    assert!(again.stdout.contains("nothing to do"), "{again}");
    assert!(!nights.path("line/releases/2").exists());

    nights.second_night();
    run_file.of_catalogue = format!("exclude = \"{}\"", toml_path(&nights.path("bad_plates.parquet")));
    let file = nights.of_line(&run_file);
    let planned = fisherflow_on("plan", &file, &[]);
    planned.expect_done();
    let second = fisherflow_on("run", &file, &["-v", "--log", "json", "-w", "2"]);
    second.expect_done();
    // Where the log is JSON, what was done is one of its lines.
    for (said, place) in [(&planned, &planned.stdout), (&second, &second.stderr)] {
        assert!(
            place.contains("added 5, replaced 2, retracted 3 objects, 40 ids excluded: "),
            "{said}"
        );
    }
    let of_second = nights.commit(2);
    let release = nights.path("line/releases/2");
    let counted = counts(&release);
    assert_eq!(counted["fit_excluded"], 40);
    assert_eq!(counted["fit_spectra"], (OBJECTS + 2) * ROWS);
    assert_eq!(of_second["manifest_sha256"], sha256_of(&release.join("manifest.json")));
    assert_eq!(
        before,
        digests(&nights.path("line/releases/1")),
        "a release never changes"
    );

    // What differential says is touched is what has no checkpoint of its name, and no more is computed.
    let touched = of_second["changes"]["touched"].as_array().unwrap().len();
    let all = of_second["groups"].as_array().unwrap();
    let names = |commit: &Value| -> BTreeSet<String> {
        let groups = commit["groups"].as_array().unwrap().iter();
        groups
            .map(|group| group["checkpoints"]["curvature"].as_str().unwrap().to_owned())
            .collect()
    };
    let (old, new) = (names(&of_first), names(&of_second));
    assert_eq!(new.difference(&old).count(), touched);
    assert_eq!(
        groups_of(&second, "curvature"),
        (touched as u64, (all.len() - touched) as u64)
    );
    assert!(touched < all.len(), "{touched} of {} groups", all.len());

    let scratch = fisherflow_on("run", &nights.scratch_file(&run_file), &[]);
    scratch.expect_done();
    let scratch = nights.path("scratch");
    assert_eq!(data_files(&release), data_files(&scratch));
    assert_eq!(digests(&release), digests(&scratch), "bit for bit");
    assert_eq!(manifest(&release)["run_id"], manifest(&scratch)["run_id"]);
}

/// Eigenpairs are found over all groups, and are in the sums of none.
#[test]
fn a_night_sums_what_changed_alone_beside_eigenpairs_too() {
    let nights = Nights::new();
    let mut run_file = nights.run_file("line");
    run_file.curvature = "structure = \"low_rank\"\nrank = 4\npasses = 2".to_owned();
    fisherflow_on("run", &nights.of_line(&run_file), &[]).expect_done();
    nights.write(301, 200);
    let second = fisherflow_on("run", &nights.of_line(&run_file), &["-v", "--log", "json"]);
    second.expect_done();
    let commit = nights.commit(2);
    let of = |what: &Value| what.as_array().unwrap().len() as u64;
    let (touched, all) = (of(&commit["changes"]["touched"]), of(&commit["groups"]));
    assert!(touched < all, "{touched} of {all} groups");
    assert_eq!(groups_of(&second, "curvature"), (touched, all - touched));
    fisherflow_on("run", &nights.scratch_file(&run_file), &[]).expect_done();
    let (release, scratch) = (nights.path("line/releases/2"), nights.path("scratch"));
    assert_eq!(digests(&release), digests(&scratch), "bit for bit");
}

#[test]
fn half_a_release_is_no_release() {
    let nights = Nights::new();
    let mut run_file = nights.run_file("line");
    let line = nights.path("line");
    let fit = fisherflow_on("fit", &nights.of_line(&run_file), &[]);
    fit.expect_done();
    fisherflow_on("verify", &line, &[]).expect(3, &["no run was finished there"]);
    fisherflow_on("releases", &line, &[]).expect(3, &["has no release yet"]);
    fisherflow_on("run", &nights.of_line(&run_file), &[]).expect_done();

    nights.second_night();
    for stage in ["fit", "invert"] {
        fisherflow_on(stage, &nights.of_line(&run_file), &[]).expect_done();
    }
    let half = line.join("releases/2");
    assert!(half.join("stages/invert.json").exists());
    let read = fisherflow_on("verify", &line, &[]);
    read.expect_done();
    assert!(read.stdout.contains("line/releases/1"), "{read}");
    for at in [nights.path("line@2"), half.clone()] {
        fisherflow_on("report", &at, &[]).expect(3, &["has no release 2: its last is 1"]);
    }
    let status = fisherflow_on("status", &line, &[]);
    status.expect_done();
    for words in ["last release", "in the making  2", "invert done"] {
        assert!(status.stdout.contains(words), "{words}\n{status}");
    }

    let status = fisherflow_on("status", &nights.path("line@1"), &[]);
    status.expect_done();
    assert!(status.stdout.contains("line/releases/1 (complete since"), "{status}");
    fisherflow_on("status", &nights.path("line@2"), &[]).expect(3, &["has no release 2: its last is 1"]);

    let status = fisherflow_on("status", &line, &["--json"]);
    status.expect_done();
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["last_release"]["release"], 1);
    let making = &status["in_the_making"]["output"];
    assert_eq!(status["state"], making["state"], "{status}");
    assert_eq!(status["version"], 1);
    assert_eq!(
        (
            &making["complete"],
            &making["stages"]["invert"],
            &making["stages"]["predict"]
        ),
        (&Value::Null, &"done".into(), &"not done".into()),
        "{status}"
    );

    // Complete, and ended before its commit: the next run commits it, and makes no other.
    let stages = nights.path("stages");
    copy(&half.join("stages"), &stages);
    fisherflow_on("predict", &nights.of_line(&run_file), &[]).expect_done();
    std::fs::remove_file(line.join("commits/2.json")).unwrap();
    copy(&stages, &half.join("stages"));
    fisherflow_on("verify", &nights.path("line@2"), &[]).expect(3, &["has no release 2"]);
    fisherflow_on("run", &nights.of_line(&run_file), &[]).expect_done();
    assert_eq!(
        nights.commit(2)["manifest_sha256"],
        sha256_of(&half.join("manifest.json"))
    );
    assert!(!line.join("releases/3").exists());
    fisherflow_on("verify", &nights.path("line@2"), &[]).expect_done();

    // What a dead run of other inputs left of a release does not stand in the way of the next night.
    nights.write(301, 200);
    fisherflow_on("fit", &nights.of_line(&run_file), &[]).expect_done();
    run_file.prior = "precision = 3.0".to_owned();
    fisherflow_on("run", &nights.of_line(&run_file), &[]).expect_done();
    assert_eq!(nights.commit(3)["parent"], 2);
}

#[test]
fn what_no_kept_release_names_is_removed_and_nothing_else() {
    let nights = Nights::new();
    let mut run_file = nights.run_file("line");
    let line = nights.path("line");
    fisherflow_on("run", &nights.of_line(&run_file), &[]).expect_done();
    nights.second_night();
    run_file.of_catalogue = format!("exclude = \"{}\"", toml_path(&nights.path("bad_plates.parquet")));
    fisherflow_on("run", &nights.of_line(&run_file), &[]).expect_done();
    nights.write(303, 201);
    fisherflow_on("run", &nights.of_line(&run_file), &[]).expect_done();
    let listed = fisherflow_on("releases", &line, &[]);
    listed.expect_done();
    assert_eq!(
        listed.stdout.lines().filter(|line| line.contains("20")).count(),
        3,
        "{listed}"
    );
    let listed = fisherflow_on("releases", &line, &["--json"]);
    listed.expect_done();
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let second = &listed["releases"][1];
    let said = ["release", "added", "replaced", "retracted", "excluded"].map(|key| second[key].as_u64().unwrap());
    assert_eq!(said, [2, 5, 2, 3, 40], "{listed}");
    assert_eq!(second["uri"], line.join("releases/2").to_str().unwrap());
    std::fs::write(line.join("notes.txt"), "ours").unwrap();
    std::fs::write(line.join("groups/curvature/0123-4.sums"), "of a killed attempt").unwrap();

    let young = fisherflow_on("gc", &line, &["--keep", "1"]);
    young.expect_done();
    assert!(young.stdout.contains("0 objects"), "{young}");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let all = everything_in(&line);
    let dry = fisherflow_on("gc", &line, &["--keep", "1", "--grace", "0", "--dry-run"]);
    dry.expect_done();
    assert_eq!(all, everything_in(&line));
    fisherflow_on("gc", &line, &["--keep", "1", "--grace", "0"]).expect_done();

    let commit = nights.commit(3);
    let mut named: BTreeSet<String> = BTreeSet::new();
    for group in commit["groups"].as_array().unwrap() {
        named.insert(format!("groups/ids/{}", group["membership"].as_str().unwrap()));
        for (pass, name) in group["checkpoints"].as_object().unwrap() {
            named.insert(format!("groups/{pass}/{}", name.as_str().unwrap()));
        }
    }
    let is_named = |file: &String| match file
        .strip_suffix(".done")
        .or_else(|| file.rsplit_once('-').map(|(name, _)| name))
    {
        Some(checkpoint) if file.starts_with("groups/") && !file.starts_with("groups/ids/") => {
            named.contains(checkpoint)
        }
        Some(ids) if file.starts_with("groups/ids/") => named.contains(ids),
        _ if file.starts_with("groups/") => named.contains(file),
        _ => ["releases/3/", "commits/3.json", "basis.json", "notes.txt"]
            .iter()
            .any(|start| file.starts_with(start)),
    };
    let left = everything_in(&line);
    let of_all: Vec<String> = all.into_iter().filter(is_named).collect();
    assert_eq!(left, of_all);
    let done = left
        .iter()
        .filter(|file| file.starts_with("groups/curvature/") && file.ends_with(".done"));
    assert_eq!(done.count(), commit["groups"].as_array().unwrap().len());
    fisherflow_on("verify", &line, &[]).expect_done();
    fisherflow_on("verify", &nights.path("line@1"), &[]).expect(3, &["has no release 1: its last is 3"]);

    // What is kept serves the next night.
    nights.write(305, 202);
    let next = fisherflow_on("run", &nights.of_line(&run_file), &["-v", "--log", "json"]);
    next.expect_done();
    assert!(groups_of(&next, "curvature").0 <= 2, "{next}");
}

/// However old what it wrote is, and however little it says: whose process lives is at work.
#[test]
fn the_release_of_a_run_at_work_is_no_garbage() {
    let (nights, run_file, line) = released();
    nights.write(301, 200);
    let mut at_work = stopped_at("stage-left", &nights.of_line(&run_file));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let before = everything_in(&line);
    let removed = fisherflow_on("gc", &line, &["--grace", "0"]);
    removed.expect_done();
    assert!(removed.stdout.contains("in the making  release 2"), "{removed}");
    assert_eq!(everything_in(&line), before);
    at_work.signal(0, "CONT");
    at_work.wait(0).expect_done();
    assert_eq!(nights.commit(2)["parent"], 1);

    // Of a dead one it is.
    nights.write(303, 201);
    let mut dead = stopped_at("stage-left", &nights.of_line(&run_file));
    dead.kill(0);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let removed = fisherflow_on("gc", &line, &["--grace", "0"]);
    removed.expect_done();
    assert!(removed.stdout.contains("never committed  releases 3"), "{removed}");
    assert!(!line.join("releases/3").exists());
}

/// A release that its run completed and never committed is not removed under the hands of the next one, which commits it.
#[test]
fn a_complete_release_that_is_about_to_be_committed_is_no_garbage() {
    let (nights, run_file, line) = released();
    nights.write(301, 200);
    let file = nights.of_line(&run_file);
    let mut dead = stopped_at("committed", &file);
    dead.kill(0);
    assert!(!line.join("commits/2.json").exists() && has_manifest(&line.join("releases/2")));
    let mut next = stopped_at("claimed", &file);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let before = everything_in(&line);
    let removed = fisherflow_on("gc", &line, &["--grace", "0"]);
    removed.expect_done();
    assert!(removed.stdout.contains("in the making  release 2"), "{removed}");
    assert_eq!(everything_in(&line), before);
    next.signal(0, "CONT");
    let next = next.wait(0);
    next.expect_done();
    assert!(next.stdout.contains("nothing to do"), "{next}");
    assert_eq!(nights.commit(2)["parent"], 1);
    fisherflow_on("verify", &line, &[]).expect_done();
    assert!(!line.join("releases/2/claims").exists() && !line.join("releases/2/stages").exists());
}

/// A process that died behind its release's commit leaves its last steps to the next run, of whatever inputs.
#[test]
fn what_a_run_left_to_do_behind_its_release_is_done() {
    let nights = Nights::new();
    let (line, tiles) = (nights.path("line"), nights.path("tiles"));
    let mut run_file = nights.run_file("line");
    run_file.curvature = "structure = \"dual\"\nmemory = \"4 MiB\"".to_owned();
    run_file.compute += &format!("\nscratch = \"{}\"", toml_path(&tiles));
    let file = nights.of_line(&run_file);
    let left = |release: u64| {
        let output = line.join(format!("releases/{release}"));
        [output.join("stages"), output.join("claims"), tiles.clone()].map(|folder| !everything_in(&folder).is_empty())
    };
    let killed = |release: u64| {
        let killed = fisherflow_on("run", &file, &["--fail-at", "released"]);
        assert_eq!(killed.code, None, "{killed}");
        assert_eq!(nights.commit(release)["release"], release);
        assert_eq!(left(release), [true; 3]);
    };
    killed(1);
    let again = fisherflow_on("run", &file, &[]);
    again.expect_done();
    assert!(again.stdout.contains("nothing to do"), "{again}");
    assert_eq!(left(1), [false; 3]);
    assert!(line.join("releases/1/report.html").exists() && !line.join("releases/2").exists());

    nights.write(301, 200);
    killed(2);
    nights.write(303, 201);
    killed(3);
    // The tiles are those of the third night.
    assert_eq!(left(2), [false, false, true]);
    assert_eq!(std::fs::read_dir(&tiles).unwrap().count(), 1);

    // One that died before its release, and then whoever released it instead.
    nights.write(305, 202);
    let before_its_release = fisherflow_on("run", &file, &["--fail-at", "committed"]);
    assert_eq!(before_its_release.code, None, "{before_its_release}");
    killed(4);
    nights.write(307, 203);
    fisherflow_on("run", &file, &[]).expect_done();
    assert_eq!(left(4), [false; 3]);
    assert!(line.join("commits/5.json").exists());
}

/// A short line, of one released night.
fn released() -> (Nights, RunFile, PathBuf) {
    let nights = Nights::new();
    let run_file = nights.run_file("line");
    fisherflow_on("run", &nights.of_line(&run_file), &[]).expect_done();
    let line = nights.path("line");
    (nights, run_file, line)
}

#[test]
fn a_line_keeps_to_the_basis_that_its_releases_were_made_about() {
    let (nights, run_file, line) = released();
    let file = nights.of_line(&run_file);
    let basis = line.join("basis.json");
    let pinned = std::fs::read_to_string(&basis).unwrap();
    let expected = sha256_of(&basis);
    assert_eq!(nights.commit(1)["basis_sha256"], expected);
    nights.write(301, 200);
    // As good a number as the other: only the hash tells.
    let digit = pinned.rfind(|letter: char| letter.is_ascii_digit()).unwrap();
    let mut other = pinned.clone();
    let is_nine = pinned[digit..].starts_with('9');
    other.replace_range(digit..=digit, if is_nine { "8" } else { "9" });
    let before = everything_in(&line);
    for (found, said) in [(Some(&other), "has SHA-256"), (None, "is missing")] {
        match found {
            Some(bytes) => std::fs::write(&basis, bytes).unwrap(),
            None => std::fs::remove_file(&basis).unwrap(),
        }
        for command in ["run", "fit", "plan"] {
            let said = ["basis.json", said, &expected, "put that one back", "output.uri"];
            fisherflow_on(command, &file, &[]).expect(3, &said);
        }
        fisherflow_on("verify", &line, &[]).expect(3, &["releases never change"]);
        std::fs::write(&basis, &pinned).unwrap();
        assert_eq!(everything_in(&line), before);
    }
    // A copy that is named does as well, and is pinned again.
    let copy = nights.path("copy.json");
    std::fs::rename(&basis, &copy).unwrap();
    let mut about = run_file.clone();
    about.noise += &format!("\nbasis = \"{}\"", toml_path(&copy));
    fisherflow_on("run", &nights.of_line(&about), &[]).expect_done();
    assert_eq!(std::fs::read_to_string(&basis).unwrap(), pinned);
    assert_eq!(nights.commit(2)["basis_sha256"], expected);
}

#[test]
fn what_was_computed_is_told_where_the_settings_are_others() {
    let (nights, mut run_file, line) = released();
    let n = nights.commit(1)["groups"].as_array().unwrap().len() as u64;
    let of_first = run_file.compute.clone();
    let other = of_first.replace("batch = 8", "batch = 16");
    // The sums do not depend on the prior; they do on the batch; and those of the first settings are still there.
    for (at, (compute, prior, computed)) in [
        (&of_first, "precision = 3.0", 0),
        (&other, "precision = 3.0", n),
        (&of_first, "precision = 5.0", 0),
    ]
    .into_iter()
    .enumerate()
    {
        (run_file.compute, run_file.prior) = (compute.clone(), prior.to_owned());
        let file = nights.of_line(&run_file);
        let before = everything_in(&line);
        let planned = fisherflow_on("plan", &file, &[]);
        planned.expect_done();
        assert_eq!(everything_in(&line), before, "a plan touches nothing");
        let done = fisherflow_on("run", &file, &["-v", "--log", "json"]);
        done.expect_done();
        assert_eq!(groups_of(&done, "curvature"), (computed, n - computed));
        for (ended, place) in [(&planned, &planned.stdout), (&done, &done.stderr)] {
            let said = format!("0 of {n} groups touched, {computed} computed");
            assert!(place.contains(&said), "{said}\n{ended}");
        }
        assert_eq!(nights.commit(2 + at as u64)["changes"]["computed"], computed);
    }
    let listed = fisherflow_on("releases", &line, &[]);
    listed.expect_done();
    let columns: Vec<(String, String)> = listed
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|cells| cells.len() == 11 && cells[0].parse::<u64>().is_ok())
        .map(|cells| (cells[5].to_owned(), cells[6].to_owned()))
        .collect();
    let expected =
        [(n, 0), (0, n), (n, 0), (0, n)].map(|(computed, reused)| (computed.to_string(), reused.to_string()));
    assert_eq!(columns, expected, "{listed}");
}

#[test]
fn a_damaged_release_stays_and_another_of_the_same_inputs_may_follow() {
    let (nights, run_file, line) = released();
    let file = nights.of_line(&run_file);
    let release = line.join("releases/1");
    let expected = digests(&release);
    let manifest = release.join("manifest.json");
    let written = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, [written.as_slice(), b" "].concat()).unwrap();
    let remedy = ["releases never change", "--overwrite"];
    let said = [&["manifest.json has SHA-256"], &remedy[..]].concat();
    fisherflow_on("run", &file, &[]).expect(3, &said);
    let verified = fisherflow_on("verify", &line, &[]);
    verified.expect(3, &remedy);
    assert!(verified.stdout.contains("manifest.json has SHA-256"), "{verified}");
    std::fs::write(&manifest, written).unwrap();
    fisherflow_on("verify", &line, &[]).expect_done();

    let lost = "posterior/blocks.parquet";
    std::fs::remove_file(release.join(lost)).unwrap();
    fisherflow_on("run", &file, &[]).expect(3, &[&[lost, "is missing"], &remedy[..]].concat());
    fisherflow_on("verify", &line, &[]).expect(3, &remedy);
    fisherflow_on("run", &file, &["--overwrite"]).expect_done();
    assert!(!release.join(lost).exists());
    assert_eq!(digests(&line.join("releases/2")), expected);
    assert_eq!(nights.commit(2)["run_id"], nights.commit(1)["run_id"]);
    fisherflow_on("verify", &line, &[]).expect_done();
    let again = fisherflow_on("run", &file, &[]);
    again.expect_done();
    assert!(again.stdout.contains("nothing to do"), "{again}");

    // A commit that cannot be read hides no other, and nothing is removed that it may name.
    let commit = line.join("commits/1.json");
    std::fs::write(&commit, "{").unwrap();
    let listed = fisherflow_on("releases", &line, &[]);
    listed.expect_done();
    assert!(listed.stderr.contains("commits/1.json"), "{listed}");
    assert!(
        listed.stdout.lines().any(|line| line.trim_start().starts_with("2 ")),
        "{listed}"
    );
    std::thread::sleep(std::time::Duration::from_secs(2));
    let before = everything_in(&line);
    let said = ["commits/1.json", "damaged", "nothing is", "copy"];
    fisherflow_on("gc", &line, &["--grace", "0"]).expect(3, &said);
    assert_eq!(everything_in(&line), before);
}

#[test]
fn a_report_changes_no_release() {
    let (nights, _, line) = released();
    let page = line.join("releases/1/report.html");
    let drawn = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, "as it was released").unwrap();
    let told = fisherflow_on("report", &line, &[]);
    told.expect_done();
    assert!(told.stdout.contains("as it was released"), "{told}");
    assert_eq!(std::fs::read_to_string(&page).unwrap(), "as it was released");
    let out = nights.path("page.html");
    fisherflow_on("report", &line, &["--out", out.to_str().unwrap()]).expect_done();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), drawn);
    fisherflow_on("report", &line, &["--out", out.to_str().unwrap()]).expect(2, &["is there already", "--overwrite"]);
    std::fs::remove_file(&page).unwrap();
    fisherflow_on("report", &line, &[]).expect_done();
    assert_eq!(std::fs::read_to_string(&page).unwrap(), drawn);
}

#[test]
fn of_two_equal_starts_the_later_finds_the_release_there() {
    for point in ["cleared", "committed"] {
        let nights = Nights::new();
        let file = nights.of_line(&nights.run_file("line"));
        let mut later = stopped_at("opened", &file);
        let mut first = stopped_at(point, &file);
        if point == "cleared" {
            first.signal(0, "CONT");
            first.wait(0).expect_done();
        }
        later.signal(0, "CONT");
        let later = later.wait(0);
        later.expect_done();
        assert!(later.stdout.contains("nothing to do"), "{later}");
        if point == "committed" {
            first.signal(0, "CONT");
            first.wait(0).expect_done();
        }
        fisherflow_on("verify", &nights.path("line"), &[]).expect_done();
        assert_eq!(
            nights.commit(1)["changes"]["groups"],
            nights.commit(1)["changes"]["computed"]
        );
    }
    // Damaged since, it is told as what it is: a release.
    let nights = Nights::new();
    let file = nights.of_line(&nights.run_file("line"));
    let mut later = stopped_at("opened", &file);
    fisherflow_on("run", &file, &[]).expect_done();
    std::fs::remove_file(nights.path("line/releases/1/posterior/blocks.parquet")).unwrap();
    later.signal(0, "CONT");
    later
        .wait(0)
        .expect(3, &["is missing", "releases never change", "makes release 2"]);
}

/// A scheduler that starts it again needs nobody: the next try plans with what is there by then.
#[test]
fn a_night_under_which_an_object_is_replaced_is_to_be_run_again() {
    let nights = Nights::new();
    let file = nights.of_line(&nights.run_file("line"));
    let mut night = stopped_at("opened", &file);
    nights.write(88, OBJECTS + 10);
    night.signal(0, "CONT");
    night.wait(0).expect(75, &["night-0088.parquet was replaced"]);
    fisherflow_on("run", &file, &[]).expect_done();
    fisherflow_on("verify", &nights.path("line"), &[]).expect_done();
    // In no line the output is begun with the old version.
    let alone = nights.run_file("alone").write(nights.home.path(), "alone");
    let mut run = stopped_at("opened", &alone);
    nights.write(88, OBJECTS + 11);
    run.signal(0, "CONT");
    run.wait(0)
        .expect(3, &["night-0088.parquet was replaced", "--overwrite"]);
}

#[test]
fn a_list_of_another_columns_ids_leaves_its_spectra_out() {
    let (nights, mut run_file, line) = released();
    let list = nights.path("visits.parquet");
    let visits: Vec<i64> = (0..12).collect();
    let column: ArrayRef = std::sync::Arc::new(Int64Array::from(visits));
    let batch = RecordBatch::try_from_iter([("visit", column)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    std::fs::write(&list, writer.into_inner().unwrap()).unwrap();
    run_file.of_catalogue = format!("exclude = \"{}\"", toml_path(&list));
    let file = nights.of_line(&run_file);
    let toml = std::fs::read_to_string(&file).unwrap();
    let toml = toml
        .replace("id = \"id\"", "id = \"visit\"")
        .replace("[\"visit\"]", "[\"id\"]");
    std::fs::write(&file, toml).unwrap();
    let second = fisherflow_on("run", &file, &["-v", "--log", "json"]);
    second.expect_done();
    assert!(!second.stderr.contains("are in no spectrum"), "{second}");
    assert_eq!(counts(&line.join("releases/2"))["fit_excluded"], 12);
    let of_second = nights.commit(2);
    let excluded = of_second["groups"].as_array().unwrap().iter();
    let excluded = excluded.filter_map(|group| group["excluded"].as_array()).map(Vec::len);
    assert_eq!(excluded.sum::<usize>(), 12);
    assert_eq!(of_second["changes"]["excluded"], 12);
}

/// Which sums may be taken again hangs on them: they are known by their hash, and the catalogue has them all.
#[test]
fn kept_identifiers_that_are_damaged_are_read_from_the_catalogue_again() {
    let (nights, mut run_file, line) = released();
    let list = nights.path("list.parquet");
    run_file.of_catalogue = format!("exclude = \"{}\"", toml_path(&list));
    let file = nights.of_line(&run_file);
    let mut ids = vec![id(0, 0)];
    write_ids(&list, &ids);
    fisherflow_on("run", &file, &[]).expect_done();
    assert_eq!(counts(&line.join("releases/2"))["fit_excluded"], 1);
    let folder = line.join("groups/ids");
    let kept: Vec<PathBuf> = everything_in(&folder).iter().map(|name| folder.join(name)).collect();
    let before = kept.iter().map(|file| sha256_of(file)).collect::<Vec<_>>();
    assert!(kept.len() > 10, "{kept:?}");
    for (at, file) in kept.iter().enumerate() {
        match at % 3 {
            // Parquet of other identifiers.
            0 => write_ids(file, &[id(0, 0), id(1, 0)]),
            1 => std::fs::write(file, &std::fs::read(file).unwrap()[..100]).unwrap(),
            _ => std::fs::write(file, []).unwrap(),
        }
    }
    ids.extend((0..OBJECTS).map(|place| id(place, 1)));
    write_ids(&list, &ids);
    let third = fisherflow_on("run", &file, &["--log", "json"]);
    third.expect_done();
    assert!(third.stderr.contains("are not what was written"), "{third}");
    assert_eq!(counts(&line.join("releases/3"))["fit_excluded"], 1 + OBJECTS);
    let after = kept.iter().map(|file| sha256_of(file)).collect::<Vec<_>>();
    assert_eq!(after, before, "they are kept anew");
}

#[test]
fn what_an_unfinished_first_run_pinned_is_not_the_next_runs_basis() {
    let nights = Nights::new();
    let right = nights.run_file("line");
    let file = nights.of_line(&right);
    let toml = std::fs::read_to_string(&file).unwrap();
    let wrong = nights.path("wrong.toml");
    std::fs::write(
        &wrong,
        toml.replace("holdout_fraction = 0.25", "holdout_fraction = 0.4"),
    )
    .unwrap();
    let killed = fisherflow_on("run", &wrong, &["--fail-at", "group-done:2"]);
    assert_eq!(killed.code, None, "{killed}");
    let basis = nights.path("line/basis.json");
    let pinned = std::fs::read(&basis).unwrap();
    fisherflow_on("run", &file, &[]).expect_done();
    assert_ne!(std::fs::read(&basis).unwrap(), pinned);
    assert_eq!(nights.commit(1)["basis_sha256"], sha256_of(&basis));
    let mut alone = right.clone();
    alone.output = toml_path(&nights.path("alone"));
    fisherflow_on("run", &alone.write(nights.home.path(), "alone"), &[]).expect_done();
    let release = nights.path("line/releases/1");
    assert_eq!(digests(&release), digests(&nights.path("alone")), "bit for bit");
    fisherflow_on("verify", &nights.path("line"), &[]).expect_done();
}

fn copy(from: &Path, to: &Path) {
    for file in everything_in(from) {
        let copy = to.join(&file);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(from.join(&file), copy).unwrap();
    }
}

fn sha256_of(file: &Path) -> String {
    sha256(&std::fs::read(file).unwrap())
}
