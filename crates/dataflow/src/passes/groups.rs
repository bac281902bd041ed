//! A pass whose groups are kept in the store: what is there is taken, what is missing computed, and all of it summed from there.
//!
//! ```text
//! first worker: which groups are missing
//! assign -> fetch -> differentiate -> accumulate -> commit         the missing ones, each on a worker that asks for one
//! fold_slices -> assemble -> conclude -> gather                    the big sums of all groups, spread over all workers
//! ```
//!
//! What a worker committed last is still in its process's memory when it is added up; the rest is read back.
//!
//! Killed at any time, a pass goes on with the groups that it has not finished.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_spectra::{Group, SpectrumBatch};
use fisherflow_store::{GroupRecord, GroupStore, Purpose, SLICE, WrittenFile};
use serde::Serialize;
use serde::de::DeserializeOwned;
use timely::ExchangeData;
use timely::dataflow::operators::{Exchange, Inspect, Probe};
use timely::worker::Worker;

use super::{run, spectra_of};
use crate::context::{Context, GroupedCatalogue};
use crate::error::RunError;
use crate::group_name::{PassInputs, Serves, name_of};
use crate::operators::{
    CommittedGroup, GroupFold, GroupSums, Part, SliceFold, Total, Waits, accumulate, assemble, commit, conclude,
    differentiate, emit, fold_slices, gather,
};

/// Which pass, and what its groups are called.
pub(crate) struct GroupPass {
    /// Its folder in the store.
    pub(crate) name: &'static str,
    /// What decides the groups' contributions.
    pub(crate) inputs: PassInputs,
    /// The catalogue whose groups they are.
    pub(crate) over: fn(&Context) -> &GroupedCatalogue,
}

/// What all groups of a pass come to, on every worker.
pub(crate) struct OverGroups<S, U> {
    /// What every group found, in group order.
    pub(crate) found: Vec<S>,
    /// Files of the output that the groups left.
    pub(crate) files: Vec<WrittenFile>,
    /// What the owners of the totals concluded.
    pub(crate) concluded: BTreeMap<u64, U>,
    /// Groups that were computed, the others' sums being in the store; known to the first worker alone.
    pub(crate) computed: u64,
}

/// Records of groups by their index; known to the first worker alone.
type Records = BTreeMap<u64, GroupRecord>;

/// What a group found, and the files that it left, by its place among the groups.
type Found<S> = Part<(S, Vec<WrittenFile>)>;

/// Runs a pass: `derive` on every batch, `fold` over the batches of a group, `conclusion` on each total of the groups' sums.
pub(crate) fn over_groups<T, S, U, F>(
    worker: &mut Worker,
    context: &Arc<Context>,
    pass: &GroupPass,
    derive: impl FnMut(SpectrumBatch) -> Result<T, RunError> + 'static,
    fold: F,
    conclusion: impl FnMut(u64, Total) -> Result<U, RunError> + 'static,
) -> Result<OverGroups<S, U>, RunError>
where
    T: 'static,
    S: Serialize + DeserializeOwned + ExchangeData + Clone,
    U: ExchangeData + Clone,
    F: GroupFold<T, Output = GroupSums<S>>,
{
    let n_groups = (pass.over)(context).groups.len();
    let store = context.groups_that_serve(pass.inputs.serves());
    let names = names_of(context, pass);
    let is_first = worker.index() == 0;
    let resumed = if is_first {
        left(context, store, pass.name, &names)?
    } else {
        Records::new()
    };
    let n_resumed = resumed.len();
    let (records, bytes_written) = compute_missing(worker, context, pass, names, resumed, derive, fold)?;
    let (folds, found): (Vec<SliceFold>, Vec<Found<S>>) = if is_first {
        folds_and_found(pass, records, n_groups, worker.peers())?
    } else {
        (Vec::new(), Vec::new())
    };
    let slices = folds.iter().flat_map(|fold| &fold.slices);
    let bytes_read: u64 = slices.map(|slice| 8 * slice.len as u64).sum();
    let (found, concluded) = run(worker, context, |scope, probe| {
        let at_zero = |folds: Vec<SliceFold>| folds.into_iter().map(|fold| (0, fold)).collect();
        let found = emit(scope, found.into_iter().map(|part| (0, part)).collect());
        let found = gather(found, probe);
        let slices = fold_slices(emit(scope, at_zero(folds)), &context.faults, store, pass.name);
        let totals = assemble(slices, &context.faults);
        let concluded = conclude(totals, "Conclude", &context.faults, conclusion);
        (found, gather(concluded, probe))
    })?;
    store.release();
    if is_first {
        tracing::info!(
            pass = pass.name,
            groups = n_groups,
            groups_computed = n_groups - n_resumed,
            groups_resumed = n_resumed,
            bytes_written,
            bytes_read,
            "groups done"
        );
    }
    let (found, files): (Vec<S>, Vec<Vec<WrittenFile>>) = found.take().into_values().unzip();
    Ok(OverGroups {
        found,
        files: files.concat(),
        concluded: concluded.take(),
        computed: (n_groups - n_resumed) as u64,
    })
}

/// What each group of a pass is called in the store.
fn names_of(context: &Context, pass: &GroupPass) -> BTreeMap<u64, String> {
    let digest = pass.inputs.digest();
    let excluded = |group: &Group| match pass.inputs.serves() {
        Serves::EveryRun => context.excluded_in(group),
        // Its name holds the run's, and that all exclusions.
        Serves::ThisRun => &[],
    };
    let groups = (pass.over)(context).groups.iter();
    groups
        .map(|group| (group.index, name_of(&digest, group, excluded(group))))
        .collect()
}

