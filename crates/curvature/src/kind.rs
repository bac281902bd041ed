//! Which curvature of the loss is summed.

use serde::{Deserialize, Serialize};

/// The curvature of the loss `1/2 sum_n r_n^T Lam_n r_n`, `r_n = label - f(x_n)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CurvatureKind {
    /// Gauss-Newton, `sum_n J_n^T Lam_n J_n`: the exact Fisher information of `N(f, Lam^-1)`; needs no labels.
    #[default]
    Ggn,
    /// `sum_n (J_n^T Lam_n r_n)(J_n^T Lam_n r_n)^T`: the spread of the spectra's own gradients.
    EmpiricalFisher,
    /// `d2L/dtheta2`, the Gauss-Newton part and the network's own bend times the residuals: may be indefinite.
    Hessian,
}

impl CurvatureKind {
    /// The name in run files and metadata.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ggn => "ggn",
            Self::EmpiricalFisher => "empirical_fisher",
            Self::Hessian => "hessian",
        }
    }

    /// Whether it depends on the labels of the spectra.
    #[must_use]
    pub fn needs_labels(self) -> bool {
        self != Self::Ggn
    }
}
