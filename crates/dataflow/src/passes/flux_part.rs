//! What the curvature pass leaves for the prediction where one catalogue serves both: the photons' part of each row's covariance, and J_x.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_store::WrittenFile;

use super::budget::flux_part;
use super::differentiated::Differentiated;
use crate::context::Context;
use crate::error::RunError;
use crate::files::{self, JacobianPart};
use crate::operators::GroupFold;

/// Writes `stages/flux/` and, where asked for, `jacobians/`: a file a group.
pub(crate) struct FluxPart {
    context: Arc<Context>,
    covariance: Vec<f64>,
    jacobians: Option<JacobianPart>,
}

impl FluxPart {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::clone(context), covariance: Vec::new(), jacobians: None }
    }
}

impl GroupFold<Rc<Differentiated>> for FluxPart {
    type Output = Vec<WrittenFile>;

    fn add(&mut self, group: u64, all: Rc<Differentiated>) -> Result<(), RunError> {
        self.covariance.extend(flux_part(&all)?);
        if self.context.job.predict.jacobians {
            let jacobians = match &mut self.jacobians {
                Some(open) => open,
                none => none.insert(files::jacobian_part(&self.context, group)?),
            };
            jacobians.write(&all, &all.batch.flags)?;
        }
        Ok(())
    }

    fn finish(&mut self, group: u64) -> Result<Vec<(u64, Vec<WrittenFile>)>, RunError> {
        files::write_flux_part(&self.context, group, &std::mem::take(&mut self.covariance))?;
        let jacobians = self.jacobians.take().map(JacobianPart::finish).transpose()?;
        Ok(vec![(group, jacobians.into_iter().collect())])
    }
}

/// Reads a group's file of `stages/flux/` back, batch by batch.
pub(crate) struct FluxPartReader {
    covariance: std::vec::IntoIter<f64>,
    size: usize,
}

impl FluxPartReader {
    pub(crate) fn open(context: &Context, group: u64) -> Result<Self, RunError> {
        let k = context.network.n_labels();
        Ok(Self { covariance: files::read_flux_part(context, group)?.into_iter(), size: k * k })
    }

    /// `[n, K, K]`, label units, of the next `n` rows.
    pub(crate) fn next(&mut self, n: usize) -> Result<Vec<f64>, RunError> {
        let rows: Vec<f64> = self.covariance.by_ref().take(n * self.size).collect();
        if rows.len() == n * self.size {
            Ok(rows)
        } else {
            Err(RunError::Refused("stages/flux/ does not fit the catalogue: run `fisherflow fit` again".into()))
        }
    }
}
