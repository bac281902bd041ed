//! Files of networks with convolutions or without biases: round trips, how many pixels they take, and what does not fit.

use fisherflow_network::{Arithmetic, DenseShape, Description, Network, NetworkError, Precision};

use crate::plain_layers::{NamedTensor, file, random};

const F64: Arithmetic = Arithmetic {
    precision: Precision::F64,
    threads: 1,
};

type Tensors = Vec<NamedTensor>;

/// StarNet's layers, smaller: on 64 pixels the second convolution gives 50 positions and pooling 12, which 62 to 65 pixels give too.
const LAYERS: [&str; 8] = [
    "conv1d",
    "relu",
    "conv1d",
    "relu",
    "max_pool1d(4)",
    "flatten(channels_first)",
    "dense",
    "linear",
];

fn tensors() -> Tensors {
    [
        ("conv.0.weight", vec![4, 1, 8]),
        ("conv.0.bias", vec![4]),
        ("conv.2.weight", vec![3, 4, 8]),
        ("head.weight", vec![2, 36]),
        ("head.bias", vec![2]),
    ]
    .into_iter()
    .enumerate()
    .map(|(seed, (name, shape))| {
        let values = random(shape.iter().product(), seed as u64);
        (name.to_owned(), shape, values)
    })
    .collect()
}

fn said(layers: &[&str]) -> Description {
    Description {
        layers: Some(layers.iter().map(|s| (*s).to_owned()).collect()),
        ..Description::default()
    }
}

fn with_input(pixels: usize, layers: &[&str]) -> Description {
    let input = format!("input({pixels})");
    said(&[&[input.as_str()], layers].concat())
}

fn read(tensors: &Tensors, said: &Description) -> Result<Network, NetworkError> {
    Network::from_safetensors(&file(tensors), said, F64)
}

fn refusal(tensors: &Tensors, said: &Description) -> String {
    read(tensors, said).unwrap_err().to_string()
}

#[test]
fn a_round_trip_keeps_layers_shapes_and_every_bit() {
    for precision in [Precision::F32, Precision::F64] {
        let arithmetic = Arithmetic { precision, threads: 1 };
        for layers in [
            with_input(64, &LAYERS),
            with_input(
                63,
                &[
                    "conv1d(stride=2, padding=same)",
                    "leaky_relu(0.3)",
                    "conv1d(padding=same)",
                    "average_pool1d(8, stride=2)",
                    "linear",
                    "flatten(channels_last)",
                    "dense",
                ],
            ),
        ] {
            let mut tensors = tensors();
            if layers.layers.as_ref().unwrap()[1] != LAYERS[0] {
                // 32 positions, 13 after pooling
                tensors[3] = ("head.weight".to_owned(), vec![2, 39], random(78, 9));
            }
            let network = Network::from_safetensors(&file(&tensors), &layers, arithmetic).unwrap();
            let bytes = network.to_safetensors().unwrap();
            let again = Network::from_safetensors(&bytes, &Description::default(), arithmetic).unwrap();
            assert_eq!(again.to_safetensors().unwrap(), bytes);
            assert_eq!(again.dense_layers(), network.dense_layers());
            let names: Vec<String> = again.layer_specs().iter().map(ToString::to_string).collect();
            assert_eq!(Some(names), layers.layers);
            let flux = random(2 * network.n_inputs(), 5);
            let output = |network: &Network| {
                let forward = network.forward(&flux).unwrap();
                forward.labels(network).unwrap()
            };
            assert_eq!(output(&again), output(&network));
            // what the run file says may leave the pixels out, but not say others
            let without = said(
                &layers
                    .layers
                    .iter()
                    .flatten()
                    .skip(1)
                    .map(String::as_str)
                    .collect::<Vec<_>>(),
            );
            assert!(Network::from_safetensors(&bytes, &without, arithmetic).is_ok());
            assert!(Network::from_safetensors(&bytes, &layers, arithmetic).is_ok());
            let other = with_input(
                62,
                &without.layers.iter().flatten().map(String::as_str).collect::<Vec<_>>(),
            );
            assert!(matches!(
                Network::from_safetensors(&bytes, &other, arithmetic),
                Err(NetworkError::LayersDisagree { .. })
            ));
        }
    }
}

