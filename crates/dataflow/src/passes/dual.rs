//! The dual block's part of the invert pass: the tiles of its Gram matrix and of their Cholesky factor, spread over all workers.
//!
//! Worker `i mod workers` owns row i of tiles. Block columns are factored one after another, some at a time where memory ends:
//!
//! ```text
//! for columns [first, end):                          all of them in memory
//!     own tiles (i, j), j in [first, end):  open with Q, subtract L_ik L_jk^T for k < first        from the tiles' folder
//!     for j in [first, end):
//!         owner of j: L_jj;  its row from `first` on to every process
//!         owners of i > j:  subtract k in [first, j),  L_ij
//! ```
//!
//! Every tile has its terms subtracted in the order of k, whoever does it and wherever the others are kept.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_curvature::Matrix;
use fisherflow_posterior::{
    BlockInfo, DualFacts, DualSource, OpenTile, Spectrum, WholeGram, dual_marginal_variance, gram_tile,
    trace_of_inverse,
};
use fisherflow_store::WrittenFile;
use timely::worker::Worker;

use super::{by_first, each, run, share_of};
use crate::context::Context;
use crate::dual_files;
use crate::dual_storage::{DualRows, DualStorage};
use crate::error::RunError;
use crate::files;
use crate::job::Prior;
use crate::operators::{Part, deliver};

/// Rows of a Gram matrix whose eigenvalues are computed: about 650 MB, and some minutes.
pub(crate) const LARGEST_SPECTRUM: usize = 9_000;

/// A tile on its way: row, column, rows, columns, values.
type Sent = (u64, u64, u64, u64, Vec<f64>);

/// Whether the eigenvalues of the run's dual block's Gram matrix are needed.
pub(crate) fn needs_spectrum(context: &Context) -> bool {
    let plan = context.dual_plan();
    plan.is_some_and(|plan| spectrum_is_needed(context.job.prior, context.given_priors[plan.id]))
}

/// Whether the eigenvalues of the Gram matrix of a dual block that is given such a prior precision, or none, are needed: to find its own, or to look at
/// held-out spectra with any.
pub(crate) fn spectrum_is_needed(prior: Prior, given: Option<f64>) -> bool {
    match prior {
        Prior::Fixed(_) => false,
        Prior::Evidence | Prior::EvidencePerBlock => given.is_none(),
        Prior::Holdout => true,
    }
}

/// Refuses a Gram matrix that is too large for its eigenvalues; `n_rows`: as far as they are known.
pub(crate) fn check_spectrum(n_rows: usize) -> Result<(), RunError> {
    if n_rows <= LARGEST_SPECTRUM {
        return Ok(());
    }
    Err(RunError::Refused(format!(
        "prior.precision = \"evidence\" and \"holdout\" need the eigenvalues of the dual block's Gram matrix, of {n_rows} rows or more (spectra \
         times labels), which this version computes up to {LARGEST_SPECTRUM}: give prior.precision a number, for instance that found over fewer \
         spectra"
    )))
}

/// The eigenvalues of the block's Hessian, on every worker.
pub(crate) fn spectrum(
    worker: &mut Worker,
    context: &Arc<Context>,
    rows: &Arc<DualRows>,
) -> Result<Spectrum, RunError> {
    let layout = &rows.layout;
    check_spectrum(layout.n_rows())?;
    let threads = context.network.arithmetic().threads;
    let mut parts = Vec::new();
    for row in share_of(worker, layout.n_chunks()) {
        for column in 0..=row {
            let tile = gram_tile(rows.rows(row)?.as_ref(), rows.rows(column)?.as_ref(), threads);
            parts.push(Part {
                key: 0,
                value: sent(row, column, &tile),
            });
        }
    }
    let whole: Rc<RefCell<Option<WholeGram>>> = Rc::default();
    if worker.index() == 0 {
        whole.replace(Some(WholeGram::new(layout)));
    }
    let filling = Rc::clone(&whole);
    run(worker, context, |scope, probe| {
        let receive = move |(row, column, _, _, values): Sent| {
            if let Some(whole) = filling.borrow_mut().as_mut() {
                whole.put(row as usize, column as usize, &values);
            }
            Ok(())
        };
        deliver(scope, &context.faults, parts, receive, probe);
    })?;
    let solving = Arc::clone(context);
    by_first(worker, context, "Spectrum", move || {
        let whole = whole.take();
        let whole = whole.ok_or_else(|| RunError::Internal("a Gram matrix is not with its owner".into()))?;
        Ok(whole.spectrum(solving.cores)?)
    })
}

/// Factors `Q + delta I`, and writes what a prediction needs.
pub(crate) fn invert(
    worker: &mut Worker,
    context: &Arc<Context>,
    storage: &Arc<DualStorage>,
) -> Result<(BlockInfo, Vec<WrittenFile>), RunError> {
    if worker.index().is_multiple_of(context.workers) {
        let n = storage.rows.layout.n_chunks() as u64;
        context.progress.begin_over_tiles("factor", n * (n + 1) / 2);
    }
    factor(worker, context, storage)?;
    let layout = storage.rows.layout.clone();
    let threads = context.network.arithmetic().threads;
    let (writing, concluding) = (Arc::clone(context), Arc::clone(storage));
    let own = share_of(worker, layout.n_chunks());
    let rows = each(worker, context, "Rows", own, move |chunk| {
        let storage = concluding.as_ref();
        let layout = &storage.rows.layout;
        let tile = storage.factor(chunk, chunk)?;
        let mut facts = DualFacts::of(storage.rows.rows(chunk)?.as_ref(), &tile);
        facts.trace_of_inverse = trace_of_inverse(layout, storage, chunk, threads)?;
        Ok((facts, dual_files::write_factor(&writing, layout, chunk, storage)?))
    })?;
    let mut facts = DualFacts::default();
    let mut written = Vec::with_capacity(rows.len() + 1);
    for (own, file) in rows.into_values() {
        facts.add(&own);
        written.push(file);
    }
    let info = layout.info(storage.prior_precision, &facts);
    let (writing, concluding) = (Arc::clone(context), Arc::clone(storage));
    let variances = by_first(worker, context, "MarginalVariance", move || {
        let layout = &concluding.rows.layout;
        let found = dual_marginal_variance(layout, concluding.as_ref(), concluding.prior_precision, writing.cores)?;
        let write = |variances: Vec<Matrix>| files::write_marginal_variance(&writing, &layout.plan, &variances);
        found.map(write).transpose()
    })?;
    written.extend(variances);
    Ok((info, written))
}

