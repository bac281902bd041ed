//! Meshes formed over real sockets, with whoever else may dial.

use super::*;
use crate::interrupt::Wish;
use crate::job::Hosts;
use fisherflow_store::{Output, StoreOptions, Stores};
use std::io::Write;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn connect(&self, cluster: &Cluster, run: &str) -> Result<Mesh, RunError> {
        self.connect_on(cluster, &Terms::of(run.to_owned()))
    }

    fn connect_on(&self, cluster: &Cluster, terms: &Terms) -> Result<Mesh, RunError> {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let output = Output::open(&stores, self.folder.path().join("out").to_str().unwrap()).unwrap();
        connect(cluster, terms, &Whereabouts::new(cluster, output.rendezvous("run")))
    }
}

fn cluster(hosts: &Hosts, process: usize, processes: usize, deadline: u64) -> Cluster {
    Cluster {
        process,
        processes,
        hosts: hosts.clone(),
        secret: b"s".to_vec(),
        deadline: Duration::from_secs(deadline),
        ..Cluster::alone(1)
    }
}

/// Below the ports that connections are made from: who dials one of those again and again, while nobody listens, at last meets itself there.
fn free_addresses(n: usize) -> Vec<String> {
    let mut held = Vec::new();
    while held.len() < n {
        held.extend(TcpListener::bind(("127.0.0.1", rand::random_range(10_000..32_000))));
    }
    held.iter().map(|l| l.local_addr().unwrap().to_string()).collect()
}

fn dialled(address: &str) -> TcpStream {
    loop {
        match TcpStream::connect(address) {
            Ok(socket) => return socket,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Everybody connected: `n` processes in as many threads.
fn all(place: &Place, hosts: &Hosts, n: usize) -> Vec<Mesh> {
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..n)
            .map(|i| scope.spawn(move || place.connect(&cluster(hosts, i, n, 30), "run").unwrap()))
            .collect();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn assert_whole(meshes: &[Mesh]) {
    for (me, mesh) in meshes.iter().enumerate() {
        let there: Vec<bool> = mesh.data.iter().map(Option::is_some).collect();
        let expected: Vec<bool> = (0..meshes.len()).map(|i| i != me).collect();
        assert_eq!(there, expected);
        let hearts: Vec<usize> = mesh.heartbeat.keys().copied().collect();
        let expected: Vec<usize> = if me == 0 { (1..meshes.len()).collect() } else { vec![0] };
        assert_eq!(hearts, expected);
    }
}

#[test]
fn a_list_of_addresses_forms_a_mesh() {
    assert_whole(&all(&Place::new(), &Hosts::Listed(free_addresses(4)), 4));
}

/// However long they may be silent, the system takes it.
#[test]
fn sockets_take_any_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = dialled(&listener.local_addr().unwrap().to_string());
    for silence in [1, 200_000, 30 * 24 * 3600, u64::MAX / 1000] {
        tune(&socket, Duration::from_secs(silence)).unwrap();
    }
}

/// Entries of an earlier attempt lead to nobody, to a stranger, and to the wrong process; none is left at the end.
#[test]
fn a_rendezvous_forms_a_mesh_over_stale_entries() {
    let place = Place::new();
    let folder = place.folder.path().join("out/rendezvous/run");
    std::fs::create_dir_all(&folder).unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    for (process, stale) in [
        (0, free_addresses(1).remove(0)),
        (1, stranger.local_addr().unwrap().to_string()),
    ] {
        std::fs::write(
            folder.join(format!("{process}.json")),
            format!("{{\"address\":\"{stale}\"}}"),
        )
        .unwrap();
    }
    std::fs::write(folder.join("2.json"), b"half an en").unwrap();
    let hosts = Hosts::Rendezvous {
        host: "127.0.0.1".into(),
        port: 0,
    };
    assert_whole(&all(&place, &hosts, 3));
    let started = Instant::now();
    while std::fs::read_dir(&folder).is_ok_and(|left| left.count() > 0) {
        assert!(started.elapsed() < Duration::from_secs(5), "entries are left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// More who say nothing than there are places for strangers, and more who say the wrong thing.
#[test]
fn strays_do_not_delay_a_forming_cluster() {
    let place = Place::new();
    let hosts = Hosts::Listed(free_addresses(2));
    let Hosts::Listed(addresses) = &hosts else {
        unreachable!()
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| place.connect(&cluster(&hosts, 0, 2, 20), "run"));
        let mut held: Vec<TcpStream> = (0..2 * MOST_STRANGERS).map(|_| dialled(&addresses[0])).collect();
        for words in ["", "GET / HTTP/1.1\r\n\r\n", &"x".repeat(500), "FSHRFLOW"] {
            let mut stray = dialled(&addresses[0]);
            stray.write_all(words.as_bytes()).unwrap();
            held.push(stray);
        }
        // Long before the silent ones would have been heard out, one after the other.
        let formed = place.connect(&cluster(&hosts, 1, 2, 20), "run").unwrap();
        waiting.join().unwrap().unwrap();
        drop(formed);
    });
}

/// The address of a lower process is a stranger's at first: one who accepts and is silent.
#[test]
fn a_silent_listener_holds_up_no_other_connection() {
    let place = Place::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut addresses = free_addresses(3);
    addresses[0] = silent.local_addr().unwrap().to_string();
    let hosts = Hosts::Listed(addresses);
    // To the second, whose deadline is later, the first is missing too by then.
    let (first, second) = (cluster(&hosts, 1, 3, 3), cluster(&hosts, 2, 3, 5));
    std::thread::scope(|scope| {
        let (first, second) = (
            scope.spawn(|| place.connect(&first, "run")),
            scope.spawn(|| place.connect(&second, "run")),
        );
        let [first, second] = [first, second].map(|ended| ended.join().unwrap().err().unwrap().to_string());
        assert!(first.contains("missing: 0 at") && !first.contains(", "), "{first}");
        assert!(second.contains("missing: 0 at"), "{second}");
    });
}

#[test]
fn a_process_that_dies_before_the_others_came_may_come_again() {
    let place = Place::new();
    let hosts = Hosts::Listed(free_addresses(3));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| place.connect(&cluster(&hosts, 0, 3, 20), "run"));
        assert!(place.connect(&cluster(&hosts, 1, 3, 1), "run").is_err());
        let second = scope.spawn(|| place.connect(&cluster(&hosts, 1, 3, 20), "run"));
        // Whoever has formed stays until all have.
        let formed = place.connect(&cluster(&hosts, 2, 3, 20), "run").unwrap();
        let second = second.join().unwrap().unwrap();
        waiting.join().unwrap().unwrap();
        drop((formed, second));
    });
}

