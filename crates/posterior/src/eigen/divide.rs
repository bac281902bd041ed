//! Eigenpairs of a symmetric tridiagonal matrix by divide and conquer.
//!
//! Cut in two, with one off-diagonal element e taken out, the matrix is `diag(T1, T2) + |e| u u^T`. With the eigenpairs of both halves that
//! is a diagonal matrix plus `rho z z^T`, whose eigenvalues are the roots of a secular equation ([`secular`](super::secular)). Where z or a
//! difference of two eigenvalues is below rounding, the eigenpair stays as it is (deflation). The eigenvectors of the halves are zero in
//! the other half, so those of the whole are two products of half the rows. (Cuppen 1981, Numer. Math. 36, 177; Gu and Eisenstat 1995, SIAM J.
//! Matrix Anal. Appl. 16, 172; Tisseur and Dongarra 1999, SIAM J. Sci. Comput. 20, 2223.)

use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{
    ComputeEigenvectors, SelfAdjointEvdParams, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd,
};
use faer::{ColMut, MatMut, MatRef, Par, Spec};
use fisherflow_kernels::{Packed, Start, multiply_packed, run_all};

use super::Failure;
use super::secular::{ExactWeights, FindRoots, Root, Secular, Vectors};

/// A part of fewer rows is not cut.
const LEAF: usize = 64;

/// The matrix is cut into so many parts that are solved side by side; their merges use all threads.
const SIDE_BY_SIDE: usize = 16;

/// Roots, or weights, that a thread computes at a time.
const CHUNK: usize = 64;

/// Eigenvectors that a thread computes at a time.
const COLUMNS: usize = 128;

/// Eigenvalues, ascending, of the matrix with `diagonal` `[n]` and `off_diagonal` `[n - 1]` or longer; eigenvectors, one after the other, go
/// to `vectors` `[n, n]`, which is all zero.
pub(super) fn eigenpairs(
    diagonal: &[f64],
    off_diagonal: &[f64],
    vectors: &mut [f64],
    threads: usize,
) -> Result<Vec<f64>, Failure> {
    let n = diagonal.len();
    let mut values = diagonal.to_vec();
    let mut part = Part {
        values: &mut values,
        off_diagonal: &off_diagonal[..n.saturating_sub(1)],
        vectors: MatMut::from_column_major_slice_mut(vectors, n, n),
    };
    part.cut_all();
    part.solve(n.div_ceil(SIDE_BY_SIDE).max(LEAF), threads)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    permute_columns(vectors, n, &order);
    Ok(order.into_iter().map(|i| values[i]).collect())
}

/// Rows and columns of the matrix that belong together.
struct Part<'a> {
    /// The diagonal, then the eigenvalues, in the order of the vectors.
    values: &'a mut [f64],
    off_diagonal: &'a [f64],
    vectors: MatMut<'a, f64>,
}

impl<'a> Part<'a> {
    fn reborrow(&mut self) -> Part<'_> {
        Part {
            values: self.values,
            off_diagonal: self.off_diagonal,
            vectors: self.vectors.as_mut(),
        }
    }

    fn is_leaf(&self) -> bool {
        self.values.len() <= LEAF
    }

    fn halves(self) -> (Self, Self) {
        let half = self.values.len() / 2;
        let (values1, values2) = self.values.split_at_mut(half);
        let (vectors1, _, _, vectors2) = self.vectors.split_at_mut(half, half);
        let first = Part {
            values: values1,
            off_diagonal: &self.off_diagonal[..half - 1],
            vectors: vectors1,
        };
        let second = Part {
            values: values2,
            off_diagonal: &self.off_diagonal[half..],
            vectors: vectors2,
        };
        (first, second)
    }

    /// Takes every off-diagonal element at which the matrix is cut out of the diagonal.
    fn cut_all(&mut self) {
        if self.is_leaf() {
            return;
        }
        let half = self.values.len() / 2;
        let rho = self.off_diagonal[half - 1].abs();
        self.values[half - 1] -= rho;
        self.values[half] -= rho;
        let (mut first, mut second) = self.reborrow().halves();
        first.cut_all();
        second.cut_all();
    }

    /// Solves parts of up to `alone` rows on one thread each, side by side, then merges them.
    fn solve(mut self, alone: usize, threads: usize) -> Result<(), Failure> {
        let mut parts = Vec::new();
        self.reborrow().collect(alone, &mut parts);
        let mut results: Vec<Result<(), Failure>> = parts.iter().map(|_| Ok(())).collect();
        let jobs = parts
            .into_iter()
            .zip(&mut results)
            .map(|(part, result)| move || *result = part.solve_alone())
            .collect();
        run_all(jobs, threads);
        results.into_iter().collect::<Result<(), Failure>>()?;
        self.merge_all(alone, threads);
        Ok(())
    }

    fn collect(self, alone: usize, into: &mut Vec<Part<'a>>) {
        if self.values.len() <= alone {
            into.push(self);
        } else {
            let (first, second) = self.halves();
            first.collect(alone, into);
            second.collect(alone, into);
        }
    }

    fn merge_all(mut self, alone: usize, threads: usize) {
        if self.values.len() <= alone {
            return;
        }
        let (first, second) = self.reborrow().halves();
        first.merge_all(alone, threads);
        second.merge_all(alone, threads);
        merge(self, threads);
    }

    fn solve_alone(mut self) -> Result<(), Failure> {
        if self.is_leaf() {
            return self.leaf();
        }
        let (first, second) = self.reborrow().halves();
        first.solve_alone()?;
        second.solve_alone()?;
        merge(self, 1);
        Ok(())
    }

    /// By the QR algorithm.
    fn leaf(self) -> Result<(), Failure> {
        let n = self.values.len();
        let diagonal = self.values.to_vec();
        let mut off_diagonal = self.off_diagonal.to_vec();
        off_diagonal.push(0.0);
        let mut params: SelfAdjointEvdParams = <SelfAdjointEvdParams as faer::Auto<f64>>::auto();
        params.recursion_threshold = LEAF + 1;
        let params: Spec<SelfAdjointEvdParams, f64> = params.into();
        let request = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, params);
        let mut workspace =
            MemBuffer::try_new(request).map_err(|_| Failure::Memory(request.unaligned_bytes_required()))?;
        tridiagonal_self_adjoint_evd(
            DiagRef::from_slice(&diagonal),
            DiagRef::from_slice(&off_diagonal),
            DiagMut::from_slice_mut(self.values),
            Some(self.vectors),
            Par::Seq,
            MemStack::new(&mut workspace),
            params,
        )
        .map_err(|_| Failure::NoConvergence)
    }
}

