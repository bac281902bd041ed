//! The cluster's sockets, connected and checked before timely sees them.
//!
//! Every pair of processes has one connection for timely, and every process one more to the first, for signs of life
//! ([`crate::cluster::heartbeat`]); the higher index dials the lower. Each connection passes the handshake of [`crate::cluster::handshake`] in a thread of its own, so
//! that whatever else connects (a port probe, an HTTP client, a process of another run, somebody who says nothing) holds up nobody. It is dropped
//! and reported, and a deadline ends the wait.
//!
//! A connection whose process died while the cluster was forming is given up: that process may come again.

mod dialler;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use self::dialler::{Dialler, News, Over};
use crate::cluster::handshake::{Handshake, Peer, Purpose};
use crate::cluster::strays::Strays;
use crate::cluster::terms::Terms;
use crate::cluster::whereabouts::Whereabouts;
use crate::error::RunError;
use crate::fail_point::{FailPoint, FailPoints};
use crate::job::Cluster;

/// Handshakes under way with whoever dialled: the oldest gives way to the next, for a process of the run is done in milliseconds.
const MOST_STRANGERS: usize = 128;
/// How long a process goes on meeting others that has met one with another number of workers: they see it too, and do not wait for it.
const MEETS_ALL: Duration = Duration::from_secs(1);
/// Time between two looks at whether those who are connected still live.
const LOOK: Duration = Duration::from_millis(250);
/// Who was here so short before the deadline is nobody who never came: deadlines pass one after the other.
const RECENTLY: Duration = Duration::from_secs(2);

/// The connections of this process.
pub(crate) struct Mesh {
    /// To process `i`, `None` for this one.
    pub(crate) data: Vec<Option<TcpStream>>,
    /// By process: all others in the first process, the first in all others.
    pub(crate) heartbeat: BTreeMap<usize, TcpStream>,
}

/// Connects this process to every other one.
///
/// # Errors
/// [`RunError::NotFormed`] where the deadline passes, or a process has found another catalogue, [`RunError::PortTaken`] where this process's own port
/// is, [`RunError::Usage`] where the addresses leave this machine and no secret is given, or a process has another number of workers, or is another
/// build's or run's.
pub(crate) fn connect(cluster: &Cluster, terms: &Terms, whereabouts: &Whereabouts) -> Result<Mesh, RunError> {
    if cluster.secret.is_empty() && !whereabouts.stay_here() {
        return Err(RunError::Usage(
            "the hosts are not all on this machine: give every process the same secret with --secret-file, \
             or FISHERFLOW_CLUSTER_SECRET"
                .into(),
        ));
    }
    let (listener, address) = whereabouts.listen()?;
    cluster.fail_points.pass(FailPoint::Listening);
    let (news, arrivals) = mpsc::channel();
    let mut forming = Forming {
        me: cluster.process,
        handshake: Handshake::new(cluster, terms),
        whereabouts: whereabouts.clone(),
        places: places(cluster.process, cluster.processes),
        strangers: VecDeque::new(),
        accepted: 0,
        strays: Strays::default(),
        seen: BTreeMap::new(),
        turned_away: BTreeMap::new(),
        unlike: None,
        news,
        over: Over::default(),
        fail_points: cluster.fail_points.clone(),
    };
    forming.announce(address);
    forming.dial_those_missing();
    let formed = forming.form(cluster, &listener, &arrivals);
    forming.over.set();
    formed?;
    forming
        .finish(cluster.peer_timeout)
        .map_err(|error| RunError::PeerLost(format!("socket: {error}")))
}

/// The connections that process `me` needs.
fn places(me: usize, processes: usize) -> BTreeMap<(usize, Purpose), Place> {
    let others = (0..processes).filter(|&other| other != me);
    let data = others.clone().map(|other| (other, Purpose::Data));
    let heartbeat = others
        .filter(|&other| me == 0 || other == 0)
        .map(|other| (other, Purpose::Heartbeat));
    data.chain(heartbeat).map(|key| (key, Place::Empty)).collect()
}

/// One connection that is needed.
enum Place {
    /// Nobody there, and nobody dialled.
    Empty,
    /// A thread dials.
    Dialled,
    /// There.
    Taken(TcpStream),
}

