//! The nearest covariance to a small symmetric matrix that rounding or sampling made indefinite, and what that changed.

use faer::{MatRef, Side};

use crate::PosteriorError;

/// A covariance whose eigenvalues were raised to a floor.
#[derive(Clone, Debug, PartialEq)]
pub struct Clipped {
    /// `[K, K]` row-major, exactly symmetric; the matrix itself where nothing had to be raised.
    pub covariance: Vec<f64>,
    /// The eigenvalues before, ascending, of the matrix in units of `scale`: `C_kl / (scale_k scale_l)`.
    pub eigenvalues: Vec<f64>,
    /// How many of them were below the floor and were raised to it.
    pub clipped: usize,
}

/// Raises the eigenvalues of a symmetric `[K, K]` matrix to `floor` where they are below it.
///
/// Labels have different units, so eigenvalues are those of the matrix in units of `scale` (one a label, positive): a floor of
/// 1e-4 is then a hundredth of the scale in any direction, whatever the units.
///
/// # Errors
/// If the sizes do not agree, or a value is not finite; `what` names the matrix.
pub fn clip_to_psd(
    covariance: &[f64],
    scale: &[f64],
    floor: f64,
    what: &'static str,
) -> Result<Clipped, PosteriorError> {
    let k = scale.len();
    if covariance.len() != k * k {
        return Err(PosteriorError::Shape {
            what: what.to_owned(),
            expected: vec![k, k],
            found: vec![covariance.len()],
        });
    }
    let mut scaled = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..k {
            let mean = 0.5 * (covariance[i * k + j] + covariance[j * k + i]);
            scaled[i * k + j] = mean / (scale[i] * scale[j]);
        }
    }
    if scaled.iter().any(|v| !v.is_finite()) {
        return Err(PosteriorError::Covariance { what });
    }
    // K x K, far below the size at which faer would use a second thread.
    let eigen = MatRef::from_row_major_slice(&scaled, k, k)
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| PosteriorError::Covariance { what })?;
    let eigenvalues: Vec<f64> = (0..k).map(|i| eigen.S()[i]).collect();
    let clipped = eigenvalues.iter().filter(|&&v| v < floor).count();
    let mut result = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..=i {
            let value = if clipped == 0 {
                0.5 * (covariance[i * k + j] + covariance[j * k + i])
            } else {
                let u = eigen.U();
                let sum: f64 = (0..k).map(|e| u[(i, e)] * eigenvalues[e].max(floor) * u[(j, e)]).sum();
                sum * scale[i] * scale[j]
            };
            result[i * k + j] = value;
            result[j * k + i] = value;
        }
    }
    Ok(Clipped {
        covariance: result,
        eigenvalues,
        clipped,
    })
}

/// The units of a second moment: the root of its diagonal, 1 where that is 0.
pub(crate) fn scale_of(second_moment: &[f64], k: usize) -> Vec<f64> {
    (0..k)
        .map(|i| second_moment[i * k + i])
        .map(|v| if v > 0.0 { v.sqrt() } else { 1.0 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_covariance_is_left_as_it_is() {
        let c = [4.0, 1.0, 1.0, 9.0];
        let clipped = clip_to_psd(&c, &[2.0, 3.0], 0.0, "c").unwrap();
        assert_eq!(clipped.covariance, c);
        assert_eq!(clipped.clipped, 0);
    }

    #[test]
    fn an_indefinite_matrix_loses_its_negative_part_only() {
        // Eigenvalues 3 and -1 with eigenvectors (1, 1) and (1, -1), over root 2.
        let clipped = clip_to_psd(&[1.0, 2.0, 2.0, 1.0], &[1.0, 1.0], 0.0, "c").unwrap();
        assert_eq!(clipped.clipped, 1);
        assert!((clipped.eigenvalues[0] + 1.0).abs() < 1e-14);
        for v in &clipped.covariance {
            assert!((v - 1.5).abs() < 1e-14);
        }
    }

    #[test]
    fn units_do_not_matter() {
        let c = [1.0, 2.0, 2.0, 1.0];
        let plain = clip_to_psd(&c, &[1.0, 1.0], 0.1, "c").unwrap();
        let s = [500.0, 0.3];
        let in_units: Vec<f64> = (0..4).map(|i| c[i] * s[i / 2] * s[i % 2]).collect();
        let scaled = clip_to_psd(&in_units, &s, 0.1, "c").unwrap();
        for i in 0..4 {
            let expected = plain.covariance[i] * s[i / 2] * s[i % 2];
            assert!((scaled.covariance[i] / expected - 1.0).abs() < 1e-13);
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        assert!(clip_to_psd(&[f64::NAN], &[1.0], 0.0, "c").is_err());
        assert!(clip_to_psd(&[1.0, 0.0], &[1.0], 0.0, "c").is_err());
    }
}
