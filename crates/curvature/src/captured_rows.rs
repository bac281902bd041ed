//! The rows of numbers that a structure sums, read out of a batch's captures and checked against the layer.

use candle_core::{DType, Storage, Tensor};
use fisherflow_network::product::in_wide_registers;
use fisherflow_network::scratch::{Number, Scratch};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::{BlockPlan, CurvatureError, LabelPrecision};

/// The capture of the layer counted `layer`, its shapes and types checked: `[batch, shared, in]` and `[K, batch, shared, out]`.
pub(crate) fn capture_of<'a>(
    captures: &'a [LayerCapture],
    layer: usize,
    shape: &DenseShape,
    n_labels: usize,
    batch: usize,
) -> Result<&'a LayerCapture, CurvatureError> {
    let capture = captures
        .iter()
        .find(|c| c.layer == layer)
        .ok_or_else(|| CurvatureError::MissingCapture {
            layer: shape.name.clone(),
        })?;
    let expected_input = vec![batch, shape.shared, shape.inputs];
    let expected_grad = vec![n_labels, batch, shape.shared, shape.outputs];
    for (tensor, found, expected) in [
        ("input", capture.input.dims(), expected_input),
        ("output_grad", capture.output_grad.dims(), expected_grad),
    ] {
        if found != expected {
            return Err(CurvatureError::CaptureShape {
                layer: shape.name.clone(),
                tensor,
                found: found.to_vec(),
                expected,
            });
        }
    }
    let (input, grad) = (capture.input.dtype(), capture.output_grad.dtype());
    if !matches!(input, DType::F32 | DType::F64) {
        return Err(CurvatureError::CaptureType {
            layer: shape.name.clone(),
            tensor: "input",
            found: input,
        });
    }
    if grad != input {
        return Err(CurvatureError::CaptureType {
            layer: shape.name.clone(),
            tensor: "output_grad",
            found: grad,
        });
    }
    Ok(capture)
}

/// The capture of a block's only layer, checked together with the precision.
pub(crate) fn only_layer<'a>(
    plan: &BlockPlan,
    captures: &'a [LayerCapture],
    precision: &LabelPrecision,
    n_labels: usize,
) -> Result<&'a LayerCapture, CurvatureError> {
    let batch = precision.batch();
    precision.check(n_labels, batch)?;
    capture_of(captures, plan.layers[0], &plan.shapes[0], n_labels, batch)
}

/// A tensor's values in its own type, which is `T`, row-major.
pub(crate) fn values<T: Number>(tensor: &Tensor, shape: &DenseShape) -> Result<Vec<T>, CurvatureError> {
    tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .map_err(|source| CurvatureError::CaptureValues {
            layer: shape.name.clone(),
            source,
        })
}

/// Hands over a tensor's values in its own type, which is `T`, row-major, without a copy where they lie together.
pub(crate) fn with_values<T: Number, R>(
    tensor: &Tensor,
    shape: &DenseShape,
    read: impl FnOnce(&[T]) -> R,
) -> Result<R, CurvatureError> {
    {
        let (storage, layout) = tensor.storage_and_layout();
        if let (Storage::Cpu(cpu), Some((start, end))) = (&*storage, layout.contiguous_offsets())
            && let Some(values) = cpu.as_slice::<T>().ok().and_then(|values| values.get(start..end))
        {
            return Ok(read(values));
        }
    }
    Ok(read(&values::<T>(tensor, shape)?))
}

/// A tensor's values in f64, whichever of f32 and f64 it holds, row-major.
pub(crate) fn values_f64(tensor: &Tensor, shape: &DenseShape) -> Result<Vec<f64>, CurvatureError> {
    match tensor.dtype() {
        DType::F32 => Ok(values::<f32>(tensor, shape)?.into_iter().map(f64::from).collect()),
        _ => values(tensor, shape),
    }
}

/// Whitened gradients, `[batch, shared, K, out]`: row j of spectrum n and position t is `sum_k F_n,kj (g_ntk - mean_k)`.
///
/// `grad` is `[K, batch, shared, out]`, `mean` is `[K, out]` (none: 0). The sum is taken in f64 and rounded once to `T`.
pub(crate) fn whitened_gradients<T: Number>(
    grad: &[T],
    outputs: usize,
    precision: &LabelPrecision,
    mean: Option<&[f64]>,
) -> Scratch<T> {
    let (k, batch) = (precision.n_labels, precision.batch());
    let rows = grad.len() / (k * outputs).max(1);
    debug_assert_eq!(grad.len(), k * rows * outputs);
    debug_assert!(batch > 0 || rows == 0);
    let shared = rows / batch.max(1);
    let mut whitened = Scratch::new(grad.len());
    let mut row = vec![0.0; outputs];
    in_wide_registers(|| {
        for (at, whitened) in whitened.chunks_exact_mut((k * outputs).max(1)).enumerate() {
            let factor = &precision.factor[at / shared * k * k..][..k * k];
            for (j, whitened) in whitened.chunks_exact_mut(outputs).enumerate() {
                row.fill(0.0);
                for l in j..k {
                    let weight = factor[l * k + j];
                    if weight == 0.0 {
                        continue;
                    }
                    let gradient = &grad[(l * rows + at) * outputs..][..outputs];
                    match mean {
                        Some(mean) => {
                            for ((x, g), m) in row.iter_mut().zip(gradient).zip(&mean[l * outputs..][..outputs]) {
                                *x += weight * (g.to_f64() - m);
                            }
                        }
                        None => {
                            for (x, g) in row.iter_mut().zip(gradient) {
                                *x += weight * g.to_f64();
                            }
                        }
                    }
                }
                for (to, x) in whitened.iter_mut().zip(&row) {
                    *to = T::from_f64(*x);
                }
            }
        }
    });
    whitened
}
