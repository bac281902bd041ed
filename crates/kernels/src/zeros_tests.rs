use faer::MatMut;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gemm::{Start, multiply_packed, multiply_packed_in_groups};
use crate::{Element, Packed, Path, Products, RowGroups};
use faer::MatRef;

/// `[rows * groups, inner]`, of which each group is 0 at a share of the inner indices, and at others in some rows alone.
fn with_zeros<T: From<f32>>(groups: usize, rows: usize, inner: usize, share: f64, seed: u64) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let off: Vec<bool> = (0..groups * inner).map(|_| rng.random_bool(share)).collect();
    let number = |at: usize| {
        let is_off = off[at / inner % groups * inner + at % inner] || rng.random_bool(0.1);
        T::from(if is_off { 0.0 } else { rng.random_range(-1.0f32..1.0) })
    };
    (0..rows * groups * inner).map(number).collect()
}

fn is_the_dense_product<T: Element + From<f32> + PartialEq + std::fmt::Debug>() {
    for (groups, rows, inner, cols) in [
        (5, 2, 300, 100),
        (7, 3, 1, 64),
        (7, 3, 2100, 203),
        (40, 3, 700, 512),
        (3, 4, 256, 65),
        (2, 5, 257, 90),
        (4, 6, 1030, 97),
        (3, 7, 90, 130),
        (2, 13, 300, 70),
        (1, 31, 520, 64),
    ] {
        for share in [0.4, 0.9, 1.0] {
            let lhs = with_zeros::<T>(groups, rows, inner, share, 1);
            let (rhs, start) = (
                with_zeros::<T>(1, inner, cols, 0.0, 2),
                with_zeros::<T>(1, groups * rows + 1, cols, 0.0, 3),
            );
            let (row, kept) = start.split_at(cols);
            let lhs = MatRef::from_row_major_slice(&lhs, groups * rows, inner);
            for path in Path::EXACT.into_iter().filter(|path| path.is_available()) {
                let rhs = Packed::new(
                    MatRef::from_row_major_slice(&rhs, inner, cols),
                    Products { path, threads: 1 },
                );
                for start in [Start::Zero, Start::Kept, Start::Row(row)] {
                    let made = |by_column: bool, make: &dyn Fn(MatMut<'_, T>)| {
                        let mut out = vec![T::ZERO; kept.len()];
                        let mut dst = match by_column {
                            true => MatMut::from_column_major_slice_mut(&mut out, groups * rows, cols),
                            false => MatMut::from_row_major_slice_mut(&mut out, groups * rows, cols),
                        };
                        dst.copy_from(MatRef::from_row_major_slice(kept, groups * rows, cols));
                        make(dst);
                        out
                    };
                    for by_column in [false, true] {
                        let dense = made(by_column, &|dst| multiply_packed(dst, start, lhs, &rhs, 1));
                        for threads in [1, 2, 5] {
                            for of in [RowGroups::Apart(groups), RowGroups::Together(rows)] {
                                let found = made(by_column, &|dst| {
                                    multiply_packed_in_groups(dst, start, lhs, of, &rhs, threads);
                                });
                                assert_eq!(found, dense, "{path} {of:?} {groups} {inner} {cols} {share} {start:?}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn is_the_dense_product_in_f32() {
    is_the_dense_product::<f32>();
}

#[test]
fn is_the_dense_product_in_f64() {
    is_the_dense_product::<f64>();
}

/// Whether zeros are left out, and what that makes of numbers that are none.
#[test]
fn zeros_are_left_out_where_that_is_faster() {
    let (groups, inner, cols) = (6, 600, 80);
    // What is 0 in the left side hides what is not finite in the right one: so one sees that it was left out.
    let mut rhs = with_zeros::<f32>(1, inner, cols, 0.0, 2);
    rhs[5 * cols + 7] = f32::NAN;
    let rhs = |path| {
        Packed::new(
            MatRef::from_row_major_slice(&rhs, inner, cols),
            Products { path, threads: 1 },
        )
    };
    let nans_of = |lhs: &[f32], groups: RowGroups, rhs: &Packed<f32>| {
        let mut out = vec![0.0; lhs.len() / inner * cols];
        let dst = MatMut::from_row_major_slice_mut(&mut out, lhs.len() / inner, cols);
        let lhs = MatRef::from_row_major_slice(lhs, lhs.len() / inner, inner);
        multiply_packed_in_groups(dst, Start::Zero, lhs, groups, rhs, 1);
        out.iter().filter(|x| x.is_nan()).count()
    };
    let nans = |lhs: &[f32], groups: usize, rhs: &Packed<f32>| nans_of(lhs, RowGroups::Apart(groups), rhs);
    let exact = rhs(Path::best());
    for (share, rows, expected) in [(0.5, 3, 0), (0.2, 3, 18), (0.5, 1, 6)] {
        let mut lhs = with_zeros::<f32>(groups, rows, inner, share, 4);
        lhs.chunks_exact_mut(inner).for_each(|row| row[5] = 0.0);
        assert_eq!(nans(&lhs, groups, &exact), expected, "{share} {rows}");
        // The same rows, those of a group behind one another.
        let together: Vec<f32> = (0..groups * rows)
            .map(|row| row % rows * groups + row / rows)
            .flat_map(|row| &lhs[row * inner..(row + 1) * inner])
            .copied()
            .collect();
        let found = nans_of(&together, RowGroups::Together(rows), &exact);
        assert_eq!(found, expected, "{share} {rows}");
        assert_eq!(nans(&together, groups, &exact), groups * rows, "{share} {rows}");
    }
    let mut lhs = with_zeros::<f32>(groups, 3, inner, 0.5, 4);
    lhs[2 * inner + 9] = f32::NAN;
    lhs.chunks_exact_mut(inner).for_each(|row| row[5] = 0.0);
    assert_eq!(nans(&lhs, groups, &exact), cols);
    if let Ok(path) = Path::bf16x3() {
        assert!(nans(&lhs, groups, &rhs(path)) > cols);
    }
}
