//! What the curvature pass leaves for the prediction where one catalogue serves both: the photons' part of each row's covariance, and J_x.

use std::rc::Rc;
use std::sync::Arc;

use fisherflow_store::{FluxPartWriter, WrittenFile};

use super::budget::flux_part;
use super::differentiated::Differentiated;
use crate::context::Context;
use crate::error::RunError;
use crate::files::{self, JacobianPart};
use crate::operators::GroupFold;

/// Writes `stages/flux/` and, where asked for, `jacobians/`: a file a group.
pub(crate) struct FluxPart {
    context: Arc<Context>,
    open: Option<(FluxPartWriter, Option<JacobianPart>)>,
}

impl FluxPart {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            open: None,
        }
    }
}

impl GroupFold<Rc<Differentiated>> for FluxPart {
    type Output = Vec<WrittenFile>;

    fn add(&mut self, group: u64, all: Rc<Differentiated>) -> Result<(), RunError> {
        let context = &self.context;
        let (flux, jacobians) = match &mut self.open {
            Some(open) => open,
            none => none.insert((
                context
                    .output
                    .flux_part(group, context.network.n_labels(), &files::metadata(context))?,
                context
                    .job
                    .predict
                    .jacobians
                    .then(|| JacobianPart::open(context, group))
                    .transpose()?,
            )),
        };
        flux.append(&all.labels, &flux_part(&all)?)?;
        if let Some(jacobians) = jacobians {
            jacobians.append(&all)?;
        }
        Ok(())
    }

    fn finish(&mut self, group: u64) -> Result<Vec<(u64, Vec<WrittenFile>)>, RunError> {
        let mut files = Vec::new();
        if let Some((flux, jacobians)) = self.open.take() {
            flux.finish()?;
            files.extend(jacobians.map(JacobianPart::finish).transpose()?);
        }
        Ok(vec![(group, files)])
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
        let part = context.output.read_flux_part(group)?.ok_or_else(foreign)?;
        Ok(Self {
            covariance: part.covariance.into_iter(),
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

fn foreign() -> RunError {
    RunError::Refused("stages/flux/ does not fit the catalogue: run `fisherflow fit` again".into())
}
