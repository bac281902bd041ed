//! The exact posterior through the Gram matrix, on the exact-inverse pipeline's data: the same bits on any workers and processes, in memory
//! and out of it, and again after it was killed.

use std::path::{Path, PathBuf};

use fisherflow_tests::{
    Processes, RunFile, Table, digests, everything_in, fisherflow, fisherflow_on, network, pipeline, run, simulated,
    stages_left, wait_for_file, write_objects,
};

/// The pipeline's run file with another curvature, and its output.
fn run_file(folder: &Path, name: &str, curvature: &str, prior: &str) -> (PathBuf, PathBuf) {
    let output = folder.join(name);
    let written = pipeline("exact-inverse.toml", folder, &output);
    let text = std::fs::read_to_string(&written).unwrap();
    let changed = text
        .replace("structure = \"full\"", curvature)
        .replace("precision = 1.0", &format!("precision = {prior}"));
    assert!(changed.contains(curvature) && changed.contains(prior));
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, changed).unwrap();
    (file, output)
}

const IN_MEMORY: &str = "structure = \"dual\"";
const OUT_OF_IT: &str = "structure = \"dual\"\nmemory = \"6 MiB\"";

#[test]
fn no_bit_depends_on_workers_processes_memory_or_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (file, output) = run_file(folder, "one", IN_MEMORY, "1.0");
    run(fisherflow().arg("run").arg(&file)).expect_done();
    let expected = digests(&output);
    assert!(expected.contains_key("posterior/inverse/block-000-rows-00000-000.parquet"));
    assert!(expected.contains_key("posterior/inverse/block-000-cholesky-00007.parquet"));
    let (file, output) = run_file(folder, "four-in", IN_MEMORY, "1.0");
    run(fisherflow().arg("run").arg(&file).args(["-w", "4"])).expect_done();
    assert_eq!(digests(&output), expected, "four workers, in memory");

    let (file, output) = run_file(folder, "two-out", OUT_OF_IT, "1.0");
    for ended in Processes::start(2, &file, 1).wait_all() {
        ended.expect_done();
    }
    assert_eq!(digests(&output), expected, "two processes, out of it");

    // Killed amid the factor: it goes on from the tiles that are there.
    let (file, output) = run_file(folder, "killed", OUT_OF_IT, "1.0");
    let mut alone = Processes::start(1, &file, 2);
    let prior = output.join(format!("stages/dual/prior-{:016x}", 1.0_f64.to_bits()));
    let there = wait_for_file(&prior.join("tile02-00002-00001"), &mut alone, 0);
    alone.kill(0);
    assert!(there && !prior.join("tile02-00007-00007").exists(), "killed too late");
    let kept = prior.join("tile02-00000-00000");
    let before = std::fs::metadata(&kept).unwrap().modified().unwrap();
    let invert = |workers: &str| run(fisherflow().arg("invert").arg(&file).args(["-w", workers]));
    // Nothing is made of tiles that are damaged meanwhile: they go all at once, and are computed again.
    let damaged = ["tile02-00001-00000", "tile02-00002-00001"].map(|name| prior.join(name));
    for tile in &damaged {
        let mut bytes = std::fs::read(tile).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(tile, bytes).unwrap();
    }
    invert("1").expect(75, &["tile02-0000", "is gone or damaged", "start the run again"]);
    assert!(damaged.iter().all(|tile| !tile.exists()));
    invert("3").expect_done();
    assert_eq!(std::fs::metadata(&kept).unwrap().modified().unwrap(), before);
    // A prediction in memory from what was factored out of it.
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("memory = ", "# memory = ");
    std::fs::write(&file, text).unwrap();
    // As if it had been killed again, before its certificate was made.
    std::fs::remove_file(output.join("stages/certificate.json")).unwrap();
    run(fisherflow().arg("predict").arg(&file)).expect_done();
    assert_eq!(digests(&output), expected, "after it was killed");
    assert_eq!(stages_left(&output), 0);
}

#[test]
fn a_prior_of_0_is_refused_and_a_plan_tells_what_a_cluster_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (file, output) = run_file(folder.path(), "none", IN_MEMORY, "0.0");
    for command in ["plan", "run"] {
        fisherflow_on(command, &file, &[]).expect(2, &["dual", "prior precision above 0", "raise it"]);
    }
    assert!(!output.exists());
    let (file, output) = run_file(folder.path(), "plan", OUT_OF_IT, "1.0");
    let planned = run(fisherflow().arg("plan").arg(&file).args(["-n", "4", "-w", "2"]));
    planned.expect_done();
    for said in [
        "4,096 rows in 8 chunks",
        "Cholesky",
        "a worker",
        "scratch folder",
        "on 8 workers",
    ] {
        assert!(planned.stdout.contains(said), "{said}\n{planned}");
    }
    assert!(!output.exists());
}

/// No footer says how many rows the Gram matrix will have. Where its eigenvalues are needed and there are too many, the run ends as soon as it has
/// made so many; a dual block whose precision is given needs none, whatever is found for the others.
#[test]
fn rows_without_eigenvalues_end_a_run_whose_prior_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &[24, 6, 3]);
    // 8 groups, and 10,800 rows or so.
    write_objects(&folder.join("catalogue"), &simulated(24, 0, 4_000), 500);
    write_objects(&folder.join("few"), &simulated(24, 0, 120), 60);
    let with = |name: &str, structure: &str, prior: &str| {
        let mut run_file = RunFile::new(folder, name);
        run_file.curvature = structure.to_owned();
        run_file.prior = prior.to_owned();
        run_file.noise = "holdout_fraction = 0.1".to_owned();
        run_file.compute = "precision = \"f64\"\nbatch = 64\ngroup = 500".to_owned();
        run_file
    };
    for prior in ["evidence", "holdout"] {
        let file = with(prior, IN_MEMORY, &format!("precision = \"{prior}\"")).write(folder, prior);
        let planned = fisherflow_on("plan", &file, &[]);
        planned.expect_done();
        assert!(planned.stdout.contains("at most 9,000 rows"), "{planned}");
        fisherflow_on("run", &file, &[]).expect(3, &["need the eigenvalues", "give prior.precision a number"]);
        let left = everything_in(&folder.join(prior));
        let is_done = |path: &&String| path.starts_with("stages/groups/curvature/") && path.ends_with(".done");
        assert!(left.iter().filter(is_done).count() < 8, "{left:?}");
    }

    let of = |structure: &str| format!("structure = \"kfac\"\n[curvature.layers]\n\"layers.0\" = \"{structure}\"");
    let prior = "precision = \"evidence\"\n[prior.layers]\n\"layers.0\" = 5.0";
    let file = with("given", &of("dual"), prior).write(folder, "given");
    let planned = fisherflow_on("plan", &file, &[]);
    planned.expect_done();
    assert!(!planned.stdout.contains("at most 9,000 rows"), "{planned}");
    fisherflow_on("fit", &file, &[]).expect_done();
    let [dual, full] = ["dual", "full"].map(|structure| {
        let mut run_file = with(structure, &of(structure), prior);
        run_file.catalogue = folder.join("few").to_str().unwrap().to_owned();
        fisherflow_on("run", &run_file.write(folder, structure), &[]).expect_done();
        let blocks = Table::read(&folder.join(structure).join("posterior/blocks.parquet"));
        let row = (0..blocks.len()).find(|&row| blocks.text("layer", row) == "layers.2");
        blocks.number("prior_precision", row.unwrap())
    });
    assert!(
        (dual / full - 1.0).abs() < 1e-8,
        "precision of the last layer: {dual} and {full}"
    );
}
