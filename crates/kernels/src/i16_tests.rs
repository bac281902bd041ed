use faer::MatMut;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::gemm::{Start, multiply, multiply_by, multiply_packed};
use crate::packed::Packed;
use crate::path::Path;
use crate::products::Products;

const WHOLE: Products = Products {
    path: Path::I16,
    threads: 2,
};

fn tiles() -> Vec<Tile<f32>> {
    let mut tiles = vec![plain()];
    #[cfg(target_arch = "x86_64")]
    tiles.extend(x86_i16::tiles());
    tiles
}

fn draw(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0_f32..1.0).powi(3)).collect()
}

fn product(tile: &Tile<f32>, start: Start<'_, f32>, dst: &mut [f32], a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let to = MatMut::from_row_major_slice_mut(dst, a.nrows(), b.ncols());
    multiply_by(tile, to, start, a, b, 2);
}

/// Sums of products of whole numbers in i64, each chain rounded to f32 and added, times both units.
fn by_definition(a: MatRef<'_, f32>, b: MatRef<'_, f32>) -> Vec<f32> {
    let (of_a, of_b) = (units_of_rows(a), units_of_rows(b.transpose()));
    let whole = |x: f32, unit: f32| {
        let q = (x * unit.recip()).round_ties_even();
        assert!(q.abs() <= 32767.0);
        q as i64
    };
    let mut out = Vec::new();
    for i in 0..a.nrows() {
        for j in 0..b.ncols() {
            let mut sum = 0.0;
            for from in (0..a.ncols()).step_by(CHAIN) {
                let chain = from..a.ncols().min(from + CHAIN);
                let terms = chain.map(|k| whole(a[(i, k)], of_a[i]) * whole(b[(k, j)], of_b[j]));
                let chain = terms.sum::<i64>();
                assert!(i32::try_from(chain).is_ok());
                sum += chain as f32;
            }
            out.push(sum * of_a[i] * of_b[j]);
        }
    }
    out
}

const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (5, 7, 1),
    (14, 2, 32),
    (13, 256, 31),
    (29, 257, 65),
    (3, 1100, 90),
    (65, 1030, 150),
    (0, 3, 2),
    (2, 3, 0),
];

#[test]
fn every_tile_is_the_definition() {
    for (m, k, n) in SHAPES {
        let (a, b, c) = (draw(m * k, 1), draw(k * n, 2), draw(m * n + n, 3));
        let (row, c) = c.split_at(n);
        let mut a_turned = vec![0.0; m * k];
        let by_row = MatRef::from_row_major_slice(&a, m, k);
        MatMut::from_column_major_slice_mut(&mut a_turned, m, k).copy_from(by_row);
        let by_col = MatRef::from_column_major_slice(&a_turned, m, k);
        let b = MatRef::from_row_major_slice(&b, k, n);
        let expected = by_definition(by_row, b);
        let plus = |before: &dyn Fn(usize) -> f32| -> Vec<f32> {
            expected.iter().enumerate().map(|(at, x)| before(at) + x).collect()
        };
        for tile in tiles() {
            for a in [by_row, by_col] {
                let mut out = c.to_vec();
                product(&tile, Start::Zero, &mut out, a, b);
                assert_eq!(out, expected, "{m} {k} {n}");
                let mut out = c.to_vec();
                product(&tile, Start::Kept, &mut out, a, b);
                assert_eq!(out, plus(&|at| c[at]), "{m} {k} {n}");
                let mut out = c.to_vec();
                product(&tile, Start::Row(row), &mut out, a, b);
                assert_eq!(out, plus(&|at| row[at % n]), "{m} {k} {n}");
            }
        }
        let packed = Packed::new(b, WHOLE);
        assert_eq!(packed.units().unwrap(), units_of_rows(b.transpose()));
        let mut out = c.to_vec();
        let to = MatMut::from_row_major_slice_mut(&mut out, m, n);
        multiply_packed(to, Start::Zero, by_row, &packed, 2);
        assert_eq!(out, expected, "{m} {k} {n} packed");
        let mut out = c.to_vec();
        multiply(
            MatMut::from_row_major_slice_mut(&mut out, m, n),
            Start::Kept,
            by_row,
            b,
            WHOLE,
        );
        assert_eq!(out, plus(&|at| c[at]), "{m} {k} {n}");
    }
}

/// Rows that make the largest sums there are: all alike, alone, in one pair, in every second place.
#[test]
fn no_sum_overflows() {
    const K: usize = 700;
    let patterns: [fn(usize) -> f32; 7] = [
        |_| 1.0,
        |_| -1.0,
        |k| if k % 2 == 0 { 3e15 } else { 0.0 },
        |k| if k == 300 { -7e-20 } else { 0.0 },
        |k| if k == 300 || k == 301 { 5.0 } else { 1e-6 },
        |k| if k < 256 { 1.0 } else { -1e-3 },
        |k| (k as f32).sin(),
    ];
    let rows: Vec<f32> = patterns.iter().flat_map(|pattern| (0..K).map(pattern)).collect();
    let a = MatRef::from_row_major_slice(&rows, patterns.len(), K);
    let expected = by_definition(a, a.transpose());
    for tile in tiles() {
        let mut out = vec![0.0; expected.len()];
        product(&tile, Start::Zero, &mut out, a, a.transpose());
        assert_eq!(out, expected);
    }
    for (at, found) in expected.into_iter().enumerate() {
        let (x, y) = (a.row(at / patterns.len()), a.row(at % patterns.len()));
        let dot = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>();
        let exact = dot(&mut x.iter().zip(y.iter()).map(|(x, y)| f64::from(*x) * f64::from(*y)));
        let square = |x: faer::RowRef<'_, f32>| dot(&mut x.iter().map(|x| f64::from(*x).powi(2)));
        let size = (square(x) * square(y)).sqrt();
        assert!((f64::from(found) - exact).abs() <= 1e-3 * size, "{at}: {found} {exact}");
    }
}

#[test]
fn nothing_that_is_not_a_number_becomes_one() {
    let mut a = draw(4 * 300, 1);
    a[17] = f32::NAN;
    a[300 + 299] = f32::INFINITY;
    a[600..900].fill(0.0);
    a[900..].iter_mut().for_each(|x| *x *= 1e-41);
    let b = draw(300 * 3, 2);
    let (a, b) = (
        MatRef::from_row_major_slice(&a, 4, 300),
        MatRef::from_row_major_slice(&b, 300, 3),
    );
    for tile in tiles() {
        let mut out = vec![7.0; 12];
        product(&tile, Start::Zero, &mut out, a, b);
        assert!(out[..6].iter().all(|x| x.is_nan()), "{out:?}");
        assert!(out[6..9].iter().all(|x| *x == 0.0), "{out:?}");
        assert!(out[9..].iter().all(|x| x.abs() < 1e-35), "{out:?}");
    }
    let packed = Packed::new(a.transpose(), WHOLE);
    let units = packed.units().unwrap();
    assert!(units[0].is_nan() && units[1].is_nan() && units[2] > 0.0);
}
