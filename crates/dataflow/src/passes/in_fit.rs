//! In-fit pass: how many of the labelled stars to predict the fit's catalogue has too, whatever path leads to it: their pulls test nothing.
//!
//! A star is known by its identifier and labels ([`StarKey`]), the same for all its spectra; where the fit has no labels by its identifier. Of a large
//! catalogue to predict some are looked up, those of the smallest keys ([`Smallest`]); of the fit's catalogue identifiers and labels alone are read, each
//! worker's share of the groups. The predictions are complete by then: a group that cannot be read ends no run, it leaves the number unknown.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_spectra::{Group, SpectrumBatch, StarKey};
use fisherflow_store::with_causes;
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::{each, share_of};
use crate::bad_rows::id_of;
use crate::context::Context;
use crate::error::RunError;
use crate::run::stages::begin_over_fit;

/// Of labelled stars so many are looked up at most: a share of them is known to 1 %.
const PLENTY: usize = 4096;
/// Keys that all groups together keep, about, where each has so many.
const KEPT: usize = 1 << 20;
/// That a group keeps, where there are very many groups.
const OF_A_GROUP: usize = 64;

/// Labelled stars to predict whose spectra have pulls, each once, however many spectra it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFit {
    /// That were looked up in the fit's catalogue; 0 where that could not be read.
    pub looked_up: u64,
    /// That are in it.
    pub found: u64,
    /// Whether the pulls over their spectra test the error bars: at most a tenth of those looked up are in it.
    pub is_test: bool,
}

impl InFit {
    /// Of a fit's catalogue that cannot be read.
    pub(crate) const UNKNOWN: Self = Self {
        looked_up: 0,
        found: 0,
        is_test: false,
    };

    pub(crate) fn of(looked_up: u64, found: u64) -> Self {
        Self {
            looked_up,
            found,
            is_test: found * 10 <= looked_up,
        }
    }
}

/// The smallest keys of some spectra, each once: all there are below the smallest that is left out. Keys are hashes, so these are drawn by lot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Smallest {
    limit: usize,
    keys: BTreeSet<StarKey>,
    left_out: Option<StarKey>,
}

impl Smallest {
    /// Of all groups.
    pub(crate) fn of_all() -> Self {
        Self::up_to(PLENTY)
    }

    /// Of a group of the catalogue to predict: so many that of all groups together there are plenty, unless the labelled spectra are in a few of very
    /// many. None where that catalogue is the fit's own.
    pub(crate) fn of_group(context: &Context) -> Self {
        let groups = context.predict.as_ref().map(|predict| predict.groups.len());
        Self::up_to(groups.map_or(0, of_each))
    }

    fn up_to(limit: usize) -> Self {
        Self {
            limit,
            keys: BTreeSet::new(),
            left_out: None,
        }
    }

    /// With the labelled spectra of a batch whose `residuals`, `[n, K]`, have pulls: those that are finite.
    pub(crate) fn add(&mut self, context: &Context, batch: &SpectrumBatch, residuals: &[f64]) {
        if self.limit == 0 {
            return;
        }
        let k = batch.n_labels;
        let has_pulls = |row: usize| {
            let residual = &residuals[row * k..(row + 1) * k];
            batch.is_labelled(row) && residual.iter().all(|residual| residual.is_finite())
        };
        // Those that the fit's catalogue has, too, name a star.
        let named_by = if by_id_alone(context) { 0 } else { k };
        let key = |row: usize| StarKey::of(&id_of(batch, row), &batch.labels[row * k..][..named_by]);
        for key in (0..batch.n_rows()).filter(|&row| has_pulls(row)).filter_map(key) {
            self.insert(key);
        }
    }

    /// With those of other spectra. Of keys from the smallest on that these left out only some are known: they go.
    pub(crate) fn merge(&mut self, others: Self) {
        if let Some(left_out) = others.left_out
            && self.left_out.is_none_or(|own| left_out < own)
        {
            drop(self.keys.split_off(&left_out));
            self.left_out = Some(left_out);
        }
        for key in others.keys {
            self.insert(key);
        }
    }

    fn insert(&mut self, key: StarKey) {
        if self.left_out.is_none_or(|left_out| key < left_out) {
            self.keys.insert(key);
            if self.keys.len() > self.limit {
                self.left_out = self.keys.pop_last();
            }
        }
    }
}

/// Whether stars of the fit are known by their identifiers alone: its catalogue has no labels.
pub(crate) fn by_id_alone(context: &Context) -> bool {
    context.job.catalogue.columns.labels.is_empty()
}

/// Keys that each of so many groups keeps.
fn of_each(groups: usize) -> usize {
    (KEPT / groups.max(1)).clamp(OF_A_GROUP, PLENTY)
}

