//! Adam (Kingma and Ba 2014, arXiv:1412.6980), in Keras' form: `w -= r m / (sqrt(v) + epsilon)` with
//! `r = learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t)`.
//!
//! A layer's gradient `sum_n g_n (x) a_n` (n: spectra, and of a convolution their positions) is formed tile by tile and used up at once,
//! so it is never written to memory as a whole. Tiles depend on the layer's shape alone: no bit depends on the number of threads.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail};
use faer::{MatMut, MatRef};
use fisherflow_kernels::{Start, multiply};

use crate::arithmetic::Precision;
use crate::capture::LayerCapture;
use crate::network::Network;
use crate::product::{matrix_of_storage, run_all};

/// Rows and columns of a tile of the gradient: small enough for a core's own cache.
const TILE_ROWS: usize = 64;
const TILE_COLUMNS: usize = 8192;

/// The settings of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub learning_rate: f64,
    pub beta_1: f64,
    pub beta_2: f64,
    pub epsilon: f64,
}

/// The moments of all weights of a network, and the count of steps.
pub(crate) struct Adam {
    rates: Rates,
    steps: i32,
    moments: Moments,
}

/// Per layer, weights and biases (of a layer without: empty).
enum Moments {
    F32(Vec<[Moment<f32>; 2]>),
    F64(Vec<[Moment<f64>; 2]>),
}

/// Running means of the gradient and of its square.
struct Moment<T> {
    first: Vec<T>,
    second: Vec<T>,
}

impl Adam {
    pub fn new(network: &Network, rates: Rates) -> Self {
        let sizes = network
            .dense_layers()
            .iter()
            .map(|shape| (shape.outputs * shape.inputs, shape.outputs * usize::from(shape.bias)));
        Self {
            rates,
            steps: 0,
            moments: match network.arithmetic().precision {
                Precision::F32 | Precision::Auto | Precision::Bf16x3 | Precision::Bf16 => {
                    Moments::F32(sizes.map(|(w, b)| [Moment::zero(w), Moment::zero(b)]).collect())
                }
                Precision::F64 => Moments::F64(sizes.map(|(w, b)| [Moment::zero(w), Moment::zero(b)]).collect()),
            },
        }
    }

    /// Moves the weights, in place, by the gradient that the captures of one seed hold.
    pub fn step(&mut self, network: &Network, captures: &[LayerCapture]) -> Result<()> {
        self.steps = self.steps.saturating_add(1);
        let corrected = (1.0 - self.rates.beta_2.powi(self.steps)).sqrt() / (1.0 - self.rates.beta_1.powi(self.steps));
        let rates = Rates {
            learning_rate: self.rates.learning_rate * corrected,
            ..self.rates
        };
        match &mut self.moments {
            Moments::F32(moments) => step_layers(network, captures, moments, rates),
            Moments::F64(moments) => step_layers(network, captures, moments, rates),
        }
    }
}

impl<T: Element> Moment<T> {
    fn zero(len: usize) -> Self {
        Self {
            first: vec![T::ZERO; len],
            second: vec![T::ZERO; len],
        }
    }
}

fn step_layers<T: Element>(
    network: &Network,
    captures: &[LayerCapture],
    moments: &mut [[Moment<T>; 2]],
    rates: Rates,
) -> Result<()> {
    let threads = network.arithmetic().threads;
    for ((dense, [weight, bias]), capture) in network.dense_iter().zip(moments).zip(captures) {
        let (batch, shared, inputs) = capture.input.dims3()?;
        let outputs = dense.weight.dims2()?.0;
        let input = capture.input.reshape((batch * shared, inputs))?;
        let output_grad = capture.output_grad.reshape((batch * shared, outputs))?;
        dense.weight.inplace_op1(&Step {
            moment: Mutex::new(weight),
            input: Some(&input),
            output_grad: &output_grad,
            rates,
            threads,
        })?;
        if let Some(values) = &dense.bias {
            values.inplace_op1(&Step {
                moment: Mutex::new(bias),
                input: None,
                output_grad: &output_grad,
                rates,
                threads,
            })?;
        }
    }
    Ok(())
}

