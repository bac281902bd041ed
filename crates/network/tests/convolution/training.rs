//! Training of networks that are there already: convolutions and layers without bias.

use fisherflow_network::train::{Recipe, TrainingSet, train_further};
use fisherflow_network::{Arithmetic, Network, NetworkError, Precision};

use crate::plain_layers::{Plain, PlainNetwork, conv, dense, random};

const PIXELS: usize = 12;

/// A convolution with biases, one without, and a dense layer without: 12 positions, 11 and 5.
fn plain() -> PlainNetwork {
    PlainNetwork {
        layers: vec![
            ("conv1d(padding=same)".to_owned(), conv([4, 1, 3], true, 1, [1, 1], 1)),
            ("tanh".to_owned(), Plain::Tanh),
            ("conv1d".to_owned(), conv([3, 4, 2], false, 1, [0, 0], 3)),
            ("max_pool1d(2)".to_owned(), Plain::MaxPool(2, 2)),
            ("flatten(channels_last)".to_owned(), Plain::Flatten(false)),
            ("dense".to_owned(), dense(2, 15, false, 5)),
        ],
        input_mean: vec![1.0; PIXELS],
        input_scale: vec![0.5; PIXELS],
        label_scale: vec![100.0, 0.2],
    }
}

fn network(precision: Precision, threads: usize) -> Network {
    plain().network(Arithmetic { precision, threads }).unwrap()
}

/// Random spectra, and the labels that the same layers with other weights give them.
fn set(n_spectra: usize, seed: u64) -> TrainingSet {
    let flux: Vec<f32> = random(n_spectra * PIXELS, seed)
        .iter()
        .map(|x| 1.0 + *x as f32)
        .collect();
    let mut teacher = plain();
    for (layer, (weights, biases)) in teacher.with_weights().enumerate() {
        let all = weights.into_iter().chain(biases.into_iter().flatten());
        for (i, weight) in all.enumerate() {
            *weight += 0.5 * random(i + 1, 200 + layer as u64)[i];
        }
    }
    let wide: Vec<f64> = flux.iter().map(|f| f64::from(*f)).collect();
    let labels = wide.chunks(PIXELS).flat_map(|flux| teacher.labels(flux)).collect();
    TrainingSet {
        n_spectra,
        n_pixels: PIXELS,
        flux,
        labels,
    }
}

/// Mean squared error in units of the labels' scale.
fn loss(plain: &PlainNetwork, set: &TrainingSet) -> f64 {
    let flux: Vec<f64> = set.flux.iter().map(|f| f64::from(*f)).collect();
    let found = flux.chunks(PIXELS).flat_map(|flux| plain.labels(flux));
    let squares = found.zip(&set.labels).enumerate().map(|(i, (found, wanted))| {
        let residual = (found - wanted) / plain.label_scale[i % 2];
        residual * residual
    });
    squares.sum::<f64>() / set.labels.len() as f64
}

/// Central differences of the loss by every weight of a layer, then by every bias.
fn slopes(layer: usize, set: &TrainingSet) -> Vec<f64> {
    let h = 1e-6;
    let sizes = |plain: &mut PlainNetwork| {
        let (weights, biases) = plain.with_weights().nth(layer).unwrap();
        (weights.len(), biases.map_or(0, |biases| biases.len()))
    };
    let (n_weights, n_biases) = sizes(&mut plain());
    let moved = |index: usize, step: f64| {
        let mut plain = plain();
        let (mut weights, biases) = plain.with_weights().nth(layer).unwrap();
        match index.checked_sub(n_weights) {
            None => *weights[index] += step,
            Some(o) => biases.unwrap()[o] += step,
        }
        loss(&plain, set)
    };
    (0..n_weights + n_biases)
        .map(|index| (moved(index, h) - moved(index, -h)) / (2.0 * h))
        .collect()
}

#[test]
fn the_first_step_goes_down_every_slope() {
    // with a huge epsilon Adam's first step is learning_rate / epsilon * gradient * sqrt(1 - beta_2): down the slope, by its size
    let (network, set) = (network(Precision::F64, 1), set(40, 1));
    let recipe = Recipe {
        epochs: 1,
        batch: 40,
        learning_rate: 1e8,
        epsilon: 1e10,
        ..Recipe::default()
    };
    let step = 1e8 / 1e10 * (1.0 - recipe.beta_2).sqrt();
    let (stepped, report) = train_further(&network, &set, &TrainingSet::default(), &recipe, &mut |_| ()).unwrap();
    assert!((report.train_loss.unwrap() / loss(&plain(), &set) - 1.0).abs() < 1e-12);
    for (layer, shape) in network.dense_layers().iter().enumerate() {
        let before = network.weights_and_biases(layer).unwrap();
        let after = stepped.weights_and_biases(layer).unwrap();
        let slopes = slopes(layer, &set);
        assert_eq!((before.len(), slopes.len()), (shape.n_weights(), shape.n_weights()));
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            let (row, column) = (i / shape.columns(), i % shape.columns());
            let slope = if column == shape.inputs {
                slopes[shape.outputs * shape.inputs + row]
            } else {
                slopes[row * shape.inputs + column]
            };
            let found = (before - after) / step;
            assert!(
                (found - slope).abs() < 1e-7 * (1.0 + slope.abs()),
                "{}: {found} {slope}",
                shape.name
            );
        }
    }
}

#[test]
fn they_learn_with_the_same_bits_on_any_threads_and_the_network_given_stays() {
    let recipe = Recipe {
        epochs: 60,
        batch: 32,
        learning_rate: 0.01,
        ..Recipe::default()
    };
    for precision in [Precision::F32, Precision::F64] {
        let run = |threads| {
            let network = network(precision, threads);
            let before = network.to_safetensors().unwrap();
            let (trained, report) = train_further(&network, &set(300, 1), &set(100, 2), &recipe, &mut |_| ()).unwrap();
            assert_eq!(network.to_safetensors().unwrap(), before);
            (trained.to_safetensors().unwrap(), report.validation_loss.unwrap())
        };
        let (trained, after) = run(1);
        let before = loss(&plain(), &set(100, 2));
        assert!(after < 0.1 * before, "{before} {after}");
        assert_eq!(trained, run(2).0);
    }
}

#[test]
fn sets_of_another_shape_are_refused() {
    let network = network(Precision::F32, 1);
    let further = |set: &TrainingSet| {
        let none = TrainingSet::default();
        train_further(&network, set, &none, &Recipe::default(), &mut |_| ()).map(|_| ())
    };
    assert!(matches!(
        further(&TrainingSet::default()),
        Err(NetworkError::EmptyTrainingSet)
    ));
    let mut narrow = set(5, 1);
    narrow.n_pixels -= 1;
    narrow.flux.truncate(5 * (PIXELS - 1));
    assert!(matches!(further(&narrow), Err(NetworkError::TrainingSetShape { .. })));
}
