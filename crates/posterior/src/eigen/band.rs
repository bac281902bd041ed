//! First stage: a symmetric matrix to one of a narrow band, `A = Q B Q^T`, nearly all of it in matrix products.
//!
//! Panel by panel of [`BANDWIDTH`] columns: with `Q_k = I - V T V^T` of the panel's QR decomposition and the trailing matrix A,
//!
//! ```text
//! W = A V T,   Y = W - V (T^T V^T W) / 2,   A := A - V Y^T - Y V^T
//! ```
//!
//! (Dongarra, Sorensen and Hammarling 1989, J. Comput. Appl. Math. 27, 215; Bischof, Lang and Sun 2000, ACM TOMS 26, 581.) Only the lower
//! triangle is read and written.

use faer::{Accum, MatMut, MatRef};
use fisherflow_network::product::run_all;
use pulp::{Simd, WithSimd};

use super::gemm;
use super::householder::{axpy, dot, reflector, triangle};

/// Diagonals below the main one that the first stage leaves.
pub(super) const BANDWIDTH: usize = 64;

/// Rows or columns of the trailing matrix that one thread works on at a time.
const TILE: usize = 256;

/// Columns of a panel that are reflected one by one before the rest of the panel follows in one product.
const NARROW: usize = 16;

/// The reflections of one panel: V lies in the matrix, below the band.
pub(super) struct Panel {
    /// First column of the panel; its V begins [`BANDWIDTH`] rows below.
    pub column: usize,
    /// How many reflections.
    pub width: usize,
    /// T, `[width, width]`, column-major.
    pub t: Vec<f64>,
}

/// Reduces the lower triangle of `a` `[n, n]`, column-major, to a band; returns the panels from the first to the last.
pub(super) fn to_band(a: &mut [f64], n: usize, threads: usize) -> Vec<Panel> {
    let mut panels = Vec::new();
    for column in (0..n).step_by(BANDWIDTH) {
        let first = column + BANDWIDTH;
        if first + 1 >= n {
            break;
        }
        let m = n - first;
        let (left, mut trailing) = MatMut::from_column_major_slice_mut(&mut *a, n, n).split_at_col_mut(first);
        let mut panel = left.submatrix_mut(first, column, m, BANDWIDTH);
        let tau = qr(panel.as_mut());
        let width = tau.len();
        let v = unit_trapezoid(panel.as_ref(), width);
        let v = MatRef::from_column_major_slice(&v, m, width);
        let mut t = vec![0.0; width * width];
        triangle(v, &tau, &mut t);
        update(trailing.as_mut().subrows_mut(first, m), v, &t, threads);
        panels.push(Panel { column, width, t });
    }
    panels
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
fn update(mut a: MatMut<'_, f64>, v: MatRef<'_, f64>, t: &[f64], threads: usize) {
    let (m, r) = (v.nrows(), v.ncols());
    let t = MatRef::from_column_major_slice(t, r, r);
    let mut vt = vec![0.0; m * r];
    gemm(
        MatMut::from_column_major_slice_mut(&mut vt, m, r),
        Accum::Replace,
        v,
        t,
        1.0,
    );
    // [V Y] and [Y V], row-major: the update is one product of depth 2 r
    let mut w = vec![0.0; m * r];
    symmetric_product(
        MatMut::from_row_major_slice_mut(&mut w, m, r),
        a.as_ref(),
        MatRef::from_column_major_slice(&vt, m, r),
        threads,
    );
    let mut inner = vec![0.0; r * r];
    gemm(
        MatMut::from_column_major_slice_mut(&mut inner, r, r),
        Accum::Replace,
        v.transpose(),
        MatRef::from_row_major_slice(&w, m, r),
        1.0,
    );
    let mut half = vec![0.0; r * r];
    gemm(
        MatMut::from_column_major_slice_mut(&mut half, r, r),
        Accum::Replace,
        t.transpose(),
        MatRef::from_column_major_slice(&inner, r, r),
        -0.5,
    );
    gemm(
        MatMut::from_row_major_slice_mut(&mut w, m, r),
        Accum::Add,
        v,
        MatRef::from_column_major_slice(&half, r, r),
        1.0,
    );
    let (mut left, mut right) = (vec![0.0; 2 * r * m], vec![0.0; 2 * r * m]);
    for i in 0..m {
        let (left, right) = (&mut left[2 * r * i..][..2 * r], &mut right[2 * r * i..][..2 * r]);
        for j in 0..r {
            left[j] = v[(i, j)];
            right[j] = w[i * r + j];
            left[r + j] = right[j];
            right[r + j] = left[j];
        }
    }
    let left = MatRef::from_row_major_slice(&left, m, 2 * r);
    let right = MatRef::from_row_major_slice(&right, m, 2 * r);
    let mut jobs = Vec::with_capacity(m.div_ceil(TILE));
    let mut rest = a.as_mut();
    for start in (0..m).step_by(TILE) {
        let len = TILE.min(m - start);
        let (columns, later) = rest.split_at_col_mut(len);
        rest = later;
        jobs.push(move || {
            gemm(
                columns.subrows_mut(start, m - start),
                Accum::Add,
                left.subrows(start, m - start),
                right.subrows(start, len).transpose(),
                -1.0,
            );
        });
    }
    run_all(jobs, threads);
}

/// `dst = A x` of a symmetric `A` of which the lower triangle is read.
fn symmetric_product(dst: MatMut<'_, f64>, a: MatRef<'_, f64>, x: MatRef<'_, f64>, threads: usize) {
    let m = a.nrows();
    let mut jobs = Vec::with_capacity(m.div_ceil(TILE));
    let mut rest = dst;
    for start in (0..m).step_by(TILE) {
        let len = TILE.min(m - start);
        let (mut rows, later) = rest.split_at_row_mut(len);
        rest = later;
        jobs.push(move || {
            let mut diagonal = vec![0.0; len * len];
            for j in 0..len {
                for i in j..len {
                    let value = a[(start + i, start + j)];
                    diagonal[j * len + i] = value;
                    diagonal[i * len + j] = value;
                }
            }
            let diagonal = MatRef::from_column_major_slice(&diagonal, len, len);
            gemm(rows.as_mut(), Accum::Replace, diagonal, x.subrows(start, len), 1.0);
            if start > 0 {
                gemm(
                    rows.as_mut(),
                    Accum::Add,
                    a.submatrix(start, 0, len, start),
                    x.subrows(0, start),
                    1.0,
                );
            }
            let end = start + len;
            if end < m {
                let below = a.submatrix(end, start, m - end, len).transpose();
                gemm(rows.as_mut(), Accum::Add, below, x.subrows(end, m - end), 1.0);
            }
        });
    }
    run_all(jobs, threads);
}
