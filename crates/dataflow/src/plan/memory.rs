//! Bytes that one process of a run takes, from the sizes of its blocks alone: what `plan` prints, what `auto` chooses by, and what a run
//! compares its peak with.

use fisherflow_curvature::{
    BlockPlan, BlockPower, CurvatureError, References, StructureKind, WeightJacobian, correction_bytes, structure_of,
};
use fisherflow_network::{DenseShape, Network, Precision, ROWS_OF_A_BLOCK, product};
use fisherflow_posterior::{DualCost, DualLayout, dense_covariance_bytes};
use fisherflow_store::Catalogue;
use fisherflow_store::SLICE;
use serde::Serialize;

use crate::checkpoint::{Checkpoint, LEAST};
use crate::context::{MANY_CELLS, PLENTY, PREFETCH_BYTES};
use crate::job::{Job, Prior};
use crate::operators::{READ_AHEAD, SLICES_IN_HAND, most_waiting};
use crate::passes::certify::gradient_bytes;
use crate::passes::dual::spectrum_is_needed;
use crate::passes::holdout;

/// Bytes of the program and its buffers.
const PROGRAM: u64 = 100_000_000;
/// Prior precisions at which held-out spectra are looked at: four a decade, of ten.
const PRIORS: u64 = 41;
/// Bytes of a worker's sums that are on their way to the store.
const TO_THE_STORE: u64 = 56 << 20;

/// Memory of one process at the widest place of each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// In every stage: the program, the network, and each worker's spectra with their Jacobians.
    pub beside: u64,
    /// Spectra that stay in memory between passes: not while the comparison with the exact posterior has its own.
    pub kept_spectra: u64,
    /// Of `beside`, the row groups that workers read, as they are stored: each is read whole.
    pub row_groups: u64,
    /// Of `beside`, the captures of a batch of each worker: inputs and gradients at every position, and the largest layer's twice more.
    pub batch: u64,
    /// The sums of two groups a worker, one at work and one on its way to the store; then those of one and the totals, and beside them the
    /// eigenproblems of `ekfac` blocks and the eigenpairs of a `low_rank` block; or in the second pass of the former their bases; or the vectors
    /// that the latter iterates, with the sums of products that wait for those of earlier groups.
    pub fit: u64,
    /// The largest block: its curvature, factors and inverse; beside all others, where the prior is to be found.
    pub invert: u64,
    /// The posterior of all blocks, and dense inverses and the eigenbases of Kronecker blocks once more as products take them; the held-out spectra beside.
    pub predict: u64,
    /// The comparison with the exact posterior, or the gradients of two groups a worker, one at work and one on its way to the store, beside the
    /// posterior of all blocks.
    pub certify: u64,
}

impl MemoryPlan {
    /// That of the stage that takes most, the comparison with the exact posterior and kept spectra aside: what `auto` chooses by.
    #[must_use]
    pub fn widest(&self) -> u64 {
        self.beside.saturating_add(self.fit.max(self.invert).max(self.predict))
    }

    /// That of a whole run.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.widest()
            .saturating_add(self.kept_spectra)
            .max(self.beside.saturating_add(self.certify))
    }
}

/// The row groups of a catalogue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowGroups {
    /// How many there are.
    pub(crate) n: u64,
    /// Rows of the largest.
    pub(crate) rows: u64,
    /// Bytes that are read of it.
    pub(crate) bytes: u64,
}

impl RowGroups {
    /// Those of a catalogue.
    pub(crate) fn of(catalogue: &Catalogue) -> Self {
        let largest = catalogue.largest_row_group();
        Self {
            n: catalogue.shards().len() as u64,
            rows: largest.as_ref().map_or(0, |largest| largest.rows),
            bytes: largest.map_or(0, |largest| largest.bytes),
        }
    }

    /// Bytes that so many readers hold as they are stored, each of a group of at least so many spectra: of the row group being decoded, and of what is
    /// read ahead of it, in a group of several.
    fn held(self, readers: u64, group: u64) -> u64 {
        let ahead = if self.rows < group {
            self.bytes.max(PREFETCH_BYTES as u64 / 2)
        } else {
            0
        };
        let held = readers.saturating_mul(self.bytes.saturating_add(ahead));
        held.min(self.n.saturating_mul(self.bytes))
    }
}

