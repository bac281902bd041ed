//! What is typed: files that would be lost, places that are none, numbers that no machine has, how much is said, and the exit code of each.

use std::fs;
use std::path::{Path, PathBuf};

use fisherflow_tests::{Ended, RunFile, fisherflow, network, repository, run, simulated, write_objects};

const PIXELS: usize = 12;

/// A folder with a network and a catalogue, and what is asked of the program there.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        network(&folder.path().join("network.safetensors"), &[PIXELS, 4, 3]);
        write_objects(&folder.path().join("catalogue"), &simulated(PIXELS, 0, 120), 60);
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run file of that name with these parts of it replaced.
    fn run_file(&self, name: &str, replace: &[(&str, &str)]) -> PathBuf {
        let mut toml = RunFile::new(self.folder.path(), "out").toml();
        for (old, new) in replace {
            assert!(toml.contains(old), "{old}");
            toml = toml.replace(old, new);
        }
        let file = self.path(&format!("{name}.toml"));
        fs::write(&file, toml).unwrap();
        file
    }

    /// The same with a `[train]` table.
    fn train_file(&self, name: &str, replace: &[(&str, &str)]) -> PathBuf {
        let file = self.run_file(name, replace);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text + "\n[train]\nhidden = [4]\nepochs = 2\n").unwrap();
        file
    }

    /// With the folder as the current one.
    fn asked(&self, arguments: &[&str]) -> Ended {
        run(fisherflow().current_dir(self.folder.path()).args(arguments))
    }
}

/// Everything in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn no_file_is_lost_unless_that_is_asked_for() {
    let place = Place::new();
    place.run_file("run", &[]);
    place.train_file("train", &[]);
    place.asked(&["run", "run.toml"]).expect_done();
    let trained = fs::read(place.path("network.safetensors")).unwrap();
    fs::write(place.path("mine.npy"), "mine").unwrap();
    fs::write(place.path("mine.parquet"), "mine").unwrap();
    let before = names(place.folder.path());
    let said = ["is there already", "--overwrite"];

    let export = ["export", "out", "--to", "curvlinops", "--out", "network.safetensors"];
    let inverse = ["inverse", "out", "--layer", "layers.0", "--diagonal", "--out"];
    place.asked(&export).expect(2, &said);
    for file in ["mine.npy", "mine.parquet"] {
        let asked = place.asked(&[&inverse[..], &[file]].concat());
        asked.expect(2, &said);
        assert!(asked.stderr.contains(file), "{asked}");
    }
    place.asked(&["train", "train.toml"]).expect(2, &said);
    // Of a finished output none is, whatever is asked for.
    for file in ["out/posterior/blocks.parquet", "out/mine.npy"] {
        place
            .asked(&[&inverse[..], &[file, "--overwrite"]].concat())
            .expect(2, &[file, "lies in the finished output"]);
    }
    for folder in ["out", "out/spectrum"] {
        place
            .asked(&["spectrum", "run.toml", "--overwrite", "--out", folder])
            .expect(2, &["summary.parquet lies in the finished output"]);
    }
    place.asked(&["verify", "out"]).expect_done();
    place
        .asked(&["report", "out", "--overwrite", "--out", "out/report.html"])
        .expect_done();
    assert!(fs::read(place.path("network.safetensors")).unwrap() == trained);
    assert_eq!(fs::read(place.path("mine.npy")).unwrap(), b"mine");
    assert_eq!(names(place.folder.path()), before);

    let hessian = ["output-hessian", "run.toml", "--diagonal", "--id"];
    let star = simulated(PIXELS, 0, 1)[0].id.clone().unwrap();
    let hessian = [&hessian[..], &[&star]].concat();
    for arguments in [&hessian[..], &["spectrum", "run.toml", "--steps", "2", "--probes", "1"]] {
        place.asked(arguments).expect_done();
        place.asked(arguments).expect(2, &said);
        place.asked(&[arguments, &["--overwrite"]].concat()).expect_done();
    }

    for file in ["mine.npy", "mine.parquet"] {
        place
            .asked(&[&inverse[..], &[file, "--overwrite"]].concat())
            .expect_done();
        assert_ne!(fs::read(place.path(file)).unwrap(), b"mine");
    }
    place.asked(&[&export[..], &["--overwrite"]].concat()).expect_done();
    assert!(fs::read(place.path("network.safetensors")).unwrap() != trained);
    place
        .asked(&["inverse", "out", "--layer", "layers.0", "--diagonal", "--out", "x.txt"])
        .expect(2, &["x.txt"]);
    place
        .asked(&["export", "out", "--to", "scipy", "--out", "x.npz"])
        .expect(2, &["x.npz: its name must end in .safetensors"]);
    let left = names(place.folder.path());
    let halves: Vec<&String> = left.iter().filter(|name| name.contains('#')).collect();
    assert!(halves.is_empty(), "{halves:?}");
}

