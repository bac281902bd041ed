//! The dual block's part of the curvature pass: the rows of its Jacobian, in chunks that a group's training spectra are cut into in
//! catalogue order.

use std::sync::Arc;

use fisherflow_curvature::{BlockPlan, WeightJacobian};
use fisherflow_posterior::DualLayout;
use fisherflow_store::WrittenFile;
use serde::{Deserialize, Serialize};

use super::curvature::Training;
use super::dual;
use crate::context::Context;
use crate::dual_files::{self, DualChunk};
use crate::error::RunError;

/// The chunks of a group, written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RowParts {
    pub(crate) chunks: Vec<DualChunk>,
    pub(crate) files: Vec<WrittenFile>,
}

/// Collects the rows of one group after another.
pub(crate) struct Rows {
    context: Arc<Context>,
    plan: BlockPlan,
    waiting: WeightJacobian,
    done: RowParts,
}

impl Rows {
    pub(crate) fn new(context: &Arc<Context>, plan: &BlockPlan) -> Self {
        Self {
            context: Arc::clone(context),
            waiting: WeightJacobian::none(plan, context.network.n_labels()),
            plan: plan.clone(),
            done: RowParts::default(),
        }
    }

    fn write(&mut self, group: u64, n_spectra: usize) -> Result<(), RunError> {
        let rows = self.waiting.slice(0, n_spectra);
        let chunk = DualChunk {
            group,
            part: self.done.chunks.len() as u64,
            n_spectra,
        };
        self.done
            .files
            .push(dual_files::write_rows(&self.context, &self.plan, chunk, &rows)?);
        self.done.chunks.push(chunk);
        self.waiting = self.waiting.slice(n_spectra, usize::MAX);
        Ok(())
    }

    /// Adds what is summed of a batch of the group.
    pub(super) fn add(&mut self, group: u64, training: &Training) -> Result<(), RunError> {
        let n_labels = self.context.network.n_labels();
        let made = self.context.count_dual_rows(training.rows.len() * n_labels);
        // No sooner: no footer says how many spectra are good and have their labels.
        if dual::needs_spectrum(&self.context) {
            dual::check_spectrum(made)?;
        }
        self.waiting.append(&WeightJacobian::new(
            &self.plan,
            &training.captures,
            &training.precision,
        )?)?;
        let each = DualLayout::spectra_a_chunk(n_labels);
        while self.waiting.n_spectra() >= each {
            self.write(group, each)?;
        }
        Ok(())
    }

    /// The group is complete.
    pub(crate) fn finish(&mut self, group: u64) -> Result<RowParts, RunError> {
        match self.waiting.n_spectra() {
            0 => {}
            rest => self.write(group, rest)?,
        }
        Ok(std::mem::take(&mut self.done))
    }
}
