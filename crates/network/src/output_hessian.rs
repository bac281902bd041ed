//! The Hessian of each OUTPUT by the weights, for single spectra: its diagonal, its rows, and (as
//! [`Network::hessian_products`]) its products with vectors.
//!
//! A layer's own block is `C (x) [a; 1][a; 1]^T`, with C the Hessian of the output by the layer's pre-activation, which goes back through the
//! network as
//!
//! ```text
//! dense       C <- W^T C W
//! activation  C <- phi' C phi' + diag(phi'' g)      g: the output's gradient behind the activation
//! ```
//!
//! from C = 0 at the output (Botev, Ritter and Barber 2017, arXiv:1706.03662, eq. 6, for one output in place of the loss). Where all
//! activations are piecewise linear C is 0, and what is left of the Hessian are the terms between different layers.
//!
//! Positions that share weights are coupled by C, so the diagonal of a network with convolutions is taken from products with unit vectors.

use candle_core::{DType, Tensor};

use crate::blocks::in_blocks;
use crate::error::NetworkError;
use crate::network::{Forward, Layer, Network};
use crate::product::product;
use crate::r_operator::times;
use crate::weight_directions::WeightDirections;

/// Weights of a network with convolutions up to which the diagonal is taken: each costs a pass through the network for every output.
const MOST_UNIT_VECTORS: usize = 20_000;

/// Products with unit vectors taken at once.
const UNIT_VECTORS_AT_ONCE: usize = 64;

impl Network {
    /// The diagonal of the Hessian of each output by all weights, for the only spectrum of `forward`: `[K, n_weights]`, layer after layer
    /// `[W | b]`, in normalised label units.
    ///
    /// # Errors
    /// A forward pass of another network, or of another number of spectra than one; convolutions or pooling in a network of more than 20,000
    /// weights.
    pub fn output_hessian_diagonal(&self, forward: &Forward) -> Result<Vec<f64>, NetworkError> {
        let has_positions = |layer: &Layer| matches!(layer, Layer::Conv1d(_) | Layer::Pool1d(_) | Layer::Flatten(_));
        if self.layers.iter().any(has_positions) {
            return self.diagonal_by_unit_vectors(forward);
        }
        let curves = self.curves(forward)?;
        let grads = self.gradients(forward, &self.unit_seeds(forward)?, &curves)?;
        let threads = self.arithmetic.threads;
        let mut diagonal = vec![0.0; self.n_labels() * self.n_weights()];
        for (k, of_output) in diagonal.chunks_exact_mut(self.n_weights()).enumerate() {
            let mut end = of_output.len();
            let mut index = self.shapes.len();
            let mut c: Option<Tensor> = None; // [width, width]; None: 0
            for (position, layer) in self.layers.iter().enumerate().rev() {
                c = match (layer, &curves[position]) {
                    (Layer::Dense(dense), _) => {
                        index -= 1;
                        let start = end - self.shapes[index].n_weights();
                        if let Some(c) = &c {
                            let input = &forward.inputs[position];
                            own_block(c, input, dense.bias.is_some(), &mut of_output[start..end])?;
                        }
                        end = start;
                        if index == 0 {
                            break;
                        }
                        c.map(|c| product(&product(&dense.weight.t()?, &c, threads)?, &dense.weight, threads))
                            .transpose()?
                    }
                    (Layer::Activation(_), Some(curve)) => {
                        let column = curve.slope.t()?.contiguous()?;
                        let through = c
                            .map(|c| {
                                in_blocks(&c, usize::MAX, threads, |first, c| {
                                    c.broadcast_mul(&curve.slope)?.broadcast_mul(&column.narrow(
                                        0,
                                        first,
                                        c.dims2()?.0,
                                    )?)
                                })
                            })
                            .transpose()?;
                        match &curve.bend {
                            Some(bend) => {
                                let bent = times(&grads[position].narrow(0, k, 1)?, bend, threads)?;
                                Some(plus_diagonal(through, &bent)?)
                            }
                            None => through,
                        }
                    }
                    (
                        Layer::Activation(_) | Layer::Conv1d(_) | Layer::Pool1d(_) | Layer::Flatten(_),
                        None | Some(_),
                    ) => c,
                };
            }
        }
        Ok(diagonal)
    }

