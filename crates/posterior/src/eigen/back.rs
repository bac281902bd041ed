//! Eigenvectors of the tridiagonal matrix to those of the band and of the full matrix: reflections applied in blocks.
//!
//! Reflections of one block j of [`GROUP`] sweeps one after the other are shifted by a row each and make one `I - V T V^T` of
//! `b + GROUP - 1` rows. Within a group of sweeps, blocks are applied from the first to the last; and a later sweep's block j before an
//! earlier sweep's, so that [`DEPTH`] groups pass over the same rows while those are in the cache.

use faer::{Accum, MatMut, MatRef};
use fisherflow_network::product::run_all;

use super::band::{BANDWIDTH, Panel, unit_trapezoid};
use super::chase::Chased;
use super::gemm;
use super::householder::triangle;

/// Sweeps of which reflections are applied in one block.
const GROUP: usize = 24;

/// Groups that pass over a window of rows together.
const DEPTH: usize = 8;

/// Eigenvectors that a thread works on at a time.
const COLUMNS: usize = 192;

/// One block of reflections.
struct Block {
    /// First row.
    row: usize,
    rows: usize,
    width: usize,
    /// `[rows, width]`, column-major.
    v: Vec<f64>,
    /// `V T`.
    vt: Vec<f64>,
}

impl Block {
    fn new(row: usize, v: Vec<f64>, tau: &[f64]) -> Self {
        let width = tau.len();
        let rows = v.len() / width.max(1);
        let mut t = vec![0.0; width * width];
        let v_ref = MatRef::from_column_major_slice(&v, rows, width);
        triangle(v_ref, tau, &mut t);
        Self::with_triangle(row, v, &t, width)
    }

    fn with_triangle(row: usize, v: Vec<f64>, t: &[f64], width: usize) -> Self {
        let rows = v.len() / width.max(1);
        let mut vt = vec![0.0; rows * width];
        gemm(
            MatMut::from_column_major_slice_mut(&mut vt, rows, width),
            Accum::Replace,
            MatRef::from_column_major_slice(&v, rows, width),
            MatRef::from_column_major_slice(t, width, width),
            1.0,
        );
        Self {
            row,
            rows,
            width,
            v,
            vt,
        }
    }

    /// `Z := (I - V T V^T) Z` in the block's rows; `inner`: at least `width` x columns of room.
    fn apply(&self, z: MatMut<'_, f64>, inner: &mut [f64]) {
        let columns = z.ncols();
        let mut z = z.subrows_mut(self.row, self.rows);
        let inner = &mut inner[..self.width * columns];
        let v = MatRef::from_column_major_slice(&self.v, self.rows, self.width);
        let vt = MatRef::from_column_major_slice(&self.vt, self.rows, self.width);
        gemm(
            MatMut::from_column_major_slice_mut(&mut *inner, self.width, columns),
            Accum::Replace,
            v.transpose(),
            z.as_ref(),
            1.0,
        );
        let inner = MatRef::from_column_major_slice(inner, self.width, columns);
        gemm(z.as_mut(), Accum::Add, vt, inner, -1.0);
    }
}

/// `Z := Q Z` with the reflections of the second stage.
pub(super) fn from_tridiagonal(chased: &Chased, z: &mut [f64], n: usize, threads: usize) {
    let sweeps = chased.vectors.len();
    let groups = sweeps.div_ceil(GROUP);
    let mut end = groups;
    while end > 0 {
        let start = end.saturating_sub(DEPTH);
        let blocks = blocks(chased, n, start..end, threads);
        let mut jobs = Vec::with_capacity(n.div_ceil(COLUMNS));
        for z in z.chunks_mut(n * COLUMNS) {
            let blocks = &blocks;
            jobs.push(move || {
                let columns = z.len() / n;
                let mut z = MatMut::from_column_major_slice_mut(z, n, columns);
                let mut inner = vec![0.0; GROUP * columns];
                for block in blocks {
                    block.apply(z.as_mut(), &mut inner);
                }
            });
        }
        run_all(jobs, threads);
        end = start;
    }
}

/// The blocks of some groups of sweeps in the order in which they are applied.
fn blocks(chased: &Chased, n: usize, groups: std::ops::Range<usize>, threads: usize) -> Vec<Block> {
    let steps = (n - groups.start * GROUP).div_ceil(BANDWIDTH);
    let places: Vec<(usize, usize)> = (0..steps)
        .flat_map(|j| groups.clone().rev().map(move |group| (group, j)))
        .collect();
    let mut found: Vec<Option<Block>> = places.iter().map(|_| None).collect();
    let jobs = found
        .iter_mut()
        .zip(&places)
        .map(|(to, &(group, j))| move || *to = block(chased, n, group, j))
        .collect();
    run_all(jobs, threads);
    found.into_iter().flatten().collect()
}

/// Block j of one group of sweeps; `None` where it has no row left.
fn block(chased: &Chased, n: usize, group: usize, j: usize) -> Option<Block> {
    let first = group * GROUP;
    let last = (first + GROUP).min(chased.vectors.len());
    let row = first + 1 + j * BANDWIDTH;
    let last = last.min((n).saturating_sub(1 + j * BANDWIDTH).max(first));
    let width = last - first;
    if width == 0 {
        return None;
    }
    let rows = (BANDWIDTH + width - 1).min(n - row);
    let mut v = vec![0.0; rows * width];
    let mut tau = Vec::with_capacity(width);
    for (i, column) in v.chunks_exact_mut(rows).enumerate() {
        let sweep = first + i;
        let own = &chased.vectors[sweep][j * BANDWIDTH..];
        let len = own.len().min(BANDWIDTH);
        column[i..i + len].copy_from_slice(&own[..len]);
        tau.push(chased.tau[sweep][j]);
    }
    Some(Block::new(row, v, &tau))
}

/// `Z := Q Z` with the reflections of the first stage, which lie in `a` `[n, n]` below the band.
pub(super) fn from_band(a: &[f64], panels: &[Panel], z: &mut [f64], n: usize, threads: usize) {
    let a = MatRef::from_column_major_slice(a, n, n);
    for panel in panels.iter().rev() {
        let row = panel.column + BANDWIDTH;
        let v = unit_trapezoid(a.submatrix(row, panel.column, n - row, BANDWIDTH), panel.width);
        let block = Block::with_triangle(row, v, &panel.t, panel.width);
        let mut jobs = Vec::with_capacity(n.div_ceil(COLUMNS));
        for z in z.chunks_mut(n * COLUMNS) {
            let block = &block;
            jobs.push(move || {
                let columns = z.len() / n;
                let mut inner = vec![0.0; block.width * columns];
                block.apply(MatMut::from_column_major_slice_mut(z, n, columns), &mut inner);
            });
        }
        run_all(jobs, threads);
    }
}
