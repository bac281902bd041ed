//! An S3 server that misbehaves: a proxy in front of a good one that answers errors, delays, cuts connections and loses answers, by rules.
//!
//! A rule says which requests ([`On`]), how many of them, and what happens ([`Fault`]). The first rule that applies to a request does. Every
//! request is counted, with what became of it.
//!
//! ```no_run
//! use fisherflow_tests::{Fault, FaultyProxy, On};
//!
//! let proxy = FaultyProxy::start("http://127.0.0.1:5000", 7);
//! proxy.add(On::get("part-00001").after(1).times(2), Fault::ResetInBody(1000));
//! proxy.add(On::any().chance(0.05), Fault::slow_down());
//! println!("{}", proxy.endpoint()); // AWS_ENDPOINT_URL of the program under test
//! assert!(proxy.count("GET", "part-00001") > 0);
//! ```

mod message;
mod rules;

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use message::Message;
use rules::method_and_target;

pub use rules::{Fault, On};

/// A request that came, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Of its header `Range`.
    pub range: Option<String>,
    /// Whether a rule applied.
    pub faulty: bool,
    /// What the server answered; `None` where it was not asked.
    pub status: Option<u16>,
}

struct Rule {
    on: On,
    fault: Fault,
    seen: usize,
    done: usize,
}

struct Shared {
    upstream: String,
    rules: Mutex<(Vec<Rule>, ChaCha8Rng)>,
    requests: Mutex<Vec<Request>>,
    partitioned: AtomicBool,
    closed: AtomicBool,
}

/// The proxy; it ends when dropped.
pub struct FaultyProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultyProxy {
    /// A proxy on a free port in front of a server, without rules: it only counts.
    ///
    /// # Panics
    /// There is no free port.
    #[must_use]
    pub fn start(upstream: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream: upstream.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            rules: Mutex::new((Vec::new(), ChaCha8Rng::seed_from_u64(seed))),
            requests: Mutex::new(Vec::new()),
            partitioned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.closed.load(Ordering::SeqCst) {
                    return;
                }
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || {
                    // A client that goes away is no fault of the proxy.
                    let _ = serving.serve(stream);
                });
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a rule, after those there are.
    pub fn add(&self, on: On, fault: Fault) {
        self.shared.lock_rules().0.push(Rule {
            on,
            fault,
            seen: 0,
            done: 0,
        });
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.shared.lock_rules().0.clear();
    }

    /// From now on connections are accepted and requests taken, and nothing is ever answered.
    pub fn partition(&self) {
        self.shared.partitioned.store(true, Ordering::SeqCst);
    }

    /// Every request so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock_requests().clone()
    }

    /// How many requests of a method had a path and query with `part`.
    #[must_use]
    pub fn count(&self, method: &str, part: &str) -> usize {
        let requests = self.shared.lock_requests();
        let counted = |request: &&Request| request.method == method && request.target.contains(part);
        requests.iter().filter(counted).count()
    }

    /// How many requests there were by method and path, without queries.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for request in self.shared.lock_requests().iter() {
            let path = request.target.split('?').next().unwrap_or_default();
            *counts.entry((request.method.clone(), path.to_owned())).or_insert(0) += 1;
        }
        counts
    }

    /// How many requests a rule applied to.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.shared
            .lock_requests()
            .iter()
            .filter(|request| request.faulty)
            .count()
    }

    /// To how many requests each rule applied, in the order in which they were added.
    #[must_use]
    pub fn applied(&self) -> Vec<usize> {
        self.shared.lock_rules().0.iter().map(|rule| rule.done).collect()
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

impl std::fmt::Debug for FaultyProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyProxy")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock_rules(&self) -> std::sync::MutexGuard<'_, (Vec<Rule>, ChaCha8Rng)> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_requests(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the requests of one connection.
    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let mut reader = BufReader::new(client.try_clone()?);
        while let Some(request) = Message::request(&mut reader)? {
            let fault = self.fault(&request);
            let place = self.note(&request, fault.is_some());
            let mut client = client.try_clone()?;
            if self.partitioned.load(Ordering::SeqCst) {
                return self.stall();
            }
            match &fault {
                Some(Fault::Answer { status, code }) => {
                    let mut error = Message::error(*status, code);
                    if request.start.starts_with("HEAD ") {
                        error.body.clear();
                    }
                    error.send(&mut client)?;
                    continue;
                }
                Some(Fault::Reset) => return reset(&client),
                Some(Fault::Stall) => return self.stall(),
                Some(Fault::Delay(time)) => std::thread::sleep(*time),
                Some(Fault::First(act)) => act(),
                _ => {}
            }
            let answer = self.forward(&request)?;
            self.lock_requests()[place].status = Some(answer.status());
            let head = answer.head_bytes();
            match &fault {
                Some(Fault::LoseAnswer) => return reset(&client),
                Some(Fault::ResetInHead) => {
                    client.write_all(&head[..head.len() / 2])?;
                    return reset(&client);
                }
                Some(Fault::ResetInBody(bytes)) => {
                    client.write_all(&head)?;
                    client.write_all(&answer.body[..(*bytes).min(answer.body.len())])?;
                    // What is not yet taken is lost with a reset: let it arrive.
                    std::thread::sleep(Duration::from_millis(50));
                    return reset(&client);
                }
                Some(Fault::Truncate(bytes)) => {
                    client.write_all(&head)?;
                    client.write_all(&answer.body[..(*bytes).min(answer.body.len())])?;
                    return client.shutdown(Shutdown::Both);
                }
                Some(Fault::Trickle(bytes, pause)) => {
                    client.write_all(&head)?;
                    for piece in answer.body.chunks((*bytes).max(1)) {
                        client.write_all(piece)?;
                        std::thread::sleep(*pause);
                    }
                }
                _ => answer.send(&mut client)?,
            }
        }
        Ok(())
    }

    /// Asks the server, over a connection of its own.
    fn forward(&self, request: &Message) -> std::io::Result<Message> {
        let mut request = request.clone();
        request.set("Connection", "close");
        let mut server = TcpStream::connect(&self.upstream)?;
        request.send(&mut server)?;
        let to_head = request.start.starts_with("HEAD ");
        let mut answer = Message::answer(server, to_head)?;
        answer.set("Connection", "keep-alive");
        if !to_head {
            let length = answer.body.len().to_string();
            answer.set("Content-Length", &length);
        }
        answer.start = answer.start.replacen("HTTP/1.0", "HTTP/1.1", 1);
        Ok(answer)
    }

    /// What happens to a request.
    fn fault(&self, request: &Message) -> Option<Fault> {
        let (rules, random) = &mut *self.lock_rules();
        for rule in rules {
            if rule.done >= rule.on.times || !rule.on.matches(request) {
                continue;
            }
            rule.seen += 1;
            if rule.seen > rule.on.after && (rule.on.chance >= 1.0 || random.random_bool(rule.on.chance)) {
                rule.done += 1;
                return Some(rule.fault.clone());
            }
        }
        None
    }

    /// Counts a request; its place among all.
    fn note(&self, request: &Message, faulty: bool) -> usize {
        let (method, target) = method_and_target(request);
        let mut requests = self.lock_requests();
        requests.push(Request {
            method: method.to_owned(),
            target: target.to_owned(),
            range: request.header("range").map(str::to_owned),
            faulty,
            status: None,
        });
        requests.len() - 1
    }

    /// Keeps a connection open, and silent, while there is a proxy.
    fn stall(&self) -> std::io::Result<()> {
        while !self.closed.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Ends a connection without a word: the peer sees a reset.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(client).set_linger(Some(Duration::ZERO))?;
    Ok(())
}
