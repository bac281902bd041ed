//! A path's first product in a process, against f64: a wrong number is worse than a slow one.

use faer::{MatMut, MatRef};

use crate::element::sealed::Sealed;
use crate::gemm::{Start, multiply_by};
use crate::i16;
use crate::lent::alone;
use crate::path::Path;
use crate::tile::{CHAIN, Tile};

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Right,
    /// The largest error over the size of the terms, and what it may be.
    Wrong {
        error: f64,
        bound: f64,
    },
}

/// Sizes that leave partial tiles, steps and strips at every end.
const ROWS: usize = 45;
const INNER: usize = 173;
const COLS: usize = 67;

/// Multiplies two small matrices on a path whose instructions are there, on the calling thread alone: others may wait for the outcome.
pub(crate) fn self_check(path: Path) -> Outcome {
    let bound = match path {
        Path::Portable | Path::Avx2 | Path::Avx512 => 3e-6,
        Path::Avx512Bf16x3 | Path::AmxBf16x3 => 1e-4,
        Path::Avx512Bf16 | Path::AmxBf16 => 2e-2,
        Path::I16 => 0.0,
    };
    let tile = f32::tile(path);
    let error = alone(|| {
        if tile.whole {
            from_definition(&tile)
        } else {
            largest_error(&tile)
        }
    });
    if error <= bound {
        Outcome::Right
    } else {
        Outcome::Wrong { error, bound }
    }
}

/// The largest `|c_ij - sum_k a_ik b_kj| / sqrt(sum_k (a_ik b_kj)^2)` of a tile's product of fixed numbers without a pattern.
pub(crate) fn largest_error(tile: &Tile<f32>) -> f64 {
    let mut state = 1_u32;
    let mut draw = |len: usize| -> Vec<f32> {
        let mut values = Vec::with_capacity(len);
        for _ in 0..len {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            values.push((f64::from(state) / f64::from(u32::MAX) - 0.5) as f32);
        }
        values
    };
    let (a, b) = (draw(ROWS * INNER), draw(INNER * COLS));
    let (a, b) = (
        MatRef::from_row_major_slice(&a, ROWS, INNER),
        MatRef::from_row_major_slice(&b, INNER, COLS),
    );
    let mut c = vec![1.0; ROWS * COLS];
    multiply_by(
        tile,
        MatMut::from_row_major_slice_mut(&mut c, ROWS, COLS),
        Start::Kept,
        a,
        b,
        1,
    );
    let mut largest = 0.0;
    for (at, c) in c.iter().enumerate() {
        let (mut sum, mut squares) = (1.0, 1.0);
        for k in 0..INNER {
            let term = f64::from(a[(at / COLS, k)]) * f64::from(b[(k, at % COLS)]);
            sum += term;
            squares += term * term;
        }
        let error = (f64::from(*c) - sum).abs() / squares.sqrt();
        if error.is_nan() {
            return f64::INFINITY;
        }
        largest = f64::max(largest, error);
    }
    largest
}

/// How far a tile of whole numbers is from what plain Rust makes of numbers whose sums come close to the largest there may be: nowhere, or it is wrong.
fn from_definition(tile: &Tile<f32>) -> f64 {
    const CHAINS: usize = 5 * CHAIN + 21;
    // Of one size and many signs; all alike in the first row and column.
    let number = |line: usize, k: usize| 1.0 - 2.0 * f32::from(u8::from(line & k & 21 != 0));
    let a: Vec<f32> = (0..ROWS)
        .flat_map(|row| (0..CHAINS).map(move |k| number(row, k)))
        .collect();
    let b: Vec<f32> = (0..CHAINS)
        .flat_map(|k| (0..COLS).map(move |col| number(col, k)))
        .collect();
    let product = |tile: &Tile<f32>| {
        let mut c = vec![0.0; ROWS * COLS];
        multiply_by(
            tile,
            MatMut::from_row_major_slice_mut(&mut c, ROWS, COLS),
            Start::Zero,
            MatRef::from_row_major_slice(&a, ROWS, CHAINS),
            MatRef::from_row_major_slice(&b, CHAINS, COLS),
            1,
        );
        c
    };
    if product(tile) == product(&i16::plain()) {
        0.0
    } else {
        f64::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_tile_is_found_out() {
        let right = f32::tile(Path::Portable);
        assert!(largest_error(&right) < 3e-6);
        let wrong = Tile {
            multiply: f32::tile(Path::Portable).multiply,
            pack_lhs: |_, _, _, _, out| out.fill(0.25),
            ..right
        };
        assert!(largest_error(&wrong) > 0.1);
        assert_eq!(from_definition(&f32::tile(Path::I16)), 0.0);
        let wrong = Tile {
            pack_rhs: wrong.pack_lhs,
            ..i16::plain()
        };
        assert!(from_definition(&wrong) > 0.0);
    }
}
