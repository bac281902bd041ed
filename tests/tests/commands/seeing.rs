//! What a run at work lets others see: its status from another terminal, metrics for Prometheus, where its time went; and whether a plan's
//! bytes are those of the run.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use fisherflow_tests::{
    Processes, RunFile, broken_parquet, consumer, counts, fisherflow, free_addresses, has_manifest, manifest, network,
    run, simulated, stages_left, wait_for_file, write_objects,
};
use serde_json::Value;

const STATUS: &str = "stages/status.json";
/// How often a run is started again that was over before it could be disturbed.
const TRIES: usize = 10;

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    network(&path.join("network.safetensors"), &[400, 192, 48, 3]);
    write_objects(&path.join("catalogue"), &simulated(400, 0, 1800), 60);
    folder
}

fn status(output: &Path) -> String {
    let ended = run(fisherflow().arg("status").arg(output));
    ended.expect_done();
    ended.stdout
}

/// The document, once it says what is asked for.
fn told(output: &Path, what: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let found = std::fs::read(output.join(STATUS)).ok();
        if let Some(told) = found
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .filter(&what)
        {
            return told;
        }
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "{} never says so",
            output.join(STATUS).display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn another_terminal_sees_a_run_at_work_and_that_it_was_killed() {
    let folder = prepared();
    let folder = folder.path();
    let (file, output) = (RunFile::new(folder, "out").write(folder, "out"), folder.join("out"));
    let mut processes = Processes::start(2, &file, 1);
    assert!(wait_for_file(&output.join(STATUS), &mut processes, 0));
    // The first process waits for the second, which tells nothing more.
    processes.signal(1, "STOP");
    assert!(!has_manifest(&output), "the run was over before it could be looked at");
    let said = status(&output);
    for words in [
        "(not complete)",
        "last sign of life",
        " ago, by process ",
        "pass ",
        "heard s ago",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    processes.kill(0);
    processes.kill(1);
    // This machine knows so at once.
    let said = status(&output);
    assert!(
        said.contains(", which is no more: run again") && said.contains("was held by"),
        "{said}"
    );

    // The clock of whoever told it may be an hour behind: it is the store's that counts.
    let mut behind = told(&output, |_| true);
    behind["written_s"] = (behind["written_s"].as_u64().unwrap() - 3600).into();
    std::fs::write(output.join(STATUS), behind.to_string()).unwrap();
    let said = status(&output);
    assert!(
        !said.contains("silent for") && said.contains(" ago, by process "),
        "{said}"
    );

    // Two minutes later nobody has told anything more.
    let file_of_status = std::fs::File::options().append(true).open(output.join(STATUS)).unwrap();
    let then = std::time::SystemTime::now() - Duration::from_secs(120);
    file_of_status.set_modified(then).unwrap();
    let said = status(&output);
    assert!(
        said.contains("silent for 12") || said.contains("silent for 2 min"),
        "{said}"
    );
    assert!(said.contains(" is no more, run again"), "{said}");

    run(fisherflow().arg("run").arg(&file)).expect_done();
    let said = status(&output);
    assert!(
        said.contains("(complete since") && !said.contains("sign of life"),
        "{said}"
    );
    assert_eq!(stages_left(&output), 0);
}

#[test]
fn the_status_says_how_a_run_ended() {
    let folder = prepared();
    let folder = folder.path();
    let (file, output) = (RunFile::new(folder, "out").write(folder, "out"), folder.join("out"));
    for _ in 0..TRIES {
        let mut processes = Processes::start(2, &file, 1);
        let there = wait_for_file(&output.join("posterior/hessian/block-000.parquet"), &mut processes, 0);
        processes.kill(1);
        if there && !has_manifest(&output) {
            processes.wait(0).expect(75, &["a process of the cluster was lost"]);
            break;
        }
        drop(processes);
        std::fs::remove_dir_all(&output).unwrap();
    }
    let said = status(&output);
    assert!(
        said.contains("ended with 75: a process of the cluster was lost") && said.contains("run again"),
        "{said}"
    );

    // Stages alone leave theirs, until the run is complete.
    run(fisherflow().arg("fit").arg(&file)).expect_done();
    assert!(status(&output).contains("`fisherflow fit` is done"));
    assert_eq!(told(&output, |_| true)["ended_code"], 0);
    run(fisherflow().arg("run").arg(&file)).expect_done();
    assert_eq!(stages_left(&output), 0);
}

#[test]
fn the_status_of_a_run_that_was_refused_says_its_exit_code() {
    let folder = prepared();
    let folder = folder.path();
    let damaged = broken_parquet(&simulated(400, 5000, 120), 60, 1);
    std::fs::write(folder.join("catalogue/part-00099.parquet"), damaged).unwrap();
    let (file, output) = (RunFile::new(folder, "out").write(folder, "out"), folder.join("out"));
    run(fisherflow().arg("run").arg(&file)).expect(3, &["row group 1 of", "write it again", "(exit code 3)\n"]);
    let ended = run(fisherflow().arg("status").arg(&output).arg("--json"));
    ended.expect_done();
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["state"], "ended", "{ended}");
    assert_eq!(found["told"]["ended_code"], 3, "{ended}");
    let said = status(&output);
    assert!(said.contains("ended with 3: row group 1 of"), "{said}");
}

/// From its last table to `_SUCCESS` a run that lives is committing, and never said to have ended or to have been cut short.
#[test]
fn a_run_that_commits_is_running_until_it_is_killed() {
    let folder = prepared();
    let folder = folder.path();
    let output = folder.join("out");
    let state = || {
        let ended = run(fisherflow().arg("status").arg(&output).arg("--json"));
        ended.expect_done();
        serde_json::from_str::<Value>(&ended.stdout).unwrap()["state"].clone()
    };
    let file = RunFile::new(folder, "out").write(folder, "out");
    let command = || {
        let mut command = fisherflow();
        command.arg("run").arg(&file);
        command
    };
    let mut processes = Processes::stopped_at("before-manifest", command());
    assert!(!has_manifest(&output));
    assert_eq!(state(), "running");
    assert!(!status(&output).contains("is done"), "{}", status(&output));
    processes.kill(0);

    let mut processes = Processes::stopped_at("committed", command());
    // As it was a moment before.
    std::fs::remove_file(output.join("_SUCCESS")).unwrap();
    assert_eq!(state(), "running");
    let said = status(&output);
    assert!(said.contains("(committing") && said.contains("\nheld by"), "{said}");
    processes.kill(0);
    assert_eq!(state(), "cut_short");
    let said = status(&output);
    assert!(said.contains("its commit was cut short: run again"), "{said}");
    let inspected = run(fisherflow().arg("inspect").arg(&output));
    inspected.expect_done();
    assert!(
        inspected.stdout.contains("(its commit was cut short: run again)"),
        "{inspected}"
    );
    run(&mut command()).expect_done();
    assert_eq!(state(), "complete");
    assert_eq!(stages_left(&output), 0);
}

/// Whoever collects both streams finds lines of JSON alone, each with the run's name once it has one.
#[test]
fn a_log_of_json_holds_nothing_else_and_names_its_run() {
    let folder = prepared();
    let folder = folder.path();
    let file = RunFile::new(folder, "out").write(folder, "out");
    let lines = |ended: &fisherflow_tests::Ended| -> Vec<Value> {
        assert_eq!(ended.stdout, "", "{ended}");
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        ended.stderr.lines().map(line).collect()
    };
    let asked = |more: &[&str]| run(fisherflow().arg("run").arg(&file).args(["--log", "json"]).args(more));
    let ended = asked(&["-w", "2"]);
    ended.expect_done();
    let events = lines(&ended);
    let run_id = manifest(&folder.join("out"))["run_id"].clone();
    let named = events.iter().position(|event| event["run_id"] == run_id).unwrap();
    assert!(events[..named].iter().all(|event| event["run_id"].is_null()), "{ended}");
    assert!(events[named..].iter().all(|event| event["run_id"] == run_id), "{ended}");
    let open = &events[named];
    assert_eq!(open["message"], "inputs are open");
    assert!(open["output"].as_str().unwrap().ends_with("/out"), "{open}");
    let page = events.last().unwrap();
    assert_eq!(page["message"], "what was done");
    let words = page["page"].as_str().unwrap();
    assert!(
        words.contains("complete, verified") && words.contains("time of a worker"),
        "{words}"
    );

    // What ends it, and what is already done, too.
    let again = asked(&[]);
    again.expect_done();
    let events = lines(&again);
    assert!(
        events.last().unwrap()["page"]
            .as_str()
            .unwrap()
            .contains("nothing to do")
    );
    assert!(lines(&asked(&["-q"])).is_empty());
    std::fs::remove_file(folder.join("catalogue/part-00003.parquet")).unwrap();
    let refused = asked(&[]);
    assert_eq!(refused.code, Some(2), "{refused}");
    let events = lines(&refused);
    let last = events.last().unwrap();
    assert_eq!((&last["exit_code"], &last["level"]), (&2.into(), &"ERROR".into()));
    assert!(last["run_id"].is_string() && last["run_id"] != run_id, "{last}");
}

/// What stands at `path`, or `None` where nobody answers any more.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// Values of all samples whose name ends in `_total`.
fn counters(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = samples.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let family = name.split('{').next()?;
        Some((family.ends_with("_total")).then_some((name.to_owned(), value.parse().ok()?)))
    });
    parsed.flatten().collect()
}

