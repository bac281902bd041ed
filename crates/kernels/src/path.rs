//! Which instructions a product is made with.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// A set of instructions. The choice is one of speed alone: all give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Fused multiply-adds one by one; on x86-64 by software, which is slow.
    Portable,
    /// AVX2 and FMA: x86-64 since 2013.
    Avx2,
    /// AVX-512F.
    Avx512,
}

/// Why a path cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// No path has that name.
    #[error("unknown kernel `{name}`: one of `avx512`, `avx2` and `portable` is wanted")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// This machine lacks the instructions.
    #[error("this machine's CPU has no `{path}` instructions; the fastest kernel it has is `{best}`")]
    Missing {
        /// What was asked for.
        path: Path,
        /// What there is.
        best: Path,
    },
}

impl Path {
    /// All paths, the slowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Whether this machine has the instructions.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// The fastest path that this machine has.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        *BEST.get_or_init(|| {
            let available = Self::ALL.into_iter().filter(|path| path.is_available());
            available.last().unwrap_or(Self::Portable)
        })
    }

    /// The path itself where this machine has it.
    ///
    /// # Errors
    /// [`PathError::Missing`].
    pub fn required(self) -> Result<Self, PathError> {
        if self.is_available() {
            Ok(self)
        } else {
            Err(PathError::Missing {
                path: self,
                best: Self::best(),
            })
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
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
        let after = Path::ALL.into_iter().skip_while(|path| *path != Path::best()).skip(1);
        for path in after {
            let said = path.required().unwrap_err().to_string();
            assert!(said.contains(&path.to_string()), "{said}");
        }
    }
}
