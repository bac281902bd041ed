//! Convolutions, pooling, flattening and layers without bias: outputs against plain loops, derivatives against central differences.

use candle_core::{DType, Tensor};
use fisherflow_network::{Arithmetic, Backward, Description, InputJacobian, LayerCapture, Network, Precision};

use crate::plain_layers::{Plain, PlainNetwork, conv, dense, file, random};

pub const PIXELS: usize = 23;
pub const BATCH: usize = 4;
pub const LABELS: usize = 2;

pub fn arithmetic(precision: Precision, threads: usize) -> Arithmetic {
    Arithmetic { precision, threads }
}

pub fn plain(layers: Vec<(&str, Plain)>) -> PlainNetwork {
    PlainNetwork {
        layers: layers
            .into_iter()
            .map(|(name, layer)| (name.to_owned(), layer))
            .collect(),
        input_mean: random(PIXELS, 900),
        input_scale: random(PIXELS, 901).iter().map(|x| 1.0 + 0.3 * x).collect(),
        label_scale: vec![0.7, 40.0],
    }
}

/// Every layer, every padding, strides that fit and such that do not, with biases and without.
pub fn networks() -> Vec<PlainNetwork> {
    vec![
        plain(vec![
            ("conv1d", conv([4, 1, 5], true, 1, [0, 0], 1)),
            ("tanh", Plain::Tanh),
            ("conv1d(stride=2)", conv([3, 4, 4], true, 2, [0, 0], 3)),
            ("silu", Plain::Silu),
            ("max_pool1d(3, stride=2)", Plain::MaxPool(3, 2)),
            ("flatten(channels_first)", Plain::Flatten(true)),
            ("dense", dense(5, 9, true, 5)),
            ("tanh", Plain::Tanh),
            ("dense", dense(LABELS, 5, true, 7)),
        ]),
        // zeros before and after as torch and Keras put them: 3 and 4 for a kernel of 8; (12 - 1) 2 + 5 - 23 = 4 for one of 5 at stride 2
        plain(vec![
            ("conv1d(padding=same)", conv([3, 1, 8], true, 1, [3, 4], 11)),
            ("relu", Plain::Relu),
            ("conv1d(stride=2, padding=same)", conv([2, 3, 5], true, 2, [2, 2], 13)),
            ("tanh", Plain::Tanh),
            ("average_pool1d(2)", Plain::AveragePool(2, 2)),
            ("flatten(channels_last)", Plain::Flatten(false)),
            ("dense", dense(LABELS, 12, true, 15)),
        ]),
        // no biases; 7 * 3 + 4 - 23 = 2 zeros
        plain(vec![
            ("conv1d(stride=3, padding=same)", conv([3, 1, 4], false, 3, [1, 1], 21)),
            ("silu", Plain::Silu),
            ("max_pool1d(2)", Plain::MaxPool(2, 2)),
            ("flatten(channels_last)", Plain::Flatten(false)),
            ("dense", dense(6, 12, false, 23)),
            ("tanh", Plain::Tanh),
            ("dense", dense(LABELS, 6, true, 25)),
        ]),
        // neither begins nor ends with a layer of weights, and so does not say how many pixels it takes
        plain(vec![
            ("average_pool1d(3, stride=2)", Plain::AveragePool(3, 2)),
            ("tanh", Plain::Tanh),
            ("conv1d", conv([LABELS, 1, 4], true, 1, [0, 0], 31)),
            ("max_pool1d(8)", Plain::MaxPool(8, 8)),
            ("flatten(channels_first)", Plain::Flatten(true)),
        ]),
        plain(vec![
            ("dense", dense(6, PIXELS, false, 41)),
            ("silu", Plain::Silu),
            ("dense", dense(LABELS, 6, false, 43)),
        ]),
    ]
}

pub fn flux(batch: usize) -> Vec<f64> {
    random(batch * PIXELS, 77).iter().map(|x| 1.0 + x).collect()
}

pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn labels(network: &Network, flux: &[f64]) -> Vec<f64> {
    let forward = network.forward(flux).unwrap();
    forward.labels(network).unwrap()
}

pub fn backward(network: &Network, flux: &[f64]) -> Backward {
    let forward = network.forward(flux).unwrap();
    network.backward(&forward, InputJacobian::Wanted).unwrap()
}

/// `sum over s of g_s (x) a_s` (and of `g_s`, for the biases) of output k and spectrum n: `[out * in]` and `[out]`.
pub fn weight_jacobian(capture: &LayerCapture, k: usize, n: usize) -> (Vec<f64>, Vec<f64>) {
    let (_, _, shared, outputs) = capture.output_grad.dims4().unwrap();
    let inputs = capture.input.dims()[2];
    let gradient = values(&capture.output_grad.get(k).unwrap().get(n).unwrap());
    let input = values(&capture.input.get(n).unwrap());
    let (mut weight, mut bias) = (vec![0.0; outputs * inputs], vec![0.0; outputs]);
    for s in 0..shared {
        for o in 0..outputs {
            let g = gradient[s * outputs + o];
            bias[o] += g;
            for i in 0..inputs {
                weight[o * inputs + i] += g * input[s * inputs + i];
            }
        }
    }
    (weight, bias)
}

#[test]
fn labels_are_those_of_plain_loops() {
    let flux = flux(BATCH);
    for plain in networks() {
        for (precision, tolerance) in [(Precision::F64, 1e-12), (Precision::F32, 1e-5)] {
            let network = plain.network(arithmetic(precision, 1)).unwrap();
            assert_eq!((network.n_inputs(), network.n_labels()), (PIXELS, LABELS));
            let found = labels(&network, &flux);
            let expected: Vec<f64> = flux.chunks(PIXELS).flat_map(|flux| plain.labels(flux)).collect();
            for (at, (a, b)) in found.iter().zip(&expected).enumerate() {
                let size = plain.label_scale[at % LABELS] * 10.0;
                assert!((a - b).abs() < tolerance * size, "{:?}: {a} {b}", network.layer_specs());
            }
        }
    }
}

#[test]
fn input_jacobian_is_the_central_difference_of_plain_loops() {
    let (flux, h) = (flux(BATCH), 1e-6);
    for plain in networks() {
        for uniform in [false, true] {
            let mut plain = plain.clone();
            if uniform {
                plain.input_scale = vec![0.8; PIXELS];
            }
            let network = plain.network(arithmetic(Precision::F64, 1)).unwrap();
            let jacobian = backward(&network, &flux).input_jacobian.unwrap();
            assert_eq!(jacobian.dims(), [LABELS, BATCH, PIXELS]);
            let jacobian = values(&jacobian);
            for at in 0..flux.len() {
                let (n, d) = (at / PIXELS, at % PIXELS);
                let shifted = |by: f64| {
                    let mut moved = flux[n * PIXELS..(n + 1) * PIXELS].to_vec();
                    moved[d] += by;
                    plain.labels(&moved)
                };
                let (up, down) = (shifted(h), shifted(-h));
                for k in 0..LABELS {
                    let difference = (up[k] - down[k]) / (2.0 * h);
                    let found = jacobian[(k * BATCH + n) * PIXELS + d];
                    assert!(
                        (found - difference).abs() < 1e-7 * plain.label_scale[k],
                        "{:?}: {found} {difference}",
                        network.layer_specs()
                    );
                }
            }
        }
    }
}

