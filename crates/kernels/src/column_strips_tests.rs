//! Against sums in plain loops.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Whole numbers, whose sums and products here are exact.
fn whole_numbers(len: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| f64::from(rng.random_range(-4i8..=4))).collect()
}

/// `[rows, r]`, column-major, 0 but in rows `j .. j + reach` of column j.
fn shifted(rows: usize, r: usize, reach: usize, seed: u64) -> Vec<f64> {
    let mut v = whole_numbers(rows * r, seed);
    for (j, column) in v.chunks_exact_mut(rows).enumerate() {
        for (i, value) in column.iter_mut().enumerate() {
            if i < j || i >= j + reach {
                *value = 0.0;
            }
        }
    }
    v
}

/// `z += w v^T z` of rows from `row` on, all column-major.
fn by_hand(z: &mut [f64], n: usize, row: usize, v: &[f64], w: &[f64], rows: usize) {
    for z in z.chunks_exact_mut(n) {
        let z = &mut z[row..row + rows];
        let dots: Vec<f64> = v
            .chunks_exact(rows)
            .map(|v| v.iter().zip(&*z).map(|(v, z)| v * z).sum())
            .collect();
        for (w, dot) in w.chunks_exact(rows).zip(dots) {
            z.iter_mut().zip(w).for_each(|(z, w)| *z += w * dot);
        }
    }
}

#[test]
fn updates_are_exact_on_whole_numbers_at_every_edge() {
    // rows of the columns, columns, and (first row, rows, width, reach) of two updates
    let cases = [
        (1, 1, [(0, 1, 1, 1), (0, 1, 1, 1)]),
        (9, 5, [(2, 7, 3, 5), (0, 9, 6, 4)]),
        (83, 100, [(1, 81, 18, 64), (0, 40, 1, 40)]),
        (500, 33, [(100, 400, 132, 400), (3, 193, 7, 2)]),
        (401, 17, [(0, 401, 14, 401), (200, 201, 29, 173)]),
    ];
    for path in Path::EXACT.into_iter().filter(|path| path.is_available()) {
        for (n, columns, updates) in cases {
            let start = whole_numbers(n * columns, n as u64);
            let mut expected = start.clone();
            let mut packed = Vec::new();
            for (number, (row, rows, r, reach)) in updates.into_iter().enumerate() {
                let v = shifted(rows, r, reach, number as u64);
                let w = whole_numbers(rows * r, 7 + number as u64);
                by_hand(&mut expected, n, row, &v, &w, rows);
                let matrix = |of| MatRef::from_column_major_slice(of, rows, r);
                packed.push(StripUpdate::new(path, row, matrix(&v), matrix(&w), reach));
            }
            for threads in [1, 3] {
                let mut values = start.clone();
                values.resize(ColumnStrips::room(path, n, columns), 0.0);
                let mut strips = ColumnStrips::from_columns(path, n, values, threads);
                strips.update(&packed, threads);
                let mut found = vec![f64::NAN; n * columns];
                strips.to_rows(&mut found, threads);
                for i in 0..n {
                    for j in 0..columns {
                        let (found, expected) = (found[i * columns + j], expected[j * n + i]);
                        assert_eq!(found, expected, "{path} {n} {columns}: {i} {j}");
                    }
                }
            }
        }
    }
}

#[test]
fn paths_do_not_change_a_bit() {
    let (n, columns, rows, r) = (600, 40, 500, 18);
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut draw = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f64>>();
    let (start, mut v, w) = (draw(n * columns), draw(rows * r), draw(rows * r));
    for (j, column) in v.chunks_exact_mut(rows).enumerate() {
        column[..j].fill(0.0);
    }
    let updated = |path: Path| {
        let matrix = |of| MatRef::from_column_major_slice(of, rows, r);
        let mut values = start.clone();
        values.resize(ColumnStrips::room(path, n, columns), 0.0);
        let mut strips = ColumnStrips::from_columns(path, n, values, 2);
        strips.update(&[StripUpdate::new(path, 31, matrix(&v), matrix(&w), rows)], 2);
        let mut found = vec![f64::NAN; n * columns];
        strips.to_rows(&mut found, 2);
        found
    };
    let first = updated(Path::best());
    for path in Path::EXACT.into_iter().filter(|path| path.is_available()) {
        assert_eq!(ROWS % f64::tile(path).rows, 0);
        assert!(updated(path) == first, "{path}");
    }
}

#[test]
#[should_panic(expected = "rows of an update")]
fn an_update_of_rows_that_are_not_there_is_refused() {
    let path = Path::best();
    let mut strips = ColumnStrips::from_columns(path, 4, vec![0.0; ColumnStrips::room(path, 4, 3)], 1);
    let v = MatRef::from_column_major_slice(&[1.0; 4], 4, 1);
    strips.update(&[StripUpdate::new(path, 1, v, v, 4)], 1);
}
