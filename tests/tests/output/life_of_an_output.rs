//! When an output begins to count and when it goes: read back before its manifest, overwritten once nothing is in the way any more, gone on with
//! where that was cut short, and never used where it is not as its manifest says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fisherflow_tests::{
    Ended, Place, Processes, RunFile, Table, digests, everything_in, fisherflow, fisherflow_on, has_manifest, manifest,
    run, simulated, stopped_at, write_objects,
};

/// A small network and two objects.
fn place() -> Place {
    Place::new(&[24, 6, 3], 120)
}

/// Changes a bit of a file, as a failing disk may.
fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

fn is_marked(output: &Path) -> bool {
    output.join("_SUCCESS").exists()
}

#[test]
fn what_the_store_did_not_keep_is_not_committed() {
    let place = place();
    let expected = place.undisturbed();
    for (at, path) in [
        "predictions/part-00000.parquet",
        "jacobians/part-00001.parquet",
        "posterior/hessian/block-000.parquet",
        "posterior/inverse/block-001.parquet",
        "posterior/blocks.parquet",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("out-{at}");
        let (file, output) = (place.run_file(&name), place.path(&name));
        let mut stopped = stopped_at("before-manifest", &file);
        damage(&output.join(path));
        stopped.signal(0, "CONT");
        let said = [path, "has SHA-256", "did not keep what was written", "run again"];
        stopped.wait(0).expect(1, &said);
        assert!(!has_manifest(&output) && !is_marked(&output), "{path}");
        let again = fisherflow_on("run", &file, &[]);
        again.expect_done();
        assert!(again.stdout.contains("(complete, verified)"), "{again}");
        assert_eq!(digests(&output), expected, "{path}");
    }
}

/// A commit of which a file is lost can never count: the run follows it, and makes the file anew.
#[test]
fn what_is_lost_between_the_commit_and_the_manifest_is_made_anew() {
    let place = place();
    let expected = place.undisturbed();
    let (as_before, overwriting): (&[&str], &[&str]) = (&[], &["--overwrite"]);
    for (at, (path, more)) in [
        ("predictions/part-00000.parquet", as_before),
        ("jacobians/part-00001.parquet", as_before),
        ("posterior/inverse/block-001.parquet", as_before),
        ("posterior/inverse/block-001.parquet", overwriting),
        ("posterior/blocks.parquet", as_before),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("out-{at}");
        let (file, output) = (place.run_file(&name), place.path(&name));
        let killed = fisherflow_on("run", &file, &[more, &["--fail-at", "sealed"]].concat());
        assert_eq!(killed.code, None, "{killed}");
        assert!(!has_manifest(&output));
        if more.is_empty() {
            std::fs::remove_file(output.join(path)).unwrap();
        } else {
            std::fs::write(output.join(path), "PAR1").unwrap();
        }
        let mut again = fisherflow_on("run", &file, more);
        assert!(again.stderr.contains(path), "{again}");
        if again.code != Some(0) {
            // Found where it is read.
            again.expect(1, &[path, "run again"]);
            again = fisherflow_on("run", &file, more);
        }
        again.expect_done();
        assert_eq!(digests(&output), expected, "{path}");
        run(fisherflow().arg("verify").arg(&output)).expect_done();
        let left = everything_in(&output);
        let is_left = |file: &String| file.starts_with("stages/") || file.starts_with("claims/");
        assert!(!left.iter().any(is_left), "{path}: {left:?}");
    }
}

#[test]
fn so_it_is_where_who_followed_the_commit_died_too() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    let lost = "posterior/inverse/block-001.parquet";
    for at in ["sealed", "claimed"] {
        let killed = fisherflow_on("run", &file, &["--fail-at", at]);
        assert_eq!(killed.code, None, "{killed}");
        if at == "sealed" {
            std::fs::remove_file(output.join(lost)).unwrap();
        }
    }
    fisherflow_on("run", &file, &[]).expect(1, &[lost, "is missing", "run again"]);
    fisherflow_on("run", &file, &[]).expect_done();
    assert_eq!(digests(&output), place.undisturbed());
}

/// Makes the last number of a file of matrices three times as large, and the file as easily read as before.
fn triple_last(file: &Path) {
    let table = Table::read(file);
    let value = table.list("values", table.len() - 1).pop().unwrap();
    assert_ne!(value, 0.0);
    let mut bytes = std::fs::read(file).unwrap();
    let mut windows = bytes.windows(8);
    let at = windows.rposition(|window| window == value.to_le_bytes());
    let at = at.expect("values are stored plain");
    bytes[at..at + 8].copy_from_slice(&(3.0 * value).to_le_bytes());
    std::fs::write(file, bytes).unwrap();
}

