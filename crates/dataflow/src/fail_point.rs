//! Named points of a run at which a process can be told to die or to hang, so that tests can ask what becomes of the others and of the output.
//!
//! A process has at most one: it is passed along with the [`crate::Cluster`], and costs a look at an empty option where there is none.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A point of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailPoint {
    /// Network and catalogues are open; nothing is claimed.
    Opened,
    /// The output is claimed; nobody knows yet.
    Claimed,
    /// This process listens, and dials.
    Listening,
    /// A connection has passed the handshake.
    Seated,
    /// All connections are there, and no worker has started.
    Formed,
    /// What the run overwrites is gone, and no worker has begun.
    Begun,
    /// A pass has read what an earlier run left, and is about to hand out its groups.
    Planned,
    /// A group's sums are complete, and nobody else has them.
    GroupSummed,
    /// A group's sums are in the store; their record, by which they count, is not.
    GroupWritten,
    /// A group's record is in the store, and nobody has heard of it.
    GroupDone,
    /// Some groups' sums were added to a total, which is in memory alone.
    Merged,
    /// A block of the Hessian is to be written.
    BeforeHessian,
    /// A block of the Hessian, or its eigenbases, is written.
    HessianWritten,
    /// What a stage leaves for the next is to be written.
    BeforeStage,
    /// What a stage leaves for the next is written.
    StageLeft,
    /// A block is inverted; its inverse is to be written.
    BeforeInverse,
    /// A block's inverse is written, and its marginal variances are not.
    InverseWritten,
    /// A part of the predictions holds its rows, and is not ended.
    BeforePart,
    /// A part of the predictions is ended, and its Jacobians are not.
    PartWritten,
    /// Every table is written; the manifest is not.
    BeforeManifest,
    /// The commit is in the log of claims; the manifest is not there.
    Sealed,
    /// The manifest is there, and so are the stages.
    Committed,
    /// Of a line the release is there, too; the stages still are.
    Released,
    /// The stages are cleared; the claim is still held.
    Cleared,
}

impl FailPoint {
    /// All of them, in the order in which a run comes by.
    pub const ALL: [Self; 24] = [
        Self::Opened,
        Self::Claimed,
        Self::Listening,
        Self::Seated,
        Self::Formed,
        Self::Begun,
        Self::Planned,
        Self::GroupSummed,
        Self::GroupWritten,
        Self::GroupDone,
        Self::Merged,
        Self::BeforeHessian,
        Self::HessianWritten,
        Self::BeforeStage,
        Self::StageLeft,
        Self::BeforeInverse,
        Self::InverseWritten,
        Self::BeforePart,
        Self::PartWritten,
        Self::BeforeManifest,
        Self::Sealed,
        Self::Committed,
        Self::Released,
        Self::Cleared,
    ];

    /// As it is spelled.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Claimed => "claimed",
            Self::Listening => "listening",
            Self::Seated => "seated",
            Self::Formed => "formed",
            Self::Begun => "begun",
            Self::Planned => "planned",
            Self::GroupSummed => "group-summed",
            Self::GroupWritten => "group-written",
            Self::GroupDone => "group-done",
            Self::Merged => "merged",
            Self::BeforeHessian => "before-hessian",
            Self::HessianWritten => "hessian-written",
            Self::BeforeStage => "before-stage",
            Self::StageLeft => "stage-left",
            Self::BeforeInverse => "before-inverse",
            Self::InverseWritten => "inverse-written",
            Self::BeforePart => "before-part",
            Self::PartWritten => "part-written",
            Self::BeforeManifest => "before-manifest",
            Self::Sealed => "sealed",
            Self::Committed => "committed",
            Self::Released => "released",
            Self::Cleared => "cleared",
        }
    }
}

/// What becomes of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It dies by SIGKILL.
    Kill,
    /// It stops by SIGSTOP, until somebody wakes it.
    Stop,
}

/// Where a process fails, and how: `NAME[:NTH][:stop]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailAt {
    /// The point.
    pub point: FailPoint,
    /// At which passage of it, from 1.
    pub nth: u64,
    /// What becomes of the process.
    pub failure: Failure,
}

impl FromStr for FailAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let point = FailPoint::ALL.into_iter().find(|point| point.name() == name);
        let point = point.ok_or_else(|| {
            let names: Vec<&str> = FailPoint::ALL.iter().map(|point| point.name()).collect();
            format!("no point {name:?}; there are {}", names.join(", "))
        })?;
        let mut at = Self {
            point,
            nth: 1,
            failure: Failure::Kill,
        };
        for part in parts {
            match part.parse() {
                Ok(nth) if nth > 0 => at.nth = nth,
                _ if part == "stop" => at.failure = Failure::Stop,
                _ => return Err(format!("{part:?} is neither a number from 1 nor stop")),
            }
        }
        Ok(at)
    }
}

impl fmt::Display for FailAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point.name(), self.nth)?;
        match self.failure {
            Failure::Kill => Ok(()),
            Failure::Stop => f.write_str(":stop"),
        }
    }
}

/// The point at which this process fails, if any; clones count together.
#[derive(Clone, Debug, Default)]
pub struct FailPoints(Option<Arc<Armed>>);

#[derive(Debug)]
struct Armed {
    at: FailAt,
    passed: AtomicU64,
}

impl FailPoints {
    /// This process fails there.
    #[must_use]
    pub fn at(at: FailAt) -> Self {
        let passed = AtomicU64::new(0);
        Self(Some(Arc::new(Armed { at, passed })))
    }

    /// The run comes by a point.
    pub(crate) fn pass(&self, point: FailPoint) {
        if let Some(armed) = &self.0
            && armed.is_due(point)
        {
            armed.at.failure.happen();
        }
    }
}

impl Armed {
    fn is_due(&self, point: FailPoint) -> bool {
        point == self.at.point && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.at.nth
    }
}

impl Failure {
    #[cfg(unix)]
    fn happen(self) {
        use nix::sys::signal::{Signal, raise};
        let signal = match self {
            Self::Kill => Signal::SIGKILL,
            Self::Stop => Signal::SIGSTOP,
        };
        if let Err(error) = raise(signal) {
            tracing::error!(%error, "this process cannot fail as it was told to");
        }
    }

    #[cfg(not(unix))]
    fn happen(self) {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for point in FailPoint::ALL {
            for (nth, failure) in [(1, Failure::Kill), (12, Failure::Stop)] {
                let at = FailAt { point, nth, failure };
                assert_eq!(at.to_string().parse(), Ok(at));
            }
            assert_eq!(point.name().parse::<FailAt>().unwrap().nth, 1);
        }
        for wrong in ["", "nowhere", "claimed:0", "claimed:1:die"] {
            assert!(wrong.parse::<FailAt>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_nth_passage_of_the_point_counts() {
        let points = FailPoints::at("merged:3".parse().unwrap());
        let armed = points.0.as_ref().unwrap();
        let passages = [
            FailPoint::Merged,
            FailPoint::Claimed,
            FailPoint::Merged,
            FailPoint::Merged,
            FailPoint::Merged,
        ];
        let due: Vec<bool> = passages.iter().map(|&point| armed.is_due(point)).collect();
        assert_eq!(due, [false, false, false, true, false]);
    }
}
