//! What a plan for a cluster is made of: the run's own sizes, or those of as many spectra as are asked about, in groups and bytes like these.

use fisherflow_curvature::{CurvatureError, StructureKind};
use fisherflow_spectra::Group;

use crate::context::{Context, GroupedCatalogue};
use crate::job::Prior;
use crate::passes::certify::gradient_bytes;
use crate::passes::holdout;
use crate::plan::cluster_plan::{ClusterQuestion, ClusterSizes, Passes, StageValues};
use crate::plan::memory::{RowGroups, Sizes};
use crate::plan::{BlockFacts, comparison_flops, flops};

/// Bytes that are read of an object's end before any of its row groups.
const FOOTER: u64 = 64 << 10;

pub(crate) fn cluster_sizes(
    context: &Context,
    blocks: &[BlockFacts],
    asked: &ClusterQuestion,
) -> Result<ClusterSizes, CurvatureError> {
    let job = &context.job;
    let (fit, predicted) = (&context.fit, context.predicted());
    let scaled = |grouped: &GroupedCatalogue| Scaled::of(grouped, asked.spectra, context.group);
    let (of_fit, of_predicted) = (scaled(fit), scaled(predicted));
    let own = context.sizes();
    let sizes = Sizes {
        n_rows: of_fit.spectra,
        row_groups: RowGroups {
            n: of_fit.row_groups.ceil() as u64,
            ..own.row_groups
        },
        ..own
    };
    let sums: Result<Vec<u64>, CurvatureError> = context.blocks.iter().map(|block| sizes.sums_bytes(block)).collect();
    let corrections = blocks
        .iter()
        .filter_map(|block| block.correction)
        .map(|of| of.sums_bytes)
        .collect();
    let dual = context.dual_plan().map(|block| sizes.dual_cost(block));
    let inverse = |facts: &BlockFacts| match &dual {
        Some(cost) if facts.sums_bytes == 0 => cost.gram_flops + cost.cholesky_flops + cost.trace_flops,
        _ => facts.inverse_flops,
    };
    let flops = flops(context, blocks)?;
    let comparison = comparison_flops(&sizes, &context.blocks)?;
    let bases: f64 = blocks
        .iter()
        .filter_map(|block| block.correction)
        .map(|of| of.bases_flops)
        .sum();
    // Passes over all spectra of the fit.
    let low_rank = context
        .blocks
        .iter()
        .any(|block| block.structure == StructureKind::LowRank);
    let eigenpairs = if low_rank {
        job.curvature.low_rank.passes as u64
    } else {
        0
    };
    let fits = 1 + u64::from(context.corrected().next().is_some()) + eigenpairs;
    let scans = u64::from(job.prior == Prior::Holdout);
    let compares = u64::from(job.certificate.is_wanted());
    let certifies = u64::from(job.certificate.full_pass);

    let mut reading = Reading::new(&of_fit, &sizes, asked.processes);
    let read = StageValues {
        fit: reading.held_out(2) + reading.all(fits),
        invert: if of_fit.share_scanned(job.compute.holdout_fraction) < 1.0 {
            // A choice among them, which no pass before has read.
            scans * of_fit.sample_bytes()
        } else {
            reading.held_out(scans)
        },
        certificate: if compares > 0 {
            reading.compare(compared_share(&sizes, of_fit.row_groups)) + reading.all(certifies)
        } else {
            0
        },
        predict: reading.held_out(1)
            + match context.predict {
                Some(_) => of_predicted.bytes,
                None => reading.all(1),
            },
    };
    let (groups, sample) = (of_fit.groups, of_fit.sample_groups);
    Ok(ClusterSizes {
        spectra: of_fit.spectra,
        groups,
        sums: vec![sums?, corrections, gradient_bytes(job, &context.blocks)],
        read,
        flops: StageValues {
            fit: (flops.fit - bases) * of_fit.scale,
            invert: bases + blocks.iter().map(inverse).sum::<f64>(),
            certificate: comparison + (flops.certificate - flops.comparison) * of_fit.scale,
            predict: flops.predict * of_predicted.scale,
        },
        comparison,
        largest_inverse: blocks.iter().map(inverse).fold(0.0, f64::max),
        passes: StageValues {
            fit: Passes {
                n: fits,
                groups,
                sampled: 2 * sample,
            },
            invert: Passes {
                sampled: scans * sample,
                ..Passes::default()
            },
            certificate: Passes {
                n: compares + certifies,
                groups,
                sampled: 0,
            },
            predict: Passes {
                n: 1,
                groups: of_predicted.groups,
                sampled: sample,
            },
        },
        threads: job.compute.arithmetic.threads,
        memory: sizes.memory(&context.blocks)?,
    })
}

/// A catalogue, or a larger one like it.
struct Scaled {
    /// Over the catalogue.
    scale: f64,
    spectra: u64,
    groups: u64,
    row_groups: f64,
    bytes: u64,
    sample_groups: u64,
    /// The sample's share of the spectra.
    sample_share: f64,
}

