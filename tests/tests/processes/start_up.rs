//! How a cluster comes together: every way in which processes find one another, and every stranger that tries to get in.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fisherflow_tests::{Place, Processes, RunFile, digests, fisherflow, free_addresses, has_manifest, run};

/// A place with an undisturbed run in it.
fn place() -> Place {
    let place = Place::new(&[40, 8, 6, 3], 240);
    place.undisturbed();
    place
}

/// The output is as the undisturbed run's.
fn assert_same(place: &Place, output: &str) {
    let output = place.path(output);
    assert_eq!(digests(&output), digests(&place.path("undisturbed")));
    assert!(!output.join("rendezvous").exists(), "addresses are left behind");
}

/// `fisherflow run` with these arguments, as process `process` of `processes`.
fn process_of(processes: &mut Processes, process: usize, run_file: &Path, arguments: &[&str]) {
    let mut command = fisherflow();
    command.arg("run").arg(run_file).args(arguments);
    processes.spawn_as(process, command);
}

#[test]
fn processes_find_one_another_through_the_output() {
    let place = place();
    let file = place.run_file("out");
    let start = |processes: &mut Processes, process: usize| {
        let arguments = ["-n", "3", "-p", &process.to_string(), "--rendezvous=127.0.0.1"];
        process_of(processes, process, &file, &arguments);
    };
    // An attempt that never forms: two of three leave their addresses, and are killed.
    let mut first = Processes::new(3);
    for process in [0, 2] {
        start(&mut first, process);
    }
    let folder = place.path("out/rendezvous");
    let entries = || {
        let runs = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        runs.flat_map(|run| std::fs::read_dir(run.path()).into_iter().flatten().flatten())
            .count()
    };
    let started = Instant::now();
    while entries() < 2 {
        assert!(started.elapsed() < Duration::from_secs(60), "nobody leaves an address");
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = run(fisherflow().arg("status").arg(place.path("out")));
    status.expect_done();
    for said in ["(not complete)", "held by", "fit not done", "2 processes"] {
        assert!(status.stdout.contains(said), "{said}\n{status}");
    }
    drop(first);
    // Their entries lead nowhere now.
    assert_eq!(entries(), 2);
    let mut second = Processes::new(3);
    for process in 0..3 {
        start(&mut second, process);
    }
    for ended in second.wait_all() {
        ended.expect_done();
    }
    assert_same(&place, "out");
    let status = run(fisherflow().arg("status").arg(place.path("out")));
    assert!(status.stdout.contains("predict done"), "{status}");
    run(fisherflow().arg("status").arg(place.path("nothing"))).expect(3, &["no run has begun"]);

    // Overwritten by the first process, which deletes what the others left there.
    let mut third = Processes::new(2);
    for process in [1, 0] {
        let arguments = [
            "-n",
            "2",
            "-p",
            &process.to_string(),
            "--rendezvous=127.0.0.1",
            "--overwrite",
        ];
        process_of(&mut third, process, &file, &arguments);
        std::thread::sleep(Duration::from_millis(500));
    }
    for ended in third.wait_all() {
        ended.expect_done();
    }
    assert_same(&place, "out");
}

#[test]
fn a_pattern_and_a_slurm_step_say_where_the_processes_are() {
    let place = place();
    let file = place.run_file("pattern");
    let mut processes = Processes::new(3);
    for process in 0..3 {
        // As the pods of an Indexed Job.
        let mut command = fisherflow();
        command
            .arg("run")
            .arg(&file)
            .args(["-n", "3", "--hosts", "localhost:2411{}"]);
        command.env("JOB_COMPLETION_INDEX", process.to_string());
        processes.spawn_as(process, command);
    }
    for ended in processes.wait_all() {
        ended.expect_done();
    }
    assert_same(&place, "pattern");

    let file = place.run_file("slurm");
    let mut processes = Processes::new(2);
    for process in 0..2 {
        let mut command = fisherflow();
        command.arg("run").arg(&file).arg("--slurm").envs([
            ("SLURM_JOB_NODELIST", "localhost".to_owned()),
            ("SLURM_TASKS_PER_NODE", "2".to_owned()),
            ("SLURM_NTASKS", "2".to_owned()),
            ("SLURM_PROCID", process.to_string()),
        ]);
        processes.spawn_as(process, command);
    }
    for ended in processes.wait_all() {
        ended.expect_done();
    }
    assert_same(&place, "slurm");
}

/// A hostfile of its own for a process that pretends to be one of the cluster.
fn hostfile_of_an_impostor(place: &Place, processes: &Processes, name: &str) -> PathBuf {
    let file = place.folder().join(format!("{name}.hosts"));
    let hosts = format!("{}\n{}\n", processes.address(0), free_addresses(1)[0]);
    std::fs::write(&file, hosts).unwrap();
    file
}

/// The same program with another digest: what follows an executable's sections is not loaded.
fn another_build(place: &Place) -> Command {
    let own = fisherflow();
    let copy = place.folder().join("another-build");
    let mut bytes = std::fs::read(own.get_program()).unwrap();
    bytes.push(0);
    std::fs::write(&copy, bytes).unwrap();
    std::fs::set_permissions(&copy, std::fs::metadata(own.get_program()).unwrap().permissions()).unwrap();
    let mut command = Command::new(copy);
    command.env("NO_COLOR", "1");
    command
}

#[test]
fn no_stranger_disturbs_a_forming_cluster_or_gets_in() {
    let place = place();
    let file = place.run_file("out");
    let mut processes = Processes::new(2);
    let placed = |process: usize, processes: &Processes| {
        let mut command = fisherflow();
        processes.place(&mut command, process, &file);
        command.env("FISHERFLOW_CLUSTER_SECRET", "the secret");
        command
    };
    let first = placed(0, &processes);
    processes.spawn_as(0, first);

    let address = processes.address(0).to_owned();
    let started = Instant::now();
    let mut held = vec![loop {
        if let Ok(silent) = TcpStream::connect(&address) {
            break silent;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "nobody listens");
        std::thread::sleep(Duration::from_millis(5));
    }];
    // Who stay and say nothing, more than there are places for them; who leave at once; who say something else, or begin well and stop.
    held.extend((0..200).map(|_| TcpStream::connect(&address).unwrap()));
    for _ in 0..50 {
        drop(TcpStream::connect(&address).unwrap());
    }
    for words in [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0xff; 1 << 20],
        b"FSHRFLOW\x00\x02".to_vec(),
        b"FSHRFLOW\x00\x63".to_vec(),
    ] {
        let mut stranger = TcpStream::connect(&address).unwrap();
        // It may be dropped before all is said.
        let _ = stranger.write_all(&words);
        held.push(stranger);
    }
    // Those who know the language: another secret, another build, another run.
    let impostor = |name: &str, mut command: Command, file: &Path| {
        let hosts = hostfile_of_an_impostor(&place, &processes, name);
        command
            .arg("run")
            .arg(file)
            .args(["-n", "2", "-p", "1", "--deadline", "3", "--hostfile"])
            .arg(hosts);
        if name != "wrong-secret" {
            command.env("FISHERFLOW_CLUSTER_SECRET", "the secret");
        }
        command
    };
    let mut other_run = RunFile::new(place.folder(), "out");
    other_run.compute = "batch = 16\ngroup = 100".to_owned();
    let other_run = other_run.write(place.folder(), "other-run");
    let mut wrong_secret = impostor("wrong-secret", fisherflow(), &file);
    wrong_secret.env("FISHERFLOW_CLUSTER_SECRET", "a guess");
    let impostors = [
        (
            wrong_secret,
            75,
            ["start-up deadline of 3 s passed; missing: 0 at", "the secrets differ"],
        ),
        (
            impostor("wrong-build", another_build(&place), &file),
            2,
            [
                "did not form within 3 s: process 0 at",
                "is of another build of fisherflow",
            ],
        ),
        (
            impostor("wrong-run", fisherflow(), &other_run),
            2,
            [
                "did not form within 3 s: process 0 at",
                "is of another run file or command (compute.group is 50 there and 100 here)",
            ],
        ),
    ];
    std::thread::scope(|scope| {
        for (mut command, code, said) in impostors {
            scope.spawn(move || run(&mut command).expect(code, &said));
        }
    });

    assert!(!processes.has_ended(0));
    let started = Instant::now();
    let second = placed(1, &processes);
    processes.spawn_as(1, second);
    let [first, second]: [_; 2] = processes.wait_all().try_into().unwrap();
    first.expect_done();
    second.expect_done();
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "held up: {:?}",
        started.elapsed()
    );
    assert_same(&place, "out");
    for said in [
        "not a fisherflow process",
        "no hello",
        "protocol 99, expected 4",
        "another build of fisherflow",
        "another run file",
        "another secret, or a replay",
    ] {
        assert!(first.stderr.contains(said), "{said}\n{first}");
    }
    assert!(
        !first.stderr.contains("the secret") && !first.stderr.contains("a guess"),
        "{first}"
    );
    let lines = first
        .stderr
        .lines()
        .filter(|line| line.contains("connection dropped"))
        .count();
    assert!(lines < 20, "{lines} lines for hundreds of strangers\n{first}");
    drop(held);
}

