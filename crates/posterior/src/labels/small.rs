//! Arithmetic on `[K, K]` matrices of labels, row-major: too small for a library's blocking to pay.

/// `matrix += weight r r^T`.
#[inline(always)]
pub(crate) fn add_outer(matrix: &mut [f64], r: &[f64], weight: f64) {
    for (row, a) in matrix.chunks_exact_mut(r.len()).zip(r) {
        for (element, b) in row.iter_mut().zip(r) {
            *element += weight * a * b;
        }
    }
}

/// The lower Cholesky factor; `None` where the matrix is not positive definite.
pub(crate) fn cholesky(matrix: &[f64], k: usize) -> Option<Vec<f64>> {
    let mut factor = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|l| factor[i * k + l] * factor[j * k + l]).sum();
            let left = matrix[i * k + j] - sum;
            factor[i * k + j] = if i == j {
                if left.is_nan() || left <= 0.0 {
                    return None;
                }
                left.sqrt()
            } else {
                left / factor[j * k + j]
            };
        }
    }
    Some(factor)
}

/// Inverses of many symmetric matrices, one after another. Every loop adds a multiple of a row to another, so that wide registers take it.
pub(crate) struct Inversion {
    k: usize,
    /// `U` of `T = U^T U`, upper triangle.
    upper: Vec<f64>,
    /// `U^-T`, lower triangle.
    lower: Vec<f64>,
    /// `T^-1`.
    pub(crate) inverse: Vec<f64>,
}

impl Inversion {
    pub(crate) fn new(k: usize) -> Self {
        let zeros = || vec![0.0; k * k];
        Self {
            k,
            upper: zeros(),
            lower: zeros(),
            inverse: zeros(),
        }
    }

    /// Inverts `T`; `ln det T`, or `None` where it is not positive definite.
    #[inline(always)]
    pub(crate) fn of(&mut self, matrix: &[f64]) -> Option<f64> {
        let (k, mut log_det) = (self.k, 0.0);
        self.upper.copy_from_slice(matrix);
        for i in 0..k {
            let (above, from) = self.upper.split_at_mut(i * k);
            for row in above.chunks_exact(k) {
                add_scaled(&mut from[i..k], -row[i], &row[i..]);
            }
            let pivot = from[i];
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            log_det += pivot.ln();
            from[i..k].iter_mut().for_each(|u| *u /= pivot.sqrt());
        }
        self.inverse.fill(0.0);
        for i in 0..k {
            let (above, from) = self.lower.split_at_mut(i * k);
            let row = &mut from[..=i];
            row.fill(0.0);
            row[i] = 1.0;
            for (l, before) in above.chunks_exact(k).enumerate() {
                add_scaled(row, -self.upper[l * k + i], &before[..=l]);
            }
            let root = self.upper[i * (k + 1)];
            row.iter_mut().for_each(|y| *y /= root);
            for (at, sums) in self.inverse.chunks_exact_mut(k).take(i + 1).enumerate() {
                add_scaled(sums, row[at], &row[..=at]);
            }
        }
        for i in 0..k {
            for j in 0..i {
                self.inverse[j * k + i] = self.inverse[i * k + j];
            }
        }
        Some(log_det)
    }
}

/// `a += factor b`, as far as both go.
#[inline(always)]
fn add_scaled(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

/// `A B`.
pub(crate) fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    (0..k * k)
        .map(|at| (0..k).map(|l| a[at / k * k + l] * b[l * k + at % k]).sum())
        .collect()
}

/// `A^T`.
pub(crate) fn transposed(a: &[f64], k: usize) -> Vec<f64> {
    (0..k * k).map(|at| a[at % k * k + at / k]).collect()
}

/// `a . b`.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brute_force::{Numbers, inverse};

    #[test]
    fn inverses_and_determinants_are_those_of_elimination() {
        let mut numbers = Numbers::new(23);
        for k in [1, 2, 3, 8, 25] {
            let mut inversion = Inversion::new(k);
            for _ in 0..3 {
                let mut matrix: Vec<f64> = (0..k * k).map(|at| if at % (k + 1) == 0 { 0.1 } else { 0.0 }).collect();
                for _ in 0..k {
                    let v: Vec<f64> = (0..k).map(|_| numbers.normal()).collect();
                    add_outer(&mut matrix, &v, 1.0);
                }
                let (expected, log_det) = inverse(&matrix);
                let found = inversion.of(&matrix).unwrap();
                assert!((found - log_det).abs() < 1e-11 * k as f64, "{k}: {found} {log_det}");
                for (found, expected) in inversion.inverse.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-10 * (1.0 + expected.abs()), "{k}");
                }
                matrix[k * k - 1] = -1.0;
                assert_eq!(inversion.of(&matrix), None);
            }
        }
    }

    #[test]
    fn a_factor_times_its_transpose_is_the_matrix() {
        let a = [4.0, 1.0, 0.5, 1.0, 3.0, -0.2, 0.5, -0.2, 2.0];
        let factor = cholesky(&a, 3).unwrap();
        let back = product(&factor, &transposed(&factor, 3), 3);
        assert!(back.iter().zip(&a).all(|(x, y)| (x - y).abs() < 1e-13));
        assert!(cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
    }
}
