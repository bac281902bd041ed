//! One batch through the network: labels, layer captures and, where asked for, the Jacobian by flux.

use std::fmt::Display;

use candle_core::{DType, Device, Tensor};
use fisherflow_network::{Backward, InputJacobian, LayerCapture, Network};
use fisherflow_posterior::{flux_covariance, flux_covariance_in_blocks};
use fisherflow_spectra::{PixelPopulation, RowFlags, SpectrumBatch};

use crate::bad_rows::id_of;
use crate::context::Context;
use crate::error::RunError;

/// A batch and what the network makes of it.
pub(crate) struct Differentiated {
    /// The spectra, masked pixels replaced.
    pub(crate) batch: SpectrumBatch,
    /// The network's labels: `[n, K]`, label units.
    pub(crate) labels: Vec<f64>,
    /// Layer captures and, if wanted whole, `J_x`.
    pub(crate) backward: Backward,
    /// `J_x C_flux J_x^T`, `[n, K, K]`, label units; `None` where `J_x` was not wanted.
    pub(crate) flux_part: Option<Vec<f64>>,
}

impl Differentiated {
    /// `label - prediction` of every row, `[n, K]`, label units; NaN where a label is missing; empty where the catalogue names no labels.
    pub(crate) fn residuals(&self) -> Vec<f64> {
        self.batch
            .labels
            .iter()
            .zip(&self.labels)
            .map(|(label, predicted)| label - predicted)
            .collect()
    }

    /// `label - prediction` of some rows, `[n, K]`, in normalised label units.
    pub(crate) fn normalised_residuals_of(&self, rows: &[usize], scale: &[f64]) -> Vec<f64> {
        let (all, k) = (self.residuals(), scale.len());
        rows.iter()
            .flat_map(|row| all.iter().skip(row * k).zip(scale))
            .map(|(residual, scale)| residual / scale)
            .collect()
    }

    /// The first of some rows whose labels overflow.
    pub(crate) fn first_that_overflows(&self, rows: impl IntoIterator<Item = usize>) -> Option<usize> {
        let k = self.labels.len() / self.batch.n_rows().max(1);
        let overflows = |row: usize| self.labels.iter().skip(row * k).take(k).any(|label| !label.is_finite());
        rows.into_iter().find(|&row| overflows(row))
    }

    /// J_x as it is written: `[K, n, D]`, label unit per flux unit.
    pub(crate) fn jacobian_f32(&self) -> Result<Vec<f32>, RunError> {
        let jacobian = self.backward.input_jacobian.as_ref().ok_or_else(not_computed)?;
        let values = || jacobian.flatten_all()?.to_dtype(DType::F32)?.to_vec1();
        values().map_err(|error: candle_core::Error| RunError::Internal(error.to_string()))
    }

    /// The captures of some rows.
    pub(crate) fn captures_of(&self, rows: &[usize]) -> Result<Vec<LayerCapture>, RunError> {
        let captures = &self.backward.captures;
        if rows.len() == self.batch.n_rows() {
            return Ok(captures.clone());
        }
        let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        select(captures, &rows)
    }

    /// The labels' own covariances of some rows, `[n, K, K]`, in the catalogue's units.
    pub(crate) fn label_covariance_of(&self, rows: &[usize]) -> Option<Vec<f64>> {
        let all = self.batch.label_covariance.as_ref()?;
        let size = self.batch.n_labels * self.batch.n_labels;
        Some(
            rows.iter()
                .flat_map(|row| &all[row * size..(row + 1) * size])
                .copied()
                .collect(),
        )
    }
}