/// What the memory of a process depends on beside its blocks.
pub(crate) struct Sizes<'a> {
    pub(crate) job: &'a Job,
    /// Dense layers of the network.
    pub(crate) shapes: &'a [DenseShape],
    /// Pixels a spectrum.
    pub(crate) n_pixels: usize,
    /// Bits of a pixel once it is decoded: flux, its error and a mask.
    pub(crate) pixel_bits: u64,
    /// K.
    pub(crate) n_labels: usize,
    /// Rows of the fit's catalogue.
    pub(crate) n_rows: u64,
    /// Its row groups: as many as there are reduction groups, or more.
    pub(crate) row_groups: RowGroups,
    /// Those of the catalogue to predict, where it is another.
    pub(crate) predicted: Option<RowGroups>,
    /// Processes of the run.
    pub(crate) processes: usize,
    /// Workers of each.
    pub(crate) workers: usize,
}

impl<'a> Sizes<'a> {
    /// Of a job over the spectra of a catalogue, on so many processes of so many workers each.
    pub(crate) fn of(
        job: &'a Job,
        network: &'a Network,
        catalogue: &Catalogue,
        (processes, workers): (usize, usize),
    ) -> Self {
        Self {
            job,
            shapes: network.dense_layers(),
            n_pixels: network.n_inputs(),
            pixel_bits: catalogue.pixel_bits(),
            n_labels: network.n_labels(),
            n_rows: catalogue.n_rows(),
            row_groups: RowGroups::of(catalogue),
            predicted: None,
            processes,
            workers,
        }
    }

    /// Spectra in the sums: those of the catalogue less the share held out, as far as footers tell.
    pub(crate) fn n_spectra(&self) -> u64 {
        let share = if self.job.keeps_out() {
            1.0 - self.job.compute.holdout_fraction
        } else {
            1.0
        };
        (share * self.n_rows as f64).ceil() as u64
    }

    /// The network as read, as it computes, and packed for both directions; the row groups that are read, as they are stored; and for each worker the packed
    /// operands of a product, the batches that wait, and one at work: four numbers a pixel in f64, the Jacobian of every label by pixel, and the captures.
    fn beside(&self, row_groups: u64) -> u64 {
        let (size, k, pixels) = (self.number(), self.n_labels as u64, self.n_pixels as u64);
        let weights: u64 = self.shapes.iter().map(|shape| shape.n_weights() as u64).sum();
        let ahead = self.decoded_bytes().min(READ_AHEAD * PREFETCH_BYTES as u64 / 2);
        let batch = self.n_rows.min(self.job.compute.batch as u64);
        let worker = ahead + 8 * 4 * batch * pixels + self.jacobian(batch);
        let packed = product::workspace_bytes(k * batch);
        let workers = self.workers as u64 * (worker + packed) + self.batch();
        (PROGRAM + weights * (4 + 3 * size) + workers).saturating_add(row_groups)
    }

    /// The row groups that the workers of a process hold as they are stored, in the passes over the catalogue where these are most.
    fn row_groups(&self, blocks: &[BlockPlan]) -> Result<u64, CurvatureError> {
        let asked = self.job.compute.group;
        let group = match asked {
            Some(group) => group,
            None => Checkpoint::of(self.shapes, self.n_labels, blocks)?.spectra_a_group(),
        };
        let readers = READ_AHEAD * self.workers as u64;
        let predicted = self.predicted.map(|of| of.held(readers, asked.unwrap_or(LEAST)));
        Ok(self.row_groups.held(readers, group).max(predicted.unwrap_or(0)))
    }

    /// Spectra that stay in memory between passes.
    fn kept_spectra(&self) -> u64 {
        self.decoded_bytes().min(self.job.compute.kept_spectra)
    }

    /// All spectra as they are decoded.
    pub(crate) fn decoded_bytes(&self) -> u64 {
        self.n_rows.saturating_mul(self.pixel_bits * self.n_pixels as u64) / 8
    }

    /// Bytes of a number in the network's arithmetic.
    fn number(&self) -> u64 {
        match self.job.compute.arithmetic.precision {
            Precision::F32 | Precision::Auto | Precision::Bf16x3 | Precision::Bf16 => 4,
            Precision::F64 => 8,
        }
    }

