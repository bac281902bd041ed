//! What `deploy/` holds, against the schemas and checkers of the systems that it is for, and against the program itself.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fisherflow_tests::{RunFile, consumer, fisherflow, network, python, repository, run, simulated, write_objects};

/// Whether a program is there; says so where it is not.
fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: there is no {program}");
    }
    found
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    stdout + &stderr
}

fn deploy(path: &str) -> PathBuf {
    repository().join("deploy").join(path)
}

/// A program of one line, in a folder that goes before all others.
fn program(folder: &Path, name: &str, line: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/usr/bin/env bash\n{line}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn before_all_others(folder: &Path) -> String {
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn manifests_fit_their_schemas_and_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    if is_there("kubectl") {
        for variant in ["job", "nightly", "jobset"] {
            let rendered = said(
                Command::new("kubectl")
                    .arg("kustomize")
                    .arg(deploy("kubernetes").join(variant)),
            );
            files.push(folder.path().join(format!("{variant}.yaml")));
            std::fs::write(files.last().unwrap(), rendered).unwrap();
        }
        let survey = said(
            Command::new("kubectl")
                .arg("kustomize")
                .arg(deploy("kubernetes/overlays/survey")),
        );
        for words in [
            "namespace: survey",
            "parallelism: 8",
            "--processes=8",
            "name: fisherflow-run-file-",
        ] {
            assert!(survey.contains(words), "{words}\n{survey}");
        }
        let rendered = folder.path().join("survey.yaml");
        std::fs::write(&rendered, survey).unwrap();
        if let Some(found) = consumer("manifests.py", [rendered]) {
            assert_eq!(found["documents"].as_array().unwrap().len(), 5, "{found}");
        }
    } else {
        for plain in [
            "base/service",
            "base/networkpolicy",
            "job/job",
            "nightly/cronjob",
            "jobset/jobset",
        ] {
            files.push(deploy("kubernetes").join(format!("{plain}.yaml")));
        }
    }
    let Some(found) = consumer("manifests.py", files) else {
        return;
    };
    println!("{found:#}");
    for kind in ["Job", "CronJob", "JobSet"] {
        let arguments = found["arguments"][kind][0].as_array().unwrap();
        let arguments: Vec<&str> = arguments.iter().map(|argument| argument.as_str().unwrap()).collect();
        pod_arguments_are_understood(&arguments);
    }
}

/// Kustomize puts everything into a namespace, and makes none.
#[test]
fn the_namespace_of_an_overlay_is_made_before_anything_is_made_in_it() {
    let commands = std::fs::read_to_string(deploy("README.md")).unwrap();
    let at = |command: &str| commands.lines().position(|line| line.trim_start().starts_with(command));
    let mut named = 0;
    for overlay in std::fs::read_dir(deploy("kubernetes/overlays")).unwrap() {
        let overlay = std::fs::read_to_string(overlay.unwrap().path().join("kustomization.yaml")).unwrap();
        let Some(namespace) = overlay.lines().find_map(|line| line.strip_prefix("namespace: ")) else {
            continue;
        };
        let made = at(&format!("kubectl create namespace {namespace}"));
        let used = at(&format!("kubectl -n {namespace} "));
        assert!(
            made.is_some() && used.is_some() && made < used,
            "{namespace}: {made:?} {used:?}"
        );
        named += 1;
    }
    assert!(named > 0);
}

/// As the overlay of the survey, of the JobSet in place of the nightly run.
#[test]
fn an_overlay_of_the_jobset_refers_to_the_config_maps_that_it_makes() {
    if !is_there("kubectl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    said(
        Command::new("cp")
            .arg("-r")
            .arg(deploy("kubernetes"))
            .arg(folder.path()),
    );
    let overlay = folder.path().join("kubernetes/overlays/survey");
    let file = overlay.join("kustomization.yaml");
    let survey = std::fs::read_to_string(&file).unwrap();
    let (kept, _) = survey.split_once("patches:").unwrap();
    std::fs::write(&file, kept.replace("../../nightly", "../../jobset")).unwrap();
    let rendered = said(Command::new("kubectl").arg("kustomize").arg(overlay));
    assert!(rendered.contains("kind: JobSet"), "{rendered}");
    for made in ["fisherflow-run-file", "fisherflow-s3"] {
        let name = format!("name: {made}-");
        let names: Vec<&str> = rendered
            .lines()
            .filter_map(|line| line.trim().strip_prefix(&name))
            .collect();
        assert!(
            names.len() == 2 && names[0] == names[1],
            "{made}: {names:?}\n{rendered}"
        );
    }
}

/// As the second of four pods starts, before the names of the others are known.
fn pod_arguments_are_understood(arguments: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    network(&path.join("network.safetensors"), &[40, 6, 3]);
    write_objects(&path.join("catalogue"), &simulated(40, 0, 60), 60);
    let file = RunFile::new(path, "out").write(path, "run");
    let secret = path.join("secret");
    std::fs::write(&secret, "hush").unwrap();
    let arguments = arguments.iter().map(|argument| match *argument {
        "/run-file/run.toml" => file.to_str().unwrap().to_owned(),
        "--secret-file=/cluster-secret/secret" => format!("--secret-file={}", secret.display()),
        "--deadline=600" => "--deadline=2".to_owned(),
        "--log=json" => "--log=text".to_owned(),
        "--metrics=0.0.0.0:9464" => "--metrics=127.0.0.1:0".to_owned(),
        other => other.replace("$(JOB_NAME)", "night.invalid").replace("$(CPUS)", "1"),
    });
    let mut pod = fisherflow();
    pod.args(arguments).env("JOB_COMPLETION_INDEX", "1");
    run(&mut pod).expect(
        75,
        &["missing: 0 at night.invalid-0.fisherflow:2101, 2 at night.invalid-2.fisherflow:2101, 3 at"],
    );
}

#[test]
fn the_run_file_of_the_overlay_is_one() {
    let survey = deploy("kubernetes/overlays/survey/run.toml");
    let mut plan = fisherflow();
    // It is read to its end: what is missing is the store.
    plan.arg("plan").arg(survey).envs([
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ALLOW_HTTP", "true"),
    ]);
    run(&mut plan).expect(75, &["does not answer for s3://survey/:", "run again once it is back"]);
}

#[test]
fn the_image_is_made_of_files_that_its_builder_is_given() {
    let ignored = std::fs::read_to_string(repository().join(".dockerignore")).unwrap();
    assert_eq!(ignored.lines().next(), Some("*"), "everything but what is named");
    let given: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let recipe = std::fs::read_to_string(deploy("Containerfile")).unwrap();
    let mut copied = 0;
    for line in recipe.lines().filter(|line| line.starts_with("COPY ")) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        // What an earlier stage made comes from there.
        if words[0].starts_with("--from=") {
            continue;
        }
        for source in &words[..words.len() - 1] {
            assert!(repository().join(source).exists(), "{source}");
            let is_given = given
                .iter()
                .any(|kept| Path::new(source).starts_with(kept) || Path::new(kept).starts_with(source));
            assert!(is_given, "{line}: .dockerignore leaves {source} out");
            copied += 1;
        }
    }
    assert!(copied > 0);
}