#[test]
fn a_convolution_is_listed_as_the_dense_layer_that_its_positions_share() {
    let network = read(&tensors(), &with_input(64, &LAYERS)).unwrap();
    let shape = |name: &str, inputs, outputs, bias, shared| DenseShape {
        name: name.to_owned(),
        inputs,
        outputs,
        bias,
        shared,
    };
    assert_eq!(
        network.dense_layers(),
        [
            shape("conv.0", 8, 4, true, 57),
            shape("conv.2", 32, 3, false, 50),
            shape("head", 36, 2, true, 1)
        ]
    );
    let [first, second, _] = network.dense_layers() else {
        panic!("three layers")
    };
    assert_eq!((first.columns(), first.n_weights()), (9, 36));
    assert_eq!((second.columns(), second.n_weights()), (32, 96));
    assert_eq!(network.n_weights(), 36 + 96 + 74);
    let [(_, _, weight), (_, _, bias), (_, _, second), ..] = &tensors()[..] else {
        panic!("five tensors")
    };
    let joint: Vec<f64> = weight
        .chunks(8)
        .zip(bias)
        .flat_map(|(w, b)| w.iter().chain([b]))
        .copied()
        .collect();
    assert_eq!(network.weights_and_biases(0).unwrap(), joint);
    assert_eq!(network.weights_and_biases(1).unwrap(), *second);
    assert!(network.dense_weights(1).unwrap().1.is_none());
}

#[test]
fn pixels_are_found_where_the_layers_leave_no_choice() {
    let mut tensors = tensors();
    tensors[3] = ("head.weight".to_owned(), vec![2, 150], random(300, 9));
    let without_pool = ["conv1d", "relu", "conv1d", "relu", "flatten(channels_first)", "dense"];
    assert_eq!(read(&tensors, &said(&without_pool)).unwrap().n_inputs(), 64);
    let same = [
        "conv1d(padding=same)",
        "relu",
        "conv1d(padding=same)",
        "relu",
        "flatten(channels_first)",
        "dense",
    ];
    assert_eq!(read(&tensors, &said(&same)).unwrap().n_inputs(), 50);
}

#[test]
fn pixels_that_the_layers_leave_open_must_be_said() {
    assert_eq!(
        refusal(&tensors(), &said(&LAYERS)),
        "the network's layers do not say how many pixels a spectrum has (62 to 65 would do): say so in the first of them, as in \
         layers = [\"input(7214)\", \"conv1d\", ...]"
    );
    for pixels in 62..=65 {
        assert_eq!(
            read(&tensors(), &with_input(pixels, &LAYERS)).unwrap().n_inputs(),
            pixels
        );
        let normalised = Description {
            input_mean: Some(vec![1.0; pixels]),
            ..said(&LAYERS)
        };
        assert_eq!(read(&tensors(), &normalised).unwrap().n_inputs(), pixels);
    }
    assert_eq!(
        refusal(&tensors(), &with_input(66, &LAYERS)),
        "layer `head`: it has 36 inputs, and is given 39 (3 channels of 13 positions, of spectra of 66 pixels); \
         check the pixels, strides, padding and pooling"
    );
    let both = Description {
        input_mean: Some(vec![1.0; 65]),
        ..with_input(64, &LAYERS)
    };
    assert_eq!(
        refusal(&tensors(), &both),
        "input_mean has 65 values, the network takes 64 (or a single one for all)"
    );
}

#[test]
fn spectra_of_more_pixels_than_memory_may_hold_are_refused() {
    assert_eq!(
        refusal(&tensors(), &with_input(1_000_000_000_000, &LAYERS)),
        "layer `input(1000000000000)`: the network takes spectra of 1000000000000 pixels, and they may have 67108864 at most; check \
         `input(...)`, strides and pooling"
    );
    // The window alone says so.
    let head = tensors()[3..].to_vec();
    assert_eq!(
        refusal(&head, &said(&["average_pool1d(1000000000000, stride=1)", "dense"])),
        "layer `average_pool1d(1000000000000, stride=1)`: the network takes spectra of 1000000000035 pixels, and they may have 67108864 at \
         most; check `input(...)`, strides and pooling"
    );
}

