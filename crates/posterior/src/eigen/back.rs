//! Eigenvectors of the tridiagonal matrix to those of the band and of the full matrix: reflections applied in blocks.
//!
//! Reflections of one block j of [`GROUP`] sweeps one after the other are shifted by a row each and make one `I - V T V^T` of
//! `b + GROUP - 1` rows. Within a group of sweeps, blocks are applied from the first to the last; and a later sweep's block j before an
//! earlier sweep's, so that [`DEPTH`] groups pass over the same rows while those are in the cache.

use faer::MatRef;
use fisherflow_kernels::{ColumnStrips, Path, StripUpdate, multiplied, run_all};

use super::band::{BANDWIDTH, Panel, unit_trapezoid};
use super::chase::Chased;
use super::householder::triangle;

/// Sweeps of which reflections are applied in one block: the fewer, the fewer zeros are multiplied.
const GROUP: usize = 18;

/// Groups that pass over a window of rows together.
const DEPTH: usize = 10;

/// Panels of the first stage that are applied in one block: the more, the fewer times eigenvectors come from memory.
const PANELS: usize = 2;

/// Reflections as an update, `I - V T V^T`; `v`: `[rows, reflections]`, column-major, each over at most `reach` rows.
fn reflections(row: usize, v: &[f64], tau: &[f64], reach: usize, threads: usize) -> StripUpdate {
    let r = tau.len();
    let rows = v.len() / r.max(1);
    let v = MatRef::from_column_major_slice(v, rows, r);
    let mut t = vec![0.0; r * r];
    triangle(v, tau, &mut t);
    t.iter_mut().for_each(|t| *t = -*t);
    let minus_vt = multiplied(None, v, MatRef::from_column_major_slice(&t, r, r), threads);
    let minus_vt = MatRef::from_row_major_slice(&minus_vt, rows, r);
    StripUpdate::new(Path::best(), row, v, minus_vt, reach)
}

/// `Z := Q Z` with the reflections of the second stage.
pub(super) fn from_tridiagonal(chased: &Chased, z: &mut ColumnStrips, n: usize, threads: usize) {
    let sweeps = chased.vectors.len();
    let groups = sweeps.div_ceil(GROUP);
    let mut end = groups;
    while end > 0 {
        let start = end.saturating_sub(DEPTH);
        z.update(&blocks(chased, n, start..end, threads), threads);
        end = start;
    }
}

/// The blocks of some groups of sweeps in the order in which they are applied.
fn blocks(chased: &Chased, n: usize, groups: std::ops::Range<usize>, threads: usize) -> Vec<StripUpdate> {
    let steps = (n - groups.start * GROUP).div_ceil(BANDWIDTH);
    let places: Vec<(usize, usize)> = (0..steps)
        .flat_map(|j| groups.clone().rev().map(move |group| (group, j)))
        .collect();
    let mut found: Vec<Option<StripUpdate>> = places.iter().map(|_| None).collect();
    let jobs = found
        .iter_mut()
        .zip(&places)
        .map(|(to, &(group, j))| move || *to = block(chased, n, group, j))
        .collect();
    run_all(jobs, threads);
    found.into_iter().flatten().collect()
}

/// Block j of one group of sweeps; `None` where it has no row left, or nothing is reflected.
fn block(chased: &Chased, n: usize, group: usize, j: usize) -> Option<StripUpdate> {
    let first = group * GROUP;
    let last = (first + GROUP).min(chased.vectors.len());
    let row = first + 1 + j * BANDWIDTH;
    let last = last.min(n.saturating_sub(1 + j * BANDWIDTH).max(first));
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
    if tau.iter().all(|tau| *tau == 0.0) {
        return None;
    }
    Some(reflections(row, &v, &tau, BANDWIDTH, 1))
}

/// `Z := Q Z` with the reflections of the first stage, which lie in `a` `[n, n]` below the band.
pub(super) fn from_band(a: &[f64], panels: &[Panel], z: &mut ColumnStrips, n: usize, threads: usize) {
    let a = MatRef::from_column_major_slice(a, n, n);
    // Panels side by side are one trapezoid: each begins as many rows below the one before as that has reflections.
    let side_by_side = panels.chunk_by(|one, next| one.column + BANDWIDTH == next.column);
    for panels in side_by_side.rev().flat_map(|panels| panels.chunks(PANELS).rev()) {
        let tau: Vec<f64> = panels.iter().flat_map(|panel| &panel.tau).copied().collect();
        let (row, column) = (panels[0].column + BANDWIDTH, panels[0].column);
        let v = unit_trapezoid(a.submatrix(row, column, n - row, tau.len()), tau.len());
        z.update(&[reflections(row, &v, &tau, n - row, threads)], threads);
    }
}
