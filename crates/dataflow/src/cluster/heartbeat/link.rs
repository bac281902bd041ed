//! What goes over the connection of two processes: short messages, reports of what a process has done, and why one failed.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::progress::standing::ProcessReport;

/// Bytes of a message: its kind and a number, which for a report and a failure is the number of the bytes that follow.
const MESSAGE: usize = 5;
/// Most bytes that follow.
pub(super) const LONGEST: usize = 1 << 20;
/// The kind of a report.
const IS_REPORT: u8 = 7;
/// The kind of a failure.
const IS_FAILURE: u8 = 8;

/// What one process tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It is alive.
    Beat,
    /// It has done its part, the first process its own last of all: what closes now is no loss.
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

/// Why a process ends, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Which one.
    pub process: u32,
    /// With which code it ends.
    pub exit_code: u8,
    /// Its error and the causes of it.
    pub said: String,
}

/// The connection to another process.
pub(super) struct Link {
    socket: TcpStream,
    /// The beginning of a message whose end is still to come.
    read: Vec<u8>,
    /// What the other end has not taken yet.
    unsent: VecDeque<u8>,
    pub heard: Instant,
    pub is_open: bool,
    /// Whether it has done its part.
    pub has_done: bool,
    /// What it said of its drain.
    pub quiet: Option<bool>,
}

impl Link {
    /// Over a connection that does not block, heard of as late as `heard` before it is silent.
    pub fn new(socket: TcpStream, heard: Instant) -> Self {
        Self {
            socket,
            read: Vec::new(),
            unsent: VecDeque::new(),
            heard,
            is_open: true,
            has_done: false,
            quiet: None,
        }
    }

    /// What came in since; [`Heard::Closed`] at the end where the connection is closed.
    pub fn receive(&mut self) -> Vec<Heard> {
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
    pub fn send(&mut self, message: Message) {
        self.unsent.extend(message.bytes());
        self.flush();
    }

    /// Only where nothing waits: a peer that is slow to read needs the latest report alone.
    pub fn report(&mut self, report: &[u8]) {
        if self.unsent.is_empty() {
            self.send_long(IS_REPORT, report);
        }
    }

    /// Why a process failed.
    pub fn fail(&mut self, failure: &Failure) {
        if let Ok(failure) = serde_json::to_vec(failure)
            && failure.len() <= LONGEST
        {
            self.send_long(IS_FAILURE, &failure);
        }
    }

    fn send_long(&mut self, kind: u8, bytes: &[u8]) {
        self.unsent.push_back(kind);
        self.unsent.extend((bytes.len() as u32).to_be_bytes());
        self.unsent.extend(bytes);
        self.flush();
    }

    /// Sends what waits, says that nothing more comes, and looks whether the other end has closed: to close what has come in and was not read would
    /// take back what was sent.
    pub fn finish(&mut self) {
        self.flush();
        if self.unsent.is_empty() {
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        self.receive();
    }

    /// As much of what waits as the other end takes now.
    pub fn flush(&mut self) {
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
pub(super) enum Heard {
    Message(Message),
    Report(Box<ProcessReport>),
    Failed(Failure),
    Closed,
}

/// The first message of what was read, and its length; `None` where its end is still to come. What is not understood is skipped.
fn whole(read: &[u8]) -> Option<(Option<Heard>, usize)> {
    let (head, body) = read.split_first_chunk::<MESSAGE>()?;
    let [kind @ (IS_REPORT | IS_FAILURE), a, b, c, d] = *head else {
        return Some((Message::of(*head).map(Heard::Message), MESSAGE));
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let said = body.get(..length.min(LONGEST))?;
    let heard = match kind {
        IS_REPORT => serde_json::from_slice(said).map(Heard::Report),
        _ => serde_json::from_slice(said).map(Heard::Failed),
    };
    Some((heard.ok(), MESSAGE + length.min(LONGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::meter::Meter;

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

    #[test]
    fn reports_and_failures_come_in_pieces_between_messages() {
        let report = Meter::silent().report();
        let json = serde_json::to_vec(&report).unwrap();
        let mut bytes = Message::Beat.bytes().to_vec();
        bytes.push(IS_REPORT);
        bytes.extend((json.len() as u32).to_be_bytes());
        bytes.extend(&json);
        let failure = Failure {
            process: 2,
            exit_code: 3,
            said: "row group 7".to_owned(),
        };
        let json = serde_json::to_vec(&failure).unwrap();
        bytes.push(IS_FAILURE);
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
                Heard::Failed(failure),
                Heard::Message(Message::Go)
            ]
        );
    }
}
