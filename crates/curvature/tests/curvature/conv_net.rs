//! A small convolutional network in plain f64 loops, from reference arrays: conv, ReLU, conv, ReLU, maximum over 4 positions (the rest dropped),
//! flattened channels first, dense, ReLU, dense. Its layers' inputs are patches `[cin, k]`, one row a position.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::npz::Array;

const LAYERS: usize = 4;
const CONVOLUTIONS: usize = 2;
const POOL: usize = 4;

/// A layer as `[out, in]` and its bias.
struct Layer {
    inputs: usize,
    outputs: usize,
    weights: Vec<f64>,
    bias: Vec<f64>,
}

pub struct ConvNet {
    layers: Vec<Layer>,
    /// Pixels of a kernel.
    kernel: usize,
    /// Pixels of a spectrum.
    length: usize,
}

/// One spectrum: for each layer its inputs `[positions, in]`, and its gradients `[K][positions, out]`.
struct Pass {
    inputs: Vec<Vec<f64>>,
    gradients: Vec<Vec<Vec<f64>>>,
}

impl ConvNet {
    pub fn new(arrays: &BTreeMap<String, Array>) -> Self {
        let layers = (0..LAYERS).map(|l| {
            let Array { shape, values } = &arrays[&format!("W_{l}")];
            Layer {
                inputs: shape[1..].iter().product(),
                outputs: shape[0],
                weights: values.clone(),
                bias: arrays[&format!("b_{l}")].values.clone(),
            }
        });
        Self {
            layers: layers.collect(),
            kernel: arrays["W_0"].shape[2],
            length: arrays["X"].values.len() / arrays["X"].shape[0],
        }
    }

    pub fn shapes(&self) -> Vec<DenseShape> {
        let mut length = self.length;
        let shape = |(l, layer): (usize, &Layer)| {
            if l < CONVOLUTIONS {
                length -= self.kernel - 1;
            }
            DenseShape {
                name: format!("layers.{l}"),
                inputs: layer.inputs,
                outputs: layer.outputs,
                bias: true,
                shared: if l < CONVOLUTIONS { length } else { 1 },
            }
        };
        self.layers.iter().enumerate().map(shape).collect()
    }

    /// Patches of `a`, `[length, channels]`.
    fn patches(&self, a: &[f64], channels: usize) -> Vec<f64> {
        let length = a.len() / channels;
        let mut patches = Vec::new();
        for t in 0..=length - self.kernel {
            for c in 0..channels {
                patches.extend((0..self.kernel).map(|k| a[(t + k) * channels + c]));
            }
        }
        patches
    }

    /// What the gradient by patches is by `a`.
    fn unpatched(&self, patches: &[f64], channels: usize) -> Vec<f64> {
        let width = channels * self.kernel;
        let mut by_a = vec![0.0; (patches.len() / width + self.kernel - 1) * channels];
        for (t, patch) in patches.chunks_exact(width).enumerate() {
            for (at, g) in patch.iter().enumerate() {
                by_a[(t + at % self.kernel) * channels + at / self.kernel] += g;
            }
        }
        by_a
    }

    fn pass(&self, x: &[f64]) -> Pass {
        let k = self.layers[LAYERS - 1].outputs;
        let mut inputs = vec![self.patches(x, 1)];
        let mut active: Vec<Vec<bool>> = Vec::new();
        // Of each pooled value, the position and channel that it is.
        let mut chosen = Vec::new();
        for (l, layer) in self.layers.iter().enumerate() {
            let z: Vec<f64> = inputs[l]
                .chunks_exact(layer.inputs)
                .flat_map(|row| layer.forward(row))
                .collect();
            active.push(z.iter().map(|&z| z > 0.0).collect());
            let a: Vec<f64> = z.iter().map(|z| z.max(0.0)).collect();
            if l + 1 < CONVOLUTIONS {
                inputs.push(self.patches(&a, layer.outputs));
            } else if l + 1 == CONVOLUTIONS {
                let channels = layer.outputs;
                for c in 0..channels {
                    for u in 0..a.len() / channels / POOL {
                        let window = (u * POOL..(u + 1) * POOL).map(|t| t * channels + c);
                        chosen.push(window.max_by(|&i, &j| a[i].total_cmp(&a[j])).unwrap());
                    }
                }
                inputs.push(chosen.iter().map(|&at| a[at]).collect());
            } else if l + 1 < LAYERS {
                inputs.push(a);
            }
        }
        let mut gradients = vec![Vec::new(); LAYERS];
        for label in 0..k {
            let mut g: Vec<f64> = (0..k).map(|i| if i == label { 1.0 } else { 0.0 }).collect();
            for (l, layer) in self.layers.iter().enumerate().rev() {
                gradients[l].push(g.clone());
                if l == 0 {
                    break;
                }
                let by_input: Vec<f64> = g
                    .chunks_exact(layer.outputs)
                    .flat_map(|row| layer.backward(row))
                    .collect();
                let mut by_a = if l < CONVOLUTIONS {
                    self.unpatched(&by_input, self.layers[l - 1].outputs)
                } else if l == CONVOLUTIONS {
                    let mut by_a = vec![0.0; active[l - 1].len()];
                    chosen.iter().zip(&by_input).for_each(|(&at, g)| by_a[at] += g);
                    by_a
                } else {
                    by_input
                };
                by_a.iter_mut()
                    .zip(&active[l - 1])
                    .for_each(|(g, alive)| *g *= if *alive { 1.0 } else { 0.0 });
                g = by_a;
            }
        }
        Pass { inputs, gradients }
    }