/// Where the vector of an eigenpair of the halves is not zero.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Rows {
    Upper,
    Both,
    Lower,
}

/// Eigenpairs of a part from those of its halves.
fn merge(part: Part<'_>, threads: usize) {
    let Part {
        values,
        off_diagonal,
        mut vectors,
    } = part;
    let (n, half) = (values.len(), values.len() / 2);
    let e = off_diagonal[half - 1];
    let sign = 1.0f64.copysign(e) * std::f64::consts::FRAC_1_SQRT_2;
    let mut z: Vec<f64> = (0..n)
        .map(|i| match i < half {
            true => vectors[(half - 1, i)] * std::f64::consts::FRAC_1_SQRT_2,
            false => vectors[(half, i)] * sign,
        })
        .collect();
    let rho = 2.0 * e.abs();
    let mut rows: Vec<Rows> = (0..n)
        .map(|i| if i < half { Rows::Upper } else { Rows::Lower })
        .collect();
    let changed = deflate(values, &mut z, rho, &mut rows, vectors.as_mut());
    let k = changed.len();
    if k == 0 {
        return;
    }
    let d: Vec<f64> = changed.iter().map(|&i| values[i]).collect();
    let weights: Vec<f64> = changed.iter().map(|&i| z[i]).collect();
    let equation = Secular {
        d: &d,
        z: &weights,
        rho,
    };
    let roots = roots(equation, threads);
    let poles: Vec<f64> = roots.iter().map(|root| d[root.pole]).collect();
    let offsets: Vec<f64> = roots.iter().map(|root| root.offset).collect();
    let exact = exact_weights(equation, &poles, &offsets, threads);

    // Rows of the small eigenvectors by where the halves' eigenvectors are not zero, so that both products leave out what is.
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by_key(|&i| match rows[changed[i]] {
        Rows::Upper => 0,
        Rows::Both => 1,
        Rows::Lower => 2,
    });
    let upper = order.iter().filter(|&&i| rows[changed[i]] == Rows::Upper).count();
    let lower = order.iter().filter(|&&i| rows[changed[i]] == Rows::Lower).count();
    let both = k - upper - lower;
    let (d_rows, exact_rows): (Vec<f64>, Vec<f64>) = order.iter().map(|&i| (d[i], exact[i])).unzip();
    let packed = |which: &[usize], from: usize, len: usize| {
        let mut copy = vec![0.0; len * which.len()];
        for (to, &i) in copy.chunks_exact_mut(len).zip(which) {
            to.iter_mut()
                .zip(vectors.as_ref().col(changed[i]).subrows(from, len).iter())
                .for_each(|(to, from)| *to = *from);
        }
        Packed::new(MatRef::from_row_major_slice(&copy, which.len(), len), threads)
    };
    let upper_vectors = packed(&order[..upper + both], 0, half);
    let lower_vectors = packed(&order[upper..], half, n - half);
    // New eigenvectors take the places of those that change; what stays is not touched.
    let mut places: Vec<Option<ColMut<'_, f64>>> = vectors.as_mut().col_iter_mut().map(Some).collect();
    let mut jobs = Vec::with_capacity(k.div_ceil(COLUMNS));
    for start in (0..k).step_by(COLUMNS) {
        let len = COLUMNS.min(k - start);
        let own: Vec<ColMut<'_, f64>> = changed[start..start + len]
            .iter()
            .filter_map(|&i| places[i].take())
            .collect();
        let (poles, offsets) = (&poles[start..start + len], &offsets[start..start + len]);
        let (d, exact) = (&d_rows, &exact_rows);
        let (upper_vectors, lower_vectors) = (&upper_vectors, &lower_vectors);
        jobs.push(move || {
            let (mut small, mut new) = (vec![0.0; k * len], vec![0.0; n * len]);
            pulp::Arch::new().dispatch(Vectors {
                d,
                exact,
                poles,
                offsets,
                vectors: &mut small,
            });
            let small = MatRef::from_column_major_slice(&small, k, len);
            let of_upper = small.subrows(0, upper + both).transpose();
            let of_lower = small.subrows(upper, both + lower).transpose();
            let (above, below) = MatMut::from_row_major_slice_mut(&mut new, len, n).split_at_col_mut(half);
            multiply_packed(above, Start::Zero, of_upper, upper_vectors, 1);
            multiply_packed(below, Start::Zero, of_lower, lower_vectors, 1);
            for (to, from) in own.into_iter().zip(new.chunks_exact(n)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        });
    }
    run_all(jobs, threads);
    for (&i, (pole, offset)) in changed.iter().zip(poles.iter().zip(&offsets)) {
        values[i] = pole + offset;
    }
}

/// Which eigenpairs of the halves the merge changes, by ascending eigenvalue; of two that are nearly equal one is made to stay by a rotation.
fn deflate(values: &mut [f64], z: &mut [f64], rho: f64, rows: &mut [Rows], mut vectors: MatMut<'_, f64>) -> Vec<usize> {
    let n = values.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let largest = values.iter().fold(rho, |m, v| m.max(v.abs()));
    let tolerance = 8.0 * f64::EPSILON * largest;
    let mut changed = Vec::with_capacity(n);
    let mut before: Option<usize> = None;
    for j in order {
        if rho * z[j].abs() <= tolerance {
            continue;
        }
        let Some(i) = before.replace(j) else {
            continue;
        };
        let length = z[i].hypot(z[j]);
        let (c, s) = (z[j] / length, -z[i] / length);
        if ((values[j] - values[i]) * c * s).abs() > tolerance {
            changed.push(i);
            continue;
        }
        (z[i], z[j]) = (0.0, length);
        rotate(vectors.as_mut(), i, j, c, s);
        let (a, b) = (values[i], values[j]);
        values[i] = a * c * c + b * s * s;
        values[j] = a * s * s + b * c * c;
        if rows[i] != rows[j] {
            rows[j] = Rows::Both;
        }
    }
    changed.extend(before);
    changed
}

/// Columns `x_i := c x_i + s x_j`, `x_j := c x_j - s x_i`.
fn rotate(vectors: MatMut<'_, f64>, i: usize, j: usize, c: f64, s: f64) {
    let (low, high) = (i.min(j), i.max(j));
    let (first, second) = vectors.split_at_col_mut(high);
    let (a, b) = (first.col_mut(low), second.col_mut(0));
    let (x, y) = if i < j { (a, b) } else { (b, a) };
    for (x, y) in x.iter_mut().zip(y.iter_mut()) {
        (*x, *y) = (c * *x + s * *y, c * *y - s * *x);
    }
}

fn roots(equation: Secular<'_>, threads: usize) -> Vec<Root> {
    let mut roots = vec![Root::default(); equation.d.len()];
    let jobs = roots
        .chunks_mut(CHUNK)
        .enumerate()
        .map(|(i, roots)| {
            let first = i * CHUNK;
            move || pulp::Arch::new().dispatch(FindRoots { equation, first, roots })
        })
        .collect();
    run_all(jobs, threads);
    roots
}

fn exact_weights(equation: Secular<'_>, poles: &[f64], offsets: &[f64], threads: usize) -> Vec<f64> {
    let mut exact = vec![0.0; equation.d.len()];
    let jobs = exact
        .chunks_mut(CHUNK)
        .enumerate()
        .map(|(i, exact)| {
            let first = i * CHUNK;
            move || {
                pulp::Arch::new().dispatch(ExactWeights {
                    equation,
                    poles,
                    offsets,
                    first,
                    exact,
                });
            }
        })
        .collect();
    run_all(jobs, threads);
    exact
}

/// Column j becomes what column `order[j]` was.
fn permute_columns(values: &mut [f64], n: usize, order: &[usize]) {
    let mut done = vec![false; n];
    let mut first = vec![0.0; n];
    for start in 0..n {
        if done[start] || order[start] == start {
            continue;
        }
        first.copy_from_slice(&values[start * n..][..n]);
        let mut to = start;
        loop {
            done[to] = true;
            let from = order[to];
            if from == start {
                values[to * n..][..n].copy_from_slice(&first);
                break;
            }
            values.copy_within(from * n..(from + 1) * n, to * n);
            to = from;
        }
    }
}
