//! Networks written out as loops over channels and positions, one spectrum at a time, and the same networks from a file.

use fisherflow_network::{Arithmetic, Description, LabelsDescription, Network, NetworkError};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, tensor::TensorView};

/// Name, shape and values.
pub type NamedTensor = (String, Vec<usize>, Vec<f64>);

/// A layer and its numbers.
#[derive(Clone, Debug)]
pub enum Plain {
    /// Weights `[out][channels][kernel]`, biases, stride, zeros before and after.
    Conv(Vec<Vec<Vec<f64>>>, Option<Vec<f64>>, usize, [usize; 2]),
    /// Window and stride.
    MaxPool(usize, usize),
    /// Window and stride.
    AveragePool(usize, usize),
    /// Whether the position runs fastest.
    Flatten(bool),
    Tanh,
    Silu,
    Relu,
    /// Weights `[out][in]` and biases.
    Dense(Vec<Vec<f64>>, Option<Vec<f64>>),
}

/// Layers, each with its name in a list of layers.
#[derive(Clone, Debug)]
pub struct PlainNetwork {
    pub layers: Vec<(String, Plain)>,
    pub input_mean: Vec<f64>,
    pub input_scale: Vec<f64>,
    pub label_scale: Vec<f64>,
}

impl Plain {
    /// `signal[channel][position]`; a row of numbers is one channel.
    fn value(&self, signal: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let each = |f: fn(f64) -> f64| signal.iter().map(|x| x.iter().map(|x| f(*x)).collect()).collect();
        match self {
            Self::Conv(weight, bias, stride, [before, after]) => {
                let padded: Vec<Vec<f64>> = signal
                    .iter()
                    .map(|x| [vec![0.0; *before], x.clone(), vec![0.0; *after]].concat())
                    .collect();
                let (length, kernel) = (padded[0].len(), weight[0][0].len());
                let mut out = Vec::new();
                for (o, weight) in weight.iter().enumerate() {
                    let mut row = Vec::new();
                    for start in (0..=length - kernel).step_by(*stride) {
                        let mut y = bias.as_ref().map_or(0.0, |bias| bias[o]);
                        for (x, weight) in padded.iter().zip(weight) {
                            for j in 0..kernel {
                                y += weight[j] * x[start + j];
                            }
                        }
                        row.push(y);
                    }
                    out.push(row);
                }
                out
            }
            Self::MaxPool(window, stride) => pooled(&signal, *window, *stride, |x| {
                x.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            }),
            Self::AveragePool(window, stride) => {
                pooled(&signal, *window, *stride, |x| x.iter().sum::<f64>() / x.len() as f64)
            }
            Self::Flatten(true) => vec![signal.concat()],
            Self::Flatten(false) => {
                let mut row = Vec::new();
                for t in 0..signal[0].len() {
                    row.extend(signal.iter().map(|x| x[t]));
                }
                vec![row]
            }
            Self::Tanh => each(f64::tanh),
            Self::Silu => each(|x| x / (1.0 + (-x).exp())),
            Self::Relu => each(|x| x.max(0.0)),
            Self::Dense(weight, bias) => {
                let dot = |w: &Vec<f64>| w.iter().zip(&signal[0]).map(|(w, x)| w * x).sum::<f64>();
                let plus = |o: usize| bias.as_ref().map_or(0.0, |bias| bias[o]);
                vec![weight.iter().enumerate().map(|(o, w)| dot(w) + plus(o)).collect()]
            }
        }
    }

    /// What a file holds of the layer called `name`.
    fn tensors(&self, name: &str) -> Vec<NamedTensor> {
        let (shape, weight, bias) = match self {
            Self::Conv(weight, bias, ..) => (
                vec![weight.len(), weight[0].len(), weight[0][0].len()],
                weight.concat().concat(),
                bias,
            ),
            Self::Dense(weight, bias) => (vec![weight.len(), weight[0].len()], weight.concat(), bias),
            _ => return Vec::new(),
        };
        let bias = bias
            .iter()
            .map(|bias| (format!("{name}.bias"), vec![bias.len()], bias.clone()));
        [(format!("{name}.weight"), shape, weight)]
            .into_iter()
            .chain(bias)
            .collect()
    }
}

fn pooled(signal: &[Vec<f64>], window: usize, stride: usize, of: impl Fn(&[f64]) -> f64) -> Vec<Vec<f64>> {
    let of_channel = |x: &Vec<f64>| x.windows(window).step_by(stride).map(&of).collect();
    signal.iter().map(of_channel).collect()
}

impl PlainNetwork {
    /// The labels of one spectrum.
    pub fn labels(&self, flux: &[f64]) -> Vec<f64> {
        let normalised = flux
            .iter()
            .enumerate()
            .map(|(d, f)| (f - self.input_mean[d]) / self.input_scale[d])
            .collect();
        let mut signal = vec![normalised];
        for (_, layer) in &self.layers {
            signal = layer.value(signal);
        }
        assert_eq!(signal.len(), 1);
        signal[0]
            .iter()
            .zip(&self.label_scale)
            .map(|(f, scale)| f * scale)
            .collect()
    }

    /// The layers with weights and biases, in order.
    pub fn with_weights(&mut self) -> impl Iterator<Item = (Vec<&mut f64>, Option<&mut Vec<f64>>)> {
        self.layers.iter_mut().filter_map(|(_, layer)| match layer {
            Plain::Conv(weight, bias, ..) => Some((weight.iter_mut().flatten().flatten().collect(), bias.as_mut())),
            Plain::Dense(weight, bias) => Some((weight.iter_mut().flatten().collect(), bias.as_mut())),
            _ => None,
        })
    }

    /// The same network as a bare state dict and what a run file says about it.
    pub fn network(&self, arithmetic: Arithmetic) -> Result<Network, NetworkError> {
        let layers = self.layers.iter().enumerate();
        let tensors: Vec<NamedTensor> = layers
            .flat_map(|(i, (_, layer))| layer.tensors(&format!("net.{i}")))
            .collect();
        let description = Description {
            layers: Some(self.layers.iter().map(|(name, _)| name.clone()).collect()),
            input_mean: Some(self.input_mean.clone()),
            input_scale: Some(self.input_scale.clone()),
            labels: Some(LabelsDescription {
                scale: Some(self.label_scale.clone()),
                ..LabelsDescription::default()
            }),
        };
        Network::from_safetensors(&file(&tensors), &description, arithmetic)
    }
}

/// A safetensors file of f64 tensors.
pub fn file(tensors: &[NamedTensor]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name, TensorView::new(Dtype::F64, shape.clone(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// Random numbers between -1 and 1.
pub fn random(n: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A convolution of random weights, with biases or without.
pub fn conv(sides: [usize; 3], bias: bool, stride: usize, padding: [usize; 2], seed: u64) -> Plain {
    let [out, channels, kernel] = sides;
    let values = random(out * channels * kernel, seed);
    let weight = values
        .chunks(channels * kernel)
        .map(|w| w.chunks(kernel).map(<[f64]>::to_vec).collect())
        .collect();
    Plain::Conv(weight, bias.then(|| random(out, seed + 1)), stride, padding)
}

/// A dense layer of random weights, with biases or without.
pub fn dense(outputs: usize, inputs: usize, bias: bool, seed: u64) -> Plain {
    let weight = random(outputs * inputs, seed)
        .chunks(inputs)
        .map(<[f64]>::to_vec)
        .collect();
    Plain::Dense(weight, bias.then(|| random(outputs, seed + 1)))
}