    /// The captures of spectra `[n, length]`.
    pub fn captures(&self, x: &Array, dtype: DType) -> Vec<LayerCapture> {
        let length = x.values.len() / x.shape[0];
        let passes: Vec<Pass> = x.values.chunks_exact(length).map(|x| self.pass(x)).collect();
        let (n, k) = (passes.len(), self.layers[LAYERS - 1].outputs);
        let tensor = |values: Vec<f64>, dims: &[usize]| {
            let tensor = Tensor::from_vec(values, dims, &Device::Cpu).unwrap();
            tensor.to_dtype(dtype).unwrap()
        };
        let capture = |(l, layer): (usize, &Layer)| {
            let positions = passes[0].inputs[l].len() / layer.inputs;
            let input = passes.iter().flat_map(|p| p.inputs[l].clone()).collect();
            let grad = (0..k)
                .flat_map(|k| passes.iter().flat_map(move |p| p.gradients[l][k].clone()))
                .collect();
            LayerCapture {
                layer: l,
                input: tensor(input, &[n, positions, layer.inputs]),
                output_grad: tensor(grad, &[k, n, positions, layer.outputs]),
            }
        };
        self.layers.iter().enumerate().map(capture).collect()
    }
}

impl Layer {
    fn forward(&self, input: &[f64]) -> Vec<f64> {
        let rows = self.weights.chunks_exact(self.inputs).zip(&self.bias);
        rows.map(|(row, b)| row.iter().zip(input).map(|(w, a)| w * a).sum::<f64>() + b)
            .collect()
    }

    fn backward(&self, gradient: &[f64]) -> Vec<f64> {
        let mut by_input = vec![0.0; self.inputs];
        for (row, g) in self.weights.chunks_exact(self.inputs).zip(gradient) {
            by_input.iter_mut().zip(row).for_each(|(to, w)| *to += w * g);
        }
        by_input
    }
}

/// Rows of the weight Jacobian, `[n * K]` of `[out, in + 1]`: `sum_t g_t (x) [a_t; 1]`.
pub fn jacobian(capture: &LayerCapture) -> Vec<Vec<f64>> {
    let values = |tensor: &Tensor| -> Vec<f64> {
        let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        flat.to_vec1().unwrap()
    };
    let (n, positions, inputs) = capture.input.dims3().unwrap();
    let (k, outputs) = (capture.output_grad.dims()[0], capture.output_grad.dims()[3]);
    let (input, grad) = (values(&capture.input), values(&capture.output_grad));
    let mut rows = Vec::new();
    for star in 0..n {
        for label in 0..k {
            let mut row = vec![0.0; outputs * (inputs + 1)];
            for t in 0..positions {
                let a = &input[(star * positions + t) * inputs..][..inputs];
                let g = &grad[((label * n + star) * positions + t) * outputs..][..outputs];
                for (row, g) in row.chunks_exact_mut(inputs + 1).zip(g) {
                    row.iter_mut().zip(a).for_each(|(to, a)| *to += g * a);
                    row[inputs] += g;
                }
            }
            rows.push(row);
        }
    }
    rows
}

/// For each weight in `[W | b]` order, its place where all of W stands before b.
pub fn places(shape: &DenseShape) -> Vec<usize> {
    let (inputs, outputs) = (shape.inputs, shape.outputs);
    (0..outputs)
        .flat_map(|o| (o * inputs..(o + 1) * inputs).chain([outputs * inputs + o]))
        .collect()
}
