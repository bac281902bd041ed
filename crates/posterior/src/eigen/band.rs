//! First stage: a symmetric matrix to one of a narrow band, `A = Q B Q^T`, nearly all of it in matrix products.
//!
//! Panel by panel of [`BANDWIDTH`] columns: with `Q_k = I - V T V^T` of the panel's QR decomposition and the trailing matrix A,
//!
//! ```text
//! W = A V T,   Y = W - V (T^T V^T W) / 2,   A := A - V Y^T - Y V^T
//! ```
//!
//! (Dongarra, Sorensen and Hammarling 1989, J. Comput. Appl. Math. 27, 215; Bischof, Lang and Sun 2000, ACM TOMS 26, 581.) Only the lower
//! triangle is read; above the diagonal products leave what is of no use.
//!
//! Where the rest of a panel is rounding alone, the matrix falls into two there: the panel is set to 0 and has no reflections. That is how the
//! sum over fewer spectra than it has rows ends, plus any multiple of the identity: what is left of such a matrix takes next to no work, here and after.

use std::cmp::Ordering;
use std::ops::Range;

use faer::{Accum, Mat, MatMut, MatRef};
use fisherflow_kernels::{Packed, Start, add_upper, multiply, multiply_packed, run_all};
use pulp::{Simd, WithSimd};

use super::gemm;
use super::householder::{axpy, dot, reflector, triangle};

/// Diagonals below the main one that the first stage leaves.
pub(super) const BANDWIDTH: usize = 64;

/// Rows or columns of the trailing matrix that one thread works on at a time.
const TILE: usize = 128;

/// Columns of a panel that are reflected one by one before the rest of the panel follows in one product.
const NARROW: usize = 16;

/// The rest of a panel is rounding where it is below this share of the matrix, its Frobenius norm of the matrix's 2-norm: rounding alone makes some
/// ten epsilon, the first panel behind the rank at times more. Each panel that is set to 0 moves no eigenvalue further than that, all K of them no
/// further than `sqrt(2 K)` times that.
const ROUNDING: f64 = 32.0 * f64::EPSILON;

/// Products towards the norm of a matrix, each of which finds more of it.
const STEPS: usize = 4;

/// The reflections of one panel: V lies in the matrix, below the band.
pub(super) struct Panel {
    /// First column of the panel; its V begins [`BANDWIDTH`] rows below.
    pub column: usize,
    /// Of its reflections.
    pub tau: Vec<f64>,
}

/// Reduces the lower triangle of `a` `[n, n]`, column-major, to a band; returns the panels from the first to the last.
pub(super) fn to_band(a: &mut [f64], n: usize, threads: usize) -> Vec<Panel> {
    let mut panels = Vec::new();
    let rounding = ROUNDING * norm(a, n);
    for column in (0..n).step_by(BANDWIDTH) {
        let first = column + BANDWIDTH;
        if first + 1 >= n {
            break;
        }
        let m = n - first;
        let (left, mut trailing) = MatMut::from_column_major_slice_mut(&mut *a, n, n).split_at_col_mut(first);
        let mut panel = left.submatrix_mut(first, column, m, BANDWIDTH);
        if panel.norm_l2() <= rounding {
            panel.fill(0.0);
            continue;
        }
        let tau = qr(panel.as_mut());
        let width = tau.len();
        let v = unit_trapezoid(panel.as_ref(), width);
        let v = MatRef::from_column_major_slice(&v, m, width);
        let mut t = vec![0.0; width * width];
        triangle(v, &tau, &mut t);
        update(trailing.as_mut().subrows_mut(first, m), v, &t, threads);
        panels.push(Panel { column, tau });
    }
    panels
}

/// The 2-norm of a symmetric matrix, of which the lower triangle is read, or less: `|A x|` for a unit vector x that powers of A turned to.
fn norm(a: &[f64], n: usize) -> f64 {
    let mut x = vec![1.0 / (n as f64).sqrt(); n];
    let mut found = 0.0f64;
    for _ in 0..STEPS {
        let mut product = vec![0.0; n];
        pulp::Arch::new().dispatch(|| {
            for (j, column) in a.chunks_exact(n).enumerate() {
                let (column, x_j) = (&column[j..], x[j]);
                product[j] += column[0] * x_j + dot(&column[1..], &x[j + 1..]);
                axpy(&mut product[j + 1..], x_j, &column[1..]);
            }
        });
        let length = product.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length == 0.0 {
            break;
        }
        found = found.max(length);
        product.iter_mut().for_each(|x| *x /= length);
        x = product;
    }
    found
}