/// Of the run file of README.md, in the folder that the example mounts.
#[test]
fn the_example_of_the_image_may_write_its_output() {
    let recipe = std::fs::read_to_string(deploy("Containerfile")).unwrap();
    let example = recipe.lines().find(|line| line.contains("podman run ")).unwrap();
    assert!(example.contains("--user \"$(id -u):$(id -g)\""), "{example}");
    let words: Vec<&str> = example.split_whitespace().map(|word| word.trim_matches('"')).collect();
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, output) = readme.split_once("\n[output]\nuri = \"").unwrap();
    let (output, _) = output.split_once('"').unwrap();
    let output = Path::new(words.last().unwrap()).with_file_name(output);
    let mounts = words.windows(2).filter(|pair| pair[0] == "-v");
    let nearest = mounts
        .map(|pair| pair[1].split(':').collect::<Vec<&str>>())
        .filter(|mount| output.starts_with(mount[1]))
        .max_by_key(|mount| mount[1].len())
        .unwrap();
    assert_eq!(nearest, ["$PWD/out", "/data/out"], "{}", output.display());
}

#[test]
fn shell_scripts_are_sound() {
    let scripts = [
        deploy("slurm.sh"),
        repository().join("tests/run"),
        repository().join("tests/environment"),
        repository().join("tests/same-memory"),
        repository().join("tests/cluster-model"),
    ];
    for script in &scripts {
        said(Command::new("bash").arg("-n").arg(script));
    }
    let Some(shellcheck) = python().map(|python| python.with_file_name("shellcheck")) else {
        return;
    };
    said(Command::new(shellcheck).args(&scripts));
}

