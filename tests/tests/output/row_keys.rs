//! `file` and `row`: rows of predictions and Jacobians joined to one another and to the catalogue, whose identifiers are there several times.

use std::path::Path;

use fisherflow_tests::{
    RunFile, Spectrum, Table, consumer, digests, fisherflow, network, run, simulated, toml_path, write_catalogue,
};
use serde_json::{Value, json};

const PIXELS: usize = 24;

/// `n` spectra of five visits a star, in an order that is neither that of the stars nor that of the visits.
fn visits(first: u64, n: u64) -> Vec<Spectrum> {
    let mut spectra = simulated(PIXELS, first, n);
    for (at, spectrum) in (first..).zip(&mut spectra) {
        spectrum.id = Some(format!("star-{}", at % (n / 5)));
        // The errors tell the visits of a star apart.
        let noisier = 1.0 + at as f32 / 50.0;
        spectrum
            .ivar
            .as_mut()
            .unwrap()
            .iter_mut()
            .for_each(|ivar| *ivar /= noisier);
    }
    (0..spectra.len())
        .map(|at| spectra[at * 37 % spectra.len()].clone())
        .collect()
}

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    network(&folder.path().join("network.safetensors"), &[PIXELS, 6, 3]);
    folder
}

/// What the consumer counts; `None` where there is no Python.
fn joined(output: &Path, catalogue: &Path) -> Option<Value> {
    consumer("join_by_key.py", [output, catalogue])
}

#[test]
fn predictions_jacobians_and_catalogue_are_joined_by_file_and_row() {
    let folder = prepared();
    let folder = folder.path();
    // Of several row groups, batches and groups; below a folder of its own, and with a name that a URL would write otherwise.
    let spectra = visits(0, 100);
    write_catalogue(
        &folder.join("catalogue/night=1"),
        "a b%20\u{fc}.parquet",
        &spectra[..55],
        8,
    );
    write_catalogue(&folder.join("catalogue/night=2"), "part.parquet", &spectra[55..], 17);
    let names = json!(["night=1/a b%20\u{fc}.parquet", "night=2/part.parquet"]);
    let one = folder.join("catalogue/night=2/part.parquet");

    // The catalogue of the fit is the one to predict; another one is; it is one object.
    let mut fused = RunFile::new(folder, "fused");
    fused.catalogue += "/**/*.parquet";
    let mut apart = fused.clone().predicting(folder, "catalogue/night=*/*.parquet");
    apart.output = toml_path(&folder.join("apart"));
    let mut of_one = fused.clone().predicting(folder, "catalogue/night=2/part.parquet");
    of_one.output = toml_path(&folder.join("one"));
    for (name, mut run_file) in [("fused", fused), ("apart", apart), ("one", of_one)] {
        run_file.compute = "batch = 16\ngroup = 30".to_owned();
        let command = fisherflow()
            .arg("run")
            .arg(run_file.write(folder, name))
            .args(["-w", "2"])
            .output();
        fisherflow_tests::Ended::of(&command.unwrap()).expect_done();
    }
    let keys = |output: &str, table: &str| -> Vec<(String, i64)> {
        let table = Table::read(&folder.join(output).join(table));
        (0..table.len())
            .map(|row| (table.text("file", row), table.whole("row", row)))
            .collect()
    };
    let of_file = |name: &Value, rows: i64| -> Vec<(String, i64)> {
        (0..rows).map(|row| (name.as_str().unwrap().to_owned(), row)).collect()
    };
    let expected = [of_file(&names[0], 55), of_file(&names[1], 45)].concat();
    let each = |keys: &[(String, i64)]| -> Vec<(String, i64)> {
        keys.iter()
            .flat_map(|key| std::iter::repeat_n(key.clone(), 3))
            .collect()
    };
    for output in ["fused", "apart"] {
        assert_eq!(keys(output, "predictions"), expected, "{output}");
        assert_eq!(keys(output, "jacobians"), each(&expected), "{output}");
    }
    let expected = of_file(&json!("part.parquet"), 45);
    assert_eq!(keys("one", "predictions"), expected);
    assert_eq!(keys("one", "jacobians"), each(&expected));

    for (output, catalogue, stars, names) in [
        ("fused", folder.join("catalogue"), 100, names.clone()),
        ("apart", folder.join("catalogue"), 100, names),
        ("one", one, 45, json!(["part.parquet"])),
    ] {
        let Some(found) = joined(&folder.join(output), &catalogue) else {
            return;
        };
        println!("{output}: {found:#}");
        assert_eq!((&found["stars"], &found["checked"]), (&json!(stars), &json!(stars)));
        assert_eq!(found["files"], names);
        assert!(found["ids"].as_u64().unwrap() < stars);
    }
}