#[test]
fn a_file_is_no_output_and_a_link_to_nothing_no_place() {
    let place = Place::new();
    place.run_file("run", &[]);
    for command in ["status", "report", "verify", "releases", "gc"] {
        let asked = place.asked(&[command, "run.toml"]);
        asked.expect(2, &["run.toml is a file", "an output is a folder"]);
    }
    place
        .asked(&["inverse", "run.toml", "--layer", "a", "--diagonal"])
        .expect(2, &["run.toml is a file"]);
    place.asked(&["inspect", "run.toml"]).expect(3, &["not a Parquet file"]);
    for (file, said) in [
        (
            "model.weights.h5",
            "a .h5 network is not yet supported by this version of fisherflow; convert it to .safetensors",
        ),
        ("net.pth", "a .pth network is not yet supported"),
        (
            "spectra.csv",
            "a .csv catalogue is not yet supported by this version of fisherflow; convert it to .parquet",
        ),
    ] {
        place.asked(&["inspect", file]).expect(3, &[file, said]);
    }
    place
        .asked(&["status", "run.toml/out"])
        .expect(3, &["no run has begun"]);

    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("not-mounted", place.path("scratch")).unwrap();
        let out = place.path("out");
        let out = out.to_str().unwrap();
        let on_scratch = place.path("scratch/out");
        place.run_file("scratch", &[(out, on_scratch.to_str().unwrap())]);
        let said = ["scratch is a link to not-mounted, which is not there"];
        for command in ["run", "fit"] {
            place.asked(&[command, "scratch.toml"]).expect(1, &said);
        }
        for command in ["status", "verify", "report"] {
            place.asked(&[command, "scratch"]).expect(1, &said);
        }
        place.asked(&["simulate", "scratch", "--spectra", "3"]).expect(1, &said);
        place
            .asked(&["export", "out", "--to", "scipy", "--out", "scratch/h.safetensors"])
            .expect(1, &said);
        assert!(!place.path("not-mounted").exists());
    }
}

#[test]
fn numbers_that_no_machine_has_are_refused() {
    let place = Place::new();
    place.run_file("run", &[]);
    for (arguments, said) in [
        (&["run", "run.toml", "-w", "20000"][..], "at most 1024"),
        (&["run", "run.toml", "-n", "100000", "-p", "0"], "at most 60000"),
        (&["plan", "run.toml", "-n", "0"], "-n takes at least 1"),
        (
            &["spectrum", "run.toml", "--probes", "18446744073709551615"],
            "at most 1000000",
        ),
        (&["spectrum", "run.toml", "--steps", "0"], "--steps takes at least 1"),
        (&["plan", "run.toml", "-w", "20000"], "at most 1024"),
        (&["plan", "run.toml", "--spectra", "1e30"], "at most 1e12"),
        (
            &["inverse", "out", "--layer", "a", "--diagonal", "-t", "0"],
            "--threads takes at least 1",
        ),
        (
            &["export", "out", "--to", "scipy", "--out", "x", "-t", "20000"],
            "at most 1024",
        ),
    ] {
        place.asked(arguments).expect(2, &[said]);
    }
    assert!(!place.path("out").exists());
    let kept = place.asked(&["plan", "run.toml", "--spectra", "1e12"]);
    kept.expect_done();
    assert!(kept.stdout.contains("1,000,000,000,000 spectra"), "{kept}");
}