/// The step of one layer's weights (with its input) or biases (without), as an operation on their storage.
struct Step<'a, T> {
    moment: Mutex<&'a mut Moment<T>>,
    /// `[batch * shared, in]`.
    input: Option<&'a Tensor>,
    /// `[batch * shared, out]`.
    output_grad: &'a Tensor,
    rates: Rates,
    threads: usize,
}

impl<T: Element> InplaceOp1 for Step<'_, T> {
    fn name(&self) -> &'static str {
        "adam step"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let mut moment = self.moment.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some((start, end)), Some(all)) = (layout.contiguous_offsets(), T::values_mut(storage)) else {
            bail!("weights are not contiguous, or of another type than their moments");
        };
        let Some(weights) = all.get_mut(start..end).filter(|w| w.len() == moment.first.len()) else {
            bail!("weights and their moments differ in number");
        };
        let (grad_storage, grad_layout) = self.output_grad.storage_and_layout();
        let Storage::Cpu(grad_storage) = &*grad_storage else {
            bail!("gradients are not on the CPU");
        };
        let output_grad = matrix_of_storage::<T>(grad_storage, grad_layout)?;
        match self.input {
            None => step_bias(weights, &mut moment, output_grad, &self.rates),
            Some(input) => {
                let (storage, layout) = input.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else {
                    bail!("layer inputs are not on the CPU");
                };
                let input = matrix_of_storage::<T>(storage, layout)?;
                step_weights(weights, &mut moment, input, output_grad, &self.rates, self.threads);
            }
        }
        Ok(())
    }
}

fn step_weights<T: Element>(
    weights: &mut [T],
    moment: &mut Moment<T>,
    input: MatRef<'_, T>,
    output_grad: MatRef<'_, T>,
    rates: &Rates,
    threads: usize,
) {
    let inputs = input.ncols();
    let chunk = (TILE_ROWS * inputs).max(1);
    let jobs = weights
        .chunks_mut(chunk)
        .zip(moment.first.chunks_mut(chunk))
        .zip(moment.second.chunks_mut(chunk))
        .enumerate()
        .map(|(index, ((weights, first), second))| {
            move || {
                let rows = weights.len() / inputs;
                let by_row = output_grad.subcols(index * TILE_ROWS, rows).transpose();
                let mut tile = vec![T::ZERO; rows * TILE_COLUMNS.min(inputs)];
                for start in (0..inputs).step_by(TILE_COLUMNS) {
                    let columns = TILE_COLUMNS.min(inputs - start);
                    let tile = &mut tile[..rows * columns];
                    let gradient = MatMut::from_row_major_slice_mut(tile, rows, columns);
                    multiply(gradient, Start::Zero, by_row, input.subcols(start, columns), 1);
                    for (row, gradient) in tile.chunks_exact(columns).enumerate() {
                        let at = row * inputs + start..row * inputs + start + columns;
                        T::step(
                            &mut weights[at.clone()],
                            &mut first[at.clone()],
                            &mut second[at],
                            gradient,
                            rates,
                        );
                    }
                }
            }
        });
    run_all(jobs.collect(), threads);
}

fn step_bias<T: Element>(bias: &mut [T], moment: &mut Moment<T>, output_grad: MatRef<'_, T>, rates: &Rates) {
    let gradient: Vec<T> = (0..output_grad.ncols())
        .map(|o| (0..output_grad.nrows()).fold(T::ZERO, |sum, n| sum + output_grad[(n, o)]))
        .collect();
    T::step(bias, &mut moment.first, &mut moment.second, &gradient, rates);
}

/// A number type that weights may have.
trait Element: WithDType + fisherflow_kernels::Element {
    /// The storage's values, where it is of this type.
    fn values_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;

    /// One Adam step of some weights; `rates.learning_rate` is already corrected for the count of steps.
    fn step(weights: &mut [Self], first: &mut [Self], second: &mut [Self], gradient: &[Self], rates: &Rates);
}

