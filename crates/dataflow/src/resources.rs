//! What a run took, beside what was predicted for it.

use fisherflow_curvature::CurvatureError;
use serde::Serialize;

use crate::context::Context;
use crate::memory::in_words;
use crate::plan;

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

impl Resources {
    /// Of stages that took so many seconds.
    pub(crate) fn of(context: &Context, seconds: &[(&'static str, f64)]) -> Result<Self, CurvatureError> {
        let memory = context.sizes().memory(&context.blocks)?;
        let flops = plan::flops(context, &plan::block_facts(context)?);
        let predicted = |stage| match stage {
            "fit" => (flops.fit, memory.fit),
            "invert" => (flops.invert, memory.invert.max(memory.certify)),
            _ => (flops.predict, memory.predict),
        };
        let stages = seconds.iter().map(|&(stage, seconds)| StageResources {
            stage,
            flops_predicted: predicted(stage).0,
            seconds,
        });
        let widest = seconds.iter().map(|&(stage, _)| predicted(stage).1).max();
        Ok(Self {
            memory_predicted: memory.beside + widest.unwrap_or(0),
            memory_peak: peak(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()),
            store_retries: context.stores.retries(),
            stages: stages.collect(),
        })
    }

    /// Says so where the prediction was far too low.
    pub(crate) fn note(&self) -> Option<String> {
        let (predicted, peak) = (self.memory_predicted, self.memory_peak?);
        let beyond = peak.saturating_sub(predicted);
        (beyond > SMALL && beyond as f64 > TOLERANCE * predicted as f64).then(|| {
            format!(
                "memory: the process took {}, and {} were predicted: give further runs like this so much more room",
                in_words(peak),
                in_words(predicted)
            )
        })
    }
}

/// `VmHWM` of a process's status, in bytes.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_a_process_status() {
        let status = "Name:\tfisherflow\nVmPeak:\t  900 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 12 kB\n";
        assert_eq!(peak(status), Some(2 << 20));
        assert_eq!(peak("VmHWM:\tlots\n"), None);
        assert_eq!(peak(""), None);
    }

    #[test]
    fn only_a_peak_far_beyond_is_noted() {
        let note = |memory_predicted, memory_peak| {
            let resources = Resources {
                memory_predicted,
                memory_peak,
                store_retries: 0,
                stages: Vec::new(),
            };
            resources.note()
        };
        assert_eq!(note(100 << 20, Some(280 << 20)), None);
        assert_eq!(note(4 << 30, Some(5 << 30)), None);
        assert_eq!(note(4 << 30, None), None);
        assert!(note(4 << 30, Some(6 << 30)).unwrap().contains("6.0 GiB, and 4.0 GiB"));
    }
}
