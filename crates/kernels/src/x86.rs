//! Register tiles of x86-64: plain intrinsics, with as many accumulators as registers hold.

use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm256_add_pd, _mm256_add_ps, _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_loadu_pd,
    _mm256_loadu_ps, _mm256_set1_pd, _mm256_set1_ps, _mm256_setzero_pd, _mm256_setzero_ps, _mm256_storeu_pd,
    _mm256_storeu_ps, _mm512_add_pd, _mm512_add_ps, _mm512_fmadd_pd, _mm512_fmadd_ps, _mm512_loadu_pd, _mm512_loadu_ps,
    _mm512_set1_pd, _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_storeu_pd, _mm512_storeu_ps,
};

use faer::MatRef;

use crate::pack::{Map, pack_strip};
use crate::tile::{CHAIN, GROUP, JOB, Tile, add_squares, add_widened};
use crate::x86_zeros;

/// Rows of AVX-512's tiles.
pub(crate) const AVX512_ROWS: usize = 14;

/// Columns of AVX-512's tile of f32.
pub(crate) const AVX512_COLS: usize = 32;

/// Rows of AVX2's tiles.
pub(crate) const AVX2_ROWS: usize = 6;

/// Inner indices that are asked for ahead of their use.
const AHEAD: usize = 24;

/// Bytes that memory is asked for at a time.
pub(crate) const LINE: usize = 64;

/// One inner index of a tile.
macro_rules! step {
    ($lhs:ident, $rhs:ident, $sums:ident, $rows:expr, $lanes:literal, $load:ident, $set:ident, $fma:ident) => {
        // SAFETY: the caller's promise: one more packed row of both strips is there.
        unsafe {
            let (left, right) = ($load($rhs), $load($rhs.add($lanes)));
            for (row, sums) in $sums.iter_mut().enumerate() {
                let x = $set(*$lhs.add(row));
                sums[0] = $fma(x, left, sums[0]);
                sums[1] = $fma(x, right, sums[1]);
            }
            $lhs = $lhs.add($rows);
            $rhs = $rhs.add(2 * $lanes);
        }
    };
}