impl Place {
    /// Whether a living process holds it.
    fn is_alive(&self) -> bool {
        let Self::Taken(socket) = self else {
            return false;
        };
        match socket.peek(&mut [0]) {
            Ok(n) => n > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

/// A process of another build or run.
struct TurnedAway {
    /// When it last came.
    last: Instant,
    /// What it is.
    reason: String,
    /// Whether it may not be that at the next try.
    passes: bool,
}

struct Forming {
    me: usize,
    handshake: Handshake,
    whereabouts: Whereabouts,
    places: BTreeMap<(usize, Purpose), Place>,
    /// Those who dialled and have not passed the handshake, the oldest first.
    strangers: VecDeque<(u64, TcpStream)>,
    accepted: u64,
    strays: Strays,
    /// When each process was last connected.
    seen: BTreeMap<usize, Instant>,
    /// Processes that know the secret and are another build's or run's.
    turned_away: BTreeMap<usize, TurnedAway>,
    /// A process of this run that cannot be one of this cluster: since when, and why.
    unlike: Option<(Instant, String)>,
    news: Sender<News>,
    over: Over,
    fail_points: FailPoints,
}

impl Forming {
    /// Waits until everybody is there.
    fn form(
        &mut self,
        cluster: &Cluster,
        listener: &TcpListener,
        arrivals: &mpsc::Receiver<News>,
    ) -> Result<(), RunError> {
        let end = Instant::now() + cluster.deadline;
        let mut looked = Instant::now();
        while !self.places.values().all(Place::is_alive) {
            if cluster.interrupt.asked().is_some() {
                return Err(RunError::Interrupted(
                    "a signal while it waited for the other processes".into(),
                ));
            }
            let is_over = Instant::now() > end;
            if let Some((since, said)) = &self.unlike
                && (is_over || since.elapsed() >= MEETS_ALL)
            {
                return Err(RunError::Usage(said.clone()));
            }
            if is_over {
                return Err(self.deadline_passed(cluster.deadline));
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.give_up_the_dead();
            }
            for _ in 0..MOST_STRANGERS {
                match listener.accept() {
                    Ok((socket, from)) => self.meet(socket, from),
                    Err(_) => break,
                }
            }
            match arrivals.recv_timeout(Duration::from_millis(10)) {
                Ok(news) => self.hear(news),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            arrivals.try_iter().for_each(|news| self.hear(news));
        }
        Ok(())
    }

    fn deadline_passed(&self, deadline: Duration) -> RunError {
        let mut missing: Vec<usize> = self
            .places
            .iter()
            .filter(|(_, place)| !place.is_alive())
            .map(|((peer, _), _)| *peer)
            .collect();
        missing.dedup();
        let unlike: Vec<(usize, &TurnedAway)> = missing
            .iter()
            .filter_map(|peer| Some((*peer, self.turned_away.get(peer)?)))
            // However long ago: it has ended since, and a scheduler starts none again that ended so. Unless one of this run took its place.
            .filter(|(peer, away)| self.seen.get(peer).is_none_or(|seen| *seen < away.last))
            .collect();
        if !unlike.is_empty() {
            let named = unlike
                .iter()
                .map(|(peer, away)| format!("process {} is of {}", self.whereabouts.name(*peer), away.reason));
            let named = named.collect::<Vec<_>>().join("; ");
            let within = format!("within {} s: {named}", deadline.as_secs());
            return if unlike.iter().all(|(_, away)| away.passes) {
                RunError::NotFormed(within)
            } else {
                RunError::Usage(format!("the cluster did not form {within}"))
            };
        }
        // Whose own deadline has passed a moment ago was here, and is not to be looked for.
        let was_here = |peer: &usize| self.seen.get(peer).is_some_and(|last| last.elapsed() < RECENTLY);
        let never_came: Vec<usize> = missing.iter().copied().filter(|peer| !was_here(peer)).collect();
        let named = if never_came.is_empty() { missing } else { never_came };
        let named: Vec<String> = named.into_iter().map(|peer| self.whereabouts.name(peer)).collect();
        RunError::NotFormed(format!(
            "start-up deadline of {} s passed; missing: {}{}",
            deadline.as_secs(),
            named.join(", "),
            self.strays.in_words()
        ))
    }

    fn hear(&mut self, news: News) {
        let stranger = match &news {
            News::Arrived(_, stranger) | News::Dropped(_, _, stranger) => *stranger,
        };
        if let Some(id) = stranger {
            self.strangers.retain(|(other, _)| *other != id);
        }
        match news {
            News::Arrived(peer, stranger) => self.seat(peer, stranger.is_some()),
            News::Dropped(with, refusal, _) => {
                if let Some(unlike) = refusal.unlike {
                    let away = TurnedAway {
                        last: Instant::now(),
                        reason: refusal.reason.clone(),
                        passes: unlike.passes,
                    };
                    self.turned_away.insert(unlike.process, away);
                }
                self.strays.note(&with, refusal.reason);
            }
        }
    }

    fn seat(&mut self, peer: Peer, dialled_me: bool) {
        let reason = match self.places.get_mut(&(peer.process, peer.purpose)) {
            Some(place) if dialled_me == (peer.process > self.me) && !place.is_alive() => {
                let (own, other) = (self.handshake.workers, peer.workers);
                if own != other {
                    let name = self.whereabouts.name(peer.process);
                    let said = format!(
                        "process {name} was started with -w {other}, process {} with -w {own}: give every process the same number of workers",
                        self.me
                    );
                    self.unlike.get_or_insert((Instant::now(), said));
                } else if peer.socket.set_nonblocking(true).is_ok() {
                    *place = Place::Taken(peer.socket);
                    self.seen.insert(peer.process, Instant::now());
                    self.fail_points.pass(FailPoint::Seated);
                }
                return;
            }
            Some(_) => "a second process of the same number: start each once",
            None => "no process of this number is expected",
        };
        let name = self.whereabouts.name(peer.process);
        self.strays.note(&name, reason.into());
    }

    /// Whoever died while the cluster was forming may come again.
    fn give_up_the_dead(&mut self) {
        for ((peer, _), place) in &mut self.places {
            if place.is_alive() {
                self.seen.insert(*peer, Instant::now());
            } else if matches!(place, Place::Taken(_)) {
                *place = Place::Empty;
            }
        }
        self.dial_those_missing();
    }

    /// Lets whoever dialled speak, in a thread.
    fn meet(&mut self, socket: TcpStream, from: SocketAddr) {
        let Ok(held) = socket.try_clone() else {
            return;
        };
        let id = self.accepted;
        self.accepted += 1;
        self.strangers.push_back((id, held));
        if self.strangers.len() > MOST_STRANGERS
            && let Some((_, oldest)) = self.strangers.pop_front()
        {
            let _ = oldest.shutdown(Shutdown::Both);
        }
        let (handshake, news) = (self.handshake.clone(), self.news.clone());
        let started = thread("handshake", move || {
            let said = match handshake.accept(socket) {
                Ok(peer) => News::Arrived(peer, Some(id)),
                Err(refusal) => News::Dropped(from.ip().to_string(), refusal, Some(id)),
            };
            // Nobody listens once the cluster has formed.
            let _ = news.send(said);
        });
        if !started {
            self.strangers.retain(|(other, _)| *other != id);
        }
    }

    fn dial_those_missing(&mut self) {
        let me = self.me;
        let missing = self
            .places
            .iter_mut()
            .filter(|((peer, _), place)| *peer < me && matches!(place, Place::Empty));
        for (&(peer, purpose), place) in missing {
            let dialler = Dialler {
                peer,
                purpose,
                handshake: self.handshake.clone(),
                whereabouts: self.whereabouts.clone(),
                news: self.news.clone(),
                over: self.over.clone(),
            };
            if thread("dial", move || dialler.dial()) {
                *place = Place::Dialled;
            }
        }
    }

    /// Keeps this process's address where the others look for it: whoever completes the output takes it away.
    fn announce(&self, address: String) {
        if self.whereabouts.are_listed() {
            return;
        }
        let (whereabouts, over, news) = (self.whereabouts.clone(), self.over.clone(), self.news.clone());
        let keep = move || {
            while !over.is_it() {
                if let Err(reason) = whereabouts.announce(&address) {
                    let _ = news.send(News::Dropped("the output".into(), reason.into(), None));
                }
                over.sleep(Duration::from_secs(1));
            }
            whereabouts.leave();
        };
        thread("announce", keep);
    }

    fn finish(self, silence: Duration) -> std::io::Result<Mesh> {
        let mut mesh = Mesh {
            data: Vec::new(),
            heartbeat: BTreeMap::new(),
        };
        let processes = 1 + self
            .places
            .keys()
            .filter(|(_, purpose)| *purpose == Purpose::Data)
            .count();
        mesh.data.resize_with(processes, || None);
        for ((peer, purpose), place) in self.places {
            let Place::Taken(socket) = place else { continue };
            tune(&socket, silence)?;
            match purpose {
                Purpose::Data => {
                    socket.set_nonblocking(false)?;
                    mesh.data[peer] = Some(socket);
                }
                Purpose::Heartbeat => {
                    mesh.heartbeat.insert(peer, socket);
                }
            }
        }
        Ok(mesh)
    }
}

/// Whether it could be started.
fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.is_ok()
}

/// The longest pause before and between probes of an idle connection that Linux takes.
const LONGEST_PAUSE: Duration = Duration::from_secs(32_767);
/// The longest time for unacknowledged data, which it takes in milliseconds.
#[cfg(target_os = "linux")]
const LONGEST_SILENCE: Duration = Duration::from_millis(2_147_483_647);

/// Unacknowledged data, or no answer to probes of an idle connection, for so long means that the peer's machine is gone; for the longest time that
/// the system takes, where that is shorter.
fn tune(socket: &TcpStream, silence: Duration) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(None)?;
    let socket = socket2::SockRef::from(socket);
    let second = Duration::from_secs(1);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time((silence / 4).clamp(second, LONGEST_PAUSE))
        .with_interval((silence / 8).clamp(second, LONGEST_PAUSE));
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(silence.min(LONGEST_SILENCE)))?;
    Ok(())
}

#[cfg(test)]
mod tests;
