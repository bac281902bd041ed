//! Signs of life between the first process and every other, and what becomes of those who give none.
//!
//! Every process sends the first a beat several times in `peer_timeout`, and the first answers with its own. A connection that closes is a process that
//! ended, silence is one that is stopped or cut off (its kernel may go on acknowledging TCP): the first process tells all others whom it
//! lost, and each ends with a fault that names it. Between two other processes TCP's own time limits find what is cut off.
//!
//! A process that fails says why before it closes, and the first passes that on: all end with its exit code and name it, so that a scheduler
//! does not try again what would end the same.
//!
//! A process whose workers have ended says that it has done its part and stays, until the first process says so too, which it does last: once what
//! all have worked for counts. Then all end as the first does. One that loses it before takes the run for lost, and is tried again with it;
//! the first process needs none of those that have done their part.
//!
//! The same connections carry a wish to end: every process then finishes the groups it has under way, tells the first when it is quiet, and
//! ends when all are and the pass cannot end any more, or when the time for it is over. And they carry what each process has done, for the
//! first to show.

mod link;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::link::{Failure, Heard, LONGEST, Link, Message};
use fisherflow_store::with_causes;

use crate::error::RunError;
use crate::fault::Faults;
use crate::interrupt::{Interrupt, Wish};
use crate::job::Cluster;
use crate::progress::meter::Meter;

/// Time between two looks.
const TICK: Duration = Duration::from_millis(25);
/// How long groups under way may take once the process is to end: schedulers kill after 30 s.
const DRAIN: Duration = Duration::from_secs(20);
/// How long a process that has said why it fails waits until the others have read it.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the first process waits until the others have read that all is done: whoever has not goes by what the output says.
const GOODBYE: Duration = Duration::from_secs(5);
/// Most characters of why a process failed.
const MOST_WORDS: usize = 4096;
/// Time between two reports of what a process has done.
const REPORT: Duration = Duration::from_secs(1);

/// The thread that watches over a process, until it is told that the work is done.
pub(crate) struct Heartbeat {
    is_first: bool,
    at: Arc<AtomicU8>,
    thread: JoinHandle<()>,
}

/// How far a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    /// Its workers are at work.
    Work,
    /// They have ended; the first process makes of it what counts, the others wait for that.
    Rest,
    /// What the first process made counts.
    End,
}

impl At {
    fn of(at: &AtomicU8) -> Self {
        match at.load(Ordering::Acquire) {
            0 => Self::Work,
            1 => Self::Rest,
            _ => Self::End,
        }
    }
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
        let at = Arc::new(AtomicU8::new(At::Work as u8));
        let now = Instant::now();
        let links = sockets.into_iter().map(|(peer, socket)| {
            // Its first beat may be as late as its own deadline: until then it waits for others.
            (peer, Link::new(socket, now + cluster.deadline))
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
            has_told_why: false,
            at: At::Work,
        };
        let until = Arc::clone(&at);
        let thread = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || watch.run(&until))
            .map_err(|error| RunError::no_thread("the heartbeat", &error))?;
        Ok(Self {
            is_first: cluster.process == 0,
            at,
            thread,
        })
    }

    /// The workers of this process have ended well, and with them the connections between workers. In the first process this returns at once: what
    /// comes of the others is no loss any more. In the others it returns once the first has said that all is done, or a fault is raised.
    pub(crate) fn rest(self) -> Option<Self> {
        self.at.store(At::Rest as u8, Ordering::Release);
        if self.is_first {
            return Some(self);
        }
        self.leave();
        None
    }

    /// What the first process made of the work counts: returns once the others have read it, or do not in time.
    pub(crate) fn finish(self) {
        self.at.store(At::End as u8, Ordering::Release);
        self.leave();
    }

    /// Returns once the others are told of the fault that this process ends with.
    pub(crate) fn leave(self) {
        let _ = self.thread.join();
    }
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
    /// Whether the others were told why a process failed.
    has_told_why: bool,
    at: At,
}

impl Watch {
    fn run(mut self, at: &AtomicU8) {
        let every = (self.silence / 5).min(Duration::from_secs(5));
        let (mut beat, mut reported) = (None::<Instant>, None::<Instant>);
        while At::of(at) != At::End {
            if self.at != At::of(at) {
                self.at = At::Rest;
                if self.me != 0 {
                    self.report();
                    self.tell(Message::Done);
                }
            }
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
                return self.last_words();
            }
            if self.me != 0 && self.at == At::Rest && self.links.is_empty() {
                return;
            }
            std::thread::sleep(TICK);
        }
        self.tell(Message::Done);
        self.until_read(GOODBYE);
    }

    /// Returns once the others have read all that this process said, or do not in time.
    fn until_read(&mut self, limit: Duration) {
        let told = Instant::now();
        while told.elapsed() < limit && self.links.values().any(|link| link.is_open) {
            self.links.values_mut().for_each(Link::finish);
            std::thread::sleep(TICK / 5);
        }
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

    /// Tells the others why this process fails, where they do not know it; returns once they have read it, or will not.
    fn last_words(&mut self) {
        let me = self.me;
        let own = self.faults.look(|error| {
            error.is_own().then(|| Failure {
                process: me,
                exit_code: error.exit_code(),
                said: with_causes(error).chars().take(MOST_WORDS).collect(),
            })
        });
        if let Some(failure) = own.flatten() {
            self.tell_why(&failure);
        }
        if self.has_told_why {
            self.until_read(LAST_WORDS);
        }
    }

    /// Whether this process needs no other any more: what comes of them is no loss, and what they wish comes too late.
    fn needs_nobody(&self) -> bool {
        self.me == 0 && self.at > At::Work
    }

    fn tell_why(&mut self, failure: &Failure) {
        self.has_told_why = true;
        self.links.values_mut().for_each(|link| link.fail(failure));
    }

    fn name(&self, process: u32) -> String {
        match self.names.get(process as usize) {
            Some(_) if self.names.len() == 1 => "this process".to_owned(),
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
                Heard::Failed(failure) => self.failed(peer, &failure),
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
            Message::Done if self.me == 0 => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.has_done = true;
                    link.quiet.get_or_insert(false);
                }
            }
            Message::Done => {
                self.links.remove(&peer);
            }
            Message::Drain(_) | Message::Quit(_) if self.needs_nobody() => {}
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
        let link = self.links.remove(&peer);
        if link.is_none_or(|link| link.has_done) || self.needs_nobody() {
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

    /// A process failed: `peer`, or whom the first process tells of.
    fn failed(&mut self, peer: usize, failure: &Failure) {
        self.links.remove(&peer);
        if self.needs_nobody() {
            return;
        }
        if self.me == 0 {
            self.tell_why(failure);
        }
        self.faults.raise(RunError::PeerFailed {
            process: self.name(failure.process),
            exit_code: failure.exit_code,
            said: failure.said.clone(),
        });
    }

    fn heed_wishes(&mut self) {
        match self.interrupt.asked() {
            None => {}
            // What is left to do is short, and is done again as a whole.
            Some(_) if self.needs_nobody() => {}
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
        let Some((since, _)) = self.draining.filter(|_| !self.needs_nobody()) else {
            return;
        };
        if self.at == At::Rest {
            // The others need it no more: it waits for the end as long as it may itself.
            if self.interrupt.asked().is_some() && since.elapsed() > DRAIN {
                self.go();
            }
            return;
        }
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
mod tests;