/// A tile of `$rows` rows of two registers of `$lanes` numbers each, `$at_once` inner indices a turn of its loop.
macro_rules! tile {
    (
        $tile:ident, $skip:ident, $multiply:ident, $widened:ident, $squares:ident, $pack:ident, $number:ty, $features:literal, $rows:expr, $lanes:literal, $at_once:literal,
        $zero:ident, $load:ident, $store:ident, $set:ident, $fma:ident, $add:ident
    ) => {
        /// The tile of this path and type.
        pub(crate) fn $tile() -> Tile<$number> {
            Tile {
                rows: $rows,
                cols: 2 * $lanes,
                step: 1,
                half_slots: 2,
                whole: false,
                at_once: usize::MAX,
                job: JOB,
                group: GROUP,
                multiply: |rows| match rows {
                    1 => (1, $multiply::<1>),
                    2 => (2, $multiply::<2>),
                    3 => (3, $multiply::<3>),
                    4 => (4, $multiply::<4>),
                    5..=8 if $rows > 8 => (8, $multiply::<8>),
                    _ => ($rows, $multiply::<{ $rows }>),
                },
                add: $widened,
                add_squares: $squares,
                skip: x86_zeros::$skip,
                pack_lhs: |matrix, first, from, map, out| {
                    // SAFETY: a tile is handed out only where its path is there.
                    unsafe { $pack::<{ $rows }>(matrix, first, from, map, out) }
                },
                pack_rhs: |matrix, first, from, map, out| {
                    // SAFETY: as above.
                    unsafe { $pack::<{ 2 * $lanes }>(matrix, first, from, map, out) }
                },
            }
        }

        /// See [`crate::tile::AddFn`].
        #[target_feature(enable = $features)]
        fn $widened(sums: &mut [f64], values: &[$number]) {
            add_widened(sums, values);
        }

        /// See [`crate::tile::AddFn`].
        #[target_feature(enable = $features)]
        fn $squares(sums: &mut [f64], values: &[$number]) {
            add_squares(sums, values);
        }

        /// See [`pack_strip`].
        #[target_feature(enable = $features)]
        fn $pack<const W: usize>(
            matrix: MatRef<'_, $number>,
            first: usize,
            from: usize,
            map: Map,
            out: &mut [$number],
        ) {
            pack_strip::<$number, W>(matrix, first, from, map, out);
        }

        /// See [`crate::tile::TileFn`]; of the tile's first ROWS rows.
        #[target_feature(enable = $features)]
        unsafe fn $multiply<const ROWS: usize>(
            mut inner: usize,
            mut lhs: *const $number,
            mut rhs: *const $number,
            c: *mut $number,
            stride: usize,
            mut add: bool,
        ) {
            for row in 0..ROWS {
                // What is added to at the end is asked for at the beginning. A prefetch reads nothing: any address will do.
                let to = c.wrapping_add(row * stride);
                _mm_prefetch::<_MM_HINT_T0>(to.cast());
                _mm_prefetch::<_MM_HINT_T0>(to.wrapping_add(2 * $lanes - 1).cast());
            }
            while inner > 0 {
                let chain = inner.min(CHAIN);
                inner -= chain;
                let mut sums = [[$zero(); 2]; ROWS];
                let turns = chain / $at_once;
                for _ in 0..turns {
                    for (ahead, width) in [(lhs, $rows), (rhs, 2 * $lanes)] {
                        let (ahead, numbers) = (ahead.wrapping_add(width * AHEAD), LINE / size_of::<$number>());
                        for from in (0..$at_once * width).step_by(numbers) {
                            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(from).cast());
                        }
                    }
                    for _ in 0..$at_once {
                        step!(lhs, rhs, sums, $rows, $lanes, $load, $set, $fma);
                    }
                }
                for _ in turns * $at_once..chain {
                    step!(lhs, rhs, sums, $rows, $lanes, $load, $set, $fma);
                }
                for (row, sums) in sums.iter().enumerate() {
                    // SAFETY: the caller's promise: `c` has ROWS rows of `2 * $lanes` values, `stride` apart, that nobody else touches.
                    unsafe {
                        let (left, right) = (c.add(row * stride), c.add(row * stride + $lanes));
                        if add {
                            $store(left, $add($load(left), sums[0]));
                            $store(right, $add($load(right), sums[1]));
                        } else {
                            $store(left, sums[0]);
                            $store(right, sums[1]);
                        }
                    }
                }
                add = true;
            }
        }
    };
}

tile!(
    avx512_f32,
    AVX512_F32,
    multiply_avx512_f32,
    add_avx512_f32,
    add_squares_avx512_f32,
    pack_avx512_f32,
    f32,
    "avx512f",
    AVX512_ROWS,
    16,
    1,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps
);
tile!(
    avx512_f64,
    AVX512_F64,
    multiply_avx512_f64,
    add_avx512_f64,
    add_squares_avx512_f64,
    pack_avx512_f64,
    f64,
    "avx512f",
    AVX512_ROWS,
    8,
    1,
    _mm512_setzero_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_set1_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd
);
tile!(
    avx2_f32,
    AVX2_F32,
    multiply_avx2_f32,
    add_avx2_f32,
    add_squares_avx2_f32,
    pack_avx2_f32,
    f32,
    "avx2,fma",
    AVX2_ROWS,
    8,
    4,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps
);
tile!(
    avx2_f64,
    AVX2_F64,
    multiply_avx2_f64,
    add_avx2_f64,
    add_squares_avx2_f64,
    pack_avx2_f64,
    f64,
    "avx2,fma",
    AVX2_ROWS,
    4,
    4,
    _mm256_setzero_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_set1_pd,
    _mm256_fmadd_pd,
    _mm256_add_pd
);
