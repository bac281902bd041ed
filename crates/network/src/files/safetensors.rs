//! Networks from and to safetensors files.
//!
//! A dense layer is `<name>.weight` `[out, in]` and `<name>.bias` `[out]`, a convolution `<name>.weight` `[out channels, channels, kernel]`
//! and `<name>.bias` `[out channels]`, as torch has them; a layer whose bias is not there has none. The normalisation is
//! `normalisation.input_mean`, `.input_scale` `[D]` (or one value), `.label_mean`, `.label_scale` `[K]`, f64. The layers' order and kinds
//! are the metadata entry `fisherflow.network`; a file without it (a bare state dict) has its layers in the natural order of their names,
//! and their kinds said by [`Description`].

use std::collections::{HashMap, HashSet};

use ::safetensors::tensor::{Metadata, TensorView};
use ::safetensors::{Dtype, SafeTensors};
use candle_core::{DType, Tensor};

use crate::arithmetic::Arithmetic;
use crate::error::NetworkError;
use crate::files::description::{
    Description, FileDescription, FileLayer, LabelsDescription, METADATA_KEY, refuse_other_numbers, resolve_layers,
};
use crate::files::layer_order::another_order;
use crate::files::natural_order::natural_order;
use crate::files::nearest_name::nearest_name;
use crate::layers::chain::Weights;
use crate::layers::spec::LayerSpec;
use crate::network::{Layer, Network};

const INPUT_MEAN: &str = "normalisation.input_mean";
const INPUT_SCALE: &str = "normalisation.input_scale";
const LABEL_MEAN: &str = "normalisation.label_mean";
const LABEL_SCALE: &str = "normalisation.label_scale";

/// Tensors that a message lists, at most.
const LISTED: usize = 10;
const BATCH_NORMALISATION: &str = "batch normalisation (running_mean is there): fold it into the layer before it, or, behind an activation, into \
                                   the one after; README.md, \"From Keras or torch\", says how";
const ONE_DIMENSIONAL: &str = "a layer with a one-dimensional weight (layer normalisation?) is not supported: a dense layer's is [outputs, \
                               inputs], a convolution's [output channels, channels, kernel]; train the network without it";

