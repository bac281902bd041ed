//! Network files: round trips, bare state dicts, and what is wrong with the others.

use std::collections::HashMap;

use candle_core::DType;
use fisherflow_network::{
    Activation, Arithmetic, Description, Labels, LabelsDescription, Network, NetworkError, Precision, example_layers,
    tensors_in,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

const F64: Arithmetic = Arithmetic {
    precision: Precision::F64,
    threads: 1,
};

type Tensors = Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>;

fn f64s(name: &'static str, shape: &[usize], values: &[f64]) -> (&'static str, Dtype, Vec<usize>, Vec<u8>) {
    (
        name,
        Dtype::F64,
        shape.to_vec(),
        values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    )
}

/// 2 -> 3 -> 1, named as torch's `Sequential` names them inside a module.
fn bare() -> Tensors {
    vec![
        f64s("features.2.weight", &[3, 2], &[1.0, 0.0, 0.0, 1.0, -1.0, -1.0]),
        f64s("features.2.bias", &[3], &[0.0, 0.5, 1.0]),
        f64s("features.10.weight", &[1, 3], &[1.0, 2.0, 4.0]),
        f64s("features.10.bias", &[1], &[0.25]),
    ]
}

fn file(tensors: &Tensors, metadata: Option<&str>) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let metadata = metadata.map(|json| HashMap::from([("fisherflow.network".to_owned(), json.to_owned())]));
    safetensors::serialize(views, metadata).unwrap()
}

fn said(layers: &[&str]) -> Description {
    Description {
        layers: Some(layers.iter().map(|s| (*s).to_owned()).collect()),
        ..Description::default()
    }
}

fn read(tensors: &Tensors, said: &Description) -> Result<Network, NetworkError> {
    Network::from_safetensors(&file(tensors, None), said, F64)
}

fn refusal(tensors: &Tensors, said: &Description) -> String {
    read(tensors, said).unwrap_err().to_string()
}

fn labels_of(network: &Network, flux: &[f64]) -> Vec<f64> {
    network.forward(flux).unwrap().labels(network).unwrap()
}

const MLP: [&str; 3] = ["dense", "relu", "dense"];

#[test]
fn a_round_trip_keeps_every_bit() {
    for precision in [Precision::F32, Precision::F64] {
        let arithmetic = Arithmetic { precision, threads: 1 };
        let labels = Labels {
            names: vec!["teff".into(), "logg".into()],
            units: vec!["K".into(), String::new()],
            mean: vec![4700.0 / 3.0, 0.1 + 0.2],
            scale: vec![1e-300, std::f64::consts::PI],
        };
        let mean = [0.1, 0.7, 1.0 / 3.0];
        let activation = Activation::LeakyRelu { slope: 0.1 + 0.2 };
        let network =
            Network::he_normal(&[3, 5, 4, 2], activation, labels.clone(), &mean, &[0.3], 7, arithmetic).unwrap();
        let bytes = network.to_safetensors().unwrap();
        let again = Network::from_safetensors(&bytes, &Description::default(), arithmetic).unwrap();
        assert_eq!(again.to_safetensors().unwrap(), bytes);
        assert_eq!(again.labels(), &labels);
        assert_eq!((again.input_mean(), again.input_scale()), (&mean[..], &[0.3; 3][..]));
        assert_eq!(again.layer_specs(), network.layer_specs());
        assert_eq!(again.dense_layers(), network.dense_layers());
        let names: Vec<&str> = again.dense_layers().iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["layers.0", "layers.2", "layers.4"]);
        assert_eq!(
            (again.n_inputs(), again.n_labels(), again.n_weights()),
            (3, 2, 20 + 24 + 10)
        );
        let flux = [0.9, 1.1, 1.0, 0.2, 0.4, 0.6];
        assert_eq!(labels_of(&again, &flux), labels_of(&network, &flux));
    }
}

#[test]
fn a_bare_state_dict_is_read_in_natural_order() {
    let description = Description {
        input_mean: Some(vec![1.0]),
        input_scale: Some(vec![0.5, 2.0]),
        labels: Some(LabelsDescription {
            mean: Some(vec![100.0]),
            scale: Some(vec![10.0]),
            ..LabelsDescription::default()
        }),
        ..said(&MLP)
    };
    let network = read(&bare(), &description).unwrap();
    assert_eq!(network.labels().names, ["label_0"]);
    assert_eq!(network.dense_layers()[0].name, "features.2");
    // x = (2, -1): hidden relu(2, -0.5, 0) = (2, 0, 0), output 2.25
    assert_eq!(labels_of(&network, &[2.0, -1.0]), [122.5]);
}

