//! Products of second derivatives by the weights with directions: Pearlmutter's R-operator.
//!
//! For a direction v of the weights, `R{x}` is the derivative of x along it. One forward pass carries `R{a}` beside every layer's input a;
//! one backward pass carries `R{g}` beside the gradient g of `F = sum_n sum_k seed_nk f_k(x_n)` at every pre-activation:
//!
//! ```text
//! dense       R{y} = R{a} W^T + a V^T + v_b              R{g_a} = R{g_y} W + g_y V          a convolution: patch by patch
//! activation  R{y} = phi'(a) R{a}                        R{g_a} = phi'(a) R{g_y} + phi''(a) g_y R{a}
//! result      d2F/dtheta2 v = sum_n R{g_y} (x) [a; 1] + g_y (x) [R{a}; 0]
//! ```
//!
//! Pooling and flattening are linear where they stand, the maximum as the choice of its place. Exact for every activation; no difference quotient. Pearlmutter, B. A. (1994), Fast exact multiplication by the Hessian, Neural
//! Computation 6, 147.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::blocks::in_blocks;
use crate::error::NetworkError;
use crate::layers::activation::Activation;
use crate::layers::dense::Dense;
use crate::network::{Forward, Layer, Network};
use crate::product::product;
use crate::weight_directions::WeightDirections;

/// An activation's derivatives at its input, `[batch, width]`.
pub(crate) struct Curve {
    /// `phi'`.
    pub slope: Tensor,
    /// `phi''`; `None` where it is 0 everywhere.
    pub bend: Option<Tensor>,
}

impl Network {
    /// The Hessian by the weights of each combination of outputs, `F_s = sum_n sum_k seeds_snk f_k(x_n)`, times each direction.
    ///
    /// `seeds: [S, batch, K]`. Gives `[S, n, out, columns]` (the bias last) for each dense layer that `directions` name: its rows of the whole
    /// Hessian of those layers, their cross terms included, in the arithmetic's type.
    ///
    /// # Errors
    /// A forward pass of another network, or seeds or directions of other sizes.
    pub fn hessian_products(
        &self,
        forward: &Forward,
        seeds: &Tensor,
        directions: &WeightDirections,
    ) -> Result<BTreeMap<usize, Tensor>, NetworkError> {
        let curves = self.curves(forward)?;
        let grads = self.gradients(forward, seeds, &curves)?;
        let n_seeds = seeds.dims3()?.0;
        let mut products: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
        for direction in 0..directions.count() {
            let tangents = self.tangents(forward, &curves, directions, direction)?;
            let of_layers = self.r_backward(forward, (&curves, &grads, &tangents), directions, direction)?;
            for (layer, product) in of_layers {
                products.entry(layer).or_default().push(product);
            }
        }
        products
            .into_iter()
            .map(|(layer, by_direction)| {
                // [S, n, out, columns]
                let stacked = Tensor::stack(&by_direction, 1)?;
                debug_assert_eq!(stacked.dims()[0], n_seeds);
                Ok((layer, stacked))
            })
            .collect()
    }

    /// Each layer's derivatives at its input; `None` for all but activations, and for `linear`.
    pub(crate) fn curves(&self, forward: &Forward) -> Result<Vec<Option<Curve>>, NetworkError> {
        if forward.inputs.len() != self.layers.len() {
            return Err(NetworkError::ForeignForward {
                found: forward.inputs.len(),
                expected: self.layers.len(),
            });
        }
        let threads = self.arithmetic.threads;
        let curve = |(layer, input): (&Layer, &Tensor)| match layer {
            Layer::Dense(_)
            | Layer::Conv1d(_)
            | Layer::Pool1d(_)
            | Layer::Flatten(_)
            | Layer::Activation(Activation::Linear) => Ok(None),
            Layer::Activation(activation) => Ok(Some(Curve {
                slope: in_blocks(input, usize::MAX, threads, |_, x| activation.derivative(x))?,
                bend: (!activation.is_piecewise_linear())
                    .then(|| in_blocks(input, usize::MAX, threads, |_, x| activation.second_derivative(x)))
                    .transpose()?,
            })),
        };
        self.layers.iter().zip(&forward.inputs).map(curve).collect()
    }

