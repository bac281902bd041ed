//! Cells of label space, and C_intrinsic in each: hot stars need not scatter as cool ones do.
//!
//! Edges cut the axes of some labels into intervals; the outermost are open, so that every star is in a cell. A cell is one interval of
//! each label that has edges. A star belongs to the cell of its PREDICTED labels, in the fit as in the prediction: a new star has no others.

use serde::{Deserialize, Serialize};

use crate::shape_checks::check_merge;
use crate::{HeldOutStars, PosteriorError, ScatterEstimate};

/// A cell with fewer held-out stars takes the scatter of all cells: the standard deviation of 50 pulls is known to a tenth.
pub const FEWEST_STARS: u64 = 50;

/// The cells: products of the intervals of some labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelCells {
    /// Position of each label with edges among the network's, and the edges.
    axes: Vec<(usize, Vec<f64>)>,
}

/// One label's interval: `low <= label < high`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Position of the label among the network's.
    pub label: usize,
    /// Its lower edge; none: open.
    pub low: Option<f64>,
    /// Its upper edge; none: open.
    pub high: Option<f64>,
}

/// The scatter of one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellScatter {
    /// The cell: one interval of each label with edges.
    pub intervals: Vec<Interval>,
    /// Held-out stars in it, with all their labels.
    pub n_spectra: u64,
    /// Its own scatter; none with fewer than [`FEWEST_STARS`]: then that of all cells counts.
    pub own: Option<ScatterEstimate>,
}

impl LabelCells {
    /// Cells by the edges of some labels, ascending; without any, one cell.
    ///
    /// # Errors
    /// Edges that are none, not finite or not ascending, or a label with edges twice.
    pub fn new(axes: Vec<(usize, Vec<f64>)>) -> Result<Self, PosteriorError> {
        for (at, (label, edges)) in axes.iter().enumerate() {
            let refused = |reason| Err(PosteriorError::Edges { label: *label, reason });
            if edges.is_empty() {
                return refused("there is none");
            }
            if edges.iter().any(|edge| !edge.is_finite()) {
                return refused("one is not finite");
            }
            if edges.windows(2).any(|pair| pair[0] >= pair[1]) {
                return refused("they do not ascend");
            }
            if axes[..at].iter().any(|(other, _)| other == label) {
                return refused("they are given twice");
            }
        }
        Ok(Self { axes })
    }

    /// Number of cells.
    #[must_use]
    pub fn n_cells(&self) -> usize {
        self.axes.iter().map(|(_, edges)| edges.len() + 1).product()
    }

    /// The cell of a star with these labels, `[K]`; the last label with edges runs fastest. What is NaN is in the first interval.
    ///
    /// ```
    /// use fisherflow_posterior::LabelCells;
    /// let cells = LabelCells::new(vec![(0, vec![4000.0, 5000.0]), (1, vec![3.5])]).unwrap();
    /// assert_eq!(cells.n_cells(), 6);
    /// assert_eq!(cells.cell_of(&[4000.0, 2.0]), 2);
    /// assert_eq!(cells.cell_of(&[9000.0, 4.0]), 5);
    /// ```
    #[must_use]
    pub fn cell_of(&self, labels: &[f64]) -> usize {
        self.axes.iter().fold(0, |cell, (label, edges)| {
            let value = labels.get(*label).copied().unwrap_or(f64::NAN);
            cell * (edges.len() + 1) + edges.partition_point(|&edge| edge <= value)
        })
    }

    /// The intervals of a cell, in the order of the axes.
    #[must_use]
    pub fn intervals(&self, cell: usize) -> Vec<Interval> {
        let mut rest = cell;
        let mut intervals: Vec<Interval> = self
            .axes
            .iter()
            .rev()
            .map(|(label, edges)| {
                let at = rest % (edges.len() + 1);
                rest /= edges.len() + 1;
                Interval {
                    label: *label,
                    low: at.checked_sub(1).and_then(|below| edges.get(below).copied()),
                    high: edges.get(at).copied(),
                }
            })
            .collect();
        intervals.reverse();
        intervals
    }

    /// The scatter of each cell beyond all known parts, from the held-out stars of each.
    ///
    /// # Errors
    /// If there is not one collection of stars a cell, or a scatter cannot be found.
    pub fn scatter(&self, by_cell: &[HeldOutStars]) -> Result<Vec<CellScatter>, PosteriorError> {
        check_merge("held-out stars by cell", self.n_cells(), by_cell.len())?;
        by_cell
            .iter()
            .enumerate()
            .map(|(cell, stars)| {
                Ok(CellScatter {
                    intervals: self.intervals(cell),
                    n_spectra: stars.n_spectra(),
                    own: (stars.n_spectra() >= FEWEST_STARS)
                        .then(|| stars.intrinsic())
                        .transpose()?,
                })
            })
            .collect()
    }
}

