//! The error of every star: `C_total = C_flux + C_weights + C_intrinsic`.

use crate::PosteriorError;
use crate::shape_checks::check_covariances;

/// `C_total` of a batch of stars, `[batch, K, K]`: the sum of three parts, all in the same units. `flux`, `weights`: `[batch, K, K]`; `intrinsic`:
/// `[K, K]`, the same for every star, or `[batch, K, K]`. Bad rows, whose parts are NaN, stay NaN.
///
/// ```
/// use fisherflow_posterior::total_covariance;
/// let total = total_covariance(2, &[9.0, 1.0, 1.0, 1.0], &[3.0, 0.0, 0.0, 2.0], &[4.0, 1.0, 1.0, 1.0]).unwrap();
/// assert_eq!(total, [16.0, 2.0, 2.0, 4.0]);
/// ```
///
/// # Errors
/// If the sizes do not agree.
pub fn total_covariance(
    n_labels: usize,
    flux: &[f64],
    weights: &[f64],
    intrinsic: &[f64],
) -> Result<Vec<f64>, PosteriorError> {
    let square = n_labels * n_labels;
    let batch = flux.len() / square.max(1);
    check_covariances("flux covariances", flux, batch, n_labels)?;
    check_covariances("weight covariances", weights, batch, n_labels)?;
    let own = if intrinsic.len() == square { 1 } else { batch };
    check_covariances("intrinsic covariances", intrinsic, own, n_labels)?;
    let parts = flux.iter().zip(weights).zip(intrinsic.iter().cycle());
    Ok(parts
        .map(|((flux, weights), intrinsic)| flux + weights + intrinsic)
        .collect())
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
    fn a_scatter_may_be_each_star_s_own_and_a_bad_row_stays_bad() {
        let total = total_covariance(1, &[1.0, 1.0], &[2.0, 3.0], &[6.0, 12.0]).unwrap();
        assert_eq!(total, [9.0, 16.0]);
        let total = total_covariance(1, &[1.0, f64::NAN], &[2.0, 3.0], &[6.0]).unwrap();
        assert!(total[0] == 9.0 && total[1].is_nan());
        assert!(total_covariance(1, &[1.0, 1.0], &[2.0, 3.0], &[6.0, 12.0, 1.0]).is_err());
    }

    #[test]
    fn sizes_that_disagree_are_errors() {
        assert!(total_covariance(2, &[0.0; 8], &[0.0; 4], &[0.0; 4]).is_err());
        assert!(total_covariance(2, &[0.0; 5], &[0.0; 5], &[0.0; 4]).is_err());
        assert!(total_covariance(2, &[0.0; 4], &[0.0; 4], &[0.0; 1]).is_err());
        assert!(in_label_units(&mut [0.0; 5], &[1.0, 2.0]).is_err());
    }

    #[test]
    fn label_units_scale_rows_and_columns() {
        let mut c = [1.0, 1.0, 1.0, 1.0];
        in_label_units(&mut c, &[500.0, 0.5]).unwrap();
        assert_eq!(c, [250_000.0, 250.0, 250.0, 0.25]);
    }
}
