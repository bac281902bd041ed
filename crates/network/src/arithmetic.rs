//! Which arithmetic the products run in, and on how many threads.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::nearest_name::nearest_name;

/// The arithmetic of the products; sums over spectra are in f64 whatever is chosen here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits: relative error near 1e-6.
    #[default]
    F32,
    /// 64 bits: for references and small networks.
    F64,
}

impl Precision {
    /// The tensors' element type.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}

impl FromStr for Precision {
    type Err = NetworkError;

    fn from_str(name: &str) -> Result<Self, NetworkError> {
        match name {
            "f32" => Ok(Self::F32),
            "f64" => Ok(Self::F64),
            _ => Err(NetworkError::UnknownPrecision {
                name: name.to_owned(),
                nearest: nearest_name(name, ["f32", "f64"]).to_owned(),
            }),
        }
    }
}

/// Precision and threads of the products. No result depends on `threads`, not by a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Arithmetic {
    /// Precision of the products.
    pub precision: Precision,
    /// Threads a product may use; 0 counts as 1.
    pub threads: usize,
}

impl Arithmetic {
    /// Where tensors live: the CPU.
    #[must_use]
    pub fn device(&self) -> Device {
        Device::Cpu
    }
}

impl Default for Arithmetic {
    fn default() -> Self {
        Self {
            precision: Precision::F32,
            threads: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for precision in [Precision::F32, Precision::F64] {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        let said = "f65".parse::<Precision>().unwrap_err().to_string();
        assert!(said.contains("f64"), "{said}");
    }
}