    /// J_x of a batch at one worker: where it is written, whole, and twice more on its way to the file; else some rows at a time, from the
    /// gradients before the last product, which are among the captures where the network begins with a dense layer.
    fn jacobian(&self, batch: u64) -> u64 {
        let (rows, pixels) = (self.n_labels as u64 * batch, self.n_pixels as u64);
        if self.job.predict.jacobians {
            return 3 * 8 * rows * pixels;
        }
        match self.shapes.first() {
            Some(first) if first.shared == 1 && first.inputs == self.n_pixels => {
                let at_once = rows.min(ROWS_OF_A_BLOCK.max(self.n_labels) as u64);
                self.number() * at_once * (pixels + 2 * first.outputs as u64)
            }
            // By pixel, and once more over the input scale.
            _ => 2 * self.number() * rows * pixels,
        }
    }

    /// Held-out spectra that are in memory with their residuals and what is known of their covariances.
    fn n_held_out(&self) -> u64 {
        let cells = if self.job.calibration.intrinsic_bins.is_empty() {
            1
        } else {
            MANY_CELLS as u64
        };
        let held_out = self.job.compute.holdout_fraction * self.n_rows as f64;
        (held_out as u64).min(PLENTY as u64 * cells)
    }

    /// Numbers of one of them: three covariances and the residuals.
    fn of_star(&self) -> u64 {
        let k = self.n_labels as u64;
        3 * k * k + k
    }

    /// Those that the noise is found by, at each worker.
    fn finding_noise(&self) -> u64 {
        8 * self.workers as u64 * self.n_held_out().saturating_mul(self.of_star())
    }

    /// Those that the error bars are compared with, at the first worker: of each cell, of all together, and as likelihoods are climbed.
    pub(crate) fn calibrating(&self) -> u64 {
        8 * 3 * self.n_held_out().saturating_mul(self.of_star())
    }

    /// Those that the prior is chosen by, with their weights' part at every precision: all, and those of a group on their way.
    fn scanning(&self) -> u64 {
        let k = self.n_labels as u64;
        let stars = self.n_held_out().min(holdout::PLENTY as u64);
        8 * stars.saturating_mul(2 * PRIORS * k * k + 2 * self.of_star())
    }

    /// The captures of a batch of each worker, and of the largest layer's twice more.
    fn batch(&self) -> u64 {
        let batch = self.n_rows.min(self.job.compute.batch as u64);
        let captures = || self.shapes.iter().map(|shape| 8 * batch * self.captured(shape));
        self.workers as u64 * (captures().sum::<u64>() + 2 * captures().max().unwrap_or(0))
    }

    /// Numbers that one spectrum's capture of a layer holds.
    fn captured(&self, shape: &DenseShape) -> u64 {
        (shape.shared * (shape.inputs + self.n_labels * shape.outputs)) as u64
    }

    /// The spectra of the comparison, their captures twice, and three matrices of their labels; with errors in variables their J_x.
    fn comparison(&self) -> u64 {
        let n = self.job.certificate.n_spectra(self.n_labels).min(self.n_spectra());
        let captured: u64 = self.shapes.iter().map(|shape| self.captured(shape)).sum();
        let rows = n * self.n_labels as u64;
        let jacobian = if self.job.calibration.errors_in_variables {
            (8 * n + self.number() * rows) * self.n_pixels as u64
        } else {
            0
        };
        jacobian + 8 * (n * (self.n_pixels as u64 + 2 * captured) + 3 * rows.saturating_mul(rows))
    }

    /// The sums of a pass that are brought together in memory, in the order of the groups; `parts`: bytes that a group gives each total. Each worker has
    /// those of a group at work, and those of the one before where they go to another process; the process that owns most has what waits there.
    fn in_group_order(&self, parts: &[u64]) -> u64 {
        let of_group = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
        let workers = self.processes * self.workers;
        let mut owned = vec![0_u64; self.processes];
        for (key, part) in parts.iter().enumerate() {
            let owner = &mut owned[key % workers / self.workers];
            *owner = owner.saturating_add(*part);
        }
        // One worker alone is done with each before the next: there is the total, and what is added to it.
        let waiting = if workers == 1 {
            2
        } else {
            most_waiting(of_group, workers) as u64
        };
        let waiting = waiting.min(self.row_groups.n);
        let at_work = (self.workers as u64 * if self.processes == 1 { 1 } else { 2 }).min(self.row_groups.n);
        let most = owned.into_iter().max().unwrap_or(0);
        most.saturating_mul(waiting)
            .saturating_add(of_group.saturating_mul(at_work))
    }

