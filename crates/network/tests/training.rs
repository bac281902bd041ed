//! Training: it learns, it stops in time, and the same seed gives the same bits.

use candle_core::DType;
use fisherflow_network::train::{Epoch, Recipe, TrainingReport, TrainingSet, train};
use fisherflow_network::{Activation, Arithmetic, Labels, Network, NetworkError, Precision};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

const PIXELS: usize = 12;

fn labels() -> Labels {
    Labels::unscaled(vec!["teff".into(), "logg".into()], vec!["K".into(), "dex".into()])
}

fn arithmetic(precision: Precision, threads: usize) -> Arithmetic {
    Arithmetic { precision, threads }
}

/// Spectra near 1 with labels linear in them, and label noise in units of the labels' spread.
fn linear_set(n_spectra: usize, noise: f64, seed: u64) -> TrainingSet {
    let mut coefficients = ChaCha8Rng::seed_from_u64(100);
    let coefficients: Vec<f64> = (0..2 * PIXELS).map(|_| coefficients.sample(StandardNormal)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut set = TrainingSet {
        n_spectra,
        n_pixels: PIXELS,
        ..TrainingSet::default()
    };
    for _ in 0..n_spectra {
        let lines: Vec<f64> = (0..PIXELS).map(|_| rng.sample(StandardNormal)).collect();
        set.flux.extend(lines.iter().map(|x| (1.0 + 0.05 * x) as f32));
        for (k, (mean, scale)) in [(4700.0, 100.0), (2.0, 0.2)].into_iter().enumerate() {
            let dot: f64 = coefficients[k * PIXELS..].iter().zip(&lines).map(|(c, x)| c * x).sum();
            let error: f64 = rng.sample(StandardNormal);
            set.labels.push(mean + scale * (dot + 3.0 * noise * error));
        }
    }
    set
}

fn recipe() -> Recipe {
    Recipe {
        hidden: vec![],
        epochs: 60,
        batch: 32,
        learning_rate: 0.02,
        seed: 4,
        ..Recipe::default()
    }
}

fn run(recipe: &Recipe, noise: f64, arithmetic: Arithmetic) -> (Network, TrainingReport, Vec<Epoch>) {
    let (training, validation) = (linear_set(300, noise, 1), linear_set(100, noise, 2));
    let mut epochs = Vec::new();
    let (network, report) = train(&training, &validation, recipe, labels(), arithmetic, &mut |e| {
        epochs.push(e)
    })
    .unwrap();
    (network, report, epochs)
}

fn bytes(network: &Network) -> Vec<u8> {
    network.to_safetensors().unwrap()
}

/// Mean squared error of the validation set, in units of the labels' scale.
fn validation_loss(network: &Network, noise: f64) -> f64 {
    let set = linear_set(100, noise, 2);
    let flux: Vec<f64> = set.flux.iter().map(|f| f64::from(*f)).collect();
    let forward = network.forward(&flux).unwrap();
    let output: Vec<f64> = forward
        .output()
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    let targets = network.labels().to_outputs(&set.labels);
    output.iter().zip(&targets).map(|(f, y)| (f - y).powi(2)).sum::<f64>() / targets.len() as f64
}

#[test]
fn a_linear_map_is_learned() {
    for precision in [Precision::F32, Precision::F64] {
        let (network, report, epochs) = run(&recipe(), 0.0, arithmetic(precision, 1));
        assert_eq!((epochs.len(), report.epochs, report.stopped_early), (60, 60, false));
        assert!(report.validation_loss.unwrap() < 1e-5, "{report:?}");
        assert!(epochs[0].validation_loss.unwrap() > 0.01);
        assert_eq!(network.labels().names, labels().names);
        assert!((network.labels().mean[0] - 4700.0).abs() < 100.0);
        assert!((network.input_mean()[0] - 1.0).abs() < 0.02);
        assert!((network.input_scale()[0] - 0.05).abs() < 0.005);
    }
}

#[test]
fn a_hidden_layer_learns_too() {
    let recipe = Recipe {
        hidden: vec![24, 12],
        activation: Activation::Tanh,
        learning_rate: 0.005,
        epochs: 100,
        ..recipe()
    };
    let (_, report, _) = run(&recipe, 0.0, arithmetic(Precision::F32, 1));
    assert!(
        report.train_loss.unwrap() < 0.02 && report.validation_loss.unwrap() < 0.1,
        "{report:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_bits_on_any_threads() {
    let recipe = Recipe {
        hidden: vec![700, 20],
        epochs: 3,
        ..recipe()
    };
    for precision in [Precision::F32, Precision::F64] {
        let first = bytes(&run(&recipe, 0.1, arithmetic(precision, 1)).0);
        assert_eq!(first, bytes(&run(&recipe, 0.1, arithmetic(precision, 1)).0));
        assert_eq!(first, bytes(&run(&recipe, 0.1, arithmetic(precision, 2)).0));
        let other = Recipe {
            seed: 5,
            ..recipe.clone()
        };
        assert_ne!(first, bytes(&run(&other, 0.1, arithmetic(precision, 1)).0));
    }
}

#[test]
fn patience_ends_training_and_the_best_epoch_is_kept() {
    let recipe = Recipe {
        hidden: vec![64],
        epochs: 400,
        patience: Some(5),
        ..recipe()
    };
    let (network, report, epochs) = run(&recipe, 1.0, arithmetic(Precision::F64, 1));
    assert!(
        report.stopped_early && report.epochs == report.best_epoch + 5,
        "{report:?}"
    );
    let best = epochs
        .iter()
        .min_by(|a, b| a.validation_loss.partial_cmp(&b.validation_loss).unwrap())
        .unwrap();
    assert_eq!(best.epoch, report.best_epoch);
    assert_eq!(
        (Some(best.train_loss), best.validation_loss),
        (report.train_loss, report.validation_loss)
    );
    assert!(best.improved && !epochs.last().unwrap().improved);
    assert!((validation_loss(&network, 1.0) - report.validation_loss.unwrap()).abs() < 1e-12);

    // the kept weights are those of a run that ends with the best epoch
    let until_best = Recipe {
        epochs: report.best_epoch,
        ..recipe
    };
    assert_eq!(
        bytes(&network),
        bytes(&run(&until_best, 1.0, arithmetic(Precision::F64, 1)).0)
    );
}

#[test]
fn no_epoch_gives_the_initialised_network() {
    let recipe = Recipe { epochs: 0, ..recipe() };
    let (network, report, epochs) = run(&recipe, 0.0, arithmetic(Precision::F64, 1));
    assert!(epochs.is_empty() && report.train_loss.is_none() && report.best_epoch == 0);
    assert!((validation_loss(&network, 0.0) - report.validation_loss.unwrap()).abs() < 1e-12);
    let fresh = Network::he_normal(
        &[PIXELS, 2],
        Activation::Relu,
        network.labels().clone(),
        network.input_mean(),
        network.input_scale(),
        4,
        network.arithmetic(),
    );
    assert_eq!(bytes(&network), bytes(&fresh.unwrap()));
}

#[test]
fn a_last_step_that_overflows_is_found_without_a_validation_set() {
    // One epoch of one step: its loss is that before the step.
    let set = linear_set(20, 0.0, 1);
    for (precision, learning_rate) in [(Precision::F32, 3e38), (Precision::F64, 1e300)] {
        let recipe = Recipe {
            epochs: 1,
            learning_rate,
            ..recipe()
        };
        let none = TrainingSet::default();
        let trained = train(&set, &none, &recipe, labels(), arithmetic(precision, 1), &mut |_| ());
        assert!(
            matches!(trained, Err(NetworkError::Diverged { epoch: 1, .. })),
            "{precision}"
        );
    }
}

/// A weight that has to grow until its product with one flux of the validation set is no number of f32, and starts out from 0 on the other side.
#[test]
fn a_loss_that_overflows_late_leaves_the_best_weights() {
    let set = |slope: f64| TrainingSet {
        n_spectra: 4,
        n_pixels: 2,
        flux: vec![1.01, 0.0, 1.01, 2.0, 0.99, 0.0, 0.99, 2.0],
        labels: vec![slope, slope, -slope, -slope],
    };
    let validation = TrainingSet {
        n_spectra: 1,
        n_pixels: 2,
        flux: vec![1.4e37, 1.0],
        labels: vec![0.0],
    };
    let labels = || Labels::unscaled(vec!["teff".into()], vec!["K".into()]);
    let trained = |slope: f64, epochs: usize| {
        let recipe = Recipe {
            epochs,
            learning_rate: 0.02,
            ..recipe()
        };
        let arithmetic = arithmetic(Precision::F32, 1);
        train(&set(slope), &validation, &recipe, labels(), arithmetic, &mut |_| ())
    };
    let (fresh, at_first) = trained(1.0, 0).unwrap();
    let weights = fresh.dense_weights(0).unwrap().0.flatten_all().unwrap();
    let slope = -f64::from(weights.to_vec1::<f32>().unwrap()[0]).signum();
    let (network, report) = trained(slope, 3000).unwrap();
    let diverged = report.diverged.unwrap();
    assert!((1..diverged).contains(&report.best_epoch), "{report:?}");
    assert_eq!((report.epochs, report.stopped_early), (diverged - 1, false));
    assert!(report.validation_loss < at_first.validation_loss, "{report:?}");
    // What is kept are the weights of the best epoch.
    let (until_best, _) = trained(slope, report.best_epoch).unwrap();
    assert_eq!(bytes(&network), bytes(&until_best));

    // Where no epoch is better than the weights at first, there are none to keep.
    let away = trained(-slope, 3000);
    assert!(matches!(away, Err(NetworkError::Diverged { .. })));
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let train_on = |training: &TrainingSet, recipe: &Recipe| {
        train(
            training,
            &TrainingSet::default(),
            recipe,
            labels(),
            Arithmetic::default(),
            &mut |_| (),
        )
        .map(|_| ())
    };
    let set = linear_set(20, 0.0, 1);
    assert!(train_on(&set, &Recipe { epochs: 1, ..recipe() }).is_ok());
    assert!(matches!(
        train_on(&TrainingSet::default(), &recipe()),
        Err(NetworkError::EmptyTrainingSet)
    ));
    let mut bad = set.clone();
    bad.flux[PIXELS] = f32::NAN;
    assert!(matches!(
        train_on(&bad, &recipe()),
        Err(NetworkError::TrainingValue { row: 1, .. })
    ));
    for wrong in [
        Recipe { batch: 0, ..recipe() },
        Recipe {
            patience: Some(0),
            ..recipe()
        },
        Recipe {
            learning_rate: -1.0,
            ..recipe()
        },
        Recipe {
            beta_2: 1.0,
            ..recipe()
        },
        Recipe {
            hidden: vec![0],
            ..recipe()
        },
    ] {
        assert!(matches!(train_on(&set, &wrong), Err(NetworkError::Recipe { .. })));
    }
    for (wrong, message) in [
        (
            Recipe {
                epsilon: 1e-46,
                ..recipe()
            },
            "training recipe: epsilon is 1e-46; training in f32 rounds it to 0 or to infinity: take one from 1e-37 to 1e38, or train in f64",
        ),
        (
            Recipe {
                learning_rate: 1e39,
                ..recipe()
            },
            "training recipe: learning_rate is 1e39; training in f32 rounds it to 0 or to infinity",
        ),
        (
            Recipe {
                beta_2: 0.999_999_99,
                ..recipe()
            },
            "training recipe: beta_2 is 0.99999999; training in f32 rounds it to 1: take 0.9999999 or less, or train in f64",
        ),
    ] {
        let said = train_on(&set, &wrong).unwrap_err().to_string();
        assert!(said.starts_with(message), "{said}");
    }
    let fine = Recipe {
        epochs: 1,
        epsilon: 1e-46,
        beta_2: 0.999_999_99,
        ..recipe()
    };
    let (none, wide) = (TrainingSet::default(), arithmetic(Precision::F64, 1));
    assert!(train(&set, &none, &fine, labels(), wide, &mut |_| ()).is_ok());
    let wild = Recipe {
        learning_rate: 1e30,
        ..recipe()
    };
    let said = train_on(&set, &wild).unwrap_err().to_string();
    assert!(said.starts_with("training diverged in epoch"), "{said}");
}
