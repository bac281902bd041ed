//! Groups as the unit of work: killed in the middle of any pass, a run goes on with the groups that are missing, and writes the same bits.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fisherflow_tests::{
    Processes, RunFile, digests, fisherflow, has_manifest, network, run, simulated, stages_left, write_objects,
};

/// Groups of the fit, and those of the stars.
const GROUPS: [usize; 2] = [40, 30];
/// Spectra of an object, which is a group: few, as three rows each are in the Gram matrix of the dual layer.
const OBJECT: usize = 12;
/// How often a run is started again whose pass was over before it could be killed.
const TRIES: usize = 20;

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    network(&path.join("network.safetensors"), &[60, 24, 10, 3]);
    for (name, first, groups) in [("catalogue", 0, GROUPS[0]), ("stars", 10_000, GROUPS[1])] {
        let spectra = simulated(60, first, (OBJECT * groups) as u64);
        write_objects(&path.join(name), &spectra, OBJECT);
    }
    folder
}

fn run_file(folder: &Path, output: &str, is_fused: bool) -> std::path::PathBuf {
    let mut run_file = RunFile::new(folder, output);
    if !is_fused {
        run_file = run_file.predicting(folder, "stars");
    }
    run_file.curvature = "structure = \"ekfac\"\n[curvature.layers]\n\"layers.2\" = \"dual\"".to_owned();
    run_file.compute = format!("batch = 8\ngroup = {OBJECT}");
    run_file.write(folder, output)
}

/// Finished groups of a pass.
fn finished(output: &Path, pass: &str) -> usize {
    let Ok(folder) = std::fs::read_dir(output.join("stages/groups").join(pass)) else {
        return 0;
    };
    let is_done = |name: &str| name.ends_with(".done");
    folder
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_done))
        .count()
}