#[test]
fn processes_of_unlike_numbers_of_workers_are_refused() {
    let place = place();
    let file = place.run_file("out");
    let mut processes = Processes::new(2);
    processes.spawn(0, &file, 2, &[]);
    processes.spawn(1, &file, 1, &[]);
    let [first, second] = [0, 1].map(|process| format!("{process} at {}", processes.address(process)));
    for (process, said) in [
        (
            0,
            format!("process {second} was started with -w 1, process 0 with -w 2"),
        ),
        (1, format!("process {first} was started with -w 2, process 1 with -w 1")),
    ] {
        processes
            .wait(process)
            .expect(2, &[&said, "the same number of workers"]);
    }
    assert!(!has_manifest(&place.path("out")));
}

/// It decides how many dataflows factor the block, and timely takes every process to have as many.
#[test]
fn processes_of_unlike_memory_for_a_dual_block_are_refused() {
    let place = place();
    let mut processes = Processes::new(2);
    for (process, memory) in ["1 MiB", "2 MiB"].into_iter().enumerate() {
        let mut file = RunFile::new(place.folder(), "out");
        file.curvature = format!("structure = \"dual\"\nmemory = \"{memory}\"");
        let file = file.write(place.folder(), &format!("of-{process}"));
        processes.spawn(process, &file, 1, &["--deadline", "3"]);
    }
    for process in 0..2 {
        processes
            .wait(process)
            .expect(2, &["is of another run file", "curvature.memory is "]);
    }
    assert!(!has_manifest(&place.path("out")));
}

