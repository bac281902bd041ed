//! Exclusions pass: which identifiers of each group of the fit are left out, and, for a line, which identifiers it holds at all.
//!
//! What the release before found is taken where neither the group nor the list has changed; else the ids that the line keeps, and only for a new
//! group the catalogue's column of identifiers. Each worker looks up its share of the groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fisherflow_spectra::Group;
use fisherflow_store::Commit;
use timely::worker::Worker;

use super::{each, share_of};
use crate::context::Context;
use crate::error::RunError;

/// Looks them up for all workers.
pub(crate) fn look_up(worker: &mut Worker, context: &Arc<Context>) -> Result<(), RunError> {
    if !context.looks_up_ids() {
        return Ok(());
    }
    let (looking, known) = (Arc::clone(context), known(context));
    let groups = share_of(worker, context.fit.groups.len());
    let found = each(worker, context, "Exclusions", groups, move |group| {
        of(&looking, &known, &looking.fit.groups[group], true)
    })?;
    context.set_excluded(found.into_values().collect());
    Ok(())
}

/// The same in one thread, for a plan or a commit: keeps nothing.
pub(crate) fn of_all(context: &Context) -> Result<Vec<Vec<String>>, RunError> {
    if !context.looks_up_ids() {
        return Ok(Vec::new());
    }
    let known = known(context);
    let of_group = |group| of(context, &known, group, false);
    context.fit.groups.iter().map(of_group).collect()
}

/// Those of groups that the release before knows with the same list of the same column's identifiers, by membership.
type Known = BTreeMap<String, Vec<String>>;

fn known(context: &Context) -> Known {
    let list = context.fit.catalogue.excluded().map(|list| list.sha256());
    let id_column = context.fit.catalogue.facts().id_column();
    let parent = context.release.as_ref().and_then(|release| release.parent.as_ref());
    let same = |parent: &&Commit| parent.exclude_sha256.as_deref() == list && parent.catalogue.id_column() == id_column;
    parent
        .filter(same)
        .iter()
        .flat_map(|parent| &parent.groups)
        .map(|group| (group.membership.clone(), group.excluded.clone()))
        .collect()
}

fn of(context: &Context, known: &Known, group: &Group, keep: bool) -> Result<Vec<String>, RunError> {
    if let Some(of_group) = known.get(&group.membership()) {
        return Ok(of_group.clone());
    }
    if context.fit.catalogue.excluded().is_none() && !keep {
        return Ok(Vec::new());
    }
    Ok(context.group_ids().excluded_in(&context.fit.catalogue, group, keep)?)
}

/// The identifiers of the list that no spectrum of the fit's catalogue has, in words.
pub(crate) fn unmatched(context: &Context) -> Option<String> {
    let list = context.fit.catalogue.excluded()?;
    let matched: BTreeSet<&String> = context.excluded().iter().flatten().collect();
    let missed = list.len() - matched.len();
    (missed > 0).then(|| {
        format!(
            "exclude: {missed} of {} ids are in no spectrum of {}",
            list.len(),
            context.job.catalogue.uri
        )
    })
}
