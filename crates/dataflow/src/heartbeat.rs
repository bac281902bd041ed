//! Signs of life between the first process and every other, and what becomes of those who give none.
//!
//! Every process sends the first a beat several times in `peer_timeout`, and the first answers with its own. A connection that closes is a process that
//! ended, silence is one that is stopped or cut off (its kernel may go on acknowledging TCP): the first process tells all others whom it
//! lost, and each ends with a fault that names it. Between two other processes TCP's own time limits find what is cut off.
//!
//! The same connections carry a wish to end: every process then finishes the groups it has under way, tells the first when it is quiet, and
//! ends when all are and the pass cannot end any more, or when the time for it is over. And they carry what each process has done, for the
//! first to show.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::RunError;
use crate::fault::Faults;
use crate::interrupt::{Interrupt, Wish};
use crate::job::Cluster;
use crate::meter::Meter;
use crate::standing::ProcessReport;

/// Time between two looks.
const TICK: Duration = Duration::from_millis(25);
/// How long groups under way may take once the process is to end: schedulers kill after 30 s.
const DRAIN: Duration = Duration::from_secs(20);
/// Bytes of a message: its kind and a number, which for a report is the number of the bytes that follow.
const MESSAGE: usize = 5;
/// Time between two reports of what a process has done.
const REPORT: Duration = Duration::from_secs(1);
/// Most bytes of a report.
const LONGEST: usize = 1 << 20;
/// The kind of a report.
const IS_REPORT: u8 = 7;

/// What one process tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// It is alive.
    Beat,
    /// It has done its part: what closes now is no loss.
    Done,
    /// This process was lost.
    Lost(u32),
    /// This process was asked to end, and everybody is to drain.
    Drain(u32),
    /// This process was asked to end at once.
    Quit(u32),
    /// Nothing is under way here; whether a group was held back.
    Quiet(bool),
    /// All are quiet.
    Go,
}

impl Message {
    fn bytes(self) -> [u8; MESSAGE] {
        let (kind, number) = match self {
            Self::Beat => (0, 0),
            Self::Done => (1, 0),
            Self::Lost(who) => (2, who),
            Self::Drain(who) => (3, who),
            Self::Quit(who) => (4, who),
            Self::Quiet(held_back) => (5, u32::from(held_back)),
            Self::Go => (6, 0),
        };
        let [a, b, c, d] = number.to_be_bytes();
        [kind, a, b, c, d]
    }

    fn of([kind, a, b, c, d]: [u8; MESSAGE]) -> Option<Self> {
        let number = u32::from_be_bytes([a, b, c, d]);
        Some(match kind {
            0 => Self::Beat,
            1 => Self::Done,
            2 => Self::Lost(number),
            3 => Self::Drain(number),
            4 => Self::Quit(number),
            5 => Self::Quiet(number != 0),
            6 => Self::Go,
            _ => return None,
        })
    }
}

