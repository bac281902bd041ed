//! Against the definition, and against faer's reduction in one stage.

use faer::Side;

use super::*;
use crate::brute_force::Numbers;

/// Of any symmetric matrix: no eigenvalue is set to 0.
fn symmetric(matrix: &Matrix, block: &str) -> Result<(Vec<f64>, Vec<f64>), PosteriorError> {
    pairs(matrix.clone(), block, Factor::Dense, 1)
}

fn gram(n: usize, rank: usize, seed: u64) -> Matrix {
    let mut numbers = Numbers::new(seed);
    let x: Vec<f64> = (0..rank * n).map(|_| numbers.next()).collect();
    let mut values = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            values[i * n + j] = (0..rank).map(|r| x[r * n + i] * x[r * n + j]).sum();
        }
    }
    Matrix {
        rows: n,
        cols: n,
        values,
    }
}

#[test]
fn the_factors_multiply_back_and_no_eigenvalue_is_negative() {
    for (n, rank) in [(1, 1), (5, 9), (40, 7), (150, 300)] {
        let matrix = gram(n, rank, n as u64);
        let pairs = decompose(matrix.clone(), "layers.0", Factor::KronA, 2).unwrap();
        assert!(pairs.values.iter().all(|&v| v >= 0.0));
        assert!(pairs.values.is_sorted());
        let scale = pairs.values[n - 1];
        let alone = eigenvalues(&matrix, "layers.0", Factor::Dense, 2).unwrap();
        for (one, other) in alone.values.iter().zip(&pairs.values) {
            assert!((one - other).abs() < 1e-14 * n as f64 * scale);
        }
        for i in 0..n {
            for j in 0..n {
                let back: f64 = (0..n)
                    .map(|k| pairs.vectors[i * n + k] * pairs.values[k] * pairs.vectors[j * n + k])
                    .sum();
                let found = matrix.values[i * n + j];
                assert!((back - found).abs() < 1e-13 * n as f64 * scale);
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let matrix = gram(600, 900, 8);
    let one = decompose(matrix.clone(), "layers.0", Factor::KronA, 1).unwrap();
    let alone = eigenvalues(&matrix, "layers.0", Factor::Dense, 1).unwrap();
    for threads in [0, 2, 5] {
        assert!(alone == eigenvalues(&matrix, "layers.0", Factor::Dense, threads).unwrap());
        let more = decompose(matrix.clone(), "layers.0", Factor::KronA, threads).unwrap();
        assert!(one == more, "{threads} threads");
    }
}

#[test]
fn what_is_no_sum_of_squares_is_refused() {
    let matrix = Matrix {
        rows: 2,
        cols: 2,
        values: vec![1.0, 2.0, 2.0, 1.0],
    };
    let error = decompose(matrix, "layers.0", Factor::KronG, 1).unwrap_err();
    assert!(matches!(error, PosteriorError::Indefinite { .. }));
    assert!(error.to_string().contains("kron_g of block layers.0"));
}

#[test]
fn rounding_below_zero_is_clipped_and_counted() {
    let matrix = Matrix {
        rows: 2,
        cols: 2,
        values: vec![1.0, 0.0, 0.0, -1e-12],
    };
    let pairs = decompose(matrix, "layers.0", Factor::KronG, 1).unwrap();
    assert_eq!(pairs.values, [0.0, 1.0]);
    assert_eq!(pairs.clipped, 1);
    assert!((pairs.most_negative + 1e-12).abs() < 1e-15);
}

#[test]
fn transposing_twice_changes_nothing() {
    let n = 71;
    let start: Vec<f64> = (0..n * n).map(|i| i as f64).collect();
    let mut values = start.clone();
    transpose_square(&mut values, n);
    assert_eq!(values[1], start[n]);
    assert_eq!(values[70 * n + 3], start[3 * n + 70]);
    transpose_square(&mut values, n);
    assert_eq!(values, start);
}

/// The largest element of `A V - V L`, in units of `n eps |A|`, and of `V^T V - I`, in units of `n eps`.
fn errors(matrix: &Matrix, values: &[f64], vectors: &[f64]) -> (f64, f64) {
    let n = matrix.rows;
    let a = MatRef::from_row_major_slice(&matrix.values, n, n);
    let v = MatRef::from_row_major_slice(vectors, n, n);
    let (mut residual, mut gram) = (a * v, v.transpose() * v);
    for j in 0..n {
        for i in 0..n {
            residual[(i, j)] -= v[(i, j)] * values[j];
        }
        gram[(j, j)] -= 1.0;
    }
    let largest = values.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let unit = n as f64 * f64::EPSILON;
    (residual.norm_max() / (unit * largest), gram.norm_max() / unit)
}

/// Mean products of spectra near 1 with lines and photon noise, and the 1 of the bias.
fn factor_of_spectra(n: usize, stars: usize) -> Matrix {
    let mut numbers = Numbers::new(31);
    let lines: Vec<f64> = (0..6 * n).map(|_| 0.02 * numbers.next()).collect();
    let mut x = vec![1.0; stars * n];
    for star in x.chunks_exact_mut(n) {
        let strengths: Vec<f64> = (0..6).map(|_| numbers.next()).collect();
        let noise = 0.003 + 0.02 * numbers.next().abs();
        for (j, flux) in star[..n - 1].iter_mut().enumerate() {
            let line: f64 = strengths.iter().enumerate().map(|(l, s)| s * lines[l * n + j]).sum();
            *flux += line + noise * numbers.next();
        }
    }
    let x = MatRef::from_row_major_slice(&x, stars, n);
    let sum = x.transpose() * x;
    Matrix {
        rows: n,
        cols: n,
        values: (0..n * n).map(|i| sum[(i / n, i % n)] / stars as f64).collect(),
    }
}

fn from_fn(n: usize, f: impl Fn(usize, usize) -> f64) -> Matrix {
    Matrix {
        rows: n,
        cols: n,
        values: (0..n * n).map(|i| f((i / n).max(i % n), (i / n).min(i % n))).collect(),
    }
}

fn one_stage(matrix: &Matrix) -> Vec<f64> {
    let a = MatRef::from_row_major_slice(&matrix.values, matrix.rows, matrix.rows);
    a.self_adjoint_eigenvalues(Side::Lower).unwrap()
}

#[test]
fn two_stages_find_what_one_does_at_every_edge_of_their_blocks() {
    for n in [256, 257, 319, 320, 321, 322, 384, 385, 511, 577] {
        let matrix = gram(n, n + 40, n as u64);
        let (values, vectors) = symmetric(&matrix, "a block").unwrap();
        let (residual, orthogonality) = errors(&matrix, &values, &vectors);
        assert!(residual < 0.2 && orthogonality < 0.2, "{n}: {residual} {orthogonality}");
        let alone = eigenvalues(&matrix, "a block", Factor::Dense, 2).unwrap().values;
        for ((one, two), other) in one_stage(&matrix).iter().zip(&values).zip(&alone) {
            let limit = 2.0 * n as f64 * f64::EPSILON * values[n - 1];
            assert!((one - two).abs() < limit && (one - other).abs() < limit, "{n}");
        }
    }
}

#[test]
fn a_sum_over_fewer_spectra_than_rows_ends_early_and_is_as_exact() {
    let n = 700;
    // none, one, less than a panel, whole panels, and into the last panel but one; with and without a multiple of the identity
    for rank in [0, 1, 50, 128, 300, 580] {
        for ridge in [0.0, 1e-3, 1.0] {
            let mut matrix = match rank {
                580 => factor_of_spectra(n, rank),
                _ => gram(n, rank, 3),
            };
            (0..n).for_each(|i| matrix.values[i * n + i] += ridge);
            let (values, vectors) = symmetric(&matrix, "a block").unwrap();
            let (residual, orthogonality) = errors(&matrix, &values, &vectors);
            assert!(
                residual < 0.2 && orthogonality < 0.2,
                "{rank} {ridge}: {residual} {orthogonality}"
            );
            let alone = eigenvalues(&matrix, "a block", Factor::Dense, 2).unwrap().values;
            let limit = 2.0 * n as f64 * f64::EPSILON * values[n - 1];
            for (i, ((one, two), other)) in one_stage(&matrix).iter().zip(&values).zip(&alone).enumerate() {
                assert!(
                    (one - two).abs() <= limit && (one.max(0.0) - other).abs() <= limit,
                    "{rank} {ridge}: {one} {two} {other}"
                );
                if i + rank < n {
                    assert!((two - ridge).abs() <= limit, "{rank} {ridge}: {two}");
                }
            }
        }
    }
}

#[test]
fn a_reduction_to_a_band_ends_with_the_rank() {
    for (n, rank) in [(700, 100), (1100, 300)] {
        for ridge in [0.0, 1.0] {
            let mut matrix = gram(n, rank, 9).values;
            (0..n).for_each(|i| matrix[i * n + i] += ridge);
            let panels = band::to_band(&mut matrix, n, 2).len();
            // One more where the first panel of rounding is a little large.
            let least = rank.div_ceil(band::BANDWIDTH);
            assert!((least..=least + 1).contains(&panels), "{n} {rank} {ridge}: {panels}");
        }
    }
}

#[test]
fn a_matrix_of_two_parts_is_that_of_each() {
    // The fifth panel is 0, and others follow.
    let (half, n) = (320, 640);
    let (one, two) = (gram(half, 350, 5), gram(half, 340, 6));
    let matrix = from_fn(n, |i, j| match (i < half, j < half) {
        (true, true) => one.values[i * half + j],
        (false, false) => two.values[(i - half) * half + j - half],
        _ => 0.0,
    });
    let (values, vectors) = symmetric(&matrix, "a block").unwrap();
    let (residual, orthogonality) = errors(&matrix, &values, &vectors);
    assert!(residual < 0.2 && orthogonality < 0.2, "{residual} {orthogonality}");
    let mut apart = [one_stage(&one), one_stage(&two)].concat();
    apart.sort_by(f64::total_cmp);
    for (one, two) in apart.iter().zip(&values) {
        assert!((one - two).abs() < 2.0 * n as f64 * f64::EPSILON * values[n - 1]);
    }
}

#[test]
fn what_is_not_finite_is_refused() {
    for (row, column) in [(0, 0), (150, 149), (299, 3)] {
        for value in [f64::NAN, f64::INFINITY] {
            let mut matrix = gram(300, 310, 4);
            matrix.values[row * 300 + column] = value;
            matrix.values[column * 300 + row] = value;
            let alone = eigenvalues(&matrix, "a block", Factor::Dense, 2);
            assert!(
                matches!(alone, Err(PosteriorError::Eigenvalues { .. })),
                "{row} {column}"
            );
            let pairs = symmetric(&matrix, "a block");
            assert!(
                matches!(pairs, Err(PosteriorError::Eigenvalues { .. })),
                "{row} {column}"
            );
        }
    }
}

#[test]
fn what_is_small_but_no_rounding_is_kept() {
    // Two halves, coupled by what is a thousand times rounding: where it is dropped, all eigenvalues, of both halves, are wrong by as much.
    let n = 512;
    let coupling = 1e4 * f64::EPSILON;
    let matrix = from_fn(n, |i, j| match (i < 256, j < 256) {
        (true, true) | (false, false) if i == j => 1.0,
        (false, true) if i == j + 256 => coupling,
        _ => 0.0,
    });
    let (values, vectors) = symmetric(&matrix, "a block").unwrap();
    for (i, value) in values.iter().enumerate() {
        let expected = if i < 256 { 1.0 - coupling } else { 1.0 + coupling };
        assert!((value - expected).abs() < 20.0 * f64::EPSILON, "{i}: {value}");
    }
    let (residual, orthogonality) = errors(&matrix, &values, &vectors);
    assert!(residual < 0.2 && orthogonality < 0.2, "{residual} {orthogonality}");
}

#[test]
fn small_eigenvalues_of_a_factor_of_spectra_are_as_good_as_in_one_stage() {
    let n = 700;
    let matrix = factor_of_spectra(n, 790);
    let pairs = decompose(matrix.clone(), "layers.0", Factor::KronA, 2).unwrap();
    assert_eq!(pairs.clipped, 0);
    assert!(pairs.values[0] < 1e-7 * pairs.values[n - 1]);
    let (residual, orthogonality) = errors(&matrix, &pairs.values, &pairs.vectors);
    assert!(residual < 0.05 && orthogonality < 0.1, "{residual} {orthogonality}");
    for (one, two) in one_stage(&matrix).iter().zip(&pairs.values) {
        assert!((one - two).abs() < 20.0 * f64::EPSILON * pairs.values[n - 1]);
    }
}

#[test]
fn equal_and_nearly_equal_eigenvalues_keep_orthogonal_vectors() {
    let n = 400;
    let wilkinson = |i: usize, j: usize| match i - j {
        0 => ((i % 21) as f64 - 10.0).abs(),
        1 if i.is_multiple_of(21) => 1e-8,
        1 => 1.0,
        _ => 0.0,
    };
    let cases = [
        ("zero", from_fn(n, |_, _| 0.0)),
        ("one", from_fn(n, |i, j| if i == j { 1.0 } else { 0.0 })),
        ("rank one", from_fn(n, |i, j| (1 + i) as f64 * (1 + j) as f64)),
        ("two values", from_fn(n, |i, j| if i == j { 3.0 } else { 1.0 })),
        ("glued Wilkinson matrices", from_fn(n, wilkinson)),
        (
            "second differences",
            from_fn(n, |i, j| [2.0, -1.0, 0.0][(i - j).min(2)]),
        ),
        (
            "graded",
            from_fn(n, |i, j| (-0.1 * (i + j) as f64).exp2() / (1 + i - j) as f64),
        ),
        ("huge", from_fn(n, |i, j| 1e200 / (1 + i + j) as f64)),
        ("tiny", from_fn(n, |i, j| 1e-200 / (1 + i + j) as f64)),
    ];
    for (name, matrix) in cases {
        let (values, vectors) = symmetric(&matrix, "a block").unwrap();
        let (residual, orthogonality) = errors(&matrix, &values, &vectors);
        assert!(values.is_sorted());
        // Where all eigenvalues are equal, one vector is rotated n times.
        assert!(
            residual < 0.5 && orthogonality < 3.0,
            "{name}: {residual} {orthogonality}"
        );
    }
}

#[test]
fn eigenvalues_of_second_differences_by_formula() {
    let n = 300;
    let matrix = from_fn(n, |i, j| [2.0, -1.0, 0.0][(i - j).min(2)]);
    let pairs = decompose(matrix, "layers.0", Factor::KronA, 2).unwrap();
    for (k, value) in pairs.values.iter().enumerate() {
        let angle = std::f64::consts::PI * (k + 1) as f64 / (2 * (n + 1)) as f64;
        assert!((value - 4.0 * angle.sin().powi(2)).abs() < 1e-14);
    }
}
