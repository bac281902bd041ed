//! The cluster's sockets, connected and checked before timely sees them.
//!
//! Every pair of processes proves to one another, over a fresh challenge, that it knows the shared secret, runs the same build and
//! was given the same run over the same catalogue. Anything else that connects (a port probe, an HTTP client, a process of another
//! run) is dropped and reported, and a deadline ends the wait.
//!
//! Wire format, both ways: `MAGIC | digest of build and run [32] | index u32 | nonce [32]`, then
//! `HMAC-SHA256(secret, role | own hello | other hello)`. Higher index dials lower.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::error::RunError;
use crate::job::Cluster;

const MAGIC: &[u8; 8] = b"FSHRFLW1";
const HELLO: usize = 8 + 32 + 4 + 32;
/// How long one handshake may take: strays that connect and say nothing are dropped after it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Unacknowledged data on a connection for so long means that the peer is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Connects this process to every other one; entry `i` is the socket to process `i`, `None` for itself.
///
/// # Errors
/// [`RunError::PeerLost`] where the deadline passes, [`RunError::Usage`] where the addresses leave this machine and no secret is given.
pub(crate) fn connect(cluster: &Cluster, run: &str, deadline: Duration) -> Result<Vec<Option<TcpStream>>, RunError> {
    let me = cluster.process;
    let addresses = &cluster.addresses;
    if cluster.secret.is_empty() && !addresses.iter().all(|address| stays_here(address)) {
        return Err(RunError::Usage(
            "the hosts are not all on this machine: give every process the same secret with --secret-file, \
             or FISHERFLOW_CLUSTER_SECRET"
                .into(),
        ));
    }
    let handshake = Handshake {
        digest: Sha256::new()
            .chain_update(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")))
            .chain_update(addresses.len().to_be_bytes())
            .chain_update(run)
            .finalize()
            .into(),
        secret: cluster.secret.clone(),
        me,
    };
    let listener = listen(&addresses[me])?;
    let end = Instant::now() + deadline;
    let mut sockets: Vec<Option<TcpStream>> = addresses.iter().map(|_| None).collect();
    let (accepted, arrivals) = mpsc::channel();
    let mut refused = Refused::default();
    while sockets.iter().flatten().count() + 1 < addresses.len() {
        if Instant::now() > end {
            let missing: Vec<String> = (0..addresses.len())
                .filter(|&i| i != me && sockets[i].is_none())
                .map(|i| format!("{i} at {}", addresses[i]))
                .collect();
            return Err(RunError::PeerLost(format!(
                "start-up deadline of {} s passed; missing: {}{}",
                deadline.as_secs(),
                missing.join(", "),
                refused.in_words()
            )));
        }
        for peer in 0..me {
            if sockets[peer].is_none() {
                sockets[peer] = dial(&handshake, peer, &addresses[peer]).unwrap_or_else(|reason| {
                    refused.note(&addresses[peer], reason);
                    None
                });
            }
        }
        while let Ok((stream, from)) = listener.accept() {
            let (handshake, accepted) = (handshake.clone(), accepted.clone());
            std::thread::spawn(move || drop(accepted.send((from.ip(), handshake.accept(stream)))));
        }
        match arrivals.recv_timeout(Duration::from_millis(20)) {
            Ok((_, Ok((peer, socket)))) => match sockets.get_mut(peer) {
                Some(place @ None) if peer > me => *place = Some(socket),
                _ => tracing::warn!(peer, "second connection of a process dropped"),
            },
            Ok((from, Err(reason))) => refused.note(&from.to_string(), reason),
            Err(_) => {}
        }
    }
    for socket in sockets.iter().flatten() {
        tune(socket).map_err(|error| RunError::PeerLost(format!("socket: {error}")))?;
    }
    Ok(sockets)
}

fn stays_here(address: &str) -> bool {
    address
        .to_socket_addrs()
        .is_ok_and(|mut found| found.all(|a| a.ip().is_loopback()))
}

/// Listens where the other processes will dial: on the loopback alone where that is what the address says.
fn listen(address: &str) -> Result<TcpListener, RunError> {
    let usage = |reason: String| RunError::Usage(format!("cannot listen at {address}: {reason}"));
    let port = address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .ok_or_else(|| usage("expected host:port".into()))?;
    let ip = if stays_here(address) {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(ip), port)).map_err(|e| usage(e.to_string()))?;
    listener.set_nonblocking(true).map_err(|e| usage(e.to_string()))?;
    Ok(listener)
}

