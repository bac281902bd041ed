//! Second stage: a symmetric band to a tridiagonal, `B = Q T Q^T`, by chasing bulges with short reflections.
//!
//! Sweep s clears column s with a reflection of rows `s + 1 ..= s + b`; that fills a triangle b rows below, of which the first column is
//! cleared by a reflection of the next b rows, and so on to the end. The step of sweep s at block j changes no more than the columns
//! `s + 1 + j b .. s + 1 + (j + 1) b` of the lower triangle, so step `j` of sweep `s + 1` can follow step `j + 1` of sweep s, and all
//! steps of a wave `2 s + j` are independent. (Schwarz 1968, Numer. Math. 12, 231; Haidar, Ltaief and Dongarra 2011, SC '11, 8.)

use std::collections::VecDeque;

use fisherflow_kernels::run_all;
use pulp::{Simd, WithSimd};

use super::band::BANDWIDTH;
use super::householder::{axpy, dot, reflector, total};

/// Rows of the lower band that are held: the band, and the bulges below it.
const HELD: usize = 2 * BANDWIDTH;

/// A tridiagonal matrix and the reflections that led to it.
pub(super) struct Chased {
    /// Main diagonal, `[n]`.
    pub diagonal: Vec<f64>,
    /// Diagonal below, `[n]`, the last element 0.
    pub off_diagonal: Vec<f64>,
    /// Of sweep s: v of all its reflections one after the other, rows `s + 1 .. n`.
    pub vectors: Vec<Vec<f64>>,
    /// Of sweep s: tau of its reflections.
    pub tau: Vec<Vec<f64>>,
}

/// A sweep under way.
struct Sweep {
    s: usize,
    /// The block that its next step is at.
    j: usize,
    vectors: Vec<f64>,
    tau: Vec<f64>,
}

/// Reduces the band in the lower triangle of `a` `[n, n]`, column-major.
pub(super) fn to_tridiagonal(a: &[f64], n: usize, threads: usize) -> Chased {
    let mut band = vec![0.0; n * HELD];
    for (c, column) in band.chunks_exact_mut(HELD).enumerate() {
        let len = (BANDWIDTH + 1).min(n - c);
        column[..len].copy_from_slice(&a[c * n + c..][..len]);
    }
    let sweeps = n.saturating_sub(2);
    let (mut vectors, mut tau) = (Vec::with_capacity(sweeps), Vec::with_capacity(sweeps));
    let mut active: VecDeque<Sweep> = VecDeque::new();
    let mut next = 0;
    let mut wave = 0;
    while next < sweeps || !active.is_empty() {
        if wave % 2 == 0 && next < sweeps {
            active.push_back(begin(&mut band, n, next));
            next += 1;
        }
        wave += 1;
        step_all(&mut active, &mut band, n, threads);
        while active
            .front()
            .is_some_and(|sweep| sweep.s + 1 + sweep.j * BANDWIDTH >= n)
        {
            if let Some(done) = active.pop_front() {
                vectors.push(done.vectors);
                tau.push(done.tau);
            }
        }
    }
    Chased {
        diagonal: band.chunks_exact(HELD).map(|column| column[0]).collect(),
        off_diagonal: band.chunks_exact(HELD).map(|column| column[1]).collect(),
        vectors,
        tau,
    }
}

/// Clears column s below the first subdiagonal.
fn begin(band: &mut [f64], n: usize, s: usize) -> Sweep {
    let len = BANDWIDTH.min(n - s - 1);
    let column = &mut band[s * HELD + 1..][..len];
    let mut vectors = Vec::with_capacity(n - s - 1);
    vectors.extend_from_slice(column);
    let (beta, tau) = reflector(&mut vectors);
    column.fill(0.0);
    column[0] = beta;
    Sweep {
        s,
        j: 0,
        vectors,
        tau: vec![tau],
    }
}

/// One step of every sweep under way: the oldest is the furthest to the right.
fn step_all(active: &mut VecDeque<Sweep>, band: &mut [f64], n: usize, threads: usize) {
    let mut steps: Vec<(&mut Sweep, &mut [f64])> = Vec::with_capacity(active.len());
    let (mut rest, mut end) = (band, 0);
    for sweep in active.iter_mut().rev() {
        let first = sweep.s + 1 + sweep.j * BANDWIDTH;
        if first >= n {
            continue;
        }
        let len = BANDWIDTH.min(n - first);
        let (columns, later) = rest.split_at_mut((first + len - end) * HELD);
        steps.push((sweep, &mut columns[(first - end) * HELD..]));
        (rest, end) = (later, first + len);
    }
    let share = steps.len().div_ceil(threads.max(1)).max(2);
    let jobs: Vec<_> = steps
        .chunks_mut(share)
        .map(|chunk| move || pulp::Arch::new().dispatch(Steps { chunk, n }))
        .collect();
    run_all(jobs, threads);
}

/// The steps that one thread does in a wave, compiled for the widest registers that the processor has.
struct Steps<'a, 'b> {
    chunk: &'a mut [(&'b mut Sweep, &'b mut [f64])],
    n: usize,
}

