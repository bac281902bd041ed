//! The handshake over one connection: both ends prove that they belong to the same run of the same build, before anything else is read.
//!
//! Both ends send `MAGIC | protocol u16 | purpose u8 | process u32 | workers u32 | build [32] | run [32] | nonce [32]`, then
//! `HMAC-SHA256(secret, role | own hello | other hello)`. The nonces are fresh, so that what was overheard answers no later challenge; the
//! roles differ, so that nothing can be sent back to who said it. The dialling end speaks first: a probe learns nothing. Build and run are compared
//! last: of a process that proves to know the secret it is certain that it is another build's or run's. Two of one build and unlike runs then tell
//! each other their terms, `length u32 | JSON`, so that both can say in what they differ.
//!
//! Every message before has a fixed length, and the handshake as a whole has a time limit: a stranger costs a thread for that long, and no memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::cluster::terms::Terms;
use crate::job::Cluster;

const MAGIC: &[u8; 8] = b"FSHRFLOW";
/// Of the handshake, the heartbeat and what timely sends.
const PROTOCOL: u16 = 4;
const PREFIX: usize = 8 + 2;
const HELLO: usize = PREFIX + 1 + 4 + 4 + 32 + 32 + 32;
/// Where a hello has the number of the process.
const PROCESS: usize = PREFIX + 1;
/// Where it has the number of its workers.
const WORKERS: usize = PROCESS + 4;
/// Bytes of the terms of a run, at most.
const MOST_TERMS: usize = 64 << 10;
/// How long one handshake may take in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Timely's.
    Data,
    /// Signs of life.
    Heartbeat,
}

/// What this process says and demands.
#[derive(Clone)]
pub(crate) struct Handshake {
    /// Digest of the program.
    pub(crate) build: [u8; 32],
    /// Digest of what is run, and over how many processes.
    pub(crate) run: [u8; 32],
    /// What that is, for a process that runs something else.
    pub(crate) terms: Arc<Terms>,
    pub(crate) secret: Vec<u8>,
    /// This process.
    pub(crate) me: usize,
    /// Workers of this process.
    pub(crate) workers: usize,
}

/// Who is at the other end.
pub(crate) struct Peer {
    pub(crate) process: usize,
    /// Its workers: as many as here, or timely sends to some that are not there.
    pub(crate) workers: usize,
    pub(crate) purpose: Purpose,
    pub(crate) socket: TcpStream,
}

/// Why the other end was not let in.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// In words.
    pub(crate) reason: String,
    /// Who it is, where it knows the secret, and is another build's or run's.
    pub(crate) unlike: Option<Unlike>,
}

/// A process of another build or run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unlike {
    /// Its number.
    pub(crate) process: usize,
    /// Whether it may not be one at the next try.
    pub(crate) passes: bool,
}

/// Which end of a connection this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It speaks first.
    Dials,
    Accepts,
}

impl<S: Into<String>> From<S> for Refusal {
    fn from(reason: S) -> Self {
        Self {
            reason: reason.into(),
            unlike: None,
        }
    }
}

impl Handshake {
    /// What this process of a cluster says in the run that all of them share.
    pub(crate) fn new(cluster: &Cluster, terms: &Terms) -> Self {
        let mut all = terms.clone();
        all.setting("-n", cluster.processes.to_string());
        Self {
            build: cluster.build,
            run: Sha256::new()
                .chain_update((cluster.processes as u64).to_be_bytes())
                .chain_update(terms.identity())
                .finalize()
                .into(),
            terms: Arc::new(all),
            secret: cluster.secret.clone(),
            me: cluster.process,
            workers: cluster.workers,
        }
    }

    /// The dialling end; what went wrong where the other end is not let in.
    pub(crate) fn dial(&self, socket: TcpStream, purpose: Purpose) -> Result<Peer, Refusal> {
        let mut line = Line::new(socket)?;
        let ours = self.hello(purpose);
        line.write(&ours)?;
        let theirs = line.read_hello(&[])?;
        line.write(&self.mac(b"dial", &ours, &theirs)?.finalize().into_bytes())?;
        let proven = self.check(&mut line, b"accept", &theirs, &ours);
        self.judge(&mut line, End::Dials, proven, &theirs)?;
        Ok(Peer {
            purpose,
            ..line.peer(&theirs)?
        })
    }

    /// The end that was dialled.
    pub(crate) fn accept(&self, socket: TcpStream) -> Result<Peer, Refusal> {
        let mut line = Line::new(socket)?;
        let ours = self.hello(Purpose::Data);
        // A process of another build or run learns that it is one.
        let theirs = line.read_hello(&ours)?;
        let mut proven = self.check(&mut line, b"dial", &theirs, &ours);
        if proven.is_ok() {
            proven = line.write(&self.mac(b"accept", &ours, &theirs)?.finalize().into_bytes());
        }
        self.judge(&mut line, End::Accepts, proven, &theirs)?;
        Ok(line.peer(&theirs)?)
    }

    /// Whether the other end is let in, that has proven to know the secret or not.
    fn judge(&self, line: &mut Line, end: End, proven: Result<(), String>, hello: &[u8; HELLO]) -> Result<(), Refusal> {
        let is_of_build = hello[19..51] == self.build;
        if is_of_build && hello[51..83] == self.run {
            return Ok(proven?);
        }
        let (reason, passes) = if is_of_build {
            let theirs = proven.clone().and_then(|()| line.exchange(&self.terms, end));
            // Whoever does not tell its terms may differ in anything.
            let difference = self.terms.difference(&theirs.unwrap_or_else(|_| (*self.terms).clone()));
            (difference.said, difference.passes)
        } else {
            let reason = "another build of fisherflow: start every process from the same file";
            (reason.to_owned(), false)
        };
        let process = number(hello, PROCESS);
        Err(Refusal {
            reason,
            unlike: proven.ok().map(|()| Unlike { process, passes }),
        })
    }

