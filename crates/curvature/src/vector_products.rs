//! Products of the curvature of the loss with vectors, exact and never forming a matrix, and the loss's gradient: sums over spectra.
//!
//! With the loss `L = 1/2 sum_n r_n^T Lam_n r_n`, `r_n = label - f(x_n)` in normalised label units:
//!
//! ```text
//! gradient    sum_n J_n^T Lam_n r_n                                    = - dL/dtheta
//! GGN         sum_n J_n^T Lam_n J_n V
//! Hessian     GGN V - sum_n sum_k (Lam_n r_n)_k d2 f_k(x_n)/dtheta2 V  = d2L/dtheta2 V
//! ```
//!
//! The first two come from layer captures alone: for a dense layer `J_n V` is `sum_o g_ko (V [a; 1])_o`, summed over
//! positions where they share the weights, so a product costs two passes over the
//! layer's weights for each direction. The third adds the R-operator of [`Network::hessian_products`]. The empirical Fisher is the GGN of
//! [`gradient_captures`] with one output of precision 1.
//!
//! Products within a batch are in the captures' type, batches are added in f64. No bit depends on the number of threads.

use candle_core::{DType, Tensor};
use fisherflow_network::product::{product, product_plus_row};
use fisherflow_network::scratch::Number;
use fisherflow_network::{DenseShape, Forward, LayerCapture, Network, NetworkError, WeightDirections};
use serde::{Deserialize, Serialize};

use crate::captured_rows::{capture_of, values, values_f64};
use crate::products::add_cross;
use crate::{CurvatureError, LabelPrecision};

/// Numbers of the products with a layer's weights that are held at once, where positions of a spectrum share them.
const PRODUCTS_AT_ONCE: usize = 1 << 22;

/// Sums over spectra of products with some directions, for some dense layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProductSums {
    /// Number of spectra summed over.
    pub n_spectra: u64,
    n_directions: usize,
    layers: Vec<usize>,
    shapes: Vec<DenseShape>,
    /// Layer after layer `[n_directions * out, columns]`.
    sums: Vec<f64>,
}

impl ProductSums {
    /// Sums over no spectra; `shapes` are those of the dense layers `layers`.
    #[must_use]
    pub fn empty(layers: &[usize], shapes: &[DenseShape], n_directions: usize) -> Self {
        let p: usize = shapes.iter().map(DenseShape::n_weights).sum();
        Self {
            n_spectra: 0,
            n_directions,
            layers: layers.to_vec(),
            shapes: shapes.to_vec(),
            sums: vec![0.0; n_directions * p],
        }
    }

    /// Adds the sums over other spectra.
    ///
    /// # Errors
    /// Sums of other layers or another number of directions.
    pub fn merge(&mut self, other: &Self) -> Result<(), CurvatureError> {
        if (self.n_directions, &self.layers, &self.shapes) != (other.n_directions, &other.layers, &other.shapes) {
            return Err(CurvatureError::ProductSumsDiffer {
                expected: self.sums.len(),
                found: other.sums.len(),
            });
        }
        self.n_spectra += other.n_spectra;
        for (sum, value) in self.sums.iter_mut().zip(&other.sums) {
            *sum += value;
        }
        Ok(())
    }

    /// As many numbers as there are products: those of [`with`](Self::with).
    #[must_use]
    pub fn into_sums(self) -> Vec<f64> {
        self.sums
    }

    /// The same products over so many spectra, with the sums of theirs.
    ///
    /// # Errors
    /// Another number of sums.
    pub fn with(self, n_spectra: u64, sums: Vec<f64>) -> Result<Self, CurvatureError> {
        if sums.len() != self.sums.len() {
            return Err(CurvatureError::ProductSumsDiffer {
                expected: self.sums.len(),
                found: sums.len(),
            });
        }
        Ok(Self {
            n_spectra,
            sums,
            ..self
        })
    }