/// A release whose groups were computed by an earlier one has the keys of its own catalogue, bit for bit those of a run from scratch.
#[test]
fn a_release_that_took_groups_over_has_the_same_keys() {
    let folder = prepared();
    let folder = folder.path();
    let catalogue = folder.join("catalogue");
    let spectra = visits(0, 200);
    let (old, new) = spectra.split_at(160);
    write_catalogue(&catalogue, "b.parquet", &old[..90], 10);
    write_catalogue(&catalogue, "c.parquet", &old[90..], 10);
    let mut fused = RunFile::new(folder, "fused");
    fused.compute = "batch = 16\ngroup = 30".to_owned();
    let mut apart = fused.clone().predicting(folder, "catalogue/*.parquet");
    apart.output = toml_path(&folder.join("apart"));
    let release = |name: &str, run_file: &RunFile, jacobians: &str| {
        let file = run_file.write(folder, name);
        let toml = run_file.toml().replace("jacobians = true", jacobians);
        std::fs::write(&file, format!("{toml}releases = true\n")).unwrap();
        run(fisherflow().arg("run").arg(&file).args(["-v", "--log", "json"])).expect_done();
    };
    // Jacobians of the fit's own catalogue are files of one run: there no group would be taken over.
    let lines = [
        ("fused", fused, "jacobians = false"),
        ("apart", apart, "jacobians = true"),
    ];
    for (name, run_file, jacobians) in &lines {
        release(name, run_file, jacobians);
    }
    // One more object, before all others.
    write_catalogue(&catalogue, "a.parquet", new, 10);
    for (name, run_file, jacobians) in &lines {
        release(name, run_file, jacobians);
        let line = folder.join(name);
        let commit: Value = serde_json::from_slice(&std::fs::read(line.join("commits/2.json")).unwrap()).unwrap();
        let (computed, groups) = (&commit["changes"]["computed"], &commit["changes"]["groups"]);
        assert!(
            computed.as_u64().unwrap() < groups.as_u64().unwrap(),
            "{computed} of {groups}"
        );

        let mut scratch = run_file.clone();
        scratch.output = toml_path(&folder.join(format!("{name}-scratch")));
        scratch.noise += &format!("\nbasis = \"{}\"", toml_path(&line.join("basis.json")));
        let file = scratch.write(folder, "scratch");
        let toml = scratch.toml().replace("jacobians = true", jacobians);
        std::fs::write(&file, toml).unwrap();
        run(fisherflow().arg("run").arg(&file)).expect_done();
        let release = line.join("releases/2");
        assert_eq!(
            digests(&release),
            digests(Path::new(&scratch.output)),
            "{name}: bit for bit"
        );

        let Some(found) = joined(&release, &catalogue) else {
            continue;
        };
        println!("{name}: {found:#}");
        assert_eq!(found["stars"], 200);
        assert_eq!(found["checked"], if *name == "apart" { 200 } else { 0 });
        assert_eq!(found["files"], json!(["a.parquet", "b.parquet", "c.parquet"]));
    }
}

/// The same objects under other names make other rows: what one run left unfinished is not the other's to go on with.
#[test]
fn other_names_of_the_same_objects_make_another_run() {
    let folder = prepared();
    let folder = folder.path();
    write_catalogue(&folder.join("survey/catalogue"), "a.parquet", &visits(0, 60), 20);
    let mut run_file = RunFile::new(folder, "out");
    run_file.catalogue = toml_path(&folder.join("survey/catalogue"));
    let file = run_file.write(folder, "run");
    let killed = run(fisherflow().arg("run").arg(&file).args(["--fail-at", "part-written"]));
    assert_ne!(killed.code, Some(0), "{killed}");
    run_file.catalogue = toml_path(&folder.join("survey/**/*.parquet"));
    let other = run_file.write(folder, "other");
    let said = [
        "left unfinished",
        "--overwrite",
        "catalogue.uri was ",
        "survey/catalogue, and is ",
        "survey/**/*.parquet: the same objects",
    ];
    run(fisherflow().arg("run").arg(&other)).expect(2, &said);
    // Another spelling of the same folder is the same.
    run_file.catalogue = format!("{}/../survey/./catalogue/", toml_path(&folder.join("survey")));
    let file = run_file.write(folder, "spelt-otherwise");
    run(fisherflow().arg("run").arg(&file)).expect_done();
    let name = |table: &str| Table::read(&folder.join("out").join(table)).text("file", 0);
    assert_eq!(
        (name("predictions"), name("jacobians")),
        ("a.parquet".to_owned(), "a.parquet".to_owned())
    );
    run(fisherflow().arg("run").arg(&other).arg("--overwrite")).expect_done();
    assert_eq!(name("predictions"), "catalogue/a.parquet");
}