/// The reflections of a panel as they are, `[m, width]`, column-major: ones on the diagonal, zeros above.
pub(super) fn unit_trapezoid(panel: MatRef<'_, f64>, width: usize) -> Vec<f64> {
    let m = panel.nrows();
    let mut v = vec![0.0; m * width];
    for (j, to) in v.chunks_exact_mut(m).enumerate() {
        let from = panel.subcols(j, 1).col(0);
        to[j] = 1.0;
        for i in j + 1..m {
            to[i] = from[i];
        }
    }
    v
}

/// R in place of the upper triangle of `panel`, the reflections below it; returns their tau.
fn qr(mut panel: MatMut<'_, f64>) -> Vec<f64> {
    let (m, n) = (panel.nrows(), panel.ncols());
    let width = m.min(n);
    let mut tau = Vec::with_capacity(width);
    for start in (0..width).step_by(NARROW) {
        let len = NARROW.min(width - start);
        let (narrow, rest) = panel
            .as_mut()
            .subrows_mut(start, m - start)
            .split_at_col_mut(start + len);
        let mut narrow = narrow.subcols_mut(start, len);
        let own = reflect_columns(narrow.as_mut());
        let rows = m - start;
        let v = unit_trapezoid(narrow.as_ref(), len);
        let v = MatRef::from_column_major_slice(&v, rows, len);
        let mut t = vec![0.0; len * len];
        triangle(v, &own, &mut t);
        apply_transposed(v, &t, rest);
        tau.extend(own);
    }
    tau
}

/// Householder QR of a few columns.
fn reflect_columns(mut a: MatMut<'_, f64>) -> Vec<f64> {
    let (m, n) = (a.nrows(), a.ncols());
    let mut columns: Vec<Vec<f64>> = (0..n).map(|j| a.as_ref().col(j).iter().copied().collect()).collect();
    let tau = pulp::Arch::new().dispatch(ReflectColumns {
        columns: &mut columns,
        m,
    });
    for (j, column) in columns.iter().enumerate() {
        a.as_mut()
            .col_mut(j)
            .iter_mut()
            .zip(column)
            .for_each(|(to, from)| *to = *from);
    }
    tau
}

/// Householder QR of columns of `m` rows, compiled for the widest registers that the processor has.
struct ReflectColumns<'a> {
    columns: &'a mut [Vec<f64>],
    m: usize,
}

impl WithSimd for ReflectColumns<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f64> {
        let n = self.columns.len();
        let mut tau = Vec::with_capacity(n);
        for j in 0..n.min(self.m) {
            let (done, later) = self.columns.split_at_mut(j + 1);
            let v = &mut done[j][j..];
            let (beta, tau_j) = reflector(v);
            for column in later {
                let column = &mut column[j..];
                let f = -tau_j * dot(v, column);
                axpy(column, f, v);
            }
            v[0] = beta;
            tau.push(tau_j);
        }
        tau
    }
}

/// `C := (I - V T^T V^T) C`.
fn apply_transposed(v: MatRef<'_, f64>, t: &[f64], mut c: MatMut<'_, f64>) {
    let (r, n) = (v.ncols(), c.ncols());
    if n == 0 {
        return;
    }
    let (mut inner, mut turned) = (vec![0.0; r * n], vec![0.0; r * n]);
    let t = MatRef::from_column_major_slice(t, r, r);
    gemm(
        MatMut::from_column_major_slice_mut(&mut inner, r, n),
        Accum::Replace,
        v.transpose(),
        c.as_ref(),
        1.0,
    );
    gemm(
        MatMut::from_column_major_slice_mut(&mut turned, r, n),
        Accum::Replace,
        t.transpose(),
        MatRef::from_column_major_slice(&inner, r, n),
        1.0,
    );
    gemm(
        c.as_mut(),
        Accum::Add,
        v,
        MatRef::from_column_major_slice(&turned, r, n),
        -1.0,
    );
}