#[test]
fn metrics_grow_with_the_run_to_the_counts_of_the_manifest() {
    let folder = prepared();
    let folder = folder.path();
    let (file, output) = (RunFile::new(folder, "out").write(folder, "out"), folder.join("out"));
    let address = free_addresses(1).remove(0);
    let mut processes = Processes::new(1);
    processes.spawn(0, &file, 2, &["--metrics", &address]);
    let mut scrapes = Vec::new();
    while !processes.has_ended(0) {
        scrapes.extend(get(&address, "/metrics"));
        std::thread::sleep(Duration::from_millis(10));
    }
    let ended = processes.wait(0);
    ended.expect_done();
    assert!(
        ended.stdout.contains("time of a worker") && ended.stdout.contains("differentiate"),
        "{ended}"
    );
    let last = scrapes.last().expect("a run that answers");
    println!("{} scrapes", scrapes.len());

    let mut before = BTreeMap::new();
    for scrape in &scrapes {
        let now = counters(scrape);
        for (name, value) in &before {
            assert!(
                now.get(name).is_some_and(|now| now >= value),
                "{name} was {value}\n{scrape}"
            );
        }
        before = now;
    }
    let (counts, found) = (counts(&output), counters(last));
    assert_eq!(
        found["fisherflow_spectra_total{pass=\"curvature\"}"],
        counts["fit_spectra"] as f64
    );
    assert_eq!(found["fisherflow_groups_total{pass=\"curvature\"}"], 30.0);
    assert!(found["fisherflow_bytes_read_total"] > 0.0);
    let predicted = found.get("fisherflow_spectra_total{pass=\"predict\"}");
    assert!(predicted.is_none_or(|&predicted| predicted <= counts["predict_spectra"] as f64));

    let resources = &manifest(&output)["settings"]["resources"];
    let stages: Vec<&str> = resources["stages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|s| s["stage"].as_str())
        .collect();
    assert_eq!(stages, ["fit", "invert", "certificate", "predict"]);
    assert!(
        resources["time"]
            .as_array()
            .unwrap()
            .iter()
            .any(|share| share["activity"] == "accumulate")
    );

    let text = folder.join("metrics.txt");
    std::fs::write(&text, last).unwrap();
    if let Some(parsed) = consumer("metrics.py", [&text]) {
        assert_eq!(parsed["fisherflow_spectra"], "counter", "{parsed:#}");
        assert_eq!(parsed["fisherflow_seconds"], "counter", "{parsed:#}");
        assert_eq!(parsed["process_resident_memory_bytes"], "gauge", "{parsed:#}");
        assert_eq!(parsed["process_start_time_seconds"], "gauge", "{parsed:#}");
        assert_eq!(parsed["process_cpu_seconds"], "counter", "{parsed:#}");
    }
    assert!(found["process_cpu_seconds_total"] > 0.0, "{last}");
}

#[test]
fn an_address_that_is_none_is_refused_and_one_that_is_taken_stops_no_run() {
    let folder = prepared();
    let folder = folder.path();
    let file = RunFile::new(folder, "out").write(folder, "out");
    run(fisherflow().arg("run").arg(&file).args(["--metrics", "here:there"])).expect(2, &["--metrics here:there"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = run(fisherflow().arg("run").arg(&file).args(["--metrics", &address]));
    ended.expect(0, &["no metrics", &address, "in use"]);
    assert!(has_manifest(&folder.join("out")));
}

/// `1.5 GiB` in bytes.
fn in_bytes(words: &str) -> f64 {
    let (number, unit) = words.trim().split_once(' ').expect("a number and its unit");
    let power = ["B", "KiB", "MiB", "GiB"]
        .iter()
        .position(|known| *known == unit)
        .expect("a unit");
    number.parse::<f64>().expect("a number") * 1024_f64.powi(i32::try_from(power).unwrap())
}

#[test]
fn a_plan_reads_what_the_run_reads() {
    let folder = prepared();
    let folder = folder.path();
    let file = RunFile::new(folder, "out").write(folder, "out");
    let said = run(fisherflow().arg("plan").arg(&file).args(["-w", "2"]));
    said.expect_done();
    let of_all = |what: &str| {
        let line = said
            .stdout
            .lines()
            .find(|line| line.starts_with(what))
            .expect("a line of the plan");
        in_bytes(line.rsplit("  ").next().expect("a last column"))
    };
    let planned = of_all("spectra read from the store") + of_all("groups' sums read from the store");
    run(fisherflow().arg("run").arg(&file).args(["-w", "2"])).expect_done();
    let resources = &manifest(&folder.join("out"))["settings"]["resources"];
    let read = resources["store_bytes"][0].as_f64().unwrap();
    println!("planned {planned:.0} bytes, read {read:.0}");
    // Beside these it reads the matrices that one stage leaves for the next.
    assert!(
        read > 0.8 * planned && read < 1.4 * planned,
        "planned {planned:.0}, read {read:.0}"
    );
}

#[test]
fn a_plan_may_be_for_more_spectra_than_there_are() {
    let folder = prepared();
    let folder = folder.path();
    let file = RunFile::new(folder, "out").write(folder, "out");
    let asked = [
        "-n",
        "1000",
        "--spectra",
        "100e6",
        "--rate",
        "500",
        "--store",
        "100",
        "--network",
        "1000",
    ];
    let planned = run(fisherflow().arg("plan").arg(&file).args(asked));
    planned.expect_done();
    for words in [
        "1,000 processes of 1 worker: 100,000,000 spectra in",
        " spectra and ",
        "a worker",
        "sent over the network",
        "memory of a process",
        "100 MB/s a process from the store, 1000 MB/s over the network",
    ] {
        assert!(planned.stdout.contains(words), "{words}\n{planned}");
    }
    // 100,000 spectra a worker at 500 a second: 200 s, and the groups' own time.
    let fit = planned
        .stdout
        .lines()
        .rev()
        .find(|line| line.starts_with("fit  "))
        .expect("a time of the fit");
    assert!(fit.ends_with("min") || fit.ends_with(" s"), "{fit}");
    run(fisherflow().arg("plan").arg(&file).args(["--spectra", "-5"])).expect(2, &[]);
}

#[test]
fn a_plan_in_json_takes_the_rates_of_another_machine() {
    let folder = prepared();
    let folder = folder.path();
    let file = RunFile::new(folder, "out").write(folder, "out");
    let plan = |arguments: &[&str]| -> serde_json::Value {
        let said = run(fisherflow()
            .arg("plan")
            .arg(&file)
            .args(["-n", "4", "--spectra", "1e6", "--json"])
            .args(arguments));
        said.expect_done();
        serde_json::from_str(&said.stdout).expect("JSON")
    };
    let own = plan(&[]);
    assert_eq!(own["cluster"]["worker"]["spectra"], 250_000.0);
    let mut rates = own["cluster"]["rates"].clone();
    let worker_flops = rates["worker_flops"].as_f64().unwrap();
    rates["worker_flops"] = (worker_flops / 1000.0).into();
    rates["decode_bytes"] = 1e15.into();
    rates["group_s"] = 0.into();
    let slow = folder.join("slow.json");
    std::fs::write(&slow, rates.to_string()).unwrap();
    let fit = |plan: &serde_json::Value| {
        let stages = plan["cluster"]["stages"].as_array().unwrap();
        let fit = stages.iter().find(|stage| stage["stage"] == "fit").unwrap();
        (fit["flops"].as_f64().unwrap(), fit["seconds"].as_f64().unwrap())
    };
    let (flops, seconds) = fit(&plan(&["--rates", slow.to_str().unwrap()]));
    let of_rate = flops / (4.0 * worker_flops / 1000.0);
    // Beside the operations there is the last round, in which not every worker has a group.
    assert!(seconds >= of_rate && seconds < 1.1 * of_rate, "{seconds} {of_rate}");
    run(fisherflow().arg("plan").arg(&file).args(["--rates", "/no/rates.json"]))
        .expect(2, &["/no/rates.json", "tests/cluster-model"]);
}
