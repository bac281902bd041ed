//! Products that leave out what is 0 in all of some rows of the left operand, as gradients of all outputs of one spectrum are at a unit whose ReLU
//! is off.
//!
//! What is left out is 0 times a finite number: a chain of multiply-adds is the same without it. So the product is the dense one (but for the sign of a 0
//! whose terms underflowed), and whether anything is left out is a question of time alone.

use std::ops::Range;

use faer::{ContiguousFwd, MatRef};

use crate::blocks::{Place, Sink, borrow_for, inner_block};
use crate::element::Element;
use crate::gemm::Destination;
use crate::packed::Packed;
use crate::threads::{run_numbered, run_on};
use crate::tile::{CHAIN, Tile};

/// The most inner indices, as a share, that are worth the leaving out of the others.
const WORTH: f64 = 0.75;

/// The fewest columns of the product for which zeros are looked for.
const FEWEST_COLUMNS: usize = 64;

/// The most rows that are multiplied together.
const MOST_ROWS: usize = 6;

/// Bytes of the right operand that are multiplied by one group of rows after another, out of the second cache level.
const NEAR_BYTES: usize = 128 << 10;

/// Groups that a thread looks through at a time.
const GROUPS_AT_ONCE: usize = 32;

/// Terms that memory is asked for ahead of their use.
pub(crate) const AHEAD: usize = 8;

/// Which rows of a left operand are a group, of one spectrum say.
#[derive(Clone, Copy, Debug)]
pub enum RowGroups {
    /// Those that are a multiple of so many apart: the number of groups.
    Apart(usize),
    /// So many that follow one another: the rows of each.
    Together(usize),
}

/// What is left of some rows: values of `[term][row]`.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a, T> {
    /// Number of terms of each chain.
    pub counts: &'a [u32],
    /// Of each term, where the row of its inner index begins in a strip of the right operand; behind the last, [`AHEAD`] more of some row.
    pub offsets: &'a [u32],
    pub values: &'a [T],
}

/// `c[i][j] (+)= sum_t values[t][i] rhs[offsets[t] + j]`, chain after chain: `(terms, rhs, numbers of a strip of it, c, row stride of c, add)`.
///
/// # Safety
/// `counts` adds up to the number of terms that `offsets` is of, and `values` has as many rows for each as the function makes; so many strips of
/// `rhs` as it takes have a row at each offset; nobody else touches that many rows of `c`, as wide as the strips together; the instructions of its
/// path are there.
pub(crate) type SkipFn<T> = unsafe fn(Terms<'_, T>, *const T, usize, *mut T, usize, bool);

/// The function for so many rows, and strips as [`strips_of`] them at most.
pub(crate) type Skip<T> = fn(usize, usize) -> SkipFn<T>;

/// Strips that so many rows are multiplied by together: with two registers of each strip, no more sums than registers hold.
const fn strips_of(rows: usize) -> usize {
    match rows {
        0..=2 => 3,
        3 => 2,
        _ => 1,
    }
}

/// [`Skip`] of a function of two constants.
macro_rules! skip {
    ($function:ident $(, $of:ty)?) => {
        |rows, strips| match (rows, strips) {
            (1, 1) => $function::<$($of,)? 1, 1>,
            (1, 2) => $function::<$($of,)? 1, 2>,
            (1, _) => $function::<$($of,)? 1, 3>,
            (2, 1) => $function::<$($of,)? 2, 1>,
            (2, 2) => $function::<$($of,)? 2, 2>,
            (2, _) => $function::<$($of,)? 2, 3>,
            (3, 1) => $function::<$($of,)? 3, 1>,
            (3, _) => $function::<$($of,)? 3, 2>,
            (4, _) => $function::<$($of,)? 4, 1>,
            (5, _) => $function::<$($of,)? 5, 1>,
            _ => $function::<$($of,)? 6, 1>,
        }
    };
}
pub(crate) use skip;

/// Makes `lhs rhs` into `dst` where leaving out zeros is faster; whether it did.
///
/// # Safety
/// The path of `rhs` is there; `dst` has the product's shape, and nobody else touches it.
pub(crate) unsafe fn product<T: Element>(
    dst: &Destination<'_, T>,
    lhs: MatRef<'_, T>,
    groups: RowGroups,
    rhs: &Packed<T>,
    threads: usize,
) -> bool {
    let tile = T::tile(rhs.path());
    // Strips of numbers that were taken apart have no row to an inner index.
    if tile.step > 1 || lhs.ncols() == 0 || rhs.cols() < FEWEST_COLUMNS {
        return false;
    }
    let Some(groups) = Groups::new(lhs, groups) else {
        return false;
    };
    let borrowed = borrow_for([lhs.nrows(), lhs.ncols(), rhs.cols()], threads);
    let threads = borrowed.as_ref().map_or(1, |borrowed| borrowed.threads);
    if groups.share(threads) > WORTH {
        return false;
    }
    for from in (0..lhs.ncols()).step_by(inner_block::<T>()) {
        let inner = inner_block::<T>().min(lhs.ncols() - from);
        let left = groups.left(from..from + inner, tile.cols, threads);
        let right = Block {
            tile: &tile,
            values: rhs.block(from, inner),
            strip: tile.strip(tile.cols, inner),
            cols: rhs.cols(),
            first: from == 0,
        };
        let (strips, near) = (rhs.cols().div_ceil(tile.cols), right.near(at_once(groups.rows)));
        run_numbered(strips.div_ceil(near), threads, |job| {
            let strips = job * near..strips.min((job + 1) * near);
            for group in 0..groups.n {
                for rows in parts(groups.rows) {
                    let left = left[group / GROUPS_AT_ONCE].terms(group % GROUPS_AT_ONCE, &rows);
                    let to = dst.rows(groups.row(group, rows.start), groups.apart);
                    // SAFETY: the caller's promise; no other job has these strips.
                    unsafe { right.times(left, rows.len(), strips.clone(), &to) };
                }
            }
        });
    }
    true
}

/// Rows of a group that are multiplied together, in parts of one size but for the last.
fn at_once(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(MOST_ROWS))
}