    /// The same, each layer's part from products with its unit vectors.
    fn diagonal_by_unit_vectors(&self, forward: &Forward) -> Result<Vec<f64>, NetworkError> {
        let p = self.n_weights();
        if p > MOST_UNIT_VECTORS {
            return Err(NetworkError::TooManyUnitVectors {
                n_weights: p,
                most: MOST_UNIT_VECTORS,
            });
        }
        let seeds = self.unit_seeds(forward)?;
        let mut diagonal = vec![0.0; self.n_labels() * p];
        let mut start = 0;
        for (layer, shape) in self.shapes.iter().enumerate() {
            let own = shape.n_weights();
            for first in (0..own).step_by(UNIT_VECTORS_AT_ONCE) {
                let count = UNIT_VECTORS_AT_ONCE.min(own - first);
                let mut units = vec![0.0; count * own];
                for (row, unit) in units.chunks_exact_mut(own).enumerate() {
                    unit[first + row] = 1.0;
                }
                let directions =
                    WeightDirections::new(&[layer], &self.shapes[layer..=layer], &units, &self.arithmetic)?;
                if let Some(products) = self.hessian_products(forward, &seeds, &directions)?.get(&layer) {
                    let products = products.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
                    for (k, products) in products.chunks_exact(count * own).enumerate() {
                        for (row, product) in products.chunks_exact(own).enumerate() {
                            diagonal[k * p + start + first + row] = product[first + row];
                        }
                    }
                }
            }
            start += own;
        }
        Ok(diagonal)
    }

    /// Rows `first .. first + count` of the Hessian of each output by all weights, for the only spectrum of `forward`: `[K, count, n_weights]`.
    ///
    /// # Errors
    /// A forward pass of another network, or of another number of spectra than one, or rows beyond the last.
    pub fn output_hessian_rows(&self, forward: &Forward, first: usize, count: usize) -> Result<Vec<f64>, NetworkError> {
        let p = self.n_weights();
        if first + count > p {
            return Err(NetworkError::DirectionLength {
                found: first + count,
                n_weights: p,
            });
        }
        let mut units = vec![0.0; count * p];
        for (row, unit) in units.chunks_exact_mut(p).enumerate() {
            unit[first + row] = 1.0;
        }
        self.output_hessian_products(forward, &units)
    }

    /// The Hessian of each output by all weights, for the only spectrum of `forward`, times each of `vectors: [n, n_weights]`:
    /// `[K, n, n_weights]`.
    ///
    /// # Errors
    /// A forward pass of another network, or of another number of spectra than one, or no whole number of vectors.
    pub fn output_hessian_products(&self, forward: &Forward, vectors: &[f64]) -> Result<Vec<f64>, NetworkError> {
        let layers: Vec<usize> = (0..self.shapes.len()).collect();
        let directions = WeightDirections::new(&layers, &self.shapes, vectors, &self.arithmetic)?;
        let products = self.hessian_products(forward, &self.unit_seeds(forward)?, &directions)?;
        let (p, rows) = (self.n_weights(), self.n_labels() * directions.count());
        let mut all = vec![0.0; rows * p];
        let mut start = 0;
        for (layer, shape) in self.shapes.iter().enumerate() {
            let end = start + shape.n_weights();
            if let Some(product) = products.get(&layer) {
                let values = product.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
                for (row, own) in all.chunks_exact_mut(p).zip(values.chunks_exact(end - start)) {
                    row[start..end].copy_from_slice(own);
                }
            }
            start = end;
        }
        Ok(all)
    }

    /// A seed an output for the only spectrum of `forward`: `[K, 1, K]`.
    fn unit_seeds(&self, forward: &Forward) -> Result<Tensor, NetworkError> {
        if forward.batch() != 1 {
            return Err(NetworkError::SingleSpectrum { found: forward.batch() });
        }
        let eye = Tensor::eye(
            self.n_labels(),
            self.arithmetic.precision.dtype(),
            &self.arithmetic.device(),
        )?;
        Ok(eye.unsqueeze(1)?)
    }
}

/// `C_oo [a; 1]_i^2` into `[out, columns]`.
fn own_block(c: &Tensor, input: &Tensor, bias: bool, diagonal: &mut [f64]) -> candle_core::Result<()> {
    let c = c.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let mut squares = input.to_dtype(DType::F64)?.sqr()?.flatten_all()?.to_vec1::<f64>()?;
    squares.extend(bias.then_some(1.0));
    for ((o, row), values) in c.iter().enumerate().zip(diagonal.chunks_exact_mut(squares.len())) {
        for (value, square) in values.iter_mut().zip(&squares) {
            *value = row[o] * square;
        }
    }
    Ok(())
}

/// `C + diag(d)`, `d: [1, width]`.
fn plus_diagonal(c: Option<Tensor>, d: &Tensor) -> candle_core::Result<Tensor> {
    let entries = d.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let n = entries.len();
    let mut values = match c {
        Some(c) => c.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?,
        None => vec![0.0; n * n],
    };
    for (i, entry) in entries.iter().enumerate() {
        values[i * n + i] += entry;
    }
    Tensor::from_vec(values, (n, n), d.device())?.to_dtype(d.dtype())
}
