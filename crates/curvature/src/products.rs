//! Products over the spectra of a batch, tile by tile, each tile added into f64 sums as soon as it is made.
//!
//! A panel (some rows of the result) is one thread's work from its products to its additions, each product itself runs on one thread, and
//! panels are cut by size alone. So the result has the same bits for any number of threads, and beside the sums there is never more than a
//! tile a thread.

use candle_core::WithDType;
use faer::linalg::matmul::triangular;
use faer::traits::RealField;
use faer::{Accum, MatMut, MatRef, Par};
use fisherflow_network::product::{multiply, release_wide_registers};

use crate::packed::packed_len;

/// Side of a tile: two operands of a usual batch and the tile itself stay in a core's own cache.
const TILE: usize = 512;

/// A product with less work than this many multiplications stays on the caller's thread.
const WORTH_SHARING: usize = 1 << 22;

/// What a product is computed in: f32 or f64.
pub(crate) trait Element: RealField + WithDType {}
impl Element for f32 {}
impl Element for f64 {}

/// Adds the lower triangle of `X^T X` to `packed`, where `x` is `X [rows, n]` row-major.
///
/// Off the diagonal each tile is a product in the element's arithmetic; the diagonal is a sum of squares in f64.
pub(crate) fn add_gram<T: Element>(x: &[T], n: usize, packed: &mut [f64], threads: usize) {
    debug_assert_eq!(packed.len(), packed_len(n));
    if x.is_empty() {
        return;
    }
    let rows = x.len() / n;
    let x = MatRef::from_row_major_slice(x, rows, n);
    let mut panels = Vec::with_capacity(n.div_ceil(TILE));
    let mut rest = packed;
    for first in (0..n).step_by(TILE) {
        let end = n.min(first + TILE);
        let (panel, after) = rest.split_at_mut(packed_len(end) - packed_len(first));
        rest = after;
        panels.push(Panel {
            work: panel.len() * rows,
            first,
            end,
            sums: panel,
        });
    }
    share(panels, threads, |tile: &mut Vec<T>, panel| gram_panel(x, tile, panel));
}

/// Adds rows `panel.first .. panel.end` of the lower triangle of `X^T X` to the panel's packed rows.
fn gram_panel<T: Element>(x: MatRef<'_, T>, tile: &mut Vec<T>, panel: Panel<'_>) {
    let Panel { first, end, sums, .. } = panel;
    let height = end - first;
    let left = x.subcols(first, height).transpose();
    let row_at = |row: usize| packed_len(row) - packed_len(first);
    for from in (0..first).step_by(TILE) {
        tile.resize(height * TILE, T::zero_impl());
        multiply(
            MatMut::from_row_major_slice_mut(tile, height, TILE),
            left,
            x.subcols(from, TILE),
            1,
        );
        for (row, values) in (first..end).zip(tile.chunks_exact(TILE)) {
            add(&mut sums[row_at(row) + from..][..TILE], values);
        }
    }
    tile.resize(height * height, T::zero_impl());
    triangular::matmul(
        MatMut::from_row_major_slice_mut(tile, height, height),
        triangular::BlockStructure::StrictTriangularLower,
        Accum::Replace,
        left,
        triangular::BlockStructure::Rectangular,
        left.transpose(),
        triangular::BlockStructure::Rectangular,
        T::one_impl(),
        Par::Seq,
    );
    release_wide_registers();
    for (row, values) in (first..end).zip(tile.chunks_exact(height)) {
        let below = row - first;
        add(&mut sums[row_at(row) + first..][..below], &values[..below]);
    }
    let mut squares = vec![0.0; height];
    for spectrum in 0..x.nrows() {
        for (square, value) in squares.iter_mut().zip(x.row(spectrum).subcols(first, height).iter()) {
            let value = value.to_f64();
            *square += value * value;
        }
    }
    for (row, square) in (first..end).zip(squares) {
        sums[row_at(row) + row] += square;
    }
}

/// Adds `X^T Y` to the first `m` columns of `sums`, where `x` is `X [rows, n]`, `y` is `Y [rows, m]` and `sums` is `[n, stride]`, row-major.
pub(crate) fn add_cross<T: Element>(
    x: &[T],
    n: usize,
    y: &[T],
    m: usize,
    sums: &mut [f64],
    stride: usize,
    threads: usize,
) {
    debug_assert_eq!(sums.len(), n * stride);
    if x.is_empty() || y.is_empty() {
        return;
    }
    let rows = x.len() / n;
    let x = MatRef::from_row_major_slice(x, rows, n);
    let y = MatRef::from_row_major_slice(y, rows, m);
    let panels = sums
        .chunks_mut(TILE * stride)
        .zip((0..n).step_by(TILE))
        .map(|(panel, first)| Panel {
            work: panel.len() * rows,
            first,
            end: n.min(first + TILE),
            sums: panel,
        })
        .collect();
    share(panels, threads, |tile: &mut Vec<T>, panel: Panel<'_>| {
        let height = panel.end - panel.first;
        for from in (0..m).step_by(TILE) {
            let width = TILE.min(m - from);
            tile.resize(height * width, T::zero_impl());
            multiply(
                MatMut::from_row_major_slice_mut(tile, height, width),
                x.subcols(panel.first, height).transpose(),
                y.subcols(from, width),
                1,
            );
            for (row, values) in panel.sums.chunks_exact_mut(stride).zip(tile.chunks_exact(width)) {
                add(&mut row[from..][..width], values);
            }
        }
    });
}

