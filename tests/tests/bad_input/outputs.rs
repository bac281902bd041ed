//! Outputs that cannot be written, are another run's, or are complete.

use std::fs;
use std::path::Path;

use fisherflow_tests::{Ended, Processes, RunFile, digests, everything_in, fisherflow, has_manifest, run, toml_path};

use crate::{carry_out, prepared, refused};

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let folder = prepared();
    fs::write(folder.path().join("file"), "not a folder").unwrap();
    let run_file = RunFile::new(folder.path(), "file/out");
    refused(
        folder.path(),
        &run_file,
        1,
        &["file/out", "cannot be written", "choose an output"],
    );
    run(fisherflow().arg("plan").arg(run_file.write(folder.path(), "run")))
        .expect(1, &["file/out", "cannot be written"]);
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"not a folder");
}

#[test]
fn a_complete_output_is_left_alone_another_run_is_refused_and_overwrite_replaces_it() {
    let folder = prepared();
    let mut run_file = RunFile::new(folder.path(), "out");
    carry_out(folder.path(), &run_file).expect_done();
    let out = folder.path().join("out");
    let before = digests(&out);
    let written = fs::metadata(out.join("manifest.json")).unwrap().modified().unwrap();
    let again = carry_out(folder.path(), &run_file);
    again.expect_done();
    assert!(again.stdout.contains("nothing to do"), "{again}");
    assert_eq!(
        fs::metadata(out.join("manifest.json")).unwrap().modified().unwrap(),
        written
    );

    run_file.compute = "batch = 32\ngroup = 50".to_owned();
    let other = carry_out(folder.path(), &run_file);
    other.expect(
        2,
        &[
            "already holds the finished run",
            "choose another output, or overwrite it",
        ],
    );
    assert_eq!(digests(&out), before, "nothing was touched");

    let file = run_file.write(folder.path(), "run");
    run(fisherflow().arg("run").arg(&file).arg("--overwrite")).expect_done();
    assert_ne!(digests(&out), before);
    run(fisherflow().arg("verify").arg(&out)).expect_done();
}

#[test]
fn a_file_is_no_output_and_the_run_says_to_name_a_folder() {
    let folder = prepared();
    fs::write(folder.path().join("out"), "not a folder").unwrap();
    let run_file = RunFile::new(folder.path(), "out");
    refused(folder.path(), &run_file, 2, &["out is a file", "name a folder"]);
}

/// Who cannot understand the manifest says what to do, and that does it.
#[test]
fn a_damaged_manifest_is_made_anew_by_overwrite() {
    let folder = prepared();
    let run_file = RunFile::new(folder.path(), "out");
    let manifest = folder.path().join("out/manifest.json");
    carry_out(folder.path(), &run_file).expect_done();
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    let again = carry_out(folder.path(), &run_file);
    assert_eq!(again.code, Some(3), "{again}");
    for said in ["manifest.json cannot be understood", "from a copy", "--overwrite"] {
        assert!(again.stderr.contains(said), "{said}: {again}");
    }
    let file = run_file.write(folder.path(), "run");
    run(fisherflow().arg("run").arg(&file).arg("--overwrite")).expect_done();
    run(fisherflow().arg("verify").arg(folder.path().join("out"))).expect_done();
}

/// What is no output is not told to be run again, and what lies in one without being of it is told to go.
#[test]
fn a_folder_of_something_else_is_no_output_and_a_strange_table_in_one_is_to_go() {
    let folder = prepared();
    let folder = folder.path();
    for command in ["verify", "report"] {
        for place in ["catalogue", "nothing"] {
            let ended = run(fisherflow().arg(command).arg(folder.join(place)));
            ended.expect(3, &[place, "is no output of fisherflow"]);
            assert!(
                !ended.stderr.contains("finish") && !ended.stderr.contains("overwrite"),
                "{ended}"
            );
        }
    }
    let run_file = RunFile::new(folder, "out");
    run(fisherflow().arg("fit").arg(run_file.write(folder, "run"))).expect_done();
    for command in ["verify", "report"] {
        let ended = run(fisherflow().arg(command).arg(folder.join("out")));
        ended.expect(3, &["no run was finished there", "finish its run"]);
    }
    carry_out(folder, &run_file).expect_done();
    let stranger = folder.join("out/predictions/mine.parquet");
    fs::copy(folder.join("catalogue/part-00000.parquet"), &stranger).unwrap();
    let ended = run(fisherflow().arg("verify").arg(folder.join("out")));
    ended.expect(3, &["holds tables that no run wrote there", "remove them"]);
    assert!(ended.stdout.contains("mine.parquet is not listed"), "{ended}");
    assert!(!ended.stderr.contains("overwrite"), "{ended}");
    fs::write(folder.join("out/posterior/blocks.parquet"), "").unwrap();
    let ended = run(fisherflow().arg("verify").arg(folder.join("out")));
    ended.expect(3, &["is not as its manifest says", "--overwrite"]);
}

