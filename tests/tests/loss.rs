//! Processes that die, hang or are asked to end: every process ends in time, with exit code 75 and one line that names the one; and
//! the same run again writes the same bits. A target of its own: how soon others end is bounded here, and what starves them of cores is no loss.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use fisherflow_tests::{
    Ended, Processes, RunFile, broken_parquet, digests, fisherflow, has_manifest, network, run, simulated, stages_left,
    wait_for_file, write_objects,
};

/// How often a run is started again that was over before anything could be done to it.
const TRIES: usize = 10;
/// From the death of a process to the end of all others, on a machine that has other work.
const AT_ONCE: Duration = Duration::from_millis(2500);
/// The end of the first pass that writes, while the others are still to come.
const TRIGGER: &str = "posterior/hessian/block-000.parquet";

/// A network and its catalogues, and what an undisturbed run makes of them.
struct Survey {
    folder: tempfile::TempDir,
    undisturbed: BTreeMap<String, String>,
}

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    network(&path.join("network.safetensors"), &[400, 192, 48, 3]);
    write_objects(&path.join("catalogue"), &simulated(400, 0, 1800), 60);
    write_objects(&path.join("stars"), &simulated(400, 10_000, 900), 60);
    folder
}

/// Tests that run at the same time have one of them.
fn survey() -> Arc<Survey> {
    static SHARED: Mutex<Weak<Survey>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let folder = prepared();
        run(fisherflow().arg("run").arg(run_file(folder.path(), "undisturbed"))).expect_done();
        let undisturbed = digests(&folder.path().join("undisturbed"));
        let survey = Arc::new(Survey { folder, undisturbed });
        *shared = Arc::downgrade(&survey);
        survey
    })
}

fn run_file(folder: &Path, output: &str) -> std::path::PathBuf {
    let mut run_file = RunFile::new(folder, output).predicting(folder, "stars");
    run_file.curvature = "structure = \"kfac\"\n[curvature.layers]\n\"layers.4\" = \"full\"".to_owned();
    run_file.write(folder, output)
}

/// Starts the processes and does `act` to them once [`TRIGGER`] is there; again where the run was over too soon.
fn disturbed(
    folder: &Path,
    name: &str,
    start: impl Fn(&Path) -> Processes,
    mut act: impl FnMut(&mut Processes),
) -> (Processes, Instant) {
    let (output, file) = (folder.join(name), run_file(folder, name));
    for _ in 0..TRIES {
        let mut processes = start(&file);
        let there = wait_for_file(&output.join(TRIGGER), &mut processes, 0);
        let acted = Instant::now();
        act(&mut processes);
        if there && !has_manifest(&output) {
            return (processes, acted);
        }
        drop(processes);
        std::fs::remove_dir_all(&output).unwrap();
    }
    panic!("{TRIES} times the run was over before {TRIGGER} was seen");
}

fn three(file: &Path) -> Processes {
    let mut processes = Processes::new(3);
    for process in 0..3 {
        processes.spawn(process, file, 1, &["--peer-timeout", "2"]);
    }
    processes
}

/// Runs the same again, to its end.
fn expect_to_go_on(survey: &Survey, name: &str) {
    let folder = survey.folder.path();
    let output = folder.join(name);
    assert!(!has_manifest(&output) && !output.join("_SUCCESS").exists());
    let file = folder.join(format!("{name}.toml"));
    for ended in Processes::start(2, &file, 2).wait_all() {
        ended.expect_done();
    }
    assert_eq!(digests(&output), survey.undisturbed, "{name}");
    assert_eq!(stages_left(&output), 0, "{name}");
}

fn wait_for(processes: &mut Processes, which: &[usize]) -> Vec<Ended> {
    which.iter().map(|&process| processes.wait(process)).collect()
}

#[test]
fn a_killed_process_ends_all_others_at_once_and_is_named() {
    let survey = survey();
    let folder = survey.folder.path();
    for (killed, others) in [(0, [1, 2]), (1, [0, 2])] {
        let name = format!("killed-{killed}");
        let (mut processes, acted) = disturbed(folder, &name, three, |processes| processes.kill(killed));
        let who = format!("process {killed} at {}", processes.address(killed));
        for ended in wait_for(&mut processes, &others) {
            ended.expect(75, &["a process of the cluster was lost", &who, "run again"]);
        }
        assert!(acted.elapsed() < AT_ONCE, "{:?}", acted.elapsed());
        println!("process {killed} killed: all others ended within {:?}", acted.elapsed());
        expect_to_go_on(&survey, &name);
    }
}

