//! A network: its layers, its labels, and what the flux goes through first.

use fisherflow_dataflow::RunError;
use fisherflow_network::{Arithmetic, Description, Network};
use fisherflow_store::Stores;

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count, number};

/// What the network at `uri` is.
///
/// # Errors
/// It cannot be read, or does not describe itself.
pub fn page(stores: &Stores, uri: &str) -> Result<Page, CliError> {
    let content = stores.read(uri)?;
    let network =
        Network::from_safetensors(&content, &Description::default(), Arithmetic::default()).map_err(|source| {
            RunError::NetworkFile {
                uri: uri.to_owned(),
                source,
            }
        })?;
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
    page.gap().grid(&layers(&network));
    page.gap().grid(&labels(&network));
    Ok(page)
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
