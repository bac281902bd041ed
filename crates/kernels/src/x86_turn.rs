//! Packing of row-major rows for AVX-512: 16 x 16 numbers are turned over in registers.

use std::arch::x86_64::{
    __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use faer::MatRef;

use crate::pack::{Map, pack_strip};

/// Numbers of a register.
const LANES: usize = 16;

/// [`pack_strip`] for a path that has AVX-512F.
pub(crate) fn pack_strip_f32<const W: usize>(
    matrix: MatRef<'_, f32>,
    first: usize,
    from: usize,
    map: Map,
    out: &mut [f32],
) {
    let inner = out.len() / W;
    let turned = inner / LANES * LANES;
    if map != Map::Identity || matrix.col_stride() != 1 || matrix.nrows() - first < W {
        return pack_strip::<f32, W>(matrix, first, from, map, out);
    }
    debug_assert!(from + inner <= matrix.ncols());
    let start = matrix
        .as_ptr()
        .wrapping_offset(first as isize * matrix.row_stride() + from as isize);
    let (head, rest) = out.split_at_mut(turned * W);
    // SAFETY: `turned` columns from `from` on of the W rows from `first` on lie in the matrix, which is borrowed, one after another since the
    // column stride is 1; the path has AVX-512F.
    unsafe { turn::<W>(start, matrix.row_stride(), head) };
    if !rest.is_empty() {
        pack_strip::<f32, W>(matrix, first, from + turned, map, rest);
    }
}

/// Writes the columns of W rows, `stride` apart, one after another.
///
/// # Safety
/// `out.len() / W` numbers, a multiple of [`LANES`], are there in each of the rows.
#[target_feature(enable = "avx512f")]
unsafe fn turn<const W: usize>(start: *const f32, stride: isize, out: &mut [f32]) {
    for (block, out) in out.chunks_exact_mut(W * LANES).enumerate() {
        for from in (0..W).step_by(LANES) {
            let height = LANES.min(W - from);
            let mut rows = [_mm512_setzero_ps(); LANES];
            for (row, values) in rows.iter_mut().take(height).enumerate() {
                // SAFETY: the caller's promise.
                *values = unsafe { _mm512_loadu_ps(start.offset((from + row) as isize * stride).add(block * LANES)) };
            }
            let wanted = u16::MAX >> (LANES - height);
            for (to, column) in out.chunks_exact_mut(W).zip(columns(rows)) {
                // SAFETY: only `height` of W values are written, from number `from` on.
                unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().add(from), wanted, column) };
            }
        }
    }
}

/// The columns of 16 rows.
#[target_feature(enable = "avx512f")]
fn columns(rows: [__m512; LANES]) -> [__m512; LANES] {
    // Pairs of rows, then fours, within each quarter of the registers.
    let mut pairs = rows;
    for at in (0..LANES).step_by(2) {
        pairs[at] = _mm512_unpacklo_ps(rows[at], rows[at + 1]);
        pairs[at + 1] = _mm512_unpackhi_ps(rows[at], rows[at + 1]);
    }
    let mut fours = pairs;
    for at in (0..LANES).step_by(4) {
        for half in 0..2 {
            let (x, y) = (
                _mm512_castps_pd(pairs[at + half]),
                _mm512_castps_pd(pairs[at + 2 + half]),
            );
            fours[at + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            fours[at + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    }
    // Quarter q of fours[4 g + c] is rows 4 g .. 4 g + 4 of column 4 q + c: the quarters of four registers are turned over.
    let mut columns = fours;
    for c in 0..4 {
        let (x, y) = (fours[c], fours[4 + c]);
        let (z, w) = (fours[8 + c], fours[12 + c]);
        let (even_low, odd_low) = (_mm512_shuffle_f32x4::<0x88>(x, y), _mm512_shuffle_f32x4::<0xdd>(x, y));
        let (even_high, odd_high) = (_mm512_shuffle_f32x4::<0x88>(z, w), _mm512_shuffle_f32x4::<0xdd>(z, w));
        columns[c] = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
        columns[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
        columns[8 + c] = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
        columns[12 + c] = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
    }
    columns
}