/// Its kernel goes on acknowledging; only its own word says that it lives.
#[test]
fn a_stopped_process_is_given_up_in_time() {
    let survey = survey();
    let folder = survey.folder.path();
    for (stopped, others) in [(0, [1, 2]), (2, [0, 1])] {
        let name = format!("stopped-{stopped}");
        let (mut processes, acted) = disturbed(folder, &name, three, |processes| {
            if !processes.has_ended(stopped) {
                processes.signal(stopped, "STOP");
            }
        });
        let who = format!("process {stopped} at {}", processes.address(stopped));
        let ended = wait_for(&mut processes, &others);
        for ended in &ended {
            ended.expect(75, &["a process of the cluster was lost", &who, "run again"]);
        }
        let timeout = Duration::from_secs(2);
        assert!(
            acted.elapsed() > timeout / 2 && acted.elapsed() < timeout + AT_ONCE,
            "{:?}",
            acted.elapsed()
        );
        assert!(
            ended
                .iter()
                .any(|ended| ended.stderr.contains("no sign of life for 2 s"))
        );
        println!(
            "process {stopped} stopped: all others ended within {:?}",
            acted.elapsed()
        );
        // It wakes up among the dead.
        processes.signal(stopped, "CONT");
        processes.wait(stopped).expect(75, &["run again"]);
        expect_to_go_on(&survey, &name);
    }
}

#[test]
fn a_process_asked_to_end_takes_all_along() {
    let survey = survey();
    let folder = survey.folder.path();
    for (signal, asked) in [("TERM", 0), ("INT", 2)] {
        let name = format!("{signal}-{asked}");
        let (mut processes, acted) = disturbed(folder, &name, three, |processes| {
            if !processes.has_ended(asked) {
                processes.signal(asked, signal);
            }
        });
        let who = format!("process {asked} at {}", processes.address(asked));
        let how = if signal == "TERM" {
            "after its groups under way"
        } else {
            "at once"
        };
        for ended in processes.wait_all() {
            ended.expect(75, &["stopped by a signal", &who, how, "run again"]);
        }
        assert!(acted.elapsed() < 2 * AT_ONCE, "{:?}", acted.elapsed());
        println!("SIG{signal} to process {asked}: all ended within {:?}", acted.elapsed());
        expect_to_go_on(&survey, &name);
    }
}

/// Another try would end the same: no process says to run again, whoever comes upon the damage.
#[test]
fn an_object_that_one_process_cannot_read_ends_all_with_its_exit_code() {
    let folder = prepared();
    let folder = folder.path();
    let damaged = broken_parquet(&simulated(400, 20_000, 60), 60, 0);
    std::fs::write(folder.join("catalogue/part-99999.parquet"), damaged).unwrap();
    let ended = three(&run_file(folder, "damaged")).wait_all();
    for ended in &ended {
        ended.expect(3, &["row group 0 of", "part-99999.parquet", "write it again"]);
    }
    let told = ended.iter().filter(|ended| ended.stderr.contains(" failed: ")).count();
    assert!(told > 0, "nobody was told of it: {}", ended[0]);
    assert!(!has_manifest(&folder.join("damaged")));
}

#[test]
fn a_process_alone_ends_in_order_too() {
    let survey = survey();
    let folder = survey.folder.path();
    for signal in ["TERM", "INT"] {
        let name = format!("alone-{signal}");
        let alone = |file: &Path| Processes::start(1, file, 2);
        let (mut processes, acted) = disturbed(folder, &name, alone, |processes| {
            if !processes.has_ended(0) {
                processes.signal(0, signal);
            }
        });
        processes.wait(0).expect(75, &["stopped by", "run again"]);
        assert!(acted.elapsed() < 2 * AT_ONCE, "{:?}", acted.elapsed());
        expect_to_go_on(&survey, &name);
    }
}

/// What a finished group left in the output, and the output lost: that group is made again, and no other.
#[test]
fn a_group_whose_file_is_gone_or_cut_short_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &[40, 8, 6, 3]);
    write_objects(&folder.join("catalogue"), &simulated(40, 0, 240), 60);
    let start = |output: &str, more: &[&str]| {
        let file = RunFile::new(folder, output).write(folder, output);
        run(fisherflow().arg("run").arg(file).args(more))
    };
    start("undisturbed", &[]).expect_done();
    let output = folder.join("out");
    // All groups of the fit are done.
    let killed = start("out", &["--fail-at", "merged"]);
    assert_eq!(killed.code, None, "{killed}");
    let [gone, cut] = [0, 1].map(|part| output.join(format!("jacobians/part-{part:05}.parquet")));
    std::fs::remove_file(gone).unwrap();
    std::fs::write(cut, "PAR1").unwrap();
    let again = start("out", &[]);
    again.expect_done();
    assert!(again.stderr.contains("groups_computed=2 "), "{again}");
    assert_eq!(digests(&output), digests(&folder.join("undisturbed")));
}
