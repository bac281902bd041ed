//! Run files that are wrong: exit code 2, with file, line, key and remedy, before anything is read.

use fisherflow_tests::{RunFile, fisherflow, run};

use crate::prepared;

/// Every case is beside the reader of run files, in `crates/cli`: any of them ends the commands so.
#[test]
fn a_wrong_run_file_is_refused_before_the_output_is_touched() {
    let folder = prepared();
    let toml = RunFile::new(folder.path(), "out").toml();
    let file = folder.path().join("wrong.toml");
    for (part, by, said) in [
        (
            "ivar = ",
            "ivra = ",
            ["wrong.toml:", "unknown key `catalogue.ivra`", "`catalogue.ivar`"],
        ),
        (
            "batch = 16",
            "batch = 0",
            ["wrong.toml:", "`compute.batch` is 0", "at least 1"],
        ),
        (
            "ivar = \"ivar\"",
            "ivar = \"flux\"",
            [
                "wrong.toml:",
                "`catalogue.ivar` names the column \"flux\", and so does `catalogue.flux`",
                "but one of them",
            ],
        ),
    ] {
        assert!(toml.contains(part), "{part} is in\n{toml}");
        std::fs::write(&file, toml.replacen(part, by, 1)).unwrap();
        for command in ["run", "plan"] {
            run(fisherflow().arg(command).arg(&file)).expect(2, &said);
        }
        assert!(!folder.path().join("out").exists());
    }
}

#[test]
fn a_run_file_that_is_not_there_is_named() {
    run(fisherflow().args(["run", "no/such/run.toml"])).expect(2, &["no/such/run.toml"]);
}

#[test]
fn arguments_that_cannot_be_are_refused() {
    let folder = prepared();
    let file = RunFile::new(folder.path(), "out").write(folder.path(), "run");
    run(fisherflow().arg("run").arg(&file).args(["-n", "2"])).expect(2, &["-n 2 needs -p"]);
    run(fisherflow().arg("run").arg(&file).args(["-w", "0"])).expect(2, &["-w takes at least 1"]);
    let ended = run(fisherflow().arg("rum").arg(&file));
    assert_eq!(ended.code, Some(2), "{ended}");
}

/// `fisherflow` as it is tested is built without the feature `cuda`: it can plan what it cannot do.
#[test]
fn a_gpu_that_cannot_be_used_is_told_before_anything_is_written() {
    let folder = prepared();
    let mut run_file = RunFile::new(folder.path(), "out");
    run_file.compute += "\ndevice = \"cuda\"";
    let file = run_file.write(folder.path(), "out");
    let said = [
        "no GPU can be used here",
        "--features cuda",
        "`cpu` runs on any machine",
    ];
    run(fisherflow().arg("run").arg(&file)).expect(2, &said);
    assert!(!folder.path().join("out").exists());
    run(fisherflow().arg("plan").arg(&file)).expect_done();
}

/// A pattern that reads the output makes every later run read it as spectra.
#[test]
fn an_output_that_the_catalogue_reads_is_refused_before_anything_is_written() {
    let folder = prepared();
    let of = |uri: &str| folder.path().join(uri).to_str().unwrap().to_owned();
    let mut run_file = RunFile::new(folder.path(), "catalogue/out");
    run_file.catalogue = of("catalogue/**/*.parquet");
    let predicting = RunFile::new(folder.path(), "catalogue/out").predicting(folder.path(), "catalogue/**/*.parquet");
    for (table, run_file) in [("catalogue.uri", run_file), ("predict.uri", predicting)] {
        let file = run_file.write(folder.path(), "run");
        let (read, written) = (of("catalogue/**/*.parquet"), of("catalogue/out"));
        for command in ["plan", "fit", "run"] {
            let ended = run(fisherflow().arg(command).arg(&file));
            ended.expect(2, &[table, &read, &written, "name an output outside of it"]);
        }
        assert!(!folder.path().join("catalogue/out").exists());
    }
    // A folder with the name of an object is taken for one, as soon as there are tables in it, and one that is left out is named by every run.
    let taken = format!("output.uri: {} has the name", of("catalogue/out.parquet"));
    for output in ["catalogue/out.parquet", "catalogue/out.parquet/below"] {
        for on_bad_object in ["fail", "skip"] {
            let mut named = RunFile::new(folder.path(), output);
            named.of_catalogue = format!("on_bad_object = \"{on_bad_object}\"");
            let file = named.write(folder.path(), "named");
            let said = [taken.as_str(), "catalogue.uri", "name it without .parquet"];
            run(fisherflow().arg("plan").arg(&file)).expect(2, &said);
        }
    }
    // A folder is read without those below it.
    let beside = RunFile::new(folder.path(), "catalogue/out").write(folder.path(), "beside");
    run(fisherflow().arg("plan").arg(&beside)).expect_done();
}

/// So does a table beside the spectra, and a folder of an object's name.
#[test]
fn what_is_derived_from_a_run_is_not_written_among_its_spectra() {
    let folder = prepared();
    let file = RunFile::new(folder.path(), "out").write(folder.path(), "run");
    let catalogue = folder.path().join("catalogue");
    let before = std::fs::read_dir(&catalogue).unwrap().count();
    let hessian = ["output-hessian", "--diagonal", "--id", "nobody"];
    for (out, remedy) in [
        (catalogue.clone(), "name an output outside of it"),
        (catalogue.join("derived.parquet"), "name it without .parquet"),
    ] {
        for command in [&hessian[..], &["spectrum", "--steps", "2", "--probes", "1"]] {
            let ended = run(fisherflow()
                .arg(command[0])
                .arg(&file)
                .args(&command[1..])
                .arg("--out")
                .arg(&out));
            let said = ["catalogue.uri", "--out", out.to_str().unwrap(), remedy];
            ended.expect(2, &said);
        }
    }
    assert_eq!(std::fs::read_dir(&catalogue).unwrap().count(), before);

    // A folder that its pattern fits is no object by that alone.
    let mut by_pattern = RunFile::new(folder.path(), "out");
    by_pattern.catalogue = catalogue.join("*").to_str().unwrap().to_owned();
    run(fisherflow()
        .arg("spectrum")
        .arg(by_pattern.write(folder.path(), "by_pattern"))
        .args(["--steps", "2", "--probes", "1", "--out"])
        .arg(catalogue.join("derived")))
    .expect_done();
}

/// Nor is what is asked of its output.
#[test]
fn what_is_asked_of_an_output_is_not_written_among_the_spectra_of_its_run() {
    let folder = prepared();
    let catalogue = folder.path().join("catalogue");
    let mut run_file = RunFile::new(folder.path(), "out");
    run_file.catalogue = catalogue.join("*").to_str().unwrap().to_owned();
    run(fisherflow().arg("run").arg(run_file.write(folder.path(), "run"))).expect_done();
    let asked = |command: &[&str], file: std::path::PathBuf| {
        run(fisherflow()
            .arg(command[0])
            .arg(folder.path().join("out"))
            .args(&command[1..])
            .arg("--out")
            .arg(file))
    };
    for (command, name) in [
        (
            &["inverse", "--layer", "layers.0", "--diagonal"][..],
            "diagonal.parquet",
        ),
        (&["export", "--to", "curvlinops"], "hessian.safetensors"),
        (&["report"], "page.html"),
    ] {
        let file = catalogue.join(name);
        let said = [
            "--out",
            file.to_str().unwrap(),
            "catalogue.uri",
            "name a file outside of it",
        ];
        asked(command, file.clone()).expect(2, &said);
        assert!(!file.exists());
        asked(command, folder.path().join(name)).expect_done();
    }
}
