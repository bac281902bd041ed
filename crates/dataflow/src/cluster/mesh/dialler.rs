//! What the threads of a forming mesh do by themselves: dial a process until it answers, and tell.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::cluster::handshake::{Handshake, Peer, Purpose, Refusal};
use crate::cluster::whereabouts::Whereabouts;

/// What a thread has to tell.
pub(super) enum News {
    /// Somebody passed the handshake; where they dialled, which of the strangers they were.
    Arrived(Peer, Option<u64>),
    /// A connection was dropped: with whom, why, and which of the strangers they were.
    Dropped(String, Refusal, Option<u64>),
}

/// Whether the mesh has formed, or was given up: then its threads end.
#[derive(Clone, Default)]
pub(super) struct Over(Arc<AtomicBool>);

impl Over {
    /// From here on it is.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_it(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps, but no longer than it lasts.
    pub(super) fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_it() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(time));
        }
    }
}

/// Dials one process until it answers.
pub(super) struct Dialler {
    pub(super) peer: usize,
    pub(super) purpose: Purpose,
    pub(super) handshake: Handshake,
    pub(super) whereabouts: Whereabouts,
    pub(super) news: Sender<News>,
    pub(super) over: Over,
}

impl Dialler {
    pub(super) fn dial(&self) {
        let mut pause = self.whereabouts.pause();
        while !self.over.is_it() {
            match self.try_once() {
                Ok(Some(peer)) => {
                    let _ = self.news.send(News::Arrived(peer, None));
                    return;
                }
                Ok(None) => {}
                Err(refusal) => {
                    let with = self.whereabouts.name(self.peer);
                    let _ = self.news.send(News::Dropped(with, refusal, None));
                }
            }
            self.over.sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
    }

    /// `None` while nothing listens there, or nobody knows where.
    fn try_once(&self) -> Result<Option<Peer>, Refusal> {
        let Some(address) = self.whereabouts.address(self.peer)? else {
            return Ok(None);
        };
        let found = address.to_socket_addrs().into_iter().flatten();
        for to in found.filter(SocketAddr::is_ipv4) {
            let Ok(socket) = TcpStream::connect_timeout(&to, Duration::from_secs(1)) else {
                continue;
            };
            let peer = self.handshake.dial(socket, self.purpose)?;
            if peer.process != self.peer {
                return Err("another process of the run is at its address: give every process its own".into());
            }
            return Ok(Some(peer));
        }
        Ok(None)
    }
}
