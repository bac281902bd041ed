//! The error of every star: `C_total = C_flux + C_weights + C_intrinsic`, its standard errors and correlations.

use crate::PosteriorError;
use crate::shape_checks::check_covariances;

/// The total error of a batch of stars. Bad rows, whose parts are NaN, stay NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorBudget {
    /// K.
    pub n_labels: usize,
    /// `C_total`, `[batch, K, K]` row-major, in label units.
    pub covariance: Vec<f64>,
    /// `sqrt(C_kk)`, `[batch, K]`, in label units.
    pub standard_error: Vec<f64>,
    /// `C_ab / sqrt(C_aa C_bb)`, `[batch, K (K - 1) / 2]`, in the order of [`ErrorBudget::pairs`]; NaN where a standard error is 0.
    pub correlation: Vec<f64>,
}

impl ErrorBudget {
    /// Adds the three parts, all in the same units: `flux`, `weights`: `[batch, K, K]`; `intrinsic`: `[K, K]`, the same for every star, or
    /// `[batch, K, K]`.
    ///
    /// ```
    /// use fisherflow_posterior::ErrorBudget;
    /// let budget = ErrorBudget::total(2, &[9.0, 1.0, 1.0, 1.0], &[3.0, 0.0, 0.0, 2.0], &[4.0, 1.0, 1.0, 1.0]).unwrap();
    /// assert_eq!(budget.standard_error, [4.0, 2.0]);
    /// assert_eq!(budget.correlation, [0.25]);
    /// ```
    ///
    /// # Errors
    /// If the sizes do not agree.
    pub fn total(n_labels: usize, flux: &[f64], weights: &[f64], intrinsic: &[f64]) -> Result<Self, PosteriorError> {
        let k = n_labels;
        let square = k * k;
        let batch = flux.len() / square.max(1);
        check_covariances("flux covariances", flux, batch, k)?;
        check_covariances("weight covariances", weights, batch, k)?;
        let shared = intrinsic.len() == square;
        check_covariances("intrinsic covariances", intrinsic, if shared { 1 } else { batch }, k)?;
        let mut budget = Self {
            n_labels,
            covariance: Vec::with_capacity(batch * square),
            standard_error: Vec::with_capacity(batch * k),
            correlation: Vec::with_capacity(batch * (square - k) / 2),
        };
        for n in 0..batch {
            let at = n * square;
            let of_star = if shared { intrinsic } else { &intrinsic[at..at + square] };
            let total: Vec<f64> = (0..square)
                .map(|i| flux[at + i] + weights[at + i] + of_star[i])
                .collect();
            let error: Vec<f64> = (0..k).map(|i| total[i * k + i].sqrt()).collect();
            for (a, b) in Self::pairs(k) {
                budget.correlation.push(total[a * k + b] / (error[a] * error[b]));
            }
            budget.standard_error.extend(error);
            budget.covariance.extend(total);
        }
        Ok(budget)
    }

    /// The pairs of labels that correlations are listed for: `(0, 1), (0, 2), ..., (1, 2), ...`.
    pub fn pairs(n_labels: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..n_labels).flat_map(move |a| (a + 1..n_labels).map(move |b| (a, b)))
    }
}

/// Turns covariances in normalised units, `[batch, K, K]` as [`covariance_of`](crate::Precision::covariance_of) gives them, into label
/// units: `C_kl scale_k scale_l`, with the label scale of each output.
///
/// # Errors
/// If their number is not a multiple of K squared.
pub fn in_label_units(covariance: &mut [f64], scale: &[f64]) -> Result<(), PosteriorError> {
    let k = scale.len();
    let batch = covariance.len() / (k * k).max(1);
    check_covariances("covariances", covariance, batch, k)?;
    for square in covariance.chunks_exact_mut((k * k).max(1)) {
        for i in 0..k {
            for j in 0..k {
                square[i * k + j] *= scale[i] * scale[j];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_pairs_are_in_order() {
        let pairs: Vec<_> = ErrorBudget::pairs(3).collect();
        assert_eq!(pairs, [(0, 1), (0, 2), (1, 2)]);
        let identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let intrinsic = [2.0, 0.3, 0.6, 0.3, 2.0, 0.9, 0.6, 0.9, 2.0];
        let two = [identity, [f64::NAN; 9]].concat();
        let budget = ErrorBudget::total(3, &two, &[0.0; 18], &intrinsic).unwrap();
        assert_eq!(budget.covariance[..3], [3.0, 0.3, 0.6]);
        for (found, expected) in budget.correlation.iter().zip([0.1, 0.2, 0.3]) {
            assert!((found - expected).abs() < 1e-15);
        }
        assert!((budget.standard_error[2] - 3.0_f64.sqrt()).abs() < 1e-15);
        assert!(budget.standard_error[3..].iter().all(|v| v.is_nan()));
        assert_eq!(budget.correlation.len(), 6);
    }

    #[test]
    fn a_scatter_may_be_each_star_s_own() {
        let budget = ErrorBudget::total(1, &[1.0, 1.0], &[2.0, 3.0], &[6.0, 12.0]).unwrap();
        assert_eq!(budget.standard_error, [3.0, 4.0]);
        assert!(ErrorBudget::total(1, &[1.0, 1.0], &[2.0, 3.0], &[6.0, 12.0, 1.0]).is_err());
    }

    #[test]
    fn sizes_that_disagree_are_errors() {
        assert!(ErrorBudget::total(2, &[0.0; 8], &[0.0; 4], &[0.0; 4]).is_err());
        assert!(ErrorBudget::total(2, &[0.0; 5], &[0.0; 5], &[0.0; 4]).is_err());
        assert!(ErrorBudget::total(2, &[0.0; 4], &[0.0; 4], &[0.0; 1]).is_err());
        assert!(in_label_units(&mut [0.0; 5], &[1.0, 2.0]).is_err());
    }

    #[test]
    fn label_units_scale_rows_and_columns() {
        let mut c = [1.0, 1.0, 1.0, 1.0];
        in_label_units(&mut c, &[500.0, 0.5]).unwrap();
        assert_eq!(c, [250_000.0, 250.0, 250.0, 0.25]);
    }
}
