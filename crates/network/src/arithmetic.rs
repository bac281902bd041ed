//! Which arithmetic the products run in, and on how many threads.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};
use fisherflow_kernels::{Path, Products};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::files::nearest_name::nearest_name;

/// The arithmetic of the products; sums over spectra are in f64 whatever is chosen here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits: relative error near 1e-6.
    F32,
    /// 64 bits: for references and small networks.
    F64,
    /// f32 as three products of bf16, in the first dense layer, in sums over spectra and in rotations: relative error near 5e-6. The layers after the
    /// first are in f32: their activations are large where a spectrum is unlike the others. Made to be faster than f32 on AMX; without AMX slower.
    Bf16x3,
    /// Backward passes as one product of bf16: relative error of a Jacobian near 2e-3. Forward passes, sums and rotations are as with `Bf16x3` on AMX,
    /// else as with `Auto`.
    Bf16,
    /// As `F32`, but inputs of a layer that has many are rotated under a Kronecker posterior as whole numbers of 16 bits: covariances within 1e-3 of those
    /// of `F32`, and the same bits on every machine.
    #[default]
    Auto,
}

/// All precisions by name.
const NAMES: [(&str, Precision); 5] = [
    ("f32", Precision::F32),
    ("f64", Precision::F64),
    ("bf16x3", Precision::Bf16x3),
    ("bf16", Precision::Bf16),
    ("auto", Precision::Auto),
];

impl Precision {
    /// The tensors' element type.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Bf16x3 | Self::Bf16 | Self::Auto => DType::F32,
            Self::F64 => DType::F64,
        }
    }

    /// The error of a product of the curvature and a vector, relative to the largest eigenvalue.
    #[must_use]
    pub fn relative_rounding(self) -> f64 {
        match self {
            Self::F32 | Self::Auto => 1e-6,
            Self::Bf16x3 => 1e-5,
            Self::Bf16 => 4e-3,
            Self::F64 => 1e-12,
        }
    }
}

impl Precision {
    /// The kernels of products forward and backward; of f32 and f64 the fastest, whose bits are the same on every machine.
    fn paths(self) -> (Path, Path) {
        match self {
            Self::F32 | Self::F64 | Self::Auto => (Path::best(), Path::best()),
            Self::Bf16x3 => {
                let path = Path::bf16x3().unwrap_or_else(|_| Path::best());
                (path, path)
            }
            Self::Bf16 => (fast_forward(), Path::bf16().unwrap_or_else(|_| Path::best())),
        }
    }

    /// What the bits of products depend on beside the numbers: of `f32`, `f64` and `auto` the same on every machine, else the kernels of bf16 that
    /// this one has.
    ///
    /// # Errors
    /// This machine has no kernel for it, or one that gives wrong numbers.
    pub fn kernel(self) -> Result<String, NetworkError> {
        let missing = |source| NetworkError::MissingKernel {
            precision: self,
            source,
        };
        match self {
            Self::F32 | Self::F64 => Ok(self.to_string()),
            Self::Auto => Ok(format!("f32, rotations {}", Path::I16.required().map_err(missing)?)),
            Self::Bf16x3 => Ok(format!(
                "{}, f32 after the first layer",
                Path::bf16x3().map_err(missing)?
            )),
            Self::Bf16 => {
                let backward = Path::bf16().map_err(missing)?;
                Ok(match Path::AmxBf16x3.required() {
                    Ok(path) => format!("{path}, forward f32 after the first layer, backward {backward}"),
                    Err(_) => format!("f32, backward {backward}, rotations {}", Path::I16),
                })
            }
        }
    }
}

/// The kernel of products forward where f32's accuracy is wanted at the highest speed.
fn fast_forward() -> Path {
    Path::AmxBf16x3.required().unwrap_or_else(|_| Path::best())
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.into_iter().find(|(_, precision)| precision == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for Precision {
    type Err = NetworkError;

    fn from_str(name: &str) -> Result<Self, NetworkError> {
        let known = NAMES.into_iter().find(|(known, _)| *known == name);
        known
            .map(|(_, precision)| precision)
            .ok_or_else(|| NetworkError::UnknownPrecision {
                name: name.to_owned(),
                nearest: nearest_name(name, NAMES.map(|(name, _)| name)),
            })
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
    /// How products forward are made.
    #[must_use]
    pub fn forward(&self) -> Products {
        self.on(self.precision.paths().0)
    }

    /// How products backward are made.
    #[must_use]
    pub fn backward(&self) -> Products {
        self.on(self.precision.paths().1)
    }

    /// How products of a dense layer after the first are made, forward and backward.
    pub(crate) fn after_the_first(&self) -> (Products, Products) {
        let backward = match self.precision {
            Precision::F32 | Precision::F64 | Precision::Bf16x3 | Precision::Auto => self.on(Path::best()),
            Precision::Bf16 => self.backward(),
        };
        (self.on(Path::best()), backward)
    }

    /// How products over spectra are made: like those forward.
    #[must_use]
    pub fn sums(&self) -> Products {
        self.forward()
    }

    /// How inputs are rotated into the eigenbasis of a Kronecker posterior. The errors of what comes out are computed for every star.
    #[must_use]
    pub fn rotations(&self) -> Products {
        self.on(match self.precision {
            Precision::F32 | Precision::F64 => Path::best(),
            Precision::Bf16x3 => Path::bf16x3().unwrap_or_else(|_| Path::best()),
            Precision::Bf16 => Path::AmxBf16x3.required().unwrap_or(Path::I16),
            Precision::Auto => Path::I16,
        })
    }

    fn on(&self, path: Path) -> Products {
        Products {
            path,
            threads: self.threads,
        }
    }

    /// Where tensors live: the CPU.
    #[must_use]
    pub fn device(&self) -> Device {
        Device::Cpu
    }
}

impl Default for Arithmetic {
    fn default() -> Self {
        Self {
            precision: Precision::default(),
            threads: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (_, precision) in NAMES {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        let said = "f65".parse::<Precision>().unwrap_err().to_string();
        assert!(said.contains("f64"), "{said}");
    }
}
