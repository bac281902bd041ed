//! What a pass made, small enough to compare: J of the first spectra, all covariances, and every matrix of sums times a probe.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{DType, IndexOp};
use fisherflow_curvature::{BlockCurvature, BlockPlan, CurvatureForm, Matrix};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

use crate::inputs::Inputs;
use crate::passes::Made;

/// Spectra whose J_x is compared.
const JACOBIANS: usize = 32;

/// Writes them to `path`, all f64: `jacobian [n, K, D]`, `flux_covariance` and `weights_covariance` `[N, K, K]`, and of each block
/// `<name>.<matrix>`, a matrix times the first values of the probe.
pub(crate) fn save(
    path: &Path,
    inputs: &Inputs,
    plans: &[BlockPlan],
    made: Vec<Made>,
    curvature: &[BlockCurvature],
) -> Result<(), Box<dyn Error>> {
    let k = inputs.network.n_labels();
    let mut tensors: HashMap<String, (Vec<usize>, Vec<f64>)> = HashMap::new();
    let (mut jacobians, mut flux, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for made in made {
        jacobians.extend(made.jacobians);
        flux.extend(made.flux);
        weights.extend(made.weights);
    }
    if let Some((_, first)) = jacobians.iter().find(|(index, _)| *index == 0) {
        let n = first.dim(1)?.min(JACOBIANS);
        let first = first.i((.., ..n))?.transpose(0, 1)?.to_dtype(DType::F64)?;
        tensors.insert(
            "jacobian".to_owned(),
            (first.dims().to_vec(), first.flatten_all()?.to_vec1()?),
        );
    }
    for (name, mut parts) in [("flux_covariance", flux), ("weights_covariance", weights)] {
        parts.sort_by_key(|(index, _)| *index);
        let values: Vec<f64> = parts.into_iter().flat_map(|(_, values)| values).collect();
        if !values.is_empty() {
            tensors.insert(name.to_owned(), (vec![values.len() / (k * k), k, k], values));
        }
    }
    for (plan, curvature) in plans.iter().zip(curvature) {
        let matrices: Vec<(&str, &Matrix)> = match &curvature.form {
            CurvatureForm::Dense(h) => vec![("dense", h)],
            CurvatureForm::Kronecker { a, g } => vec![("a", a), ("g", g)],
            CurvatureForm::Eigenbasis { eigenvalues, .. } => vec![("eigenvalues", eigenvalues)],
            CurvatureForm::Diagonal(d) => vec![("diagonal", d)],
            CurvatureForm::LowRank { .. } => Vec::new(),
        };
        for (name, matrix) in matrices {
            let rows = matrix.values.chunks_exact(matrix.cols);
            let product: Vec<f64> = rows
                .map(|row| row.iter().zip(&inputs.probe).map(|(m, p)| m * p).sum())
                .collect();
            tensors.insert(format!("{}.{name}", plan.name()), (vec![product.len()], product));
        }
    }
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::new();
    for (name, shape, bytes) in &bytes {
        views.push((name.as_str(), TensorView::new(Dtype::F64, shape.clone(), bytes)?));
    }
    Ok(std::fs::write(path, serialize(views, None)?)?)
}