    /// The passes over the vectors that a `low_rank` block iterates: the vectors, at each worker as products take them, and their products.
    fn iterating(&self, blocks: &[BlockPlan]) -> u64 {
        let rank = self.job.curvature.low_rank.rank;
        let vectors = blocks.iter().map(|block| 8 * iterated(block, rank) as u64).sum::<u64>();
        let in_products = self.workers as u64 * (vectors / 8).saturating_mul(self.number());
        let sums = self.in_group_order(&[vectors]);
        vectors.saturating_add(in_products).saturating_add(sums)
    }

    /// What a pass takes that sums so many bytes a group. A worker has a group's sums at work, and those of the group before on their way to the store or
    /// just there, where they stay until the totals are made of slices: then it has the latter, the totals, and what is `beside` them.
    fn summing(&self, sums: u64, beside: u64) -> u64 {
        let workers = self.workers as u64;
        let to_the_store = workers * sums.saturating_mul(2).min(TO_THE_STORE);
        // A slice of each of some groups' sums.
        let from_the_store = workers * SLICES_IN_HAND as u64 * sums.min(8 * SLICE as u64);
        let at_work = sums.saturating_mul(2 * workers).saturating_add(to_the_store);
        let totals = sums.saturating_mul(1 + workers).saturating_add(beside);
        at_work.max(totals.saturating_add(from_the_store))
    }

    /// What a dual block takes.
    pub(crate) fn dual_cost(&self, block: &BlockPlan) -> DualCost {
        DualCost::of(block, self.n_labels, self.n_spectra())
    }

    /// Bytes of the sums of a block.
    ///
    /// # Errors
    /// A block of layers that the network does not have.
    pub(crate) fn sums_bytes(&self, block: &BlockPlan) -> Result<u64, CurvatureError> {
        if !block.structure.has_sums() {
            return Ok(0);
        }
        let zero = References::zero(self.shapes, self.n_labels);
        Ok(structure_of(block, &zero, self.n_labels, 1)?.bytes())
    }

    /// The memory of a process that holds these blocks.
    ///
    /// # Errors
    /// A block of layers that the network does not have.
    pub(crate) fn memory(&self, blocks: &[BlockPlan]) -> Result<MemoryPlan, CurvatureError> {
        let rank = self.job.curvature.low_rank.rank;
        let mut sums = 0_u64;
        for block in blocks {
            sums = sums.saturating_add(self.sums_bytes(block)?);
        }
        let matrices = || blocks.iter().map(|block| matrix_bytes(block, rank));
        let posterior = matrices().fold(0, u64::saturating_add);
        let largest = matrices().max().unwrap_or(0);
        let as_taken = blocks
            .iter()
            .map(|block| self.packed_bases(block).saturating_add(dense_covariance_bytes(block)));
        let predicting = posterior.saturating_add(as_taken.sum());
        let corrected = || blocks.iter().filter(|block| block.structure == StructureKind::Ekfac);
        let certifying = self.summing(gradient_bytes(self.job, blocks).iter().sum(), 0);
        // Beside the sums that are being reduced, the factor of the largest eigenproblem, its vectors and as much workspace again.
        let eigenproblem = corrected().map(|block| 4 * bases_bytes(block)).max().unwrap_or(0);
        let bases: u64 = corrected().map(bases_bytes).sum();
        let in_products = match self.job.compute.arithmetic.precision {
            Precision::F32 | Precision::Auto | Precision::Bf16x3 | Precision::Bf16 => bases / 2,
            Precision::F64 => 0,
        };
        let correcting = self.summing(corrected().map(correction_bytes).sum(), 0);
        let dual = blocks.iter().find(|block| !block.structure.has_sums());
        let (kept, rows, gram) = dual.map_or((0, 0, 0), |block| {
            let cost = self.dual_cost(block);
            let whole = cost.row_bytes.saturating_add(cost.tile_bytes);
            let kept = self.job.compute.memory.unwrap_or(whole).min(whole);
            let given = |shape: &DenseShape| self.job.prior_by_layer.get(&shape.name).copied();
            let gram = if spectrum_is_needed(self.job.prior, block.shapes.first().and_then(given)) {
                cost.rows.saturating_pow(2).saturating_mul(8)
            } else {
                0
            };
            (kept, cost.row_bytes.min(kept), gram)
        });
        // A chunk of a dual block's rows as it is made, whitened and written.
        let writing_rows = dual.map_or(0, |block| {
            let chunk = (DualLayout::spectra_a_chunk(self.n_labels) as u64).min(self.n_spectra());
            3 * WeightJacobian::bytes(block, self.n_labels, chunk)
        });
        // The eigenpairs of a `low_rank` block: at each worker, and once more as they are written.
        let low_rank = blocks.iter().filter(|block| block.structure == StructureKind::LowRank);
        let pairs: u64 = low_rank.map(|block| 8 * (rank * block.n_weights()) as u64).sum();
        let pairs = pairs.saturating_mul(1 + self.workers as u64);
        let row_groups = self.row_groups(blocks)?;
        Ok(MemoryPlan {
            beside: self.beside(row_groups),
            row_groups,
            kept_spectra: self.kept_spectra(),
            batch: self.batch(),
            fit: self
                .summing(sums, eigenproblem)
                .saturating_add(self.workers as u64 * writing_rows)
                .saturating_add(pairs)
                .max(correcting + bases + in_products)
                .max(self.finding_noise())
                .max(self.iterating(blocks)),
            invert: match self.job.prior {
                Prior::Fixed(_) => largest.saturating_mul(4).saturating_add(kept),
                Prior::Evidence | Prior::EvidencePerBlock => posterior
                    .saturating_add(largest.saturating_mul(3))
                    .saturating_add(kept.max(gram.saturating_mul(2).saturating_add(rows))),
                // The eigenbases beside.
                Prior::Holdout => posterior
                    .saturating_mul(2)
                    .saturating_add(self.scanning())
                    .saturating_add(largest.saturating_mul(3))
                    .saturating_add(kept.max(gram.saturating_mul(3).saturating_add(rows))),
            },
            predict: kept.saturating_add(predicting).saturating_add(self.calibrating()),
            certify: kept
                .saturating_add(predicting)
                .saturating_add(self.comparison().max(certifying)),
        })
    }
}