/// Runs with one worker until some groups of a pass are finished, and kills it then; how many there were.
fn killed_in(pass: &str, of: usize, file: &Path, output: &Path) -> usize {
    for _ in 0..TRIES {
        let mut processes = Processes::start(1, file, 1);
        while finished(output, pass) < 2 && !processes.has_ended(0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        processes.kill(0);
        let there = finished(output, pass);
        if there >= 2 && there < of && !has_manifest(output) {
            return there;
        }
        std::fs::remove_dir_all(output).unwrap();
    }
    panic!("{TRIES} times the pass {pass} was over before the run was killed");
}

/// A number in the log's line on a finished pass.
fn logged(stderr: &str, pass: &str, field: &str) -> usize {
    let (start, named) = (format!(" {field}="), format!("pass=\"{pass}\""));
    let value = stderr
        .lines()
        .filter(|line| line.contains(&named))
        .find_map(|line| line.split_once(&start)?.1.split(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {field} of {pass} in {stderr}"))
}

fn go_on(is_fused: bool, passes: &[(&str, usize)]) {
    let folder = prepared();
    let folder = folder.path();
    run(fisherflow().arg("run").arg(run_file(folder, "undisturbed", is_fused))).expect_done();
    let expected: BTreeMap<String, String> = digests(&folder.join("undisturbed"));
    let before_the_certificate = ["curvature", "correction"];
    for &(pass, of) in passes {
        let name = format!("killed-in-{pass}");
        let (file, output) = (run_file(folder, &name, is_fused), folder.join(&name));
        let there = killed_in(pass, of, &file, &output);
        for ended in Processes::start(2, &file, 2).wait_all() {
            ended.expect_done();
            if !ended.stderr.contains("groups_resumed") {
                // The first process alone speaks for all.
                continue;
            }
            assert_eq!(logged(&ended.stderr, pass, "groups"), of);
            assert_eq!(logged(&ended.stderr, pass, "groups_resumed"), there);
            assert_eq!(logged(&ended.stderr, pass, "groups_computed"), of - there);
            // Nor is what is made before it made again.
            assert_eq!(
                ended.stderr.contains("pass=\"subset\""),
                before_the_certificate.contains(&pass),
                "{name}: {ended}"
            );
        }
        assert_eq!(digests(&output), expected, "{name}");
        assert_eq!(stages_left(&output), 0, "{name}");
        println!("{name}: {there} of {of} groups were there");
    }
}

#[test]
fn a_run_killed_in_any_pass_goes_on_with_the_missing_groups() {
    let [fit, stars] = GROUPS;
    go_on(
        false,
        &[
            ("curvature", fit),
            ("correction", fit),
            ("certify", fit),
            ("predict", stars),
        ],
    );
}

/// Changes a byte of the sums of one finished group of a pass.
fn damage_sums(output: &Path, pass: &str) {
    let folder = output.join("stages/groups").join(pass);
    let is_finished = |file: &Path| {
        let name = file.file_name().and_then(|name| name.to_str());
        let group = name.and_then(|name| name.strip_suffix(".sums")?.split_once('-'));
        group.is_some_and(|(group, _)| folder.join(format!("{group}.done")).exists())
    };
    let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|file| is_finished(file)).expect("a finished group");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[11] ^= 1;
    std::fs::write(&file, bytes).unwrap();
}

#[test]
fn a_group_whose_sums_are_damaged_is_computed_again() {
    let folder = prepared();
    let folder = folder.path();
    let start = |name: &str| run(fisherflow().arg("run").arg(run_file(folder, name, false)));
    start("undisturbed").expect_done();
    let output = folder.join("damaged");
    killed_in("curvature", GROUPS[0], &run_file(folder, "damaged", false), &output);
    damage_sums(&output, "curvature");
    start("damaged").expect(75, &[".sums is damaged", "start the run again"]);
    start("damaged").expect_done();
    assert_eq!(digests(&output), digests(&folder.join("undisturbed")));
}

/// Damages what every finished group of the fit kept for the prediction, which stands behind its sums.
fn damage_kept(output: &Path) {
    for file in of_curvature(output, "sums") {
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
}

/// Cuts their files off, before what they kept.
fn cut_off(output: &Path) {
    for file in of_curvature(output, "sums") {
        let file = std::fs::File::options().write(true).open(file);
        file.unwrap().set_len(8).unwrap();
    }
}

/// Removes their files, and not the records.
fn remove_sums(output: &Path) {
    for file in of_curvature(output, "sums") {
        std::fs::remove_file(file).unwrap();
    }
}

/// The files of the curvature pass with an extension.
fn of_curvature(output: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let folder = std::fs::read_dir(output.join("stages/groups/curvature")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|found| found == extension))
        .collect()
}

#[test]
fn what_a_group_kept_for_the_prediction_is_computed_again_where_it_is_damaged_or_gone_and_nothing_else() {
    let folder = prepared();
    let folder = folder.path();
    let start = |name: &str, more: &[&str]| run(fisherflow().arg("run").arg(run_file(folder, name, true)).args(more));
    start("undisturbed", &[]).expect_done();
    let remove_record = |output: &Path| std::fs::remove_file(&of_curvature(output, "done")[0]).unwrap();
    type Damage<'a> = &'a dyn Fn(&Path);
    // That a record is gone is what a listing tells: no second start.
    let damages: [(&str, Damage<'_>, bool); 4] = [
        ("damaged", &damage_kept, true),
        ("cut-off", &cut_off, true),
        ("sums-gone", &remove_sums, true),
        ("gone", &remove_record, false),
    ];
    for (name, damage, is_read) in damages {
        // Sums, fit, inverse and certificate are there, and no prediction.
        let killed = start(name, &["--fail-at", "stage-left:4"]);
        assert_eq!(killed.code, None, "{killed}");
        let output = folder.join(name);
        assert_eq!(
            (finished(&output, "curvature"), finished(&output, "predict")),
            (GROUPS[0], 0)
        );
        damage(&output);
        if is_read {
            start(name, &[]).expect(75, &["for the prediction", ".sums is damaged", "start the run again"]);
        }
        let ended = start(name, &[]);
        ended.expect_done();
        assert_eq!(logged(&ended.stderr, "predict", "groups_computed"), GROUPS[0], "{name}");
        let is_of_fit = |line: &str| line.contains("groups done") && line.contains("pass=\"curvature\"");
        assert!(!ended.stderr.lines().any(is_of_fit), "{name}: {ended}");
        assert_eq!(digests(&output), digests(&folder.join("undisturbed")), "{name}");
    }
}

#[test]
fn so_does_one_whose_passes_serve_both_fit_and_prediction() {
    let [fit, _] = GROUPS;
    go_on(true, &[("curvature", fit), ("certify", fit), ("predict", fit)]);
}
