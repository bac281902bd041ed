//! Which instructions a product is made with.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::self_check::{Outcome, self_check};

/// A set of instructions, and how numbers are taken apart for them.
///
/// Among [`Path::EXACT`] the choice is one of speed alone: they give the same bits. The others have less than f32's accuracy, and bits of their own;
/// products of f64 are not touched by them, and those of [`Path::I16`] too are the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Fused multiply-adds one by one; on x86-64 by software, which is slow.
    Portable,
    /// AVX2 and FMA: x86-64 since 2013.
    Avx2,
    /// AVX-512F.
    Avx512,
    /// f32 as three products of bf16 on AVX512_BF16.
    Avx512Bf16x3,
    /// f32 as one product of bf16 on AVX512_BF16.
    Avx512Bf16,
    /// f32 as three products of bf16 on the tiles of AMX.
    AmxBf16x3,
    /// f32 as one product of bf16 on the tiles of AMX.
    AmxBf16,
    /// f32 as whole multiples of a unit to a row or column, 16 bits each: on AVX512_VNNI, AVX512_BW, AVX2 or portable, the same
    /// bits on all. A product of two matrices only; sums over rows have no such path.
    I16,
}

/// Why a path cannot be had.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// No path has that name.
    #[error("unknown kernel `{name}`; known are {}", list(&Path::ALL))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// This machine lacks the instructions.
    #[error("this machine's CPU, or its system, has no `{path}` instructions; it has {}", list(&Path::available()))]
    Missing {
        /// What was asked for.
        path: Path,
    },
    /// The instructions are there and give other numbers than they should.
    #[error(
        "kernel `{path}` failed its check on this machine: a product is off by {error:e} of its size, more than {bound:e}; it is not used"
    )]
    Wrong {
        /// What was asked for.
        path: Path,
        /// The largest error of the product that was tried, over the size of its terms.
        error: f64,
        /// What it may be.
        bound: f64,
    },
}

fn list(paths: &[Path]) -> String {
    let names: Vec<String> = paths.iter().map(|path| format!("`{path}`")).collect();
    names.join(", ")
}

impl Path {
    /// All paths.
    pub const ALL: [Self; 8] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Bf16x3,
        Self::Avx512Bf16,
        Self::AmxBf16x3,
        Self::AmxBf16,
        Self::I16,
    ];

    /// The paths of one and the same arithmetic, the slowest first.
    pub const EXACT: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Whether this machine has the instructions, and they give the numbers they should.
    #[must_use]
    pub fn is_available(self) -> bool {
        self.has_instructions() && !matches!(self.outcome(), Outcome::Wrong { .. })
    }

    fn has_instructions(self) -> bool {
        match self {
            Self::Portable | Self::I16 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16x3 | Self::Avx512Bf16 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AmxBf16x3 | Self::AmxBf16 => {
                static GRANTED: OnceLock<bool> = OnceLock::new();
                *GRANTED.get_or_init(amx::is_granted)
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// What a small product gave when it was first tried in this process.
    fn outcome(self) -> Outcome {
        static OUTCOMES: [OnceLock<Outcome>; Path::ALL.len()] = [const { OnceLock::new() }; Path::ALL.len()];
        *OUTCOMES[self as usize].get_or_init(|| self_check(self))
    }

    /// The fastest path of f32's own accuracy that this machine has.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        *BEST.get_or_init(|| {
            let fastest = Self::EXACT.into_iter().rev().find(|path| path.is_available());
            fastest.unwrap_or(Self::Portable)
        })
    }

    /// The fastest path of three products of bf16 that this machine has.
    ///
    /// # Errors
    /// It has none.
    pub fn bf16x3() -> Result<Self, PathError> {
        Self::AmxBf16x3.required().or_else(|_| Self::Avx512Bf16x3.required())
    }

    /// The fastest path of one product of bf16 that this machine has.
    ///
    /// # Errors
    /// It has none.
    pub fn bf16() -> Result<Self, PathError> {
        Self::AmxBf16.required().or_else(|_| Self::Avx512Bf16.required())
    }

    /// All paths that this machine has.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|path| path.is_available()).collect()
    }

    /// The path itself where this machine has it.
    ///
    /// # Errors
    /// [`PathError::Missing`] or [`PathError::Wrong`].
    pub fn required(self) -> Result<Self, PathError> {
        if !self.has_instructions() {
            return Err(PathError::Missing { path: self });
        }
        match self.outcome() {
            Outcome::Right => Ok(self),
            Outcome::Wrong { error, bound } => Err(PathError::Wrong {
                path: self,
                error,
                bound,
            }),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16x3 => "avx512_bf16x3",
            Self::Avx512Bf16 => "avx512_bf16",
            Self::AmxBf16x3 => "amx_bf16x3",
            Self::AmxBf16 => "amx_bf16",
            Self::I16 => "i16",
        })
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(name: &str) -> Result<Self, PathError> {
        Self::ALL
            .into_iter()
            .find(|path| path.to_string() == name)
            .ok_or_else(|| PathError::Unknown { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for path in Path::ALL {
            assert_eq!(path.to_string().parse::<Path>().unwrap(), path);
        }
        let said = "avx1024".parse::<Path>().unwrap_err().to_string();
        assert!(said.contains("`avx1024`") && said.contains("`avx512`"), "{said}");
    }

    #[test]
    fn the_best_path_is_there_and_no_later_one_is() {
        assert!(Path::best().is_available() && Path::best().required().is_ok());
        let after = Path::EXACT.into_iter().skip_while(|path| *path != Path::best()).skip(1);
        for path in after {
            let said = path.required().unwrap_err().to_string();
            assert!(
                said.contains(&path.to_string()) && said.contains("`portable`"),
                "{said}"
            );
        }
    }
}
