use std::sync::atomic::Ordering;

use faer::MatMut;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::blocks::inner_block;
use crate::gemm::{Start, multiply_by};
use crate::self_check::largest_error;

#[path = "amx_emulator.rs"]
mod emulator;

/// Whether the machine code can run here: on the CPU's own tiles (`Some(false)`), or emulated (`Some(true)`).
fn tiles_here() -> Option<bool> {
    if is_granted() {
        return Some(false);
    }
    if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")) {
        eprintln!("skipped: operands are packed with AVX-512, which this CPU has not");
        return None;
    }
    emulator::install();
    Some(true)
}

fn draw(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn made(
    tile: &Tile<f32>,
    start: Start<'_, f32>,
    c: &[f32],
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
    threads: usize,
) -> Vec<f32> {
    let mut out = c.to_vec();
    let dst = MatMut::from_row_major_slice_mut(&mut out, a.nrows(), b.ncols());
    multiply_by(tile, dst, start, a, b, threads);
    out
}

#[test]
fn products_are_within_their_bounds() {
    let Some(emulated) = tiles_here() else { return };
    let before = emulator::EMULATED.load(Ordering::Relaxed);
    let (three, one) = (largest_error(&three()), largest_error(&one()));
    assert!(three > 0.0 && three < 1e-4, "{three}");
    assert!(one > 1e-4 && one < 2e-2, "{one}");
    assert_eq!(emulator::EMULATED.load(Ordering::Relaxed) > before, emulated);
}

/// The nearest bf16 and the nearest to the rest, written down once more.
fn parts(x: f32) -> [u16; 2] {
    let nearest = |x: f32| {
        let below = x.to_bits() & 0xffff_0000;
        let above = below.wrapping_add(0x1_0000);
        let gap = |bits: u32| (f64::from(f32::from_bits(bits)) - f64::from(x)).abs();
        let even = |bits: u32| bits >> 16 & 1 == 0;
        let up = gap(above) < gap(below) || gap(above) == gap(below) && even(above);
        if up { above } else { below }
    };
    let hi = nearest(x);
    [(hi >> 16) as u16, (nearest(x - f32::from_bits(hi)) >> 16) as u16]
}

/// What the tiles should give, element by element, from the matrices themselves.
fn by_definition(start: f32, a: &[f32], b: &[f32], orders: &[[usize; 2]]) -> f32 {
    let mut sum = start;
    for (a, b) in a.chunks(STEP).zip(b.chunks(STEP)) {
        let (mut a, mut b) = (a.to_vec(), b.to_vec());
        a.resize(STEP, 0.0);
        b.resize(STEP, 0.0);
        for [left, right] in orders {
            let pairs = a.chunks(2).zip(b.chunks(2)).map(|(a, b)| {
                (
                    [parts(a[0])[*left], parts(a[1])[*left]],
                    [parts(b[0])[*right], parts(b[1])[*right]],
                )
            });
            sum = emulator::dot(sum, pairs);
        }
    }
    sum
}

#[test]
fn the_machine_code_does_what_the_manual_says() {
    if tiles_here() != Some(true) {
        return;
    }
    for (m, k, n) in [(1, 1, 1), (31, 33, 65), (32, 128, 32), (40, 200, 50), (17, 1100, 3)] {
        assert!(k < 2 * inner_block::<f32>());
        let (a, b, c) = (draw(m * k, 1), draw(k * n, 2), draw(m * n, 3));
        let (left, right) = (
            MatRef::from_row_major_slice(&a, m, k),
            MatRef::from_row_major_slice(&b, k, n),
        );
        for (tile, orders) in [(three(), &[[0, 1], [0, 0], [1, 0]][..]), (one(), &[[0, 0]])] {
            let expected: Vec<f32> = (0..m * n)
                .map(|at| {
                    let column: Vec<f32> = (0..k).map(|l| b[l * n + at % n]).collect();
                    by_definition(c[at], &a[at / n * k..][..k], &column, orders)
                })
                .collect();
            for threads in [1, 3] {
                let found = made(&tile, Start::Kept, &c, left, right, threads);
                assert!(found == expected, "{m} {k} {n} on {threads} threads");
            }
        }
    }
}

#[test]
fn threads_layouts_and_starts() {
    if tiles_here().is_none() {
        return;
    }
    let (m, k, n) = (70, 150, 300);
    let (a, b, row) = (draw(m * k, 1), draw(k * n, 2), draw(n, 3));
    let left = MatRef::from_row_major_slice(&a, m, k);
    let right = MatRef::from_row_major_slice(&b, k, n);
    let mut turned = vec![0.0; k * n];
    MatMut::from_column_major_slice_mut(&mut turned, k, n).copy_from(right);
    let turned = MatRef::from_column_major_slice(&turned, k, n);
    let zero = vec![0.0; m * n];
    let first = made(&three(), Start::Zero, &zero, left, right, 1);
    for threads in [1, 2, 3, 8] {
        assert!(
            made(&three(), Start::Zero, &zero, left, turned, threads) == first,
            "{threads}"
        );
    }
    let with_row = made(&three(), Start::Row(&row), &zero, left, right, 2);
    let worst = with_row
        .iter()
        .zip(&first)
        .enumerate()
        .map(|(at, (x, y))| (x - y - row[at % n]).abs());
    assert!(worst.fold(0.0, f32::max) < 1e-5);
}

#[test]
fn what_is_not_finite_stays_so_and_stays_in_its_place() {
    if tiles_here().is_none() {
        return;
    }
    let (m, k, n) = (33, 40, 34);
    let (mut a, mut b) = (draw(m * k, 1), draw(k * n, 2));
    a[5 * k + 39] = f32::NAN;
    b[17 * n + 33] = f32::INFINITY;
    let (left, right) = (
        MatRef::from_row_major_slice(&a, m, k),
        MatRef::from_row_major_slice(&b, k, n),
    );
    for tile in [three(), one()] {
        let out = made(&tile, Start::Zero, &vec![0.0; m * n], left, right, 1);
        for (at, value) in out.iter().enumerate() {
            assert_eq!(value.is_finite(), at / n != 5 && at % n != 33, "{} {}", at / n, at % n);
        }
    }
}
