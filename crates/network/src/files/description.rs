//! What is said about a network: by the run file, and by the network file in its own metadata.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::labels::Labels;
use crate::layers::spec::{LayerSpec, listed};

/// The metadata key of a network file's own description, JSON.
pub const METADATA_KEY: &str = "fisherflow.network";

/// The newest version of that description.
const METADATA_VERSION: u64 = 1;

/// What the run file says about a network. Where the file speaks too, both must say the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Names of the layers, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// Subtracted from the flux: one value a pixel, or one for all. Flux units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_mean: Option<Vec<f64>>,
    /// What the flux is then divided by: one value a pixel, or one for all. Flux units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_scale: Option<Vec<f64>>,
    /// The labels, as far as they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsDescription>,
}

/// What is said about a network's labels, any part of which may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelsDescription {
    /// Names; left out: `label_0`, `label_1`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Units; left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<Vec<String>>,
    /// Mean of each label, in its unit; left out: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Scale of each label, in its unit; left out: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Vec<f64>>,
}

impl LabelsDescription {
    /// What is said here, and for the rest what `other` says.
    pub(crate) fn or(self, other: Option<&LabelsDescription>) -> Self {
        let other = other.cloned().unwrap_or_default();
        Self {
            names: self.names.or(other.names),
            units: self.units.or(other.units),
            mean: self.mean.or(other.mean),
            scale: self.scale.or(other.scale),
        }
    }

    /// Refuses labels that the run file says otherwise.
    pub(crate) fn refuse_another(&self, said: Option<&LabelsDescription>) -> Result<(), NetworkError> {
        let Some(said) = said else { return Ok(()) };
        refuse_others("labels.names", self.names.as_deref(), said.names.as_deref())?;
        refuse_others("labels.units", self.units.as_deref(), said.units.as_deref())?;
        for (key, file, said) in [
            ("labels.mean", &self.mean, &said.mean),
            ("labels.scale", &self.scale, &said.scale),
        ] {
            // One number is not for all labels.
            if file.as_ref().map(Vec::len) == said.as_ref().map(Vec::len) {
                refuse_other_numbers(key, file.as_deref(), said.as_deref())?;
            } else {
                refuse_others(key, file.as_deref(), said.as_deref())?;
            }
        }
        Ok(())
    }

    /// The labels of `outputs` outputs, with the defaults filled in.
    pub(crate) fn resolve(self, outputs: usize) -> Result<Labels, NetworkError> {
        let labels = Labels {
            names: self
                .names
                .unwrap_or_else(|| (0..outputs).map(|k| format!("label_{k}")).collect()),
            units: self.units.unwrap_or_else(|| vec![String::new(); outputs]),
            mean: self.mean.unwrap_or_else(|| vec![0.0; outputs]),
            scale: self.scale.unwrap_or_else(|| vec![1.0; outputs]),
        };
        labels.check(outputs)?;
        Ok(labels)
    }
}

/// A network file's own description, the JSON under [`METADATA_KEY`].
///
/// Means and scales are tensors of the file (`normalisation.*`, f64), because JSON does not keep every bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileDescription {
    pub version: u64,
    pub layers: Vec<FileLayer>,
    #[serde(default)]
    pub labels: LabelsDescription,
}

/// A layer as a network file describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileLayer {
    /// A name of [`LayerSpec`].
    pub kind: String,
    /// Of a layer with weights: its tensors are `<name>.weight` and, where it has a bias, `<name>.bias`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl FileDescription {
    pub fn new(layers: Vec<FileLayer>, labels: &Labels) -> Self {
        Self {
            version: METADATA_VERSION,
            layers,
            labels: LabelsDescription {
                names: Some(labels.names.clone()),
                units: Some(labels.units.clone()),
                mean: None,
                scale: None,
            },
        }
    }

    pub fn parse(json: &str) -> Result<Self, NetworkError> {
        let version = serde_json::from_str::<VersionOnly>(json)
            .map_err(NetworkError::Metadata)?
            .version;
        if version != METADATA_VERSION {
            return Err(NetworkError::MetadataVersion {
                found: version,
                known: METADATA_VERSION,
            });
        }
        serde_json::from_str(json).map_err(NetworkError::Metadata)
    }

    /// Whether the layers with weights are named: all of them, where [`resolve_layers`] takes them.
    pub fn is_named(&self) -> bool {
        let has_weights = |kind: &str| kind.parse::<LayerSpec>().is_ok_and(|spec| spec.has_weights());
        let mut layers = self.layers.iter();
        layers.any(|layer| layer.name.is_some() && has_weights(&layer.kind))
    }
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u64,
}

