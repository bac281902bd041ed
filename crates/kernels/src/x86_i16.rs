//! Register tiles of whole numbers of 16 bits: pairs of products, added in 32 bits.

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi32, _mm256_add_ps, _mm256_cvtepi32_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_ps, _mm512_add_epi32, _mm512_add_ps,
    _mm512_cvtepi32_ps, _mm512_dpwssd_epi32, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_storeu_ps,
};

use faer::MatRef;

use crate::i16;
use crate::pack::Map;
use crate::tile::{CHAIN, Tile};
use crate::x86;

/// The tiles that this machine has, the fastest first.
pub(crate) fn tiles() -> impl Iterator<Item = Tile<f32>> {
    let has_avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let has_vnni = has_avx512 && is_x86_feature_detected!("avx512vnni");
    let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let tiles = [has_vnni.then(avx512_vnni), has_avx512.then(avx512), has_avx2.then(avx2)];
    tiles.into_iter().flatten()
}

/// A tile of `$rows` rows of two registers of `$lanes` pairs each.
macro_rules! tile {
    (
        $tile:ident, $multiply:ident, $pack:ident, $base:path, $features:literal, $rows:expr, $lanes:literal,
        $zero:ident, $load:ident, $pair:ident, $convert:ident, $load_f32:ident, $store_f32:ident, $add_f32:ident, $multiply_add:expr
    ) => {
        fn $tile() -> Tile<f32> {
            Tile {
                step: 2,
                half_slots: 1,
                whole: true,
                multiply: |_| ($rows, $multiply),
                pack_lhs: |matrix, first, from, map, out| {
                    // SAFETY: a tile is handed out only where its instructions are there.
                    unsafe { $pack::<{ $rows }>(matrix, first, from, map, out) }
                },
                pack_rhs: |matrix, first, from, map, out| {
                    // SAFETY: as above.
                    unsafe { $pack::<{ 2 * $lanes }>(matrix, first, from, map, out) }
                },
                ..$base()
            }
        }

        /// See [`i16::pack`].
        #[target_feature(enable = $features)]
        fn $pack<const W: usize>(matrix: MatRef<'_, f32>, first: usize, from: usize, map: Map, out: &mut [f32]) {
            i16::pack::<W>(matrix, first, from, map, out);
        }

        /// See [`crate::tile::TileFn`].
        #[target_feature(enable = $features)]
        unsafe fn $multiply(
            mut inner: usize,
            mut lhs: *const f32,
            mut rhs: *const f32,
            c: *mut f32,
            stride: usize,
            mut add: bool,
        ) {
            while inner > 0 {
                let chain = inner.min(CHAIN);
                inner -= chain;
                let mut sums = [[$zero(); 2]; $rows];
                for _ in 0..chain / 2 {
                    // SAFETY: the caller's promise: `chain / 2` more packed pairs of both strips are there.
                    unsafe {
                        let (left, right) = ($load(rhs.cast()), $load(rhs.add($lanes).cast()));
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let x = $pair(*lhs.add(row).cast::<i32>());
                            sums[0] = $multiply_add(sums[0], x, left);
                            sums[1] = $multiply_add(sums[1], x, right);
                        }
                        lhs = lhs.add($rows);
                        rhs = rhs.add(2 * $lanes);
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    // SAFETY: the caller's promise: `c` has the tile's rows of `2 * $lanes` values, `stride` apart, that nobody else touches.
                    unsafe {
                        let to = [c.add(row * stride), c.add(row * stride + $lanes)];
                        for (to, sum) in to.into_iter().zip(sums) {
                            let sum = $convert(*sum);
                            $store_f32(to, if add { $add_f32($load_f32(to), sum) } else { sum });
                        }
                    }
                }
                add = true;
            }
        }
    };
}

/// See [`_mm256_madd_epi16`].
#[target_feature(enable = "avx2")]
fn multiply_add_256(sum: __m256i, x: __m256i, y: __m256i) -> __m256i {
    _mm256_add_epi32(sum, _mm256_madd_epi16(x, y))
}

/// See [`_mm512_madd_epi16`].
#[target_feature(enable = "avx512f,avx512bw")]
fn multiply_add_512(sum: __m512i, x: __m512i, y: __m512i) -> __m512i {
    _mm512_add_epi32(sum, _mm512_madd_epi16(x, y))
}

tile!(
    avx2,
    multiply_avx2,
    pack_avx2,
    x86::avx2_f32,
    "avx2,fma",
    x86::AVX2_ROWS,
    8,
    _mm256_setzero_si256,
    _mm256_loadu_si256,
    _mm256_set1_epi32,
    _mm256_cvtepi32_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    multiply_add_256
);
tile!(
    avx512,
    multiply_avx512,
    pack_avx512,
    x86::avx512_f32,
    "avx512f,avx512bw",
    x86::AVX512_ROWS,
    16,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_set1_epi32,
    _mm512_cvtepi32_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    multiply_add_512
);
tile!(
    avx512_vnni,
    multiply_avx512_vnni,
    pack_avx512_vnni,
    x86::avx512_f32,
    "avx512f,avx512bw,avx512vnni",
    x86::AVX512_ROWS,
    16,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_set1_epi32,
    _mm512_cvtepi32_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_dpwssd_epi32
);
