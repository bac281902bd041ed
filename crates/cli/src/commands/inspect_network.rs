//! A network: its layers, its labels, and what the flux goes through first. Of a file that does not describe one, as torch saves a state
//! dict: its tensors, and what the run file has to say.

use fisherflow_dataflow::RunError;
use fisherflow_network::{Arithmetic, Description, Network, NetworkError, example_layers, tensors_in};
use fisherflow_store::Stores;

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count, number};

/// What the network at `uri` is.
///
/// # Errors
/// It cannot be read, or is not what it says of itself.
pub fn page(stores: &Stores, uri: &str) -> Result<Page, CliError> {
    let content = stores.read(uri)?;
    let refused = |source| {
        let uri = uri.to_owned();
        CliError::from(RunError::NetworkFile { uri, source })
    };
    match read(&content, None) {
        Ok(network) => Ok(of_network(uri, &content, &network)),
        Err(NetworkError::LayersUnsaid { .. } | NetworkError::NoLayers) => {
            of_tensors(uri, &content, None).map_err(refused)
        }
        Err(error @ NetworkError::Normalisation { .. }) => {
            of_tensors(uri, &content, Some(error.to_string())).map_err(refused)
        }
        Err(source) => Err(refused(source)),
    }
}

fn read(content: &[u8], layers: Option<Vec<String>>) -> Result<Network, NetworkError> {
    let said = Description {
        layers,
        ..Description::default()
    };
    Network::from_safetensors(content, &said, Arithmetic::default())
}

/// Tensors without a description; `unusable`: what keeps them from being a network, where that is known.
fn of_tensors(uri: &str, content: &[u8], unusable: Option<String>) -> Result<Page, NetworkError> {
    let tensors = tensors_in(content)?;
    let mut page = Page::new();
    page.facts(&[
        ("network", format!("{uri}, {}", bytes(content.len() as u64))),
        (
            "tensors",
            format!("{}, without a description of the network", count(tensors.len() as u64)),
        ),
    ]);
    let mut grid = Grid::new(&["tensor", "type", "shape"]);
    for tensor in &tensors {
        let sides: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
        grid.row(vec![
            tensor.name.clone(),
            tensor.dtype.clone(),
            format!("[{}]", sides.join(", ")),
        ]);
    }
    page.gap().grid(&grid).gap();
    if let Some(why) = unusable {
        page.line(why);
        return Ok(page);
    }
    let Some(example) = example_layers(&tensors) else {
        page.line(
            "a run takes dense layers (`<layer>.weight` [outputs, inputs]) and convolutions (`<layer>.weight` [output channels, channels, kernel]), \
             each with or without `<layer>.bias`, and no other tensors: these do not make a network",
        );
        return Ok(page);
    };
    let layers: Vec<String> = example.iter().map(|layer| (*layer).to_owned()).collect();
    page.line("to run it, say in the run file what its layers are, in order, with the activations that it was trained with; for instance:")
        .gap()
        .line("    [network]")
        .line(format!("    uri = {uri:?}"))
        .line(format!("    layers = {}", in_open_order(&layers)))
        .gap();
    if layers.iter().any(|layer| layer.starts_with("flatten(")) {
        page.line("<order> is channels_first for a network from torch, channels_last for one from Keras: the file does not say")
            .gap();
    }
    page.line(match read(content, Some(layers)) {
            Ok(network) => format!(
                "these make a network of {} pixels to {} labels; input_mean, input_scale and [network.labels] mean, scale say how its flux and \
                 labels were normalised, where they were",
                count(network.n_inputs() as u64),
                network.n_labels()
            ),
            Err(error) => format!("but these tensors do not fit such layers: {error}"),
        });
    Ok(page)
}

/// Layers as an example shows them: a flatten layer's order, which no file of tensors says, is left for the reader to write.
fn in_open_order(layers: &[String]) -> String {
    format!("{layers:?}").replace("flatten(channels_first)", "flatten(<order>)")
}

/// A network that describes itself.
fn of_network(uri: &str, content: &[u8], network: &Network) -> Page {
    let mut page = Page::new();
    page.facts(&[
        ("network", format!("{uri}, {}", bytes(content.len() as u64))),
        (
            "weights",
            format!(
                "{}: {} pixels to {} labels",
                count(network.n_weights() as u64),
                count(network.n_inputs() as u64),
                network.n_labels()
            ),
        ),
        (
            "input",
            format!(
                "(flux - mean) / scale, mean {}, scale {}",
                range(network.input_mean()),
                range(network.input_scale())
            ),
        ),
    ]);
    page.gap().grid(&layers(network));
    page.gap().grid(&labels(network));
    page
}

/// A row a layer.
fn layers(network: &Network) -> Grid {
    let mut grid = Grid::new(&["layer", "kind", "inputs", "outputs", "weights"]);
    let mut dense = network.dense_layers().iter();
    for spec in network.layer_specs() {
        let shape = if spec.has_weights() { dense.next() } else { None };
        grid.row(match shape {
            Some(shape) => vec![
                shape.name.clone(),
                spec.to_string(),
                count(shape.inputs as u64),
                count(shape.outputs as u64),
                count(shape.n_weights() as u64),
            ],
            None => vec!["-".to_owned(), spec.to_string()],
        });
    }
    grid
}

/// A row a label.
fn labels(network: &Network) -> Grid {
    let labels = network.labels();
    let mut grid = Grid::new(&["label", "unit", "mean", "scale"]);
    for (i, name) in labels.names.iter().enumerate() {
        let value = |values: &[f64]| values.get(i).map_or_else(String::new, |x| number(*x));
        grid.row(vec![
            name.clone(),
            labels.units.get(i).cloned().unwrap_or_default(),
            value(&labels.mean),
            value(&labels.scale),
        ]);
    }
    grid
}

/// `0.5`, or `0.2 to 1.7`.
fn range(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low == high {
        number(low)
    } else {
        format!("{} to {}", number(low), number(high))
    }
}