    fn hello(&self, purpose: Purpose) -> [u8; HELLO] {
        let mut hello = [0; HELLO];
        hello[..8].copy_from_slice(MAGIC);
        hello[8..10].copy_from_slice(&PROTOCOL.to_be_bytes());
        hello[10] = u8::from(purpose == Purpose::Heartbeat);
        for (at, number) in [(PROCESS, self.me), (WORKERS, self.workers)] {
            hello[at..at + 4].copy_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
        }
        hello[19..51].copy_from_slice(&self.build);
        hello[51..83].copy_from_slice(&self.run);
        hello[83..].copy_from_slice(&rand::random::<[u8; 32]>());
        hello
    }

    fn mac(&self, role: &[u8], first: &[u8], second: &[u8]) -> Result<Hmac<Sha256>, String> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.secret).map_err(|e| e.to_string())?;
        Ok(mac.chain_update(role).chain_update(first).chain_update(second))
    }

    fn check(&self, line: &mut Line, role: &[u8], theirs: &[u8], ours: &[u8]) -> Result<(), String> {
        let mut proof = [0; 32];
        line.read(&mut proof, "no proof, as where the secrets differ")?;
        self.mac(role, theirs, ours)?
            .verify_slice(&proof)
            .map_err(|_| "its proof does not answer the challenge: another secret, or a replay".into())
    }
}

/// A connection, and when the handshake over it must be done.
struct Line {
    socket: TcpStream,
    until: Instant,
}

impl Line {
    fn new(socket: TcpStream) -> Result<Self, String> {
        socket.set_nonblocking(false).map_err(|e| e.to_string())?;
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        Ok(Self {
            socket,
            until: Instant::now() + PATIENCE,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.socket.write_all(bytes).map_err(|e| reason(&e).to_owned())
    }

    /// Fills `bytes`, however slowly they come, within what is left of the handshake's time.
    fn read(&mut self, bytes: &mut [u8], what: &str) -> Result<(), String> {
        let mut filled = 0;
        while filled < bytes.len() {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{what}: too slow"));
            }
            let read = self
                .socket
                .set_read_timeout(Some(left))
                .and_then(|()| self.socket.read(&mut bytes[filled..]));
            match read {
                Ok(0) => return Err(format!("{what}: closed")),
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("{what}: {}", reason(&error))),
            }
        }
        Ok(())
    }

    /// The other end's hello, answered with `answer` once it speaks our language.
    fn read_hello(&mut self, answer: &[u8]) -> Result<[u8; HELLO], String> {
        let mut hello = [0; HELLO];
        self.read(&mut hello[..PREFIX], "no hello")?;
        if &hello[..8] != MAGIC {
            return Err("not a fisherflow process".into());
        }
        self.write(answer)?;
        let protocol = u16::from_be_bytes([hello[8], hello[9]]);
        if protocol != PROTOCOL {
            return Err(format!(
                "protocol {protocol}, expected {PROTOCOL}: start every process from the same file"
            ));
        }
        self.read(&mut hello[PREFIX..], "no hello")?;
        Ok(hello)
    }

    /// The terms of the other end, for ours.
    fn exchange(&mut self, ours: &Terms, end: End) -> Result<Terms, String> {
        let theirs = match end {
            End::Dials => {
                self.tell(ours)?;
                self.hear()?
            }
            End::Accepts => {
                let theirs = self.hear()?;
                self.tell(ours)?;
                theirs
            }
        };
        serde_json::from_slice(&theirs).map_err(|error| format!("its terms: {error}"))
    }

    fn tell(&mut self, terms: &Terms) -> Result<(), String> {
        let said = serde_json::to_vec(terms).map_err(|error| error.to_string())?;
        let length = u32::try_from(said.len()).map_err(|error| error.to_string())?;
        self.write(&length.to_be_bytes())?;
        self.write(&said)
    }

    fn hear(&mut self) -> Result<Vec<u8>, String> {
        let mut length = [0; 4];
        self.read(&mut length, "no terms")?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MOST_TERMS {
            return Err(format!("terms of {length} bytes"));
        }
        let mut said = vec![0; length];
        self.read(&mut said, "no terms")?;
        Ok(said)
    }

    fn peer(self, hello: &[u8]) -> Result<Peer, String> {
        let purpose = match hello[10] {
            0 => Purpose::Data,
            1 => Purpose::Heartbeat,
            _ => return Err("a connection for no known purpose".into()),
        };
        Ok(Peer {
            process: number(hello, PROCESS),
            workers: number(hello, WORKERS),
            purpose,
            socket: self.socket,
        })
    }
}

/// A number of a hello.
fn number(hello: &[u8], at: usize) -> usize {
    let bytes = hello.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(usize::MAX, |bytes| u32::from_be_bytes(bytes) as usize)
}

/// An I/O error in words that do not depend on the system's, so that equal reasons are counted together.
fn reason(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "too slow",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => "closed",
        _ => "connection failed",
    }
}

#[cfg(test)]
mod tests;