impl WithSimd for Steps<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (sweep, columns) in self.chunk {
            step(sweep, columns, self.n);
        }
    }
}

/// Applies the sweep's last reflection to its block from both sides, and clears the first column of the bulge that comes of it.
#[inline(always)]
fn step(sweep: &mut Sweep, columns: &mut [f64], n: usize) {
    let first = sweep.s + 1 + sweep.j * BANDWIDTH;
    let len = BANDWIDTH.min(n - first);
    let below = BANDWIDTH.min(n - first - len);
    let begin = sweep.vectors.len();
    sweep.vectors.resize(begin + below, 0.0);
    let (v, next) = sweep.vectors.split_at_mut(begin);
    let v = &v[begin - len..];
    let tau = sweep.tau.last().copied().unwrap_or_default();
    if tau != 0.0 {
        both_sides(columns, v, tau);
    }
    if below > 0 {
        sweep.tau.push(bulge(columns, v, tau, next));
    }
    sweep.j += 1;
}

/// `D := H D H` of the diagonal block in the first rows of `columns`.
#[inline(always)]
fn both_sides(columns: &mut [f64], v: &[f64], tau: f64) {
    let len = v.len();
    let mut w = [0.0; BANDWIDTH];
    let w = &mut w[..len];
    for (c, column) in columns.chunks_exact(HELD).enumerate() {
        let (d, v_c) = (&column[..len - c], v[c]);
        w[c] += d[0] * v_c + dot_axpy(&d[1..], &v[c + 1..], v_c, &mut w[c + 1..]);
    }
    let half = -0.5 * tau * tau * dot(w, v);
    for (w, v) in w.iter_mut().zip(v) {
        *w = tau * *w + half * v;
    }
    for (c, column) in columns.chunks_exact_mut(HELD).enumerate() {
        let (v_c, w_c) = (v[c], w[c]);
        for ((d, v), w) in column[..len - c].iter_mut().zip(&v[c..]).zip(&w[c..]) {
            *d = (-v).mul_add(w_c, (-w).mul_add(v_c, *d));
        }
    }
}

/// `to += f a`, and `a . v`.
#[inline(always)]
fn dot_axpy(a: &[f64], v: &[f64], f: f64, to: &mut [f64]) -> f64 {
    let mut sums = [0.0; 16];
    let mut rest = 0.0;
    let len = a.len() / 16 * 16;
    let (a, a_rest) = a.split_at(len);
    let (v, v_rest) = v.split_at(len);
    let (to, to_rest) = to.split_at_mut(len);
    for ((a, v), to) in a.chunks_exact(16).zip(v.chunks_exact(16)).zip(to.chunks_exact_mut(16)) {
        for i in 0..16 {
            sums[i] = a[i].mul_add(v[i], sums[i]);
            to[i] = f.mul_add(a[i], to[i]);
        }
    }
    for ((a, v), to) in a_rest.iter().zip(v_rest).zip(to_rest) {
        rest += a * v;
        *to += f * a;
    }
    rest + total(sums)
}

/// `B := B H` of the block below the diagonal block, then `B := H' B` with the reflection H' that clears its first column; v of H' goes to
/// `next`, its tau is returned.
#[inline(always)]
fn bulge(columns: &mut [f64], v: &[f64], tau: f64, next: &mut [f64]) -> f64 {
    let (len, below) = (v.len(), next.len());
    let mut u = [0.0; BANDWIDTH];
    let u = &mut u[..below];
    if tau != 0.0 {
        multiples(columns, v, tau, u);
    }
    let mut next_tau = 0.0;
    for (c, column) in columns.chunks_exact_mut(HELD).enumerate() {
        let b = &mut column[len - c..][..below];
        if tau != 0.0 {
            axpy(b, -v[c], u);
        }
        if c == 0 {
            next.copy_from_slice(b);
            let (beta, tau) = reflector(next);
            next_tau = tau;
            b.fill(0.0);
            b[0] = beta;
        } else if next_tau != 0.0 {
            let f = -next_tau * dot(b, next);
            axpy(b, f, next);
        }
    }
    next_tau
}

/// `u += tau B v`.
#[inline(always)]
fn multiples(columns: &[f64], v: &[f64], tau: f64, u: &mut [f64]) {
    let (len, below) = (v.len(), u.len());
    let mut fours = columns.chunks_exact(4 * HELD);
    for (four, columns) in fours.by_ref().enumerate() {
        let c = 4 * four;
        let f: [f64; 4] = std::array::from_fn(|i| tau * v[c + i]);
        let of = |i: usize| &columns[i * HELD + len - c - i..][..below];
        for ((((u, b0), b1), b2), b3) in u.iter_mut().zip(of(0)).zip(of(1)).zip(of(2)).zip(of(3)) {
            *u = f[3].mul_add(*b3, f[2].mul_add(*b2, f[1].mul_add(*b1, f[0].mul_add(*b0, *u))));
        }
    }
    let done = len / 4 * 4;
    for (c, column) in fours.remainder().chunks_exact(HELD).enumerate() {
        let c = done + c;
        axpy(u, tau * v[c], &column[len - c..][..below]);
    }
}
