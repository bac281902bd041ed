//! Products with second derivatives of networks with convolutions, pooling and layers without bias, against central differences of the gradients.

use candle_core::{Device, Tensor};
use fisherflow_network::{DenseShape, Forward, InputJacobian, Network, NetworkError, Precision, WeightDirections};

use crate::derivatives::{BATCH, LABELS, PIXELS, arithmetic, backward, flux, networks, plain, values, weight_jacobian};
use crate::plain_layers::{Plain, PlainNetwork, conv, dense, random};

const H: f64 = 1e-5;

fn build(plain: &PlainNetwork) -> Network {
    plain.network(arithmetic(Precision::F64, 1)).unwrap()
}

fn forward(network: &Network, batch: usize) -> Forward {
    network.forward(&flux(batch)).unwrap()
}

fn directions(network: &Network, layers: &[usize], values: &[f64]) -> WeightDirections {
    let shapes: Vec<DenseShape> = layers.iter().map(|&l| network.dense_layers()[l].clone()).collect();
    WeightDirections::new(layers, &shapes, values, &network.arithmetic()).unwrap()
}

fn all_layers(network: &Network) -> Vec<usize> {
    (0..network.dense_layers().len()).collect()
}

/// The network with its weights moved along a direction, layer after layer `[W | b]`.
fn moved(plain: &PlainNetwork, direction: &[f64], step: f64) -> Network {
    let shapes = build(plain).dense_layers().to_vec();
    let mut plain = plain.clone();
    let mut rest = direction;
    for ((mut weights, biases), shape) in plain.with_weights().zip(&shapes) {
        let (own, after) = rest.split_at(shape.n_weights());
        rest = after;
        let mut biases = biases;
        for (o, row) in own.chunks(shape.columns()).enumerate() {
            for (i, d) in row.iter().enumerate() {
                match &mut biases {
                    Some(biases) if i == shape.inputs => biases[o] += step * d,
                    _ => *weights[o * shape.inputs + i] += step * d,
                }
            }
        }
    }
    build(&plain)
}

/// `d f_k(x_n) / d theta`, `[K][batch]` rows.
fn jacobian(network: &Network, batch: usize) -> Vec<Vec<f64>> {
    let captures = backward(network, &flux(batch)).captures;
    let mut rows = vec![Vec::new(); LABELS * batch];
    for (capture, shape) in captures.iter().zip(network.dense_layers()) {
        for (at, row) in rows.iter_mut().enumerate() {
            let (weight, bias) = weight_jacobian(capture, at / batch, at % batch);
            for (weight, bias) in weight.chunks(shape.inputs).zip(&bias) {
                row.extend(weight);
                row.extend(shape.bias.then_some(bias));
            }
        }
    }
    rows
}

/// `sum_n sum_k seeds[n, k] d f_k(x_n) / d theta`.
fn gradient(network: &Network, seeds: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; network.n_weights()];
    for (at, row) in jacobian(network, BATCH).iter().enumerate() {
        let seed = seeds[at % BATCH * LABELS + at / BATCH];
        sum.iter_mut().zip(row).for_each(|(sum, g)| *sum += seed * g);
    }
    sum
}

fn difference(up: &[f64], down: &[f64]) -> Vec<f64> {
    up.iter().zip(down).map(|(up, down)| (up - down) / (2.0 * H)).collect()
}

fn assert_close(what: &Network, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let names = what.layer_specs();
        assert!((a - b).abs() <= tolerance * size, "{names:?} at {i}: {a} {b}");
    }
}

#[test]
fn hessian_products_are_differences_of_the_gradient_in_any_layers() {
    for plain in networks() {
        let network = build(&plain);
        let p = network.n_weights();
        let (d, seeds) = (random(2 * p, 72), random(2 * BATCH * LABELS, 73));
        let tensor = Tensor::from_slice(&seeds, (2, BATCH, LABELS), &Device::Cpu).unwrap();
        let pass = forward(&network, BATCH);
        let products = |layers: &[usize], d: &[f64]| {
            let products = network.hessian_products(&pass, &tensor, &directions(&network, layers, d));
            products.unwrap().into_iter().map(|(layer, x)| (layer, values(&x)))
        };
        let mut found = vec![Vec::new(); 4];
        for (_, values) in products(&all_layers(&network), &d) {
            for (row, own) in found.iter_mut().zip(values.chunks(values.len() / 4)) {
                row.extend_from_slice(own);
            }
        }
        for (row, found) in found.iter().enumerate() {
            let (seeds, d) = (
                &seeds[row / 2 * BATCH * LABELS..][..BATCH * LABELS],
                &d[row % 2 * p..][..p],
            );
            let at = |step| gradient(&moved(&plain, d, step), seeds);
            assert_close(&network, found, &difference(&at(H), &at(-H)), 1e-8);
        }
        // a direction in one layer alone: that layer's part of the whole product
        let mut start = 0;
        for (layer, shape) in network.dense_layers().iter().enumerate() {
            let end = start + shape.n_weights();
            let mut padded = vec![0.0; p];
            padded[start..end].copy_from_slice(&d[start..end]);
            let whole = products(&all_layers(&network), &padded).nth(layer).unwrap();
            let alone = products(&[layer], &d[start..end]).next().unwrap();
            assert_eq!(alone.0, layer);
            assert_close(&network, &alone.1, &whole.1, 1e-13);
            start = end;
        }
    }
}

