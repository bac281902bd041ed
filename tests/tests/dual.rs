//! The exact posterior through the Gram matrix, on the exact-inverse pipeline's data: the same bits on any workers and processes, in memory
//! and out of it, and again after it was killed.

use std::path::{Path, PathBuf};

use fisherflow_tests::{Processes, digests, fisherflow, pipeline, run, stages_left, wait_for_file};

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
    for (place, curvature) in [("in", IN_MEMORY), ("out", OUT_OF_IT)] {
        let (file, output) = run_file(folder, &format!("four-{place}"), curvature, "1.0");
        run(fisherflow().arg("run").arg(&file).args(["-w", "4"])).expect_done();
        assert_eq!(digests(&output), expected, "four workers, {place}");

        let (file, output) = run_file(folder, &format!("two-{place}"), curvature, "1.0");
        for ended in Processes::start(2, &file, 1).wait_all() {
            ended.expect_done();
        }
        assert_eq!(digests(&output), expected, "two processes, {place}");
    }

    // Killed amid the factor: it goes on from the tiles that are there.
    let (file, output) = run_file(folder, "killed", OUT_OF_IT, "1.0");
    let mut alone = Processes::start(1, &file, 2);
    let prior = output.join(format!("stages/dual/prior-{:016x}", 1.0_f64.to_bits()));
    let there = wait_for_file(&prior.join("tile-00002-00001"), &mut alone, 0);
    alone.kill(0);
    assert!(there && !prior.join("tile-00007-00007").exists(), "killed too late");
    let kept = prior.join("tile-00000-00000");
    let before = std::fs::metadata(&kept).unwrap().modified().unwrap();
    let invert = || run(fisherflow().arg("invert").arg(&file).args(["-w", "3"]));
    // Nothing is made of a tile that is damaged meanwhile: it goes, and is computed again.
    let damaged = prior.join("tile-00001-00000");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    invert().expect(75, &["tile-00001-00000 is gone or damaged", "start the run again"]);
    assert!(!damaged.exists());
    invert().expect_done();
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
    let (file, _) = run_file(folder.path(), "none", IN_MEMORY, "0.0");
    run(fisherflow().arg("run").arg(&file)).expect(1, &["dual", "prior precision", "Raise the prior precision"]);
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
