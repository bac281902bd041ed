//! What is said about a network: by the run file, and by the network file in its own metadata.

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::labels::Labels;
use crate::layer_spec::{LayerSpec, listed};

/// The metadata key of a network file's own description, JSON.
pub const METADATA_KEY: &str = "fisherflow.network";

/// The newest version of that description.
const METADATA_VERSION: u64 = 1;

/// What the run file says about a network. The file's own description wins where both speak; layers must then agree.
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
pub(crate) struct FileDescription {
    pub version: u64,
    pub layers: Vec<FileLayer>,
    #[serde(default)]
    pub labels: LabelsDescription,
}

/// A layer as a network file describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileLayer {
    /// A name of [`LayerSpec`].
    pub kind: String,
    /// Of a dense layer: its tensors are `<name>.weight` and `<name>.bias`.
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
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u64,
}

/// The layers in order, each dense one with the name of its tensors.
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
        if let Some(said) = said
            && said != specs
        {
            return Err(NetworkError::LayersDisagree {
                file: listed(&specs),
                said: listed(&said),
            });
        }
        if file
            .layers
            .iter()
            .all(|layer| layer.name.is_some() || layer.kind != "dense")
        {
            return Ok(specs
                .into_iter()
                .zip(file.layers.iter().map(|layer| layer.name.clone()))
                .collect());
        }
        return with_names(specs, names_in_file);
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

/// Gives the dense layers the names of the file's tensors, both in order.
fn with_names(
    specs: Vec<LayerSpec>,
    names_in_file: Vec<String>,
) -> Result<Vec<(LayerSpec, Option<String>)>, NetworkError> {
    let n_dense = specs.iter().filter(|spec| matches!(spec, LayerSpec::Dense)).count();
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
        .map(|spec| match spec {
            LayerSpec::Dense => (spec, names.next()),
            LayerSpec::Activation(_) => (spec, None),
        })
        .collect())
}
