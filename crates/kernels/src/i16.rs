//! Numbers as whole multiples of a unit, 16 bits each: `x ~ q u`, with one unit to a row of a left operand or a column of a right one.
//!
//! Products of whole numbers and their sums in 32 bits are exact, so a product has the same bits whatever instructions made it, and in whatever
//! order. Units are the smallest with which no sum can overflow: over any chain of [`CHAIN`] inner indices the q have a norm below `2^15.5`, so that a
//! sum of their products stays below `2^31` (Cauchy and Schwarz). Numbers without a pattern then have a standard deviation of some 2,900 units, and
//! rounding to a unit is off by `2^-13.3` of it: eight times less than a bf16, which takes as much room and as long.

use faer::MatRef;

use crate::element::Element;
use crate::pack::Map;
use crate::pairs;
use crate::portable;
use crate::tile::{CHAIN, GROUP, JOB, Tile};
#[cfg(target_arch = "x86_64")]
use crate::x86_i16;

/// What the norm of a chain is scaled to: rounding adds up to `sqrt(CHAIN) / 2` to it, and what comes out must stay below `2^15.5`.
const NORM: f64 = 46_330.0;

/// What the largest number is scaled to.
const LARGEST: f64 = 32_767.0;

/// The smallest unit: what is below has no more to say in f32.
const SMALLEST: f64 = 1e-36;

/// The fastest tile that this machine has.
pub(crate) fn tile() -> Tile<f32> {
    #[cfg(target_arch = "x86_64")]
    if let Some(tile) = x86_i16::tiles().next() {
        return tile;
    }
    plain()
}

const ROWS: usize = 4;
const COLS: usize = 8;

/// The tile in plain Rust.
pub(crate) fn plain() -> Tile<f32> {
    Tile {
        rows: ROWS,
        cols: COLS,
        step: 2,
        half_slots: 1,
        whole: true,
        at_once: usize::MAX,
        job: JOB,
        group: GROUP,
        multiply: |_| (ROWS, multiply),
        pack_lhs: pack::<ROWS>,
        pack_rhs: pack::<COLS>,
        ..portable::tile()
    }
}

/// Packs whole numbers, `[pair][W]`: each the nearest, ties to even.
#[inline(always)]
pub(crate) fn pack<const W: usize>(matrix: MatRef<'_, f32>, first: usize, from: usize, map: Map, out: &mut [f32]) {
    assert_eq!(map, Map::Identity, "whole numbers are packed as they are");
    pairs::pack::<W, 1>(
        matrix,
        first,
        from,
        out,
        |pair, _, w| pair * W + w,
        |x| [u32::from((x.round_ties_even() as i16).cast_unsigned())],
    );
}

