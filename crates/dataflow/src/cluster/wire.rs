//! What timely sends to other processes, counted by its own log of its communication threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use timely::communication::Hooks;
use timely::communication::logging::{CommunicationEvent, CommunicationEventBuilder};
use timely::logging_core::Logger;

/// Bytes and messages between this process and the others, headers included.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    sent: AtomicU64,
    received: AtomicU64,
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireCounts {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

impl Wire {
    pub(crate) fn counts(&self) -> WireCounts {
        WireCounts {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// Timely's hooks, with a log that is counted here.
    pub(crate) fn hooks(self: &Arc<Self>) -> Hooks {
        let wire = Arc::clone(self);
        Hooks {
            log_fn: Arc::new(move |_thread| {
                let wire = Arc::clone(&wire);
                Some(Logger::<CommunicationEventBuilder>::new(
                    Instant::now(),
                    Duration::ZERO,
                    move |_time, events| wire.count(events.take().unwrap_or_default()),
                ))
            }),
            ..Hooks::default()
        }
    }

    fn count(&self, events: Vec<(Duration, CommunicationEvent)>) {
        for (_, event) in events {
            if let CommunicationEvent::Message(message) = event {
                let counter = if message.is_send { &self.sent } else { &self.received };
                counter.fetch_add(message.header.required_bytes() as u64, Ordering::Relaxed);
            }
        }
    }
}