/// Whatever the log is asked for.
#[test]
fn a_failure_is_said_in_json_too() {
    let place = Place::new();
    for filter in ["fisherflow_store=debug", "off", "==bad"] {
        let mut command = fisherflow();
        command
            .current_dir(place.path(""))
            .env("FISHERFLOW_LOG", filter)
            .args(["plan", "nope.toml", "--log", "json"]);
        let failed = run(&mut command);
        assert_eq!(failed.code, Some(2), "{failed}");
        let line = failed.stderr.lines().last().unwrap();
        assert!(line.contains("nope.toml"), "{failed}");
        let said: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&said["level"], &said["exit_code"]),
            (&"ERROR".into(), &2.into()),
            "{said}"
        );
    }
}

/// Of memory that nothing takes nothing is said.
#[test]
fn a_plan_says_what_stays_in_memory_where_anything_does() {
    let place = Place::new();
    place.run_file("kept", &[]);
    place.run_file("none", &[("[compute]\n", "[compute]\nkept_spectra = 0\n")]);
    for (file, is_said) in [("kept.toml", true), ("none.toml", false)] {
        let planned = place.asked(&["plan", file]);
        planned.expect_done();
        assert_eq!(
            planned.stdout.contains("keep spectra between passes"),
            is_said,
            "{planned}"
        );
        assert!(!planned.stdout.contains("Up to 0 B"), "{planned}");
    }
}

#[test]
fn a_plan_says_whose_run_is_at_the_output() {
    let place = Place::new();
    place.run_file("run", &[]);
    place.run_file("other", &[("group = 50", "group = 70")]);
    let planned = |file: &str| {
        let planned = place.asked(&["plan", file]);
        planned.expect_done();
        planned.stdout
    };
    assert!(!planned("run.toml").contains("found there"));

    // A claim under which nothing was begun is nobody's only once it was given up.
    let out = place.path("out");
    std::fs::create_dir_all(out.join("claims")).unwrap();
    let claim = r#"{"run_id": "0123456789abcdef", "host": "elsewhere", "pid": 77, "started": "2026-01-01T00:00:00Z"}"#;
    std::fs::write(out.join("claim.json"), claim).unwrap();
    let claimed = planned("run.toml");
    assert!(
        claimed.contains("found there") && claimed.contains("run 0123456789abcdef"),
        "{claimed}"
    );
    std::fs::write(out.join("claims/000001.alive"), "released\n").unwrap();
    assert!(!planned("run.toml").contains("found there"));
    std::fs::remove_dir_all(&out).unwrap();

    place.asked(&["fit", "run.toml"]).expect_done();
    let (own, others) = (planned("run.toml"), planned("other.toml"));
    assert!(own.contains("not complete: a run goes on with what is done"), "{own}");
    assert!(
        others.contains("not complete: only --overwrite replaces it"),
        "{others}"
    );
    place.asked(&["run", "run.toml"]).expect_done();
    let (own, others) = (planned("run.toml"), planned("other.toml"));
    assert!(own.contains("nothing is left to do"), "{own}");
    assert!(others.contains(": only --overwrite replaces it"), "{others}");

    // A table of it is no catalogue, and its covariances are no flux.
    let shown = place.asked(&["inspect", "out/predictions"]);
    shown.expect_done();
    assert!(shown.stdout.contains("written by"), "{shown}");
    assert!(
        !shown.stdout.contains("catalogue") && !shown.stdout.contains("pixels"),
        "{shown}"
    );
}

/// What the run file asks of a machine or a place is a wrong run file; what the catalogue lacks is refused data.
#[test]
fn exit_codes_are_those_of_the_table() {
    let place = Place::new();
    let catalogue = format!("uri = \"{}\"", place.path("catalogue").display());
    let http = [(catalogue.as_str(), "uri = \"http://survey/x.parquet\"")];
    place.run_file("http", &http);
    place
        .asked(&["plan", "http.toml"])
        .expect(2, &["\"http\" is not supported"]);
    place
        .asked(&["inspect", "gs://a/b"])
        .expect(2, &["\"gs\" is not supported"]);
    place
        .asked(&["inspect", "s3:///b"])
        .expect(2, &["the bucket must be named"]);

    let on_gpu = [("[compute]\n", "[compute]\ndevice = \"cuda\"\n")];
    place.run_file("gpu", &on_gpu);
    let asked = place.asked(&["run", "gpu.toml"]);
    // A machine with a GPU, and a build for it, has nothing to refuse.
    if asked.code != Some(0) {
        asked.expect(2, &["no GPU can be used here"]);
    }

    let mut spectra = simulated(PIXELS, 0, 30);
    for spectrum in &mut spectra {
        spectrum.labels[0] = Some(f64::NAN);
    }
    write_objects(&place.path("unlabelled"), &spectra, 30);
    let unlabelled = format!("uri = \"{}\"", place.path("unlabelled").display());
    let new = [
        (catalogue.as_str(), unlabelled.as_str()),
        ("network.safetensors", "new.safetensors"),
    ];
    place.train_file("unlabelled", &new);
    place
        .asked(&["train", "unlabelled.toml"])
        .expect(3, &["unlabelled can be trained on", "30 are left out"]);
    assert!(!place.path("new.safetensors").exists());
}

