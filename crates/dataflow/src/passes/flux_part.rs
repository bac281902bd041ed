//! What the curvature pass leaves for the prediction where one catalogue serves both: the photons' part of each row's covariance, and J_x.

use std::collections::BTreeSet;
use std::sync::Arc;

use fisherflow_spectra::Group;
use fisherflow_store::{GroupArray, Purpose, StoreError, WrittenFile};
use timely::worker::Worker;

use super::budget::flux_part;
use super::by_first;
use super::curvature::CURVATURE;
use super::differentiated::Differentiated;
use crate::context::Context;
use crate::error::RunError;
use crate::files::JacobianPart;
use crate::group_name::name_of;

/// The key of the photons' part among a group's arrays.
const FLUX: u64 = u64::MAX;

/// Collects the photons' part of one group after another, and writes `jacobians/` where asked for: a file a group.
pub(crate) struct FluxPart {
    context: Arc<Context>,
    /// `[n, K, K]`, label units.
    covariance: Vec<f64>,
    n_spectra: u64,
    jacobians: Option<JacobianPart>,
}

impl FluxPart {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            covariance: Vec::new(),
            n_spectra: 0,
            jacobians: None,
        }
    }

    /// Adds a batch of the group.
    pub(crate) fn add(&mut self, group: u64, all: &Differentiated) -> Result<(), RunError> {
        self.covariance.extend(flux_part(all)?);
        self.n_spectra += all.batch.n_rows() as u64;
        if !self.context.job.predict.jacobians {
            return Ok(());
        }
        let jacobians = match &mut self.jacobians {
            Some(open) => open,
            none => none.insert(JacobianPart::open(&self.context, group)?),
        };
        jacobians.append(&self.context, all)
    }

    /// The group's numbers, and its file of `jacobians/`.
    pub(crate) fn finish(&mut self) -> Result<(GroupArray, Option<WrittenFile>), RunError> {
        let array = GroupArray {
            key: FLUX,
            purpose: Purpose::Keep,
            n_spectra: std::mem::take(&mut self.n_spectra),
            values: std::mem::take(&mut self.covariance),
        };
        let written = self.jacobians.take().map(|jacobians| jacobians.finish(&self.context));
        Ok((array, written.transpose()?))
    }
}

/// Whether all groups of the fit have left what they kept, as a listing tells: as the first worker finds it, for all. What is damaged is found where it
/// is read. `sums`: digest of what decided the sums of the curvature pass.
pub(crate) fn is_kept(worker: &mut Worker, context: &Arc<Context>, sums: &str) -> Result<bool, RunError> {
    let (looking, sums) = (Arc::clone(context), sums.to_owned());
    by_first(worker, context, "Agree", move || {
        let groups = looking.fit.groups.iter();
        let names: BTreeSet<String> = groups.map(|group| name(&looking, &sums, group)).collect();
        Ok(looking.groups.n_recorded(CURVATURE, &names)? == names.len() as u64)
    })
}

/// Reads a group's photons' part back, batch by batch.
pub(crate) struct FluxPartReader {
    covariance: std::vec::IntoIter<f64>,
    size: usize,
}

impl FluxPartReader {
    /// `sums`: digest of what decided the sums of the curvature pass.
    ///
    /// # Errors
    /// What the group kept is damaged or gone ([`RunError::KeptPart`]), is of another catalogue, or cannot be read.
    pub(crate) fn open(context: &Context, sums: &str, group: u64) -> Result<Self, RunError> {
        let k = context.network.n_labels();
        let lost = |object| RunError::KeptPart { group, object };
        let known = context.fit.groups.iter().find(|known| known.index == group);
        let name = known.map(|group| name(context, sums, group)).ok_or_else(foreign)?;
        let Some(record) = context.groups.record(CURVATURE, &name)? else {
            return Err(lost(name));
        };
        let kept = context.groups.read(CURVATURE, record.slices(FLUX).ok_or_else(foreign)?);
        let covariance = kept.concat().map_err(|error| match error {
            StoreError::DamagedSums { uri, .. } => lost(uri),
            error => RunError::Store(error),
        })?;
        Ok(Self {
            covariance: covariance.into_iter(),
            size: k * k,
        })
    }

    /// `[n, K, K]`, label units, of the next `n` rows.
    pub(crate) fn next(&mut self, n: usize) -> Result<Vec<f64>, RunError> {
        let rows: Vec<f64> = self.covariance.by_ref().take(n * self.size).collect();
        if rows.len() == n * self.size {
            Ok(rows)
        } else {
            Err(foreign())
        }
    }
}

/// Of what a group left in the curvature pass.
fn name(context: &Context, sums: &str, group: &Group) -> String {
    name_of(sums, group, context.excluded_in(group))
}

fn foreign() -> RunError {
    RunError::Refused("the groups that `fisherflow fit` left do not fit the catalogue: run it again".into())
}
