//! The same inputs give the same files, bit for bit: for any number of workers and processes, and however the catalogue's objects came to be
//! where they are.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use arrow_array::ArrayRef;
use fisherflow_tests::{
    Processes, RunFile, counts, digests, fisherflow, manifest, network, run, simulated, stages_left, toml_path,
    write_objects,
};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Two structures with one pass over the spectra, and with two.
const CURVATURES: [(&str, &str); 2] = [
    (
        "kfac",
        "structure = \"kfac\"\n[curvature.layers]\n\"layers.2\" = \"full\"\n\"layers.4\" = \"full\"",
    ),
    (
        "ekfac",
        "structure = \"ekfac\"\n[curvature.layers]\n\"layers.4\" = \"block\"",
    ),
];

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    network(&path.join("network.safetensors"), &[48, 16, 8, 3]);
    write_objects(&path.join("catalogue"), &simulated(48, 0, 520), 40);
    write_objects(&path.join("stars"), &simulated(48, 10_000, 280), 40);
    folder
}

fn run_file(folder: &Path, output: &str, curvature: &str) -> RunFile {
    let mut run_file = RunFile::new(folder, output).predicting(folder, "stars");
    run_file.curvature = curvature.to_owned();
    run_file.prior = "precision = \"evidence\"".to_owned();
    run_file.compute = "batch = 16\ngroup = 40".to_owned();
    run_file
}

/// The manifest but for when it was made, and with what memory and time.
fn lasting(output: &Path) -> Value {
    let mut manifest = manifest(output);
    manifest["created"] = Value::Null;
    manifest["settings"]["resources"] = Value::Null;
    manifest
}

/// Everything that must be the same.
fn found(output: &Path) -> (BTreeMap<String, String>, Value) {
    (digests(output), lasting(output))
}

#[test]
fn workers_and_processes_change_no_bit() {
    let folder = prepared();
    let folder = folder.path();
    for ((name, curvature), blocks) in CURVATURES.into_iter().zip([2, 3]) {
        let file = |output: &str| run_file(folder, output, curvature).write(folder, output);
        let first = format!("{name}-1-1");
        run(fisherflow().arg("run").arg(file(&first))).expect_done();
        let expected = found(&folder.join(&first));
        // Three tables a block; 7 groups are predicted, with Jacobians; the tables of blocks, certificates and evidence.
        assert_eq!(expected.0.len(), 3 * blocks + 2 * 7 + 3, "{:#?}", expected.0);
        assert_eq!(counts(&folder.join(&first))["fit_spectra"], 520);
        run(fisherflow().arg("verify").arg(folder.join(first))).expect_done();
        for (processes, workers) in [(1, 3), (1, 8), (2, 3), (4, 1)] {
            let output = format!("{name}-{processes}-{workers}");
            for ended in Processes::start(processes, &file(&output), workers).wait_all() {
                ended.expect_done();
            }
            let output = folder.join(output);
            assert_eq!(found(&output), expected, "{}", output.display());
            assert_eq!(stages_left(&output), 0, "intermediate results are cleared");
        }
    }
}

/// One group is one worker's, and the others lend it their cores: with products large enough to be shared.
#[test]
fn workers_without_a_group_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &[300, 64, 3]);
    write_objects(&folder.join("catalogue"), &simulated(300, 0, 1_500), 500);
    let file = |output: &str| {
        let mut run_file = RunFile::new(folder, output);
        run_file.curvature = "structure = \"kfac\"".to_owned();
        run_file.compute = "batch = 250\ngroup = 100_000".to_owned();
        run_file.write(folder, output)
    };
    run(fisherflow().arg("run").arg(file("alone")).args(["-w", "1"])).expect_done();
    let expected = found(&folder.join("alone"));
    for workers in ["2", "5"] {
        run(fisherflow().arg("run").arg(file(workers)).args(["-w", workers])).expect_done();
        assert_eq!(found(&folder.join(workers)), expected, "{workers} workers");
    }
}

/// The same objects under the same names, made in another order and at other times: a disk lists them as it likes.
#[test]
fn the_order_in_which_objects_came_changes_no_bit() {
    let folder = prepared();
    let folder = folder.path();
    let (name, curvature) = CURVATURES[0];
    let mut of_first = run_file(folder, name, curvature);
    let sorted = folder.join("sorted");
    let place = |shuffled: &Path| {
        // One after the other at the very place that the run file names: no link, no other name.
        let _ = std::fs::remove_dir_all(&sorted);
        std::fs::rename(shuffled, &sorted).unwrap();
    };
    of_first.catalogue = toml_path(&sorted);
    let mut expected = None;
    for seed in 0..3 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut names: Vec<_> = std::fs::read_dir(folder.join("catalogue"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        if seed > 0 {
            names.shuffle(&mut rng);
        }
        let shuffled = folder.join("shuffled");
        std::fs::create_dir(&shuffled).unwrap();
        for name in names {
            std::fs::copy(folder.join("catalogue").join(&name), shuffled.join(&name)).unwrap();
            let age = Duration::from_secs(rng.random_range(0..1_000_000));
            let file = std::fs::File::options()
                .append(true)
                .open(shuffled.join(&name))
                .unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        place(&shuffled);
        let output = format!("out-{seed}");
        let mut run_file = of_first.clone();
        run_file.output = toml_path(&folder.join(&output));
        run(fisherflow().arg("run").arg(run_file.write(folder, &output))).expect_done();
        let numbers = numbers(&folder.join(&output));
        assert!(*expected.get_or_insert_with(|| numbers.clone()) == numbers, "{output}");
    }
}

/// The values of every column of every data file: the metadata names the versions of the objects, which a store makes from their times.
fn numbers(output: &Path) -> BTreeMap<String, Vec<ArrayRef>> {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let files = digests(output).into_keys();
    files
        .map(|name| {
            let bytes = bytes::Bytes::from(std::fs::read(output.join(&name)).unwrap());
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
                .unwrap()
                .build()
                .unwrap();
            let columns = reader.flat_map(|batch| batch.unwrap().columns().to_vec());
            (name, columns.collect())
        })
        .collect()
}
