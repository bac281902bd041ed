//! Networks as plain numbers, for tests that change them: permuted, folded, dead.

use std::collections::HashMap;
use std::path::Path;

use fisherflow_network::{METADATA_KEY, to_safetensors};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::network::LABELS;

/// Dense layers with one activation between them: `label = f((flux - input_mean) / input_scale) * label_scale + label_mean`.
#[derive(Clone, Debug)]
pub struct PlainNetwork {
    /// From the input on.
    pub layers: Vec<PlainLayer>,
    /// Between the layers, as `network.layers` names it.
    pub activation: &'static str,
    /// `[D]`, flux units.
    pub input_mean: Vec<f64>,
    /// `[D]`, flux units.
    pub input_scale: Vec<f64>,
    /// `[K]`, label units.
    pub label_mean: Vec<f64>,
    /// `[K]`, label units.
    pub label_scale: Vec<f64>,
}

/// A dense layer.
#[derive(Clone, Debug)]
pub struct PlainLayer {
    /// A row an output: its weights.
    pub weight: Vec<Vec<f64>>,
    /// A number an output.
    pub bias: Vec<f64>,
}

impl PlainNetwork {
    /// Weights drawn evenly, of variance 1 / inputs, and biases of half that size.
    #[must_use]
    pub fn random(widths: &[usize], activation: &'static str, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let layers = widths
            .windows(2)
            .map(|pair| {
                let size = (3.0 / pair[0] as f64).sqrt();
                let weight = (0..pair[1])
                    .map(|_| (0..pair[0]).map(|_| rng.random_range(-size..size)).collect())
                    .collect();
                let bias = (0..pair[1]).map(|_| 0.5 * rng.random_range(-size..size)).collect();
                PlainLayer { weight, bias }
            })
            .collect();
        Self {
            layers,
            activation,
            input_mean: vec![1.0; widths[0]],
            input_scale: vec![0.1; widths[0]],
            label_mean: vec![4600.0, 2.4, -0.85],
            label_scale: vec![520.0, 1.2, 0.78],
        }
    }

    /// Writes it as a file that describes itself, with the labels of the simulated spectra; the layers are `layers.0`, `layers.2`, ...
    ///
    /// # Panics
    /// It is no network, or cannot be written.
    pub fn write(&self, file: &Path) {
        let mut arrays: Vec<(String, Vec<usize>, Vec<f64>)> = Vec::new();
        let mut kinds = Vec::new();
        for (at, layer) in self.layers.iter().enumerate() {
            let name = format!("layers.{}", 2 * at);
            let (outputs, inputs) = (layer.weight.len(), layer.weight[0].len());
            arrays.push((format!("{name}.weight"), vec![outputs, inputs], layer.weight.concat()));
            arrays.push((format!("{name}.bias"), vec![outputs], layer.bias.clone()));
            if at > 0 {
                kinds.push(json!({ "kind": self.activation }));
            }
            kinds.push(json!({ "kind": "dense", "name": name }));
        }
        for (name, values) in [
            ("input_mean", &self.input_mean),
            ("input_scale", &self.input_scale),
            ("label_mean", &self.label_mean),
            ("label_scale", &self.label_scale),
        ] {
            arrays.push((format!("normalisation.{name}"), vec![values.len()], values.clone()));
        }
        let labels = json!({ "names": LABELS.map(|(name, _)| name), "units": LABELS.map(|(_, unit)| unit) });
        let description = json!({ "version": 1, "layers": kinds, "labels": labels });
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), description.to_string())]);
        let arrays = arrays
            .iter()
            .map(|(name, shape, values)| (name.as_str(), &shape[..], &values[..]));
        let bytes = to_safetensors(arrays, metadata).expect("a network as bytes");
        std::fs::write(file, bytes).expect("a file can be written");
    }
}
