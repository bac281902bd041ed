//! Pulls: are the error bars as large as the errors?
//!
//! `z_k = (label_k - prediction_k) / sqrt(C_total,kk + S_y,kk)` of stars that are not in the sums over spectra. Over calibrated error
//! bars the mean is 0 and the standard deviation 1.

use serde::{Deserialize, Serialize};

use crate::PosteriorError;
use crate::shape_checks::{check_batch, check_covariances, check_merge};

/// Sums over stars of their pulls, label by label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PullSums {
    n_labels: usize,
    n_spectra: u64,
    pull: Vec<f64>,
    square: Vec<f64>,
    within_one: Vec<u64>,
}

/// The pulls of one label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pulls {
    /// Number of stars.
    pub n_spectra: u64,
    /// Mean: the bias in units of the error bars.
    pub mean: f64,
    /// Standard deviation about the mean: above 1, the error bars are too small.
    pub standard_deviation: f64,
    /// Share of stars within one error bar; 0.683 for a normal distribution.
    pub within_one_sigma: f64,
}

impl PullSums {
    /// Nothing summed yet, for `n_labels` labels.
    #[must_use]
    pub fn new(n_labels: usize) -> Self {
        Self {
            n_labels,
            n_spectra: 0,
            pull: vec![0.0; n_labels],
            square: vec![0.0; n_labels],
            within_one: vec![0; n_labels],
        }
    }

    /// Adds a batch: `residual = label - prediction`, `[n, K]`; `covariance`, C_total, `[n, K, K]`; `label_covariance`, S_y, `[n, K, K]`.
    ///
    /// A star with a value that is not finite, or with no error at all, or next to none (a pull beyond the range of f32), is left out.
    ///
    /// # Errors
    /// If the sizes do not agree.
    pub fn accumulate(
        &mut self,
        residual: &[f64],
        covariance: &[f64],
        label_covariance: Option<&[f64]>,
    ) -> Result<(), PosteriorError> {
        let k = self.n_labels;
        let batch = check_batch("residuals", residual, k)?;
        check_covariances("total covariances", covariance, batch, k)?;
        if let Some(own) = label_covariance {
            check_covariances("label covariances", own, batch, k)?;
        }
        for n in 0..batch {
            let pull = |i: usize| {
                let at = n * k * k + i * k + i;
                residual[n * k + i] / (covariance[at] + label_covariance.map_or(0.0, |own| own[at])).sqrt()
            };
            let pulls: Vec<f64> = (0..k).map(pull).collect();
            if !pulls.iter().all(|z| (*z as f32).is_finite()) {
                continue;
            }
            self.n_spectra += 1;
            add(&mut self.pull, &pulls);
            add(&mut self.square, &pulls.iter().map(|z| z * z).collect::<Vec<_>>());
            for (count, z) in self.within_one.iter_mut().zip(&pulls) {
                *count += u64::from(z.abs() <= 1.0);
            }
        }
        Ok(())
    }

    /// Adds the sums over other stars, after these.
    ///
    /// # Errors
    /// If they are of another number of labels.
    pub fn merge(&mut self, other: &Self) -> Result<(), PosteriorError> {
        check_merge("pull sums", self.n_labels, other.n_labels)?;
        self.n_spectra += other.n_spectra;
        add(&mut self.pull, &other.pull);
        add(&mut self.square, &other.square);
        for (count, more) in self.within_one.iter_mut().zip(&other.within_one) {
            *count += more;
        }
        Ok(())
    }

    /// The pulls of each label; none over fewer than two stars.
    #[must_use]
    pub fn pulls(&self) -> Option<Vec<Pulls>> {
        if self.n_spectra < 2 {
            return None;
        }
        let n = self.n_spectra as f64;
        let one = |i: usize| {
            let mean = self.pull[i] / n;
            Pulls {
                n_spectra: self.n_spectra,
                mean,
                standard_deviation: ((self.square[i] - n * mean * mean).max(0.0) / (n - 1.0)).sqrt(),
                within_one_sigma: self.within_one[i] as f64 / n,
            }
        };
        Some((0..self.n_labels).map(one).collect())
    }
}

fn add(sum: &mut [f64], values: &[f64]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_are_residuals_over_both_errors() {
        let mut sums = PullSums::new(1);
        // Residuals 3, -6 and 30 under errors 3, sqrt(27 + 9) = 6 and 10; and a star without a label.
        sums.accumulate(&[3.0, -6.0], &[9.0, 27.0], Some(&[0.0, 9.0])).unwrap();
        sums.accumulate(&[f64::NAN, 30.0], &[1.0, 100.0], None).unwrap();
        // The square of a pull of 1e160 would be infinite.
        sums.accumulate(&[1.0, 1.0], &[0.0, 1e-320], None).unwrap();
        let pulls = sums.pulls().unwrap()[0];
        assert_eq!((pulls.n_spectra, pulls.mean, pulls.standard_deviation), (3, 1.0, 2.0));
        assert!((pulls.within_one_sigma - 2.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn merging_is_adding() {
        let mut all = PullSums::new(1);
        all.accumulate(&[1.0, 2.0, 4.0, 0.5], &[1.0, 1.0, 4.0, 1.0], None)
            .unwrap();
        let (mut first, mut second) = (PullSums::new(1), PullSums::new(1));
        first.accumulate(&[1.0, 2.0], &[1.0, 1.0], None).unwrap();
        second.accumulate(&[4.0], &[4.0], None).unwrap();
        assert!(second.pulls().is_none());
        second.accumulate(&[0.5], &[1.0], None).unwrap();
        first.merge(&second).unwrap();
        assert_eq!(first, all);
        assert_eq!(all.pulls().unwrap()[0].within_one_sigma, 0.5);
    }
}