/// Looks them up, the same on every worker; `None` where there is nothing to look up.
pub(crate) fn look_up(
    worker: &mut Worker,
    context: &Arc<Context>,
    chosen: Smallest,
) -> Result<Option<InFit>, RunError> {
    let chosen = Rc::new(chosen.keys);
    if chosen.is_empty() {
        return Ok(None);
    }
    begin_over_fit(context, "predicted stars in the fit");
    let (looking, wanted) = (Arc::clone(context), Rc::clone(&chosen));
    let groups = share_of(worker, context.fit.groups.len());
    let mut is_known = true;
    let found = each(worker, context, "InFit", groups, move |group| {
        let group = &looking.fit.groups[group];
        let found = is_known.then(|| in_group(&looking, group, &wanted)).flatten();
        is_known = found.is_some();
        Ok(found)
    })?;
    let of_groups: Option<Vec<BTreeSet<StarKey>>> = found.into_values().collect();
    Ok(Some(of_groups.map_or(InFit::UNKNOWN, |of_groups| {
        let found: BTreeSet<StarKey> = of_groups.into_iter().flatten().collect();
        InFit::of(chosen.len() as u64, found.len() as u64)
    })))
}

/// Those that are in a group of the fit; `None` where it cannot be read.
fn in_group(context: &Context, group: &Group, wanted: &BTreeSet<StarKey>) -> Option<BTreeSet<StarKey>> {
    let mut found = BTreeSet::new();
    for shards in group.shards.chunk_by(|one, next| one.object == next.object) {
        match context.fit.catalogue.star_keys(shards) {
            Ok(keys) => found.extend(keys.into_iter().filter(|key| wanted.contains(key))),
            Err(error) => {
                let object = shards.first().map_or("", |shard| shard.object.path.as_str());
                let error = with_causes(&error);
                tracing::warn!(
                    object,
                    error,
                    "predicted stars cannot be looked up in the fit's catalogue"
                );
                return None;
            }
        }
    }
    context.progress.advance(group.n_rows());
    context.progress.group_done();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: usize) -> StarKey {
        StarKey::of(&format!("star-{i}"), &[5000.0]).unwrap()
    }

    /// What is looked up of groups that each keep up to `limit` of the spectra in them.
    fn chosen(groups: &[Vec<usize>], limit: usize, plenty: usize) -> Vec<StarKey> {
        let mut all = Smallest::up_to(plenty);
        for group in groups {
            let mut own = Smallest::up_to(limit);
            for &i in group {
                own.insert(key(i));
            }
            assert!(own.keys.len() <= limit);
            all.merge(own);
        }
        all.keys.into_iter().collect()
    }

    fn sorted(groups: &[Vec<usize>]) -> Vec<StarKey> {
        let keys: BTreeSet<StarKey> = groups.iter().flatten().map(|&i| key(i)).collect();
        keys.into_iter().collect()
    }

    #[test]
    fn a_few_known_stars_leave_a_test() {
        let is_test = |looked_up, found| InFit::of(looked_up, found).is_test;
        assert!(is_test(4096, 0) && is_test(4096, 409) && is_test(10, 1));
        assert!(!is_test(4096, 410) && !is_test(9, 1) && !is_test(60, 60));
    }

    #[test]
    fn the_smallest_of_all_are_looked_up() {
        // Forty groups of fifty, the last one short, some spectra in two.
        let groups: Vec<Vec<usize>> = (0..40).map(|g| (g * 48..(g * 48 + 50).min(1900)).collect()).collect();
        let all = sorted(&groups);
        assert_eq!(chosen(&groups, 100, 100), all[..100]);
        assert_eq!(chosen(&groups, 100, 5000), all);
        // Of the hundred smallest no group has twenty.
        assert_eq!(chosen(&groups, 20, 100), all[..100]);
    }

    #[test]
    fn where_groups_keep_too_few_those_looked_up_are_still_the_smallest() {
        // Labels in one large group, and a few in others.
        let mut groups: Vec<Vec<usize>> = (0..10).map(|g| vec![1000 + 2 * g, 1001 + 2 * g]).collect();
        groups.insert(3, (0..500).collect());
        let (few, all) = (chosen(&groups, 30, 400), sorted(&groups));
        assert!((30..60).contains(&few.len()), "{}", few.len());
        assert_eq!(few, all[..few.len()]);
        groups.reverse();
        assert_eq!(chosen(&groups, 30, 400), few);
    }

    #[test]
    fn a_few_labelled_spectra_of_a_large_catalogue_are_all_looked_up() {
        let groups: Vec<Vec<usize>> = (0..20_000)
            .map(|g| if g % 200 == 0 { vec![g] } else { Vec::new() })
            .collect();
        assert_eq!(chosen(&groups, of_each(groups.len()), PLENTY), sorted(&groups));
        assert_eq!((of_each(0), of_each(1), of_each(20_000)), (PLENTY, PLENTY, OF_A_GROUP));
    }
}