/// A scheduler starts again what ended with another code than 0.
#[cfg(target_os = "linux")]
#[test]
fn what_is_done_counts_where_it_cannot_be_told() {
    let place = Place::new();
    place.run_file("run", &[]);
    let on_a_full_disk = |arguments: &[&str]| {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        run(fisherflow()
            .current_dir(place.folder.path())
            .args(arguments)
            .stdout(full))
    };
    on_a_full_disk(&["run", "run.toml"]).expect(0, &["WARN", "all is done", "standard output"]);
    place.asked(&["verify", "out"]).expect_done();
    // Of a question the answer is all there is.
    on_a_full_disk(&["verify", "out"]).expect(1, &["cannot write to standard output"]);
}

#[test]
fn quiet_is_quiet_and_verbose_says_more() {
    let place = Place::new();
    place.run_file("run", &[]);
    let said_by = |more: &[&str]| {
        let ended = place.asked(&[&["run", "run.toml", "--overwrite"], more].concat());
        ended.expect_done();
        ended
    };
    let (quiet, plain, verbose) = (said_by(&["-q"]), said_by(&[]), said_by(&["-v"]));
    assert_eq!(quiet.stdout, "", "{quiet}");
    let odd: Vec<&str> = quiet.stderr.lines().filter(|line| !line.contains(" WARN ")).collect();
    assert!(odd.is_empty(), "{odd:?}");
    let of_level = |ended: &Ended, level: &str| ended.stderr.lines().filter(|line| line.contains(level)).count();
    assert_eq!(of_level(&quiet, " WARN "), of_level(&plain, " WARN "));
    assert!(plain.stdout.contains("predictions/"), "{plain}");
    assert!(
        of_level(&plain, " INFO ") > 0 && of_level(&plain, "DEBUG") == 0,
        "{plain}"
    );
    assert!(of_level(&verbose, "DEBUG") > 2, "{verbose}");
    assert!(verbose.stderr.contains("group is in the store"), "{verbose}");
    assert_eq!(verbose.stdout.lines().count(), plain.stdout.lines().count());

    // A question is answered all the same; what is only done is not told.
    for question in [
        &["-q", "plan", "run.toml"][..],
        &["-q", "inspect", "out"],
        &["-q", "status", "out"],
        &["-q", "inverse", "out", "--layer", "layers.2", "--diagonal"],
    ] {
        let asked = place.asked(question);
        asked.expect_done();
        assert!(!asked.stdout.is_empty(), "{question:?}");
    }
    for done in [
        &["-q", "simulate", "sky", "--spectra", "5", "--pixels", "4"][..],
        &["-q", "export", "out", "--to", "scipy", "--out", "x.safetensors"],
        &[
            "-q",
            "inverse",
            "out",
            "--layer",
            "layers.2",
            "--diagonal",
            "--out",
            "x.npy",
        ],
    ] {
        let asked = place.asked(done);
        asked.expect_done();
        assert_eq!((asked.stdout.as_str(), asked.stderr.as_str()), ("", ""), "{done:?}");
    }
}

/// A safetensors file of float32 zeros, as torch's `save_file` writes a state dict.
fn state_dict(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut entries, mut end) = (Vec::new(), 0);
    for (name, shape) in tensors {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        entries.push(format!(
            "\"{name}\": {{\"dtype\": \"F32\", \"shape\": {shape:?}, \"data_offsets\": [{begin}, {end}]}}"
        ));
    }
    let header = format!("{{{}}}", entries.join(", "));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; end]);
    bytes
}