impl Sizes<'_> {
    /// Bytes of the eigenvectors of a block's Kronecker factors as they are packed for products: in f32, of which those of the inputs twice while they are
    /// packed, and these in shorter numbers beside.
    fn packed_bases(&self, block: &BlockPlan) -> u64 {
        if !matches!(block.structure, StructureKind::Kfac | StructureKind::Ekfac) {
            return 0;
        }
        let columns = block
            .shapes
            .iter()
            .map(|shape| (shape.columns() as u64).pow(2))
            .sum::<u64>();
        match self.job.compute.arithmetic.precision {
            Precision::F64 => 0,
            Precision::F32 => bases_bytes(block) / 2 + 4 * columns,
            Precision::Bf16 | Precision::Auto => bases_bytes(block) / 2 + 6 * columns,
            Precision::Bf16x3 => bases_bytes(block) / 2 + 8 * columns,
        }
    }
}

/// Numbers of the vectors that the passes of a `low_rank` block iterate; 0 for any other.
pub(crate) fn iterated(block: &BlockPlan, rank: usize) -> usize {
    match block.structure {
        StructureKind::LowRank => BlockPower::vectors(block.n_weights(), rank) * block.n_weights(),
        _ => 0,
    }
}

/// Bytes of the eigenvectors of a block's Kronecker factors.
pub(crate) fn bases_bytes(block: &BlockPlan) -> u64 {
    let squares = |side: usize| 8 * (side as u64).pow(2);
    block
        .shapes
        .iter()
        .map(|shape| squares(shape.columns()) + squares(shape.outputs))
        .sum()
}

/// Bytes of a block's matrices in f64: the square, the Kronecker factors, or `rank` vectors and a diagonal.
pub(crate) fn matrix_bytes(block: &BlockPlan, rank: usize) -> u64 {
    let p = block.n_weights() as u64;
    let numbers = match block.structure {
        StructureKind::Full | StructureKind::Block => p.saturating_mul(p),
        StructureKind::Diagonal => p,
        StructureKind::Dual => 0,
        StructureKind::LowRank => p * (rank as u64 + 1),
        StructureKind::Kfac | StructureKind::Ekfac => block
            .shapes
            .iter()
            .map(|shape| {
                let (a, g) = (shape.columns() as u64, shape.outputs as u64);
                a * a + g * g + a * g
            })
            .sum(),
    };
    numbers.saturating_mul(8)
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