/// The scatter that counts in each cell, `[K, K]`: its own, or with fewer stars than [`FEWEST_STARS`] that of all cells.
///
/// # Errors
/// If there is no star, or a scatter cannot be found.
pub(crate) fn scatter_by_cell(n_labels: usize, by_cell: &[HeldOutStars]) -> Result<Vec<Vec<f64>>, PosteriorError> {
    let has_own = |stars: &HeldOutStars| stars.n_spectra() >= FEWEST_STARS;
    let of_all = if by_cell.iter().all(has_own) {
        Vec::new()
    } else {
        HeldOutStars::merged(n_labels, by_cell)?.intrinsic()?.covariance
    };
    by_cell
        .iter()
        .map(|stars| {
            if has_own(stars) {
                Ok(stars.intrinsic()?.covariance)
            } else {
                Ok(of_all.clone())
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KnownParts;
    use crate::brute_force::Numbers;

    #[test]
    fn every_star_is_in_the_cell_whose_intervals_hold_it() {
        let cells = LabelCells::new(vec![(2, vec![-1.0, 0.0]), (0, vec![10.0])]).unwrap();
        let mut numbers = Numbers::new(5);
        for _ in 0..200 {
            let labels = [20.0 * numbers.next(), 0.0, 2.0 * numbers.next()];
            let cell = cells.cell_of(&labels);
            assert!(cell < cells.n_cells());
            for interval in cells.intervals(cell) {
                let value = labels[interval.label];
                assert!(interval.low.is_none_or(|low| low <= value));
                assert!(interval.high.is_none_or(|high| value < high));
            }
        }
        assert_eq!(LabelCells::default().n_cells(), 1);
        assert_eq!(LabelCells::default().cell_of(&[3.0]), 0);
        assert!(LabelCells::default().intervals(0).is_empty());
        assert_eq!(cells.cell_of(&[f64::NAN; 3]), 0);
    }

    #[test]
    fn edges_that_are_none_are_refused() {
        for (axes, said) in [
            (vec![(0, vec![])], "there is none"),
            (vec![(0, vec![2.0, 1.0])], "do not ascend"),
            (vec![(0, vec![1.0, 1.0])], "do not ascend"),
            (vec![(1, vec![f64::NAN])], "not finite"),
            (vec![(1, vec![1.0]), (1, vec![2.0])], "twice"),
        ] {
            let error = LabelCells::new(axes).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn each_cell_has_its_own_scatter_and_few_stars_have_none() {
        let cells = LabelCells::new(vec![(0, vec![0.0, 2.0])]).unwrap();
        let mut numbers = Numbers::new(77);
        let mut by_cell = vec![HeldOutStars::new(1); cells.n_cells()];
        let sigmas = [0.5, 2.0];
        let n = 4000;
        for star in 0..n {
            let (cell, own) = (star % 2, 0.3 + 0.3 * (star % 5) as f64);
            let residual = (sigmas[cell] * sigmas[cell] + own * own).sqrt() * numbers.normal();
            let label_covariance = [own * own];
            let known = KnownParts {
                label_covariance: Some(&label_covariance),
                ..KnownParts::default()
            };
            by_cell[cell].push(&[residual], known).unwrap();
        }
        for _ in 1..FEWEST_STARS {
            by_cell[2].push(&[1.0], KnownParts::default()).unwrap();
        }
        let found = cells.scatter(&by_cell).unwrap();
        for (cell, sigma) in found.iter().zip(sigmas) {
            let own = cell.own.as_ref().unwrap();
            assert_eq!(cell.n_spectra, n as u64 / 2);
            // Four standard errors: of a variance v beyond known ones w, sqrt(2 / sum (v + w)^-2).
            let information: f64 = (0..5)
                .map(|i| n as f64 / 10.0 / (sigma * sigma + (0.3 + 0.3 * f64::from(i)).powi(2)).powi(2))
                .sum();
            let error = (own.covariance[0] - sigma * sigma).abs();
            assert!(
                error < 4.0 * (2.0 / information).sqrt(),
                "{sigma}: {:?}",
                own.covariance
            );
        }
        assert_eq!((found[2].n_spectra, &found[2].own), (FEWEST_STARS - 1, &None));
        assert!(cells.scatter(&by_cell[1..]).is_err());
        by_cell[2].push(&[1.0], KnownParts::default()).unwrap();
        assert!(cells.scatter(&by_cell).unwrap()[2].own.is_some(), "enough are enough");
    }
}