    /// The products, `[n_directions, p]`: each as its direction, layer after layer `[W | b]`.
    ///
    /// # Errors
    /// Sums that are not finite.
    pub fn products(&self) -> Result<Vec<f64>, CurvatureError> {
        let p: usize = self.shapes.iter().map(DenseShape::n_weights).sum();
        let mut products = vec![0.0; self.sums.len()];
        let (mut start, mut rest) = (0, self.sums.as_slice());
        for shape in &self.shapes {
            let size = shape.n_weights();
            let (own, after) = rest.split_at(self.n_directions * size);
            rest = after;
            if own.iter().any(|x| !x.is_finite()) {
                return Err(CurvatureError::NonFiniteSums {
                    block: "of all weights".to_owned(),
                    layer: shape.name.clone(),
                    part: "product with a vector",
                    n_spectra: self.n_spectra,
                });
            }
            for (product, own) in products.chunks_exact_mut(p).zip(own.chunks_exact(size)) {
                product[start..start + size].copy_from_slice(own);
            }
            start += size;
        }
        Ok(products)
    }

    /// Each layer with its part of the sums.
    fn by_layer(&mut self) -> impl Iterator<Item = (usize, &DenseShape, &mut [f64])> {
        let n = self.n_directions;
        let mut rest = self.sums.as_mut_slice();
        self.layers.iter().zip(&self.shapes).map(move |(&layer, shape)| {
            let (own, after) = std::mem::take(&mut rest).split_at_mut(n * shape.n_weights());
            rest = after;
            (layer, shape, own)
        })
    }

    /// Checks that the sums are of these directions.
    fn check(&self, directions: &WeightDirections) -> Result<(), CurvatureError> {
        let found: Vec<usize> = directions.layers().collect();
        if found == self.layers && directions.count() == self.n_directions {
            return Ok(());
        }
        Err(CurvatureError::ProductSumsDiffer {
            expected: self.sums.len(),
            found: directions.count() * self.sums.len() / self.n_directions.max(1),
        })
    }
}

/// Adds `sum_n J_n^T Lam_n r_n` of a batch to sums of one direction: minus the gradient of the loss. `residuals`: `[batch, K]`.
///
/// # Errors
/// Captures, precisions, residuals or sums that do not fit one another.
pub fn add_gradient(
    captures: &[LayerCapture],
    precision: &LabelPrecision,
    residuals: &[f64],
    sums: &mut ProductSums,
    threads: usize,
) -> Result<(), CurvatureError> {
    let seeds = precision.times(residuals)?;
    if sums.n_directions != 1 {
        return Err(CurvatureError::ProductSumsDiffer {
            expected: sums.sums.len(),
            found: sums.sums.len() / sums.n_directions.max(1),
        });
    }
    add_transposed(captures, precision, &seeds, sums, threads)?;
    sums.n_spectra += precision.batch() as u64;
    Ok(())
}

/// Adds the GGN of a batch times each direction.
///
/// # Errors
/// Captures, precisions, directions or sums that do not fit one another.
pub fn add_ggn_products(
    captures: &[LayerCapture],
    precision: &LabelPrecision,
    directions: &WeightDirections,
    sums: &mut ProductSums,
    threads: usize,
) -> Result<(), CurvatureError> {
    sums.check(directions)?;
    let (k, batch, n) = (precision.n_labels, precision.batch(), directions.count());
    let mut jv = vec![0.0; n * batch * k]; // J v: [n, batch, K]
    for (layer, shape, _) in sums.by_layer() {
        let capture = capture_of(captures, layer, shape, k, batch)?;
        let Some(directions) = directions.of_layer(layer) else {
            continue;
        };
        let (outputs, grad) = (shape.outputs, values_f64(&capture.output_grad, shape)?);
        let positions = batch * shape.shared;
        let at_once = spectra_at_once(shape, n, batch);
        for first in (0..batch).step_by(at_once) {
            let input = capture.input.narrow(0, first, at_once.min(batch - first));
            let through = through_layer(&input.map_err(NetworkError::from)?, directions, shape, threads)?;
            let through = through.chunks_exact((n * outputs).max(1));
            for (position, through) in (first * shape.shared..).zip(through) {
                let spectrum = position / shape.shared;
                for (direction, through) in through.chunks_exact(outputs).enumerate() {
                    for output in 0..k {
                        let grad = &grad[(output * positions + position) * outputs..][..outputs];
                        jv[(direction * batch + spectrum) * k + output] += dot(grad, through);
                    }
                }
            }
        }
    }
    let mut weighted = Vec::with_capacity(jv.len());
    for jv in jv.chunks_exact((batch * k).max(1)) {
        weighted.extend(precision.times(jv)?);
    }
    add_transposed(captures, precision, &weighted, sums, threads)?;
    sums.n_spectra += batch as u64;
    Ok(())
}