/// `None` while nothing listens there.
fn dial(handshake: &Handshake, peer: usize, address: &str) -> Result<Option<TcpStream>, String> {
    let to = address
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.find(SocketAddr::is_ipv4));
    let Some(stream) = to.and_then(|to| TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()) else {
        return Ok(None);
    };
    match handshake.dial(stream)? {
        (index, stream) if index == peer => Ok(Some(stream)),
        (index, _) => Err(format!("process {index} is there, expected {peer}")),
    }
}

/// Connections that were dropped: each reason is said once, however often it comes back, and again should the deadline pass.
#[derive(Default)]
struct Refused(BTreeSet<String>);

impl Refused {
    fn note(&mut self, with: &str, reason: String) {
        if !self.0.contains(&reason) {
            tracing::warn!(%with, %reason, "connection dropped");
            self.0.insert(reason);
        }
    }

    fn in_words(&self) -> String {
        match self.0.len() {
            0 => String::new(),
            _ => format!("; dropped: {}", self.0.iter().cloned().collect::<Vec<_>>().join("; ")),
        }
    }
}

fn tune(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(None)?;
    let socket = socket2::SockRef::from(socket);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(SILENCE / 4)
        .with_interval(SILENCE / 8);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE))?;
    Ok(())
}

#[derive(Clone)]
struct Handshake {
    digest: [u8; 32],
    secret: Vec<u8>,
    me: usize,
}

impl Handshake {
    fn dial(&self, mut stream: TcpStream) -> Result<(usize, TcpStream), String> {
        let ours = self.hello();
        prepare(&stream)?;
        stream.write_all(&ours).map_err(|e| e.to_string())?;
        let (peer, theirs) = self.read_hello(&mut stream)?;
        self.same_run(&theirs)?;
        stream
            .write_all(&self.proof(b"dial", &ours, &theirs)?)
            .map_err(|e| e.to_string())?;
        self.check(&mut stream, b"accept", &theirs, &ours)?;
        Ok((peer, stream))
    }

    fn accept(&self, mut stream: TcpStream) -> Result<(usize, TcpStream), String> {
        let ours = self.hello();
        prepare(&stream)?;
        // The stranger speaks first: a probe learns nothing. A process of another run learns that it is one.
        let (peer, theirs) = self.read_hello(&mut stream)?;
        stream.write_all(&ours).map_err(|e| e.to_string())?;
        self.same_run(&theirs)?;
        self.check(&mut stream, b"dial", &theirs, &ours)?;
        stream
            .write_all(&self.proof(b"accept", &ours, &theirs)?)
            .map_err(|e| e.to_string())?;
        Ok((peer, stream))
    }

    fn hello(&self) -> [u8; HELLO] {
        let mut hello = [0; HELLO];
        hello[..8].copy_from_slice(MAGIC);
        hello[8..40].copy_from_slice(&self.digest);
        hello[40..44].copy_from_slice(&u32::try_from(self.me).unwrap_or(u32::MAX).to_be_bytes());
        hello[44..].copy_from_slice(&rand::random::<[u8; 32]>());
        hello
    }

