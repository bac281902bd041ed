//! Processes of one run: who holds the output, when each has ended, and who forms a cluster. What becomes of those that are killed is in `loss.rs`,
//! and at every point of a run in `chaos`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use fisherflow_tests::{
    Processes, RunFile, counts, digests, fisherflow, has_manifest, network, run, simulated, toml_path, wait_for_file,
    write_objects,
};

/// A folder with `objects` objects of 60 spectra to fit, half as many to predict, and a network of these widths.
fn prepared(objects: u64, widths: &[usize]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    network(&folder.path().join("network.safetensors"), widths);
    write_objects(
        &folder.path().join("catalogue"),
        &simulated(widths[0], 0, 60 * objects),
        60,
    );
    write_objects(
        &folder.path().join("stars"),
        &simulated(widths[0], 10_000, 30 * objects),
        60,
    );
    folder
}

fn run_file(folder: &Path, output: &str) -> RunFile {
    let mut run_file = RunFile::new(folder, output).predicting(folder, "stars");
    run_file.curvature =
        "structure = \"kfac\"\n[curvature.layers]\n\"layers.2\" = \"ekfac\"\n\"layers.4\" = \"full\"".to_owned();
    run_file
}

/// Path to SHA-256 of every data file of an undisturbed run of one worker.
fn undisturbed(folder: &Path) -> BTreeMap<String, String> {
    let file = run_file(folder, "undisturbed").write(folder, "undisturbed");
    run(fisherflow().arg("run").arg(file)).expect_done();
    digests(&folder.join("undisturbed"))
}

/// The same run again while the first is at work: refused, and told who holds the output; let in once the first is gone.
#[test]
fn a_run_at_work_keeps_its_output() {
    let folder = prepared(2, &[60, 24, 10, 3]);
    let folder = folder.path();
    let file = run_file(folder, "out").write(folder, "out");
    // The first of two processes claims the output and waits for the second, which does not come.
    let mut first = Processes::new(2);
    first.spawn(0, &file, 1, &["--deadline", "60"]);
    assert!(wait_for_file(&folder.join("out/claim.json"), &mut first, 0));
    for more in [&[][..], &["--overwrite"]] {
        run(fisherflow().arg("run").arg(&file).args(more)).expect(1, &["is held by run", "wait for it"]);
    }
    first.kill(0);
    run(fisherflow().arg("run").arg(&file)).expect_done();
}