/// Passes every connection on to `to`; gives the address it listens at, and what was said to `to` by connection.
fn relay(to: &str) -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let (to, record) = (to.to_owned(), Arc::clone(&heard));
    std::thread::spawn(move || {
        for mut near in listener.incoming().flatten() {
            let Ok(mut far) = TcpStream::connect(&to) else { continue };
            let (mut answers, mut back) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut back);
                let _ = back.shutdown(std::net::Shutdown::Write);
            });
            let record = Arc::clone(&record);
            let number = {
                let mut heard = record.lock().unwrap();
                heard.push(Vec::new());
                heard.len() - 1
            };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n) = near.read(&mut buffer)
                    && n > 0
                    && far.write_all(&buffer[..n]).is_ok()
                {
                    let mut heard = record.lock().unwrap();
                    let room = 1024_usize.saturating_sub(heard[number].len());
                    heard[number].extend_from_slice(&buffer[..n.min(room)]);
                }
                let _ = far.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    (address, heard)
}

/// Everything that a process said to get in, said again by another.
#[test]
fn a_replayed_hello_does_not_get_in() {
    /// Hello and proof: what the dialling end says before it is let in.
    const HANDSHAKE: usize = 8 + 2 + 1 + 4 + 4 + 3 * 32 + 32;
    let place = place();
    let file = place.run_file("out");
    let mut processes = Processes::new(3);
    processes.spawn(0, &file, 1, &[]);
    let (between, heard) = relay(processes.address(0));
    let hosts = place.folder().join("through-the-relay");
    std::fs::write(
        &hosts,
        format!("{between}\n{}\n{}\n", processes.address(1), processes.address(2)),
    )
    .unwrap();
    let hosts = hosts.to_str().unwrap();
    process_of(&mut processes, 1, &file, &["-n", "3", "-p", "1", "--hostfile", hosts]);

    let started = Instant::now();
    let overheard = loop {
        let whole: Vec<Vec<u8>> = heard
            .lock()
            .unwrap()
            .iter()
            .filter(|said| said.len() >= HANDSHAKE)
            .cloned()
            .collect();
        if whole.len() >= 2 {
            break whole;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "process 1 never dials");
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut replays = Vec::new();
    for said in overheard {
        let mut replay = TcpStream::connect(processes.address(0)).unwrap();
        replay.write_all(&said[..HANDSHAKE]).unwrap();
        replay.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It is answered with a challenge of its own, and then dropped without a proof.
        let mut answer = Vec::new();
        let _ = replay.read_to_end(&mut answer);
        assert_eq!(answer.len(), HANDSHAKE - 32);
        replays.push(replay);
    }
    processes.spawn(2, &file, 1, &[]);
    let ended = processes.wait_all();
    for ended in &ended {
        ended.expect_done();
    }
    assert!(ended[0].stderr.contains("another secret, or a replay"), "{}", ended[0]);
    assert_same(&place, "out");
}

#[test]
fn a_deadline_names_every_process_that_is_missing() {
    let place = place();
    let file = place.run_file("out");
    let mut processes = Processes::new(4);
    processes.spawn(0, &file, 1, &["--deadline", "5"]);
    processes.spawn(2, &file, 1, &["--deadline", "2"]);
    let at = |process: usize| format!("{process} at {}", processes.address(process));
    let of_third = format!("missing: {}, {}", at(1), at(3));
    // The one that gave up is missing by then.
    let of_first = format!("missing: {}, {}, {}", at(1), at(2), at(3));
    for (process, deadline, missing) in [(2, "2 s", of_third), (0, "5 s", of_first)] {
        let passed = format!("start-up deadline of {deadline} passed");
        processes.wait(process).expect(75, &[&passed, &missing, "run again"]);
    }
    assert!(!has_manifest(&place.path("out")));
}

/// A process that dies while the cluster forms, and one that is asked to end then.
#[test]
fn a_process_may_come_again_while_the_cluster_forms() {
    let place = place();
    let file = place.run_file("out");
    let mut processes = Processes::new(3);
    processes.spawn(0, &file, 1, &[]);
    // Threads that are there before the run must not take the signal for it.
    for (signal, more) in [("KILL", &[][..]), ("TERM", &[]), ("TERM", &["--metrics", "0"])] {
        processes.spawn(1, &file, 1, more);
        std::thread::sleep(Duration::from_millis(700));
        if signal == "KILL" {
            processes.kill(1);
        } else {
            processes.signal(1, signal);
            processes.wait(1).expect(75, &["stopped by a signal", "run again"]);
        }
    }
    processes.spawn(1, &file, 1, &[]);
    processes.spawn(2, &file, 1, &[]);
    for ended in processes.wait_all() {
        ended.expect_done();
    }
    assert_same(&place, "out");
}

/// `spectrum` is of a cluster as `run` is.
#[test]
fn a_spectrum_that_is_asked_to_end_ends_in_order() {
    let place = place();
    let mut processes = Processes::new(2);
    let mut command = fisherflow();
    command
        .arg("spectrum")
        .arg(place.run_file("out"))
        .args(["-n", "2", "-p", "0", "--rendezvous=127.0.0.1"]);
    processes.spawn_as(0, command);
    let rendezvous = place.path("out/rendezvous");
    let has_come = || {
        let runs = std::fs::read_dir(&rendezvous).into_iter().flatten().flatten();
        runs.flat_map(|run| std::fs::read_dir(run.path()).into_iter().flatten())
            .next()
            .is_some()
    };
    let started = Instant::now();
    while !has_come() {
        assert!(!processes.has_ended(0), "{}", processes.wait(0));
        assert!(started.elapsed() < Duration::from_secs(60), "it leaves no address");
        std::thread::sleep(Duration::from_millis(5));
    }
    processes.signal(0, "TERM");
    processes.wait(0).expect(75, &["stopped by a signal", "run again"]);
}