#[test]
fn captures_are_the_central_differences_of_plain_loops_by_the_weights() {
    let (flux, h) = (flux(BATCH), 1e-6);
    for plain in networks() {
        let network = plain.network(arithmetic(Precision::F64, 1)).unwrap();
        let captures = backward(&network, &flux).captures;
        assert_eq!(captures.len(), network.dense_layers().len());
        for (l, (shape, capture)) in network.dense_layers().iter().zip(&captures).enumerate() {
            assert_eq!(capture.layer, l);
            assert_eq!(capture.input.dims(), [BATCH, shape.shared, shape.inputs]);
            assert_eq!(capture.output_grad.dims(), [LABELS, BATCH, shape.shared, shape.outputs]);
            let n_biases = if shape.bias { shape.outputs } else { 0 };
            let n_weights = shape.outputs * shape.inputs;
            assert_eq!(shape.n_weights(), n_weights + n_biases);
            for index in 0..n_weights + n_biases {
                let outputs = |step: f64| -> Vec<f64> {
                    let mut moved = plain.clone();
                    let (mut weights, biases) = moved.with_weights().nth(l).unwrap();
                    match index.checked_sub(n_weights) {
                        None => *weights[index] += step,
                        Some(o) => biases.unwrap()[o] += step,
                    }
                    flux.chunks(PIXELS).flat_map(|flux| moved.labels(flux)).collect()
                };
                let (up, down) = (outputs(h), outputs(-h));
                for n in 0..BATCH {
                    for k in 0..LABELS {
                        let difference = (up[n * LABELS + k] - down[n * LABELS + k]) / (2.0 * h * plain.label_scale[k]);
                        let (weight, bias) = weight_jacobian(capture, k, n);
                        let found = weight.iter().chain(&bias).nth(index).unwrap();
                        assert!(
                            (found - difference).abs() < 1e-7,
                            "{}: {found} {difference}",
                            shape.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_maximum_that_is_met_twice_takes_its_first() {
    let ties = plain(vec![
        ("max_pool1d(4, stride=3)", Plain::MaxPool(4, 3)),
        ("flatten(channels_first)", Plain::Flatten(true)),
        ("dense", dense(LABELS, 7, true, 51)),
    ]);
    let network = PlainNetwork {
        input_mean: vec![0.0; PIXELS],
        input_scale: vec![1.0; PIXELS],
        ..ties
    };
    let Plain::Dense(weight, _) = &network.layers[2].1 else {
        panic!("the last layer is dense")
    };
    let mut flux = vec![2.0; PIXELS];
    flux[5] = 3.0;
    flux[6] = 3.0; // under the windows at 3 and at 6
    let jacobian = backward(&network.network(arithmetic(Precision::F64, 1)).unwrap(), &flux)
        .input_jacobian
        .unwrap();
    let firsts = [0, 5, 6, 9, 12, 15, 18];
    for (k, found) in values(&jacobian).chunks(PIXELS).enumerate() {
        let mut expected = vec![0.0; PIXELS];
        for (t, d) in firsts.into_iter().enumerate() {
            expected[d] += weight[k][t] * network.label_scale[k];
        }
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-13, "{found} {expected}");
        }
    }
}

#[test]
fn a_pixel_that_is_the_maximum_of_two_windows_gets_both_gradients() {
    let network = PlainNetwork {
        input_mean: vec![0.0; PIXELS],
        input_scale: vec![1.0; PIXELS],
        label_scale: vec![1.0; 7],
        ..plain(vec![
            ("max_pool1d(4, stride=3)", Plain::MaxPool(4, 3)),
            ("flatten(channels_first)", Plain::Flatten(true)),
            ("dense", dense(7, 7, true, 53)),
        ])
    };
    let mut flux: Vec<f64> = (0..PIXELS).map(|d| -(d as f64)).collect();
    flux[3] = 9.0; // under the windows at 0 and at 3
    let Plain::Dense(weight, _) = &network.layers[2].1 else {
        panic!("the last layer is dense")
    };
    let network = network.network(arithmetic(Precision::F64, 1)).unwrap();
    let jacobian = values(&backward(&network, &flux).input_jacobian.unwrap());
    for k in 0..7 {
        let found = jacobian[k * PIXELS + 3];
        assert!((found - weight[k][0] - weight[k][1]).abs() < 1e-13);
    }
}

#[test]
fn the_two_orders_of_flattening_are_torchs_and_keras() {
    // two channels that are the signal and ten times the signal, read out by a dense layer that is the identity
    let flattened = |order: &str| {
        let identity: Vec<f64> = (0..36).map(|i| f64::from(u8::from(i % 7 == 0))).collect();
        let tensors = [
            ("0.weight".to_owned(), vec![2, 1, 1], vec![1.0, 10.0]),
            ("1.weight".to_owned(), vec![6, 6], identity),
        ];
        let layers = ["conv1d".to_owned(), format!("flatten({order})"), "dense".to_owned()];
        let said = Description {
            layers: Some(layers.to_vec()),
            ..Description::default()
        };
        let network = Network::from_safetensors(&file(&tensors), &said, arithmetic(Precision::F64, 1)).unwrap();
        labels(&network, &[1.0, 2.0, 3.0])
    };
    assert_eq!(flattened("channels_first"), [1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
    assert_eq!(flattened("channels_last"), [1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
}

#[test]
fn a_network_without_spectra_or_jacobian_keeps_its_shapes() {
    for plain in networks() {
        let network = plain.network(arithmetic(Precision::F32, 2)).unwrap();
        let forward = network.forward(&[]).unwrap();
        let none = network.backward(&forward, InputJacobian::Wanted).unwrap();
        assert_eq!(none.input_jacobian.unwrap().dims(), [LABELS, 0, PIXELS]);
        let layers = network.dense_layers().len();
        assert_eq!(none.captures.len(), layers);
        for (capture, shape) in none.captures.iter().zip(network.dense_layers()) {
            assert_eq!(capture.output_grad.dims(), [LABELS, 0, shape.shared, shape.outputs]);
        }
        let forward = network.forward(&flux(BATCH)).unwrap();
        let with = network.backward(&forward, InputJacobian::Wanted).unwrap();
        let without = network.backward(&forward, InputJacobian::NotWanted).unwrap();
        assert!(without.input_jacobian.is_none());
        assert_eq!((with.captures.len(), without.captures.len()), (layers, layers));
        for (a, b) in with.captures.iter().zip(&without.captures) {
            assert_eq!(values(&a.output_grad), values(&b.output_grad));
            assert_eq!(values(&a.input), values(&b.input));
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_nor_numbers_on_the_rest_of_the_batch() {
    let (pixels, batch) = (900, 40);
    let flux = random(batch * pixels, 61);
    let network = |precision, threads| {
        let plain = PlainNetwork {
            input_mean: vec![0.1; pixels],
            input_scale: vec![0.5; pixels],
            ..plain(vec![
                ("conv1d(padding=same)", conv([4, 1, 8], true, 1, [3, 4], 63)),
                ("tanh", Plain::Tanh),
                ("conv1d(padding=same)", conv([16, 4, 8], true, 1, [3, 4], 65)),
                ("silu", Plain::Silu),
                ("max_pool1d(4)", Plain::MaxPool(4, 4)),
                ("flatten(channels_first)", Plain::Flatten(true)),
            ])
        };
        let mut layers = plain.layers;
        layers.push(("dense".to_owned(), dense(LABELS, 16 * 225, true, 67)));
        PlainNetwork { layers, ..plain }
            .network(arithmetic(precision, threads))
            .unwrap()
    };
    for precision in [Precision::F32, Precision::F64] {
        let run = |threads| {
            let backward = backward(&network(precision, threads), &flux);
            let mut all = values(&backward.input_jacobian.unwrap());
            for capture in &backward.captures {
                all.extend(values(&capture.output_grad));
                all.extend(values(&capture.input));
            }
            all
        };
        let one = run(1);
        assert!(one == run(2) && one == run(5));
    }
    let network = network(Precision::F64, 1);
    let all = backward(&network, &flux).captures.remove(1);
    let last = backward(&network, &flux[(batch - 1) * pixels..]).captures.remove(1);
    let of_last = |t: &Tensor, axis| values(&t.narrow(axis, batch - 1, 1).unwrap());
    assert_eq!(of_last(&all.input, 0), values(&last.input));
    for (a, b) in of_last(&all.output_grad, 1).iter().zip(values(&last.output_grad)) {
        assert!((a - b).abs() < 1e-13);
    }
}
