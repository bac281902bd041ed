//! Named arrays of doubles as the bytes of a safetensors file.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use crate::error::NetworkError;

/// The bytes of a safetensors file with these arrays (name, shape, values row-major) in f64, and with this metadata.
///
/// # Errors
/// An array whose values do not fit its shape, or a metadata too large for the format.
pub fn to_safetensors<'a>(
    arrays: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f64])>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, NetworkError> {
    let tensors = arrays
        .into_iter()
        .map(|(name, shape, values)| Ok((name, Tensor::from_slice(values, shape, &Device::Cpu)?)))
        .collect::<Result<Vec<_>, NetworkError>>()?;
    ::safetensors::serialize(tensors, Some(metadata)).map_err(NetworkError::Write)
}

#[cfg(test)]
mod tests {
    use ::safetensors::{Dtype, SafeTensors};

    use super::*;

    #[test]
    fn arrays_are_read_back_as_written() {
        let (a, b) = ([1.0, 2.5, -3.0, 0.1, f64::MIN_POSITIVE, 6.0], [7.0]);
        let metadata = HashMap::from([("loss".to_owned(), "sum".to_owned())]);
        let bytes = to_safetensors([("a", &[2, 3][..], &a[..]), ("b", &[1], &b)], metadata).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("a").unwrap();
        assert_eq!((view.dtype(), view.shape()), (Dtype::F64, &[2, 3][..]));
        let written: Vec<u8> = a.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(view.data(), written);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["loss"], "sum");
        assert!(to_safetensors([("a", &[7][..], &a[..])], HashMap::new()).is_err());
    }
}
