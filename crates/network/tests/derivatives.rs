//! Derivatives of a network of three layers with its normalisation folded in: spectra in a batch, threads, an activation before the first layer, and what
//! is refused. That they are the derivatives is what `reference.rs` says of every activation.

use candle_core::{DType, Tensor};
use fisherflow_network::{
    Activation, Arithmetic, Backward, Forward, InputJacobian, Labels, LayerCapture, Network, NetworkError, Precision,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const WIDTHS: [usize; 4] = [7, 6, 5, 3];
const BATCH: usize = 4;

fn arithmetic(precision: Precision, threads: usize) -> Arithmetic {
    Arithmetic { precision, threads }
}

fn labels() -> Labels {
    Labels {
        names: ["teff", "logg", "fe_h"].map(str::to_owned).to_vec(),
        units: ["K", "dex", "dex"].map(str::to_owned).to_vec(),
        mean: vec![4700.0, 2.3, -0.2],
        scale: vec![500.0, 0.8, 0.3],
    }
}

fn network(activation: Activation, input_scale: &[f64], arithmetic: Arithmetic) -> Network {
    let mean = [0.9, 1.0, 1.1, 0.8, 1.2, 1.0, 0.7];
    Network::he_normal(&WIDTHS, activation, labels(), &mean, input_scale, 11, arithmetic).unwrap()
}

fn scales() -> [Vec<f64>; 2] {
    [vec![0.3], vec![0.3, 0.2, 0.4, 0.25, 0.5, 0.35, 0.45]]
}

fn flux() -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    (0..BATCH * WIDTHS[0]).map(|_| rng.random_range(0.4..1.6)).collect()
}

fn forward(network: &Network, flux: &[f64]) -> Forward {
    network.forward(flux).unwrap()
}

fn backward(network: &Network, flux: &[f64]) -> Backward {
    network
        .backward(&forward(network, flux), InputJacobian::Wanted)
        .unwrap()
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

/// `g (x) [a; 1]` of output k and spectrum n, `[out * (in + 1)]`.
fn weight_jacobian(capture: &LayerCapture, k: usize, n: usize) -> Vec<f64> {
    let gradient = values(&capture.output_grad.get(k).unwrap().get(n).unwrap());
    let mut input = values(&capture.input.get(n).unwrap());
    input.push(1.0);
    gradient.iter().flat_map(|g| input.iter().map(move |a| g * a)).collect()
}

#[test]
fn a_batch_at_once_is_its_spectra_one_by_one() {
    let network = network(Activation::Silu, &scales()[1], arithmetic(Precision::F64, 1));
    let flux = flux();
    let all = backward(&network, &flux);
    let all_jacobian = all.input_jacobian.unwrap();
    for (n, one_flux) in flux.chunks_exact(WIDTHS[0]).enumerate() {
        let one = backward(&network, one_flux);
        let row = values(&all_jacobian.narrow(1, n, 1).unwrap());
        for (a, b) in row.iter().zip(values(&one.input_jacobian.unwrap())) {
            assert!((a - b).abs() < 1e-11 * (1.0 + b.abs()));
        }
        assert_eq!(all.captures.len(), one.captures.len());
        for (a, b) in all.captures.iter().zip(&one.captures) {
            for k in 0..3 {
                for (x, y) in weight_jacobian(a, k, n).iter().zip(weight_jacobian(b, k, 0)) {
                    assert!((x - y).abs() < 1e-13);
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let flux: Vec<f64> = (0..130 * 900).map(|_| rng.random_range(0.4..1.6)).collect();
    for precision in [Precision::F32, Precision::F64] {
        let run = |threads| {
            let arithmetic = arithmetic(precision, threads);
            let widths = [900, 500, 420, 3];
            let network =
                Network::he_normal(&widths, Activation::Tanh, labels(), &[1.0], &[0.3], 3, arithmetic).unwrap();
            let backward = backward(&network, &flux);
            let mut all = values(&backward.input_jacobian.unwrap());
            backward
                .captures
                .iter()
                .for_each(|c| all.extend(values(&c.output_grad)));
            all
        };
        assert_eq!(run(1), run(2));
    }
}

#[test]
fn an_activation_before_the_first_dense_layer_is_in_the_jacobian() {
    let inner = network(Activation::Tanh, &[1.0], arithmetic(Precision::F64, 1));
    let bytes = inner.to_safetensors().unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let views = file
        .tensors()
        .into_iter()
        .filter(|(name, _)| name.starts_with("layers."));
    let bare = safetensors::serialize(views, None).unwrap();
    let (flux, h) = (flux(), 1e-6);
    for scale in scales() {
        let said = fisherflow_network::Description {
            layers: Some(
                ["tanh", "dense", "silu", "dense", "relu", "dense", "sigmoid"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            input_scale: Some(scale),
            ..Default::default()
        };
        let network = Network::from_safetensors(&bare, &said, arithmetic(Precision::F64, 1)).unwrap();
        let jacobian = values(&backward(&network, &flux).input_jacobian.unwrap());
        for at in 0..flux.len() {
            let shifted = |by: f64| {
                let mut moved = flux.clone();
                moved[at] += by;
                forward(&network, &moved).labels(&network).unwrap()
            };
            let (up, down) = (shifted(h), shifted(-h));
            let (n, d) = (at / WIDTHS[0], at % WIDTHS[0]);
            for k in 0..3 {
                let difference = (up[n * 3 + k] - down[n * 3 + k]) / (2.0 * h);
                assert!((jacobian[(k * BATCH + n) * WIDTHS[0] + d] - difference).abs() < 1e-8);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let network = network(Activation::Relu, &[1.0], arithmetic(Precision::F64, 1));
    let said = network.forward(&[1.0; 10]).unwrap_err().to_string();
    assert_eq!(
        said,
        "the spectra have 10 values, not a whole number of spectra of the network's 7 pixels"
    );
    let other = Network::he_normal(
        &[7, 3],
        Activation::Relu,
        labels(),
        &[0.0],
        &[1.0],
        1,
        network.arithmetic(),
    );
    let foreign = forward(&other.unwrap(), &flux());
    let refused = network.backward(&foreign, InputJacobian::NotWanted);
    assert!(matches!(refused, Err(NetworkError::ForeignForward { .. })));
    let empty = forward(&network, &[]);
    assert_eq!(
        network
            .backward(&empty, InputJacobian::Wanted)
            .unwrap()
            .input_jacobian
            .unwrap()
            .dims(),
        [3, 0, 7]
    );
}