    fn read_hello(&self, stream: &mut TcpStream) -> Result<(usize, [u8; HELLO]), String> {
        let mut hello = [0; HELLO];
        stream.read_exact(&mut hello).map_err(|e| format!("no hello: {e}"))?;
        if &hello[..8] != MAGIC {
            return Err("not a fisherflow process".into());
        }
        let index = u32::from_be_bytes([hello[40], hello[41], hello[42], hello[43]]);
        Ok((index as usize, hello))
    }

    fn same_run(&self, hello: &[u8; HELLO]) -> Result<(), String> {
        if hello[8..40] != self.digest {
            return Err("another build, run file or catalogue: start every process with the same ones".into());
        }
        Ok(())
    }

    fn mac(&self, role: &[u8], first: &[u8], second: &[u8]) -> Result<Hmac<Sha256>, String> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.secret).map_err(|e| e.to_string())?;
        Ok(mac.chain_update(role).chain_update(first).chain_update(second))
    }

    fn proof(&self, role: &[u8], ours: &[u8], theirs: &[u8]) -> Result<[u8; 32], String> {
        Ok(self.mac(role, ours, theirs)?.finalize().into_bytes().into())
    }

    fn check(&self, stream: &mut TcpStream, role: &[u8], theirs: &[u8], ours: &[u8]) -> Result<(), String> {
        let mut proof = [0; 32];
        stream.read_exact(&mut proof).map_err(|e| format!("no proof: {e}"))?;
        self.mac(role, theirs, ours)?
            .verify_slice(&proof)
            .map_err(|_| "wrong secret".into())
    }
}

fn prepare(stream: &TcpStream) -> Result<(), String> {
    let prepare = || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))
    };
    prepare().map_err(|e: std::io::Error| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(addresses: &[String], process: usize, secret: &str) -> Cluster {
        Cluster {
            process,
            addresses: addresses.to_vec(),
            workers: 1,
            secret: secret.as_bytes().to_vec(),
            deadline: Duration::from_secs(60),
        }
    }

    fn free_addresses(n: usize) -> Vec<String> {
        let held: Vec<TcpListener> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        held.iter().map(|l| l.local_addr().unwrap().to_string()).collect()
    }

    #[test]
    fn strays_do_not_disturb_a_forming_cluster() {
        let addresses = free_addresses(2);
        let (first, second) = (cluster(&addresses, 0, "s"), cluster(&addresses, 1, "s"));
        let waiting = std::thread::spawn(move || connect(&first, "run", Duration::from_secs(20)));
        for words in ["", "GET / HTTP/1.1\r\n\r\n", &"x".repeat(500)] {
            let mut stray = loop {
                match TcpStream::connect(&addresses[0]) {
                    Ok(stray) => break stray,
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            };
            stray.write_all(words.as_bytes()).unwrap();
        }
        let sockets = connect(&second, "run", Duration::from_secs(20)).unwrap();
        assert!(sockets[0].is_some() && sockets[1].is_none());
        assert!(waiting.join().unwrap().unwrap()[1].is_some());
    }

    #[test]
    fn a_wrong_secret_or_run_does_not_get_in() {
        for (secret, run) in [("wrong", "run"), ("s", "another run")] {
            let addresses = free_addresses(2);
            let (first, second) = (cluster(&addresses, 0, "s"), cluster(&addresses, 1, secret));
            let waiting = std::thread::spawn(move || connect(&first, "run", Duration::from_secs(2)));
            assert!(matches!(
                connect(&second, run, Duration::from_secs(2)),
                Err(RunError::PeerLost(_))
            ));
            assert!(matches!(waiting.join().unwrap(), Err(RunError::PeerLost(_))));
        }
    }

    #[test]
    fn other_hosts_need_a_secret() {
        let addresses = vec!["127.0.0.1:2101".to_string(), "192.0.2.7:2101".to_string()];
        assert!(matches!(
            connect(&cluster(&addresses, 0, ""), "run", Duration::from_secs(1)),
            Err(RunError::Usage(_))
        ));
    }
}
