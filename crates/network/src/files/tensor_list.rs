//! What a safetensors file holds, whether it is a network or not, and which layers its weights suggest.

use ::safetensors::SafeTensors;

use crate::error::NetworkError;
use crate::files::natural_order::natural_order;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTensor {
    /// Its name.
    pub name: String,
    /// Type of its elements, as `f32`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The tensors of a file, in the natural order of their names.
///
/// # Errors
/// Bytes that are no safetensors file.
pub fn tensors_in(bytes: &[u8]) -> Result<Vec<ListedTensor>, NetworkError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| NetworkError::NotSafetensors {
        reason: error.to_string(),
    })?;
    let mut tensors: Vec<ListedTensor> = file
        .iter()
        .map(|(name, view)| ListedTensor {
            name: name.to_owned(),
            dtype: format!("{:?}", view.dtype()).to_lowercase(),
            shape: view.shape().to_vec(),
        })
        .collect();
    tensors.sort_by(|a, b| natural_order(&a.name, &b.name));
    Ok(tensors)
}

/// Names of layers for weights of these shapes: a dense layer for each matrix, a convolution for each `[out, in, kernel]`, `relu` between
/// them. Only an example: no file of tensors alone says its activations, strides, padding or pooling. `None` where a weight is neither, or
/// where a convolution stands behind a dense layer.
#[must_use]
pub fn example_layers(tensors: &[ListedTensor]) -> Option<Vec<&'static str>> {
    let ranks = tensors
        .iter()
        .filter(|tensor| tensor.name.ends_with(".weight"))
        .map(|tensor| tensor.shape.len());
    let (mut layers, mut before) = (Vec::new(), None);
    for rank in ranks {
        if before.is_some() {
            layers.push("relu");
        }
        match (before, rank) {
            (None | Some(2), 2) => layers.push("dense"),
            (Some(3), 2) => layers.extend(["flatten(channels_first)", "dense"]),
            (None | Some(3), 3) => layers.push("conv1d"),
            _ => return None,
        }
        before = Some(rank);
    }
    if before == Some(3) {
        layers.push("flatten(channels_first)");
    }
    before.map(|_| layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(shapes: &[&[usize]]) -> Option<String> {
        let tensors: Vec<ListedTensor> = shapes
            .iter()
            .enumerate()
            .map(|(i, shape)| ListedTensor {
                name: format!("{i}.weight"),
                dtype: "f32".to_owned(),
                shape: shape.to_vec(),
            })
            .collect();
        example_layers(&tensors).map(|layers| layers.join(" "))
    }

    #[test]
    fn weights_suggest_layers() {
        assert_eq!(layers(&[&[6, 30], &[3, 6]]).unwrap(), "dense relu dense");
        assert_eq!(
            layers(&[&[4, 1, 5], &[8, 4, 5], &[3, 80]]).unwrap(),
            "conv1d relu conv1d relu flatten(channels_first) dense"
        );
        assert_eq!(layers(&[&[4, 1, 5]]).unwrap(), "conv1d flatten(channels_first)");
        assert_eq!(layers(&[]), None);
        assert_eq!(layers(&[&[6]]), None, "a batch normalisation");
        assert_eq!(layers(&[&[6, 30], &[4, 1, 5]]), None);
    }
}
