//! The weight of each spectrum's labels: `Lam_n`, and a factor `F_n` with `Lam_n = F_n F_n^T`.
//!
//! `Lam_n = (R + S_n)^-1`, with R the residual covariance of the labels and `S_n` a spectrum's own label covariance, all `[K, K]` and in
//! normalised label units. Rows of `F_n^T J_n` are whitened Jacobian rows: `J_n^T Lam_n J_n = (F_n^T J_n)^T (F_n^T J_n)`.

use crate::CurvatureError;

/// The label precision of each spectrum of a batch, in normalised label units.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelPrecision {
    /// Number of labels K.
    pub n_labels: usize,
    /// `Lam_n`: `[batch, K, K]`, symmetric, positive semi-definite.
    pub lam: Vec<f64>,
    /// `F_n`: `[batch, K, K]`, lower triangular, `Lam_n = F_n F_n^T`.
    pub factor: Vec<f64>,
}

impl LabelPrecision {
    /// The same precision `lam` (`[K, K]`, may be singular: a label of weight 0) for all `batch` spectra.
    ///
    /// # Errors
    /// A `lam` that is not a square matrix, not symmetric, or not positive semi-definite.
    pub fn constant(lam: &[f64], batch: usize) -> Result<Self, CurvatureError> {
        let n_labels = side("label precision", lam)?;
        let factor = cholesky(lam, n_labels, Pivots::MayVanish).map_err(|label| CurvatureError::LabelMatrix {
            what: "label precision",
            spectrum: 0,
            label,
        })?;
        Ok(Self {
            n_labels,
            lam: lam.repeat(batch),
            factor: factor.repeat(batch),
        })
    }

    /// `Lam_n = (R + S_n)^-1` of `batch` spectra, with `noise` = R (`[K, K]`) and `label_covariance` = the `S_n` (`[batch, K, K]`; none: 0). Where all of
    /// `S_n` is infinite the spectrum has no weight.
    ///
    /// # Errors
    /// Sizes that do not agree, or an `R + S_n` that is not symmetric and positive definite; the error names the spectrum.
    pub fn per_spectrum(noise: &[f64], label_covariance: Option<&[f64]>, batch: usize) -> Result<Self, CurvatureError> {
        let k = side("noise covariance", noise)?;
        let Some(own) = label_covariance else {
            let (lam, factor) = invert(noise, k, 0)?;
            return Ok(Self {
                n_labels: k,
                lam: lam.repeat(batch),
                factor: factor.repeat(batch),
            });
        };
        if own.len() != batch * k * k {
            return Err(CurvatureError::LabelShape {
                what: "label covariance",
                found: own.len(),
                expected: batch * k * k,
            });
        }
        let mut precision = Self {
            n_labels: k,
            lam: Vec::with_capacity(own.len()),
            factor: Vec::with_capacity(own.len()),
        };
        for (spectrum, own) in own.chunks_exact(k * k).enumerate() {
            if own.iter().all(|&value| value == f64::INFINITY) {
                for values in [&mut precision.lam, &mut precision.factor] {
                    values.resize(values.len() + k * k, 0.0);
                }
                continue;
            }
            let covariance: Vec<f64> = noise.iter().zip(own).map(|(r, s)| r + s).collect();
            let (lam, factor) = invert(&covariance, k, spectrum)?;
            precision.lam.extend(lam);
            precision.factor.extend(factor);
        }
        Ok(precision)
    }