    /// `R{a}` at the input of every layer, `[batch, width]`; `None` where it is 0.
    fn tangents(
        &self,
        forward: &Forward,
        curves: &[Option<Curve>],
        directions: &WeightDirections,
        direction: usize,
    ) -> Result<Vec<Option<Tensor>>, NetworkError> {
        let threads = self.arithmetic.threads;
        let mut tangents = Vec::with_capacity(self.layers.len());
        let mut tangent: Option<Tensor> = None;
        let mut index = 0;
        for ((layer, input), curve) in self.layers.iter().zip(&forward.inputs).zip(curves) {
            tangents.push(tangent.clone());
            tangent = match (layer, curve) {
                (Layer::Dense(dense), _) => {
                    let own = directions.dense(direction, index)?;
                    index += 1;
                    let own = own.map(|own| own.forward(input, threads)).transpose()?;
                    let through = tangent.map(|tangent| dense.linear().forward(&tangent, threads));
                    sum(own, through.transpose()?, threads)?
                }
                (Layer::Conv1d(conv), _) => {
                    let own = directions.dense(direction, index)?;
                    index += 1;
                    let own = own.map(|own| conv.with(own).forward(input, threads)).transpose()?;
                    let linear = conv.with(conv.dense.linear());
                    let through = tangent.map(|tangent| linear.forward(&tangent, threads));
                    sum(own, through.transpose()?, threads)?
                }
                (Layer::Pool1d(pool), _) => tangent.map(|tangent| pool.jvp(&tangent, input, threads)).transpose()?,
                (Layer::Flatten(flatten), _) => {
                    tangent.map(|tangent| flatten.forward(&tangent, threads)).transpose()?
                }
                (Layer::Activation(_), Some(curve)) => tangent
                    .map(|tangent| times(&tangent, &curve.slope, threads))
                    .transpose()?,
                (Layer::Activation(_), None) => tangent,
            };
        }
        Ok(tangents)
    }

    /// The gradient at every layer's output, `[S * batch, width]`.
    pub(crate) fn gradients(
        &self,
        forward: &Forward,
        seeds: &Tensor,
        curves: &[Option<Curve>],
    ) -> Result<Vec<Tensor>, NetworkError> {
        let expected = [forward.batch(), self.n_labels()];
        if seeds.rank() != 3 || seeds.dims()[1..] != expected || seeds.dtype() != self.arithmetic.precision.dtype() {
            return Err(NetworkError::Seeds {
                found: seeds.dims().to_vec(),
                batch: expected[0],
                n_labels: expected[1],
                dtype: seeds.dtype(),
                expected: self.arithmetic.precision.dtype(),
            });
        }
        let threads = self.arithmetic.threads;
        let mut grad = seeds
            .reshape((seeds.dims()[0] * expected[0], expected[1]))?
            .contiguous()?;
        let mut gradients = Vec::with_capacity(self.layers.len());
        for ((layer, input), curve) in self.layers.iter().zip(&forward.inputs).zip(curves).rev() {
            gradients.push(grad.clone());
            grad = match (layer, curve) {
                (Layer::Dense(dense), _) => dense.vjp(&grad, expected[0], threads)?,
                (Layer::Conv1d(conv), _) => conv.vjp(&grad, threads)?,
                (Layer::Pool1d(pool), _) => pool.vjp(&grad, input, threads)?,
                (Layer::Flatten(flatten), _) => flatten.vjp(&grad, threads)?,
                (Layer::Activation(_), Some(curve)) => times(&grad, &curve.slope, threads)?,
                (Layer::Activation(_), None) => grad,
            };
        }
        gradients.reverse();
        Ok(gradients)
    }