/// The trailing matrix after one panel: `A := Q^T A Q` with `Q = I - V T V^T`.
fn update(a: MatMut<'_, f64>, v: MatRef<'_, f64>, t: &[f64], threads: usize) {
    let (m, r) = (v.nrows(), v.ncols());
    let t = MatRef::from_column_major_slice(t, r, r);
    let (mut vt, mut w) = (vec![0.0; m * r], vec![0.0; m * r]);
    let (mut inner, mut half) = (vec![0.0; r * r], vec![0.0; r * r]);
    let mut vt = MatMut::from_row_major_slice_mut(&mut vt, m, r);
    multiply(vt.as_mut(), Start::Zero, v, t, threads);
    symmetric_product(&mut w, a.as_ref(), vt.as_ref(), threads);
    let mut y = MatMut::from_row_major_slice_mut(&mut w, m, r);
    let mut inner = MatMut::from_row_major_slice_mut(&mut inner, r, r);
    let mut half = MatMut::from_row_major_slice_mut(&mut half, r, r);
    multiply(inner.as_mut(), Start::Zero, v.transpose(), y.as_ref(), threads);
    gemm(half.as_mut(), Accum::Replace, t.transpose(), inner.as_ref(), -0.5);
    multiply(y.as_mut(), Start::Kept, v, half.as_ref(), threads);
    // -[V Y] and [Y V]: the update is one product of depth 2 r
    let (mut left, mut right) = (vec![0.0; 2 * r * m], vec![0.0; 2 * r * m]);
    let rows = left.chunks_mut(2 * r * TILE).zip(right.chunks_mut(2 * r * TILE));
    let w = &w;
    let jobs = rows.enumerate().map(|(number, (left, right))| {
        move || {
            let rows = left.chunks_exact_mut(2 * r).zip(right.chunks_exact_mut(2 * r));
            for (i, (left, right)) in (number * TILE..).zip(rows) {
                for j in 0..r {
                    let (v, y) = (v[(i, j)], w[i * r + j]);
                    (left[j], left[r + j]) = (-v, -y);
                    (right[j], right[r + j]) = (y, v);
                }
            }
        }
    });
    run_all(jobs.collect(), threads);
    let left = MatRef::from_row_major_slice(&left, m, 2 * r);
    let right = MatRef::from_row_major_slice(&right, m, 2 * r);
    add_upper(a.transpose_mut(), left, right.transpose(), threads);
}

/// `dst = A x`, row-major, of a symmetric `A` of which the lower triangle is read.
fn symmetric_product(dst: &mut [f64], a: MatRef<'_, f64>, x: MatRef<'_, f64>, threads: usize) {
    let (m, r) = x.shape();
    let blocks: Vec<Range<usize>> = (0..m).step_by(TILE).map(|from| from..m.min(from + TILE)).collect();
    let packed: Vec<Packed<f64>> = blocks
        .iter()
        .map(|rows| Packed::new(x.subrows(rows.start, rows.len()), threads))
        .collect();
    let jobs = blocks.iter().zip(dst.chunks_mut(TILE * r)).map(|(rows, dst)| {
        let (blocks, packed) = (&blocks, &packed);
        move || {
            let mut dst = MatMut::from_row_major_slice_mut(dst, rows.len(), r);
            let part = |rows: &Range<usize>, columns: &Range<usize>| {
                a.submatrix(rows.start, columns.start, rows.len(), columns.len())
            };
            let own = part(rows, rows);
            let diagonal = Mat::from_fn(rows.len(), rows.len(), |i, j| own[(i.max(j), i.min(j))]);
            for (number, (columns, x)) in blocks.iter().zip(packed).enumerate() {
                let block = match columns.start.cmp(&rows.start) {
                    Ordering::Less => part(rows, columns),
                    Ordering::Equal => diagonal.as_ref(),
                    Ordering::Greater => part(columns, rows).transpose(),
                };
                let start = if number == 0 { Start::Zero } else { Start::Kept };
                multiply_packed(dst.as_mut(), start, block, x, 1);
            }
        }
    });
    run_all(jobs.collect(), threads);
}
