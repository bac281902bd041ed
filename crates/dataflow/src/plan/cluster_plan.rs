//! What each worker of a cluster would read, send, hold and do, and how long all of it would take: arithmetic over the plan's sizes alone.
//!
//! What is counted:
//!
//! ```text
//! read        every pass over spectra reads its groups once, whichever worker takes them; the held-out passes read their sample of groups; what
//!             stays in memory between passes is not read again
//! checkpoint  a group's sums are written to the store by the worker that summed them
//! reduction   every slice of every block's sums is read once from each group's checkpoint, by the worker that owns the slice
//! network     the totals of the slices go to the owner of their block: the sums once, whatever the number of groups
//! ```
//!
//! Time is that of operations and of decoding, which share a worker's core, where it is longer than reading from the store (spectra are read ahead),
//! and then what cannot be hidden: the start, a group's own cost, the reduction, and in f64 the inverse of the blocks and the comparison with the
//! exact posterior, each at one worker with the threads of its process.

use fisherflow_store::SLICE;
use serde::Serialize;

use crate::plan::cluster_rates::ClusterRates;
use crate::plan::memory::MemoryPlan;

/// Bytes of a slice of a block's sums: what one worker reduces at a time.
const SLICE_BYTES: u64 = 8 * SLICE as u64;

/// Bytes of messages for a group that is asked for, given out and told done.
const GROUP_MESSAGES: u64 = 512;
/// Bytes of messages that say where a slice of a group is, to the first worker and to the slice's own.
const SLICE_RECORD: u64 = 400;

/// What a plan for a cluster is asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterQuestion {
    /// Processes of the run.
    pub processes: usize,
    /// Workers of each.
    pub workers: usize,
    /// Spectra of the fit, and of the prediction where it has a catalogue of its own; `None`: as many as the catalogues hold.
    pub spectra: Option<u64>,
    /// Spectra a second of one worker in the fit, where known better than by the rates.
    pub fit_rate: Option<f64>,
    /// Rates.
    pub rates: ClusterRates,
}

impl ClusterQuestion {
    /// A run as the catalogues are, at the rates that were measured.
    #[must_use]
    pub fn of(processes: usize, workers: usize) -> Self {
        Self {
            processes,
            workers,
            spectra: None,
            fit_rate: None,
            rates: ClusterRates::MEASURED,
        }
    }
}

/// One stage of a cluster's run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterStage {
    /// Its name.
    pub stage: &'static str,
    /// Bytes of spectra that all workers read.
    pub read: u64,
    /// Operations of all workers.
    pub flops: f64,
    /// Wall time.
    pub seconds: f64,
}

/// What one worker of a cluster does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorkerPlan {
    /// Spectra of the fit, on average.
    pub spectra: f64,
    /// Groups of the fit, for the worker that has most.
    pub groups: u64,
    /// Spectra of these.
    pub most_spectra: u64,
    /// Bytes of spectra read, in all passes.
    pub spectra_read: u64,
    /// Bytes of groups' sums written.
    pub checkpoints_written: u64,
    /// Bytes of groups' sums read again in the reduction, for the worker that reads most.
    pub checkpoints_read: u64,
    /// Bytes sent to other workers, on average.
    pub sent: u64,
    /// Bytes received by the worker that receives most: the owner of the largest block.
    pub received: u64,
    /// Operations in passes over spectra.
    pub flops: f64,
}

/// What a run on a cluster would take.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterPlan {
    /// Processes of the run.
    pub processes: usize,
    /// Workers of each.
    pub workers: usize,
    /// Spectra of the fit.
    pub spectra: u64,
    /// Reduction groups of the fit.
    pub groups: u64,
    /// Bytes of a group's sums in the store.
    pub checkpoint: u64,
    /// Slices that they are reduced in.
    pub slices: u64,
    /// Of one worker.
    pub worker: WorkerPlan,
    /// Memory of one process.
    pub memory: MemoryPlan,
    /// The stages, in order; the reduction is one of its own.
    pub stages: Vec<ClusterStage>,
    /// Wall time of all.
    pub seconds: f64,
    /// What the times rest on.
    pub rates: ClusterRates,
}

/// Sizes that a plan for a cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct ClusterSizes {
    /// Spectra of the fit.
    pub(crate) spectra: u64,
    /// Reduction groups of the fit.
    pub(crate) groups: u64,
    /// Bytes of a group's sums: of each block, in the curvature pass, then in the second pass over `ekfac` blocks, and in the certificate's.
    pub(crate) sums: Vec<Vec<u64>>,
    /// Bytes of spectra, by stage: what is read in all passes of it.
    pub(crate) read: StageValues<u64>,
    /// Operations, by stage.
    pub(crate) flops: StageValues<f64>,
    /// Of those of `certificate`, the comparison's with the exact posterior.
    pub(crate) comparison: f64,
    /// Of those of `invert`, the largest block's.
    pub(crate) largest_inverse: f64,
    /// Passes over groups, by stage.
    pub(crate) passes: StageValues<Passes>,
    /// Threads of a worker.
    pub(crate) threads: usize,
    pub(crate) memory: MemoryPlan,
}

