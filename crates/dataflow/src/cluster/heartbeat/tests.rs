//! Processes that watch each other over real connections.

use std::net::TcpListener;

use super::*;

/// Processes that watch each other; what each of them raises.
struct Watched {
    interrupts: Vec<Interrupt>,
    faults: Vec<Arc<Faults>>,
    watches: Vec<Heartbeat>,
    meters: Vec<Arc<Meter>>,
}

fn pair(timeout: Duration) -> Watched {
    watched(2, timeout)
}

fn watched(processes: usize, timeout: Duration) -> Watched {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sockets = vec![BTreeMap::new()];
    for other in 1..processes {
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        sockets[0].insert(other, accepted);
        sockets.push(BTreeMap::from([(0, dialled)]));
    }
    let interrupts: Vec<Interrupt> = (0..processes).map(|_| Interrupt::default()).collect();
    let faults: Vec<Arc<Faults>> = (0..processes).map(|_| Arc::default()).collect();
    let mut meters = Vec::new();
    let watches = sockets
        .into_iter()
        .enumerate()
        .map(|(me, sockets)| {
            for socket in sockets.values() {
                socket.set_nonblocking(true).unwrap();
            }
            let cluster = Cluster {
                process: me,
                processes,
                deadline: Duration::ZERO,
                peer_timeout: timeout,
                interrupt: interrupts[me].clone(),
                ..Cluster::alone(1)
            };
            let names = ["0 at a", "1 at b", "2 at c"].map(str::to_owned).to_vec();
            let meter = Meter::silent();
            meter.is_process(me, processes);
            let heartbeat = Heartbeat::start(&cluster, sockets, names, &faults[me], &meter);
            meters.push(meter);
            heartbeat.unwrap()
        })
        .collect();
    Watched {
        interrupts,
        faults,
        watches,
        meters,
    }
}

fn raised(faults: &Faults) -> String {
    fault(faults).to_string()
}

fn fault(faults: &Faults) -> RunError {
    let started = Instant::now();
    while !faults.raised() {
        assert!(started.elapsed() < Duration::from_secs(10), "nothing was raised");
        std::thread::sleep(Duration::from_millis(5));
    }
    faults.take().unwrap()
}

/// The first of two processes, and the second as it waits for it.
fn resting(mut pair: Watched) -> (Heartbeat, std::thread::JoinHandle<Option<Heartbeat>>, Watched) {
    let second = pair.watches.pop().unwrap();
    let second = std::thread::spawn(move || second.rest());
    (pair.watches.pop().unwrap(), second, pair)
}

/// However long the first takes for what makes the work count.
#[test]
fn the_others_end_once_the_first_has_ended_well() {
    let (first, second, pair) = resting(pair(Duration::from_millis(300)));
    std::thread::sleep(Duration::from_millis(400));
    let first = first.rest().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    assert!(!second.is_finished(), "the first has not said that all is done");
    let told = Instant::now();
    first.finish();
    assert!(told.elapsed() < GOODBYE / 2, "the second has read it");
    assert!(second.join().unwrap().is_none());
    assert!(pair.faults.iter().all(|faults| !faults.raised()));
}

/// Its workers may be the last to end.
#[test]
fn the_first_may_be_done_before_another_is_at_rest() {
    let mut pair = pair(Duration::from_millis(300));
    let second = pair.watches.pop().unwrap();
    pair.watches.pop().unwrap().rest().unwrap().finish();
    std::thread::sleep(Duration::from_millis(500));
    assert!(second.rest().is_none());
    assert!(pair.faults.iter().all(|faults| !faults.raised()));
}

#[test]
fn to_lose_the_first_is_a_loss_until_it_has_ended_well() {
    let (first, second, pair) = resting(pair(Duration::from_secs(60)));
    let first = first.rest().unwrap();
    pair.faults[0].raise(RunError::Stopped);
    first.leave();
    second.join().unwrap();
    let error = fault(&pair.faults[1]);
    assert_eq!(error.exit_code(), 75, "{error}");
    assert!(error.to_string().contains("process 0 at a has ended"), "{error}");
}

#[test]
fn a_commit_that_fails_is_told_to_those_who_wait() {
    let (first, second, pair) = resting(pair(Duration::from_secs(60)));
    let first = first.rest().unwrap();
    pair.faults[0].raise(RunError::Refused("read back: damaged".into()));
    first.leave();
    second.join().unwrap();
    let error = fault(&pair.faults[1]);
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(error.to_string().contains("read back: damaged"), "{error}");
}