/// Every tile of L to its place.
fn factor(worker: &mut Worker, context: &Arc<Context>, storage: &Arc<DualStorage>) -> Result<(), RunError> {
    let (rows, threads) = (&storage.rows, context.network.arithmetic().threads);
    let (layout, n) = (&rows.layout, rows.layout.n_chunks());
    let processes = worker.peers() / context.workers.max(1);
    let at_once = rows.columns_at_once(1.0 / processes.max(1) as f64);
    let own = share_of(worker, n);
    let gram = |row: usize, column: usize| -> Result<OpenTile, RunError> {
        let tile = gram_tile(rows.rows(row)?.as_ref(), rows.rows(column)?.as_ref(), threads);
        Ok(OpenTile::new(tile))
    };
    for first in (0..n).step_by(at_once) {
        let end = n.min(first + at_once);
        let mut open = if first == 0 {
            BTreeMap::new()
        } else {
            // The columns before must be there, whoever owns their rows.
            share(worker, context, storage, &own, n, n)?;
            opened(storage, &own, first..end, gram, threads)?
        };
        for column in first..end {
            if own.contains(&column) && !storage.has(column, column)? {
                let tile = match open.remove(&(column, column)) {
                    Some(tile) => tile,
                    None => gram(column, column)?,
                };
                let tile = tile.factor(layout, rows.rows(column)?.as_ref(), storage.prior_precision)?;
                storage.put(column, column, tile)?;
                context.progress.advance(1);
            }
            share(worker, context, storage, &own, first, column)?;
            for &row in own.iter().filter(|&&row| row > column) {
                if !storage.has(row, column)? {
                    let mut tile = match open.remove(&(row, column)) {
                        Some(tile) => tile,
                        None => gram(row, column)?,
                    };
                    for known in first..column {
                        tile.subtract(
                            storage.factor(row, known)?.as_ref(),
                            storage.factor(column, known)?.as_ref(),
                            threads,
                        );
                    }
                    let tile = tile.solve(storage.factor(column, column)?.as_ref(), threads);
                    storage.put(row, column, tile)?;
                    context.progress.advance(1);
                }
                if row < end && !storage.has(row, row)? {
                    let diagonal = match open.entry((row, row)) {
                        std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
                        std::collections::btree_map::Entry::Vacant(place) => place.insert(gram(row, row)?),
                    };
                    let tile = storage.factor(row, column)?;
                    diagonal.subtract(&tile, &tile, threads);
                }
            }
        }
    }
    // The last column's owner may be ahead of the others, who need its row.
    share(worker, context, storage, &own, n, n)
}

/// This worker's tiles of some columns that are not there yet, everything before those columns subtracted.
fn opened(
    storage: &DualStorage,
    own: &[usize],
    columns: std::ops::Range<usize>,
    gram: impl Fn(usize, usize) -> Result<OpenTile, RunError>,
    threads: usize,
) -> Result<BTreeMap<(usize, usize), OpenTile>, RunError> {
    let mut open = BTreeMap::new();
    for &row in own.iter().filter(|&&row| row >= columns.start) {
        for column in columns.start..columns.end.min(row + 1) {
            if !storage.has(row, column)? {
                open.insert((row, column), gram(row, column)?);
            }
        }
    }
    for known in 0..columns.start {
        for (&(row, column), tile) in &mut open {
            tile.subtract(
                storage.factor(row, known)?.as_ref(),
                storage.factor(column, known)?.as_ref(),
                threads,
            );
        }
    }
    Ok(open)
}

/// Brings row `row` of the factor, from column `first` on, to every process that has it in its memory alone; every worker waits for it.
fn share(
    worker: &mut Worker,
    context: &Arc<Context>,
    storage: &Arc<DualStorage>,
    own: &[usize],
    first: usize,
    row: usize,
) -> Result<(), RunError> {
    let here = worker.index() / context.workers;
    let mut parts = Vec::new();
    if storage.rows.in_memory() && own.contains(&row) {
        let others = (0..worker.peers() / context.workers).filter(|&process| process != here);
        for process in others {
            for column in first..=row {
                let tile = storage.factor(row, column)?;
                parts.push(Part {
                    key: (process * context.workers) as u64,
                    value: sent(row, column, &tile),
                });
            }
        }
    }
    let keeping = Arc::clone(storage);
    run(worker, context, |scope, probe| {
        let receive = move |(row, column, rows, cols, values): Sent| {
            let tile = Matrix {
                rows: rows as usize,
                cols: cols as usize,
                values,
            };
            keeping.put(row as usize, column as usize, tile)
        };
        deliver(scope, &context.faults, parts, receive, probe);
    })
}

fn sent(row: usize, column: usize, tile: &Matrix) -> Sent {
    (
        row as u64,
        column as u64,
        tile.rows as u64,
        tile.cols as u64,
        tile.values.clone(),
    )
}