/// The captures of some spectra, in that order.
pub(crate) fn select(captures: &[LayerCapture], rows: &[u32]) -> Result<Vec<LayerCapture>, RunError> {
    let Some(device) = captures.first().map(|capture| capture.input.device().clone()) else {
        return Ok(Vec::new());
    };
    let tensor = || {
        if rows.is_empty() {
            // No GPU copies nothing.
            return captures.iter().map(none_of).collect();
        }
        let rows = Tensor::from_slice(rows, rows.len(), &device)?;
        captures
            .iter()
            .map(|capture| capture.select(&rows))
            .collect::<candle_core::Result<Vec<_>>>()
    };
    tensor().map_err(|error| RunError::Internal(error.to_string()))
}

/// A capture of no spectrum, on the CPU.
fn none_of(capture: &LayerCapture) -> candle_core::Result<LayerCapture> {
    let empty = |tensor: &Tensor, batch: usize| {
        let mut dims = tensor.dims().to_vec();
        dims[batch] = 0;
        Tensor::zeros(dims, tensor.dtype(), &Device::Cpu)
    };
    Ok(LayerCapture {
        layer: capture.layer,
        input: empty(&capture.input, 0)?,
        output_grad: empty(&capture.output_grad, 1)?,
    })
}

/// Replaces masked pixels with what the population has there.
pub(crate) fn impute(population: Option<&PixelPopulation>, batch: &mut SpectrumBatch) -> Result<(), RunError> {
    let is_masked = |flags: &RowFlags| flags.contains(RowFlags::PIXELS_MASKED);
    if let Some(population) = population {
        batch.impute(population)?;
    } else if let Some(row) = batch.flags.iter().position(is_masked) {
        return Err(RunError::Refused(format!(
            "id {} has masked pixels, and no held-out spectrum tells what to expect there: raise noise.holdout_fraction",
            id_of(batch, row)
        )));
    }
    Ok(())
}

/// Replaces masked pixels, then runs one forward and K backward passes at once.
pub(crate) fn differentiate(
    context: &Context,
    population: Option<&PixelPopulation>,
    batch: SpectrumBatch,
    input_jacobian: InputJacobian,
) -> Result<Differentiated, RunError> {
    differentiate_with(context.differentiating()?, context, population, batch, input_jacobian)
}

/// The same on the CPU whatever the run file names: for second derivatives, which are made there.
pub(crate) fn differentiate_on_cpu(
    context: &Context,
    population: Option<&PixelPopulation>,
    batch: SpectrumBatch,
    input_jacobian: InputJacobian,
) -> Result<Differentiated, RunError> {
    differentiate_with(&context.network, context, population, batch, input_jacobian)
}

fn differentiate_with(
    network: &Network,
    context: &Context,
    population: Option<&PixelPopulation>,
    mut batch: SpectrumBatch,
    input_jacobian: InputJacobian,
) -> Result<Differentiated, RunError> {
    impute(population, &mut batch)?;
    // A product of nothing is none that every GPU makes.
    let network = if batch.n_rows() == 0 { &context.network } else { network };
    let forward = network.forward(&batch.flux)?;
    let labels = forward.labels(network)?;
    let backward = network.backward(&forward, input_jacobian)?;
    let flux_part = match (input_jacobian, &backward.input_jacobian) {
        (InputJacobian::NotWanted, _) => None,
        (_, Some(jacobian)) => Some(flux_covariance(jacobian, &batch.variance)?),
        (_, None) => Some(flux_covariance_in_blocks(network, &backward, &batch.variance)?),
    };
    context.progress.advance(batch.n_rows() as u64);
    Ok(Differentiated {
        batch,
        labels,
        backward,
        flux_part,
    })
}

/// A spectrum would spoil the sums over all others.
pub(crate) fn overflow(context: &Context, spectrum: impl Display) -> RunError {
    RunError::Refused(format!(
        "what the network makes of a spectrum of {} is not finite: {spectrum}. Mask what is wrong with its flux, or leave it out with \
         catalogue.exclude",
        context.job.catalogue.uri
    ))
}

/// J_x is asked for where no pass computed it.
pub(crate) fn not_computed() -> RunError {
    RunError::Internal("the input Jacobian is needed and was not computed".into())
}
