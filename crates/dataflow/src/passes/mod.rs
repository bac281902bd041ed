//! The passes of a run over spectra and blocks, each one dataflow.
//!
//! ```text
//! exclusions  groups          -> the identifiers of each that are left out           (only of a line, and where a list leaves some out)
//! population  held-out rows   -> mean and variance of each pixel: what a masked pixel is replaced with; how far inputs may be from 0
//! reference   held-out rows   -> residuals (the noise R), mean activations and gradients (the sums' reference)
//! unusable    held-out rows   -> what is wrong with them                     (only where none of them gives a residual: then the run ends)
//! products    training rows   -> the curvature times some vectors            (once for each step of `spectrum`, and for `low_rank` before curvature)
//! curvature   training rows   -> sums of every block -> posterior/hessian      (and J_x, C_flux of all rows, if they are to be predicted)
//! correction  training rows   -> eigenvalues of ekfac blocks in the bases that the curvature pass left -> posterior/hessian
//! evidence    blocks          -> their eigenvalues, the prior precision                (only where the prior is chosen by it)
//! factor      tiles           -> the factor of a dual block's Gram matrix, its rows in posterior/inverse     (only where there is one)
//! holdout     held-out rows   -> their likelihood over prior precisions, and the best   (only where the prior is chosen by it)
//! invert      blocks          -> posterior/inverse, posterior/marginal_variance
//! subset      chosen rows     -> against the exact posterior; what the next streams (unless both are switched off)
//! certify     training rows   -> the residual of the answers, the gradient at theta
//! calibrate   held-out rows   -> mean parts of the error budget: C_intrinsic
//! predict     rows to predict -> predictions/, jacobians/
//! in_fit      ids and labels  -> how many of the stars to predict are in the fit's catalogue    (only where a catalogue of its own has labels)
//! ```

pub(crate) mod agree;
pub(crate) mod calibrate;
pub(crate) mod certify;
pub(crate) mod correction;
pub(crate) mod curvature;
pub(crate) mod dual;
pub(crate) mod exclusions;
pub(crate) mod holdout;
pub(crate) mod in_fit;
pub(crate) mod invert;
pub(crate) mod low_rank;
pub(crate) mod population;
pub(crate) mod predict;
pub(crate) mod products;
pub(crate) mod reached;
pub(crate) mod reference;
pub(crate) mod subset;
pub(crate) mod unusable;
pub(crate) mod weight_jacobian;

pub(crate) mod differentiated;
pub(crate) mod rows;

mod budget;
mod flux_part;
mod groups;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fisherflow_network::InputJacobian;
use fisherflow_spectra::{Group, PixelPopulation, SpectrumBatch};
use timely::ExchangeData;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};
use timely::worker::Worker;

use self::differentiated::Differentiated;
use crate::context::{Context, GroupedCatalogue, PLENTY};
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::fault::Faults;
use crate::job::SAMPLED;
use crate::operators::{
    GroupFold, GroupItem, Part, Waits, accumulate, conclude, differentiate, fetch, gather, owned, reduce_in_group_order,
};
use crate::run::stages::begin_over;

