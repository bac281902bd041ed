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

fn network(arrays: &Arrays, activation: &str, precision: Precision) -> Network {
    let tensors: Vec<(String, Vec<u8>, Vec<usize>)> = (0..3)
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
        layers: Some(
            ["dense", activation, "dense", activation, "dense"]
                .map(str::to_owned)
                .to_vec(),
        ),
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

fn check(case: &str, activation: &str) {
    let Some(arrays) = arrays(case) else { return };
    for (precision, tolerance) in [(Precision::F64, 1e-9), (Precision::F32, 1e-4)] {
        let network = network(&arrays, activation, precision);
        let (forward, backward) = passes(&network, &arrays);
        let (n, k) = (forward.batch(), network.n_labels());
        assert_close("f", &values(forward.output()), &arrays["f"].values, tolerance);
        let jacobian = swapped(&values(&backward.input_jacobian.unwrap()), k, n);
        assert_close("J", &jacobian, &arrays["J"].values, tolerance);

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
            for (nk, row) in weight_jacobian.iter_mut().enumerate() {
                let (n_of, k_of) = (nk / k, nk % k);
                let gradient = &gradients[(k_of * n + n_of) * shape.outputs..][..shape.outputs];
                let input = &inputs[n_of * shape.inputs..][..shape.inputs];
                // torch's order: all of W, then b
                row.extend(gradient.iter().flat_map(|g| input.iter().map(move |a| g * a)));
                row.extend_from_slice(gradient);
            }
        }
        if let Some(expected) = arrays.get("Jw") {
            assert_close("Jw", &weight_jacobian.concat(), &expected.values, tolerance);
        }
    }
}

#[test]
fn relu() {
    check("tiny_mlp", "relu");
}

#[test]
fn tanh() {
    check("tiny_act_tanh", "tanh");
}

#[test]
fn clipped_relu() {
    check("tiny_act_clip", "clipped_relu");
}

#[test]
fn gelu() {
    check("tiny_act_gelu", "gelu");
}