impl Scaled {
    fn of(grouped: &GroupedCatalogue, spectra: Option<u64>, group: u64) -> Self {
        let catalogue = &grouped.catalogue;
        let objects = catalogue.summary().objects.len() as u64;
        let (n, bytes) = (catalogue.n_rows().max(1), catalogue.bytes() + FOOTER * objects);
        let own = grouped.groups.len().max(1) as u64;
        let row_groups = catalogue.shards().len() as f64;
        let Some(spectra) = spectra else {
            let sampled: u64 = grouped.sample.iter().map(Group::n_rows).sum();
            return Self {
                scale: 1.0,
                spectra: catalogue.n_rows(),
                groups: own,
                row_groups,
                bytes,
                sample_groups: grouped.sample.len() as u64,
                sample_share: sampled as f64 / n as f64,
            };
        };
        let scale = spectra as f64 / n as f64;
        // A catalogue of one group says nothing of how large a group is.
        let of_group = if own > 1 { (n / own).max(group.min(n)) } else { group };
        let groups = spectra.div_ceil(of_group.max(1)).max(1);
        let share = (grouped.plenty / spectra as f64).min(1.0);
        let sample_groups = (share * groups as f64).ceil();
        Self {
            scale,
            spectra,
            groups,
            row_groups: scale * row_groups,
            bytes: (scale * bytes as f64) as u64,
            sample_groups: sample_groups as u64,
            sample_share: sample_groups / groups as f64,
        }
    }
}

impl Scaled {
    /// Of the groups of the sample.
    fn sample_bytes(&self) -> u64 {
        (self.sample_share * self.bytes as f64) as u64
    }

    /// The share of the held-out spectra that a prior is chosen by.
    fn share_scanned(&self, holdout_fraction: f64) -> f64 {
        holdout::share(self.sample_share * self.spectra as f64 * holdout_fraction)
    }
}

/// Bytes that passes over the fit's catalogue read, one after another: what stays in memory, first come, first kept, is not read again.
struct Reading {
    /// Bytes of what stays, in all processes: the most, and each of the following as decoded.
    room: f64,
    held_out: Stretch,
    all: Stretch,
    processes: usize,
}

/// Rows that a pass reads.
struct Stretch {
    /// Bytes in the store,
    stored: f64,
    /// and in memory.
    decoded: f64,
    /// Of these, what stays there.
    kept: f64,
}

impl Reading {
    fn new(fit: &Scaled, sizes: &Sizes<'_>, processes: usize) -> Self {
        let stretch = |stored: u64, decoded: f64| Stretch {
            stored: stored as f64,
            decoded,
            kept: 0.0,
        };
        let decoded = sizes.decoded_bytes() as f64;
        Self {
            room: processes as f64 * sizes.job.compute.kept_spectra as f64,
            held_out: stretch(
                fit.sample_bytes(),
                fit.sample_share * decoded * sizes.job.compute.holdout_fraction,
            ),
            all: stretch(fit.bytes, decoded),
            processes,
        }
    }

    /// By so many passes over the sample of held-out spectra.
    fn held_out(&mut self, passes: u64) -> u64 {
        let room = self.room - self.all.kept;
        (0..passes).map(|_| self.held_out.read(room, 1.0)).sum()
    }

    /// By so many over all spectra.
    fn all(&mut self, passes: u64) -> u64 {
        let room = self.room - self.held_out.kept;
        (0..passes).map(|_| self.all.read(room, 1.0)).sum()
    }

    /// By the comparison with the exact posterior, of `share` of the row groups: from then on the process that compares has to keep all anew.
    fn compare(&mut self, share: f64) -> u64 {
        let room = self.room - self.held_out.kept;
        let read = self.all.read(room, share);
        for stretch in [&mut self.held_out, &mut self.all] {
            stretch.kept *= 1.0 - 1.0 / self.processes as f64;
        }
        read
    }
}

impl Stretch {
    /// By a pass over `share` of the row groups, where there is so much room for what stays.
    fn read(&mut self, room: f64, share: f64) -> u64 {
        let wanted = share * self.decoded;
        let known = self.kept.min(wanted);
        self.kept = self.kept.max(wanted.min(room));
        (share * self.stored * (1.0 - known / wanted.max(1.0))) as u64
    }
}

/// The share of the row groups that hold any of the spectra compared, which are evenly spaced.
fn compared_share(sizes: &Sizes<'_>, row_groups: f64) -> f64 {
    let (asked, n_rows) = (&sizes.job.certificate, sizes.n_rows as f64);
    let in_sums = sizes.n_spectra() as f64;
    let among_stars = if in_sums < n_rows { n_rows - in_sums } else { in_sums };
    let positions = n_rows
        * (asked.n_spectra(sizes.n_labels) as f64 / in_sums.max(1.0) + asked.stars as f64 / among_stars.max(1.0));
    (positions / row_groups.max(1.0)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(room: f64) -> Reading {
        let stretch = |stored, decoded| Stretch {
            stored,
            decoded,
            kept: 0.0,
        };
        Reading {
            room,
            held_out: stretch(1000.0, 120.0),
            all: stretch(1000.0, 1200.0),
            processes: 2,
        }
    }

    #[test]
    fn without_room_every_pass_reads_all() {
        let mut reading = reading(0.0);
        assert_eq!((reading.held_out(2), reading.all(3)), (2000, 3000));
        assert_eq!((reading.compare(0.1), reading.all(1)), (100, 1000));
    }

    #[test]
    fn what_stays_is_read_once() {
        let mut reading = reading(1e9);
        assert_eq!((reading.held_out(3), reading.all(2)), (1000, 1000));
        assert_eq!(reading.compare(0.1), 0);
        // Half of it is with the process that compares.
        assert_eq!((reading.all(1), reading.all(1)), (500, 0));
    }

    #[test]
    fn what_comes_first_stays() {
        let mut reading = reading(720.0);
        assert_eq!((reading.held_out(2), reading.all(3)), (1000, 1000 + 2 * 500));
    }
}