/// What it is at work on is not touched; a claim under which nothing was begun is nobody's.
#[test]
fn an_output_that_another_run_holds_is_refused() {
    let folder = prepared();
    let claim = r#"{"run_id": "0123456789abcdef", "host": "elsewhere", "pid": 77, "started": "2026-01-01T00:00:00Z"}"#;
    let claimed = |name: &str| {
        let out = folder.path().join(name);
        fs::create_dir(&out).unwrap();
        fs::write(out.join("claim.json"), claim).unwrap();
        out
    };
    let begun = claimed("begun");
    fs::create_dir(begun.join("stages")).unwrap();
    fs::write(begun.join("stages/inputs.json"), "{}").unwrap();
    let said = [
        "is held by run 0123456789abcdef (process 77 on elsewhere",
        "choose another output",
    ];
    refused(folder.path(), &RunFile::new(folder.path(), "begun"), 1, &said);
    assert_eq!(fs::read_to_string(begun.join("claim.json")).unwrap(), claim);
    assert_eq!(fs::read_to_string(begun.join("stages/inputs.json")).unwrap(), "{}");

    let out = claimed("claimed");
    carry_out(folder.path(), &RunFile::new(folder.path(), "claimed")).expect_done();
    run(fisherflow().arg("verify").arg(&out)).expect_done();
    assert_ne!(fs::read_to_string(out.join("claim.json")).unwrap(), claim);
}

#[test]
fn what_is_not_ours_is_neither_written_to_nor_deleted() {
    let folder = prepared();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "mine").unwrap();
    let run_file = RunFile::new(folder.path(), "out");
    refused(
        folder.path(),
        &run_file,
        2,
        &["not an output of fisherflow", "thesis.tex"],
    );
    let file = run_file.write(folder.path(), "run");
    for asked in [&["run", "--overwrite"][..], &["plan"]] {
        let forced = run(fisherflow().args(asked).arg(&file));
        forced.expect(2, &["not an output of fisherflow", "thesis.tex"]);
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

/// Nor is what came into an output, finished or not, that is to make room for another run: the network of that run, as well.
#[test]
fn what_no_run_wrote_into_an_output_is_not_deleted() {
    let folder = prepared();
    let out = folder.path().join("out");
    let file = RunFile::new(folder.path(), "out").write(folder.path(), "run");
    let mut other = RunFile::new(folder.path(), "out");
    other.compute = "batch = 32\ngroup = 50".to_owned();
    let elsewhere = other.write(folder.path(), "elsewhere");
    other.network = toml_path(&out.join("network.safetensors"));
    let inside = other.write(folder.path(), "inside");
    let overwriting = |file: &Path| run(fisherflow().arg("run").arg(file).arg("--overwrite"));
    for stage in ["fit", "run"] {
        run(fisherflow().arg(stage).arg(&file)).expect_done();
        fs::write(out.join("thesis.tex"), "mine").unwrap();
        let mut before = everything_in(&out);
        overwriting(&elsewhere).expect(2, &["thesis.tex is not among the files", "nothing was deleted"]);
        assert_eq!(everything_in(&out), before, "{stage}");
        fs::remove_file(out.join("thesis.tex")).unwrap();

        fs::copy(
            folder.path().join("network.safetensors"),
            out.join("network.safetensors"),
        )
        .unwrap();
        before = everything_in(&out);
        overwriting(&inside).expect(
            2,
            &["network.safetensors is not among the files", "nothing was deleted"],
        );
        assert_eq!(everything_in(&out), before, "{stage}");
        fs::remove_file(out.join("network.safetensors")).unwrap();
    }
    run(fisherflow().arg("verify").arg(&out)).expect_done();
    overwriting(&elsewhere).expect_done();
}

/// What runs delete without a word is no place for what they read.
#[test]
fn an_input_among_the_files_of_the_output_is_refused() {
    let folder = prepared();
    let out = folder.path().join("out");
    let run_file = RunFile::new(folder.path(), "out");
    carry_out(folder.path(), &run_file).expect_done();
    let (network, spectra) = (
        out.join("posterior/network.safetensors"),
        out.join("predictions/mine.parquet"),
    );
    fs::copy(folder.path().join("network.safetensors"), &network).unwrap();
    fs::copy(folder.path().join("catalogue/part-00000.parquet"), &spectra).unwrap();
    let of_network = RunFile {
        network: toml_path(&network),
        ..run_file.clone()
    };
    let of_catalogue = RunFile {
        catalogue: toml_path(&spectra),
        ..run_file.clone()
    };
    let of_predict = RunFile {
        predict: Some(toml_path(&spectra)),
        ..run_file.clone()
    };
    let of_exclude = RunFile {
        of_catalogue: format!("exclude = \"{}\"", toml_path(&out.join("*/mine.parquet"))),
        ..run_file
    };
    let before = everything_in(&out);
    for (key, run_file) in [
        ("network.uri", of_network),
        ("catalogue.uri", of_catalogue),
        ("predict.uri", of_predict),
        ("catalogue.exclude", of_exclude),
    ] {
        let file = run_file.write(folder.path(), "reading");
        for asked in [&["run", "--overwrite"][..], &["plan"]] {
            let ended = run(fisherflow().args(asked).arg(&file));
            ended.expect(2, &[key, "lies among the files of the output", "move it elsewhere"]);
        }
    }
    assert_eq!(everything_in(&out), before);
}

/// Two runs on one output at the same time: one gets it, the other one refuses and changes nothing.
#[test]
fn of_two_runs_at_once_one_is_refused() {
    let folder = prepared();
    let mut run_file = RunFile::new(folder.path(), "out");
    let first = run_file.write(folder.path(), "first");
    run_file.compute = "batch = 32\ngroup = 50".to_owned();
    let second = run_file.write(folder.path(), "second");
    let mut runs: Vec<Processes> = [&first, &second]
        .into_iter()
        .map(|file| Processes::start(1, file, 1))
        .collect();
    let mut ended: Vec<Ended> = runs.iter_mut().map(|run| run.wait(0)).collect();
    ended.sort_by_key(|ended| ended.code);
    ended[0].expect_done();
    // Held by the other, or complete already.
    let code = if ended[1].stderr.contains("is held by run") {
        1
    } else {
        2
    };
    ended[1].expect(code, &["out", "choose another output"]);
    let out = folder.path().join("out");
    assert!(!digests(&out).is_empty());
    run(fisherflow().arg("verify").arg(&out)).expect_done();
}

#[test]
fn verify_finds_a_changed_and_a_missing_file() {
    let folder = prepared();
    carry_out(folder.path(), &RunFile::new(folder.path(), "out")).expect_done();
    let out = folder.path().join("out");
    run(fisherflow().arg("verify").arg(&out)).expect_done();
    let part = out.join("predictions/part-00000.parquet");
    let mut bytes = fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&part, bytes).unwrap();
    fs::remove_file(out.join("posterior/blocks.parquet")).unwrap();
    let found = run(fisherflow().arg("verify").arg(&out));
    found.expect(3, &["is not as its manifest says", "--overwrite"]);
    for file in ["predictions/part-00000.parquet", "posterior/blocks.parquet"] {
        assert!(found.stdout.contains(file), "{found}");
    }
    // What was never finished is no output.
    assert!(!has_manifest(folder.path()));
    run(fisherflow().arg("verify").arg(folder.path().join("catalogue"))).expect(3, &["is no output of fisherflow"]);
}

