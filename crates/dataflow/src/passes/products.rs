//! Products pass: the curvature of the loss times some vectors, summed over all training spectra, no matrix formed.
//!
//! The vectors are the same on every worker. The sums of a group go to one worker, in group order, which concludes from them (with
//! what vectors the next pass goes on, for example); what it concludes is brought to all.

use std::sync::Arc;

use fisherflow_curvature::{CurvatureKind, ProductSums, add_ggn_products, add_hessian_products};
use fisherflow_network::{DenseShape, WeightDirections};
use fisherflow_spectra::PixelPopulation;
use timely::worker::Worker;

use super::curvature::{of_loss, precision_of};
use super::differentiated::{Differentiated, differentiate_on_cpu};
use super::{gathered, select, spectra_of_fit, sum_up};
use crate::context::Context;
use crate::error::RunError;
use crate::operators::{conclude, differentiate};

/// What a product is with.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    /// What a masked pixel is replaced with.
    pub(crate) population: Option<PixelPopulation>,
    /// R, `[K, K]`, normalised label units.
    pub(crate) noise: Vec<f64>,
    /// Which curvature.
    pub(crate) kind: CurvatureKind,
}

/// The dense layers whose weights the vectors run over.
#[derive(Clone, Debug)]
pub(crate) struct Over {
    /// As the network counts them, ascending.
    pub(crate) layers: Vec<usize>,
    /// Of each.
    pub(crate) shapes: Vec<DenseShape>,
}

impl Over {
    /// All layers of a network.
    pub(crate) fn all(context: &Context) -> Self {
        let shapes = context.network.dense_layers();
        Self {
            layers: (0..shapes.len()).collect(),
            shapes: shapes.to_vec(),
        }
    }

    /// Number of weights.
    pub(crate) fn n_weights(&self) -> usize {
        self.shapes.iter().map(DenseShape::n_weights).sum()
    }
}

/// The products with `vectors: [n, p]`, and what their owner concludes.
pub(crate) fn products<U: timely::ExchangeData + Clone>(
    worker: &mut Worker,
    context: &Arc<Context>,
    loss: &Loss,
    over: &Over,
    vectors: Vec<f64>,
    mut conclusion: impl FnMut(ProductSums) -> Result<U, RunError> + 'static,
) -> Result<U, RunError> {
    let directions = WeightDirections::new(&over.layers, &over.shapes, &vectors, &context.network.arithmetic())?;
    let bytes = size_of_val(vectors.as_slice()) as u64;
    drop(vectors);
    let concluded = gathered(worker, context, |scope| {
        let deriving = Arc::clone(context);
        let population = loss.population.clone();
        let spectra = spectra_of_fit(scope, context, bytes);
        let training = differentiate(spectra, &context.faults, move |batch| {
            let training = select(&deriving, &batch, &deriving.rows_in_sums(&batch))?;
            differentiate_on_cpu(&deriving, population.as_ref(), training, deriving.jacobian_of_sums())
        });
        let (adding, loss) = (Arc::clone(context), loss.clone());
        let (over, n_vectors) = (over.clone(), directions.count());
        let total = sum_up(
            training,
            &context.faults,
            "Products",
            &context.fit.groups,
            move || ProductSums::empty(&over.layers, &over.shapes, n_vectors),
            move |sums, training| add(&adding, &loss, &directions, &training, sums),
            |total, group| Ok(total.merge(&group)?),
        );
        conclude(total, "Conclude", &context.faults, move |_, total| conclusion(total))
    })?;
    let concluded = concluded.into_values().next();
    concluded.ok_or_else(|| RunError::Internal("a pass of products came to no end".into()))
}

/// Sums came to a worker that does not own them: all of a pass have key 0, the first worker's.
pub(crate) fn not_the_owner() -> RunError {
    RunError::Internal("sums of products came to another worker than the first".into())
}

/// Adds a batch.
fn add(
    context: &Context,
    loss: &Loss,
    directions: &WeightDirections,
    training: &Differentiated,
    sums: &mut ProductSums,
) -> Result<(), RunError> {
    let (network, n) = (&context.network, training.batch.n_rows());
    if n == 0 {
        return Ok(());
    }
    let rows: Vec<usize> = (0..n).collect();
    let precision = precision_of(context, &loss.noise, training, &rows)?;
    let residuals = training.normalised_residuals_of(&rows, &network.labels().scale);
    let captures = &training.backward.captures;
    let threads = network.arithmetic().threads;
    match loss.kind {
        CurvatureKind::Ggn | CurvatureKind::EmpiricalFisher => {
            let of_loss = of_loss(loss.kind, captures, &precision, &residuals)?;
            let (captures, precision) = of_loss
                .as_ref()
                .map_or((captures, &precision), |(captures, one)| (captures, one));
            add_ggn_products(captures, precision, directions, sums, threads)?;
        }
        CurvatureKind::Hessian => {
            let forward = network.forward(&training.batch.flux)?;
            add_hessian_products(network, (&forward, captures), &precision, &residuals, directions, sums)?;
        }
    }
    Ok(())
}
