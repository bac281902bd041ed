//! In-fit pass: how many of the labelled spectra to predict the fit's catalogue has too, whatever path leads to it: their pulls test nothing.
//!
//! A spectrum is known by its identifier and labels ([`StarKey`]). Of a large catalogue to predict some are looked up, chosen by hash; of the fit's
//! catalogue identifiers and labels alone are read, each worker's share of the groups.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use fisherflow_spectra::{SpectrumBatch, StarKey};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

use super::run;
use crate::bad_rows::id_of;
use crate::context::Context;
use crate::error::RunError;
use crate::operators::{Conclude, Gather, owned};
use crate::run::stages::begin_over_fit;

/// Rows of the catalogue to predict among which spectra are looked up, about: a share of so many is known to 1 %.
const PLENTY: f64 = 4096.0;

/// Labelled spectra to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFit {
    /// That were looked up in the fit's catalogue.
    pub looked_up: u64,
    /// That are in it.
    pub found: u64,
}

impl InFit {
    /// Whether the fit has all of them.
    pub(crate) fn is_whole(self) -> bool {
        self.found > 0 && self.found == self.looked_up
    }
}

/// The share of the catalogue to predict that is looked up; 0 where that is the fit's own, or the fit has no labels.
pub(crate) fn share(context: &Context) -> f64 {
    match &context.predict {
        Some(predict) if !context.job.catalogue.columns.labels.is_empty() => PLENTY / predict.catalogue.n_rows() as f64,
        _ => 0.0,
    }
}

/// The keys of the spectra of a batch that are looked up.
pub(crate) fn chosen(batch: &SpectrumBatch, share: f64) -> Vec<StarKey> {
    if share == 0.0 {
        return Vec::new();
    }
    let k = batch.n_labels;
    let labelled = (0..batch.n_rows()).filter(|&row| batch.is_labelled(row));
    let keys = labelled.filter_map(|row| StarKey::of(&id_of(batch, row), &batch.labels[row * k..(row + 1) * k]));
    keys.filter(|key| key.is_in(share)).collect()
}

/// Looks them up, the same on every worker.
pub(crate) fn look_up(worker: &mut Worker, context: &Arc<Context>, chosen: Vec<StarKey>) -> Result<InFit, RunError> {
    if chosen.is_empty() {
        return Ok(InFit::default());
    }
    begin_over_fit(context, "predicted spectra in the fit");
    let chosen: Rc<BTreeSet<StarKey>> = Rc::new(chosen.into_iter().collect());
    let groups = context.fit.groups.len() as u64;
    let mine = (worker.index() as u64..groups).step_by(worker.peers()).collect();
    let found = run(worker, context, |scope, probe| {
        let (looking, wanted) = (Arc::clone(context), Rc::clone(&chosen));
        Ok(owned(scope, mine)
            .conclude("InFit", &context.faults, move |_, group: u64| {
                in_group(&looking, group, &wanted)
            })
            .gather(probe))
    })?;
    let found: BTreeSet<StarKey> = found.take().into_values().flatten().collect();
    Ok(InFit {
        looked_up: chosen.len() as u64,
        found: found.len() as u64,
    })
}

/// Those that are in a group of the fit, each once.
fn in_group(context: &Context, group: u64, wanted: &BTreeSet<StarKey>) -> Result<Vec<StarKey>, RunError> {
    let Some(group) = context.fit.groups.get(group as usize) else {
        return Ok(Vec::new());
    };
    let keys = context.fit.catalogue.star_keys(group)?;
    context.progress.advance(group.n_rows());
    context.progress.group_done();
    let found: BTreeSet<StarKey> = keys.into_iter().filter(|key| wanted.contains(key)).collect();
    Ok(found.into_iter().collect())
}
