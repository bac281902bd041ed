//! Register tiles of AVX512_BF16: `vdpbf16ps` multiplies pairs of bf16 and adds both products to an f32.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

use faer::MatRef;

use crate::bf16::{self, Parts};
use crate::pack::Map;
use crate::tile::{CHAIN, Tile};
use crate::x86;

/// Those of the tile that these go by.
const ROWS: usize = x86::AVX512_ROWS;
const COLS: usize = x86::AVX512_COLS;
const LANES: usize = 16;

/// One product of bf16.
pub(crate) fn one() -> Tile<f32> {
    Tile {
        step: 2,
        half_slots: 1,
        multiply: |_| (ROWS, multiply_one),
        pack_lhs: |matrix, first, from, map, out| {
            // SAFETY: a tile is handed out only where its path is there.
            unsafe { pack::<ROWS>(matrix, first, from, map, Parts::One, out) }
        },
        pack_rhs: |matrix, first, from, map, out| {
            // SAFETY: as above.
            unsafe { pack::<COLS>(matrix, first, from, map, Parts::One, out) }
        },
        ..x86::avx512_f32()
    }
}

/// Three products of bf16.
pub(crate) fn three() -> Tile<f32> {
    Tile {
        step: 2,
        multiply: |_| (ROWS, multiply_three),
        pack_lhs: |matrix, first, from, map, out| {
            // SAFETY: as above.
            unsafe { pack::<ROWS>(matrix, first, from, map, Parts::Two, out) }
        },
        pack_rhs: |matrix, first, from, map, out| {
            // SAFETY: as above.
            unsafe { pack::<COLS>(matrix, first, from, map, Parts::Two, out) }
        },
        ..x86::avx512_f32()
    }
}

/// `[pair][part][W]`.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack<const W: usize>(matrix: MatRef<'_, f32>, first: usize, from: usize, map: Map, parts: Parts, out: &mut [f32]) {
    match parts {
        Parts::One => bf16::pack::<W>(matrix, first, from, map, parts, out, |pair, _, w| pair * W + w),
        Parts::Two => bf16::pack::<W>(matrix, first, from, map, parts, out, |pair, part, w| {
            (2 * pair + part) * W + w
        }),
    }
}

/// Bits of 16 pairs.
///
/// # Safety
/// 16 values are there.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs(at: *const f32) -> __m512bh {
    // SAFETY: the caller's promise; both types are 64 bytes of any bits.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
}

/// One pair 16 times.
///
/// # Safety
/// A value is there.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pair(at: *const f32) -> __m512bh {
    // SAFETY: as above.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*at.cast::<i32>())) }
}

macro_rules! multiply {
    ($name:ident, $parts:literal, |$sums:ident, $lhs:ident, $rhs:ident| $body:block) => {
        /// See [`crate::tile::TileFn`].
        #[target_feature(enable = "avx512f,avx512bf16")]
        unsafe fn $name(
            mut inner: usize,
            mut $lhs: *const f32,
            mut $rhs: *const f32,
            c: *mut f32,
            stride: usize,
            mut add: bool,
        ) {
            while inner > 0 {
                let chain = inner.min(CHAIN);
                inner -= chain;
                let mut $sums = [[_mm512_setzero_ps(); 2]; ROWS];
                for _ in 0..chain / 2 {
                    // SAFETY: the caller's promise: `chain / 2` more packed pairs of both strips are there.
                    unsafe {
                        $body
                        $lhs = $lhs.add($parts * ROWS);
                        $rhs = $rhs.add($parts * COLS);
                    }
                }
                for (row, sums) in $sums.iter().enumerate() {
                    // SAFETY: the caller's promise: `c` has ROWS rows of COLS values, `stride` apart, that nobody else touches.
                    unsafe {
                        let to = [c.add(row * stride), c.add(row * stride + LANES)];
                        for (to, sum) in to.into_iter().zip(sums) {
                            _mm512_storeu_ps(to, if add { _mm512_add_ps(_mm512_loadu_ps(to), *sum) } else { *sum });
                        }
                    }
                }
                add = true;
            }
        }
    };
}

multiply!(multiply_one, 1, |sums, lhs, rhs| {
    let (left, right) = (pairs(rhs), pairs(rhs.add(LANES)));
    for (row, sums) in sums.iter_mut().enumerate() {
        let x = pair(lhs.add(row));
        sums[0] = _mm512_dpbf16_ps(sums[0], x, left);
        sums[1] = _mm512_dpbf16_ps(sums[1], x, right);
    }
});

multiply!(multiply_three, 2, |sums, lhs, rhs| {
    for half in 0..2 {
        let (hi, lo) = (pairs(rhs.add(half * LANES)), pairs(rhs.add(COLS + half * LANES)));
        for (row, sums) in sums.iter_mut().enumerate() {
            let (x_hi, x_lo) = (pair(lhs.add(row)), pair(lhs.add(ROWS + row)));
            // The small products first.
            let small = _mm512_dpbf16_ps(_mm512_dpbf16_ps(sums[half], x_hi, lo), x_lo, hi);
            sums[half] = _mm512_dpbf16_ps(small, x_hi, hi);
        }
    }
});