fn parts(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let at_once = at_once(rows);
    (0..rows)
        .step_by(at_once)
        .map(move |from| from..rows.min(from + at_once))
}

/// Rows of a left operand in groups: `g b`, `g b + a`, `g b + 2 a`, ... is one.
struct Groups<'a, T> {
    lhs: MatRef<'a, T, usize, usize, isize, ContiguousFwd>,
    n: usize,
    /// Of each group.
    rows: usize,
    /// `a`, between two rows of a group.
    apart: usize,
    /// `b`, between the first rows of two groups.
    between: usize,
}

impl<'a, T: Element> Groups<'a, T> {
    /// Of a matrix whose rows are not spread, in groups of more than one.
    fn new(lhs: MatRef<'a, T>, groups: RowGroups) -> Option<Self> {
        let (lhs, all) = (lhs.try_as_row_major()?, lhs.nrows());
        let (n, rows, apart, between) = match groups {
            RowGroups::Apart(n) => (n, all.checked_div(n)?, n, 1),
            RowGroups::Together(rows) => (all.checked_div(rows)?, rows, 1, rows),
        };
        assert_eq!(rows * n, all, "rows of a product in groups");
        (rows > 1 && n > 0).then_some(Self {
            lhs,
            n,
            rows,
            apart,
            between,
        })
    }

    /// Where a row of a group is.
    fn row(&self, group: usize, row: usize) -> usize {
        group * self.between + row * self.apart
    }

    /// What `make` makes of every [`GROUPS_AT_ONCE`] groups, in order.
    fn of_some<R: Send + Default>(&self, threads: usize, make: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
        let mut made: Vec<R> = Vec::new();
        made.resize_with(self.n.div_ceil(GROUPS_AT_ONCE), R::default);
        let jobs = made.iter_mut().enumerate().map(|(job, made)| {
            let (make, from) = (&make, job * GROUPS_AT_ONCE);
            move || *made = make(from..self.n.min(from + GROUPS_AT_ONCE))
        });
        run_on(jobs.collect(), threads);
        made
    }

    /// The share of inner indices at which a group is not 0.
    fn share(&self, threads: usize) -> f64 {
        let all = 0..self.lhs.ncols();
        let counts = self.of_some(threads, |groups| {
            let mut is_left = Vec::new();
            groups
                .map(|group| {
                    self.look(group, all.clone(), &mut is_left);
                    is_left.iter().filter(|&&left| left).count()
                })
                .sum::<usize>()
        });
        counts.iter().sum::<usize>() as f64 / (self.n * all.len()) as f64
    }

    /// What is left of all groups in a block of inner indices, for strips of so many columns.
    fn left(&self, block: Range<usize>, cols: usize, threads: usize) -> Vec<Left<T>> {
        self.of_some(threads, |groups| Left::new(self, groups, block.clone(), cols))
    }