#[test]
fn what_a_stage_left_is_used_as_it_was_written_or_not_at_all() {
    let folder = prepared();
    let mut run_file = RunFile::new(folder.path(), "out");
    let file = run_file.write(folder.path(), "run");
    for stage in ["fit", "invert"] {
        run(fisherflow().arg(stage).arg(&file)).expect_done();
    }
    let inverse = folder.path().join("out/posterior/inverse/block-000.parquet");
    let whole = fs::read(&inverse).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&inverse, bytes).unwrap();
    let said = [
        "block-000.parquet has SHA-256",
        "was written with",
        "`fisherflow invert`",
    ];
    run(fisherflow().arg("predict").arg(&file)).expect(1, &said);
    // It is nobody's any more.
    assert!(!inverse.exists());
    run(fisherflow().arg("predict").arg(&file)).expect(3, &["holds no `invert` of this run"]);
    run(fisherflow().arg("invert").arg(&file)).expect_done();
    assert_eq!(fs::read(&inverse).unwrap(), whole);
    fs::remove_file(&inverse).unwrap();
    run(fisherflow().arg("run").arg(&file)).expect(1, &["block-000.parquet is missing", "`fisherflow invert`"]);
    assert!(!has_manifest(&folder.path().join("out")));

    // Nobody need wait for a process that has ended.
    run_file.compute = "batch = 32\ngroup = 50".to_owned();
    let other = run_file.write(folder.path(), "other");
    run(fisherflow().arg("run").arg(&other)).expect(2, &["left unfinished", "--overwrite"]);

    run(fisherflow().arg("invert").arg(&file)).expect_done();
    assert_eq!(fs::read(&inverse).unwrap(), whole);
    run(fisherflow().arg("predict").arg(&file)).expect_done();
    run(fisherflow().arg("verify").arg(folder.path().join("out"))).expect_done();
}