/// What is made of a damaged file is as wrong as the file: damage is found where the file is read, and takes with it what came after.
#[test]
fn damage_between_stages_is_found_and_nothing_that_was_made_of_it_stays() {
    let place = place();
    for structure in ["kfac", "ekfac", "dual"] {
        let named = |name: &str| {
            let mut run_file = RunFile::new(place.folder(), name);
            run_file.curvature = format!("structure = \"{structure}\"");
            (run_file.write(place.folder(), name), place.path(name))
        };
        let (file, output) = named(&format!("{structure}-undisturbed"));
        fisherflow_on("run", &file, &[]).expect_done();
        let expected = digests(&output);
        // The first sums of an `ekfac` run leave a document too.
        let fit = if structure == "ekfac" { 2 } else { 1 };
        let rows = |group: usize| format!("posterior/inverse/block-000-rows-{group:05}-000.parquet");
        let of = |set: &str, block: usize| vec![format!("{set}/block-{block:03}.parquet")];
        let mut cases = match structure {
            // All that is damaged is found at once.
            "dual" => vec![(fit, vec![rows(0), rows(1)]), (fit + 2, vec![rows(0)])],
            _ => vec![
                (fit, of("posterior/hessian", 1)),
                (fit + 1, of("posterior/inverse", 0)),
                (fit + 2, of("posterior/hessian", 0)),
                (fit + 2, of("posterior/inverse", 1)),
            ],
        };
        if structure == "ekfac" {
            cases.push((1, of("stages/bases", 1)));
        }
        for (at, (left, paths)) in cases.into_iter().enumerate() {
            let (file, output) = named(&format!("{structure}-{at}"));
            let mut stopped = stopped_at(&format!("stage-left:{left}"), &file);
            for path in &paths {
                triple_last(&output.join(path));
            }
            stopped.signal(0, "CONT");
            stopped
                .wait(0)
                .expect(1, &[&paths[0], "has SHA-256", "was written with", "run again"]);
            assert!(!has_manifest(&output), "{structure} {paths:?}");
            fisherflow_on("run", &file, &[]).expect_done();
            assert_eq!(digests(&output), expected, "{structure} {paths:?}");
        }
    }
}

/// A store that does not let go of it is no reason to say less of it.
#[test]
fn damage_is_told_with_its_remedy_where_it_cannot_be_taken_back() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    let path = "posterior/hessian/block-001.parquet";
    let mut stopped = stopped_at("stage-left", &file);
    triple_last(&output.join(path));
    // No object: it cannot be deleted as one.
    let in_the_way = output.join("stages/sums.json");
    std::fs::create_dir(&in_the_way).unwrap();
    stopped.signal(0, "CONT");
    let ended = stopped.wait(0);
    ended.expect(1, &[path, "has SHA-256", "`fisherflow fit`"]);
    assert!(ended.stderr.contains("sums.json"), "{ended}");
    std::fs::remove_dir(&in_the_way).unwrap();
    fisherflow_on("run", &file, &[]).expect_done();
    assert_eq!(digests(&output), place.undisturbed());
}

/// A stage that is asked for again takes what was made of what it left before with it.
#[test]
fn nothing_is_kept_that_was_made_of_what_a_stage_left_before() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    let left = || -> Vec<String> {
        let documents = ["stages/fit.json", "stages/invert.json", "stages/certificate.json"];
        let folders = ["subset", "certify", "predict"].map(|pass| format!("stages/groups/{pass}/"));
        let is_left =
            |path: &String| documents.contains(&path.as_str()) || folders.iter().any(|folder| path.starts_with(folder));
        everything_in(&output).into_iter().filter(is_left).collect()
    };
    let stage = |stage: &str| run(fisherflow().arg(stage).arg(&file)).expect_done();
    for again in ["invert", "fit"] {
        // Predicted, and not committed.
        fisherflow_on("run", &file, &["--fail-at", "before-manifest"]);
        let before = left();
        assert!(before.len() > 3, "{before:?}");
        stage(again);
        let kept: &[&str] = match again {
            "fit" => &["stages/fit.json"],
            _ => &["stages/certificate.json", "stages/fit.json", "stages/invert.json"],
        };
        let mut found = left();
        // The names of numbers are those of one attempt.
        let is_kept = |path: &String| path.ends_with(".sums") && before.contains(path);
        assert!(!found.iter().any(is_kept), "{again}: {found:?}");
        if again == "invert" {
            // Its certificate is made anew.
            let of_certificate = ["stages/groups/subset/", "stages/groups/certify/"];
            found.retain(|path| !of_certificate.iter().any(|folder| path.starts_with(folder)));
        }
        found.sort();
        assert_eq!(found, kept, "{again}");
    }
    fisherflow_on("run", &file, &[]).expect_done();
    let alone = place.run_file("alone");
    fisherflow_on("run", &alone, &[]).expect_done();
    assert_eq!(digests(&output), digests(&place.path("alone")));
}