impl Network {
    /// The network of a safetensors file; `said` is what the run file adds.
    ///
    /// # Errors
    /// Bytes that are no safetensors file, tensors that are missing, stray, of another shape or not finite, layers that are unknown, unsaid
    /// or do not fit each other, labels and normalisation that do not fit the network.
    pub fn from_safetensors(bytes: &[u8], said: &Description, arithmetic: Arithmetic) -> Result<Self, NetworkError> {
        let not_safetensors = |error: ::safetensors::SafeTensorError| NetworkError::NotSafetensors {
            reason: error.to_string(),
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(not_safetensors)?;
        let file = TensorFile {
            tensors: SafeTensors::deserialize(bytes).map_err(not_safetensors)?,
            arithmetic,
        };
        let description = own_description(&metadata)?;
        file.refuse_normalisations()?;
        let layers = resolve_layers(description.as_ref(), said.layers.as_deref(), file.layer_names())?;
        let specs: Vec<LayerSpec> = layers.iter().map(|(spec, _)| *spec).collect();
        let mut weights = Vec::new();
        for name in layers.into_iter().filter_map(|(_, name)| name) {
            weights.push(file.weights(name)?);
        }
        file.refuse_strays(&weights)?;
        if !description.as_ref().is_some_and(FileDescription::is_named) {
            refuse_doubtful_order(&weights)?;
        }

        let own = LabelsDescription {
            mean: file.numbers(LABEL_MEAN)?,
            scale: file.numbers(LABEL_SCALE)?,
            ..LabelsDescription::default()
        };
        let own = own.or(description.as_ref().map(|description| &description.labels));
        let input_mean = file.numbers(INPUT_MEAN)?;
        let input_scale = file.numbers(INPUT_SCALE)?;
        refuse_other_numbers("input_mean", input_mean.as_deref(), said.input_mean.as_deref())?;
        refuse_other_numbers("input_scale", input_scale.as_deref(), said.input_scale.as_deref())?;
        own.refuse_another(said.labels.as_ref())?;
        let labels = own.or(said.labels.as_ref());
        let input_mean = input_mean.or_else(|| said.input_mean.clone());
        let input_scale = input_scale.or_else(|| said.input_scale.clone());
        Self::assemble(
            &specs,
            weights,
            |outputs| labels.resolve(outputs),
            &input_mean.unwrap_or_else(|| vec![0.0]),
            &input_scale.unwrap_or_else(|| vec![1.0]),
            arithmetic,
        )
    }

    /// The network as a safetensors file that describes itself; weights in the arithmetic's type. Read back, it is the same network, bit
    /// for bit.
    ///
    /// # Errors
    /// Only where the device refuses the copy.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, NetworkError> {
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        let mut names = self.shapes.iter().map(|shape| &shape.name);
        for layer in &self.layers {
            let (dense, weight) = match layer {
                Layer::Dense(dense) => (dense, dense.weight.clone()),
                Layer::Conv1d(conv) => {
                    let (out_channels, _) = conv.dense.weight.dims2()?;
                    let shape = (out_channels, conv.channels, conv.window.size);
                    (&conv.dense, conv.dense.weight.reshape(shape)?)
                }
                Layer::Pool1d(_) | Layer::Flatten(_) | Layer::Activation(_) => continue,
            };
            let Some(name) = names.next() else { break };
            tensors.push((format!("{name}.weight"), weight));
            tensors.extend(dense.bias.iter().map(|bias| (format!("{name}.bias"), bias.clone())));
        }
        for (name, values) in [
            (INPUT_MEAN, self.input_mean()),
            (INPUT_SCALE, self.input_scale()),
            (LABEL_MEAN, &self.labels.mean),
            (LABEL_SCALE, &self.labels.scale),
        ] {
            let tensor = Tensor::from_slice(values, values.len(), &candle_core::Device::Cpu)?;
            tensors.push((name.to_owned(), tensor));
        }
        let mut names = self.shapes.iter().map(|shape| shape.name.clone());
        let layers = self
            .layer_specs()
            .iter()
            .map(|spec| FileLayer {
                kind: spec.to_string(),
                name: if spec.has_weights() { names.next() } else { None },
            })
            .collect();
        let description = FileDescription::new(layers, &self.labels);
        let json = serde_json::to_string(&description).map_err(NetworkError::WriteMetadata)?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        ::safetensors::serialize(tensors, Some(metadata)).map_err(NetworkError::Write)
    }
}

/// The file's own description, where it has one.
fn own_description(metadata: &Metadata) -> Result<Option<FileDescription>, NetworkError> {
    let entry = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(METADATA_KEY));
    entry.map(|json| FileDescription::parse(json)).transpose()
}

/// Refuses layers that fit each other in another order than that of their names, which do not say it by numbers.
fn refuse_doubtful_order(weights: &[Weights]) -> Result<(), NetworkError> {
    let layers: Vec<_> = weights.iter().map(|of| (of.name.as_str(), of.weight.dims())).collect();
    let Some(other) = another_order(&layers) else {
        return Ok(());
    };
    let taken: Vec<&str> = layers.iter().map(|(name, _)| *name).collect();
    Err(NetworkError::LayerOrder {
        taken: taken.join(", "),
        other: other.join(", "),
    })
}

/// The tensors of a file, and the type they are wanted in.
struct TensorFile<'a> {
    tensors: SafeTensors<'a>,
    arithmetic: Arithmetic,
}