/// The passes of a stage over groups.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Passes {
    /// Passes over all groups of a catalogue,
    pub(crate) n: u64,
    /// of which there are so many.
    pub(crate) groups: u64,
    /// Groups that passes over held-out spectra open beside.
    pub(crate) sampled: u64,
}

/// A value a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct StageValues<T> {
    pub(crate) fit: T,
    pub(crate) invert: T,
    pub(crate) certificate: T,
    pub(crate) predict: T,
}

/// The arithmetic.
pub(crate) fn cluster_plan(sizes: &ClusterSizes, asked: &ClusterQuestion) -> ClusterPlan {
    let all = (asked.processes * asked.workers).max(1) as u64;
    let rates = rates(sizes, asked);
    let checkpoint: u64 = sizes.sums.iter().flatten().sum();
    let slices = |sums: &Vec<u64>| sums.iter().map(|bytes| bytes.div_ceil(SLICE_BYTES)).sum::<u64>();
    let n_slices: u64 = sizes.sums.iter().map(slices).sum();
    // In each pass neighbouring slices belong to one worker, as many to each; it reads them from every group.
    let most = |sums: &Vec<u64>| {
        let whole = slices(sums).div_ceil(all).saturating_mul(SLICE_BYTES);
        whole.min(sums.iter().sum())
    };
    let read_most = sizes.sums.iter().map(most).sum::<u64>().saturating_mul(sizes.groups);
    let elsewhere = 1.0 - 1.0 / all as f64;
    let largest = sizes.sums.iter().flatten().max().copied().unwrap_or(0);
    let share = |bytes: u64| bytes / all;
    let records = (SLICE_RECORD * n_slices).saturating_mul(sizes.groups);
    let messages = (GROUP_MESSAGES * sizes.passes.opened() + records) / all;
    let groups = sizes.groups.div_ceil(all);
    let of_groups = u128::from(groups) * u128::from(sizes.spectra);
    let worker = WorkerPlan {
        spectra: sizes.spectra as f64 / all as f64,
        groups,
        most_spectra: of_groups.div_ceil(u128::from(sizes.groups.max(1))) as u64,
        spectra_read: share(sizes.read.total()),
        checkpoints_written: share(checkpoint.saturating_mul(sizes.groups)),
        checkpoints_read: read_most,
        sent: (elsewhere * checkpoint as f64 / all as f64) as u64 + messages,
        received: (elsewhere * largest as f64) as u64 + messages,
        flops: (sizes.flops.over_spectra() - sizes.comparison) / all as f64,
    };

    let over_spectra = |flops: f64, read: u64, passes: Passes| {
        let opened = passes.opened();
        if opened == 0 {
            return 0.0;
        }
        let rounds = passes.with_last_round(all);
        let cores = sizes.threads as f64 * all as f64;
        // A rate of spectra that is given has their decoding in it.
        let decoding = match asked.fit_rate {
            Some(_) => 0.0,
            None => read as f64 / rates.decode_bytes,
        };
        let computing = rounds * (flops / rates.worker_flops + decoding) / cores;
        let reading = read as f64 / (rates.store_bytes * asked.processes as f64);
        computing.max(reading) + rates.group_s * opened as f64 / all as f64
    };
    let at_store = |bytes_of_worker: u64| bytes_of_worker as f64 * asked.workers as f64 / rates.store_bytes;
    let of_process = rates.inverse_flops * (asked.workers * sizes.threads) as f64;
    let inverse = (sizes.flops.invert / asked.processes as f64).max(sizes.largest_inverse) / of_process;
    let full_pass = sizes.flops.certificate - sizes.comparison;
    let totals = checkpoint as f64 / (rates.network_bytes * (asked.processes.max(2) - 1) as f64);
    let (read, flops, passes) = (&sizes.read, &sizes.flops, &sizes.passes);
    let written = at_store(worker.checkpoints_written);
    let stage = |stage, read, flops, seconds| ClusterStage {
        stage,
        read,
        flops,
        seconds,
    };
    let stages = vec![
        stage("start", 0, 0.0, rates.start_s),
        stage(
            "fit",
            read.fit,
            flops.fit,
            over_spectra(flops.fit, read.fit, passes.fit).max(written),
        ),
        stage(
            "reduction",
            0,
            0.0,
            at_store(worker.checkpoints_read) + totals * elsewhere,
        ),
        stage("invert", read.invert, flops.invert, inverse),
        stage(
            "certificate",
            read.certificate,
            flops.certificate,
            over_spectra(full_pass, read.certificate, passes.certificate) + sizes.comparison / of_process,
        ),
        stage(
            "predict",
            read.predict,
            flops.predict,
            over_spectra(flops.predict, read.predict, passes.predict),
        ),
    ];
    ClusterPlan {
        processes: asked.processes,
        workers: asked.workers,
        spectra: sizes.spectra,
        groups: sizes.groups,
        checkpoint,
        slices: n_slices,
        worker,
        memory: sizes.memory,
        seconds: stages.iter().map(|stage| stage.seconds).sum(),
        stages,
        rates,
    }
}