/// Computes the groups that are not `resumed`, each into the store: the records of all, and the bytes that were written.
fn compute_missing<T, S, F>(
    worker: &mut Worker,
    context: &Arc<Context>,
    pass: &GroupPass,
    names: BTreeMap<u64, String>,
    resumed: Records,
    derive: impl FnMut(SpectrumBatch) -> Result<T, RunError> + 'static,
    fold: F,
) -> Result<(Records, u64), RunError>
where
    T: 'static,
    S: Serialize + 'static,
    F: GroupFold<T, Output = GroupSums<S>>,
{
    let is_first = worker.index() == 0;
    let (done, missing): (Vec<Group>, Vec<Group>) = (pass.over)(context)
        .groups
        .iter()
        .filter(|_| is_first)
        .cloned()
        .partition(|group| resumed.contains_key(&group.index));
    let spectra_done = done.iter().map(Group::n_rows).sum();
    context.progress.resume(done.len() as u64, spectra_done);
    let store = context.groups_that_serve(pass.inputs.serves());
    let (name, committed) = (pass.name, Rc::new(RefCell::new((resumed, 0_u64))));
    run(worker, context, |scope, probe| {
        let (into, faults) = (Rc::clone(&committed), Arc::clone(&context.faults));
        let spectra = spectra_of(scope, context, missing, Waits::InStore, pass.over);
        let derived = differentiate(spectra, &context.faults, derive);
        let sums = accumulate(derived, name, &context.faults, fold);
        commit(sums, &context.faults, store, name, Rc::new(names))
            .exchange(|_: &CommittedGroup| 0)
            .inspect(move |done: &CommittedGroup| {
                tracing::debug!(
                    pass = name,
                    group = done.group,
                    bytes = done.bytes,
                    "group is in the store"
                );
                match serde_json::from_slice(&done.record) {
                    Ok(record) => {
                        let (records, bytes) = &mut *into.borrow_mut();
                        records.insert(done.group, record);
                        *bytes += done.bytes;
                    }
                    Err(error) => faults.raise(RunError::Internal(error.to_string())),
                }
            })
            .probe_with(probe);
    })?;
    Ok(committed.take())
}

/// The slices to be summed, and what every group found.
fn folds_and_found<S: DeserializeOwned>(
    pass: &GroupPass,
    records: Records,
    n_groups: usize,
    workers: usize,
) -> Result<(Vec<SliceFold>, Vec<Found<S>>), RunError> {
    if records.len() != n_groups {
        return Err(RunError::Internal(format!(
            "pass {} came to its end with {} of {n_groups} groups",
            pass.name,
            records.len()
        )));
    }
    let records: Vec<GroupRecord> = records.into_values().collect();
    let folds = slice_folds(&records, workers)?;
    let mut found = Vec::with_capacity(n_groups);
    for (key, record) in (0..).zip(records) {
        let of_group = serde_json::from_value(record.found)
            .map_err(|error| RunError::Internal(format!("what a group of pass {} found: {error}", pass.name)))?;
        let value = (of_group, record.files);
        found.push(Part { key, value });
    }
    Ok((folds, found))
}

/// The groups that an earlier attempt finished, whose files are all there.
fn left(context: &Context, store: &GroupStore, pass: &str, names: &BTreeMap<u64, String>) -> Result<Records, RunError> {
    let mut finished = store.finished(pass, &names.values().cloned().collect())?;
    let files: Vec<WrittenFile> = finished.values().flat_map(|record| record.files.clone()).collect();
    // One listing: to ask after each file takes minutes where there are many thousands.
    let damages = if files.is_empty() {
        Vec::new()
    } else {
        context.output.listed_damages(&files)?
    };
    let damaged: BTreeSet<&str> = damages.iter().map(|damage| damage.path.as_str()).collect();
    let mut records = Records::new();
    for (&group, name) in names {
        let Some(record) = finished.remove(name) else { continue };
        if record.files.iter().any(|file| damaged.contains(file.path.as_str())) {
            store.forget(pass, name)?;
        } else {
            records.insert(group, record);
        }
    }
    Ok(records)
}

/// Every slice of every total, spread evenly over the workers.
fn slice_folds(records: &[GroupRecord], workers: usize) -> Result<Vec<SliceFold>, RunError> {
    let unlike = || RunError::Internal("the groups of a pass have unlike sums".into());
    let summed = |record: &GroupRecord| -> Vec<(u64, usize)> {
        let arrays = record.arrays.iter().filter(|array| array.purpose == Purpose::Sum);
        arrays.map(|array| (array.key, array.len)).collect()
    };
    let Some(first) = records.first() else {
        return Ok(Vec::new());
    };
    let totals = summed(first);
    if records.iter().any(|record| summed(record) != totals) {
        return Err(unlike());
    }
    let mut folds = Vec::new();
    for (key, of) in totals {
        let n_spectra = records
            .iter()
            .flat_map(|record| &record.arrays)
            .filter(|array| array.key == key)
            .map(|array| array.n_spectra)
            .sum();
        let of_groups: Option<Vec<_>> = records.iter().map(|record| record.slices(key)).collect();
        let mut of_groups: Vec<_> = of_groups.ok_or_else(unlike)?.into_iter().map(Vec::into_iter).collect();
        for start in (0..of).step_by(SLICE) {
            let slices: Option<Vec<_>> = of_groups.iter_mut().map(Iterator::next).collect();
            folds.push(SliceFold {
                worker: 0,
                key,
                n_spectra,
                start,
                of,
                slices: slices.ok_or_else(unlike)?,
            });
        }
    }
    // Neighbouring slices to one worker each: the store is then read in few places at a time.
    let each = folds.len().div_ceil(workers.max(1)).max(1);
    for (at, fold) in folds.iter_mut().enumerate() {
        fold.worker = (at / each) as u64;
    }
    Ok(folds)
}