    /// Number of spectra.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.lam.len() / (self.n_labels * self.n_labels)
    }

    /// Number of spectra that weigh nothing: all of their `Lam_n` is 0.
    #[must_use]
    pub fn n_without_weight(&self) -> usize {
        let each = self.lam.chunks_exact(self.n_labels * self.n_labels);
        each.filter(|lam| lam.iter().all(|&value| value == 0.0)).count()
    }

    /// `Lam_n r_n` of every spectrum; `residuals` and what is given back: `[batch, K]`.
    ///
    /// # Errors
    /// Another number of residuals.
    pub fn times(&self, residuals: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        let k = self.n_labels;
        if residuals.len() != self.batch() * k {
            return Err(CurvatureError::LabelShape {
                what: "residuals of the labels",
                found: residuals.len(),
                expected: self.batch() * k,
            });
        }
        let spectra = self.lam.chunks_exact(k * k).zip(residuals.chunks_exact(k));
        Ok(spectra
            .flat_map(|(lam, r)| {
                lam.chunks_exact(k)
                    .map(move |row| row.iter().zip(r).map(|(lam, r)| lam * r).sum())
            })
            .collect())
    }

    /// Checks that there is one `[K, K]` pair for each of `batch` spectra of a network with `n_labels` labels.
    pub(crate) fn check(&self, n_labels: usize, batch: usize) -> Result<(), CurvatureError> {
        let expected = batch * n_labels * n_labels;
        for (what, values) in [
            ("label precision", &self.lam),
            ("factor of the label precision", &self.factor),
        ] {
            if self.n_labels != n_labels || values.len() != expected {
                return Err(CurvatureError::LabelShape {
                    what,
                    found: values.len(),
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// Side of a square matrix of at least one row.
fn side(what: &'static str, matrix: &[f64]) -> Result<usize, CurvatureError> {
    let side = matrix.len().isqrt().max(1);
    if side * side == matrix.len() {
        Ok(side)
    } else {
        Err(CurvatureError::LabelShape {
            what,
            found: matrix.len(),
            expected: side * side,
        })
    }
}

/// Whether a pivot of a Cholesky decomposition may be 0.
#[derive(Clone, Copy, PartialEq)]
enum Pivots {
    MayVanish,
    Positive,
}

/// Lower `L [k, k]` with `L L^T = matrix`, or the row of the pivot that fails.
fn cholesky(matrix: &[f64], k: usize, pivots: Pivots) -> Result<Vec<f64>, usize> {
    const TOLERANCE: f64 = 1e-12;
    let mut factor = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..=i {
            let scale = (matrix[i * k + i] * matrix[j * k + j]).abs().sqrt();
            let known: f64 = (0..j).map(|l| factor[i * k + l] * factor[j * k + l]).sum();
            let left = matrix[i * k + j] - known;
            // Written so that a NaN fails.
            let symmetric = (matrix[i * k + j] - matrix[j * k + i]).abs() <= TOLERANCE * scale;
            if !symmetric {
                return Err(i);
            }
            let vanishes = left.abs() <= TOLERANCE * scale;
            if i == j {
                match pivots {
                    _ if left > 0.0 && !vanishes => factor[i * k + i] = left.sqrt(),
                    Pivots::MayVanish if vanishes => {}
                    Pivots::MayVanish | Pivots::Positive => return Err(i),
                }
            } else if factor[j * k + j] > 0.0 {
                factor[i * k + j] = left / factor[j * k + j];
            } else if left.abs() > TOLERANCE.sqrt() * scale {
                return Err(i);
            }
        }
    }
    if factor.iter().all(|x| x.is_finite()) {
        Ok(factor)
    } else {
        Err(0)
    }
}

/// The inverse of a covariance and the Cholesky factor of that inverse.
fn invert(covariance: &[f64], k: usize, spectrum: usize) -> Result<(Vec<f64>, Vec<f64>), CurvatureError> {
    let refused = |what| move |label| CurvatureError::LabelMatrix { what, spectrum, label };
    let lower = cholesky(covariance, k, Pivots::Positive).map_err(refused("label covariance"))?;
    // X = L^-1, lower, by forward substitution; the inverse is X^T X.
    let mut inverse_lower = vec![0.0; k * k];
    for column in 0..k {
        for i in column..k {
            let known: f64 = (column..i)
                .map(|l| lower[i * k + l] * inverse_lower[l * k + column])
                .sum();
            let unit = if i == column { 1.0 } else { 0.0 };
            inverse_lower[i * k + column] = (unit - known) / lower[i * k + i];
        }
    }
    let mut lam = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..=i {
            let value: f64 = (i..k)
                .map(|l| inverse_lower[l * k + i] * inverse_lower[l * k + j])
                .sum();
            lam[i * k + j] = value;
            lam[j * k + i] = value;
        }
    }
    let factor = cholesky(&lam, k, Pivots::Positive).map_err(refused("label precision"))?;
    Ok((lam, factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: [f64; 9] = [2.0, 0.3, -0.1, 0.3, 1.0, 0.2, -0.1, 0.2, 0.5];

    fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
        (0..k * k)
            .map(|at| (0..k).map(|l| a[at / k * k + l] * b[l * k + at % k]).sum())
            .collect()
    }

    fn transposed(a: &[f64], k: usize) -> Vec<f64> {
        (0..k * k).map(|at| a[at % k * k + at / k]).collect()
    }

    fn assert_close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-12), "{a:?} {b:?}");
    }

    #[test]
    fn precision_times_covariance_is_the_identity() {
        let own = [[0.1, 0.0, 0.0, 0.0, 0.2, 0.1, 0.0, 0.1, 0.4], [0.0; 9]].concat();
        let precision = LabelPrecision::per_spectrum(&R, Some(&own), 2).unwrap();
        assert_eq!((precision.batch(), precision.n_labels), (2, 3));
        for n in 0..2 {
            let covariance: Vec<f64> = (0..9).map(|i| R[i] + own[n * 9 + i]).collect();
            let lam = &precision.lam[n * 9..(n + 1) * 9];
            let factor = &precision.factor[n * 9..(n + 1) * 9];
            assert_close(
                &product(lam, &covariance, 3),
                &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            );
            assert_close(&product(factor, &transposed(factor, 3), 3), lam);
            assert_eq!([factor[1], factor[2], factor[5]], [0.0; 3]);
        }
        let constant = LabelPrecision::per_spectrum(&R, None, 2).unwrap();
        assert_eq!(constant, LabelPrecision::per_spectrum(&R, Some(&[0.0; 18]), 2).unwrap());
    }

    #[test]
    fn a_label_may_have_no_weight() {
        let precision = LabelPrecision::constant(&[0.0, 0.0, 0.0, 4.0], 3).unwrap();
        assert_eq!(precision.factor[..4], [0.0, 0.0, 0.0, 2.0]);
        let rank_one = LabelPrecision::constant(&[4.0, 2.0, 2.0, 1.0], 1).unwrap();
        assert_close(&rank_one.factor, &[2.0, 0.0, 1.0, 0.0]);
        assert_eq!(LabelPrecision::constant(&[1.0], 0).unwrap().batch(), 0);
    }

    #[test]
    fn a_spectrum_of_infinite_covariance_has_no_weight() {
        let own = [[f64::INFINITY; 9], [0.0; 9]].concat();
        let precision = LabelPrecision::per_spectrum(&R, Some(&own), 2).unwrap();
        let other = LabelPrecision::per_spectrum(&R, None, 1).unwrap();
        assert_eq!(precision.lam, [vec![0.0; 9], other.lam].concat());
        assert_eq!(precision.factor, [vec![0.0; 9], other.factor].concat());
        assert_eq!(precision.n_without_weight(), 1);
        // Of one label alone it is no covariance.
        let of_one = [f64::INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert!(LabelPrecision::per_spectrum(&R, Some(&of_one), 1).is_err());
    }

    #[test]
    fn what_is_no_covariance_is_refused() {
        for bad in [
            vec![1.0, 2.0, 2.0, 1.0],
            vec![1.0, 0.5, 0.4, 1.0],
            vec![1.0, 0.0, 0.0, f64::NAN],
            vec![-1.0],
            vec![0.0],
        ] {
            assert!(LabelPrecision::per_spectrum(&bad, None, 1).is_err(), "{bad:?}");
        }
        assert!(LabelPrecision::constant(&[0.0, 1.0, 1.0, 1.0], 1).is_err());
        let own = [vec![0.0; 9], vec![f64::NAN; 9]].concat();
        let error = LabelPrecision::per_spectrum(&R, Some(&own), 2).unwrap_err().to_string();
        assert!(error.contains("spectrum 1 of the batch"), "{error}");
        let error = LabelPrecision::per_spectrum(&R, Some(&own), 3).unwrap_err().to_string();
        assert_eq!(error, "label covariance has 18 values, expected 27");
        assert!(LabelPrecision::constant(&[], 1).is_err());
    }
}