/// See [`crate::tile::TileFn`].
unsafe fn multiply(inner: usize, lhs: *const f32, rhs: *const f32, c: *mut f32, stride: usize, mut add: bool) {
    // SAFETY: the caller's promise: the packed strips have this many pairs.
    let (lhs, rhs) = unsafe {
        (
            std::slice::from_raw_parts(lhs.cast::<[f32; ROWS]>(), inner / 2),
            std::slice::from_raw_parts(rhs.cast::<[f32; COLS]>(), inner / 2),
        )
    };
    let pair = |slot: f32| [slot.to_bits() as i16, (slot.to_bits() >> 16) as i16].map(i32::from);
    for (lhs, rhs) in lhs.chunks(CHAIN / 2).zip(rhs.chunks(CHAIN / 2)) {
        let mut sums = [[0_i32; COLS]; ROWS];
        for (lhs, rhs) in lhs.iter().zip(rhs) {
            let rhs = rhs.map(pair);
            for (sums, x) in sums.iter_mut().zip(lhs.map(pair)) {
                for (sum, y) in sums.iter_mut().zip(rhs) {
                    *sum += x[0] * y[0] + x[1] * y[1];
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's promise: `c` has ROWS rows of COLS values, `stride` apart, that nobody else touches.
            let to = unsafe { &mut *c.add(row * stride).cast::<[f32; COLS]>() };
            for (to, sum) in to.iter_mut().zip(sums) {
                let sum = *sum as f32;
                *to = if add { *to + sum } else { sum };
            }
        }
        add = true;
    }
}

/// The largest number and the norms of the chains of each of some lines.
struct Sizes {
    largest: Vec<f64>,
    /// The largest of the chains so far, squared.
    norms: Vec<f64>,
}

impl Sizes {
    fn new(lines: usize) -> Self {
        Self {
            largest: vec![0.0; lines],
            norms: vec![0.0; lines],
        }
    }

    /// Takes a chain of a line: its largest number, and its sum of squares.
    fn take(&mut self, line: usize, largest: f64, squares: f64) {
        // Not a number stays one.
        let of = |x: f64, y: f64| if x >= y || x.is_nan() { x } else { y };
        self.largest[line] = of(self.largest[line], largest);
        self.norms[line] = of(self.norms[line], squares);
    }

    /// A line of zeros has a unit too, so that 0 stays 0; a number that is not finite makes it not a number.
    fn units(self) -> Vec<f32> {
        let unit = |(largest, squares): (f64, f64)| {
            let unit = (largest / LARGEST).max(squares.sqrt() / NORM).max(SMALLEST) as f32;
            if largest.is_finite() && squares.is_finite() {
                unit
            } else {
                f32::NAN
            }
        };
        self.largest.into_iter().zip(self.norms).map(unit).collect()
    }
}

/// The unit of every row, each over [`CHAIN`] columns after another. NaN where a number of the row is not finite.
pub(crate) fn units_of_rows<T: Element>(matrix: MatRef<'_, T>) -> Vec<f32> {
    let mut sizes = Sizes::new(matrix.nrows());
    let mut line = vec![T::ZERO; matrix.ncols()];
    for (number, row) in matrix.row_iter().enumerate() {
        line.iter_mut().zip(row.iter()).for_each(|(to, x)| *to = *x);
        for chain in line.chunks(CHAIN) {
            let (largest, squares) = size(chain);
            sizes.take(number, largest, squares);
        }
    }
    sizes.units()
}

/// The unit of every column.
pub(crate) fn units_of_columns<T: Element>(matrix: MatRef<'_, T>) -> Vec<f32> {
    let (rows, columns) = matrix.shape();
    let mut sizes = Sizes::new(columns);
    for from in (0..rows).step_by(CHAIN) {
        let (mut largest, mut squares) = (vec![0.0; columns], vec![0.0; columns]);
        for row in from..rows.min(from + CHAIN) {
            for ((x, largest), squares) in matrix.row(row).iter().zip(&mut largest).zip(&mut squares) {
                let x = x.widen().abs();
                *largest = if x > *largest { x } else { *largest };
                *squares += x * x;
            }
        }
        for (column, (largest, squares)) in largest.into_iter().zip(squares).enumerate() {
            sizes.take(column, largest, squares);
        }
    }
    sizes.units()
}

/// The largest number and the sum of squares, in lanes of a fixed number: the same bits everywhere.
fn size<T: Element>(values: &[T]) -> (f64, f64) {
    const LANES: usize = 8;
    let (mut largest, mut squares) = ([0.0_f64; LANES], [0.0_f64; LANES]);
    for values in values.chunks(LANES) {
        for ((x, largest), squares) in values.iter().zip(&mut largest).zip(&mut squares) {
            let x = x.widen().abs();
            *largest = if x > *largest { x } else { *largest };
            *squares += x * x;
        }
    }
    (largest.into_iter().fold(0.0, f64::max), squares.into_iter().sum())
}

/// `matrix` over the unit of each row, row after row.
pub(crate) fn over_units_of_rows<T: Element>(matrix: MatRef<'_, T>, units: &[f32]) -> Vec<T> {
    let mut values = Vec::with_capacity(matrix.nrows() * matrix.ncols());
    for (row, unit) in matrix.row_iter().zip(units) {
        values.extend(row.iter().map(|x| x.times(unit.recip())));
    }
    values
}

/// `matrix` over the unit of each column, row after row.
pub(crate) fn over_units_of_columns<T: Element>(matrix: MatRef<'_, T>, units: &[f32]) -> Vec<T> {
    let factors: Vec<f32> = units.iter().map(|unit| unit.recip()).collect();
    let mut values = Vec::with_capacity(matrix.nrows() * matrix.ncols());
    for row in matrix.row_iter() {
        values.extend(row.iter().zip(&factors).map(|(x, factor)| x.times(*factor)));
    }
    values
}

#[cfg(test)]
#[path = "i16_tests.rs"]
mod tests;
