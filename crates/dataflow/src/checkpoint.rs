//! What a reduction group leaves in the store, and how many spectra a group has where the run file does not say.
//!
//! A group of few spectra is soon lost and soon done again, but its sums are as large as those of many: what all groups leave would
//! be many times the catalogue. So a group has [`LEAST`] spectra, or as many as keep its sums at [`BYTES_A_SPECTRUM`]. That depends on the
//! network and its structures alone: on another machine the groups, and with them the bits, are the same.

use fisherflow_curvature::{BlockPlan, CurvatureError, References, StructureKind, correction_bytes, structure_of};
use fisherflow_network::DenseShape;

/// Spectra of a group, at least.
pub(crate) const LEAST: u64 = 4096;
/// Bytes of a group's sums for each of its spectra, at most, about: two sevenths of a spectrum of 7,213 pixels. With half as many the store
/// would have less to do, but a group twice as long, and the last ones of a pass are worked on by few.
const BYTES_A_SPECTRUM: u64 = 16 << 10;

/// Bytes of the sums that a group leaves in the store, until the run is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Of the curvature pass.
    pub(crate) curvature: u64,
    /// Of the correction pass.
    pub(crate) correction: u64,
}

impl Checkpoint {
    /// Of such blocks of a network of dense layers `shapes` and `n_labels` labels.
    ///
    /// # Errors
    /// A block of layers that the network does not have.
    pub(crate) fn of(shapes: &[DenseShape], n_labels: usize, blocks: &[BlockPlan]) -> Result<Self, CurvatureError> {
        let zero = References::zero(shapes, n_labels);
        let mut bytes = Self {
            curvature: 0,
            correction: 0,
        };
        for block in blocks.iter().filter(|block| block.structure.has_sums()) {
            let sums = structure_of(block, &zero, n_labels, 1)?.bytes();
            bytes.curvature = bytes.curvature.saturating_add(sums);
            if block.structure == StructureKind::Ekfac {
                bytes.correction = bytes.correction.saturating_add(correction_bytes(block));
            }
        }
        Ok(bytes)
    }

    /// Of both passes.
    pub(crate) fn bytes(&self) -> u64 {
        self.curvature.saturating_add(self.correction)
    }

    /// Spectra of a group, at least, where the run file does not say.
    pub(crate) fn spectra_a_group(&self) -> u64 {
        self.curvature
            .max(self.correction)
            .div_ceil(BYTES_A_SPECTRUM)
            .max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fisherflow_curvature::{BlockOptions, plan_blocks};
    use std::collections::BTreeMap;

    fn group(sizes: &[usize], structure: StructureKind) -> (u64, Checkpoint) {
        let shapes: Vec<DenseShape> = sizes
            .windows(2)
            .enumerate()
            .map(|(layer, sizes)| DenseShape {
                name: format!("layers.{layer}"),
                inputs: sizes[0],
                outputs: sizes[1],
                bias: true,
                shared: 1,
            })
            .collect();
        let blocks = plan_blocks(&shapes, structure, &BTreeMap::new(), BlockOptions::default()).unwrap();
        let checkpoint = Checkpoint::of(&shapes, 3, &blocks).unwrap();
        (checkpoint.spectra_a_group(), checkpoint)
    }

    #[test]
    fn groups_grow_with_their_sums() {
        let (few, small) = group(&[40, 12, 3], StructureKind::Kfac);
        assert_eq!((few, small.correction), (LEAST, 0));
        // Two triangles, two sums beside each, and the labels' precision.
        let triangle = |n: u64| n * (n + 1) / 2;
        let (many, large) = group(&[7213, 2048], StructureKind::Kfac);
        assert_eq!(
            large.curvature,
            8 * (triangle(7213) + 7213 + triangle(2048) + 3 * 2048 + 9 + 1)
        );
        assert_eq!(many, large.curvature.div_ceil(16_384));
        assert!(many > LEAST);
        let (same, corrected) = group(&[7213, 2048], StructureKind::Ekfac);
        assert_eq!((same, corrected.curvature), (many, large.curvature));
        assert_eq!(corrected.correction, 8 * 7214 * 2048);
    }
}