/// Builds one dataflow and runs it to its end, on this worker together with all others.
///
/// # Errors
/// The fault stays in the context, for the process to report: what comes back here only ends the worker.
fn run<R>(
    worker: &mut Worker,
    context: &Context,
    build: impl FnOnce(Scope<'_, u64>, &ProbeHandle<u64>) -> R,
) -> Result<R, RunError> {
    let probe = ProbeHandle::new();
    let built = worker.dataflow::<u64, _, _>(|scope| build(scope, &probe));
    context.faults.pass(FailPoint::Planned);
    while !probe.done() {
        if context.faults.raised() {
            return Err(RunError::Stopped);
        }
        worker.step_or_park(Some(Duration::from_millis(50)));
    }
    if context.faults.raised() {
        Err(RunError::Stopped)
    } else {
        Ok(built)
    }
}

/// The totals of one dataflow by key, on every worker.
fn gathered<P: ExchangeData + Clone>(
    worker: &mut Worker,
    context: &Context,
    build: impl FnOnce(Scope<'_, u64>) -> StreamVec<'_, u64, Part<P>>,
) -> Result<BTreeMap<u64, P>, RunError> {
    let gathered = run(worker, context, |scope, probe| gather(build(scope), probe))?;
    Ok(gathered.take())
}

/// What comes of each key at its owner, on every worker; `keys`: those that this one owns.
fn each<U: ExchangeData + Clone>(
    worker: &mut Worker,
    context: &Context,
    name: &str,
    keys: Vec<usize>,
    mut what: impl FnMut(usize) -> Result<U, RunError> + 'static,
) -> Result<BTreeMap<u64, U>, RunError> {
    let keys = keys.into_iter().map(|key| key as u64).collect();
    gathered(worker, context, |scope| {
        conclude(owned(scope, keys), name, &context.faults, move |key, _| {
            what(key as usize)
        })
    })
}

/// What the first worker finds, on every worker.
fn by_first<U: ExchangeData + Clone>(
    worker: &mut Worker,
    context: &Context,
    name: &str,
    mut what: impl FnMut() -> Result<U, RunError> + 'static,
) -> Result<U, RunError> {
    let key = share_of(worker, 1);
    let found = each(worker, context, name, key, move |_| what())?.into_values().next();
    found.ok_or_else(|| RunError::Internal(format!("the first worker came to no end of {name}")))
}

/// Which of `n` keys are this worker's.
fn share_of(worker: &Worker, n: usize) -> Vec<usize> {
    (worker.index()..n).step_by(worker.peers()).collect()
}

/// The one total of all groups of the fit's sample, on every worker.
fn total_of_sample<T: 'static, S: ExchangeData + Clone>(
    worker: &mut Worker,
    context: &Context,
    name: &str,
    batches: impl FnOnce(Scope<'_, u64>) -> StreamVec<'_, u64, GroupItem<T>>,
    empty: impl Fn() -> S + 'static,
    add: impl FnMut(&mut S, T) -> Result<(), RunError> + 'static,
    merge: impl FnMut(&mut S, S) -> Result<(), RunError> + 'static,
) -> Result<S, RunError> {
    concluded_of_sample(worker, context, (name, batches), empty, (add, merge), Ok)
}

/// What the first worker concludes from that total, on every worker: the total itself, which may be large, stays with the first.
fn concluded_of_sample<T: 'static, S: ExchangeData, U: ExchangeData + Clone>(
    worker: &mut Worker,
    context: &Context,
    (name, batches): (&str, impl FnOnce(Scope<'_, u64>) -> StreamVec<'_, u64, GroupItem<T>>),
    empty: impl Fn() -> S + 'static,
    (add, merge): (
        impl FnMut(&mut S, T) -> Result<(), RunError> + 'static,
        impl FnMut(&mut S, S) -> Result<(), RunError> + 'static,
    ),
    conclusion: impl Fn(S) -> Result<U, RunError> + 'static,
) -> Result<U, RunError> {
    let (none, conclusion) = (empty(), Rc::new(conclusion));
    let concluded = gathered(worker, context, |scope| {
        let total = sum_up(
            batches(scope),
            &context.faults,
            name,
            &context.fit.sample,
            empty,
            add,
            merge,
        );
        let conclusion = Rc::clone(&conclusion);
        conclude(total, name, &context.faults, move |_, total| conclusion(total))
    })?;
    match concluded.into_values().next() {
        Some(concluded) => Ok(concluded),
        None => conclusion(none),
    }
}

/// One total: what is added up over the batches of each group, merged in the order of the groups.
fn sum_up<'scope, T: 'static, S: ExchangeData>(
    batches: StreamVec<'scope, u64, GroupItem<T>>,
    faults: &Arc<Faults>,
    name: &str,
    groups: &[Group],
    empty: impl Fn() -> S + 'static,
    add: impl FnMut(&mut S, T) -> Result<(), RunError> + 'static,
    merge: impl FnMut(&mut S, S) -> Result<(), RunError> + 'static,
) -> StreamVec<'scope, u64, Part<S>> {
    let begun: Option<S> = None;
    let contributions = accumulate(batches, name, faults, Adding { begun, empty, add });
    reduce_in_group_order(contributions, faults, groups, merge)
}

/// Adds up what each group contributes to the one total of a pass.
struct Adding<S, E, A> {
    /// Of the group at hand, from its first batch on.
    begun: Option<S>,
    empty: E,
    add: A,
}

impl<T, S, E, A> GroupFold<T> for Adding<S, E, A>
where
    S: 'static,
    E: Fn() -> S + 'static,
    A: FnMut(&mut S, T) -> Result<(), RunError> + 'static,
{
    type Output = S;

    fn add(&mut self, _group: u64, batch: T) -> Result<(), RunError> {
        (self.add)(self.begun.get_or_insert_with(&self.empty), batch)
    }

    fn finish(&mut self, _group: u64) -> Result<Self::Output, RunError> {
        Ok(self.begun.take().unwrap_or_else(&self.empty))
    }
}

/// Batches through the network.
fn through_network<'scope>(
    batches: StreamVec<'scope, u64, GroupItem<SpectrumBatch>>,
    context: &Arc<Context>,
    population: Option<&PixelPopulation>,
    input_jacobian: InputJacobian,
) -> StreamVec<'scope, u64, GroupItem<Differentiated>> {
    let (deriving, population) = (Arc::clone(context), population.cloned());
    differentiate(batches, &context.faults, move |batch| {
        differentiated::differentiate(&deriving, population.as_ref(), batch, input_jacobian)
    })
}

