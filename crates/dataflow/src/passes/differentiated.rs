//! One batch through the network: labels, layer captures and, where asked for, the Jacobian by flux.

use std::rc::Rc;

use fisherflow_network::{Backward, InputJacobian};
use fisherflow_spectra::{PixelPopulation, SpectrumBatch};

use crate::context::Context;
use crate::error::RunError;

/// A batch and what the network makes of it.
pub(crate) struct Differentiated {
    /// The spectra, masked pixels replaced.
    pub(crate) batch: SpectrumBatch,
    /// The network's labels: `[n, K]`, label units.
    pub(crate) labels: Vec<f64>,
    /// Layer captures and, if wanted, `J_x`.
    pub(crate) backward: Backward,
}

/// Replaces masked pixels, then runs one forward and K backward passes at once.
pub(crate) fn differentiate(
    context: &Context,
    population: Option<&PixelPopulation>,
    mut batch: SpectrumBatch,
    input_jacobian: InputJacobian,
) -> Result<Rc<Differentiated>, RunError> {
    if let Some(population) = population {
        batch.impute(population)?;
    } else if batch.has_masked_pixels() {
        return Err(RunError::Refused(format!(
            "{} has masked pixels, and no held-out spectrum tells what to expect there: raise noise.holdout_fraction",
            batch.shard
        )));
    }
    let network = &context.network;
    let flux = network.flux_tensor(&batch.flux)?;
    let forward = network.forward(&flux)?;
    let labels = forward.labels(network)?;
    let backward = network.backward(&forward, input_jacobian)?;
    context.progress.advance(batch.n_rows() as u64);
    Ok(Rc::new(Differentiated { batch, labels, backward }))
}