#[test]
fn what_the_run_file_says_otherwise_than_the_file_is_refused() {
    let json = r#"{"version": 1, "layers": [{"kind": "dense", "name": "features.2"}, {"kind": "relu"},
        {"kind": "dense", "name": "features.10"}], "labels": {"names": ["teff"], "units": ["K"]}}"#;
    let mut tensors = bare();
    tensors.push(f64s("normalisation.label_scale", &[1], &[10.0]));
    tensors.push(f64s("normalisation.input_mean", &[2], &[0.5, 0.5]));
    tensors.push((
        "normalisation.input_scale",
        Dtype::F32,
        vec![2],
        [0.1f32, 0.2].iter().flat_map(|x| x.to_le_bytes()).collect(),
    ));
    let labels = LabelsDescription {
        mean: Some(vec![100.0]),
        ..LabelsDescription::default()
    };
    let description = Description {
        input_mean: Some(vec![0.5]),
        input_scale: Some(vec![0.1, 0.2]),
        labels: Some(LabelsDescription {
            names: Some(vec!["teff".into()]),
            units: Some(vec!["K".into()]),
            scale: Some(vec![10.0]),
            ..labels.clone()
        }),
        ..Description::default()
    };
    let of_labels = |labels| Description {
        labels: Some(labels),
        ..Description::default()
    };
    for (said, message) in [
        (
            Description {
                input_mean: Some(vec![0.25]),
                ..Description::default()
            },
            "the network file says its input_mean is [0.5, 0.5], the run file says 0.25; leave `input_mean` out of the run file",
        ),
        (
            Description {
                input_scale: Some(vec![0.1, 0.3]),
                ..Description::default()
            },
            "input_scale is [0.10000000149011612, 0.20000000298023224], the run file says [0.1, 0.3]; leave",
        ),
        (
            of_labels(LabelsDescription {
                names: Some(vec!["other".into()]),
                ..labels.clone()
            }),
            "the network file says its labels.names is [\"teff\"], the run file says [\"other\"]; leave `labels.names` out",
        ),
        (
            of_labels(LabelsDescription {
                units: Some(vec!["kK".into()]),
                ..labels.clone()
            }),
            "labels.units is [\"K\"], the run file says [\"kK\"]; leave",
        ),
        (
            of_labels(LabelsDescription {
                scale: Some(vec![3.0]),
                ..labels
            }),
            "labels.scale is 10.0, the run file says 3.0; leave",
        ),
    ] {
        let refused = Network::from_safetensors(&file(&tensors, Some(json)), &said, F64).unwrap_err();
        assert!(refused.to_string().contains(message), "{refused}");
    }
    let network = Network::from_safetensors(&file(&tensors, Some(json)), &description, F64).unwrap();
    assert_eq!(network.labels().names, ["teff"]);
    assert_eq!((network.labels().mean[0], network.labels().scale[0]), (100.0, 10.0));
    let disagreeing = Network::from_safetensors(&file(&tensors, Some(json)), &said(&["dense", "tanh", "dense"]), F64);
    let message = disagreeing.unwrap_err().to_string();
    assert!(
        message.contains(r#"["dense", "relu", "dense"]"#) && message.contains("tanh"),
        "{message}"
    );
    assert!(Network::from_safetensors(&file(&tensors, Some(json)), &said(&MLP), F64).is_ok());
}

#[test]
fn half_precision_weights_are_converted() {
    let mut tensors = bare();
    // 1.5 in f16 and in bf16
    tensors[1] = (
        "features.2.bias",
        Dtype::F16,
        vec![3],
        [0x3e00u16; 3].iter().flat_map(|b| b.to_le_bytes()).collect(),
    );
    tensors[3] = (
        "features.10.bias",
        Dtype::BF16,
        vec![1],
        0x3fc0u16.to_le_bytes().to_vec(),
    );
    let network = read(&tensors, &said(&MLP)).unwrap();
    let bias = |layer| network.dense_weights(layer).unwrap().1.unwrap();
    assert_eq!(
        (bias(0).dtype(), bias(0).to_vec1::<f64>().unwrap()),
        (DType::F64, vec![1.5; 3])
    );
    assert_eq!(bias(1).to_vec1::<f64>().unwrap(), [1.5]);
    tensors[3] = ("features.10.bias", Dtype::I32, vec![1], vec![0; 4]);
    assert_eq!(
        refusal(&tensors, &said(&MLP)),
        "tensor `features.10.bias` holds i32; weights must be f64, f32, f16 or bf16"
    );
}

