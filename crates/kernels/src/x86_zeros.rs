//! Register tiles of x86-64 over those inner indices that are left where zeros are left out.

use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm256_add_pd, _mm256_add_ps, _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_loadu_pd,
    _mm256_loadu_ps, _mm256_set1_pd, _mm256_set1_ps, _mm256_setzero_pd, _mm256_setzero_ps, _mm256_storeu_pd,
    _mm256_storeu_ps, _mm512_add_pd, _mm512_add_ps, _mm512_fmadd_pd, _mm512_fmadd_ps, _mm512_loadu_pd, _mm512_loadu_ps,
    _mm512_set1_pd, _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_storeu_pd, _mm512_storeu_ps,
};

use crate::x86::LINE;
use crate::zeros::{AHEAD, Skip, Terms, skip};

/// [`Skip`] of strips of two registers of `$lanes` numbers.
macro_rules! skipping {
    (
        $skip:ident, $multiply:ident, $number:ty, $features:literal, $lanes:literal,
        $zero:ident, $load:ident, $store:ident, $set:ident, $fma:ident, $add:ident
    ) => {
        pub(crate) const $skip: Skip<$number> = skip!($multiply);

        /// See [`crate::zeros::SkipFn`].
        #[target_feature(enable = $features)]
        unsafe fn $multiply<const ROWS: usize, const STRIPS: usize>(
            terms: Terms<'_, $number>,
            rhs: *const $number,
            strip: usize,
            c: *mut $number,
            stride: usize,
            mut add: bool,
        ) {
            let (mut offset, mut value) = (terms.offsets.as_ptr(), terms.values.as_ptr());
            for &count in terms.counts {
                let mut sums = [[[$zero(); 2]; STRIPS]; ROWS];
                for _ in 0..count {
                    // SAFETY: the caller's promise: one more term is there, whose offset lies in every strip, and AHEAD more offsets.
                    unsafe {
                        let ahead = rhs.wrapping_add(*offset.add(AHEAD) as usize);
                        for at in 0..STRIPS {
                            for from in (0..2 * $lanes).step_by(LINE / size_of::<$number>()) {
                                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(at * strip + from).cast());
                            }
                        }
                        let rhs = rhs.add(*offset as usize);
                        let mut x = [$zero(); ROWS];
                        for (row, x) in x.iter_mut().enumerate() {
                            *x = $set(*value.add(row));
                        }
                        for at in 0..STRIPS {
                            for half in 0..2 {
                                let y = $load(rhs.add(at * strip + half * $lanes));
                                for (sums, x) in sums.iter_mut().zip(x) {
                                    sums[at][half] = $fma(x, y, sums[at][half]);
                                }
                            }
                        }
                        offset = offset.add(1);
                        value = value.add(ROWS);
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (at, sum) in sums.as_flattened().iter().enumerate() {
                        // SAFETY: the caller's promise: `c` has ROWS rows of STRIPS strips' values, `stride` apart, that nobody else touches.
                        unsafe {
                            let to = c.add(row * stride + at * $lanes);
                            $store(to, if add { $add($load(to), *sum) } else { *sum });
                        }
                    }
                }
                add = true;
            }
        }
    };
}

skipping!(
    AVX512_F32,
    multiply_avx512_f32,
    f32,
    "avx512f",
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps
);
skipping!(
    AVX512_F64,
    multiply_avx512_f64,
    f64,
    "avx512f",
    8,
    _mm512_setzero_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_set1_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd
);
skipping!(
    AVX2_F32,
    multiply_avx2_f32,
    f32,
    "avx2,fma",
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps
);
skipping!(
    AVX2_F64,
    multiply_avx2_f64,
    f64,
    "avx2,fma",
    4,
    _mm256_setzero_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_set1_pd,
    _mm256_fmadd_pd,
    _mm256_add_pd
);