#[test]
fn output_hessians_agree_with_themselves_and_with_differences() {
    for plain in networks() {
        let network = build(&plain);
        let (p, pass) = (network.n_weights(), forward(&network, 1));
        let dense = network.output_hessian_rows(&pass, 0, p).unwrap();
        for h in dense.chunks(p * p) {
            for (i, row) in h.chunks(p).enumerate() {
                assert!((0..i).all(|j| (row[j] - h[j * p + i]).abs() < 1e-12), "symmetric");
            }
        }
        let on_diagonal: Vec<f64> = (0..LABELS * p)
            .map(|at| dense[at / p * p * p + at % p * (p + 1)])
            .collect();
        assert_close(
            &network,
            &network.output_hessian_diagonal(&pass).unwrap(),
            &on_diagonal,
            1e-13,
        );
        let v = random(p, 74);
        let at = |step| jacobian(&moved(&plain, &v, step), 1).concat();
        let products = network.output_hessian_products(&pass, &v).unwrap();
        assert_close(&network, &products, &difference(&at(H), &at(-H)), 1e-8);
    }
}

#[test]
fn f32_follows_f64_and_threads_change_no_bit() {
    for plain in networks() {
        let of = |precision, threads| {
            let network = plain.network(arithmetic(precision, threads)).unwrap();
            let d = random(network.n_weights(), 75);
            let pass = forward(&network, BATCH);
            let seeds = Tensor::from_slice(&random(BATCH * LABELS, 76), (1, BATCH, LABELS), &Device::Cpu).unwrap();
            let seeds = seeds.to_dtype(precision.dtype()).unwrap();
            let directions = directions(&network, &all_layers(&network), &d);
            let products = network.hessian_products(&pass, &seeds, &directions).unwrap();
            (network, products.values().flat_map(values).collect::<Vec<_>>())
        };
        let (network, narrow) = of(Precision::F32, 1);
        assert_close(&network, &narrow, &of(Precision::F64, 1).1, 1e-5);
        assert_eq!(narrow, of(Precision::F32, 3).1);
    }
}

#[test]
fn the_diagonal_of_a_large_network_is_refused() {
    let wide = build(&plain(vec![
        ("conv1d", conv([4000, 1, 4], true, 1, [0, 0], 81)),
        ("max_pool1d(20)", Plain::MaxPool(20, 20)),
        ("flatten(channels_first)", Plain::Flatten(true)),
        ("dense", dense(LABELS, 4000, true, 83)),
    ]));
    assert_eq!(wide.n_inputs(), PIXELS);
    let error = wide.output_hessian_diagonal(&forward(&wide, 1)).unwrap_err();
    assert!(
        matches!(
            error,
            NetworkError::TooManyUnitVectors {
                n_weights: 28_002,
                most: 20_000
            }
        ),
        "{error}"
    );
}

/// To the bit, with J_x by blocks: so its gradients end at the first pre-activation, as memory counts them.
#[test]
fn a_dense_network_that_flattens_its_one_channel_is_a_dense_network() {
    let layers = vec![
        ("dense", dense(900, PIXELS, true, 84)),
        ("tanh", Plain::Tanh),
        ("dense", dense(LABELS, 900, true, 86)),
    ];
    let said = |network: &Network| {
        let forward = forward(network, BATCH);
        let mut said = vec![values(forward.output())];
        let backward = network.backward(&forward, InputJacobian::InBlocks).unwrap();
        let taken = network.jacobian_blocks(&backward, |_, jacobian| -> Result<(), NetworkError> {
            said.push(values(jacobian));
            Ok(())
        });
        taken.unwrap();
        said
    };
    let without = build(&plain(layers.clone()));
    assert!(without.n_weights() > 20_000);
    let expected = without.output_hessian_diagonal(&forward(&without, 1)).unwrap();
    assert!(expected.iter().any(|value| *value != 0.0));
    for (name, flatten) in [
        ("flatten(channels_first)", Plain::Flatten(true)),
        ("flatten(channels_last)", Plain::Flatten(false)),
    ] {
        let network = build(&plain([vec![(name, flatten)], layers.clone()].concat()));
        assert_eq!(network.layer_specs()[0].to_string(), name);
        let found = network.output_hessian_diagonal(&forward(&network, 1)).unwrap();
        assert!(found == expected);
        assert_eq!(said(&network), said(&without));
        assert_eq!(said(&network.on(&Device::Cpu).unwrap()), said(&without));
    }
}