/// Adds the true Hessian of the loss of a batch times each direction. `residuals`: `[batch, K]`, label minus output, normalised label units.
///
/// # Errors
/// A forward pass, captures, precisions, residuals, directions or sums that do not fit one another.
pub fn add_hessian_products(
    network: &Network,
    (forward, captures): (&Forward, &[LayerCapture]),
    precision: &LabelPrecision,
    residuals: &[f64],
    directions: &WeightDirections,
    sums: &mut ProductSums,
) -> Result<(), CurvatureError> {
    let seeds = seeds(network, precision, residuals)?;
    add_ggn_products(captures, precision, directions, sums, network.arithmetic().threads)?;
    let bends = network.hessian_products(forward, &seeds, directions)?;
    for (layer, shape, sums) in sums.by_layer() {
        if let Some(bend) = bends.get(&layer) {
            for (sum, bend) in sums.iter_mut().zip(values_f64(bend, shape)?) {
                *sum -= bend;
            }
        }
    }
    Ok(())
}

/// The captures of the loss: one output, whose gradient is `sum_k (Lam_n r_n)_k g_nk`, so that a row of its weight Jacobian is the gradient of
/// one spectrum's loss (up to sign). `residuals`: `[batch, K]`.
///
/// With a precision of 1 (`LabelPrecision::constant(&[1.0], batch)`) the GGN of these is the empirical Fisher
/// `sum_n (J_n^T Lam_n r_n)(J_n^T Lam_n r_n)^T`.
///
/// # Errors
/// Captures, precisions or residuals that do not fit one another.
pub fn gradient_captures(
    captures: &[LayerCapture],
    precision: &LabelPrecision,
    residuals: &[f64],
) -> Result<Vec<LayerCapture>, CurvatureError> {
    let (k, batch) = (precision.n_labels, precision.batch());
    let seeds = precision.times(residuals)?;
    let mut combined = Vec::with_capacity(captures.len());
    for capture in captures {
        let (found_k, found_batch, shared, outputs) = capture.output_grad.dims4().map_err(NetworkError::from)?;
        let shape = DenseShape {
            name: format!("number {}", capture.layer),
            inputs: 0,
            outputs,
            bias: false,
            shared,
        };
        if (found_k, found_batch) != (k, batch) {
            return Err(CurvatureError::CaptureShape {
                layer: shape.name,
                tensor: "output_grad",
                found: capture.output_grad.dims().to_vec(),
                expected: vec![k, batch, shared, outputs],
            });
        }
        let grad = values_f64(&capture.output_grad, &shape)?;
        let width = shared * outputs;
        let mut sum = vec![0.0; batch * width];
        for (output, grad) in grad.chunks_exact((batch * width).max(1)).enumerate() {
            for ((sum, grad), seeds) in sum
                .chunks_exact_mut(width)
                .zip(grad.chunks_exact(width))
                .zip(seeds.chunks_exact(k))
            {
                for (sum, grad) in sum.iter_mut().zip(grad) {
                    *sum += seeds[output] * grad;
                }
            }
        }
        let device = capture.output_grad.device();
        let output_grad = Tensor::from_vec(sum, (1, batch, shared, outputs), device)
            .and_then(|sum| sum.to_dtype(capture.output_grad.dtype()))
            .map_err(NetworkError::from)?;
        combined.push(LayerCapture {
            layer: capture.layer,
            input: capture.input.clone(),
            output_grad,
        });
    }
    Ok(combined)
}