/// It is done with them: what they have computed is in the output.
#[test]
fn the_first_needs_nobody_for_its_commit() {
    for wish in [None, Some(Wish::Quit)] {
        let (first, second, pair) = resting(pair(Duration::from_secs(60)));
        let first = first.rest().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        match wish {
            None => pair.faults[1].raise(RunError::Stopped),
            Some(wish) => pair.interrupts[1].ask(wish),
        }
        second.join().unwrap();
        if wish.is_some() {
            let said = raised(&pair.faults[1]);
            assert!(said.contains("a signal to process 1 at b"), "{said}");
        }
        std::thread::sleep(Duration::from_millis(100));
        first.finish();
        assert!(!pair.faults[0].raised());
    }
}

#[test]
fn the_first_process_learns_what_the_others_do() {
    let pair = pair(Duration::from_secs(60));
    pair.meters[1].begin_over_spectra("curvature", 100, 4);
    pair.meters[1].advance(30);
    let started = Instant::now();
    let told = loop {
        let standing = pair.meters[0].standing();
        let other = standing.processes.into_iter().find(|told| told.report.process == 1);
        if let Some(other) = other.filter(|other| other.report.pass().is_some_and(|pass| pass.done == 30)) {
            break other;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "nothing was told");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(told.report.pass().unwrap().pass, "curvature");
    assert_eq!(pair.meters[1].standing().processes.len(), 1, "the first tells nobody");
}

#[test]
fn an_end_without_a_word_is_a_loss() {
    let pair = pair(Duration::from_secs(60));
    pair.faults[1].raise(RunError::Stopped);
    let said = raised(&pair.faults[0]);
    assert!(said.contains("process 1 at b has ended"), "{said}");
}

/// Whichever fails, and however long its words.
#[test]
fn a_process_that_fails_tells_all_others_why() {
    let words = format!("part-7.parquet, row group 2: {}", "damaged ".repeat(20_000));
    for failing in 0..3 {
        let mut all = watched(3, Duration::from_secs(60));
        all.faults[failing].raise(RunError::Refused(words.clone()));
        let name = ["process 0 at a", "process 1 at b", "process 2 at c"][failing];
        let said = format!("{name} failed: part-7.parquet, row group 2: damaged");
        for other in (0..3).filter(|&other| other != failing) {
            let error = fault(&all.faults[other]);
            assert_eq!(error.exit_code(), 3, "{error}");
            assert!(error.to_string().starts_with(&said), "{error}");
        }
        let told = Instant::now();
        all.watches.drain(..).for_each(Heartbeat::leave);
        assert!(told.elapsed() < LAST_WORDS, "nobody waits for who is gone");
        assert_eq!(fault(&all.faults[failing]).exit_code(), 3);
    }
}

#[test]
fn beats_keep_a_silent_process_alive_and_silence_is_a_loss() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(silent.local_addr().unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let faults: Arc<Faults> = Arc::default();
    let cluster = Cluster {
        processes: 2,
        deadline: Duration::ZERO,
        peer_timeout: Duration::from_millis(400),
        ..Cluster::alone(1)
    };
    let started = Instant::now();
    let meter = Meter::silent();
    let _watch = Heartbeat::start(&cluster, BTreeMap::from([(1, socket)]), Vec::new(), &faults, &meter).unwrap();
    let pair = pair(Duration::from_millis(400));
    let said = raised(&faults);
    assert!(said.contains("process 1 has given no sign of life for 0.4 s"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(pair.faults.iter().all(|faults| !faults.raised()));
}

#[test]
fn a_drain_waits_for_groups_under_way_in_every_process() {
    let pair = pair(Duration::from_secs(60));
    let elsewhere = pair.faults[0].drain().begin().unwrap();
    pair.interrupts[1].ask(Wish::Drain);
    let started = Instant::now();
    while pair.faults.iter().any(|faults| faults.drain().begin().is_some()) {
        assert!(started.elapsed() < Duration::from_secs(10), "no drain began");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        pair.faults.iter().all(|faults| !faults.raised()),
        "a group is under way"
    );
    drop(elsewhere);
    for faults in &pair.faults {
        let said = raised(faults);
        assert!(said.contains("a signal to process 1 at b"), "{said}");
    }
}

/// Nothing was held back: the pass can end by itself, and the run may be done before the time is over.
#[test]
fn a_drain_lets_a_pass_end_that_can() {
    let pair = pair(Duration::from_secs(60));
    pair.interrupts[0].ask(Wish::Drain);
    std::thread::sleep(Duration::from_millis(300));
    assert!(pair.faults.iter().all(|faults| !faults.raised()));
}

#[test]
fn a_wish_to_end_at_once_reaches_everybody() {
    let pair = pair(Duration::from_secs(60));
    pair.interrupts[1].ask(Wish::Quit);
    for faults in &pair.faults {
        assert!(raised(faults).contains("a signal to process 1 at b"));
    }
}
