//! Outputs, Jacobians and captures against reference arrays of tiny networks (float64, made with torch).
//!
//! The arrays lie outside the repository; where they are absent each test says so and passes.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use fisherflow_network::{Arithmetic, Backward, Description, Forward, InputJacobian, Network, Precision};

#[path = "../../curvature/tests/curvature/npz.rs"]
mod npz;

type Arrays = BTreeMap<String, npz::Array>;

fn arrays(case: &str) -> Option<Arrays> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../../shared/reference/{case}.npz"));
    if path.exists() {
        return Some(npz::read(&path));
    }
    println!("skipped: {} is absent", path.display());
    None
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn network(arrays: &Arrays, layers: &[&str], precision: Precision) -> Network {
    let n_weights = arrays.keys().filter(|name| name.starts_with("W_")).count();
    let tensors: Vec<(String, Vec<u8>, Vec<usize>)> = (0..n_weights)
        .flat_map(|l| {
            [
                (format!("W_{l}"), format!("{l}.weight")),
                (format!("b_{l}"), format!("{l}.bias")),
            ]
        })
        .map(|(array, tensor)| {
            let npz::Array { shape, values } = &arrays[&array];
            (
                tensor,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                shape.clone(),
            )
        })
        .collect();
    let views = tensors.iter().map(|(name, data, shape)| {
        (
            name,
            safetensors::tensor::TensorView::new(safetensors::Dtype::F64, shape.clone(), data).unwrap(),
        )
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    let said = Description {
        layers: Some(layers.iter().map(|&name| name.to_owned()).collect()),
        ..Description::default()
    };
    Network::from_safetensors(&bytes, &said, Arithmetic { precision, threads: 1 }).unwrap()
}

fn passes(network: &Network, arrays: &Arrays) -> (Forward, Backward) {
    let flux = network.flux_tensor(&arrays["X"].values).unwrap();
    let forward = network.forward(&flux).unwrap();
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

fn check(case: &str, layers: &[&str]) {
    let Some(arrays) = arrays(case) else { return };
    for (precision, tolerance) in [(Precision::F64, 1e-9), (Precision::F32, 1e-4)] {
        let network = network(&arrays, layers, precision);
        let (forward, backward) = passes(&network, &arrays);
        let (n, k) = (forward.batch(), network.n_labels());
        assert_close("f", &values(forward.output()), &arrays["f"].values, tolerance);
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
                .flat_map(|row| row.iter().copied().chain([1.0]))
                .collect();
            assert_close(
                "A",
                &outer_sum(&with_bias, shape.inputs + 1),
                &arrays[&format!("A_{l}")].values,
                tolerance,
            );
            assert_close(
                "G",
                &outer_sum(&gradients, shape.outputs),
                &arrays[&format!("G_{l}")].values,
                tolerance,
            );
            if let Some(positions) = arrays.get(&format!("T_{l}")) {
                assert_eq!(positions.values, [shape.shared as f64]);
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
                row.extend(bias);
            }
        }
        if let Some(expected) = arrays.get("Jw") {
            assert_close("Jw", &weight_jacobian.concat(), &expected.values, tolerance);
        }
        let n_weights = network.n_weights();
        let (mut ggn_diagonal, mut gradient) = (vec![0.0; n_weights], vec![0.0; n_weights]);
        let residuals = arrays["f"].values.iter().zip(&arrays["Y"].values).map(|(f, y)| f - y);
        for (row, residual) in weight_jacobian.iter().zip(residuals) {
            for (i, j) in row.iter().enumerate() {
                ggn_diagonal[i] += j * j;
                gradient[i] += j * residual;
            }
        }
        for (what, found) in [("ggn_diag", ggn_diagonal), ("grad", gradient)] {
            if let Some(expected) = arrays.get(what) {
                assert_close(what, &found, &expected.values, tolerance);
            }
        }
    }
}

fn check_dense(case: &str, activation: &str) {
    check(case, &["dense", activation, "dense", activation, "dense"]);
}

#[test]
fn relu() {
    check_dense("tiny_mlp", "relu");
}

#[test]
fn tanh() {
    check_dense("tiny_act_tanh", "tanh");
}

#[test]
fn clipped_relu() {
    check_dense("tiny_act_clip", "clipped_relu(9999)");
}

#[test]
fn gelu() {
    check_dense("tiny_act_gelu", "gelu");
}

#[test]
fn convolutions() {
    let layers = [
        "input(64)",
        "conv1d",
        "relu",
        "conv1d",
        "relu",
        "max_pool1d(4)",
        "flatten(channels_first)",
        "dense",
        "relu",
        "dense",
    ];
    check("tiny_conv_valid", &layers);
}
