//! Both ends of a connection, and who else may be at one of them.

use super::*;
use std::net::TcpListener;

fn handshake(build: u8, run: &str, secret: &str, me: usize) -> Handshake {
    Handshake::new(&cluster(build, secret, me, 2), &Terms::of(run.to_owned()))
}

fn cluster(build: u8, secret: &str, process: usize, processes: usize) -> Cluster {
    Cluster {
        process,
        processes,
        secret: secret.as_bytes().to_vec(),
        build: [build; 32],
        ..Cluster::alone(3)
    }
}

/// What both ends of one connection make of each other.
fn meet(acceptor: Handshake, dialler: &Handshake) -> (Result<Peer, Refusal>, Result<Peer, Refusal>) {
    let (near, far) = connection();
    let accepting = std::thread::spawn(move || acceptor.accept(far));
    let dialled = dialler.dial(near, Purpose::Heartbeat);
    (accepting.join().unwrap(), dialled)
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

#[test]
fn equals_meet() {
    let (accepted, dialled) = meet(handshake(7, "run", "s", 0), &handshake(7, "run", "s", 1));
    let (accepted, dialled) = (accepted.unwrap(), dialled.unwrap());
    assert_eq!((accepted.process, accepted.purpose), (1, Purpose::Heartbeat));
    assert_eq!(dialled.process, 0);
    assert_eq!((accepted.workers, dialled.workers), (3, 3));
}

#[test]
fn another_build_run_or_secret_is_refused_by_both_ends() {
    let ours = || handshake(7, "run", "s", 0);
    for (other, said, said_there, is_certain) in [
        (handshake(8, "run", "s", 1), "another build", "another build", true),
        (
            handshake(7, "another", "s", 1),
            "another run file",
            "another run file",
            true,
        ),
        (
            handshake(7, "run", "wrong", 1),
            "does not answer",
            "secrets differ",
            false,
        ),
        // A stranger says what it likes.
        (handshake(8, "run", "wrong", 1), "another build", "another build", false),
    ] {
        let (accepted, dialled) = meet(ours(), &other);
        let (accepted, dialled) = (accepted.err().unwrap(), dialled.err().unwrap());
        assert!(accepted.reason.contains(said), "{accepted:?}");
        assert!(dialled.reason.contains(said_there), "{dialled:?}");
        let unlike = |process| is_certain.then_some(Unlike { process, passes: false });
        assert_eq!((accepted.unlike, dialled.unlike), (unlike(1), unlike(0)), "{said}");
    }
    let mut fewer = handshake(7, "run", "s", 1);
    let of_three = Handshake::new(&cluster(7, "s", 1, 3), &Terms::of("run".to_owned()));
    (fewer.run, fewer.terms) = (of_three.run, of_three.terms);
    let said = meet(ours(), &fewer).0.err().unwrap().reason;
    assert!(said.contains("-n is 3 there and 2 here"), "{said}");
}

/// A process of the run file that found another catalogue is told apart from one of another run file, by both ends.
#[test]
fn what_another_run_differs_in_is_told() {
    let of = |run: &str, me: usize, batch: u64, catalogue: &str| {
        let mut terms = Terms::of(run.to_owned());
        terms.setting("compute.batch", batch.to_string());
        terms.found("catalogue", catalogue.to_owned());
        Handshake::new(&cluster(7, "s", me, 2), &terms)
    };
    for (batch, catalogue, differs, passes) in [
        (
            16,
            "13 objects",
            "catalogue is 1X objects there and 1Y objects here",
            true,
        ),
        (32, "12 objects", "compute.batch is X there and Y here", false),
    ] {
        let (accepted, dialled) = meet(of("run", 0, 16, "12 objects"), &of("another", 1, batch, catalogue));
        let (theirs, ours) = if passes { ("3", "2") } else { ("32", "16") };
        for (refusal, process, there, here) in [(accepted, 1, theirs, ours), (dialled, 0, ours, theirs)] {
            let refusal = refusal.err().unwrap();
            assert_eq!(refusal.unlike, Some(Unlike { process, passes }), "{refusal:?}");
            let said = differs.replace('X', there).replace('Y', here);
            assert!(refusal.reason.contains(&said), "{said}: {refusal:?}");
        }
    }
}

#[test]
fn another_protocol_is_named() {
    let (mut near, far) = connection();
    let accepting = std::thread::spawn(move || handshake(7, "run", "s", 0).accept(far));
    near.write_all(b"FSHRFLOW\x00\x01").unwrap();
    let said = accepting.join().unwrap().err().unwrap().reason;
    assert!(said.contains("protocol 1, expected 4"), "{said}");
}

/// All that a process said when it was let in, said again: the challenge is another one.
#[test]
fn a_replay_does_not_answer_the_challenge() {
    let (near, far) = connection();
    let (relay_near, relay_far) = connection();
    let accepting = std::thread::spawn(move || handshake(7, "run", "s", 0).accept(relay_far));
    let recorder = std::thread::spawn(move || {
        let (mut far, mut to) = (far, relay_near);
        let (mut answers, mut back) = (to.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
        let mut overheard = vec![0; HELLO + 32];
        for part in [0..HELLO, HELLO..HELLO + 32] {
            far.read_exact(&mut overheard[part.clone()]).unwrap();
            to.write_all(&overheard[part]).unwrap();
        }
        overheard
    });
    handshake(7, "run", "s", 1).dial(near, Purpose::Data).unwrap();
    assert_eq!(accepting.join().unwrap().unwrap().process, 1);
    let overheard = recorder.join().unwrap();

    let (mut near, far) = connection();
    let accepting = std::thread::spawn(move || handshake(7, "run", "s", 0).accept(far));
    near.write_all(&overheard).unwrap();
    let said = accepting.join().unwrap().err().unwrap().reason;
    assert!(said.contains("replay"), "{said}");
}

/// A byte every so often resets no clock.
#[test]
fn a_slow_stranger_is_dropped_in_time() {
    let (mut near, far) = connection();
    let started = Instant::now();
    let accepting = std::thread::spawn(move || handshake(7, "run", "s", 0).accept(far));
    while !accepting.is_finished() {
        let _ = near.write_all(&MAGIC[..1]).and_then(|()| near.flush());
        std::thread::sleep(Duration::from_millis(700));
    }
    assert!(started.elapsed() < PATIENCE + Duration::from_secs(2));
    assert!(accepting.join().unwrap().err().unwrap().reason.contains("too slow"));
}