/// Some rows of a result, `first .. end`, and the sums that belong to them.
struct Panel<'a> {
    work: usize,
    first: usize,
    end: usize,
    sums: &'a mut [f64],
}

/// Runs `work` on every panel, on `threads` threads: the largest panels first, each to the thread with the least so far.
fn share<T: Element>(mut panels: Vec<Panel<'_>>, threads: usize, work: impl Fn(&mut Vec<T>, Panel<'_>) + Sync) {
    let total: usize = panels.iter().map(|p| p.work).sum();
    let run = |panels: Vec<Panel<'_>>| {
        let mut tile = Vec::new();
        for panel in panels {
            work(&mut tile, panel);
        }
    };
    let threads = threads.min(panels.len());
    if threads <= 1 || total < WORTH_SHARING {
        return run(panels);
    }
    panels.sort_by_key(|p| std::cmp::Reverse(p.work));
    let mut shares: Vec<(usize, Vec<Panel<'_>>)> = (0..threads).map(|_| (0, Vec::new())).collect();
    for panel in panels {
        if let Some((load, list)) = shares.iter_mut().min_by_key(|(load, _)| *load) {
            *load += panel.work;
            list.push(panel);
        }
    }
    let run = &run;
    rayon::scope(|scope| {
        for (_, list) in shares {
            scope.spawn(move |_| run(list));
        }
    });
}

/// `sums += values`, in f64.
fn add<T: Element>(sums: &mut [f64], values: &[T]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value.to_f64();
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::packed::unpack;

    /// Whole numbers, whose products are exact in f32 too.
    fn whole_numbers(len: usize, seed: u64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| f64::from(rng.random_range(-8i32..=8))).collect()
    }

    fn uniform(len: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    }

    fn brute_force(x: &[f64], n: usize, y: &[f64], m: usize) -> Vec<f64> {
        let mut product = vec![0.0; n * m];
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact(m)) {
            for (row, x) in product.chunks_exact_mut(m).zip(x) {
                for (to, y) in row.iter_mut().zip(y) {
                    *to += x * y;
                }
            }
        }
        product
    }

    /// Sizes of one panel, of a panel and one more, and of several with a short last one.
    const SIZES: [usize; 5] = [1, 7, TILE, TILE + 1, 2 * TILE + 133];

    #[test]
    fn gram_is_exact_on_whole_numbers_and_adds() {
        for n in SIZES {
            let x = whole_numbers(5 * n, n as u64);
            let expected = brute_force(&x, n, &x, n);
            let single: Vec<f32> = x.iter().map(|&v| v as f32).collect();
            let mut sums = vec![0.0; packed_len(n)];
            add_gram(&x, n, &mut sums, 1);
            assert_eq!(unpack(&sums, n, |_, _, v| v).values, expected);
            add_gram(&single, n, &mut sums, 2);
            assert_eq!(unpack(&sums, n, |_, _, v| v / 2.0).values, expected);
        }
    }

    #[test]
    fn cross_is_exact_on_whole_numbers_and_leaves_the_last_column() {
        for (n, m) in [(1, 1), (3, 700), (700, 5), (TILE + 1, 2 * TILE + 9)] {
            let (x, y) = (whole_numbers(4 * n, 1), whole_numbers(4 * m, 2));
            let expected = brute_force(&x, n, &y, m);
            let mut sums = vec![1.0; n * (m + 1)];
            add_cross(&x, n, &y, m, &mut sums, m + 1, 2);
            for (row, expected) in sums.chunks_exact(m + 1).zip(expected.chunks_exact(m)) {
                assert!(row.iter().zip(expected).all(|(found, e)| *found == e + 1.0));
                assert_eq!(row[m], 1.0);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let n = 3 * TILE + 77;
        let (x, y) = (uniform(64 * n, 3), uniform(64 * 600, 4));
        let (mut gram, mut cross) = (Vec::new(), Vec::new());
        for threads in [1, 2, 3, 8] {
            let mut sums = vec![0.0; packed_len(n)];
            add_gram(&x, n, &mut sums, threads);
            gram.push(sums);
            let mut sums = vec![0.0; n * 600];
            add_cross(&x, n, &y, 600, &mut sums, 600, threads);
            cross.push(sums);
        }
        assert!(gram.iter().all(|g| *g == gram[0]));
        assert!(cross.iter().all(|c| *c == cross[0]));
    }

    #[test]
    fn no_rows_add_nothing() {
        let mut sums = vec![2.0; packed_len(4)];
        add_gram::<f32>(&[], 4, &mut sums, 2);
        add_cross::<f64>(&[], 5, &[], 2, &mut sums, 2, 2);
        assert_eq!(sums, vec![2.0; 10]);
    }
}
