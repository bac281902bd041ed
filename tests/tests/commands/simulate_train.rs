//! From nothing to error bars: simulate a catalogue, train a network on it, run.

use std::fs;
use std::path::{Path, PathBuf};

use fisherflow_tests::{RunFile, counts, digests, fisherflow, run, simulated, toml_path, write_objects};

fn simulate(folder: &Path, name: &str, spectra: &str, objects: &str) {
    let mut command = fisherflow();
    command
        .arg("simulate")
        .arg(folder.join(name))
        .args(["--spectra", spectra, "--pixels", "48", "--objects", objects]);
    run(&mut command).expect_done();
}

/// A run file whose network is trained by it.
fn run_file(folder: &Path, network: &str, seed: u64) -> PathBuf {
    let mut run_file = RunFile::new(folder, &format!("out-{network}"));
    run_file.network = toml_path(&folder.join(format!("{network}.safetensors")));
    let toml = run_file
        .toml()
        .replace("ivar = \"ivar\"", "sigma = \"flux_err\"")
        .replace("keep_columns = [\"visit\"]\n", "");
    let train = format!(
        "\n[train]\nhidden = [16, 8]\nactivation = \"tanh\"\nepochs = 12\nbatch = 20\nlearning_rate = 0.005\nseed = {seed}\n"
    );
    let file = folder.join(format!("{network}.toml"));
    fs::write(&file, toml + &train).unwrap();
    file
}

#[test]
fn simulate_train_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    simulate(folder, "catalogue", "400", "4");
    assert_eq!(fs::read_dir(folder.join("catalogue")).unwrap().count(), 4);
    let refused = run(fisherflow()
        .arg("simulate")
        .arg(folder.join("catalogue"))
        .args(["--spectra", "5"]));
    refused.expect(2, &["catalogue", "is not empty"]);

    let network = |name: &str| fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    let train = |name: &str, seed: u64, more: &[&str]| {
        let file = run_file(folder, name, seed);
        let ended = run(fisherflow().arg("train").arg(&file).args(more));
        ended.expect_done();
        assert!(
            ended.stdout.contains("400") || ended.stdout.contains("validation"),
            "{ended}"
        );
        file
    };
    let file = train("first", 3, &[]);
    train("again", 3, &[]);
    train("threads", 3, &["--threads", "2"]);
    train("other", 4, &[]);
    assert!(
        network("first") == network("again"),
        "the same seed gives the same bits"
    );
    assert!(network("first") == network("threads"), "so do two threads");
    assert!(network("first") != network("other"));

    // A trained network is never lost by accident.
    let before = network("first");
    let refused = run(fisherflow().arg("train").arg(&file));
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(
        refused.stderr.contains("first.safetensors") && refused.stderr.contains("--overwrite"),
        "{refused}"
    );
    assert!(network("first") == before);
    run(fisherflow().arg("train").arg(&file).arg("--overwrite")).expect_done();
    assert!(network("first") == before);

    // The network says what it is: the run file need not.
    let shown = run(fisherflow().arg("inspect").arg(folder.join("first.safetensors")));
    shown.expect_done();
    for said in ["teff", "tanh", "48"] {
        assert!(shown.stdout.contains(said), "{said}\n{shown}");
    }
    run(fisherflow().arg("inspect").arg(folder.join("catalogue"))).expect_done();
    run(fisherflow().arg("run").arg(&file)).expect_done();
    let out = folder.join("out-first");
    assert!(!digests(&out).is_empty());
    assert_eq!(counts(&out)["fit_spectra"], 400);
    assert_eq!(counts(&out)["predict_bad"], 0);
    run(fisherflow().arg("inspect").arg(&out)).expect_done();
    run(fisherflow().arg("report").arg(&out)).expect_done();
}

/// The stages one by one leave what `run` leaves.
#[test]
fn stages_alone_leave_what_run_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    simulate(folder, "catalogue", "300", "3");
    let file = run_file(folder, "net", 1);
    run(fisherflow().arg("train").arg(&file)).expect_done();
    run(fisherflow().arg("run").arg(&file)).expect_done();
    let expected = digests(&folder.join("out-net"));
    let stages = folder.join("stages.toml");
    fs::write(
        &stages,
        fs::read_to_string(&file).unwrap().replace("out-net", "out-stages"),
    )
    .unwrap();
    // Out of order is refused with the remedy.
    let early = run(fisherflow().arg("predict").arg(&stages));
    assert_ne!(early.code, Some(0), "{early}");
    assert!(early.stderr.contains("fisherflow"), "{early}");
    for stage in ["fit", "invert", "predict"] {
        run(fisherflow().arg(stage).arg(&stages).args(["-w", "2"])).expect_done();
    }
    assert_eq!(digests(&folder.join("out-stages")), expected);
}

/// One pixel of 1e20 would be the scale of its input for all: the star is left out, as one without a flux is.
#[test]
fn a_spectrum_out_of_range_is_not_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let train = |name: &str, flux: f32, said: &[&str]| {
        let mut stars = simulated(48, 0, 120);
        // Among them one that is held out.
        for star in stars.iter_mut().take(20) {
            star.flux.as_mut().unwrap()[5] = flux;
        }
        write_objects(&folder.join(name), &stars, 60);
        let mut run_file = RunFile::new(folder, "out");
        run_file.catalogue = folder.join(name).to_str().unwrap().to_owned();
        run_file.network = toml_path(&folder.join(format!("{name}.safetensors")));
        let file = folder.join(format!("{name}.toml"));
        fs::write(&file, run_file.toml() + "\n[train]\nhidden = [8]\nepochs = 3\n").unwrap();
        let ended = run(fisherflow().arg("train").arg(&file));
        ended.expect_done();
        for said in said {
            assert!(ended.stdout.contains(said), "{ended}");
        }
        fs::read(folder.join(format!("{name}.safetensors"))).unwrap()
    };
    let without = train("nan", f32::NAN, &["20 left out", "20 FLUX_NOT_FINITE"]);
    let said = ["20 left out", "20 FLUX_OUT_OF_RANGE", "id sim-"];
    assert!(train("large", 1e20, &said) == without);
    assert!(train("largest", f32::MAX, &said) == without);
}

/// It would be learnt as any other.
#[test]
fn a_missing_label_that_is_a_number_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut stars = simulated(48, 0, 120);
    stars[7].labels[2] = Some(-9999.0);
    write_objects(&folder.join("stars"), &stars, 60);
    let mut run_file = RunFile::new(folder, "out");
    run_file.catalogue = folder.join("stars").to_str().unwrap().to_owned();
    run_file.network = toml_path(&folder.join("network.safetensors"));
    let file = folder.join("run.toml");
    fs::write(&file, run_file.toml() + "\n[train]\nhidden = [8]\nepochs = 3\n").unwrap();
    let ended = run(fisherflow().arg("train").arg(&file));
    ended.expect_done();
    let said = "label fe_h: of 120 spectra, -9999 in 1 of them";
    assert!(ended.stderr.contains(said), "{ended}");
}