/// No process has ended well before the output counts: a scheduler starts only those again that have not, and the first needs them all.
#[test]
fn no_process_ends_before_the_output_counts() {
    let folder = prepared(4, &[40, 8, 6, 3]);
    let folder = folder.path();
    let expected = undisturbed(folder);
    let (output, file) = (folder.join("out"), run_file(folder, "out").write(folder, "out"));
    for how in ["before-manifest", "before-manifest:stop"] {
        let mut processes = Processes::new(3);
        for process in 0..3 {
            let mut more = vec!["--deadline", "30", "--peer-timeout", "2"];
            more.extend(["--fail-at", how].into_iter().filter(|_| process == 0));
            processes.spawn(process, &file, 1, &more);
        }
        for other in 1..3 {
            processes
                .wait(other)
                .expect(75, &["a process of the cluster was lost (process 0 at ", "run again"]);
        }
        assert!(!has_manifest(&output), "{how}");
    }
    // A process that waits may be lost: the first commits without it, and it is done once it is started again.
    let mut processes = Processes::new(2);
    processes.spawn(0, &file, 1, &["--fail-at", "before-manifest:stop"]);
    processes.spawn(1, &file, 1, &[]);
    let started = std::time::Instant::now();
    while !processes.is_stopped(0) {
        assert!(
            started.elapsed().as_secs() < 60,
            "the first never comes to its manifest"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    processes.kill(1);
    processes.signal(0, "CONT");
    processes.wait(0).expect_done();
    processes.spawn(1, &file, 1, &[]);
    processes.wait(1).expect_done();
    assert_eq!(digests(&output), expected);

    // Undisturbed, and started again when all is done.
    let file = run_file(folder, "whole").write(folder, "whole");
    for _ in 0..2 {
        let mut processes = Processes::start(2, &file, 1);
        processes.wait(1).expect_done();
        assert!(
            has_manifest(&folder.join("whole")),
            "the second ends when the output counts"
        );
        processes.wait(0).expect_done();
        assert_eq!(digests(&folder.join("whole")), expected);
    }
}

#[test]
fn different_runs_do_not_form_a_cluster() {
    let folder = prepared(4, &[40, 8, 6, 3]);
    let folder = folder.path();
    let first = run_file(folder, "out").write(folder, "first");
    let mut other = run_file(folder, "out");
    other.compute = "batch = 32\ngroup = 50".to_owned();
    let other = other.write(folder, "other");
    let mut processes = Processes::new(2);
    for (process, file) in [&first, &other].into_iter().enumerate() {
        processes.spawn(process, file, 1, &["--deadline", "4"]);
    }
    let values = [
        "compute.batch is 32 there and 16 here",
        "compute.batch is 16 there and 32 here",
    ];
    for (ended, values) in processes.wait_all().into_iter().zip(values) {
        let said = [
            "the cluster did not form within 4 s: process ",
            "is of another run file or command (",
            values,
        ];
        ended.expect(2, &said);
    }
    assert!(!has_manifest(&folder.join("out")));
    // The claim is the first run's: it can be run now.
    run(fisherflow().arg("run").arg(&first)).expect_done();
}

/// They would miss one another's sums behind the pass that made them, at every try.
#[test]
fn processes_that_do_not_reach_one_output_are_refused_before_any_pass() {
    let folder = prepared(2, &[40, 8, 6, 3]);
    let folder = folder.path();
    let files = ["one", "other"].map(|output| run_file(folder, output).write(folder, output));
    let mut processes = Processes::new(2);
    for (process, file) in files.iter().enumerate() {
        processes.spawn(process, file, 1, &["--deadline", "20"]);
    }
    for ended in processes.wait_all() {
        ended.expect(
            2,
            &[
                "output.uri: process 1 does not find at ",
                "other/claim.json",
                "all processes reach",
            ],
        );
    }
    assert!(!folder.join("one/stages/inputs.json").exists());
    run(fisherflow().arg("run").arg(&files[0])).expect_done();
}

/// So it is with tiles, and with a folder of them that takes none.
#[test]
fn a_scratch_that_is_of_one_process_or_takes_nothing_is_refused_before_any_pass() {
    let folder = prepared(2, &[40, 8, 6, 3]);
    let folder = folder.path();
    let with_scratch = |scratch: &str| {
        let mut run_file = RunFile::new(folder, "out");
        run_file.curvature = "structure = \"dual\"\nmemory = \"64 KiB\"".to_owned();
        let scratch_uri = toml_path(&folder.join(scratch));
        run_file.compute = format!("batch = 16\ngroup = 50\nscratch = \"{scratch_uri}\"");
        run_file.write(folder, &scratch.replace('/', "-"))
    };
    let mut processes = Processes::new(2);
    for (process, scratch) in ["one", "other"].into_iter().enumerate() {
        processes.spawn(process, &with_scratch(scratch), 1, &["--deadline", "20"]);
    }
    for ended in processes.wait_all() {
        ended.expect(
            2,
            &["compute.scratch: process 1 does not find at ", "/other/fisherflow-"],
        );
    }
    let below_a_file = with_scratch("network.safetensors/below");
    run(fisherflow().arg("run").arg(below_a_file)).expect(2, &["compute.scratch: ", "/below/", "cannot be written"]);
    assert!(!folder.join("out/stages/inputs.json").exists());

    for ended in Processes::start(2, &with_scratch("one"), 1).wait_all() {
        ended.expect_done();
    }
    assert_eq!(std::fs::read_dir(folder.join("one")).unwrap().count(), 0);
}

/// An object and another network come while the processes start: they end with what a scheduler tries again after, and the next try finds them alike.
#[test]
fn processes_that_found_other_inputs_form_a_cluster_at_the_next_try() {
    let folder = prepared(4, &[40, 8, 6, 3]);
    let folder = folder.path();
    let file = run_file(folder, "out").write(folder, "out");
    let more = ["--deadline", "4"];
    let mut processes = Processes::new(2);
    processes.spawn(0, &file, 1, &[&more[..], &["--fail-at", "opened:stop"]].concat());
    let started = Instant::now();
    while !processes.is_stopped(0) {
        assert!(started.elapsed() < Duration::from_secs(60), "it never opens its inputs");
        std::thread::sleep(Duration::from_millis(2));
    }
    write_objects(&folder.join("late"), &simulated(40, 5000, 60), 60);
    std::fs::rename(
        folder.join("late/part-00000.parquet"),
        folder.join("catalogue/part-late.parquet"),
    )
    .unwrap();
    network(&folder.join("late.safetensors"), &[40, 9, 6, 3]);
    std::fs::rename(folder.join("late.safetensors"), folder.join("network.safetensors")).unwrap();
    processes.spawn(1, &file, 1, &more);
    processes.signal(0, "CONT");
    let values = [
        "catalogue is 300 rows in 5 objects, ",
        "catalogue is 240 rows in 4 objects, ",
    ];
    for (ended, values) in processes.wait_all().into_iter().zip(values) {
        let said = [
            "the cluster did not form (within 4 s: process ",
            values,
            "network is a file of SHA-256 ",
            "run again",
        ];
        ended.expect(75, &said);
    }
    // Nothing was begun under the claim of the run that saw fewer objects.
    for ended in Processes::start(2, &file, 1).wait_all() {
        ended.expect_done();
    }
    assert_eq!(counts(&folder.join("out"))["fit_spectra"], 300);
}