#[test]
fn what_is_no_network_is_named() {
    for bytes in [
        &b""[..],
        b"PK\x03\x04 not a safetensors file",
        &file(&bare(), None)[..200],
    ] {
        let refused = Network::from_safetensors(bytes, &said(&MLP), F64).unwrap_err();
        assert!(matches!(refused, NetworkError::NotSafetensors { .. }), "{refused}");
    }
    assert!(matches!(
        read(&vec![], &Description::default()),
        Err(NetworkError::NoLayers)
    ));
    for (json, message) in [
        (
            "{}",
            "the file's metadata `fisherflow.network` is not a description of a network",
        ),
        (
            r#"{"version": 2}"#,
            "the file describes its network in version 2; this program knows version 1: update it",
        ),
        (
            r#"{"version": 1, "layers": [{"kind": "danse"}]}"#,
            "unknown layer `danse`; the nearest is `dense`",
        ),
        (
            r#"{"version": 1, "layers": [{"kind": "dense", "name": "features.1"}]}"#,
            "the network file has no tensor `features.1.weight`, and every dense or conv1d layer needs a weight; \
             the nearest is `features.10.weight`",
        ),
    ] {
        let refused = Network::from_safetensors(&file(&bare(), Some(json)), &Description::default(), F64);
        assert_eq!(refused.unwrap_err().to_string(), message);
    }
}

#[test]
fn what_a_description_says_beside_what_is_known_is_refused() {
    for (json, key) in [
        (
            r#"{"version": 1, "layers": [{"kind": "dense"}, {"kind": "relu"}, {"kind": "dense"}], "input_mean": [0.5]}"#,
            "`input_mean`",
        ),
        (
            r#"{"version": 1, "layers": [{"kind": "dense"}, {"kind": "elu", "alpha": 0.5}, {"kind": "dense"}]}"#,
            "`alpha`",
        ),
        (
            r#"{"version": 1, "layers": [{"kind": "conv1d", "stride": 2}, {"kind": "dense"}]}"#,
            "`stride`",
        ),
    ] {
        let refused = Network::from_safetensors(&file(&bare(), Some(json)), &Description::default(), F64);
        let Err(NetworkError::Metadata(source)) = refused else {
            panic!("{json}");
        };
        let said = source.to_string();
        assert!(said.starts_with(&format!("unknown field {key}, expected")), "{said}");
    }
}