#[test]
fn a_stage_that_is_made_again_says_what_it_takes_back() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    for (stage, is_again) in [("fit", false), ("invert", false), ("invert", true), ("fit", true)] {
        let ended = fisherflow_on(stage, &file, &[]);
        ended.expect_done();
        let is_said = ended.stderr.contains("all that was made of it is taken back");
        assert_eq!(is_said, is_again, "{stage}: {ended}");
    }
    assert!(!output.join("stages/invert.json").exists());
}

/// An inverse that is there is not made again because its certificate is not; nor is what is finished of that.
#[test]
fn a_stage_that_was_interrupted_in_its_certificate_goes_on() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    fisherflow_on("fit", &file, &[]).expect_done();
    // Of `invert` the certificate alone has groups.
    let killed = fisherflow_on("invert", &file, &["--fail-at", "group-done"]);
    assert_eq!(killed.code, None, "{killed}");
    let ended = fisherflow_on("invert", &file, &[]);
    ended.expect_done();
    assert!(
        !ended.stderr.contains("all that was made of it is taken back"),
        "{ended}"
    );
    let resumes = ended.stderr.contains("groups_resumed=") && !ended.stderr.contains("groups_resumed=0 ");
    assert!(resumes && !ended.stderr.contains("pass=\"subset\""), "{ended}");
    assert!(output.join("stages/certificate.json").exists());
    fisherflow_on("predict", &file, &[]).expect_done();
    assert_eq!(digests(&output), place.undisturbed());
}

/// When each file of the posterior was written.
fn written(output: &Path) -> BTreeMap<String, std::time::SystemTime> {
    let of_posterior = everything_in(output)
        .into_iter()
        .filter(|path| path.starts_with("posterior/hessian"));
    of_posterior
        .map(|path| {
            let written = std::fs::metadata(output.join(&path)).unwrap().modified().unwrap();
            (path, written)
        })
        .collect()
}

#[test]
fn an_overwriting_run_that_was_killed_goes_on_with_what_it_has_done() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    fisherflow_on("run", &place.other_run_file("out"), &[]).expect_done();
    let others = digests(&output);
    // Its first stage is done.
    let killed = fisherflow_on("run", &file, &["--overwrite", "--fail-at", "stage-left"]);
    assert_eq!(killed.code, None, "{killed}");
    assert!(!has_manifest(&output) && !is_marked(&output));
    let fitted = written(&output);
    assert!(!fitted.is_empty());
    fisherflow_on("run", &file, &["--overwrite"]).expect_done();
    assert_eq!(written(&output), fitted);
    let expected = digests(&output);
    assert_ne!(expected, others);

    // What is finished is begun anew, and gone on with after that too.
    let killed = fisherflow_on("run", &file, &["--overwrite", "--fail-at", "begun"]);
    assert_eq!(killed.code, None, "{killed}");
    assert!(!has_manifest(&output) && written(&output).is_empty());
    fisherflow_on("run", &file, &[]).expect_done();
    assert_ne!(written(&output), fitted);
    assert_eq!(digests(&output), expected);
}

#[test]
fn a_stage_that_would_find_nothing_overwrites_nothing() {
    let place = place();
    let file = place.run_file("out");
    fisherflow_on("run", &file, &[]).expect(0, &[]);
    let before = digests(&place.path("out"));
    for stage in ["invert", "predict"] {
        let ended = run(fisherflow().arg(stage).arg(&file).arg("--overwrite"));
        ended.expect(2, &["finished output", "fisherflow run --overwrite"]);
        assert_eq!(digests(&place.path("out")), before, "{stage}");
        assert!(is_marked(&place.path("out")));
    }
    let again = fisherflow_on("run", &file, &[]);
    assert!(again.stdout.contains("nothing to do"), "{again}");
    fisherflow_on("run", &file, &["--overwrite"]).expect(0, &[]);
    assert_eq!(digests(&place.path("out")), before);
}

