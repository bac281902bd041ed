//! Every precision against f64, on packed weights as runs have them.

use candle_core::{DType, Tensor};
use fisherflow_network::{Activation, Arithmetic, InputJacobian, Labels, Network, Precision};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const PIXELS: usize = 700;
const SPECTRA: usize = 40;

fn network(precision: Precision, scale: &[f64]) -> Network {
    network_about(precision, 1.0, scale)
}

fn network_about(precision: Precision, mean: f64, scale: &[f64]) -> Network {
    let labels = Labels::unscaled(["a", "b", "c"].map(String::from).to_vec(), vec![String::new(); 3]);
    let arithmetic = Arithmetic { precision, threads: 2 };
    let layers = [PIXELS, 130, 33, 3];
    Network::he_normal(&layers, Activation::Tanh, labels, &[mean], scale, 1, arithmetic)
        .unwrap()
        .with_packed_weights()
}

/// Labels, and the Jacobian by flux.
fn answers(network: &Network, flux: &[f64]) -> [Vec<f64>; 2] {
    let forward = network.forward(flux).unwrap();
    let backward = network.backward(&forward, InputJacobian::Wanted).unwrap();
    let values = |tensor: &Tensor| {
        tensor
            .to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    [values(forward.output()), values(&backward.input_jacobian.unwrap())]
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut x.iter().zip(y).map(|(x, y)| x - y)) / norm(&mut y.iter().copied())
}

#[test]
fn labels_and_jacobians_are_as_close_as_their_precision() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let flux: Vec<f64> = (0..SPECTRA * PIXELS)
        .map(|_| 1.0 + rng.random_range(-0.1..0.1))
        .collect();
    let by_pixel: Vec<f64> = (0..PIXELS).map(|_| rng.random_range(0.05..0.2)).collect();
    for scale in [&[0.1][..], &by_pixel] {
        let [labels, jacobian] = answers(&network(Precision::F64, scale), &flux);
        for (precision, of_labels, of_jacobian) in [
            (Precision::F32, 0.0..3e-6, 0.0..3e-6),
            (Precision::Bf16x3, 0.0..3e-5, 0.0..3e-5),
            (Precision::Bf16, 0.0..3e-5, 2e-4..2e-2),
        ] {
            if let Err(reason) = precision.kernel() {
                eprintln!("{precision} skipped: {reason}");
                continue;
            }
            let found = answers(&network(precision, scale), &flux);
            let errors = (distance(&found[0], &labels), distance(&found[1], &jacobian));
            assert!(of_labels.contains(&errors.0), "{precision}: labels {errors:?}");
            assert!(of_jacobian.contains(&errors.1), "{precision}: Jacobian {errors:?}");
        }
    }
}

/// An f32 next to a million is known to 0.03.
#[test]
fn flux_far_from_zero_is_normalised_before_it_is_rounded() {
    const PEDESTAL: f64 = 1e6;
    let flux: Vec<f64> = (0..SPECTRA * PIXELS)
        .map(|i| PEDESTAL + 0.1 * (i as f64).sin())
        .collect();
    let of = |precision| answers(&network_about(precision, PEDESTAL, &[0.1]), &flux);
    let (found, expected) = (of(Precision::F32), of(Precision::F64));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(distance(found, expected) < 3e-6);
    }
}

#[test]
fn packed_weights_change_no_bit_of_f32() {
    let flux: Vec<f64> = (0..SPECTRA * PIXELS).map(|i| 1.0 + 1e-2 * (i as f64).sin()).collect();
    let packed = network(Precision::F32, &[0.1]);
    let labels = Labels::unscaled(["a", "b", "c"].map(String::from).to_vec(), vec![String::new(); 3]);
    let plain = Network::he_normal(
        &[PIXELS, 130, 33, 3],
        Activation::Tanh,
        labels,
        &[1.0],
        &[0.1],
        1,
        Arithmetic {
            precision: Precision::F32,
            threads: 3,
        },
    )
    .unwrap();
    assert!(answers(&packed, &flux) == answers(&plain, &flux));
}
