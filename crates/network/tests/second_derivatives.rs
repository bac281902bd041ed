//! Products with second derivatives against central differences of the gradient, and against one another, for every activation.

use candle_core::{DType, Device, Tensor};
use fisherflow_network::{
    Arithmetic, Description, Forward, InputJacobian, Network, NetworkError, Precision, WeightDirections,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const WIDTHS: [usize; 4] = [6, 5, 4, 3];
const BATCH: usize = 4;
const K: usize = 3;

/// By name; the last stands behind the last dense layer too.
const ACTIVATIONS: [&str; 10] = [
    "tanh",
    "sigmoid",
    "softplus",
    "elu",
    "gelu",
    "silu",
    "relu",
    "leaky_relu(0.01)",
    "linear",
    "clipped_relu(1.5)",
];

fn random(n: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A network with the weights `theta`, layer after layer `[W | b]`; `last` stands behind the last dense layer.
fn network(activation: &str, last: Option<&str>, theta: &[f64], arithmetic: Arithmetic) -> Network {
    let mut tensors = Vec::new();
    let mut rest = theta;
    for (l, w) in WIDTHS.windows(2).enumerate() {
        let (own, after) = rest.split_at(w[1] * (w[0] + 1));
        rest = after;
        let rows = own.chunks_exact(w[0] + 1);
        let weight: Vec<f64> = rows.clone().flat_map(|row| &row[..w[0]]).copied().collect();
        let bias: Vec<f64> = rows.map(|row| row[w[0]]).collect();
        for (name, values, shape) in [("weight", weight, vec![w[1], w[0]]), ("bias", bias, vec![w[1]])] {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.push((format!("{l}.{name}"), bytes, shape));
        }
    }
    let views = tensors.iter().map(|(name, data, shape)| {
        (
            name,
            safetensors::tensor::TensorView::new(safetensors::Dtype::F64, shape.clone(), data).unwrap(),
        )
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    let mut layers = vec!["dense", activation, "dense", activation, "dense"];
    layers.extend(last);
    let said = Description {
        layers: Some(layers.into_iter().map(str::to_owned).collect()),
        input_mean: Some(vec![0.2]),
        input_scale: Some(vec![0.7]),
        ..Description::default()
    };
    Network::from_safetensors(&bytes, &said, arithmetic).unwrap()
}

const F64: Arithmetic = Arithmetic {
    precision: Precision::F64,
    threads: 1,
};

fn n_weights() -> usize {
    WIDTHS.windows(2).map(|w| w[1] * (w[0] + 1)).sum()
}

fn forward(network: &Network, n: usize) -> Forward {
    let flux: Vec<f64> = random(n * WIDTHS[0], 5).iter().map(|x| 1.0 + x).collect();
    network.forward(&flux).unwrap()
}

fn directions(network: &Network, layers: &[usize], values: &[f64]) -> WeightDirections {
    let shapes: Vec<_> = layers.iter().map(|&l| network.dense_layers()[l].clone()).collect();
    WeightDirections::new(layers, &shapes, values, &network.arithmetic()).unwrap()
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

/// `sum_n sum_k seeds[n, k] d f_k(x_n) / d theta`, `[n_weights]`.
fn gradient(network: &Network, seeds: &[f64]) -> Vec<f64> {
    let pass = forward(network, BATCH);
    let backward = network.backward(&pass, InputJacobian::NotWanted).unwrap();
    let mut all = Vec::new();
    for capture in &backward.captures {
        let (a, g) = (values(&capture.input), values(&capture.output_grad));
        let (inputs, outputs) = (a.len() / BATCH, g.len() / (K * BATCH));
        for o in 0..outputs {
            for i in 0..=inputs {
                let mut sum = 0.0;
                for n in 0..BATCH {
                    let a = if i == inputs { 1.0 } else { a[n * inputs + i] };
                    for k in 0..K {
                        sum += seeds[n * K + k] * g[(k * BATCH + n) * outputs + o] * a;
                    }
                }
                all.push(sum);
            }
        }
    }
    all
}

/// `[S, n, n_weights]` from the products of all layers.
fn flat(network: &Network, seeds: &[f64], directions: &WeightDirections) -> Vec<f64> {
    let s = seeds.len() / (BATCH * K);
    let seeds = Tensor::from_slice(seeds, (s, BATCH, K), &Device::Cpu)
        .unwrap()
        .to_dtype(network.arithmetic().precision.dtype())
        .unwrap();
    let products = network
        .hessian_products(&forward(network, BATCH), &seeds, directions)
        .unwrap();
    let by_layer: Vec<Vec<f64>> = products.values().map(values).collect();
    let rows = s * directions.count();
    (0..rows)
        .flat_map(|row| {
            by_layer
                .iter()
                .flat_map(move |v| v[row * v.len() / rows..(row + 1) * v.len() / rows].to_vec())
        })
        .collect()
}

fn moved(theta: &[f64], direction: &[f64], step: f64) -> Vec<f64> {
    theta.iter().zip(direction).map(|(t, d)| t + step * d).collect()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * size, "{what} at {i}: {a} {b}");
    }
}

/// Every activation between the layers, and behind the last one too.
fn nets() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    ACTIVATIONS
        .into_iter()
        .flat_map(|name| [(name, None), (name, Some("tanh"))])
}

#[test]
fn hessian_products_are_differences_of_the_gradient() {
    let (theta, d, seeds) = (
        random(n_weights(), 1),
        random(2 * n_weights(), 2),
        random(2 * BATCH * K, 3),
    );
    let h = 1e-5;
    for (name, last) in nets() {
        let net = network(name, last, &theta, F64);
        let found = flat(&net, &seeds, &directions(&net, &[0, 1, 2], &d));
        let mut rows = found.chunks(n_weights());
        for seeds in seeds.chunks(BATCH * K) {
            for direction in d.chunks(n_weights()) {
                let at = |step| gradient(&network(name, last, &moved(&theta, direction, step), F64), seeds);
                let expected: Vec<f64> = at(h)
                    .iter()
                    .zip(at(-h))
                    .map(|(up, down)| (up - down) / (2.0 * h))
                    .collect();
                assert_close(name, rows.next().unwrap(), &expected, 1e-8);
            }
        }
    }
}

/// Directions in some layers alone give those layers' part of the whole product.
#[test]
fn directions_may_leave_layers_out() {
    let (theta, seeds) = (random(n_weights(), 1), random(BATCH * K, 3));
    let net = network("silu", None, &theta, F64);
    let ends: Vec<usize> = [0, 35, 59, 74].to_vec();
    for layers in [vec![0], vec![1], vec![2], vec![0, 2]] {
        let own: Vec<usize> = layers.iter().flat_map(|&l| ends[l]..ends[l + 1]).collect();
        let d = random(own.len(), 4);
        let mut padded = vec![0.0; n_weights()];
        own.iter().zip(&d).for_each(|(&at, d)| padded[at] = *d);
        let whole = flat(&net, &seeds, &directions(&net, &[0, 1, 2], &padded));
        let expected: Vec<f64> = own.iter().map(|&at| whole[at]).collect();
        assert_close(
            "layers",
            &flat(&net, &seeds, &directions(&net, &layers, &d)),
            &expected,
            1e-13,
        );
    }
}

#[test]
fn output_hessians_agree_with_themselves_and_with_differences() {
    let (theta, p) = (random(n_weights(), 1), n_weights());
    for (name, last) in nets() {
        let net = network(name, last, &theta, F64);
        let pass = forward(&net, 1);
        let dense = net.output_hessian_rows(&pass, 0, p).unwrap();
        let diagonal = net.output_hessian_diagonal(&pass).unwrap();
        let on_diagonal: Vec<f64> = (0..K)
            .flat_map(|k| (0..p).map(move |i| k * p * p + i * (p + 1)))
            .map(|at| dense[at])
            .collect();
        assert_close(name, &diagonal, &on_diagonal, 1e-12);
        if last.is_none() && ["relu", "leaky_relu(0.01)", "linear", "clipped_relu(1.5)"].contains(&name) {
            assert!(diagonal.iter().all(|d| *d == 0.0), "{name}");
        }
        for h in dense.chunks(p * p) {
            for i in 0..p {
                for j in 0..i {
                    assert!((h[i * p + j] - h[j * p + i]).abs() < 1e-12, "{name}: symmetric");
                }
            }
        }
        let v = random(p, 7);
        let products = net.output_hessian_products(&pass, &v).unwrap();
        let by_rows: Vec<f64> = dense
            .chunks(p)
            .map(|row| row.iter().zip(&v).map(|(h, v)| h * v).sum())
            .collect();
        assert_close(name, &products, &by_rows, 1e-12);
        let h = 1e-5;
        let jacobian = |step| {
            let net = network(name, last, &moved(&theta, &v, step), F64);
            let backward = net.backward(&forward(&net, 1), InputJacobian::NotWanted).unwrap();
            let mut rows = vec![Vec::new(); K];
            for capture in &backward.captures {
                let mut a = values(&capture.input);
                a.push(1.0);
                let g = values(&capture.output_grad);
                for (row, g) in rows.iter_mut().zip(g.chunks(g.len() / K)) {
                    row.extend(g.iter().flat_map(|g| a.iter().map(move |a| g * a)));
                }
            }
            rows.concat()
        };
        let differences: Vec<f64> = jacobian(h)
            .iter()
            .zip(jacobian(-h))
            .map(|(up, down)| (up - down) / (2.0 * h))
            .collect();
        assert_close(name, &products, &differences, 1e-8);
    }
}

#[test]
fn f32_follows_f64_and_threads_change_no_bit() {
    let (theta, d, seeds) = (
        random(n_weights(), 1),
        random(2 * n_weights(), 2),
        random(2 * BATCH * K, 3),
    );
    for name in ACTIVATIONS {
        let of = |precision, threads| {
            let net = network(name, None, &theta, Arithmetic { precision, threads });
            flat(&net, &seeds, &directions(&net, &[0, 1, 2], &d))
        };
        let narrow = of(Precision::F32, 1);
        assert_close(name, &narrow, &of(Precision::F64, 1), 1e-5);
        assert_eq!(narrow, of(Precision::F32, 3), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let net = network("tanh", None, &random(n_weights(), 1), F64);
    let short = WeightDirections::new(&[0], &net.dense_layers()[..1], &[0.0; 34], &F64).unwrap_err();
    assert!(matches!(
        short,
        NetworkError::DirectionLength {
            found: 34,
            n_weights: 35
        }
    ));
    let pass = forward(&net, BATCH);
    let unit = directions(&net, &[0, 1, 2], &vec![0.0; n_weights()]);
    for seeds in [
        Tensor::zeros((1, BATCH, 2), DType::F64, &Device::Cpu),
        Tensor::zeros((1, BATCH, K), DType::F32, &Device::Cpu),
    ] {
        let error = net.hessian_products(&pass, &seeds.unwrap(), &unit).unwrap_err();
        assert!(matches!(error, NetworkError::Seeds { .. }), "{error}");
    }
    let error = net.output_hessian_diagonal(&pass).unwrap_err();
    assert!(matches!(error, NetworkError::SingleSpectrum { found: BATCH }));
}