#[test]
fn a_cluster_that_never_forms_overwrites_nothing() {
    let place = place();
    let (file, other, output) = (place.run_file("out"), place.other_run_file("out"), place.path("out"));
    fisherflow_on("run", &file, &[]).expect_done();
    let (before, committed) = (digests(&output), manifest(&output));
    for overwriting in [&other, &file] {
        let mut processes = Processes::new(2);
        processes.spawn(0, overwriting, 1, &["--overwrite", "--deadline", "1"]);
        processes.wait(0).expect(75, &["deadline of 1 s passed"]);
        assert!(is_marked(&output));
        assert_eq!(
            (digests(&output), manifest(&output)),
            (before.clone(), committed.clone())
        );
        run(fisherflow().arg("verify").arg(&output)).expect_done();
        // It is whose it was.
        fisherflow_on("run", &other, &[]).expect(2, &["already holds the finished run", "another"]);
        let again = fisherflow_on("run", &file, &[]);
        again.expect_done();
        assert!(again.stdout.contains("nothing to do"), "{again}");
    }
    fisherflow_on("run", &other, &["--overwrite"]).expect_done();
    assert_ne!(digests(&output), before);
    let left = everything_in(&output);
    assert!(
        !left
            .iter()
            .any(|path| path.starts_with("stages/") || path.starts_with("claims/")),
        "{left:?}"
    );
    let again = fisherflow_on("run", &other, &[]);
    assert!(again.stdout.contains("nothing to do"), "{again}");
}

#[test]
fn nothing_is_made_of_damaged_files() {
    let place = place();
    fisherflow_on("run", &place.run_file("out"), &[]).expect_done();
    let output = place.path("out");
    let inverse = || {
        run(fisherflow()
            .arg("inverse")
            .arg(&output)
            .args(["--layer", "layers.0", "--diagonal"]))
    };
    let export = |to: &str| {
        let out = place.path("exported.safetensors");
        run(fisherflow()
            .arg("export")
            .arg(&output)
            .args(["--to", to, "--overwrite", "--out"])
            .arg(out))
    };
    let report = || run(fisherflow().arg("report").arg(&output));
    let damaged = |path: &str, ask: &dyn Fn() -> Ended| {
        ask().expect_done();
        let file = output.join(path);
        let whole = std::fs::read(&file).unwrap();
        damage(&file);
        ask().expect(3, &[path, "has SHA-256", "fisherflow verify", "--overwrite"]);
        std::fs::remove_file(&file).unwrap();
        ask().expect(3, &[path, "is missing"]);
        std::fs::write(&file, whole).unwrap();
    };
    damaged("posterior/inverse/block-000.parquet", &inverse);
    damaged("posterior/inverse/block-001.parquet", &|| export("scipy"));
    damaged("posterior/hessian/block-001.parquet", &|| export("curvlinops"));
    damaged("predictions/part-00001.parquet", &report);
    damaged("jacobians/part-00000.parquet", &report);
    // The others' damage is nobody's concern here.
    damage(&output.join("posterior/inverse/block-001.parquet"));
    inverse().expect_done();
}

#[test]
fn a_damaged_output_is_not_called_complete() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    fisherflow_on("run", &file, &[]).expect_done();
    let whole = digests(&output);
    let lost = "posterior/inverse/block-001.parquet";
    for damage in [
        |file: &Path| std::fs::remove_file(file).unwrap(),
        |file: &Path| std::fs::write(file, "PAR1").unwrap(),
    ] {
        damage(&output.join(lost));
        fisherflow_on("run", &file, &[]).expect(3, &[lost, "1 of", "--overwrite"]);
        fisherflow_on("run", &file, &["--overwrite"]).expect_done();
        assert_eq!(digests(&output), whole);
    }
    let again = fisherflow_on("run", &file, &[]);
    again.expect_done();
    assert!(again.stdout.contains("nothing to do"), "{again}");
    // Nor is one whose last step is still to come.
    for gone in ["_SUCCESS", lost] {
        std::fs::remove_file(output.join(gone)).unwrap();
    }
    fisherflow_on("run", &file, &[]).expect(3, &[lost, "1 of", "--overwrite"]);
}

#[test]
fn an_output_that_takes_no_page_is_told_of_all_the_same() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    fisherflow_on("run", &file, &[]).expect_done();
    let page = output.join("report.html");
    let drawn = std::fs::read(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    std::fs::create_dir(&page).unwrap();
    std::fs::write(page.join("in-the-way"), "").unwrap();
    let told = run(fisherflow().arg("report").arg(&output));
    told.expect(1, &["report.html", "cannot be written", "--out"]);
    assert!(told.stdout.contains("predictions/"), "{told}");
    let out = place.path("page.html");
    run(fisherflow().arg("report").arg(&output).arg("--out").arg(&out)).expect_done();
    assert_eq!(std::fs::read(&out).unwrap(), drawn);
}

