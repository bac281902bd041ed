//! Which matrix of a block is which: one name a factor, in files and in errors.

use std::fmt;
use std::str::FromStr;

use fisherflow_curvature::Matrix;
use serde::{Deserialize, Serialize};

use crate::PosteriorError;

/// Which matrix of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// The block itself, `[p, p]`.
    Dense,
    /// `S_A`, `[columns, columns]`.
    KronA,
    /// `S_G`, `[out, out]`.
    KronG,
    /// Eigenvectors of `S_A`, one a column.
    AEigenvectors,
    /// Eigenvalues of `S_A`, ascending, `[1, columns]`.
    AEigenvalues,
    /// Eigenvectors of `S_G`, one a column.
    GEigenvectors,
    /// Eigenvalues of `S_G`, ascending, `[1, out]`.
    GEigenvalues,
    /// Eigenvalues of H: corrected ones in the eigenbases of `S_G` and `S_A`, `[out, columns]`; leading ones, descending, `[1, rank]`.
    Eigenvalues,
    /// A diagonal as `[out, columns]`; over several layers `[1, p]`.
    Diagonal,
    /// A layer's inputs of the training spectra, `[N, in]`.
    Inputs,
    /// A layer's whitened gradients of the training spectra, `[N K, out]`.
    Gradients,
    /// `Q = J J^T`, `[K N, K N]`; never written.
    Gram,
    /// The Cholesky factor of `Q + delta I`, `[K N, K N]`, lower triangular.
    GramCholesky,
    /// Leading eigenvectors of H, one a column, `[p, rank]`.
    Eigenvectors,
    /// `|H u - lambda u|` of each, `[1, rank]`.
    Residuals,
    /// Z of `P^-1 = D^-1 - Z Z^T`, `[p, rank]`.
    LowRank,
}

impl Factor {
    /// Every factor there is.
    pub const ALL: [Self; 16] = [
        Self::Dense,
        Self::KronA,
        Self::KronG,
        Self::AEigenvectors,
        Self::AEigenvalues,
        Self::GEigenvectors,
        Self::GEigenvalues,
        Self::Eigenvalues,
        Self::Diagonal,
        Self::Inputs,
        Self::Gradients,
        Self::Gram,
        Self::GramCholesky,
        Self::Eigenvectors,
        Self::Residuals,
        Self::LowRank,
    ];

    /// The name in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::KronA => "kron_a",
            Self::KronG => "kron_g",
            Self::AEigenvectors => "a_eigenvectors",
            Self::AEigenvalues => "a_eigenvalues",
            Self::GEigenvectors => "g_eigenvectors",
            Self::GEigenvalues => "g_eigenvalues",
            Self::Eigenvalues => "eigenvalues",
            Self::Diagonal => "diagonal",
            Self::Inputs => "inputs",
            Self::Gradients => "gradients",
            Self::Gram => "gram",
            Self::GramCholesky => "gram_cholesky",
            Self::Eigenvectors => "eigenvectors",
            Self::Residuals => "residuals",
            Self::LowRank => "low_rank",
        }
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Factor {
    type Err = PosteriorError;

    fn from_str(name: &str) -> Result<Self, PosteriorError> {
        Self::ALL
            .into_iter()
            .find(|factor| factor.as_str() == name)
            .ok_or_else(|| PosteriorError::UnknownFactor {
                name: name.to_owned(),
                known: Self::ALL.map(Self::as_str).join(", "),
            })
    }
}

/// One matrix of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedMatrix<M = Matrix> {
    /// The layer's name; a full block's is its layers' names joined by `+`.
    pub layer: String,
    /// Which matrix it is.
    pub factor: Factor,
    /// Its numbers.
    pub matrix: M,
}

impl<M> NamedMatrix<M> {
    pub(crate) fn new(layer: &str, factor: Factor, matrix: M) -> Self {
        Self {
            layer: layer.to_owned(),
            factor,
            matrix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_written() {
        for factor in Factor::ALL {
            assert_eq!(factor.as_str().parse::<Factor>().unwrap(), factor);
        }
        let error = "kron_b".parse::<Factor>().unwrap_err().to_string();
        assert!(error.contains("kron_a"), "{error}");
    }
}