    /// The backward pass of `R{g}`: `[S, out, columns]` for each dense layer of the directions.
    fn r_backward(
        &self,
        forward: &Forward,
        (curves, grads, tangents): (&[Option<Curve>], &[Tensor], &[Option<Tensor>]),
        directions: &WeightDirections,
        direction: usize,
    ) -> Result<BTreeMap<usize, Tensor>, NetworkError> {
        let threads = self.arithmetic.threads;
        let first = directions.layers().next().unwrap_or(usize::MAX);
        let mut products = BTreeMap::new();
        let mut index = self.shapes.len();
        let mut r_grad: Option<Tensor> = None;
        for (position, layer) in self.layers.iter().enumerate().rev() {
            let (input, grad, tangent) = (&forward.inputs[position], &grads[position], tangents[position].as_ref());
            r_grad = match (layer, &curves[position]) {
                (Layer::Dense(dense), _) => {
                    index -= 1;
                    let own = directions.dense(direction, index)?;
                    if let Some(own) = &own {
                        products.insert(index, outer(own, input, grad, tangent, r_grad.as_ref(), threads)?);
                    }
                    if index <= first {
                        break;
                    }
                    let batch = forward.batch();
                    let through = r_grad.map(|r_grad| dense.vjp(&r_grad, batch, threads)).transpose()?;
                    let own = own.map(|own| own.vjp(grad, batch, threads)).transpose()?;
                    sum(through, own, threads)?
                }
                (Layer::Conv1d(conv), _) => {
                    index -= 1;
                    let own = directions.dense(direction, index)?;
                    if let Some(own) = &own {
                        // a row a position of a spectrum
                        let (width, outputs) = (self.shapes[index].inputs, self.shapes[index].outputs);
                        let patches = |x: &Tensor| conv.patches(x, threads)?.reshape(((), width));
                        let by_position = |g: &Tensor| g.reshape(((), outputs));
                        let product = outer(
                            own,
                            &patches(input)?,
                            &by_position(grad)?,
                            tangent.map(patches).transpose()?.as_ref(),
                            r_grad.as_ref().map(by_position).transpose()?.as_ref(),
                            threads,
                        )?;
                        products.insert(index, product);
                    }
                    if index <= first {
                        break;
                    }
                    let through = r_grad.map(|r_grad| conv.vjp(&r_grad, threads)).transpose()?;
                    let own = own.map(|own| conv.with(own).vjp(grad, threads)).transpose()?;
                    sum(through, own, threads)?
                }
                (Layer::Pool1d(pool), _) => r_grad.map(|r_grad| pool.vjp(&r_grad, input, threads)).transpose()?,
                (Layer::Flatten(flatten), _) => r_grad.map(|r_grad| flatten.vjp(&r_grad, threads)).transpose()?,
                (Layer::Activation(_), Some(curve)) => {
                    let through = r_grad.map(|r_grad| times(&r_grad, &curve.slope, threads)).transpose()?;
                    let bent = match (&curve.bend, tangent) {
                        (Some(bend), Some(tangent)) => Some(times(grad, &times(bend, tangent, threads)?, threads)?),
                        _ => None,
                    };
                    sum(through, bent, threads)?
                }
                (Layer::Activation(_), None) => r_grad,
            };
        }
        Ok(products)
    }
}

/// `sum_n R{g} (x) [a; 1] + g (x) [R{a}; 0]` of each seed: `[S, out, columns]`, with a bias where the direction `own` has one.
fn outer(
    own: &Dense,
    input: &Tensor,
    grad: &Tensor,
    tangent: Option<&Tensor>,
    r_grad: Option<&Tensor>,
    threads: usize,
) -> Result<Tensor, NetworkError> {
    let (batch, inputs) = input.dims2()?;
    let (rows, outputs) = grad.dims2()?;
    let ones = Tensor::ones((1, batch), input.dtype(), input.device())?;
    let mut by_seed = Vec::new();
    for seed in 0..rows / batch.max(1) {
        let of_seed = |x: &Tensor| x.narrow(0, seed * batch, batch);
        let (mut left, mut right) = (Vec::new(), Vec::new());
        if let Some(r_grad) = r_grad {
            left.push(of_seed(r_grad)?);
            right.push(input.clone());
        }
        if let Some(tangent) = tangent {
            left.push(of_seed(grad)?);
            right.push(tangent.clone());
        }
        let weights = match left.is_empty() {
            true => Tensor::zeros((outputs, inputs), input.dtype(), input.device())?,
            false => product(&Tensor::cat(&left, 0)?.t()?, &Tensor::cat(&right, 0)?, threads)?,
        };
        if own.bias.is_none() {
            by_seed.push(weights);
            continue;
        }
        let bias = match r_grad {
            Some(r_grad) => product(&ones, &of_seed(r_grad)?, threads)?.t()?.contiguous()?,
            None => Tensor::zeros((outputs, 1), input.dtype(), input.device())?,
        };
        by_seed.push(Tensor::cat(&[weights, bias], 1)?);
    }
    Ok(Tensor::stack(&by_seed, 0)?)
}

/// `x y`, element by element; `x` is a whole number of times as tall as `y`, whose rows repeat.
pub(crate) fn times(x: &Tensor, y: &Tensor, threads: usize) -> candle_core::Result<Tensor> {
    let period = y.dims2()?.0;
    in_blocks(x, period, threads, |first, x| {
        x.mul(&y.narrow(0, first % period.max(1), x.dims2()?.0)?)
    })
}

/// The sum of what there is.
fn sum(x: Option<Tensor>, y: Option<Tensor>, threads: usize) -> candle_core::Result<Option<Tensor>> {
    Ok(match (x, y) {
        (Some(x), Some(y)) => Some(in_blocks(&x, usize::MAX, threads, |first, x| {
            x.add(&y.narrow(0, first, x.dims2()?.0)?)
        })?),
        (x, y) => x.or(y),
    })
}
