//! Outputs, Jacobians and captures against torch in float64: every activation and kind of layer, by the arrays of `tests/references`.

use candle_core::{DType, Tensor};
use fisherflow_network::{Backward, Forward, InputJacobian, Network, Precision};
use references::{Arrays, network, of_cases};

#[path = "../../../tests/references/read.rs"]
mod references;

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn passes(network: &Network, arrays: &Arrays) -> (Forward, Backward) {
    let forward = network.forward(&arrays["X"].values).unwrap();
    let backward = network.backward(&forward, InputJacobian::Wanted).unwrap();
    (forward, backward)
}

/// Compares to the largest element of the array.
fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tolerance * size, "{what}: off by {worst:e} of {size:e}");
}

/// `[first, second, ..rest]` to `[second, first, ..rest]`.
fn swapped(values: &[f64], first: usize, second: usize) -> Vec<f64> {
    let rest = values.len() / (first * second);
    let mut out = Vec::with_capacity(values.len());
    for j in 0..second {
        for i in 0..first {
            out.extend_from_slice(&values[(i * second + j) * rest..][..rest]);
        }
    }
    out
}

/// Sum of the outer products of rows.
fn outer_sum(rows: &[f64], width: usize) -> Vec<f64> {
    let mut sum = vec![0.0; width * width];
    for row in rows.chunks_exact(width) {
        for (i, a) in row.iter().enumerate() {
            for (j, b) in row.iter().enumerate() {
                sum[i * width + j] += a * b;
            }
        }
    }
    sum
}

/// `J diag(S^2) J^T` of every spectrum, `[n, k, k]`; `jacobian` is `[n, k, D]`.
fn flux_covariance(jacobian: &[f64], sigma: &[f64], n: usize, k: usize) -> Vec<f64> {
    let pixels = sigma.len() / n;
    let mut out = Vec::with_capacity(n * k * k);
    for (jacobian, sigma) in jacobian.chunks_exact(k * pixels).zip(sigma.chunks_exact(pixels)) {
        for a in jacobian.chunks_exact(pixels) {
            for b in jacobian.chunks_exact(pixels) {
                out.push((0..pixels).map(|d| a[d] * sigma[d].powi(2) * b[d]).sum());
            }
        }
    }
    out
}

fn check(arrays: &Arrays, layers: &[&str]) {
    for (precision, tolerance) in [(Precision::F64, 1e-9), (Precision::F32, 1e-4)] {
        let network = network(arrays, layers, "", precision);
        let (forward, backward) = passes(&network, arrays);
        let (n, k) = (forward.batch(), network.n_labels());
        assert_close("f", &values(forward.output()), &arrays["f"].values, tolerance);
        if let Some(labels) = arrays.get("labels") {
            assert_close("labels", &forward.labels(&network).unwrap(), &labels.values, tolerance);
        }
        let jacobian = swapped(&values(&backward.input_jacobian.unwrap()), k, n);
        assert_close("J", &jacobian, &arrays["J"].values, tolerance);
        let covariance = flux_covariance(&jacobian, &arrays["S"].values, n, k);
        assert_close("P", &covariance, &arrays["P"].values, tolerance);

        let mut weight_jacobian = vec![Vec::new(); n * k];
        for (l, capture) in backward.captures.iter().enumerate() {
            let shape = &network.dense_layers()[l];
            let gradients = values(&capture.output_grad);
            let inputs = values(&capture.input);
            let with_bias: Vec<f64> = inputs
                .chunks_exact(shape.inputs)
                .flat_map(|row| row.iter().copied().chain(shape.bias.then_some(1.0)))
                .collect();
            for (what, rows, width) in [("A", &with_bias, shape.columns()), ("G", &gradients, shape.outputs)] {
                if let Some(expected) = arrays.get(&format!("{what}_{l}")) {
                    assert_close(what, &outer_sum(rows, width), &expected.values, tolerance);
                }
            }
            for (nk, row) in weight_jacobian.iter_mut().enumerate() {
                let (n_of, k_of) = (nk / k, nk % k);
                let (outputs, inputs_of) = (shape.shared * shape.outputs, shape.shared * shape.inputs);
                let gradient = &gradients[(k_of * n + n_of) * outputs..][..outputs];
                let input = &inputs[n_of * inputs_of..][..inputs_of];
                // torch's order: all of W, then b
                let (mut weight, mut bias) = (vec![0.0; shape.outputs * shape.inputs], vec![0.0; shape.outputs]);
                for (g, a) in gradient
                    .chunks_exact(shape.outputs)
                    .zip(input.chunks_exact(shape.inputs))
                {
                    for (o, g) in g.iter().enumerate() {
                        bias[o] += g;
                        for (i, a) in a.iter().enumerate() {
                            weight[o * shape.inputs + i] += g * a;
                        }
                    }
                }
                row.extend(weight);
                if shape.bias {
                    row.extend(bias);
                }
            }
        }
        assert_close("Jw", &weight_jacobian.concat(), &arrays["Jw"].values, tolerance);
    }
}

fn dense(activation: &str) -> [&str; 5] {
    ["dense", activation, "dense", activation, "dense"]
}

#[test]
fn every_activation() {
    for activation in [
        "relu",
        "leaky_relu(0.2)",
        "tanh",
        "sigmoid",
        "softplus",
        "elu(0.7)",
        "gelu",
        "silu",
        "clipped_relu(1.5)",
        "linear",
    ] {
        let case = activation.split('(').next().unwrap();
        check(&of_cases("networks", &["activations", case]), &dense(activation));
    }
}

#[test]
fn normalised_spectra_and_labels() {
    check(&of_cases("networks", &["normalised"]), &dense("tanh"));
}

#[test]
fn convolutions_and_maxima() {
    let layers = [
        "input(16)",
        "conv1d(padding=same)",
        "tanh",
        "max_pool1d(3, stride=2)",
        "conv1d(stride=2)",
        "silu",
        "flatten(channels_first)",
        "dense",
    ];
    check(&of_cases("networks", &["channels_first"]), &layers);
}

#[test]
fn convolutions_and_averages_without_bias() {
    let layers = [
        "input(17)",
        "conv1d(stride=2)",
        "softplus",
        "average_pool1d(2)",
        "flatten(channels_last)",
        "dense",
        "tanh",
        "dense",
    ];
    check(&of_cases("networks", &["channels_last"]), &layers);
}
