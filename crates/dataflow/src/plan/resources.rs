//! What a run took, beside what was predicted for it.

use std::collections::BTreeMap;

use fisherflow_curvature::CurvatureError;
use fisherflow_store::in_words::bytes as bytes_in_words;
use serde::Serialize;

use crate::context::Context;
use crate::plan;
use crate::progress::operator_times::{Activity, OperatorTimes};

/// A peak of memory is no surprise within a quarter of what was predicted,
const TOLERANCE: f64 = 0.25;

/// nor within so many bytes.
const SMALL: u64 = 200_000_000;

/// What the stages that ran took in this process, and what was predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resources {
    /// Bytes of memory predicted for the widest of the stages that ran.
    pub memory_predicted: u64,
    /// Most bytes that the process ever had in memory (`VmHWM`); none where the system does not tell.
    pub memory_peak: Option<u64>,
    /// Requests to object stores that failed and were made again, by this process.
    pub store_retries: u64,
    /// The stages that ran, in order.
    pub stages: Vec<StageResources>,
    /// Where the time of this process's workers went, in the order data flows.
    pub time: Vec<TimeShare>,
    /// Bytes that this process read from its stores and wrote there.
    pub store_bytes: (u64, u64),
    /// Bytes that it sent to other processes and received from them.
    pub network_bytes: (u64, u64),
}

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageResources {
    /// Its command.
    pub stage: &'static str,
    /// Floating-point operations predicted, over all processes.
    pub flops_predicted: f64,
    /// Wall time.
    pub seconds: f64,
}

/// What workers spent some time on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TimeShare {
    /// On what.
    pub activity: Activity,
    /// Seconds of a worker, on average,
    pub mean: f64,
    /// of the worker that spent least,
    pub least: f64,
    /// and of the one that spent most.
    pub most: f64,
}

impl Resources {
    /// Of stages that took so many seconds.
    pub(crate) fn of(context: &Context, seconds: &[(&'static str, f64)]) -> Result<Self, CurvatureError> {
        let (traffic, wire) = (context.progress.traffic(), context.progress.wire());
        let memory = context.sizes().memory(&context.blocks)?;
        let flops = plan::flops(context, &plan::block_facts(context)?)?;
        let kept = memory.kept_spectra;
        let predicted = |stage| match stage {
            "fit" => (flops.fit, memory.fit.saturating_add(kept)),
            "invert" => (flops.invert, memory.invert.saturating_add(kept)),
            "certificate" => (flops.certificate, memory.certify),
            _ => (flops.predict, memory.predict.saturating_add(kept)),
        };
        let stages = seconds.iter().map(|&(stage, seconds)| StageResources {
            stage,
            flops_predicted: predicted(stage).0,
            seconds,
        });
        let widest = seconds.iter().map(|&(stage, _)| predicted(stage).1).max();
        Ok(Self {
            memory_predicted: memory.beside + widest.unwrap_or(0),
            memory_peak: of_status("VmHWM:"),
            store_retries: context.stores.retries(),
            stages: stages.collect(),
            time: time_shares(&context.progress.times()),
            store_bytes: (traffic.bytes_read, traffic.bytes_written),
            network_bytes: (wire.sent, wire.received),
        })
    }

    /// Says so where the prediction was far too low.
    pub(crate) fn note(&self) -> Option<String> {
        let (predicted, peak) = (self.memory_predicted, self.memory_peak?);
        let beyond = peak.saturating_sub(predicted);
        (beyond > SMALL && beyond as f64 > TOLERANCE * predicted as f64).then(|| {
            format!(
                "memory: the process took {}, and {} were predicted: give further runs like this so much more room",
                bytes_in_words(peak),
                bytes_in_words(predicted)
            )
        })
    }
}

/// Of each activity that took any time.
fn time_shares(workers: &BTreeMap<usize, OperatorTimes>) -> Vec<TimeShare> {
    let by_activity: Vec<_> = workers.values().map(OperatorTimes::by_activity).collect();
    let share = |activity: Activity| {
        let seconds = || {
            by_activity
                .iter()
                .map(|times| times.get(&activity).copied().unwrap_or(0.0))
        };
        let most = seconds().fold(0.0, f64::max);
        (most > 0.0).then(|| TimeShare {
            activity,
            mean: seconds().sum::<f64>() / by_activity.len() as f64,
            least: seconds().fold(most, f64::min),
            most,
        })
    };
    Activity::ALL.into_iter().filter_map(share).collect()
}

/// Bytes of memory that this process has now.
pub(crate) fn resident() -> Option<u64> {
    of_status("VmRSS:")
}

fn of_status(name: &str) -> Option<u64> {
    in_bytes(&std::fs::read_to_string("/proc/self/status").ok()?, name)
}

/// A size of a process's status, in bytes.
fn in_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_a_process_status() {
        let status = "Name:\tfisherflow\nVmPeak:\t  900 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 12 kB\n";
        assert_eq!(in_bytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(in_bytes(status, "VmRSS:"), Some(12 << 10));
        assert_eq!(in_bytes("VmHWM:\tlots\n", "VmHWM:"), None);
        assert_eq!(in_bytes("", "VmHWM:"), None);
    }

    #[test]
    fn only_a_peak_far_beyond_is_noted() {
        let note = |memory_predicted, memory_peak| {
            let resources = Resources {
                memory_predicted,
                memory_peak,
                store_retries: 0,
                stages: Vec::new(),
                time: Vec::new(),
                store_bytes: (0, 0),
                network_bytes: (0, 0),
            };
            resources.note()
        };
        assert_eq!(note(100 << 20, Some(280 << 20)), None);
        assert_eq!(note(4 << 30, Some(5 << 30)), None);
        assert_eq!(note(4 << 30, None), None);
        assert!(note(4 << 30, Some(6 << 30)).unwrap().contains("6.0 GiB, and 4.0 GiB"));
    }
}