/// With the operations a second that a given number of spectra a second means.
fn rates(sizes: &ClusterSizes, asked: &ClusterQuestion) -> ClusterRates {
    let worker_flops = match asked.fit_rate {
        Some(rate) if sizes.spectra > 0 => rate * sizes.flops.fit / (sizes.spectra as f64 * sizes.threads as f64),
        _ => asked.rates.worker_flops,
    };
    ClusterRates {
        worker_flops,
        ..asked.rates.clone()
    }
}

impl Passes {
    /// Groups that they open.
    fn opened(&self) -> u64 {
        self.n * self.groups + self.sampled
    }

    /// How much longer they take than groups that could be spread evenly over `workers`: the last round of each pass is as long as any other, for
    /// no worker can help another with its group, and no pass begins before the one before it has ended.
    fn with_last_round(&self, workers: u64) -> f64 {
        let groups = self.groups.max(1);
        (groups.div_ceil(workers) * workers) as f64 / groups as f64
    }
}

impl StageValues<Passes> {
    fn opened(&self) -> u64 {
        let stages = [self.fit, self.invert, self.certificate, self.predict];
        stages.iter().map(Passes::opened).sum()
    }
}

impl StageValues<u64> {
    fn total(&self) -> u64 {
        self.fit + self.invert + self.certificate + self.predict
    }
}