/// The layers in order, each that has weights with the name of its tensors.
pub(crate) fn resolve_layers(
    file: Option<&FileDescription>,
    said: Option<&[String]>,
    names_in_file: Vec<String>,
) -> Result<Vec<(LayerSpec, Option<String>)>, NetworkError> {
    let said: Option<Vec<LayerSpec>> = said
        .map(|names| names.iter().map(|name| name.parse()).collect())
        .transpose()?;
    if let Some(file) = file {
        let specs: Vec<LayerSpec> = file
            .layers
            .iter()
            .map(|layer| layer.kind.parse())
            .collect::<Result<_, _>>()?;
        let mut layers: Vec<(LayerSpec, Option<String>)> = specs
            .iter()
            .zip(&file.layers)
            .map(|(spec, layer)| (*spec, layer.name.clone().filter(|_| spec.has_weights())))
            .collect();
        refuse_names(&layers)?;
        if layers.iter().all(|(_, name)| name.is_none()) {
            layers = with_names(specs.clone(), names_in_file)?;
        }
        if let Some(said) = said {
            let (file_input, file_rest) = input_and_rest(&specs);
            let (said_input, said_rest) = input_and_rest(&said);
            if file_rest != said_rest || file_input.and(said_input).is_some() && file_input != said_input {
                return Err(NetworkError::LayersDisagree {
                    file: listed(&specs),
                    said: listed(&said),
                });
            }
            if let (None, Some(input)) = (file_input, said_input) {
                layers.insert(0, (input, None));
            }
        }
        return Ok(layers);
    }
    match said {
        Some(specs) => with_names(specs, names_in_file),
        None if names_in_file.is_empty() => Err(NetworkError::NoLayers),
        None => Err(NetworkError::LayersUnsaid {
            n_dense: names_in_file.len(),
            names: names_in_file.join(", "),
        }),
    }
}

/// Numbers that a message lists, at most.
const LISTED: usize = 8;

/// Refuses numbers of the run file that are not those of the network file. One for all is as many as are wanted, and a file in f32 has the
/// numbers that f32 has.
pub(crate) fn refuse_other_numbers(
    key: &'static str,
    file: Option<&[f64]>,
    said: Option<&[f64]>,
) -> Result<(), NetworkError> {
    let (Some(file), Some(said)) = (file, said) else {
        return Ok(());
    };
    let n = file.len().max(said.len());
    let at = |values: &[f64], i: usize| match values {
        [one] => Some(*one),
        many => many.get(i).copied(),
    };
    let is_other = |i: &usize| match (at(file, *i), at(said, *i)) {
        (Some(a), Some(b)) => a != b && a as f32 != b as f32,
        _ => true,
    };
    let Some(i) = (0..n).find(is_other) else {
        return Ok(());
    };
    let words = |values: &[f64]| match (values, values.get(i)) {
        ([one], _) => format!("{one:?}"),
        (many, Some(value)) if many.len() > LISTED => format!("{value:?} at {i} of {}", many.len()),
        (many, _) if many.len() > LISTED => format!("{} numbers", many.len()),
        (few, _) => format!("{few:?}"),
    };
    Err(NetworkError::Disagree {
        key,
        file: words(file),
        said: words(said),
    })
}

/// Refuses what the run file says and the network file says otherwise.
fn refuse_others<T: PartialEq + Debug>(
    key: &'static str,
    file: Option<&[T]>,
    said: Option<&[T]>,
) -> Result<(), NetworkError> {
    match (file, said) {
        (Some(file), Some(said)) if file != said => Err(NetworkError::Disagree {
            key,
            file: format!("{file:?}"),
            said: format!("{said:?}"),
        }),
        _ => Ok(()),
    }
}

/// The number of pixels that heads a list of layers, and the layers behind it.
fn input_and_rest(specs: &[LayerSpec]) -> (Option<LayerSpec>, &[LayerSpec]) {
    match specs {
        [input @ LayerSpec::Input { .. }, rest @ ..] => (Some(*input), rest),
        _ => (None, specs),
    }
}

/// Refuses names of some layers with weights and not of the others, and one name for two of them.
fn refuse_names(layers: &[(LayerSpec, Option<String>)]) -> Result<(), NetworkError> {
    let names: Vec<&String> = layers.iter().filter_map(|(_, name)| name.as_ref()).collect();
    let with_weights = layers.iter().filter(|(spec, _)| spec.has_weights()).count();
    if !names.is_empty() && names.len() < with_weights {
        return Err(NetworkError::LayersPartlyNamed {
            named: names.len(),
            with_weights,
        });
    }
    let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
    match twice {
        None => Ok(()),
        Some((_, name)) => Err(NetworkError::LayerTwice { name: (*name).clone() }),
    }
}

/// Gives the layers with weights the names of the file's tensors, both in order.
fn with_names(
    specs: Vec<LayerSpec>,
    names_in_file: Vec<String>,
) -> Result<Vec<(LayerSpec, Option<String>)>, NetworkError> {
    let n_dense = specs.iter().filter(|spec| spec.has_weights()).count();
    if n_dense != names_in_file.len() {
        return Err(NetworkError::DenseCount {
            said: n_dense,
            found: names_in_file.len(),
            names: names_in_file.join(", "),
        });
    }
    let mut names = names_in_file.into_iter();
    Ok(specs
        .into_iter()
        .map(|spec| (spec, if spec.has_weights() { names.next() } else { None }))
        .collect())
}
