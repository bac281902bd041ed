//! Arithmetic on `[K, K]` matrices of labels, row-major: too small for a library's blocking to pay.

/// `matrix += weight r r^T`.
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
    cholesky_into(matrix, k, &mut factor).then_some(factor)
}

/// The same into the lower triangle of a matrix at hand; whether there is one.
pub(crate) fn cholesky_into(matrix: &[f64], k: usize, factor: &mut [f64]) -> bool {
    for i in 0..k {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|l| factor[i * k + l] * factor[j * k + l]).sum();
            let left = matrix[i * k + j] - sum;
            factor[i * k + j] = if i == j {
                if left.is_nan() || left <= 0.0 {
                    return false;
                }
                left.sqrt()
            } else {
                left / factor[j * k + j]
            };
        }
    }
    true
}

/// `(L L^T)^-1 B` for a lower factor L and a matrix B, both `[K, K]`.
pub(crate) fn solve_columns(factor: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let mut x = b.to_vec();
    solve_columns_in_place(factor, &mut x, k);
    x
}

/// The same in place of B.
pub(crate) fn solve_columns_in_place(factor: &[f64], x: &mut [f64], k: usize) {
    for column in 0..k {
        for i in 0..k {
            let sum: f64 = (0..i).map(|l| factor[i * k + l] * x[l * k + column]).sum();
            x[i * k + column] = (x[i * k + column] - sum) / factor[i * k + i];
        }
        for i in (0..k).rev() {
            let sum: f64 = (i + 1..k).map(|l| factor[l * k + i] * x[l * k + column]).sum();
            x[i * k + column] = (x[i * k + column] - sum) / factor[i * k + i];
        }
    }
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

    #[test]
    fn a_solved_system_gives_its_right_side_back() {
        let a = [4.0, 1.0, 0.5, 1.0, 3.0, -0.2, 0.5, -0.2, 2.0];
        let b = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0];
        let x = solve_columns(&cholesky(&a, 3).unwrap(), &b, 3);
        for i in 0..3 {
            for j in 0..3 {
                let product: f64 = (0..3).map(|l| a[i * 3 + l] * x[l * 3 + j]).sum();
                assert!((product - b[i * 3 + j]).abs() < 1e-13);
            }
        }
        assert!(cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
        let factor = cholesky(&a, 3).unwrap();
        let back = product(&factor, &transposed(&factor, 3), 3);
        assert!(back.iter().zip(&a).all(|(x, y)| (x - y).abs() < 1e-13));
    }
}