macro_rules! element {
    ($type:ident, $variant:ident) => {
        impl Element for $type {
            fn values_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(values) => Some(values),
                    _ => None,
                }
            }

            fn step(weights: &mut [Self], first: &mut [Self], second: &mut [Self], gradient: &[Self], rates: &Rates) {
                let (beta_1, beta_2) = (rates.beta_1 as $type, rates.beta_2 as $type);
                let (rate, epsilon) = (rates.learning_rate as $type, rates.epsilon as $type);
                // a moment that only decays would end as a subnormal number, which is a hundred times slower
                let flushed = |x: $type| if x.abs() < $type::MIN_POSITIVE { 0.0 } else { x };
                let moments = first.iter_mut().zip(second);
                for ((w, (m, v)), g) in weights.iter_mut().zip(moments).zip(gradient) {
                    *m = flushed(beta_1 * *m + (1.0 - beta_1) * g);
                    *v = flushed(beta_2 * *v + (1.0 - beta_2) * g * g);
                    *w -= rate * *m / (v.sqrt() + epsilon);
                }
            }
        }
    };
}

element!(f32, F32);
element!(f64, F64);

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::arithmetic::Arithmetic;
    use crate::labels::Labels;
    use crate::layers::activation::Activation;

    const RATES: Rates = Rates {
        learning_rate: 0.01,
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
    };

    fn one_layer(inputs: usize, outputs: usize, threads: usize) -> Network {
        let names = (0..outputs).map(|k| k.to_string()).collect();
        let labels = Labels::unscaled(names, vec![String::new(); outputs]);
        let arithmetic = Arithmetic {
            precision: Precision::F64,
            threads,
        };
        Network::he_normal(
            &[inputs, outputs],
            Activation::Relu,
            labels,
            &[0.0],
            &[1.0],
            1,
            arithmetic,
        )
        .unwrap()
    }

    fn capture(batch: usize, inputs: usize, outputs: usize, seed: u64) -> LayerCapture {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut random = |n: usize| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f64>>();
        LayerCapture {
            layer: 0,
            input: Tensor::from_vec(random(batch * inputs), (batch, 1, inputs), &Device::Cpu).unwrap(),
            output_grad: Tensor::from_vec(random(batch * outputs), (1, batch, 1, outputs), &Device::Cpu).unwrap(),
        }
    }

    fn weights(network: &Network) -> (Vec<f64>, Vec<f64>) {
        let (w, b) = network.dense_weights(0).unwrap();
        (
            w.flatten_all().unwrap().to_vec1().unwrap(),
            b.unwrap().to_vec1().unwrap(),
        )
    }

    #[test]
    fn two_steps_follow_the_formula() {
        let (inputs, outputs, batch) = (400, 300, 5);
        let network = one_layer(inputs, outputs, 1);
        let (mut w, mut b) = weights(&network);
        let mut adam = Adam::new(&network, RATES);
        let mut moments = vec![(0.0, 0.0); outputs * (inputs + 1)];
        for t in 1..=2 {
            let capture = capture(batch, inputs, outputs, t as u64);
            adam.step(&network, std::slice::from_ref(&capture)).unwrap();
            let a: Vec<f64> = capture.input.flatten_all().unwrap().to_vec1().unwrap();
            let g: Vec<f64> = capture.output_grad.flatten_all().unwrap().to_vec1().unwrap();
            for o in 0..outputs {
                for i in 0..=inputs {
                    let input = |n: usize| if i == inputs { 1.0 } else { a[n * inputs + i] };
                    let gradient: f64 = (0..batch).map(|n| g[n * outputs + o] * input(n)).sum();
                    let (m, v) = &mut moments[o * (inputs + 1) + i];
                    *m = 0.9 * *m + 0.1 * gradient;
                    *v = 0.999 * *v + 0.001 * gradient * gradient;
                    let (m_hat, v_hat) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.999f64.powi(t)));
                    let target = if i == inputs { &mut b[o] } else { &mut w[o * inputs + i] };
                    *target -= 0.01 * m_hat / (v_hat.sqrt() + 1e-8 / (1.0 - 0.999f64.powi(t)).sqrt());
                }
            }
        }
        let (found_w, found_b) = weights(&network);
        for (found, expected) in found_w.iter().chain(&found_b).zip(w.iter().chain(&b)) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let after = |threads| {
            let network = one_layer(700, 600, threads);
            let mut adam = Adam::new(&network, RATES);
            adam.step(&network, &[capture(64, 700, 600, 9)]).unwrap();
            weights(&network)
        };
        assert_eq!(after(1), after(3));
    }
}