impl StageValues<f64> {
    fn over_spectra(&self) -> f64 {
        self.fit + self.certificate + self.predict
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    const RATES: ClusterRates = ClusterRates {
        worker_flops: 1e9,
        inverse_flops: 1e9,
        decode_bytes: f64::INFINITY,
        store_bytes: 1e8,
        network_bytes: 1e8,
        group_s: 0.0,
        start_s: 0.0,
        measured_on: Cow::Borrowed("paper"),
    };

    fn passes(n: u64, groups: u64) -> Passes {
        Passes { n, groups, sampled: 0 }
    }

    fn sizes() -> ClusterSizes {
        ClusterSizes {
            spectra: 8_000,
            groups: 8,
            sums: vec![vec![3 * SLICE_BYTES, SLICE_BYTES, SLICE_BYTES / 2]],
            read: StageValues {
                fit: 80_000_000,
                predict: 40_000_000,
                ..StageValues::default()
            },
            flops: StageValues {
                fit: 8e10,
                invert: 4e9,
                certificate: 0.0,
                predict: 4e10,
            },
            comparison: 0.0,
            largest_inverse: 3e9,
            passes: StageValues {
                fit: passes(1, 8),
                predict: passes(1, 4),
                ..StageValues::default()
            },
            threads: 1,
            memory: MemoryPlan {
                beside: 0,
                kept_spectra: 0,
                batch: 0,
                row_groups: 0,
                fit: 0,
                invert: 0,
                predict: 0,
                certify: 0,
            },
        }
    }

    fn asked(processes: usize, workers: usize) -> ClusterQuestion {
        ClusterQuestion {
            rates: RATES,
            ..ClusterQuestion::of(processes, workers)
        }
    }

    #[test]
    fn four_workers_by_hand() {
        let plan = cluster_plan(&sizes(), &asked(2, 2));
        let sums = 4 * SLICE_BYTES + SLICE_BYTES / 2;
        assert_eq!((plan.checkpoint, plan.slices), (sums, 5));
        let worker = plan.worker;
        assert_eq!(
            (worker.spectra, worker.groups, worker.spectra_read),
            (2000.0, 2, 30_000_000)
        );
        assert_eq!(worker.checkpoints_written, 2 * sums);
        // Of five slices the first worker has two, and reads them from eight groups.
        assert_eq!(worker.checkpoints_read, 8 * 2 * SLICE_BYTES);
        let messages = (GROUP_MESSAGES * 12 + SLICE_RECORD * 5 * 8) / 4;
        assert_eq!(worker.sent, (0.75 * sums as f64 / 4.0) as u64 + messages);
        // Of the largest block's three slices a quarter is its owner's own.
        assert_eq!(worker.received, 9 * SLICE_BYTES / 4 + messages);
        let seconds: Vec<f64> = plan.stages.iter().map(|stage| stage.seconds).collect();
        // 2e10 operations a worker; 4e9 of the inverse over two processes of 2e9 a second, but the largest block is one process's.
        assert_eq!((seconds[1], seconds[3], seconds[5]), (20.0, 1.5, 10.0));
        assert_eq!(plan.seconds, seconds.iter().sum::<f64>());
    }

    /// The comparison is one process's, at the rate of inverses; the full pass is spread over all.
    #[test]
    fn the_comparison_takes_its_time_in_f64() {
        let mut sizes = sizes();
        (sizes.comparison, sizes.flops.certificate, sizes.passes.certificate) = (6e9, 6e9 + 8e10, passes(1, 8));
        let plan = cluster_plan(&sizes, &asked(2, 2));
        assert!(
            (plan.stages[4].seconds - (3.0 + 20.0)).abs() < 1e-9,
            "{:?}",
            plan.stages
        );
        assert_eq!(plan.worker.flops, (8e10 + 4e10 + 8e10) / 4.0);
    }

    /// What is read takes its time of the cores, unless a rate of spectra is given that has it in it.
    #[test]
    fn decoding_is_beside_the_operations() {
        let mut asked = asked(2, 2);
        asked.rates.decode_bytes = 1e7;
        let fit = |asked: &ClusterQuestion| cluster_plan(&sizes(), asked).stages[1].seconds;
        assert_eq!(fit(&asked), 20.0 + 2.0);
        asked.fit_rate = Some(8_000.0 / 4.0 / 20.0);
        assert_eq!(fit(&asked), 20.0);
    }

    #[test]
    fn a_slow_store_and_a_last_round_of_few_groups_take_their_time() {
        let mut slow = asked(2, 2);
        slow.rates.store_bytes = 1e6;
        let without_sums = ClusterSizes {
            sums: Vec::new(),
            ..sizes()
        };
        let plan = cluster_plan(&without_sums, &slow);
        assert_eq!(plan.stages[1].seconds, 40.0, "80 MB at 2 MB/s");
        // Eight groups for five workers: two rounds.
        let uneven = cluster_plan(&sizes(), &asked(5, 1));
        assert_eq!((uneven.worker.groups, uneven.worker.most_spectra), (2, 2000));
        // Whoever has a group has all of it.
        let few = cluster_plan(&sizes(), &asked(16, 1)).worker;
        assert_eq!((few.spectra, few.groups, few.most_spectra), (500.0, 1, 1000));
        assert!((uneven.stages[1].seconds - 20.0).abs() < 1e-9, "{:?}", uneven.stages);
    }

    /// Twenty groups for sixteen workers: two rounds of each pass, not three of both.
    #[test]
    fn every_pass_has_a_last_round() {
        let mut sizes = ClusterSizes {
            sums: Vec::new(),
            ..sizes()
        };
        sizes.passes.fit = passes(2, 20);
        let plan = cluster_plan(&sizes, &asked(16, 1));
        assert!(
            (plan.stages[1].seconds - 5.0 * 2.0 / 1.25).abs() < 1e-9,
            "{:?}",
            plan.stages
        );
    }

    #[test]
    fn a_given_rate_goes_over_the_measured_one() {
        let mut asked = asked(2, 2);
        asked.fit_rate = Some(50.0);
        let plan = cluster_plan(&sizes(), &asked);
        assert!((plan.stages[1].seconds - 40.0).abs() < 1e-9, "2,000 spectra at 50/s");
    }

    #[test]
    fn a_worker_alone_sends_no_sums() {
        let plan = cluster_plan(&sizes(), &asked(1, 1));
        let messages = 12 * GROUP_MESSAGES + 5 * 8 * SLICE_RECORD;
        assert_eq!((plan.worker.sent, plan.worker.received), (messages, messages));
        assert_eq!(plan.worker.groups, 8);
    }

    /// Sums that no machine holds are for the plan to tell.
    #[test]
    fn the_largest_sums_are_counted() {
        let sums = vec![vec![1 << 60, 5], vec![SLICE_BYTES + 1]];
        let plan = cluster_plan(&ClusterSizes { sums, ..sizes() }, &asked(1, 1));
        assert_eq!(plan.slices, (1 << 60) / SLICE_BYTES + 1 + 2);
        assert_eq!(plan.worker.checkpoints_read, 8 * ((1 << 60) + 5 + SLICE_BYTES + 1));
    }
}
