//! The eigenvalues `lambda` of a block's Hessian, and what they say of any prior precision `delta`.
//!
//! ```text
//! ln det(H + delta I) = p ln delta + sum ln(1 + lambda / delta)
//! gamma(delta)        = sum lambda / (lambda + delta)
//! ```
//!
//! A Kronecker block's `columns * out` eigenvalues are kept as its factors', and multiplied on the way.

use serde::{Deserialize, Serialize};

use crate::structures::cancellation::LOST;

/// A product of `1 + lambda / delta` is brought to its logarithm where it is larger than this.
const LARGE: f64 = 1e150;

/// How often the most negative eigenvalue of a dense matrix goes into a prior precision that is seen: a scan, which has 0 there, and an inverse
/// are within a ninth of each other.
const SEEN: f64 = 10.0;

/// The eigenvalues of a block: each of `scales` times each of `values`; by default of no weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    values: Vec<f64>,
    scales: Vec<f64>,
    /// Eigenvalues that are 0 and in neither list.
    zeros: u64,
    clipped: u64,
    /// The rounding that hides a prior precision: of the matrix that it is added to, of variances, or of eigenvalues that are nothing else.
    rounding: f64,
}

/// What a spectrum says of one prior precision; adds up over blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct AtPrior {
    /// `sum ln(1 + lambda / delta)`: the log determinant of `H + delta I` over that of the prior.
    pub log_det_over_prior: f64,
    /// `gamma`.
    pub effective_parameters: f64,
    /// `- d gamma / d ln delta = sum lambda delta / (lambda + delta)^2`.
    pub decrease: f64,
}

impl Spectrum {
    /// From eigenvalues, none negative, of which `clipped` were below 0 from rounding and are 0 now.
    pub(crate) fn new(values: Vec<f64>, clipped: u64) -> Self {
        Self {
            values,
            scales: vec![1.0],
            zeros: 0,
            clipped,
            rounding: 0.0,
        }
    }

    /// Of a dense matrix: its eigenvalues, ascending, of which `clipped` were below 0 and are 0 now, the least of them at `most_negative` of the
    /// largest. Where there is rounding among them, a prior precision is seen that is no pivot of rounding and tells a scan as much as an inverse:
    /// a scan has `1 / delta` along an eigenvector whose inverse, of the matrix as it is, has `1 / (delta - |lambda|)`.
    pub(crate) fn dense(values: Vec<f64>, clipped: u64, most_negative: f64) -> Self {
        let relative = values.len() as f64 * f64::EPSILON;
        let rounding = match (values.first(), values.last()) {
            (Some(smallest), Some(largest)) if *smallest <= relative * largest => {
                ((relative - SEEN * most_negative) * largest).max(f64::MIN_POSITIVE)
            }
            _ => 0.0,
        };
        Self::new(values, clipped).with_rounding(rounding)
    }

    /// Of a Hessian over `n_weights` weights that has the eigenvalues of its Gram matrix over rows, ascending: the largest of them where
    /// there are more rows than weights, and zeros where there are fewer.
    pub(crate) fn of_rank(mut values: Vec<f64>, n_weights: usize, clipped: u64) -> Self {
        let largest = values.iter().copied().fold(0.0, f64::max);
        // Of the Gram matrix, and of the differences that a variance is.
        let rounding = (values.len() as f64 * f64::EPSILON + LOST) * largest;
        values.drain(..values.len().saturating_sub(n_weights));
        Self {
            rounding,
            zeros: (n_weights - values.len()) as u64,
            ..Self::new(values, clipped)
        }
    }

    /// `lambda_ij = t_i s_j / n`: from the eigenvalues `s` of `S_A` and `t` of `S_G`; all 0 where nothing was summed.
    pub(crate) fn kronecker(s: Vec<f64>, t: &[f64], n_spectra: u64, clipped: u64) -> Self {
        let scale = |t: &f64| if n_spectra == 0 { 0.0 } else { t / n_spectra as f64 };
        Self {
            values: s,
            scales: t.iter().map(scale).collect(),
            zeros: 0,
            clipped,
            rounding: 0.0,
        }
    }

    /// Where no prior precision below `rounding` is seen.
    pub(crate) fn with_rounding(self, rounding: f64) -> Self {
        Self { rounding, ..self }
    }

    /// Number of eigenvalues: the block's weights.
    #[must_use]
    pub fn n_weights(&self) -> u64 {
        self.values.len() as u64 * self.scales.len() as u64 + self.zeros
    }