    /// Of each inner index of a block, whether any of a group's rows is not 0 there.
    fn look(&self, group: usize, block: Range<usize>, is_left: &mut Vec<bool>) {
        is_left.clear();
        is_left.resize(block.len(), false);
        for row in 0..self.rows {
            for (left, x) in is_left.iter_mut().zip(&self.values(group, row)[block.clone()]) {
                *left |= *x != T::ZERO;
            }
        }
    }

    fn values(&self, group: usize, row: usize) -> &'a [T] {
        self.lhs.row(self.row(group, row)).as_slice()
    }
}

/// [`Terms`] of some groups over a block of inner indices, of one after another: memory for each alone would be asked of the system anew for
/// every product.
#[derive(Default)]
struct Left<T> {
    /// Of each group, as many as there are chains.
    counts: Vec<u32>,
    chains: usize,
    /// Of each group.
    terms: Vec<Range<usize>>,
    offsets: Vec<u32>,
    rows: usize,
    /// Of each group, part after part of its rows.
    values: Vec<T>,
}

impl<T: Element> Left<T> {
    fn new(of: &Groups<'_, T>, groups: Range<usize>, block: Range<usize>, cols: usize) -> Self {
        let (chains, rows) = (block.len().div_ceil(CHAIN), of.rows);
        let mut counts = vec![0; groups.len() * chains];
        let mut terms = Vec::with_capacity(groups.len());
        let (mut is_left, mut left) = (Vec::new(), Vec::new());
        for (group, counts) in groups.clone().zip(counts.chunks_exact_mut(chains)) {
            let first = left.len();
            of.look(group, block.clone(), &mut is_left);
            for (k, _) in is_left.iter().enumerate().filter(|(_, left)| **left) {
                counts[k / CHAIN] += 1;
                left.push(k as u32);
            }
            terms.push(first..left.len());
        }
        let mut values = Vec::with_capacity(left.len() * rows);
        for (group, terms) in groups.zip(&terms) {
            for part in parts(rows) {
                for k in &left[terms.clone()] {
                    let k = block.start + *k as usize;
                    values.extend(part.clone().map(|row| of.values(group, row)[k]));
                }
            }
        }
        left.iter_mut().for_each(|k| *k *= cols as u32);
        left.extend([0; AHEAD]);
        Self {
            counts,
            chains,
            terms,
            offsets: left,
            rows,
            values,
        }
    }

    /// Of some rows of one of the groups.
    fn terms(&self, group: usize, rows: &Range<usize>) -> Terms<'_, T> {
        let Range { start, end } = self.terms[group];
        let (n, first) = (end - start, start * self.rows);
        Terms {
            counts: &self.counts[group * self.chains..(group + 1) * self.chains],
            offsets: &self.offsets[start..end + AHEAD],
            values: &self.values[first + n * rows.start..first + n * rows.end],
        }
    }
}

/// A block of inner indices of a packed right operand.
struct Block<'a, T> {
    tile: &'a Tile<T>,
    values: &'a [T],
    /// Numbers of a strip.
    strip: usize,
    cols: usize,
    /// Whether the inner indices begin here.
    first: bool,
}

impl<T: Element> Block<'_, T> {
    /// Strips that stay near while they are multiplied by group after group, for so many rows at once.
    fn near(&self, rows: usize) -> usize {
        (NEAR_BYTES / (self.strip * size_of::<T>()))
            .max(1)
            .next_multiple_of(strips_of(rows))
    }

    /// Multiplies some strips by some rows of one group.
    ///
    /// # Safety
    /// The path of the tile is there; nobody else touches these columns of `to`.
    unsafe fn times(&self, left: Terms<'_, T>, rows: usize, strips: Range<usize>, to: &Destination<'_, T>) {
        for from in strips.clone().step_by(strips_of(rows)) {
            let wide = strips_of(rows).min(strips.end - from);
            let tile = Tile {
                rows,
                cols: wide * self.tile.cols,
                ..*self.tile
            };
            let col = from * self.tile.cols;
            let place = Place {
                row: 0,
                col,
                rows,
                cols: tile.cols.min(self.cols - col),
            };
            let (multiply, right) = (
                (self.tile.skip)(rows, wide),
                &self.values[from * self.strip..][..wide * self.strip],
            );
            // SAFETY: the terms' offsets are those of inner indices of this block, in strips of it; the destination hands out room for the whole tile; the
            // caller's promise.
            unsafe {
                to.take(place, &tile, rows, self.first, |c, stride, add| {
                    multiply(left, right.as_ptr(), self.strip, c, stride, add);
                });
            }
        }
    }
}

#[cfg(test)]
#[path = "zeros_tests.rs"]
mod tests;