/// What the job of Slurm does with the ends of its processes: its own exit code, and whether it is queued again.
#[test]
fn the_slurm_job_is_queued_again_after_75_and_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    // As srun does: a task for each process, and the highest of their codes.
    let tasks = r#"[ -n "$FISHERFLOW_CLUSTER_SECRET" ] || exit 99
while [ "$1" != bash ]; do shift; done
most=0
for code in $CODES; do
    CODE=$code "$@" || { ended=$?; [ "$ended" -le "$most" ] || most=$ended; }
done
exit "$most""#;
    program(folder.path(), "srun", tasks);
    program(folder.path(), "fisherflow", r#"echo "fisherflow $*"; exit "$CODE""#);
    program(folder.path(), "scontrol", r#"echo "scontrol $*""#);
    let job = |codes: &str, restarts: &str| {
        let output = Command::new(deploy("slurm.sh"))
            .arg("run.toml")
            .current_dir(folder.path())
            .env("PATH", before_all_others(folder.path()))
            .envs([
                ("CODES", codes),
                ("SLURM_RESTART_COUNT", restarts),
                ("SLURM_JOB_ID", "7"),
                ("SLURM_CPUS_PER_TASK", "16"),
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("fisherflow run run.toml --slurm --workers 16"), "{said}");
        (output.status.code(), said.contains("scontrol requeue 7"))
    };
    for (codes, expected) in [
        ("0 0", (Some(0), false)),
        ("1 1", (Some(1), false)),
        ("2 2", (Some(2), false)),
        ("3 3", (Some(3), false)),
        ("75 75", (Some(75), true)),
        ("75 137", (Some(137), true)),
        // There is no program, or it cannot be started.
        ("127 127", (Some(127), false)),
        ("126 137", (Some(126), false)),
        // No code of a run.
        ("64 64", (Some(64), false)),
        // One alone knows that it is in vain.
        ("75 2", (Some(2), false)),
        ("3 137", (Some(3), false)),
    ] {
        assert_eq!(job(codes, "0"), expected, "{codes}");
    }
    assert_eq!(job("75 75", "8"), (Some(75), false));
    // Two jobs on a node would be at one port.
    let script = std::fs::read_to_string(deploy("slurm.sh")).unwrap();
    assert!(script.lines().any(|line| line == "#SBATCH --exclusive"));
}

#[test]
fn the_tries_of_one_night_are_not_taken_from_the_next() {
    let value = |unit: &str, key: &str| {
        let text = std::fs::read_to_string(deploy("systemd").join(unit)).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        value.unwrap_or_else(|| panic!("{unit} has no {key}"))
    };
    let hours = value("fisherflow@.service", "StartLimitIntervalSec=");
    let hours: u64 = hours.strip_suffix('h').expect("hours").parse().unwrap();
    let delay: u64 = value("fisherflow@.timer", "RandomizedDelaySec=").parse().unwrap();
    assert!(3600 * hours + delay < 24 * 3600, "{hours} h, {delay} s");
}

#[test]
fn systemd_takes_the_units() {
    if !is_there("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for unit in ["fisherflow@.service", "fisherflow@.timer"] {
        let text = std::fs::read_to_string(deploy("systemd").join(unit)).unwrap();
        // Programs and documents must be there for a unit to pass.
        let text: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with("Documentation="))
            .map(|line| {
                line.replace(
                    "/usr/local/bin/fisherflow",
                    fisherflow().get_program().to_str().unwrap(),
                )
            })
            .collect();
        std::fs::write(folder.path().join(unit), text.join("\n")).unwrap();
    }
    let verify = |unit: &str| {
        Command::new("systemd-analyze")
            .arg("verify")
            .arg(folder.path().join(unit))
            .output()
            .unwrap()
    };
    for unit in ["fisherflow@night.service", "fisherflow@night.timer"] {
        let output = verify(unit);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !said.contains(&format!("{}:", folder.path().display())),
            "{unit}: {said}"
        );
    }
    // That a mistake would be seen.
    let service = folder.path().join("fisherflow@.service");
    let wrong = std::fs::read_to_string(&service)
        .unwrap()
        .replace("RestartSec=60", "RestartSek=60");
    std::fs::write(&service, wrong).unwrap();
    let said = String::from_utf8_lossy(&verify("fisherflow@night.service").stderr).into_owned();
    assert!(said.contains("RestartSek"), "{said}");
}