    /// The largest eigenvalue; 0 where there is none.
    #[must_use]
    pub fn largest(&self) -> f64 {
        let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        largest(&self.values) * largest(&self.scales)
    }

    /// Number of eigenvalues (of the factors', for a Kronecker block) that were negative from rounding and count as 0.
    #[must_use]
    pub fn clipped(&self) -> u64 {
        self.clipped
    }

    /// What a prior precision has to be above to be seen beside the rounding of the block's matrix or of its eigenvalues, with no variance lost to
    /// it; 0 where any is.
    #[must_use]
    pub fn rounding(&self) -> f64 {
        self.rounding
    }

    /// `ln det(H + delta I)` for a `prior_precision` above 0.
    #[cfg(test)]
    pub(crate) fn log_det(&self, prior_precision: f64) -> f64 {
        self.n_weights() as f64 * prior_precision.ln() + self.at(prior_precision).log_det_over_prior
    }

    /// `gamma = sum lambda / (lambda + delta)` for a `prior_precision` above 0.
    #[must_use]
    pub fn effective_parameters(&self, prior_precision: f64) -> f64 {
        self.at(prior_precision).effective_parameters
    }

    /// All sums for a prior precision above 0. Logarithms are taken of products: there are as many eigenvalues as weights.
    pub(crate) fn at(&self, prior_precision: f64) -> AtPrior {
        let mut all = AtPrior::default();
        for scale in &self.scales {
            let scale = scale / prior_precision;
            let mut row = AtPrior::default();
            let mut product = 1.0;
            for value in &self.values {
                let ratio = scale * value;
                let sum = 1.0 + ratio;
                product *= sum;
                if product > LARGE {
                    row.log_det_over_prior += product.ln();
                    product = 1.0;
                }
                let determined = ratio / sum;
                row.effective_parameters += determined;
                row.decrease += determined / sum;
            }
            row.log_det_over_prior += product.ln();
            all.add(row);
        }
        all
    }
}

impl AtPrior {
    /// Adds those of other eigenvalues.
    pub(crate) fn add(&mut self, other: Self) {
        self.log_det_over_prior += other.log_det_over_prior;
        self.effective_parameters += other.effective_parameters;
        self.decrease += other.decrease;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_eigenvalue_by_hand() {
        let spectrum = Spectrum::new(vec![3.0], 0);
        assert_eq!(spectrum.log_det(1.0), 4.0_f64.ln());
        assert_eq!(spectrum.effective_parameters(1.0), 0.75);
        assert_eq!(spectrum.at(1.0).decrease, 0.1875);
        assert_eq!((spectrum.n_weights(), spectrum.largest()), (1, 3.0));
    }

    #[test]
    fn what_rounding_hides_in_a_dense_matrix_by_hand() {
        let relative = 3.0 * f64::EPSILON;
        let rounding = |smallest: f64, below: f64| Spectrum::dense(vec![smallest, 1.0, 4.0], 0, below).rounding();
        assert_eq!(rounding(1e-3, 0.0), 0.0);
        assert_eq!(rounding(1e-17, 0.0), 4.0 * relative);
        assert_eq!(rounding(0.0, -1e-7), 4.0 * (relative + 10.0 * 1e-7));
        assert_eq!(Spectrum::dense(vec![], 0, 0.0).rounding(), 0.0);
    }

    #[test]
    fn factors_give_the_same_as_their_products() {
        let (s, t) = (vec![0.0, 1e-9, 2.0, 5e8], [1e-3, 4.0]);
        let factored = Spectrum::kronecker(s.clone(), &t, 2, 1);
        let all = t.iter().flat_map(|t| s.iter().map(move |s| s * t / 2.0)).collect();
        let all = Spectrum::new(all, 1);
        assert_eq!(factored.n_weights(), 8);
        assert_eq!(factored.largest(), 1e9);
        for delta in [1e-8, 1.0, 1e8] {
            assert!((factored.log_det(delta) - all.log_det(delta)).abs() < 1e-12 * all.log_det(delta).abs());
            let (found, expected) = (factored.effective_parameters(delta), all.effective_parameters(delta));
            assert!((found - expected).abs() < 1e-14 * expected);
        }
        assert_eq!(Spectrum::kronecker(s, &t, 0, 0).largest(), 0.0);
    }

    #[test]
    fn many_large_factors_do_not_overflow() {
        let spectrum = Spectrum::new(vec![1e12; 1000], 0);
        let expected = 1000.0 * (1e12_f64 + 1e-3).ln();
        assert!((spectrum.log_det(1e-3) / expected - 1.0).abs() < 1e-14);
    }
}
