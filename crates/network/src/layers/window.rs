//! Where a window lies as it moves along a signal: which positions it covers at each of its own.
//!
//! At output position t a window of `size` covers input positions `t stride - before` to `t stride - before + size - 1`; what lies beyond
//! the signal's ends is padding.

use std::ops::{Range, RangeInclusive};

/// What a convolution is given beyond a signal's ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Nothing: the window stays inside, and what does not fill a whole stride at the end is left out.
    #[default]
    Valid,
    /// Zeros, so that there are `ceil(positions / stride)` output positions: `max((out - 1) stride + size - in, 0)` of them, the odd one
    /// at the end. So Keras has it, and torch where the stride is 1.
    Same,
}

/// A window on signals of a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub size: usize,
    pub stride: usize,
    /// Zeros before the signal.
    before: usize,
    /// Positions of the signal.
    pub positions: usize,
    /// Positions of the window.
    pub out_positions: usize,
}

impl Window {
    /// `None` where the signal is shorter than the window and nothing pads it, or empty. `size` and `stride` are at least 1.
    pub fn new(size: usize, stride: usize, padding: Padding, positions: usize) -> Option<Self> {
        let (before, out_positions) = match padding {
            Padding::Valid => (0, positions.checked_sub(size)? / stride + 1),
            Padding::Same => {
                let out = positions.div_ceil(stride);
                let padded = (out.checked_sub(1)? * stride + size).saturating_sub(positions);
                (padded / 2, out)
            }
        };
        Some(Self {
            size,
            stride,
            before,
            positions,
            out_positions,
        })
    }

    /// The lengths of signals on which such a window has `out_positions` positions.
    pub fn lengths(size: usize, stride: usize, padding: Padding, out_positions: usize) -> RangeInclusive<usize> {
        let before_last = out_positions.saturating_sub(1).saturating_mul(stride);
        let fewest = before_last.saturating_add(match padding {
            Padding::Valid => size,
            Padding::Same => 1,
        });
        fewest..=fewest.saturating_add(stride - 1)
    }

    /// The positions of the signal under the window's position `t`, and the window's own place over the first of them.
    pub fn covered(&self, t: usize) -> (usize, Range<usize>) {
        let start = t * self.stride;
        let skipped = self.before.saturating_sub(start);
        let from = (start + skipped - self.before).min(self.positions);
        let to = (start + self.size).saturating_sub(self.before).min(self.positions);
        (skipped, from..to.max(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_pads_as_torch_and_keras_do() {
        let window = Window::new(8, 1, Padding::Same, 64).unwrap();
        assert_eq!((window.before, window.out_positions), (3, 64));
        assert_eq!(window.covered(0), (3, 0..5));
        assert_eq!(window.covered(3), (0, 0..8));
        assert_eq!(window.covered(63), (0, 60..64));
        // Keras: total (4 - 1) * 2 + 5 - 7 = 4, two on either side
        let window = Window::new(5, 2, Padding::Same, 7).unwrap();
        assert_eq!((window.before, window.out_positions), (2, 4));
        assert_eq!(window.covered(3), (0, 4..7));
        // a stride beyond the window needs no padding
        let window = Window::new(2, 5, Padding::Same, 11).unwrap();
        assert_eq!((window.before, window.out_positions), (0, 3));
        assert_eq!(window.covered(2), (0, 10..11));
    }

    #[test]
    fn valid_stays_inside() {
        let window = Window::new(4, 4, Padding::Valid, 50).unwrap();
        assert_eq!(window.out_positions, 12);
        assert_eq!(window.covered(11), (0, 44..48));
        assert!(Window::new(8, 1, Padding::Valid, 7).is_none());
        assert!(Window::new(8, 1, Padding::Same, 0).is_none());
    }

    #[test]
    fn lengths_are_those_that_give_the_positions() {
        for padding in [Padding::Valid, Padding::Same] {
            for (size, stride) in [(1, 1), (8, 1), (4, 4), (3, 2), (2, 5)] {
                for length in 1..60 {
                    let Some(window) = Window::new(size, stride, padding, length) else {
                        continue;
                    };
                    for other in 1..80 {
                        let same = Window::new(size, stride, padding, other)
                            .is_some_and(|w| w.out_positions == window.out_positions);
                        let listed = Window::lengths(size, stride, padding, window.out_positions).contains(&other);
                        assert_eq!(listed, same, "{padding:?} {size} {stride} {length} {other}");
                    }
                }
            }
        }
    }
}