/// Every spectrum of the fit's catalogue, each group at a worker that asked for one; `bytes` of what comes of each wait in memory.
fn spectra_of_fit<'scope>(
    scope: Scope<'scope, u64>,
    context: &Arc<Context>,
    bytes: u64,
) -> StreamVec<'scope, u64, GroupItem<SpectrumBatch>> {
    let groups = context.fit.groups.clone();
    spectra_of(scope, context, groups, Waits::InMemory(bytes), |context| &context.fit)
}

/// Those of some groups of a catalogue.
fn spectra_of<'scope>(
    scope: Scope<'scope, u64>,
    context: &Arc<Context>,
    groups: Vec<Group>,
    waits: Waits,
    from: impl Fn(&Context) -> &GroupedCatalogue + 'static,
) -> StreamVec<'scope, u64, GroupItem<SpectrumBatch>> {
    let (reading, cores) = (Arc::clone(context), context.network.arithmetic().threads);
    let readers = (&from(context).readers, context.workers);
    fetch(scope, &context.faults, groups, waits, readers, cores, move |group| {
        reading.read(&from(&reading).catalogue, group)
    })
}

/// The same for the sample of the fit's catalogue, its held-out spectra alone.
fn held_out<'scope>(
    scope: Scope<'scope, u64>,
    context: &Arc<Context>,
) -> StreamVec<'scope, u64, GroupItem<SpectrumBatch>> {
    chosen_by_hash(scope, context, context.job.compute.holdout_fraction)
}

/// What is seen of the share of spectra that population and references are found from, and the share: the spectra held out or, where `is_none` of them
/// was seen and none has to be kept out of the sums, about a tenth that stays in these, of large catalogues as many as are plenty.
fn sampled<T>(
    context: &Context,
    pass: &str,
    mut look: impl FnMut(f64) -> Result<T, RunError>,
    is_none: impl Fn(&T) -> bool,
) -> Result<(T, f64), RunError> {
    let share = context.job.compute.sampled_fraction();
    let seen = look(share)?;
    if !is_none(&seen) || share >= SAMPLED || context.job.keeps_out() {
        return Ok((seen, share));
    }
    let rows: u64 = context.fit.sample.iter().map(Group::n_rows).sum();
    let share = SAMPLED.min(PLENTY / rows as f64);
    begin_over(context, &format!("{pass} of spectra in the sums"), &context.fit.sample);
    Ok((look(share)?, share))
}

/// The same for a share of the sample's spectra, chosen as held-out ones are: a smaller one is among them.
fn chosen_by_hash<'scope>(
    scope: Scope<'scope, u64>,
    context: &Arc<Context>,
    fraction: f64,
) -> StreamVec<'scope, u64, GroupItem<SpectrumBatch>> {
    let (groups, cores) = (context.fit.sample.clone(), context.network.arithmetic().threads);
    let (reading, selecting) = (Arc::clone(context), Arc::clone(context));
    let open = move |group: &Group| reading.read_chosen(group, fraction);
    let readers = (&context.fit.readers, context.workers);
    let batches = fetch(scope, &context.faults, groups, Waits::InMemory(0), readers, cores, open);
    differentiate(batches, &context.faults, move |batch| {
        select(&selecting, &batch, &rows::chosen_by_hash(&batch, fraction))
    })
}

/// Some rows of a batch; the others count as done with it.
fn select(context: &Context, batch: &SpectrumBatch, rows: &[usize]) -> Result<SpectrumBatch, RunError> {
    context.progress.advance((batch.n_rows() - rows.len()) as u64);
    Ok(batch.select(rows)?)
}