#[test]
fn layers_that_do_not_fit_are_named_with_both_sides_and_a_remedy() {
    let refused = |layers: &[&str]| refusal(&tensors(), &with_input(64, layers));
    assert_eq!(
        refused(&["conv1d", "conv1d", "max_pool1d(4)", "dense"]),
        "layer `head`: it is given 3 channels of 12 positions; put `flatten(channels_first)` (torch) or \
         `flatten(channels_last)` (Keras) before it"
    );
    assert_eq!(
        refused(&["conv1d", "flatten(channels_first)", "conv1d", "dense"]),
        "layer `conv.2`: it needs channels of positions, and is given a row of numbers; \
         convolutions, pooling and `flatten` come before dense layers, `flatten` last"
    );
    assert_eq!(
        refused(&["conv1d", "max_pool1d(60)", "conv1d", "flatten(channels_first)", "dense"]),
        "layer `max_pool1d(60)`: its window of 60 does not fit the 57 positions it is given; spectra of 64 pixels are too short"
    );
    assert_eq!(
        refused(&["conv1d", "input(64)", "conv1d", "dense"]),
        "layer `input(64)`: it says what a spectrum is, and can only be the first layer"
    );
    assert_eq!(
        refused(&["dense", "conv1d", "dense"]),
        "tensor `conv.0.weight` has shape [4, 1, 8], expected [outputs, inputs]"
    );
    assert_eq!(
        refused(&["conv1d", "conv1d", "conv1d"]),
        "tensor `head.weight` has shape [2, 36], expected [output channels, channels, kernel] of a `conv1d`, each at least 1"
    );

    let mut swapped = tensors();
    swapped[0].1 = vec![4, 2, 4];
    assert_eq!(
        refusal(&swapped, &with_input(64, &LAYERS)),
        "layer `conv.0`: its weight takes 2 channels, and it is given 1; check the order of the layers"
    );
    let mut short = tensors();
    short[1] = ("conv.0.bias".to_owned(), vec![3], random(3, 1));
    assert_eq!(
        refusal(&short, &with_input(64, &LAYERS)),
        "tensor `conv.0.bias` has shape [3], expected [4], the layer's outputs"
    );
    let mut headless = tensors();
    headless.truncate(3);
    assert_eq!(
        refusal(&headless, &with_input(64, &["conv1d", "conv1d"])),
        "layer `conv1d`: the network ends in 3 channels of 50 positions; put `flatten(channels_first)` (torch) or \
         `flatten(channels_last)` (Keras) at its end"
    );
    assert!(refusal(&headless, &said(&["conv1d", "conv1d", "flatten(channels_last)"])).contains("input(7214)"));
}

#[test]
fn a_file_without_biases_is_a_network_without_biases() {
    let tensors: Tensors = [("0.weight", vec![3, 5]), ("1.weight", vec![2, 3])]
        .map(|(name, shape)| (name.to_owned(), shape.clone(), random(shape.iter().product(), 3)))
        .to_vec();
    let network = read(&tensors, &said(&["dense", "tanh", "dense"])).unwrap();
    assert_eq!((network.n_inputs(), network.n_weights()), (5, 15 + 6));
    assert_eq!(network.weights_and_biases(1).unwrap(), tensors[1].2);
    let forward = network.forward(&[0.0; 5]).unwrap();
    assert_eq!(forward.labels(&network).unwrap(), [0.0, 0.0]);
    let bytes = network.to_safetensors().unwrap();
    let again = Network::from_safetensors(&bytes, &Description::default(), F64).unwrap();
    assert_eq!(again.dense_layers(), network.dense_layers());
    assert_eq!(again.to_safetensors().unwrap(), bytes);
}