/// Every process sees it, those too who have as many workers as most.
#[test]
fn another_number_of_workers_ends_every_process_with_both_numbers() {
    let place = Place::new();
    let hosts = Hosts::Listed(free_addresses(3));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let waiting = [2, 2, 5].into_iter().enumerate().map(|(process, workers)| {
            let mut placed = cluster(&hosts, process, 3, 30);
            placed.workers = workers;
            let place = &place;
            scope.spawn(move || place.connect(&placed, "run").err().unwrap())
        });
        let waiting: Vec<_> = waiting.collect();
        for (process, ended) in waiting.into_iter().enumerate() {
            let error = ended.join().unwrap();
            assert_eq!(error.exit_code(), 2, "{error}");
            let said = error.to_string();
            let own = format!("process {process} with -w {}", if process == 2 { 5 } else { 2 });
            let other = if process == 2 {
                "started with -w 2"
            } else {
                "started with -w 5"
            };
            assert!(said.contains(&own) && said.contains(other), "{said}");
        }
    });
    assert!(started.elapsed() < Duration::from_secs(15));
}

/// A process that was another run's ends both, however long before the other it gave up.
#[test]
fn whoever_was_of_another_run_did_not_fail_to_come() {
    let place = Place::new();
    let hosts = Hosts::Listed(free_addresses(2));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| place.connect(&cluster(&hosts, 0, 2, 7), "run"));
        let other = place.connect(&cluster(&hosts, 1, 2, 2), "another run").err().unwrap();
        let first = waiting.join().unwrap().err().unwrap();
        for (error, process) in [(other, 0), (first, 1)] {
            assert_eq!(error.exit_code(), 2, "{error}");
            let said = format!("process {process} at");
            assert!(error.to_string().contains(&said), "{error}");
        }
    });
}

/// An object came while they started: each has found another catalogue, and has only to look again.
#[test]
fn processes_that_found_another_catalogue_may_try_again() {
    let place = Place::new();
    let hosts = Hosts::Listed(free_addresses(2));
    let ended = std::thread::scope(|scope| {
        let waiting = [12, 13].into_iter().enumerate().map(|(process, objects)| {
            let (placed, place) = (cluster(&hosts, process, 2, 3), &place);
            scope.spawn(move || {
                let mut terms = Terms::of(format!("run over {objects}"));
                terms.setting("compute.batch", "512".to_owned());
                terms.found("catalogue", format!("{objects} objects"));
                place.connect_on(&placed, &terms).err().unwrap()
            })
        });
        let waiting: Vec<_> = waiting.collect();
        waiting
            .into_iter()
            .map(|ended| ended.join().unwrap())
            .collect::<Vec<_>>()
    });
    for (error, said) in ended.iter().zip([
        "catalogue is 13 objects there and 12 objects here",
        "catalogue is 12 objects there and 13 objects here",
    ]) {
        assert_eq!(error.exit_code(), 75, "{error}");
        let error = error.to_string();
        assert!(error.contains(said) && error.contains("run again"), "{error}");
        assert!(!error.contains("compute.batch"), "{error}");
    }
}

#[test]
fn a_port_that_is_taken_is_worth_another_try() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let hosts = Hosts::Listed(vec![address.clone(), free_addresses(1).remove(0)]);
    let error = place.connect(&cluster(&hosts, 0, 2, 5), "run").err().unwrap();
    assert_eq!(error.exit_code(), 75);
    let said = error.to_string();
    assert!(
        said.contains(&format!("cannot listen at {address}")) && said.contains("run again"),
        "{said}"
    );
}

#[test]
fn a_wish_to_end_ends_the_wait() {
    let place = Place::new();
    let waiting = cluster(&Hosts::Listed(free_addresses(2)), 0, 2, 60);
    waiting.interrupt.ask(Wish::Drain);
    let error = place.connect(&waiting, "run").err().unwrap();
    assert!(matches!(error, RunError::Interrupted(_)) && error.exit_code() == 75);
}

#[test]
fn other_hosts_need_a_secret() {
    let place = Place::new();
    for hosts in [
        Hosts::Listed(vec!["127.0.0.1:2101".into(), "192.0.2.7:2101".into()]),
        Hosts::Rendezvous {
            host: "192.0.2.7".into(),
            port: 0,
        },
    ] {
        let mut open = cluster(&hosts, 0, 2, 1);
        open.secret.clear();
        assert!(matches!(place.connect(&open, "run"), Err(RunError::Usage(_))));
    }
}