/// The thread that watches over a process, until it is told that the work is done.
pub(crate) struct Heartbeat {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Watches over the processes at the other ends of `sockets`, and over this one's wishes to end. `names`: of all processes.
    pub(crate) fn start(
        cluster: &Cluster,
        sockets: BTreeMap<usize, TcpStream>,
        names: Vec<String>,
        faults: &Arc<Faults>,
        meter: &Arc<Meter>,
    ) -> Result<Self, RunError> {
        let done = Arc::new(AtomicBool::new(false));
        let now = Instant::now();
        let links = sockets.into_iter().map(|(peer, socket)| {
            let link = Link {
                socket,
                read: Vec::new(),
                unsent: VecDeque::new(),
                // Its first beat may be as late as its own deadline: until then it waits for others.
                heard: now + cluster.deadline,
                is_open: true,
                quiet: None,
            };
            (peer, link)
        });
        let watch = Watch {
            me: u32::try_from(cluster.process).unwrap_or(u32::MAX),
            names,
            links: links.collect(),
            silence: cluster.peer_timeout,
            interrupt: cluster.interrupt.clone(),
            faults: Arc::clone(faults),
            meter: Arc::clone(meter),
            draining: None,
            said_quiet: None,
        };
        let until = Arc::clone(&done);
        let thread = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || watch.run(&until))
            .map_err(|error| RunError::Internal(format!("no thread for the heartbeat: {error}")))?;
        Ok(Self {
            done,
            thread: Some(thread),
        })
    }

    /// The work is done, here and so everywhere: whoever closes now is no loss.
    pub(crate) fn finish(mut self) {
        self.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The connection to another process.
struct Link {
    socket: TcpStream,
    /// The beginning of a message whose end is still to come.
    read: Vec<u8>,
    /// What the other end has not taken yet.
    unsent: VecDeque<u8>,
    heard: Instant,
    is_open: bool,
    /// What it said of its drain.
    quiet: Option<bool>,
}

impl Link {
    /// What came in since; [`Heard::Closed`] at the end where the connection is closed.
    fn receive(&mut self) -> Vec<Heard> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(n) if n > 0 => {
                    self.read.extend_from_slice(&buffer[..n]);
                    self.heard = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.is_open = false;
                    break;
                }
            }
        }
        let mut heard = Vec::new();
        while let Some((next, length)) = whole(&self.read) {
            heard.extend(next);
            self.read.drain(..length);
        }
        if !self.is_open {
            heard.push(Heard::Closed);
        }
        heard
    }

    /// A peer that takes nothing more is found by its silence.
    fn send(&mut self, message: Message) {
        self.unsent.extend(message.bytes());
        self.flush();
    }

    /// Only where nothing waits: a peer that is slow to read needs the latest report alone.
    fn report(&mut self, report: &[u8]) {
        if self.unsent.is_empty() {
            self.unsent.push_back(IS_REPORT);
            self.unsent.extend((report.len() as u32).to_be_bytes());
            self.unsent.extend(report);
            self.flush();
        }
    }

    /// As much of what waits as the other end takes now.
    fn flush(&mut self) {
        while self.is_open && !self.unsent.is_empty() {
            match self.socket.write(self.unsent.as_slices().0) {
                Ok(n) if n > 0 => {
                    self.unsent.drain(..n);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Full for now; or broken, which reading will show.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// What comes over a connection.
#[derive(Debug, PartialEq)]
enum Heard {
    Message(Message),
    Report(Box<ProcessReport>),
    Closed,
}

/// The first message of what was read, and its length; `None` where its end is still to come. What is not understood is skipped.
fn whole(read: &[u8]) -> Option<(Option<Heard>, usize)> {
    let (head, body) = read.split_first_chunk::<MESSAGE>()?;
    let [IS_REPORT, a, b, c, d] = *head else {
        return Some((Message::of(*head).map(Heard::Message), MESSAGE));
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let report = body.get(..length.min(LONGEST))?;
    let report = serde_json::from_slice(report).ok();
    Some((report.map(Heard::Report), MESSAGE + length.min(LONGEST)))
}

struct Watch {
    me: u32,
    names: Vec<String>,
    links: BTreeMap<usize, Link>,
    silence: Duration,
    interrupt: Interrupt,
    faults: Arc<Faults>,
    meter: Arc<Meter>,
    /// Since when, and who asked for it.
    draining: Option<(Instant, u32)>,
    said_quiet: Option<bool>,
}

impl Watch {
    fn run(mut self, done: &AtomicBool) {
        let every = (self.silence / 5).min(Duration::from_secs(5));
        let (mut beat, mut reported) = (None::<Instant>, None::<Instant>);
        while !done.load(Ordering::Acquire) {
            if beat.is_none_or(|beat| beat.elapsed() >= every) {
                beat = Some(Instant::now());
                self.tell(Message::Beat);
            }
            if self.me != 0 && reported.is_none_or(|reported| reported.elapsed() >= REPORT) {
                reported = Some(Instant::now());
                self.report();
            }
            self.links.values_mut().for_each(Link::flush);
            self.listen();
            self.heed_wishes();
            self.drain();
            if self.faults.raised() {
                // The process ends with this fault, which closes its connections.
                return;
            }
            std::thread::sleep(TICK);
        }
        if self.me != 0 {
            self.report();
        }
        self.tell(Message::Done);
    }

    /// Tells the first process what this one has done.
    fn report(&mut self) {
        if let Ok(report) = serde_json::to_vec(&self.meter.report())
            && report.len() <= LONGEST
        {
            self.links.values_mut().for_each(|link| link.report(&report));
        }
    }

    fn tell(&mut self, message: Message) {
        self.links.values_mut().for_each(|link| link.send(message));
    }

    fn name(&self, process: u32) -> String {
        match self.names.get(process as usize) {
            Some(name) => format!("process {name}"),
            None => format!("process {process}"),
        }
    }

    fn listen(&mut self) {
        let mut heard = Vec::new();
        for (&peer, link) in self.links.iter_mut().filter(|(_, link)| link.is_open) {
            heard.extend(link.receive().into_iter().map(|heard| (peer, heard)));
        }
        for (peer, heard) in heard {
            match heard {
                Heard::Message(message) => self.hear(peer, message),
                Heard::Report(report) if self.me == 0 && report.process as usize == peer => self.meter.hear(*report),
                Heard::Report(_) => {}
                Heard::Closed => self.lost(peer, "has ended"),
            }
        }
        let silence = self.silence;
        let is_silent = |link: &Link| link.is_open && link.heard.elapsed() > silence;
        if let Some((&peer, _)) = self.links.iter().find(|(_, link)| is_silent(link)) {
            let how = format!("has given no sign of life for {} s", silence.as_secs_f64());
            self.lost(peer, &how);
        }
    }

    fn hear(&mut self, peer: usize, message: Message) {
        match message {
            Message::Beat => {}
            Message::Done => {
                self.links.remove(&peer);
            }
            Message::Lost(who) => {
                let name = self.name(who);
                self.faults.raise(RunError::PeerLost(format!("{name} is gone")));
            }
            Message::Drain(who) => self.begin_drain(who),
            Message::Quit(who) => self.quit(who),
            Message::Quiet(held_back) => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.quiet = Some(held_back);
                }
            }
            Message::Go => self.go(),
        }
    }

    fn lost(&mut self, peer: usize, how: &str) {
        if self.links.remove(&peer).is_none() {
            // It had done its part.
            return;
        }
        if self.draining.is_some() {
            return self.go();
        }
        let who = u32::try_from(peer).unwrap_or(u32::MAX);
        if self.me == 0 {
            self.tell(Message::Lost(who));
        }
        let name = self.name(who);
        self.faults.raise(RunError::PeerLost(format!("{name} {how}")));
    }

    fn heed_wishes(&mut self) {
        match self.interrupt.asked() {
            None => {}
            Some(Wish::Drain) => self.begin_drain(self.me),
            Some(Wish::Quit) => self.quit(self.me),
        }
    }

    fn begin_drain(&mut self, who: u32) {
        if self.draining.is_none() {
            let name = self.name(who);
            tracing::info!(who = %name, limit_s = DRAIN.as_secs(), "asked to end: finishes the groups under way");
            self.draining = Some((Instant::now(), who));
            self.faults.drain().ask();
            self.tell(Message::Drain(who));
        }
    }

    fn quit(&mut self, who: u32) {
        self.tell(Message::Quit(who));
        let name = self.name(who);
        self.faults
            .raise(RunError::Interrupted(format!("a signal to {name}, at once")));
    }

    /// Ends once nothing is under way anywhere and the pass cannot end any more, or the time is over.
    fn drain(&mut self) {
        let Some((since, _)) = self.draining else { return };
        let own = self
            .faults
            .drain()
            .is_quiet()
            .then(|| self.faults.drain().has_held_back());
        if self.me != 0 && own.is_some() && own != self.said_quiet {
            self.said_quiet = own;
            self.tell(Message::Quiet(own == Some(true)));
        }
        let all: Option<Vec<bool>> = self.links.values().map(|link| link.quiet).chain([own]).collect();
        let all_are_quiet = self.me == 0 && all.is_some_and(|held_back| held_back.contains(&true));
        if all_are_quiet || since.elapsed() > DRAIN {
            self.tell(Message::Go);
            self.go();
        }
    }

    fn go(&mut self) {
        let who = self.draining.map_or(self.me, |(_, who)| who);
        let name = self.name(who);
        self.faults.raise(RunError::Interrupted(format!(
            "a signal to {name}, after its groups under way"
        )));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn messages_survive_the_wire() {
        for message in [
            Message::Beat,
            Message::Done,
            Message::Lost(7),
            Message::Drain(70_000),
            Message::Quit(0),
            Message::Quiet(true),
            Message::Quiet(false),
            Message::Go,
        ] {
            assert_eq!(Message::of(message.bytes()), Some(message));
        }
        assert_eq!(Message::of([9, 0, 0, 0, 0]), None);
    }

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
                let heartbeat =
                    Heartbeat::start(&cluster, BTreeMap::from([(other, socket)]), names, &faults[me], &meter);
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
    fn reports_come_in_pieces_between_messages() {
        let report = Meter::silent().report();
        let json = serde_json::to_vec(&report).unwrap();
        let mut bytes = Message::Beat.bytes().to_vec();
        bytes.push(IS_REPORT);
        bytes.extend((json.len() as u32).to_be_bytes());
        bytes.extend(&json);
        bytes.extend(Message::Go.bytes());
        let mut read = Vec::new();
        let mut heard = Vec::new();
        for byte in bytes {
            read.push(byte);
            while let Some((next, length)) = whole(&read) {
                heard.extend(next);
                read.drain(..length);
            }
        }
        assert_eq!(
            heard,
            [
                Heard::Message(Message::Beat),
                Heard::Report(Box::new(report)),
                Heard::Message(Message::Go)
            ]
        );
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
}