/// `Lam_n r_n` as one seed of the backward pass: `[1, batch, K]`, the network's type.
pub(crate) fn seeds(
    network: &Network,
    precision: &LabelPrecision,
    residuals: &[f64],
) -> Result<Tensor, CurvatureError> {
    let seeds = precision.times(residuals)?;
    let arithmetic = network.arithmetic();
    let tensor = Tensor::from_vec(seeds, (1, precision.batch(), precision.n_labels), &arithmetic.device())
        .and_then(|seeds| seeds.to_dtype(arithmetic.precision.dtype()));
    Ok(tensor.map_err(NetworkError::from)?)
}

/// Spectra whose products with a layer's weights are held at once: all, where no positions share them.
fn spectra_at_once(shape: &DenseShape, n_directions: usize, batch: usize) -> usize {
    if shape.shared == 1 {
        return batch.max(1);
    }
    (PRODUCTS_AT_ONCE / (shape.shared * shape.outputs * n_directions).max(1)).clamp(1, batch.max(1))
}

/// `V [a; 1]` of every position and direction, `[batch, shared, n, out]`, of `input: [batch, shared, in]`.
fn through_layer(
    input: &Tensor,
    directions: &Tensor,
    shape: &DenseShape,
    threads: usize,
) -> Result<Vec<f64>, CurvatureError> {
    let product = || {
        let input = input.reshape(((), shape.inputs))?;
        let weights = directions.narrow(1, 0, shape.inputs)?;
        if !shape.bias {
            return product(&input, &weights.t()?, threads);
        }
        let bias = directions.narrow(1, shape.inputs, 1)?.flatten_all()?.contiguous()?;
        product_plus_row(&input, &weights.t()?, &bias, threads)
    };
    values_f64(&product().map_err(NetworkError::from)?, shape)
}

/// Adds `sum_n sum_k u_nk sum_t g_nkt (x) [a_nt; 1]` of each direction; `u: [n, batch, K]`.
fn add_transposed(
    captures: &[LayerCapture],
    precision: &LabelPrecision,
    u: &[f64],
    sums: &mut ProductSums,
    threads: usize,
) -> Result<(), CurvatureError> {
    let (k, batch) = (precision.n_labels, precision.batch());
    for (layer, shape, sums) in sums.by_layer() {
        let capture = capture_of(captures, layer, shape, k, batch)?;
        match capture.input.dtype() {
            DType::F32 => add_layer::<f32>(capture, shape, (k, batch), u, sums, threads)?,
            _ => add_layer::<f64>(capture, shape, (k, batch), u, sums, threads)?,
        }
    }
    Ok(())
}

fn add_layer<T: Number>(
    capture: &LayerCapture,
    shape: &DenseShape,
    (k, batch): (usize, usize),
    u: &[f64],
    sums: &mut [f64],
    threads: usize,
) -> Result<(), CurvatureError> {
    if batch == 0 {
        return Ok(());
    }
    let (outputs, stride) = (shape.outputs, shape.columns());
    let n = u.len() / (batch * k);
    let grad: Vec<T> = values(&capture.output_grad, shape)?;
    let input: Vec<T> = values(&capture.input, shape)?;
    let (positions, at_once) = (batch * shape.shared, spectra_at_once(shape, n, batch));
    let rows_at_once = at_once * shape.shared;
    let mut combined = Vec::with_capacity(rows_at_once * n * outputs); // [batch * shared, n * out]
    let mut row = vec![0.0; outputs];
    for (chunk, input) in input.chunks((rows_at_once * shape.inputs).max(1)).enumerate() {
        combined.clear();
        let first = chunk * rows_at_once;
        for position in first..positions.min(first + rows_at_once) {
            let spectrum = position / shape.shared;
            for direction in 0..n {
                row.fill(0.0);
                for (output, u) in u[(direction * batch + spectrum) * k..][..k].iter().enumerate() {
                    let grad = &grad[(output * positions + position) * outputs..][..outputs];
                    for (x, g) in row.iter_mut().zip(grad) {
                        *x += u * g.to_f64();
                    }
                }
                if shape.bias {
                    for (sums, x) in sums[direction * outputs * stride..].chunks_exact_mut(stride).zip(&row) {
                        sums[shape.inputs] += x;
                    }
                }
                combined.extend(row.iter().map(|&x| T::from_f64(x)));
            }
        }
        add_cross(&combined, n * outputs, input, shape.inputs, sums, stride, threads);
    }
    Ok(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
