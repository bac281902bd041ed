//! Processes that watch each other over real connections.

use std::net::TcpListener;

use super::*;

/// Process 0 and process 1, watching each other; what each of them raises.
struct Pair {
    interrupts: [Interrupt; 2],
    faults: [Arc<Faults>; 2],
    watches: Vec<Heartbeat>,
    meters: Vec<Arc<Meter>>,
}

fn pair(timeout: Duration) -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = listener.accept().unwrap().0;
    let interrupts = [Interrupt::default(), Interrupt::default()];
    let faults: [Arc<Faults>; 2] = Default::default();
    let mut meters = Vec::new();
    let watches = [(accepted, 1), (dialled, 0)]
        .into_iter()
        .enumerate()
        .map(|(me, (socket, other))| {
            socket.set_nonblocking(true).unwrap();
            let cluster = Cluster {
                process: me,
                processes: 2,
                deadline: Duration::ZERO,
                peer_timeout: timeout,
                interrupt: interrupts[me].clone(),
                ..Cluster::alone(1)
            };
            let names = vec!["0 at a".to_owned(), "1 at b".to_owned()];
            let meter = Meter::silent();
            meter.is_process(me, 2);
            let heartbeat = Heartbeat::start(&cluster, BTreeMap::from([(other, socket)]), names, &faults[me], &meter);
            meters.push(meter);
            heartbeat.unwrap()
        })
        .collect();
    Pair {
        interrupts,
        faults,
        watches,
        meters,
    }
}

fn raised(faults: &Faults) -> String {
    let started = Instant::now();
    while !faults.raised() {
        assert!(started.elapsed() < Duration::from_secs(10), "nothing was raised");
        std::thread::sleep(Duration::from_millis(5));
    }
    faults.take().unwrap().to_string()
}

#[test]
fn an_orderly_end_is_no_loss() {
    let mut pair = pair(Duration::from_millis(300));
    pair.watches.remove(0).finish();
    std::thread::sleep(Duration::from_millis(500));
    pair.watches.remove(0).finish();
    assert!(pair.faults.iter().all(|faults| !faults.raised()));
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