#[test]
fn a_plain_state_dict_is_shown_with_what_is_missing_to_run_it() {
    let place = Place::new();
    let network = toml_value(&place.path("network.safetensors"));
    let plain = toml_value(&place.path("plain.safetensors"));
    let write = |tensors: &[(&str, &[usize])]| fs::write(place.path("plain.safetensors"), state_dict(tensors)).unwrap();
    write(&[
        ("net.0.weight", &[4, PIXELS]),
        ("net.0.bias", &[4]),
        ("net.2.weight", &[3, 4]),
        ("net.2.bias", &[3]),
    ]);
    let shown = place.asked(&["inspect", "plain.safetensors"]);
    shown.expect_done();
    let layers = r#"layers = ["dense", "relu", "dense"]"#;
    for said in [
        "net.0.weight  f32   [4, 12]",
        "4, without a description of the network",
        layers,
        &format!("uri = {plain}"),
        "12 pixels to 3 labels",
    ] {
        assert!(shown.stdout.contains(said), "{said}\n{shown}");
    }
    // What it says to write is enough to run it.
    place.run_file(
        "plain",
        &[(&format!("uri = {network}"), &format!("uri = {plain}\n{layers}"))],
    );
    place.asked(&["plan", "plain.toml"]).expect_done();

    write(&[
        ("net.0.weight", &[PIXELS, 4]),
        ("net.0.bias", &[4]),
        ("net.2.weight", &[4, 3]),
        ("net.2.bias", &[3]),
    ]);
    let shown = place.asked(&["inspect", "plain.safetensors"]);
    shown.expect_done();
    assert!(
        shown
            .stdout
            .contains("`net.0.weight` has shape [12, 4] and looks transposed"),
        "{shown}"
    );
    place
        .asked(&["plan", "plain.toml"])
        .expect(3, &["looks transposed", "numpy.ascontiguousarray(kernel.T)"]);

    // Normalisation is told of by both.
    let batch: &[(&str, &[usize])] = &[("net.1.running_mean", &[4]), ("net.1.running_var", &[4])];
    for (more, said) in [(batch, "batch normalisation"), (&[], "one-dimensional weight")] {
        let mut tensors: Vec<(&str, &[usize])> = vec![("net.0.weight", &[4, PIXELS]), ("net.0.bias", &[4])];
        tensors.extend([
            ("net.1.weight", &[4][..]),
            ("net.1.bias", &[4]),
            ("net.3.weight", &[3, 4]),
        ]);
        tensors.extend(more);
        write(&tensors);
        let shown = place.asked(&["inspect", "plain.safetensors"]);
        shown.expect_done();
        assert!(
            shown.stdout.contains("net.3.weight  ") && shown.stdout.contains(said),
            "{shown}"
        );
        for command in ["plan", "run"] {
            place
                .asked(&[command, "plain.toml"])
                .expect(3, &["plain.safetensors", "net.1.weight [4]", said]);
        }
    }

    write(&[("dense/kernel", &[PIXELS, 3]), ("dense/bias", &[3])]);
    let shown = place.asked(&["inspect", "plain.safetensors"]);
    shown.expect_done();
    assert!(
        shown.stdout.contains("dense/kernel") && shown.stdout.contains("do not make a network"),
        "{shown}"
    );
}

fn toml_value(path: &Path) -> String {
    format!("\"{}\"", fisherflow_tests::toml_path(path))
}

#[test]
fn a_profile_that_is_in_no_file_is_told_of() {
    let survey = repository().join("deploy/kubernetes/overlays/survey/run.toml");
    let planned = |keys: &[(&str, &str)]| {
        let mut plan = fisherflow();
        plan.arg("plan").arg(&survey).envs(keys.iter().copied()).envs([
            ("AWS_PROFILE", "night"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("AWS_ALLOW_HTTP", "true"),
        ]);
        run(&mut plan)
    };
    let told = "AWS_SHARED_CREDENTIALS_FILE says which file has it";
    let public = planned(&[("AWS_SKIP_SIGNATURE", "true")]);
    public.expect(75, &["AWS_PROFILE", told, "does not answer"]);
    // Beside keys the profile is of other programs.
    let with_keys = planned(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);
    with_keys.expect(75, &["does not answer"]);
    assert!(!with_keys.stderr.contains(told), "{with_keys}");
}