impl TensorFile<'_> {
    /// Names of the layers with weights, in natural order.
    fn layer_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .tensors
            .names()
            .into_iter()
            .filter_map(|name| name.strip_suffix(".weight"))
            .map(str::to_owned)
            .collect();
        names.sort_by(|a, b| natural_order(a, b));
        names
    }

    /// Refuses layers that normalise, by their tensors: a weight of one dimension, or a running mean.
    fn refuse_normalisations(&self) -> Result<(), NetworkError> {
        let layer_of = |name: &str| {
            let (layer, part) = name.rsplit_once('.').unwrap_or(("", name));
            (layer.to_owned(), part.to_owned())
        };
        let tensors: Vec<(&str, Vec<usize>)> = self
            .tensors
            .iter()
            .map(|(name, view)| (name, view.shape().to_vec()))
            .collect();
        let of = |wanted: fn(&str, &[usize]) -> bool| -> HashSet<String> {
            let named = tensors.iter().map(|(name, shape)| (layer_of(name), shape));
            named
                .filter(|((_, part), shape)| wanted(part, shape))
                .map(|((layer, _), _)| layer)
                .collect()
        };
        let of_batches = of(|part, _| part == "running_mean");
        let one_dimensional = of(|part, shape| part == "weight" && shape.len() == 1);
        let (layers, what) = if !of_batches.is_empty() {
            (of_batches, BATCH_NORMALISATION)
        } else if !one_dimensional.is_empty() {
            (one_dimensional, ONE_DIMENSIONAL)
        } else {
            return Ok(());
        };
        let mut listed: Vec<&(&str, Vec<usize>)> = tensors
            .iter()
            .filter(|(name, _)| layers.contains(&layer_of(name).0))
            .collect();
        listed.sort_by(|a, b| natural_order(a.0, b.0));
        let mut words: Vec<String> = listed
            .iter()
            .take(LISTED)
            .map(|(name, shape)| format!("{name} {shape:?}"))
            .collect();
        if listed.len() > LISTED {
            words.push(format!("and {} more", listed.len() - LISTED));
        }
        Err(NetworkError::Normalisation {
            tensors: words.join(", "),
            what,
        })
    }

    fn view(&self, name: &str) -> Result<TensorView<'_>, NetworkError> {
        self.tensors.tensor(name).map_err(|_| NetworkError::MissingTensor {
            name: name.to_owned(),
            nearest: {
                let mut names = self.tensors.names();
                names.sort_unstable();
                nearest_name(name, names)
            },
        })
    }

    /// A tensor converted to `dtype`, all its elements finite.
    fn tensor(&self, name: &str, dtype: DType) -> Result<Tensor, NetworkError> {
        let view = self.view(name)?;
        let stored = match view.dtype() {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(NetworkError::TensorType {
                    name: name.to_owned(),
                    dtype: format!("{other:?}").to_lowercase(),
                });
            }
        };
        let tensor = Tensor::from_raw_buffer(view.data(), stored, view.shape(), &self.arithmetic.device())?;
        let tensor = tensor.to_dtype(dtype)?;
        let bad = match dtype {
            DType::F32 => tensor
                .flatten_all()?
                .to_vec1::<f32>()?
                .iter()
                .position(|v| !v.is_finite()),
            _ => tensor
                .flatten_all()?
                .to_vec1::<f64>()?
                .iter()
                .position(|v| !v.is_finite()),
        };
        match bad {
            None => Ok(tensor),
            Some(index) => Err(NetworkError::NotFinite {
                name: name.to_owned(),
                index,
                precision: format!("{dtype:?}").to_lowercase(),
            }),
        }
    }

    /// The tensors of a layer, the bias where the file has one.
    fn weights(&self, name: String) -> Result<Weights, NetworkError> {
        let dtype = self.arithmetic.precision.dtype();
        let bias = format!("{name}.bias");
        let bias = self.tensors.tensor(&bias).is_ok().then(|| self.tensor(&bias, dtype));
        Ok(Weights {
            weight: self.tensor(&format!("{name}.weight"), dtype)?,
            bias: bias.transpose()?,
            name,
        })
    }

    /// The f64 values of a tensor that may be left out.
    fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>, NetworkError> {
        if self.tensors.tensor(name).is_err() {
            return Ok(None);
        }
        let tensor = self.tensor(name, DType::F64)?;
        Ok(Some(tensor.flatten_all()?.to_vec1()?))
    }

    /// Refuses tensors that no layer uses: a network that is more than its layers would be computed wrongly.
    fn refuse_strays(&self, weights: &[Weights]) -> Result<(), NetworkError> {
        let mut names = self.tensors.names();
        names.sort_unstable();
        for name in names {
            let of_a_layer = |suffix: &str| {
                name.strip_suffix(suffix)
                    .is_some_and(|layer| weights.iter().any(|known| known.name == layer))
            };
            let known = [INPUT_MEAN, INPUT_SCALE, LABEL_MEAN, LABEL_SCALE].contains(&name);
            if !(known || of_a_layer(".weight") || of_a_layer(".bias")) {
                return Err(NetworkError::StrayTensor {
                    name: name.to_owned(),
                    shape: self.view(name)?.shape().to_vec(),
                });
            }
        }
        Ok(())
    }
}