#[test]
fn a_description_names_all_layers_with_weights_or_none_and_each_once() {
    let read = |tensors: &Tensors, layers: &str| {
        let json = format!(r#"{{"version": 1, "layers": [{layers}]}}"#);
        Network::from_safetensors(&file(tensors, Some(&json)), &Description::default(), F64)
    };
    let none = r#"{"kind": "dense"}, {"kind": "relu"}, {"kind": "dense"}"#;
    assert!(read(&bare(), none).is_ok());
    let some = r#"{"kind": "dense", "name": "features.10"}, {"kind": "relu", "name": "act"}, {"kind": "dense"}"#;
    assert_eq!(
        read(&bare(), some).unwrap_err().to_string(),
        "the network file's metadata names 1 of its 2 dense or conv1d layers: give each the name of its tensors, as in \
         {\"kind\": \"dense\", \"name\": \"layers.0\"}, or none"
    );
    let square = vec![
        f64s("a.weight", &[2, 2], &[1.0; 4]),
        f64s("b.weight", &[2, 2], &[2.0; 4]),
    ];
    let twice = r#"{"kind": "dense", "name": "a"}, {"kind": "dense", "name": "b"}, {"kind": "dense", "name": "a"}"#;
    assert_eq!(
        read(&square, twice).unwrap_err().to_string(),
        "the network file's metadata calls two layers `a`: layers that share their weights are not supported, give each a name and tensors of \
         its own"
    );
    // Names of activations say nothing of the order of layers whose names do not say it either.
    let of_activations =
        r#"{"kind": "dense"}, {"kind": "relu", "name": "x"}, {"kind": "tanh", "name": "y"}, {"kind": "dense"}"#;
    assert!(matches!(
        read(&square, of_activations),
        Err(NetworkError::LayerOrder { .. })
    ));
}

#[test]
fn missing_and_stray_tensors_are_named() {
    let mut tensors = bare();
    tensors.remove(0);
    assert_eq!(
        refusal(&tensors, &said(&["dense"])),
        "tensor `features.2.bias` [3] of the network file belongs to no dense or conv1d layer; other layers have no tensors here"
    );
    let mut tensors = bare();
    tensors.push(f64s("extra.scale", &[3], &[0.0; 3]));
    let message = refusal(&tensors, &said(&MLP));
    assert!(
        message.starts_with("tensor `extra.scale` [3] of the network file belongs to no dense or conv1d layer"),
        "{message}"
    );
}

#[test]
fn layers_that_normalise_are_named_whatever_the_layers_are_said_to_be() {
    let mut layer = bare();
    layer.push(f64s("features.3.weight", &[3], &[1.0; 3]));
    layer.push(f64s("features.3.bias", &[3], &[0.0; 3]));
    let mut batch = layer.clone();
    batch.push(f64s("features.3.running_mean", &[3], &[0.0; 3]));
    batch.push(f64s("features.3.running_var", &[3], &[1.0; 3]));
    batch.push(("features.3.num_batches_tracked", Dtype::I64, vec![], vec![0; 8]));
    let mut without_weight = bare();
    without_weight.push(f64s("features.3.running_mean", &[3], &[0.0; 3]));
    for description in [
        Description::default(),
        said(&MLP),
        said(&["dense", "relu", "dense", "relu", "dense"]),
    ] {
        assert_eq!(
            refusal(&batch, &description),
            "the network file holds features.3.bias [3], features.3.num_batches_tracked [], features.3.running_mean [3], \
             features.3.running_var [3], features.3.weight [3]: batch normalisation (running_mean is there): fold it into the layer before it, \
             or, behind an activation, into the one after; README.md, \"From Keras or torch\", says how"
        );
        let message = refusal(&layer, &description);
        assert!(
            message.starts_with(
                "the network file holds features.3.bias [3], features.3.weight [3]: a layer with a one-dimensional weight (layer \
                 normalisation?) is not supported"
            ),
            "{message}"
        );
        let message = refusal(&without_weight, &description);
        assert!(message.contains("batch normalisation"), "{message}");
    }
}

#[test]
fn layers_that_do_not_fit_are_named() {
    assert_eq!(
        refusal(&bare(), &Description::default()),
        "the network file does not say what lies between its 2 dense or conv1d layers (features.2, features.10): say so, as in \
         layers = [\"dense\", \"relu\", \"dense\"]"
    );
    assert_eq!(
        refusal(&bare(), &said(&["dense"])),
        "`layers` names 1 dense or conv1d layers, the network file holds 2: features.2, features.10"
    );
    assert!(refusal(&bare(), &said(&["dense", "rellu", "dense"])).contains("`relu`"));
    let mut tensors = bare();
    tensors[2] = f64s("features.10.weight", &[1, 5], &[1.0; 5]);
    assert_eq!(
        refusal(&tensors, &said(&MLP)),
        "layer `features.10` has 5 inputs, the layer before it (`features.2`) has 3 outputs"
    );
    let mut tensors = bare();
    tensors[1] = f64s("features.2.bias", &[2], &[1.0; 2]);
    assert_eq!(
        refusal(&tensors, &said(&MLP)),
        "tensor `features.2.bias` has shape [2], expected [3], the layer's outputs"
    );
    let mut tensors = bare();
    tensors[0] = f64s("features.2.weight", &[3, 2, 1], &[1.0; 6]);
    assert!(refusal(&tensors, &said(&MLP)).contains("expected [outputs, inputs]"));
}

#[test]
fn kernels_as_keras_has_them_are_told_to_be_transposed() {
    let hint = |tensors: &Tensors, layers: &[&str], found: &str, remedy: &str| {
        let message = refusal(tensors, &said(layers));
        assert!(message.starts_with(found), "{message}");
        assert!(message.ends_with(remedy), "{message}");
    };
    let transpose = "transpose it on export, as in numpy.ascontiguousarray(kernel.T)";
    let kernel = f64s("features.2.weight", &[2, 3], &[1.0, 0.0, -1.0, 0.0, 1.0, -1.0]);
    let mut tensors = bare();
    tensors[0] = kernel.clone();
    let found = "tensor `features.2.weight` has shape [2, 3] and looks transposed: it would fit as [3, 2]";
    hint(&tensors, &MLP, found, transpose);

    // Without biases the layer before tells.
    let tensors = vec![
        f64s("0.weight", &[3, 2], &[1.0; 6]),
        f64s("1.weight", &[3, 4], &[1.0; 12]),
    ];
    let found = "tensor `1.weight` has shape [3, 4] and looks transposed: it would fit as [4, 3]";
    hint(&tensors, &MLP, found, transpose);

    // [kernel, channels, output channels]
    let tensors = vec![
        f64s("0.weight", &[5, 1, 4], &[1.0; 20]),
        f64s("0.bias", &[4], &[1.0; 4]),
        f64s("1.weight", &[1, 24], &[1.0; 24]),
    ];
    let found = "tensor `0.weight` has shape [5, 1, 4] and looks transposed: it would fit as [4, 1, 5]";
    let layers = ["conv1d", "relu", "flatten(channels_last)", "dense"];
    hint(
        &tensors,
        &layers,
        found,
        "numpy.ascontiguousarray(kernel.transpose(2, 1, 0))",
    );
}

#[test]
fn a_file_of_any_tensors_is_listed_with_layers_that_would_fit() {
    let mut tensors = bare();
    tensors.push(("steps", Dtype::I64, vec![], vec![0; 8]));
    let listed = tensors_in(&file(&tensors, None)).unwrap();
    let names: Vec<&str> = listed.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "features.2.bias",
            "features.2.weight",
            "features.10.bias",
            "features.10.weight",
            "steps"
        ]
    );
    assert_eq!(
        (listed[1].dtype.as_str(), listed[1].shape.as_slice()),
        ("f64", &[3, 2][..])
    );
    assert_eq!((listed[4].dtype.as_str(), listed[4].shape.len()), ("i64", 0));
    let example = example_layers(&tensors_in(&file(&bare(), None)).unwrap()).unwrap();
    assert_eq!(read(&bare(), &said(&example)).unwrap().n_labels(), 1);
    assert!(matches!(tensors_in(b"PK"), Err(NetworkError::NotSafetensors { .. })));
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let mut tensors = bare();
    tensors[2] = f64s("features.10.weight", &[1, 3], &[1.0, f64::NAN, 0.0]);
    assert_eq!(
        refusal(&tensors, &said(&MLP)),
        "element 1 of tensor `features.10.weight` is not a finite number in f64"
    );
    tensors[2] = f64s("features.10.weight", &[1, 3], &[1.0, 0.0, 1e200]);
    assert!(read(&tensors, &said(&MLP)).is_ok());
    let narrow = Network::from_safetensors(&file(&tensors, None), &said(&MLP), Arithmetic::default());
    assert!(matches!(narrow, Err(NetworkError::NotFinite { index: 2, .. })));
}

#[test]
fn labels_and_normalisation_must_fit() {
    let description = Description {
        labels: Some(LabelsDescription {
            names: Some(vec!["a".into(), "b".into()]),
            ..LabelsDescription::default()
        }),
        ..said(&MLP)
    };
    assert_eq!(
        refusal(&bare(), &description),
        "2 label names given, the network has 1 outputs"
    );
    let description = Description {
        input_scale: Some(vec![1.0, 2.0, 3.0]),
        ..said(&MLP)
    };
    assert_eq!(
        refusal(&bare(), &description),
        "input_scale has 3 values, the network takes 2 (or a single one for all)"
    );
}

#[test]
fn written_files_carry_the_normalisation_as_f64() {
    let network = read(&bare(), &said(&MLP)).unwrap();
    let bytes = network.to_safetensors().unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let scale = tensors.tensor("normalisation.input_scale").unwrap();
    assert_eq!((scale.dtype(), scale.shape()), (Dtype::F64, &[2][..]));
}