#[test]
fn an_output_is_not_named_as_a_release() {
    let place = place();
    let file = place.run_file("at@3");
    for command in ["plan", "run"] {
        run(fisherflow().arg(command).arg(&file)).expect(2, &["at@3", "release 3 of the line"]);
    }
    assert!(!place.path("at@3").exists());
}

#[test]
fn a_line_is_not_begun_in_an_output_of_its_own() {
    let place = place();
    let (file, output) = (place.run_file("out"), place.path("out"));
    let line = place.path("line.toml");
    let toml = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&line, format!("{toml}releases = true\n")).unwrap();
    fisherflow_on("run", &file, &["--fail-at", "stage-left"]);
    let said = ["is no line of releases", "output.releases"];
    fisherflow_on("run", &line, &[]).expect(2, &said);
    fisherflow_on("run", &file, &[]).expect_done();
    let before = everything_in(&output);
    for more in [&[][..], &["--overwrite"]] {
        fisherflow_on("run", &line, more).expect(2, &said);
    }
    run(fisherflow().arg("plan").arg(&line)).expect(2, &said);
    assert_eq!(everything_in(&output), before);
}

/// As `cp -p` and `rsync -a` write one: no time says which it is.
#[test]
fn of_a_copy_that_kept_its_time_is_told_what_to_look_for() {
    let place = place();
    let file = place.run_file("out");
    fisherflow_on("run", &file, &["--fail-at", "stage-left"]);
    let (object, copy) = (place.path("catalogue/part-00001.parquet"), place.path("copy"));
    let written = std::fs::metadata(&object).unwrap().modified().unwrap();
    std::fs::copy(&object, &copy).unwrap();
    let writing = std::fs::File::options().write(true).open(&copy).unwrap();
    writing.set_modified(written).unwrap();
    std::fs::rename(&copy, &object).unwrap();
    let said = ["left unfinished", "as many rows and bytes as then", "cp -p, rsync -a"];
    fisherflow_on("run", &file, &[]).expect(2, &said);
}

/// Why the same run file is another run.
#[test]
fn what_makes_it_another_run_is_told() {
    let place = place();
    let file = place.run_file("out");
    let [kept, touched] = [0, 1].map(|part| place.path(&format!("catalogue/part-{part:05}.parquet")));
    let touch = |after: u64| {
        let later = std::time::SystemTime::now() + Duration::from_secs(after);
        std::fs::File::options()
            .write(true)
            .open(&touched)
            .unwrap()
            .set_modified(later)
            .unwrap();
    };
    let name = touched.to_str().unwrap();
    let said = [name, "as many rows and bytes as then", "touched since"];

    // One that was left unfinished.
    fisherflow_on("run", &file, &["--fail-at", "stage-left"]);
    touch(3600);
    let unfinished = fisherflow_on("run", &file, &[]);
    unfinished.expect(2, &["left unfinished", "--overwrite", said[0], said[1], said[2]]);
    assert!(!unfinished.stderr.contains(kept.to_str().unwrap()), "{unfinished}");
    // One that is finished.
    fisherflow_on("run", &file, &["--overwrite"]).expect_done();
    touch(7200);
    fisherflow_on("run", &file, &[]).expect(2, &["already holds the finished run", said[0], said[1], said[2]]);
    let inputs = manifest(&place.path("out"))["inputs"].clone();
    let hashes = |input: usize| {
        let of = |key: &str| inputs[input][key].as_str().map(str::len);
        (of("sha256"), of("etags_sha256"))
    };
    assert_eq!((hashes(0), hashes(1)), ((Some(64), None), (None, Some(64))), "{inputs}");
    // A setting.
    std::fs::remove_dir_all(place.path("out")).unwrap();
    fisherflow_on("run", &file, &[]).expect_done();
    let other = fisherflow_on("run", &place.other_run_file("out"), &[]);
    other.expect(
        2,
        &[
            "already holds the finished run",
            "catalogues are as they were",
            "a setting of the run file",
        ],
    );
    // An object of fewer spectra.
    write_objects(&place.path("fewer"), &simulated(24, 60, 50), 60);
    std::fs::copy(place.path("fewer/part-00000.parquet"), &touched).unwrap();
    touch(10_800);
    let since = format!("{name} was written since");
    let said = ["120 rows in 2 objects", "110 rows in 2 objects", &since];
    fisherflow_on("run", &file, &[]).expect(2, &said);
    // More spectra.
    write_objects(&place.path("catalogue"), &simulated(24, 0, 240), 60);
    fisherflow_on("run", &file, &[]).expect(2, &["120 rows in 2 objects", "240 rows in 4 objects"]);
}
