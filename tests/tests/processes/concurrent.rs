//! Two runs on one output, on one machine and on two: one has it, the other is told who; and a holder that was given up commits nothing.
//!
//! Another machine is a process in namespaces of its own, with other process numbers and another name; where these cannot be made the tests
//! say so and pass.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fisherflow_tests::{Place, Processes, digests, everything_in, fisherflow, has_manifest, manifest, run};

/// Something that takes longer does not come.
const COMES: Duration = Duration::from_secs(60);

/// What a complete output holds beside its tables.
const KEPT: [&str; 4] = ["_SUCCESS", "claim.json", "manifest.json", "report.html"];

fn place() -> Place {
    Place::new(&[40, 8, 6, 3], 240)
}

/// The command on another machine, as far as processes can tell.
fn elsewhere(command: &Command) -> Command {
    let mut there = Command::new("unshare");
    there
        .args(["--uts", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", "hostname elsewhere && exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env("NO_COLOR", "1");
    there
}

fn there_is_an_elsewhere() -> bool {
    let tried = elsewhere(&Command::new("true")).output();
    let there = tried.as_ref().is_ok_and(|tried| tried.status.success());
    if !there {
        println!("skipped: no namespaces of processes and names here: {tried:?}");
    }
    there
}

/// `fisherflow run` whose holder is given up after 600 ms of silence.
fn quick(file: &Path, more: &[&str]) -> Command {
    let mut command = fisherflow();
    command.arg("run").arg(file).args(["--peer-timeout", "1"]).args(more);
    command
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < COMES, "{what}: never");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A run that holds its output and stands still at a point.
fn stopped_at(point: &str, file: &Path) -> Processes {
    Processes::stopped_at(point, quick(file, &[]))
}

#[test]
fn the_same_run_started_twice_is_refused_by_the_one_at_work() {
    let place = place();
    let expected = place.undisturbed();
    let file = place.run_file("out");
    let mut holder = stopped_at("planned", &file);
    let held = format!("(process {} on ", holder.id(0));
    for more in [&[][..], &["--overwrite"]] {
        run(&mut quick(&file, more)).expect(1, &["is held by run", &held, "wait for it"]);
    }
    run(&mut quick(&place.other_run_file("out"), &[])).expect(1, &["is held by run", &held]);
    holder.signal(0, "CONT");
    holder.wait(0).expect_done();
    assert_eq!(digests(&place.path("out")), expected);
}

/// All at once, as a scheduler may start them that believes the first one lost: one writes, the others refuse or find nothing to do.
#[test]
fn of_several_equal_runs_at_once_one_writes() {
    let place = place();
    let expected = place.undisturbed();
    for round in 0..3 {
        let name = format!("out-{round}");
        let file = place.run_file(&name);
        let mut runs: Vec<Processes> = (0..4).map(|_| Processes::start(1, &file, 2)).collect();
        let mut wrote = 0;
        for run in &mut runs {
            let ended = run.wait(0);
            if ended.code == Some(0) {
                wrote += usize::from(!ended.stdout.contains("nothing to do"));
            } else {
                ended.expect(1, &["is held by run"]);
            }
        }
        assert_eq!(wrote, 1);
        assert_eq!(digests(&place.path(&name)), expected);
    }
}

#[test]
fn a_holder_on_another_machine_is_heard() {
    if !there_is_an_elsewhere() {
        return;
    }
    let place = place();
    let file = place.run_file("out");
    // The first of two processes claims the output and waits for the second, which does not come.
    let mut holder = Processes::new(2);
    let mut first = fisherflow();
    holder.place(&mut first, 0, &file);
    first.args(["--peer-timeout", "1", "--deadline", "120"]);
    holder.spawn_as(0, elsewhere(&first));
    wait_until("a claim", || place.path("out/claim.json").exists());
    for more in [&[][..], &["--overwrite"]] {
        run(&mut quick(&file, more)).expect(1, &["is held by run", " on elsewhere, since", "wait for it"]);
    }
    holder.kill(0);
    // It is silent now.
    run(&mut quick(&file, &[])).expect_done();
    assert!(has_manifest(&place.path("out")));
}

/// Wherever it stood still, whoever was given up ends when it wakes, and changes nothing.
#[test]
fn a_holder_that_was_given_up_commits_nothing() {
    if !there_is_an_elsewhere() {
        return;
    }
    let place = place();
    let expected = place.undisturbed();
    for point in [
        "claimed",
        "group-summed",
        "before-stage",
        "part-written",
        "before-manifest",
    ] {
        let file = place.run_file(point);
        let mut holder = stopped_at(point, &file);
        let mut follower = quick(&file, &[]);
        run(follower.env("NO_COLOR", "1")).expect(1, &["is held by run"]);
        run(&mut elsewhere(&quick(&file, &[]))).expect_done();
        let (output, before) = (place.path(point), digests(&place.path(point)));
        assert_eq!(before, expected, "{point}");
        let left = manifest(&output);
        holder.signal(0, "CONT");
        let ended = holder.wait(0);
        // Whatever it met first: stages that are cleared, or its claim gone.
        ended.expect(75, &["was taken over by run", " on elsewhere", "run again"]);
        assert_eq!(digests(&place.path(point)), expected, "{point}");
        assert_eq!(manifest(&output), left, "{point}");
        run(&mut quick(&file, &[])).expect_done();
        let there = everything_in(&output);
        let is_known = |file: &&String| file.ends_with(".parquet") || KEPT.contains(&file.as_str());
        assert_eq!(there.iter().find(|file| !is_known(file)), None, "{point}");
        assert!(!there.iter().any(|file| file.starts_with("stages/")), "{point}");
    }
}

/// Once its commit is in the log nobody can take the output from it; whoever comes writes its manifest.
#[test]
fn what_is_committed_stays_committed() {
    if !there_is_an_elsewhere() {
        return;
    }
    let place = place();
    let expected = place.undisturbed();
    let file = place.run_file("sealed");
    let mut holder = stopped_at("sealed", &file);
    assert!(!has_manifest(&place.path("sealed")));
    let mut other = quick(&place.other_run_file("sealed"), &["--overwrite"]);
    run(&mut other).expect(1, &["is held by run"]);
    let done = run(&mut elsewhere(&quick(&file, &[])));
    done.expect_done();
    assert!(done.stdout.contains("nothing to do"), "{done}");
    assert_eq!(digests(&place.path("sealed")), expected);
    holder.signal(0, "CONT");
    holder.wait(0).expect_done();
    assert_eq!(digests(&place.path("sealed")), expected);
    run(fisherflow().arg("verify").arg(place.path("sealed"))).expect_done();
}

/// What another run is about to remove is not completed again under it.
#[test]
fn an_output_that_is_being_overwritten_is_not_marked_again() {
    let place = place();
    let (file, mark) = (place.run_file("out"), place.path("out/_SUCCESS"));
    run(&mut quick(&file, &[])).expect_done();
    let mut other = Processes::stopped_at("claimed", quick(&place.other_run_file("out"), &["--overwrite"]));
    // As it will, the first of all.
    std::fs::remove_file(&mark).unwrap();
    run(&mut quick(&file, &[])).expect(1, &["is held by run"]);
    assert!(!mark.exists());
    other.kill(0);
    run(&mut quick(&file, &[])).expect_done();
    assert!(mark.exists());
}

/// As a scheduler does that starts the same arguments again.
#[test]
fn an_overwriting_run_that_died_in_its_last_steps_ends_them() {
    let place = place();
    let expected = place.undisturbed();
    for point in ["sealed", "committed", "cleared"] {
        let (file, output) = (place.run_file(point), place.path(point));
        run(&mut quick(&place.other_run_file(point), &[])).expect_done();
        let killed = run(&mut quick(&file, &["--overwrite", "--fail-at", point]));
        assert_eq!(killed.code, None, "{point}\n{killed}");
        let again = run(&mut quick(&file, &["--overwrite"]));
        again.expect_done();
        // Behind the last step it is as finished as any other.
        let has_ended = point == "cleared";
        assert_eq!(again.stdout.contains("nothing to do"), !has_ended, "{point}\n{again}");
        assert_eq!(digests(&place.path(point)), expected, "{point}");
        let left = everything_in(&output);
        let is_left = |file: &String| file.starts_with("stages/") || file.starts_with("claims/");
        assert!(!left.iter().any(is_left), "{point}: {left:?}");
    }
}

/// Another run that overwrites a holder which fell silent.
#[test]
fn an_overwritten_run_commits_nothing() {
    if !there_is_an_elsewhere() {
        return;
    }
    let place = place();
    let parts = place.undisturbed();
    // The passes for curvature, certificate and predictions have a group for each part: behind the last one the small tables are written.
    let groups = parts.keys().filter(|file| file.starts_with("predictions/")).count();
    let last = format!("group-done:{}", 3 * groups);
    for point in [
        "group-summed",
        "before-part:2",
        &last,
        "before-manifest",
        "sealed",
        "committed",
    ] {
        let name = point.replace(':', "-");
        let (file, other) = (place.run_file(&name), place.other_run_file(&name));
        let mut holder = stopped_at(point, &file);
        run(&mut elsewhere(&quick(&other, &["--overwrite"]))).expect_done();
        let (left, written) = (manifest(&place.path(&name)), digests(&place.path(&name)));
        holder.signal(0, "CONT");
        holder.wait(0).expect(75, &["was taken over by run"]);
        assert_eq!(manifest(&place.path(&name)), left, "{point}");
        assert_eq!(digests(&place.path(&name)), written, "{point}");
        run(fisherflow().arg("verify").arg(place.path(&name))).expect_done();
        run(fisherflow().arg("run").arg(OsStr::new(&file))).expect(2, &["already holds the finished run"]);
    }
}
