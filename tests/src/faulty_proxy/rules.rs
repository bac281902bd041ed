//! Which requests go wrong, and how.

use std::sync::Arc;
use std::time::Duration;

use super::message::Message;

/// What happens to a request.
#[derive(Clone)]
pub enum Fault {
    /// An error instead of the server's answer; the server never sees the request.
    Answer {
        /// The status.
        status: u16,
        /// S3's name of the error.
        code: &'static str,
    },
    /// The request goes on only after a while.
    Delay(Duration),
    /// The connection is reset; the server never sees the request.
    Reset,
    /// The server acts on the request; its answer is lost with the connection.
    LoseAnswer,
    /// The connection is reset within the head of the answer.
    ResetInHead,
    /// The connection is reset after so many bytes of the answer's body.
    ResetInBody(usize),
    /// The connection is closed in order after so many bytes of the answer's body.
    Truncate(usize),
    /// The body comes in so many bytes at a time, with pauses.
    Trickle(usize, Duration),
    /// The request is taken and never answered; the connection stays open.
    Stall,
    /// Something is done first (an object replaced, a process killed); then the request goes on.
    First(Arc<dyn Fn() + Send + Sync>),
}

impl Fault {
    /// 503 SlowDown.
    #[must_use]
    pub fn slow_down() -> Self {
        Self::Answer {
            status: 503,
            code: "SlowDown",
        }
    }

    /// 500 InternalError.
    #[must_use]
    pub fn internal_error() -> Self {
        Self::Answer {
            status: 500,
            code: "InternalError",
        }
    }

    /// 409 with one of S3's names of a conflict: another write is at work.
    #[must_use]
    pub fn conflict(code: &'static str) -> Self {
        Self::Answer { status: 409, code }
    }

    /// 403 ExpiredToken.
    #[must_use]
    pub fn expired_token() -> Self {
        Self::Answer {
            status: 403,
            code: "ExpiredToken",
        }
    }

    /// Something is done before a request goes on.
    #[must_use]
    pub fn first(act: impl Fn() + Send + Sync + 'static) -> Self {
        Self::First(Arc::new(act))
    }
}

/// Which requests a rule is for.
#[derive(Clone, Debug)]
pub struct On {
    method: Option<&'static str>,
    part: String,
    header: Option<(&'static str, String)>,
    pub(super) after: usize,
    pub(super) times: usize,
    pub(super) chance: f64,
}

impl On {
    /// All of them.
    #[must_use]
    pub fn any() -> Self {
        Self::method(None, "")
    }

    /// Those that read an object whose path and query hold `part`.
    #[must_use]
    pub fn get(part: &str) -> Self {
        Self::method(Some("GET"), part)
    }

    /// Those that write one, or a part of one (`partNumber=`).
    #[must_use]
    pub fn put(part: &str) -> Self {
        Self::method(Some("PUT"), part)
    }

    /// Those that begin (`uploads`) or end (`uploadId=`) an upload of parts, or delete (`delete`).
    #[must_use]
    pub fn post(part: &str) -> Self {
        Self::method(Some("POST"), part)
    }

    /// Those of a method; of all where it is `None`.
    #[must_use]
    pub fn method(method: Option<&'static str>, part: &str) -> Self {
        Self {
            method,
            part: part.to_owned(),
            header: None,
            after: 0,
            times: usize::MAX,
            chance: 1.0,
        }
    }

    /// Only those whose header holds some text.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, holds: &str) -> Self {
        self.header = Some((name, holds.to_owned()));
        self
    }

    /// Not the first `n`.
    #[must_use]
    pub fn after(mut self, n: usize) -> Self {
        self.after = n;
        self
    }

    /// So many, then no more.
    #[must_use]
    pub fn times(mut self, n: usize) -> Self {
        self.times = n;
        self
    }

    /// Each with this probability, by the proxy's seed.
    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }

    pub(super) fn matches(&self, request: &Message) -> bool {
        let (method, target) = method_and_target(request);
        self.method.is_none_or(|wanted| wanted == method)
            && target.contains(&self.part)
            && self
                .header
                .as_ref()
                .is_none_or(|(name, holds)| request.header(name).is_some_and(|value| value.contains(holds)))
    }
}

/// `GET`, and path and query.
pub(super) fn method_and_target(request: &Message) -> (&str, &str) {
    let mut parts = request.start.split(' ');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
